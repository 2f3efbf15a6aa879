import { assert } from '../base/assert.ts';
import type { Pfn } from '../base/units.ts';
import { frameByte, PAGE_STRUCT_WORDS, Root } from '../sync/arena.ts';
import { i32, type Ptr, struct } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import type { Heap } from './heap.ts';
import { type MmLayout, PageFlag } from './layout.ts';

const zoneLayout = (words: Int32Array) =>
  struct(words, 'zone', {
    lock: i32, //   class 'zone'
    lowest: i32, // no run below this one has a frame on its free list; under the lock
    bump: i32, //   frames from here on were never handed out; under the lock
    free: i32, //   under the lock; read without it as a hint
    min: i32, //    user frames are refused below this
    low: i32, //    background reclaim works below this
    allocs: i32, // under the lock
    frees: i32, //  under the lock
    runs: i32, //   word index: two words per aligned run of 512 frames, see Run; under the lock
    whole: i32, //  runs that are wholly on their lists; under the lock
  });

/** Frames of a huge page, J-1. The first one's number is a multiple of it. */
export const HUGE_FRAMES = 512;
const HUGE_SHIFT = 9;
const HUGE_MASK = HUGE_FRAMES - 1;

/** Words of a run: its frames on its free list, and the one freed last (a pfn), linked by page.next. */
const Run = { Free: 0, Head: 1 } as const;
const RUN_SHIFT = 1;

/** What a freed frame is filled with in debug builds (J-9). */
export const FRAME_POISON = 0xa5;

export type PageAllocOptions = {
  /** Fills freed frames with FRAME_POISON. */
  poison?: PageOps | undefined;
};

/**
 * Hands out frames: of the lowest run that has one the frame freed last, which is warm, else the lowest never
 * used, so that the host's own memory is touched only as far as needed (design 8). As low runs fill up first,
 * and huge pages come from high ones, runs become whole again as their frames die. Linux: page_alloc.c, one zone.
 */
export class PageAlloc {
  readonly #sync: Sync;
  readonly #zone: ReturnType<typeof zoneLayout>;
  readonly #z: Ptr<'zone'>;
  readonly #page: MmLayout['page'];
  readonly #pageBase: number;
  readonly #end: Pfn;
  readonly #poison: PageOps | undefined;
  readonly #words: Int32Array;
  /** Word index of the run that frame 0 would be in. */
  readonly #runs: number;
  #failIn = 0;
  #failures = 0;
  #hugeFailures = 0;

  constructor(sync: Sync, layout: MmLayout, options: PageAllocOptions = {}) {
    this.#sync = sync;
    this.#zone = zoneLayout(sync.words);
    this.#z = sync.arena.root(Root.zone) as Ptr<'zone'>;
    assert(this.#z !== 0, 'PageAlloc: the arena has no zone root');
    this.#page = layout.page;
    this.#words = sync.words;
    this.#runs = this.#zone.runs.get(this.#z) - ((sync.arena.firstFrame >>> HUGE_SHIFT) << RUN_SHIFT);
    this.#pageBase = sync.arena.pageArray - sync.arena.firstFrame * PAGE_STRUCT_WORDS;
    this.#end = sync.arena.firstFrame + sync.arena.frames;
    this.#poison = options.poison;
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync, heap: Heap): void {
    const zone = zoneLayout(sync.words);
    const { arena } = sync;
    const z = heap.alloc(zone.words) as Ptr<'zone'>;
    zone.bump.set(z, arena.firstFrame);
    zone.free.set(z, arena.frames);
    const runs =
      ((arena.firstFrame + arena.frames - 1) >>> HUGE_SHIFT) - (arena.firstFrame >>> HUGE_SHIFT) + 1;
    zone.runs.set(z, heap.alloc(runs << RUN_SHIFT));
    zone.lowest.set(z, (arena.firstFrame + arena.frames) >>> HUGE_SHIFT);
    zone.min.set(z, Math.min(64, arena.frames >>> 5));
    zone.low.set(z, Math.min(256, arena.frames >>> 4));
    arena.setRoot(Root.zone, z);
  }

  /**
   * A frame with `refs` references, `flags`, charged to `memcg`, and unknown content; -1 when there is none. What is
   * plain here is published by whatever lets others find the frame; for a pagevec that names it from an earlier
   * life, and finds LruPending again, that is the count.
   */
  alloc(refs = 1, flags = 0, memcg = 0 as Ptr<'memcg'>): Pfn | -1 {
    const { lock, bump, free, allocs } = this.#zone;
    const z = this.#z;
    if (this.#failures !== 0 && this.#fails()) return -1;
    this.#sync.lock('zone', z + lock.at);
    const left = free.get(z);
    if (left === 0) {
      this.#sync.unlock('zone', z + lock.at);
      return -1;
    }
    let pfn = bump.get(z);
    if (left > this.#end - pfn) pfn = this.#pop();
    else bump.set(z, pfn + 1);
    free.set(z, left - 1);
    allocs.set(z, allocs.get(z) + 1);
    this.#sync.unlock('zone', z + lock.at);
    const p = this.#at(pfn);
    this.#page.next.set(p, 0);
    if (memcg !== 0) this.#page.memcg.set(p, memcg);
    this.#page.flags.set(p, flags);
    // Last: from here on a lockless walker with a stale entry may take a reference.
    this.#page.refcount.store(p, refs);
    return pfn;
  }

  /** Takes a frame off the lowest list that has one. Requires: 'zone', that there is one. */
  #pop(): Pfn {
    const { lowest, whole } = this.#zone;
    const words = this.#words;
    let run = lowest.get(this.#z);
    let at = this.#runs + (run << RUN_SHIFT);
    if (words[at + Run.Free] === 0) {
      do {
        run++;
        at += 1 << RUN_SHIFT;
      } while (words[at + Run.Free] === 0);
      lowest.set(this.#z, run);
    }
    const pfn = words[at + Run.Head] as Pfn;
    words[at + Run.Head] = this.#page.next.get(this.#at(pfn));
    if (words[at + Run.Free]!-- === HUGE_FRAMES) whole.set(this.#z, whole.get(this.#z) - 1);
    return pfn;
  }

  /** Puts a frame first on the list of its run. Requires: 'zone'. */
  #push(pfn: Pfn, p: Ptr<'page'>): void {
    const { lowest, whole } = this.#zone;
    const words = this.#words;
    const run = pfn >>> HUGE_SHIFT;
    const at = this.#runs + (run << RUN_SHIFT);
    this.#page.next.set(p, words[at + Run.Head] as Pfn);
    words[at + Run.Head] = pfn;
    if (++words[at + Run.Free]! === HUGE_FRAMES) whole.set(this.#z, whole.get(this.#z) + 1);
    if (run < lowest.get(this.#z)) lowest.set(this.#z, run);
  }

  /**
   * An aligned run of 512 frames for a user's huge page, the first one's number; -1 when there is none. Its
   * records are the caller's to fill, references included, before anyone can find the frames: so they are
   * filled in one plain loop. Each frame is freed by itself.
   */
  allocHuge(): Pfn | -1 {
    const { lock, free, allocs, min } = this.#zone;
    const z = this.#z;
    if (this.#hugeFailures !== 0) {
      this.#hugeFailures--;
      return -1;
    }
    this.#sync.lock('zone', z + lock.at);
    const room = free.get(z) - HUGE_FRAMES > min.get(z);
    const pfn = room ? this.#takeRun() : -1;
    if (pfn >= 0) {
      free.set(z, free.get(z) - HUGE_FRAMES);
      allocs.set(z, allocs.get(z) + HUGE_FRAMES);
    }
    this.#sync.unlock('zone', z + lock.at);
    return pfn;
  }

  /** Gives back a run that nobody ever saw: its records still say free, or nothing. */
  freeHuge(first: Pfn): void {
    const { flags, refcount } = this.#page;
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      // A stale walker may hold a reference for a moment: then it is the one that frees.
      flags.set(this.#at(pfn), 0);
      refcount.store(this.#at(pfn), 1);
      this.free(pfn);
    }
  }

  /** Requires: 'zone'. */
  #takeRun(): Pfn | -1 {
    const { whole, bump } = this.#zone;
    if (whole.get(this.#z) > 0) return this.#takeWhole();
    const start = bump.get(this.#z);
    const first = (start + HUGE_MASK) & ~HUGE_MASK;
    if (first + HUGE_FRAMES > this.#end) return -1;
    // The frames that alignment skips are as good as any.
    for (let pfn = first - 1; pfn >= start; pfn--) {
      this.#page.flags.set(this.#at(pfn), PageFlag.Free);
      if (this.#poison !== undefined) this.#poison.fill(frameByte(pfn), FRAME_POISON, 4096);
      this.#push(pfn, this.#at(pfn));
    }
    bump.set(this.#z, first + HUGE_FRAMES);
    return first;
  }

  /** Takes the highest run that is wholly on its list. Requires: 'zone', that there is one. */
  #takeWhole(): Pfn {
    const { whole, bump } = this.#zone;
    const words = this.#words;
    let run = (bump.get(this.#z) - 1) >>> HUGE_SHIFT;
    while (words[this.#runs + (run << RUN_SHIFT) + Run.Free] !== HUGE_FRAMES) run--;
    const at = this.#runs + (run << RUN_SHIFT);
    words[at + Run.Free] = 0;
    words[at + Run.Head] = 0;
    whole.set(this.#z, whole.get(this.#z) - 1);
    return run << HUGE_SHIFT;
  }

  /** A frame for a user's page: leaves the last ones to those whom reclaim needs. */
  allocUser(refs: number, flags: number, memcg = 0 as Ptr<'memcg'>): Pfn | -1 {
    return this.#zone.free.get(this.#z) <= this.#zone.min.get(this.#z) ? -1 : this.alloc(refs, flags, memcg);
  }

  /** Drops the owner's reference to a frame of the kernel's. A stale walker's may be the last one. */
  free(pfn: Pfn): void {
    const before = this.#page.refcount.add(this.#at(pfn), -1);
    assert(before > 0, 'page-alloc: a frame freed twice');
    if (before === 1) this.release(pfn);
  }

  /** Puts a frame without references on the free list; `Pages.put` is what calls it. No leaf lock held. */
  release(pfn: Pfn): void {
    const { lock, free, frees } = this.#zone;
    const p = this.#at(pfn);
    const before = this.#page.flags.exchange(p, PageFlag.Free);
    assert((before & PageFlag.Free) === 0, 'page-alloc: a frame freed twice');
    assert((before & (PageFlag.SwapCache | PageFlag.Lru)) === 0, 'page-alloc: freed while on a list');
    if (this.#poison !== undefined) this.#poison.fill(frameByte(pfn), FRAME_POISON, 4096);
    const z = this.#z;
    this.#sync.lock('zone', z + lock.at);
    this.#push(pfn, p);
    free.set(z, free.get(z) + 1);
    frees.set(z, frees.get(z) + 1);
    this.#sync.unlock('zone', z + lock.at);
  }

  /** Free frames; a hint. */
  get freeFrames(): number {
    return this.#zone.free.get(this.#z);
  }

  /** Fewer frames are free than background reclaim wants. */
  isLow(): boolean {
    return this.freeFrames < this.#zone.low.get(this.#z);
  }

  /** Frames handed out so far, over all threads. */
  get allocs(): number {
    return this.#zone.allocs.get(this.#z);
  }

  /** Frames from here on were never handed out. */
  get bump(): Pfn {
    return this.#zone.bump.get(this.#z);
  }

  /** The frames on the free lists, the next one first; for checks. */
  freeList(): Pfn[] {
    const list: Pfn[] = [];
    for (const { first } of this.runs()) {
      const at = this.#runs + ((first >>> HUGE_SHIFT) << RUN_SHIFT);
      let pfn = this.#words[at + Run.Head] as Pfn;
      for (; pfn !== 0; pfn = this.#page.next.get(this.#at(pfn))) list.push(pfn);
    }
    return list;
  }

  /** For tests: this thread's n-th allocation from now answers -1, and so do further ones, `times` in all. */
  failAt(n: number, times = 1): void {
    this.#failIn = n;
    this.#failures = times;
  }

  /** For tests: this thread's next allocations of huge runs answer -1, `times` in all. */
  failHuge(times = 1): void {
    this.#hugeFailures = times;
  }

  /** For checks: the runs, lowest first, with how many of their frames are on the free list as counted. */
  runs(): { first: Pfn; free: number }[] {
    const { firstFrame, frames } = this.#sync.arena;
    const list: { first: Pfn; free: number }[] = [];
    for (let run = firstFrame >>> HUGE_SHIFT; run << HUGE_SHIFT < firstFrame + frames; run++) {
      list.push({
        first: run << HUGE_SHIFT,
        free: this.#words[this.#runs + (run << RUN_SHIFT) + Run.Free] as number,
      });
    }
    return list;
  }

  /** Failures of `failAt` that have not happened. */
  get failuresLeft(): number {
    return this.#failures;
  }

  #fails(): boolean {
    if (--this.#failIn > 0) return false;
    this.#failures--;
    return true;
  }

  #at(pfn: Pfn): Ptr<'page'> {
    return (this.#pageBase + pfn * PAGE_STRUCT_WORDS) as Ptr<'page'>;
  }
}
