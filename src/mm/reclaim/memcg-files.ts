import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmLayout } from '../layout.ts';
import { type Memcontrol, RECLAIM_MIN, UNLIMITED } from './memcontrol.ts';
import type { Pressure, Psi } from './psi.ts';

type Memcg = Ptr<'memcg'>;

/** How often a request that frees nothing is tried again. Linux: MAX_RECLAIM_RETRIES. */
const RETRIES = 16;

export type MemcgFilesDeps = {
  readonly layout: MmLayout;
  readonly memcontrol: Memcontrol;
  readonly psi: Psi;
  readonly lru: { drainAll(): void };
  /** Takes pages from a group, nobody being stalled: how many were freed. */
  readonly reclaim: (memcg: Memcg, pages: number) => number;
};

/** What has happened at a group's limits, by the names of memory.events. */
export type MemcgEvents = { low: number; high: number; max: number; oom: number; oomKill: number };

/**
 * A group by the names of Linux's files, in bytes; `undefined` is what they call `max`. What they read as
 * text: inspect/memcg-text.ts. Linux: the memory_* files of mm/memcontrol.c.
 */
export class MemcgFiles {
  readonly #deps: MemcgFilesDeps;

  constructor(deps: MemcgFilesDeps) {
    this.#deps = deps;
  }

  current(memcg: Memcg): number {
    return this.#deps.layout.memcg.usage.load(memcg) * PAGE_SIZE;
  }

  /** The most that `current` has been. */
  peak(memcg: Memcg): number {
    return this.#deps.layout.memcg.peak.load(memcg) * PAGE_SIZE;
  }

  swapCurrent(memcg: Memcg): number {
    return this.#deps.layout.memcg.swapUsage.load(memcg) * PAGE_SIZE;
  }

  max(memcg: Memcg): number | undefined {
    return bytesOf(this.#deps.layout.memcg.max.load(memcg));
  }

  high(memcg: Memcg): number | undefined {
    return bytesOf(this.#deps.layout.memcg.high.load(memcg));
  }

  low(memcg: Memcg): number | undefined {
    return bytesOf(this.#deps.layout.memcg.low.load(memcg));
  }

  swapMax(memcg: Memcg): number | undefined {
    return bytesOf(this.#deps.layout.memcg.swapMax.load(memcg));
  }

  /** As Memcontrol.setMax, which says what it throws; `minimumPages`: what the group needs to work at all. */
  setMax(memcg: Memcg, bytes: number | undefined, minimumPages = RECLAIM_MIN): void {
    this.#deps.memcontrol.setMax(memcg, limitOf('memory.max', bytes), minimumPages);
  }

  /** Beyond it a charge is granted and then made to reclaim. What is above it now is taken, if it can be. */
  setHigh(memcg: Memcg, bytes: number | undefined): void {
    const { memcontrol, reclaim, layout } = this.#deps;
    const pages = limitOf('memory.high', bytes);
    memcontrol.storeHigh(memcg, pages);
    for (let idle = 0; idle < RETRIES; ) {
      const over = layout.memcg.usage.load(memcg) - pages;
      if (over <= 0) return;
      if (reclaim(memcg, Math.max(over, RECLAIM_MIN)) === 0) idle++;
    }
  }

  /** Reclaim of the whole Host leaves so much alone while there is anything else to take. */
  setLow(memcg: Memcg, bytes: number | undefined): void {
    this.#deps.layout.memcg.low.store(memcg, limitOf('memory.low', bytes));
  }

  /** What is swapped stays; with the limit reached, no more goes. */
  setSwapMax(memcg: Memcg, bytes: number | undefined): void {
    this.#deps.layout.memcg.swapMax.store(memcg, limitOf('memory.swap.max', bytes));
  }

  events(memcg: Memcg): MemcgEvents {
    const { lowEvents, highEvents, maxEvents, oom, oomKill } = this.#deps.layout.memcg;
    return {
      ...{ low: lowEvents.load(memcg) >>> 0, high: highEvents.load(memcg) >>> 0 },
      ...{ max: maxEvents.load(memcg) >>> 0, oom: oom.load(memcg), oomKill: oomKill.load(memcg) },
    };
  }

  /** The Host has ended something of the group's because its memory was used up. */
  countOomKill(memcg: Memcg): void {
    this.#deps.layout.memcg.oomKill.add(memcg, 1);
  }

  /**
   * memory.reclaim: frees `bytes`, rounded down to pages, or throws EAGAIN when it can't free that many; what
   * it could is freed. Throws EINVAL for what is no size.
   */
  reclaim(memcg: Memcg, bytes: number): void {
    const { reclaim, lru } = this.#deps;
    const pages = limitOf('memory.reclaim', bytes);
    let retries = RETRIES;
    for (let freed = 0; freed < pages; ) {
      if (retries === 0) lru.drainAll();
      // A quarter at a time, so that it stops near what was asked for.
      const now = reclaim(memcg, Math.max(Math.ceil((pages - freed) / 4), RECLAIM_MIN));
      if (now === 0 && retries-- === 0) {
        throw new Errno('EAGAIN', 'memory.reclaim', `${freed} of ${pages} pages were freed`);
      }
      freed += now;
    }
  }

  /** memory.pressure; of the whole Host when `memcg` is 0. */
  pressure(memcg: Memcg): Pressure {
    return this.#deps.psi.read(memcg);
  }
}

const bytesOf = (pages: number): number | undefined => (pages === UNLIMITED ? undefined : pages * PAGE_SIZE);

/** Pages of a limit. Linux: page_counter_memparse. */
function limitOf(file: string, bytes: number | undefined): number {
  if (bytes === undefined) return UNLIMITED;
  if (!(bytes >= 0)) throw new Errno('EINVAL', file, 'not a size');
  return Math.min(Math.floor(bytes / PAGE_SIZE), UNLIMITED);
}
