import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import { Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import type { Psi } from './psi.ts';
import type { WordsPort } from './reclaim-ports.ts';

type Memcg = Ptr<'memcg'>;

/** `max` of a group without a limit. */
export const UNLIMITED = 0x7fffffff;
/** Pages that one instruction of a hart may need at once, page tables included (O-2). */
export const PAGES_PER_INSTRUCTION = 8;
/** How often a charge that finds no room reclaims without any progress before it gives up. */
export const RETRIES_WITHOUT_PROGRESS = 8;
/** Reclaim at least this much, so that the next charges find room. Linux: SWAP_CLUSTER_MAX. */
export const RECLAIM_MIN = 32;
/** Pages that one charge beyond `high` is made to reclaim at most. */
const THROTTLE_MAX = 256;

export type MemcontrolDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly heap: WordsPort;
  /** Direct reclaim (vmscan.ts), the caller being stalled meanwhile: pages freed, 0 when nothing could be. */
  readonly stallReclaim: (memcg: Memcg, pages: number) => number;
  /** The same on request: nobody counts as stalled. */
  readonly reclaim: (memcg: Memcg, pages: number) => number;
  readonly psi: Pick<Psi, 'createGroup' | 'reset'>;
  /** Makes an LRU vector (lru.ts). */
  readonly createLruvec: () => Ptr<'lruvec'>;
  readonly breaks?: MmBreaks;
};

export type MemcgOptions = {
  /** Pages. */
  max?: number;
  /** Pages beyond which a charge is granted and then made to reclaim; by default none. */
  high?: number;
  /** Pages that reclaim of the whole Host leaves alone while there is anything else to take. */
  low?: number;
  /** Pages of swap. */
  swapMax?: number;
  id?: number;
};

/** The least limit with which `vcpus` harts, whose devices pin at most `pinned` pages, make progress (O-2). */
export const workingMinimumPages = (vcpus: number, pinned: number): number =>
  vcpus * PAGES_PER_INSTRUCTION + pinned + RECLAIM_MIN;

/**
 * Limits on anonymous memory, per group of address spaces. What is charged never exceeds `max`: a charge
 * is a compare-exchange that only ever stores a usage within the limit (O-10). Linux: memcontrol.c.
 */
export class Memcontrol {
  readonly #deps: MemcontrolDeps;
  readonly #layout: MmLayout['memcg'];

  constructor(deps: MemcontrolDeps) {
    this.#deps = deps;
    this.#layout = deps.layout.memcg;
  }

  /** A new group. Records of destroyed groups are used again, so the list can be walked without a lock. */
  create(options: MemcgOptions = {}): Memcg {
    const m = this.#layout;
    const max = options.max ?? UNLIMITED;
    if (max < RECLAIM_MIN) throw new Errno('EINVAL', 'memcg', 'a limit below 32 pages cannot work');
    const memcg = this.#reuse() || this.#allocate();
    for (const field of [m.peak, m.failcnt, m.reclaiming, ...this.#events()]) field.store(memcg, 0);
    this.#deps.psi.reset(memcg);
    m.high.store(memcg, options.high ?? UNLIMITED);
    m.low.store(memcg, options.low ?? 0);
    m.swapMax.store(memcg, options.swapMax ?? UNLIMITED);
    m.id.store(memcg, options.id ?? 0);
    this.storeMax(memcg, max);
    return memcg;
  }

  #events() {
    const { lowEvents, highEvents, maxEvents, oom, oomKill } = this.#layout;
    return [lowEvents, highEvents, maxEvents, oom, oomKill] as const;
  }

  /** A dead record taken over, or 0. `max` is -1 exactly while a record is dead. */
  #reuse(): Memcg | 0 {
    const m = this.#layout;
    for (let memcg = this.first(); memcg !== 0; memcg = m.next.load(memcg)) {
      if (m.max.cas(memcg, -1, UNLIMITED) === -1) return memcg;
    }
    return 0;
  }

  #allocate(): Memcg {
    const { sync, heap, createLruvec } = this.#deps;
    const m = this.#layout;
    const memcg = heap.alloc(m.words) as Memcg;
    m.lru.store(memcg, createLruvec());
    m.psi.store(memcg, this.#deps.psi.createGroup());
    m.max.store(memcg, UNLIMITED);
    const root = sync.arena.rootAt(Root.memcgList);
    for (;;) {
      const head = Atomics.load(sync.words, root);
      m.next.store(memcg, head as Memcg);
      if (Atomics.compareExchange(sync.words, root, head, memcg) === head) return memcg;
    }
  }

  /** The group has no page and no swap slot any more. */
  destroy(memcg: Memcg): void {
    const m = this.#layout;
    assert(m.usage.load(memcg) === 0, 'memcg: destroyed while pages are charged');
    assert(m.swapUsage.load(memcg) === 0, 'memcg: destroyed while swap is charged');
    m.max.store(memcg, -1);
  }

  /** First of all groups, dead ones included; follow `next`. */
  first(): Memcg {
    const { words, arena } = this.#deps.sync;
    return Atomics.load(words, arena.rootAt(Root.memcgList)) as Memcg;
  }

  isLive(memcg: Memcg): boolean {
    return this.#layout.max.load(memcg) >= 0;
  }

  /**
   * Adds `pages` to what the group uses, reclaiming from it when it is at its limit, or beyond `high`.
   * False: out of memory. The caller holds no page, anon_vma or page-table lock; mmap for read is fine.
   */
  charge(memcg: Memcg, pages: number): boolean {
    if (memcg === 0 || this.#tryCharge(memcg, pages, false)) return true;
    if (!this.#tryCharge(memcg, pages, true) && !this.#chargeByReclaim(memcg, pages)) return false;
    this.#throttle(memcg);
    return true;
  }

  /** There is no room below `max`. Linux: try_charge_memcg. */
  #chargeByReclaim(memcg: Memcg, pages: number): boolean {
    const { failcnt, maxEvents, oom } = this.#layout;
    failcnt.add(memcg, 1);
    if (this.#deps.breaks?.chargeWithoutReclaim) return false;
    for (let idle = 0; idle < RETRIES_WITHOUT_PROGRESS; ) {
      maxEvents.add(memcg, 1);
      const freed = this.#deps.stallReclaim(memcg, Math.max(pages, RECLAIM_MIN));
      if (this.#tryCharge(memcg, pages, true)) return true;
      if (freed === 0) {
        idle++;
        this.#letOthersFinish(memcg);
      }
    }
    oom.add(memcg, 1);
    return false;
  }

  /** Whoever went beyond `high` pays for it by taking pages away. Linux: mem_cgroup_handle_over_high. */
  #throttle(memcg: Memcg): void {
    const { usage, high, highEvents } = this.#layout;
    const over = usage.load(memcg) - high.load(memcg);
    if (over <= 0) return;
    highEvents.add(memcg, 1);
    this.#deps.stallReclaim(memcg, Math.min(Math.max(over, RECLAIM_MIN), THROTTLE_MAX));
  }

  /** As `charge` for who has another way: takes what room there is below `high`, and reclaims nothing. */
  tryCharge(memcg: Memcg, pages: number): boolean {
    return memcg === 0 || this.#tryCharge(memcg, pages, false);
  }

  #tryCharge(memcg: Memcg, pages: number, beyondHigh: boolean): boolean {
    const { usage, limit: lower, max } = this.#layout;
    for (;;) {
      const used = usage.load(memcg);
      const limit = (beyondHigh ? max : lower).load(memcg);
      if (used + pages > limit) return false;
      if (usage.cas(memcg, used, used + pages) !== used) continue;
      assert(used + pages <= limit, 'memcg: usage within the limit');
      this.#raisePeak(memcg, used + pages);
      return true;
    }
  }

  #raisePeak(memcg: Memcg, used: number): void {
    const { peak } = this.#layout;
    // A plain look: the peak only rises, so one that is out of date is too low, and the next is exact.
    if (peak.get(memcg) >= used) return;
    for (;;) {
      const seen = peak.load(memcg);
      if (seen >= used || peak.cas(memcg, seen, used) === seen) return;
    }
  }

  /** Another thread may hold all that is reclaimable in its hands: give it a moment. */
  #letOthersFinish(memcg: Memcg): void {
    const { reclaiming, usage } = this.#layout;
    if (reclaiming.load(memcg) === 0) return;
    this.#deps.sync.waiter.wait(memcg + usage.at, usage.load(memcg), 1);
  }

  uncharge(memcg: Memcg, pages: number): void {
    if (memcg === 0) return;
    const before = this.#layout.usage.add(memcg, -pages);
    assert(before >= pages, 'memcg: more pages uncharged than charged');
  }

  /**
   * Changes `max`, in pages. Lowered, it follows the usage down as reclaim frees pages, so that usage stays
   * within it. Throws EINVAL below `minimum` (see workingMinimumPages) and EBUSY when reclaim gets stuck;
   * the limit is then what was reached.
   */
  setMax(memcg: Memcg, pages: number, minimum: number): void {
    const { max, usage } = this.#layout;
    if (pages < minimum) {
      throw new Errno('EINVAL', 'memcg', `a limit of ${pages} pages is below the ${minimum} needed`);
    }
    for (let idle = 0; ; ) {
      // A charge under way may still go by the limit it read, hence the second look at the usage.
      this.storeMax(memcg, Math.max(pages, usage.load(memcg)));
      const over = usage.load(memcg) - pages;
      if (over <= 0 && max.load(memcg) === pages) break;
      const freed = over <= 0 ? 1 : this.#deps.reclaim(memcg, Math.min(Math.max(over, RECLAIM_MIN), 1024));
      if (freed > 0) idle = 0;
      else if (++idle === RETRIES_WITHOUT_PROGRESS) {
        throw new Errno('EBUSY', 'memcg', `${usage.load(memcg)} pages in use can't be reclaimed`);
      }
    }
  }

  /** Sets `max` and what follows from it. Charges under way may still go by what they read before. */
  storeMax(memcg: Memcg, pages: number): void {
    this.#layout.max.store(memcg, pages);
    this.#derive(memcg);
  }

  storeHigh(memcg: Memcg, pages: number): void {
    this.#layout.high.store(memcg, pages);
    this.#derive(memcg);
  }

  /** Two who write at once may leave what the earlier one derived, so it is derived until it is right. */
  #derive(memcg: Memcg): void {
    const { max, high, limit, wmark } = this.#layout;
    for (;;) {
      const [m, h] = [max.load(memcg), high.load(memcg)];
      limit.store(memcg, Math.min(m, h));
      wmark.store(memcg, Math.min(watermark(m), h));
      if (max.load(memcg) === m && high.load(memcg) === h) return;
    }
  }

  /** Above its watermark: work for background reclaim. */
  isOver(memcg: Memcg): boolean {
    return this.isLive(memcg) && this.#layout.usage.load(memcg) > this.#layout.wmark.load(memcg);
  }

  /** Protected by its `low` from reclaim of the whole Host. */
  isLow(memcg: Memcg): boolean {
    const low = this.#layout.low.load(memcg);
    return low > 0 && this.#layout.usage.load(memcg) <= low;
  }
}

/** A thirty-second of the limit is kept free in the background, at most 4 MiB. */
const watermark = (max: number): number =>
  max === UNLIMITED ? UNLIMITED : max - Math.min(Math.max(max >> 5, 8), 1024);
