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
    head: i32, //   pfn of the frame freed last; linked by page.next; under the lock
    bump: i32, //   frames from here on were never handed out; under the lock
    free: i32, //   under the lock; read without it as a hint
    min: i32, //    user frames are refused below this
    low: i32, //    background reclaim works below this
    allocs: i32, // under the lock
    frees: i32, //  under the lock
  });

/** What a freed frame is filled with in debug builds (J-9). */
export const FRAME_POISON = 0xa5;

export type PageAllocOptions = {
  /** Fills freed frames with FRAME_POISON. */
  poison?: PageOps | undefined;
};

/**
 * Hands out frames: the ones freed last first, as they are warm, else the lowest never used, so that the
 * host's own memory is touched only as far as needed (design 8). Linux: page_alloc.c, one zone.
 */
export class PageAlloc {
  readonly #sync: Sync;
  readonly #zone: ReturnType<typeof zoneLayout>;
  readonly #z: Ptr<'zone'>;
  readonly #page: MmLayout['page'];
  readonly #pageBase: number;
  readonly #end: Pfn;
  readonly #poison: PageOps | undefined;
  #failIn = 0;
  #failures = 0;

  constructor(sync: Sync, layout: MmLayout, options: PageAllocOptions = {}) {
    this.#sync = sync;
    this.#zone = zoneLayout(sync.words);
    this.#z = sync.arena.root(Root.zone) as Ptr<'zone'>;
    assert(this.#z !== 0, 'PageAlloc: the arena has no zone root');
    this.#page = layout.page;
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
    zone.min.set(z, Math.min(64, arena.frames >>> 5));
    zone.low.set(z, Math.min(256, arena.frames >>> 4));
    arena.setRoot(Root.zone, z);
  }

  /**
   * A frame with `refs` references, `flags`, and unknown content; -1 when there is none. What is plain here
   * is published by whatever lets others find the frame.
   */
  alloc(refs = 1, flags = 0): Pfn | -1 {
    const { lock, head, bump, free, allocs } = this.#zone;
    const z = this.#z;
    if (this.#failures !== 0 && this.#fails()) return -1;
    this.#sync.lock('zone', z + lock.at);
    let pfn = head.get(z);
    if (pfn !== 0) head.set(z, this.#page.next.get(this.#at(pfn)));
    else {
      pfn = bump.get(z);
      if (pfn === this.#end) {
        this.#sync.unlock('zone', z + lock.at);
        return -1;
      }
      bump.set(z, pfn + 1);
    }
    free.set(z, free.get(z) - 1);
    allocs.set(z, allocs.get(z) + 1);
    this.#sync.unlock('zone', z + lock.at);
    const p = this.#at(pfn);
    this.#page.next.set(p, 0);
    this.#page.flags.set(p, flags);
    // Last: from here on a lockless walker with a stale entry may take a reference.
    this.#page.refcount.store(p, refs);
    return pfn;
  }

  /** A frame for a user's page: leaves the last ones to those whom reclaim needs. */
  allocUser(refs: number, flags: number): Pfn | -1 {
    return this.#zone.free.get(this.#z) <= this.#zone.min.get(this.#z) ? -1 : this.alloc(refs, flags);
  }

  /** Drops the owner's reference to a frame of the kernel's. A stale walker's may be the last one. */
  free(pfn: Pfn): void {
    const before = this.#page.refcount.add(this.#at(pfn), -1);
    assert(before > 0, 'page-alloc: a frame freed twice');
    if (before === 1) this.release(pfn);
  }

  /** Puts a frame without references on the free list; `Pages.put` is what calls it. No leaf lock held. */
  release(pfn: Pfn): void {
    const { lock, head, free, frees } = this.#zone;
    const p = this.#at(pfn);
    const before = this.#page.flags.exchange(p, PageFlag.Free);
    assert((before & PageFlag.Free) === 0, 'page-alloc: a frame freed twice');
    assert((before & (PageFlag.SwapCache | PageFlag.Lru)) === 0, 'page-alloc: freed while on a list');
    if (this.#poison !== undefined) this.#poison.fill(frameByte(pfn), FRAME_POISON, 4096);
    const z = this.#z;
    this.#sync.lock('zone', z + lock.at);
    this.#page.next.set(p, head.get(z));
    head.set(z, pfn);
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

  /** The frames on the free list, the next one first; for checks. */
  freeList(): Pfn[] {
    const list: Pfn[] = [];
    for (let pfn = this.#zone.head.get(this.#z); pfn !== 0; pfn = this.#page.next.get(this.#at(pfn))) {
      list.push(pfn);
    }
    return list;
  }

  /** For tests: this thread's n-th allocation from now answers -1, and so do further ones, `times` in all. */
  failAt(n: number, times = 1): void {
    this.#failIn = n;
    this.#failures = times;
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
