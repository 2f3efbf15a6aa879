import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import { Root } from '../../sync/arena.ts';
import { i32, type Ptr, struct } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { Heap } from '../heap.ts';
import type { Vmstat } from '../vmstat.ts';

const thpLayout = (words: Int32Array) =>
  struct(words, 'thp', {
    enabled: i32, //       atomic: index into THP_MODES
    useZeroPage: i32, //   atomic: a read of a hole may map the huge zero page
    maxPtesNone: i32, //   atomic: holes that a collapse may fill
    maxPtesSwap: i32, //   atomic: swapped pages that it may bring in
    maxPtesShared: i32, // atomic: pages of others that it may copy
    zeroRefs: i32, //      atomic: huge entries of the zero page, and one while it exists; 0: it doesn't
  });

/** Which anonymous memory gets huge pages: all, what asked for them (MADV_HUGEPAGE), or none. */
export const THP_MODES = ['always', 'madvise', 'never'] as const;
export type ThpMode = (typeof THP_MODES)[number];

export type ThpLimits = { maxPtesNone: number; maxPtesSwap: number; maxPtesShared: number };

/** Settings of a Host, as in /sys/kernel/mm/transparent_hugepage, and the huge zero page (M-30). */
export class TransparentHugepage {
  readonly #thp: ReturnType<typeof thpLayout>;
  readonly #t: Ptr<'thp'>;
  readonly #vmstat: Vmstat;
  #zeroFailures = 0;

  constructor(sync: Sync, vmstat: Vmstat) {
    this.#thp = thpLayout(sync.words);
    this.#t = sync.arena.root(Root.thp) as Ptr<'thp'>;
    this.#vmstat = vmstat;
    assert(this.#t !== 0, 'TransparentHugepage: the arena has no thp root');
  }

  /** Once per arena, before the first instance. Memory gets huge pages if it asks for them. */
  static init(sync: Sync, heap: Heap): void {
    const thp = thpLayout(sync.words);
    const t = heap.alloc(thp.words) as Ptr<'thp'>;
    thp.enabled.store(t, THP_MODES.indexOf('madvise'));
    thp.useZeroPage.store(t, 1);
    thp.maxPtesNone.store(t, 511);
    thp.maxPtesSwap.store(t, 64);
    thp.maxPtesShared.store(t, 256);
    sync.arena.setRoot(Root.thp, t);
  }

  get enabled(): ThpMode {
    return THP_MODES[this.#thp.enabled.load(this.#t)] as ThpMode;
  }

  /** Throws EINVAL for what is no mode. Pages that are huge by then stay so. */
  set enabled(mode: ThpMode) {
    const index = THP_MODES.indexOf(mode);
    if (index < 0) throw new Errno('EINVAL', 'transparent_hugepage', `'${mode}' is no mode`);
    this.#thp.enabled.store(this.#t, index);
  }

  get useZeroPage(): boolean {
    return this.#thp.useZeroPage.load(this.#t) !== 0;
  }

  set useZeroPage(on: boolean) {
    this.#thp.useZeroPage.store(this.#t, on ? 1 : 0);
  }

  /** khugepaged's limits, in pages of 512. */
  get limits(): ThpLimits {
    const { maxPtesNone, maxPtesSwap, maxPtesShared } = this.#thp;
    return {
      maxPtesNone: maxPtesNone.load(this.#t),
      maxPtesSwap: maxPtesSwap.load(this.#t),
      maxPtesShared: maxPtesShared.load(this.#t),
    };
  }

  /** Throws EINVAL for a limit outside 0 to 511. */
  setLimits(limits: Partial<ThpLimits>): void {
    const values = Object.entries(limits) as [keyof ThpLimits, number][];
    if (values.some(([, pages]) => !Number.isInteger(pages) || pages < 0 || pages > 511))
      throw new Errno('EINVAL', 'khugepaged', 'a limit is 0 to 511 pages');
    for (const [name, pages] of values) this.#thp[name].store(this.#t, pages);
  }

  /** A reference to the huge zero page, which is made if it isn't there; false when it can't be. */
  getZero(): boolean {
    const { zeroRefs } = this.#thp;
    if (this.#zeroFailures > 0) {
      this.#zeroFailures--;
      this.#vmstat.add('thp_zero_page_alloc_failed', 1);
      return false;
    }
    for (let seen = zeroRefs.load(this.#t); ; ) {
      // One is the page's own, until the shrinker takes it.
      const now = zeroRefs.cas(this.#t, seen, seen === 0 ? 2 : seen + 1);
      if (now === seen) {
        if (seen === 0) this.#vmstat.add('thp_zero_page_alloc', 1);
        return true;
      }
      seen = now;
    }
  }

  putZero(): void {
    const before = this.#thp.zeroRefs.add(this.#t, -1);
    assert(before > 1, 'huge zero page: a reference dropped that nobody held');
  }

  /** Memory is short: lets the huge zero page go unless an entry names it. True if it went. */
  shrinkZero(): boolean {
    return this.#thp.zeroRefs.cas(this.#t, 1, 0) === 1;
  }

  get zeroRefs(): number {
    return this.#thp.zeroRefs.load(this.#t);
  }

  /** For tests: this thread's next references to the huge zero page fail, `times` in all. */
  failZero(times = 1): void {
    this.#zeroFailures = times;
  }
}
