import { PAGE_SIZE } from '../../base/units.ts';
import { Arena } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { Sync } from '../../sync/sync.ts';
import { productionWaiter } from '../../sync/waiter.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import type { MmBreaks } from '../breaks.ts';
import { initMm, type MmCore } from '../core.ts';
import { pteIsPresent, ptePfn } from '../layout.ts';
import type { VmstatName } from '../vmstat.ts';
import type { SwapConfig } from './swap-config.ts';
import type { SwapFilePort } from './swap-file.ts';

export type SwappingOptions = {
  frames?: number;
  swap?: SwapConfig;
  swapFile?: SwapFilePort;
  breaks?: Partial<MmBreaks>;
  lockdep?: boolean;
};

/** A real mm with zram of 1024 pages, frames poisoned when freed, lock order checked. */
export class Swapping {
  readonly sync: Sync;
  readonly mm: MmCore;
  /** Called at every named yield point. */
  at: (label: string) => void = () => {};
  readonly #frames: number;
  readonly #pool: number;

  constructor(options: SwappingOptions = {}) {
    const arena = Arena.create({ frames: options.frames ?? 1024, heapBytes: 1 << 21, shared: true });
    const waiter = { ...productionWaiter(arena), point: (label: string) => this.at(label) };
    this.sync = new Sync(arena, { lockdep: options.lockdep ?? true, waiter });
    this.mm = initMm(this.sync, {
      pageOps: createPageOps(arena.memory, true),
      swap: options.swap ?? { kind: 'zram', bytes: 1024 * PAGE_SIZE },
      ...(options.swapFile === undefined ? {} : { swapFile: options.swapFile }),
      poison: true,
      breaks: options.breaks ?? {},
    });
    this.#warmUp();
    this.#frames = this.mm.pageAlloc.freeFrames;
    this.#pool = this.mm.heap.used;
  }

  /** Slabs and records that are kept for good once they were needed. */
  #warmUp(): void {
    const { mm, at } = this.map(1, 64);
    this.mm.access.write8(mm, at, 1);
    this.mm.exit(this.mm.fork(mm));
    this.mm.exit(mm);
  }

  /** `pages` pages mapped in an address space of their own; the first one's number with it. */
  map(pages: number, limitPages?: number): { mm: Ptr<'mm'>; at: number } {
    const mm = this.mm.createMm(limitPages === undefined ? {} : { limitPages });
    return { mm, at: this.mm.mmap.map(mm, pages * PAGE_SIZE) };
  }

  /** The frame that the primary maps at an address, or 0. */
  pfn(mm: Ptr<'mm'>, address: number): number {
    const entry = this.mm.pageTable.entryOf(mm, address / PAGE_SIZE);
    return pteIsPresent(entry) ? ptePfn(entry) : 0;
  }

  usage(mm: Ptr<'mm'>): number {
    return this.mm.layout.memcg.usage.load(this.mm.layout.mm.memcg.get(mm));
  }

  /** MADV_PAGEOUT; true if the page went. */
  pageOut(mm: Ptr<'mm'>, address: number): boolean {
    this.mm.madvise.advise(mm, address, PAGE_SIZE, 'pageout');
    return this.pfn(mm, address) === 0;
  }

  counter(name: VmstatName): number {
    return this.mm.vmstat.read(name);
  }

  /** What is not as it was when the world began: nothing, once every address space has exited (OR-4). */
  leftovers(): string {
    this.mm.lru.drainAll();
    const { swap, pageAlloc } = this.mm;
    const parts = [
      `slots ${swap.slots.used}`,
      `cached ${swap.slots.cached}`,
      `frames ${this.#frames - pageAlloc.freeFrames}`,
      `heap ${this.mm.heap.used - this.#pool}`,
    ];
    return parts.join(', ');
  }
}
