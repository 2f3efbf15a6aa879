import { assert } from '../base/assert.ts';
import type { Pfn } from '../base/units.ts';
import { frameByte, PAGE_STRUCT_WORDS, Root } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import { type MmLayout, PageFlag } from './layout.ts';
import type { PageAlloc } from './page-alloc.ts';

/** Who must hear that a page is freed, in this order. Wired once all of them exist. */
export type FreePageHooks = {
  lruRemove(pfn: Pfn): void;
  putAnonVma(anonVma: Ptr<'anonVma'>): void;
  uncharge(memcg: Ptr<'memcg'>, pages: number): void;
};

/**
 * What a thread adds to a page's count for the time of one store of the VMM: a reference, told from all others, of
 * which there are fewer. Who takes rights away waits for these alone (`Pages.settle`). Linux: GUP_PIN_COUNTING_BIAS.
 */
export const STORE_HOLD = 1 << 22;
const SETTLE_SPINS = 500;
const SETTLE_SLEEP_MS = 0.1;

const ON_LRU = PageFlag.Lru | PageFlag.LruPending;

/** What the host knows of each frame. Linux: `struct page`. */
export class Pages {
  readonly #sync: Sync;
  readonly #page: MmLayout['page'];
  readonly #base: number;
  readonly #pageAlloc: PageAlloc;
  #hooks: FreePageHooks | undefined;
  /** The shared zero page: no reference is ever counted (M-30). */
  readonly zeroPage: Pfn;

  constructor(sync: Sync, layout: MmLayout, pageAlloc: PageAlloc) {
    this.#sync = sync;
    this.#page = layout.page;
    this.#base = sync.arena.pageArray - sync.arena.firstFrame * PAGE_STRUCT_WORDS;
    this.#pageAlloc = pageAlloc;
    this.zeroPage = sync.arena.root(Root.zeroPage);
    assert(this.zeroPage !== 0, 'Pages: the arena has no zero page');
  }

  /** Makes the zero page. Once per arena, before the first instance. */
  static init(sync: Sync, layout: MmLayout, pageAlloc: PageAlloc, pageOps: PageOps): void {
    const pfn = pageAlloc.alloc();
    assert(pfn >= 0, 'Pages: an arena has at least one frame');
    pageOps.zero(frameByte(pfn));
    const base = sync.arena.pageArray - sync.arena.firstFrame * PAGE_STRUCT_WORDS;
    layout.page.flags.store((base + pfn * PAGE_STRUCT_WORDS) as Ptr<'page'>, PageFlag.Reserved);
    sync.arena.setRoot(Root.zeroPage, pfn);
  }

  wire(hooks: FreePageHooks): void {
    this.#hooks = hooks;
  }

  at(pfn: Pfn): Ptr<'page'> {
    return (this.#base + pfn * PAGE_STRUCT_WORDS) as Ptr<'page'>;
  }

  /** One more reference to a page that the caller knows to have one. */
  get(pfn: Pfn): void {
    if (pfn === this.zeroPage) return;
    const before = this.#page.refcount.add(this.at(pfn), 1);
    assert(before > 0, 'page: a reference to a free page');
  }

  /** Takes a reference unless there is none: the page is then free or being freed. */
  tryGet(pfn: Pfn): boolean {
    if (pfn === this.zeroPage) return true;
    const p = this.at(pfn);
    const { refcount } = this.#page;
    for (let seen = refcount.load(p); seen !== 0; ) {
      const now = refcount.cas(p, seen, seen + 1);
      if (now === seen) return true;
      seen = now;
    }
    return false;
  }

  /** As `tryGet`, for one store. Never the zero page, which nobody may write. */
  tryHold(pfn: Pfn): boolean {
    const p = this.at(pfn);
    const { refcount } = this.#page;
    for (let seen = refcount.load(p); seen !== 0; ) {
      const now = refcount.cas(p, seen, seen + STORE_HOLD);
      if (now === seen) return true;
      seen = now;
    }
    return false;
  }

  /** Makes a reference of the caller's one for a store. */
  toHold(pfn: Pfn): void {
    const before = this.#page.refcount.add(this.at(pfn), STORE_HOLD - 1);
    assert(before > 0, 'page: a store to a page that nobody held');
  }

  /** The store has landed, or will not be made. As `put`. */
  endHold(pfn: Pfn): void {
    const before = this.#page.refcount.add(this.at(pfn), -STORE_HOLD);
    assert(before >= STORE_HOLD, 'page: a store ended that nobody had begun');
    if (before === STORE_HOLD) this.#free(pfn);
  }

  /**
   * Returns once no store of the VMM is under way to a page whose entry has just lost rights, moved or been marked
   * clean: what was begun through the entry as it was has landed, and what begins later finds the new one. Waits
   * for a few instructions of another thread, which take no lock; so it may be called under a ptl.
   */
  settle(pfn: Pfn): void {
    if (this.#page.refcount.load(this.at(pfn)) >= STORE_HOLD) this.#settle(this.at(pfn));
  }

  #settle(p: Ptr<'page'>): void {
    const { refcount } = this.#page;
    const { waiter } = this.#sync;
    for (let spins = waiter.spins(SETTLE_SPINS); ; spins--) {
      const seen = refcount.load(p);
      if (seen < STORE_HOLD) return;
      // Nobody notifies: that would cost every store.
      if (spins <= 0) waiter.wait(p + refcount.at, seen, SETTLE_SLEEP_MS);
    }
  }

  /** Drops a reference; the last frees the page, so no leaf lock may be held. */
  put(pfn: Pfn): void {
    if (pfn === this.zeroPage) return;
    const before = this.#page.refcount.add(this.at(pfn), -1);
    assert(before > 0, 'page: a reference dropped that nobody held');
    if (before === 1) this.#free(pfn);
  }

  /**
   * The one place where a page ends. Nobody can reach it any more but a scan of the LRU, so what that leaves
   * alone is plain here.
   */
  #free(pfn: Pfn): void {
    const { flags, mapping, memcg, mapcount } = this.#page;
    const p = this.at(pfn);
    assert(mapcount.get(p) === 0, 'M3: a mapped page has references');
    const seen = flags.load(p);
    // A merged page names its node, which finds out by itself (ksm-items.ts).
    const anonVma = (seen & PageFlag.Ksm) === 0 ? mapping.get(p) : (0 as Ptr<'anonVma'>);
    const charged = memcg.get(p);
    if (this.#hooks !== undefined) {
      if ((seen & ON_LRU) !== 0) this.#hooks.lruRemove(pfn);
      if (mapping.get(p) !== 0) mapping.set(p, 0 as Ptr<'anonVma'>);
      if (anonVma !== 0) this.#hooks.putAnonVma(anonVma);
    }
    if (charged !== 0) memcg.set(p, 0 as Ptr<'memcg'>);
    this.#pageAlloc.release(pfn);
    if (charged !== 0) this.#hooks?.uncharge(charged, 1);
  }

  /** Requires: no anon_vma, ptl or leaf lock. */
  lock(pfn: Pfn): void {
    this.#sync.lock('page', this.at(pfn) + this.#page.lock.at);
  }

  tryLock(pfn: Pfn): boolean {
    return this.#sync.tryLock('page', this.at(pfn) + this.#page.lock.at);
  }

  unlock(pfn: Pfn): void {
    this.#sync.unlock('page', this.at(pfn) + this.#page.lock.at);
  }

  has(pfn: Pfn, flag: number): boolean {
    return (this.#page.flags.load(this.at(pfn)) & flag) !== 0;
  }

  set(pfn: Pfn, flag: number): void {
    this.#page.flags.or(this.at(pfn), flag);
  }

  clear(pfn: Pfn, flag: number): void {
    this.#page.flags.and(this.at(pfn), ~flag);
  }

  /** Somebody wrote the page other than through a pte: it must be written to swap before it is dropped. */
  setDirty(pfn: Pfn): void {
    if (!this.has(pfn, PageFlag.Dirty)) this.set(pfn, PageFlag.Dirty);
  }

  /** Somebody used the page other than through a pte; counts at the next scan. */
  setReferenced(pfn: Pfn): void {
    if (!this.has(pfn, PageFlag.Referenced)) this.set(pfn, PageFlag.Referenced);
  }

  refcount(pfn: Pfn): number {
    return this.#page.refcount.load(this.at(pfn));
  }

  mapcount(pfn: Pfn): number {
    return this.#page.mapcount.load(this.at(pfn));
  }
}
