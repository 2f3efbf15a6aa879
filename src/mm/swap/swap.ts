import { assert } from '../../base/assert.ts';
import type { Pfn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import { PageFlag } from '../layout.ts';
import { AreaFlag } from '../reclaim/reclaim-layout.ts';
import type { PagesPort } from '../reclaim/reclaim-ports.ts';
import type { SwapBackend, SwapRead, SwapWrite } from './swap-backend.ts';
import { type Slot, SwapSlots, type SwapSlotsDeps } from './swap-slots.ts';

export type SwapDeps = SwapSlotsDeps & {
  readonly pages: PagesPort;
  readonly vmstat: { add(name: 'pswpin' | 'pswpout', by: number): void };
  /** A page comes back that was evicted when the LRU clock stood at `age` (lru.ts). */
  readonly refaulted: (pfn: Pfn, age: number) => void;
};

/**
 * The swap cache: which frame holds a slot's content. One frame per slot at most, and the page lock of that
 * frame is what a swap-in and a swap-out of the slot meet at (M-33; mm-figures.md B.3). The cache holds one
 * reference to the page and one to the slot. Linux: swap_state.c, page_io.c.
 *
 * `slot.page` and `page.swap` change together, under the page lock and 'swap'.
 */
export class Swap {
  readonly slots: SwapSlots;
  readonly #deps: SwapDeps;

  constructor(deps: SwapDeps) {
    this.#deps = deps;
    this.slots = new SwapSlots(deps);
  }

  /** Once per arena, before the first instance. */
  static init(deps: SwapSlotsDeps): void {
    SwapSlots.init(deps);
  }

  swapon(backend: SwapBackend): number {
    return this.slots.swapon(backend);
  }

  attach(index: number, backend: SwapBackend): void {
    this.slots.attach(index, backend);
  }

  isFull(): boolean {
    return this.slots.isFull();
  }

  /** Little is left, so swap-in had better give slots back (Linux: vm_swap_full). */
  isTight(): boolean {
    return this.slots.used * 2 > this.slots.total;
  }

  /** A slot with count 1, the caller's; or -1. */
  allocSlot(memcg: Ptr<'memcg'> = 0 as Ptr<'memcg'>): Slot | -1 {
    return this.slots.alloc(memcg);
  }

  duplicate(slot: Slot): boolean {
    return this.slots.duplicate(slot);
  }

  /** Swap ptes that name the slot. Exact while the caller holds the lock of the page that caches it. */
  count(slot: Slot): number {
    const cached = this.#deps.reclaim.slot.page.load(this.slots.at(slot)) === 0 ? 0 : 1;
    return this.slots.references(slot) - cached;
  }

  /** As `count`, exact for whoever keeps the ptes that name the slot from being copied. */
  owners(slot: Slot): number {
    this.slots.lock();
    const owners = this.count(slot);
    this.slots.unlock();
    return owners;
  }

  /** The frame that the cache has for the slot, or 0, as of now: who needs it for longer locks the page. */
  cachedPage(slot: Slot): Pfn | 0 {
    return this.#deps.reclaim.slot.page.load(this.slots.at(slot));
  }

  /** A pte stops naming the slot. May be called under a ptl; a page that only the cache keeps goes too. */
  free(slot: Slot): void {
    this.slots.lock();
    const left = this.slots.dropLocked(slot);
    this.slots.unlock();
    if (left === 0) this.slots.retire(slot);
    else if (left === 1) this.#dropUnused(slot);
  }

  /** Drops the slot's cached page if nothing else wants it. What is locked now, its holder will see to. */
  #dropUnused(slot: Slot): void {
    const { pages, layout } = this.#deps;
    const seen = this.#deps.reclaim.slot.page.load(this.slots.at(slot));
    if (seen === 0 || layout.page.mapcount.load(pages.at(seen)) > 0) return;
    const pfn = this.lookupCache(slot);
    if (pfn === 0) return;
    if (pages.tryLock(pfn)) {
      const p = pages.at(pfn);
      const unused =
        layout.page.swap.load(p) === slot + 1 &&
        layout.page.mapcount.load(p) === 0 &&
        layout.page.refcount.load(p) === 2 &&
        this.count(slot) === 0;
      if (unused) this.removeFromCache(pfn);
      pages.unlock(pfn);
    }
    pages.put(pfn);
  }

  /** The frame that holds the slot's content, with a reference taken, or 0. */
  lookupCache(slot: Slot): Pfn | 0 {
    const { page } = this.#deps.reclaim.slot;
    const s = this.slots.at(slot);
    if (page.load(s) === 0) return 0;
    // Removal takes the same lock, so the cache's own reference still holds the page here.
    this.slots.lock();
    const pfn = page.load(s);
    if (pfn !== 0) this.#deps.pages.get(pfn);
    this.slots.unlock();
    return pfn;
  }

  /**
   * Makes `pfn` the frame of a slot that is in use. Requires: the page locked and new to the cache. Returns
   * `exists` when another frame holds it, `gone` when nobody names the slot any more.
   */
  addToCache(slot: Slot, pfn: Pfn): 'ok' | 'exists' | 'gone' {
    const { slot: record } = this.#deps.reclaim;
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    assert(page.swap.load(p) === 0, 'addToCache: the page is in the swap cache');
    this.slots.lock();
    const s = this.slots.at(slot);
    const references = record.count.load(s);
    if (references === 0 || record.page.load(s) !== 0) {
      this.slots.unlock();
      return references === 0 ? 'gone' : 'exists';
    }
    this.#deps.pages.get(pfn);
    record.count.store(s, references + 1);
    page.swap.store(p, slot + 1);
    page.flags.or(p, PageFlag.SwapCache);
    record.page.store(s, pfn);
    const evictedAt = record.link.get(s) - 1;
    record.link.set(s, 0);
    this.slots.unlock();
    this.slots.addCached(1);
    if (evictedAt >= 0) this.#deps.refaulted(pfn, evictedAt);
    return 'ok';
  }

  /**
   * Gives an anonymous page a slot of its own. Requires: the page locked. False when swap is full. The page
   * becomes dirty: the slot holds nothing yet. Linux: add_to_swap.
   */
  addPage(pfn: Pfn): boolean {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const slot = this.slots.alloc(page.memcg.load(p));
    if (slot < 0) return false;
    const added = this.addToCache(slot, pfn);
    assert(added === 'ok', 'addPage: a new slot has a page');
    page.flags.or(p, PageFlag.Dirty);
    this.slots.lock();
    this.slots.dropLocked(slot);
    this.slots.unlock();
    return true;
  }

  /** Takes the page out of the cache and drops the cache's references. Requires: the page locked. */
  removeFromCache(pfn: Pfn): void {
    this.slots.lock();
    this.#removeLocked(pfn, 0);
  }

  /**
   * Takes a page that was written out of the cache, unless somebody came for it meanwhile: only the cache
   * and the caller may hold it, and it must be clean (M-35). Requires: the page locked and unmapped.
   */
  removeEvicted(pfn: Pfn, age: number): boolean {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    this.slots.lock();
    // lookupCache takes its reference under the same lock: after this test nobody finds the page.
    const wanted = page.refcount.load(p) !== 2 || (page.flags.load(p) & PageFlag.Dirty) !== 0;
    if (wanted) {
      this.slots.unlock();
      return false;
    }
    this.#removeLocked(pfn, age + 1);
    return true;
  }

  /** Requires: 'swap', which it releases. */
  #removeLocked(pfn: Pfn, link: number): void {
    const { slot: record } = this.#deps.reclaim;
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const slot = page.swap.load(p) - 1;
    const s = this.slots.at(slot);
    assert(record.page.load(s) === pfn, 'swap cache: page and slot name each other');
    record.page.store(s, 0);
    record.link.set(s, link);
    page.flags.and(p, ~PageFlag.SwapCache);
    page.swap.store(p, 0);
    const left = this.slots.dropLocked(slot);
    this.slots.unlock();
    this.slots.addCached(-1);
    if (left === 0) this.slots.retire(slot);
    this.#deps.pages.put(pfn);
  }

  /**
   * Gives the slot back when only the cache names it; the page is then the only copy, hence dirty.
   * Requires: the page locked. Linux: folio_free_swap.
   */
  tryToFreeSwap(pfn: Pfn): boolean {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const slot = page.swap.load(p) - 1;
    if (slot < 0 || this.slots.references(slot) !== 1) return false;
    page.flags.or(p, PageFlag.Dirty);
    this.removeFromCache(pfn);
    return true;
  }

  /**
   * Drops a mapping's reference, and the swap cache's if nothing else names the slot any more. Requires: no
   * page or leaf lock. Linux: free_page_and_swap_cache.
   */
  putMapped(pfn: Pfn): void {
    const { pages, layout } = this.#deps;
    const p = pages.at(pfn);
    const cached = (layout.page.flags.load(p) & PageFlag.SwapCache) !== 0;
    if (cached && layout.page.mapcount.load(p) === 0 && pages.tryLock(pfn)) {
      this.tryToFreeSwap(pfn);
      pages.unlock(pfn);
    }
    pages.put(pfn);
  }

  /** Reads the slot's content into a frame. Requires: the page locked, no leaf lock. */
  readPage(slot: Slot, pfn: Pfn): SwapRead {
    this.#deps.vmstat.add('pswpin', 1);
    return this.slots.backendOf(slot).readPage(this.slots.onDevice(slot), pfn);
  }

  /**
   * Writes a page of the swap cache to its slot. Requires: the page locked, unmapped everywhere and every
   * flush acknowledged (T-FIP-08). After anything but `ok` the page is dirty as before.
   */
  writePage(pfn: Pfn): SwapWrite {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const slot = page.swap.load(p) - 1;
    assert(slot >= 0, 'writePage: the page has no slot');
    // Clean first: what dirties it from here on must be seen (removeEvicted).
    page.flags.and(p, ~PageFlag.Dirty);
    const result = this.slots.backendOf(slot).writePage(this.slots.onDevice(slot), pfn);
    if (result === 'ok') {
      this.#deps.vmstat.add('pswpout', 1);
      return result;
    }
    page.flags.or(p, PageFlag.Dirty);
    if (result === 'full') this.slots.mark(slot, AreaFlag.Full);
    if (result === 'error') this.slots.mark(slot, AreaFlag.WriteError);
    return result;
  }
}
