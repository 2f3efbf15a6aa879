import { assert } from '../../base/assert.ts';
import type { Pfn } from '../../base/units.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, PageFlag } from '../layout.ts';
import type { Swap } from '../swap/swap.ts';
import type { Lru } from './lru.ts';
import type { PagesPort, RmapPort, UnmapBatchPort } from './reclaim-ports.ts';

/** Pages that go through one flush (design 11). Linux: SWAP_CLUSTER_MAX. */
export const RECLAIM_BATCH = 32;

export type ShrinkListDeps<B extends UnmapBatchPort> = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: PagesPort;
  readonly lru: Lru;
  readonly swap: Swap;
  readonly rmap: RmapPort<B>;
  readonly batch: B;
  readonly breaks: MmBreaks;
  readonly vmstat?: { add(name: ReclaimEvent, by: number): void } | undefined;
};
type ReclaimEvent = 'pgscan' | 'pgsteal' | 'pgdeactivate';

/** What became of a page of the batch. */
const Fate = { Keep: 0, Activate: 1, Unmapped: 2, Freed: 3 } as const;

/**
 * Takes a batch of isolated pages away: reference check, slot, unmap; one flush; write, free. Linux:
 * shrink_folio_list. One per thread; the arrays are its only state, and empty between calls.
 */
export class ShrinkList<B extends UnmapBatchPort> {
  readonly #deps: ShrinkListDeps<B>;
  readonly #fates = new Int32Array(RECLAIM_BATCH);
  readonly #kept = new Int32Array(RECLAIM_BATCH);
  /** The swap device took no more during the last call. */
  stuck = false;

  constructor(deps: ShrinkListDeps<B>) {
    this.#deps = deps;
  }

  /**
   * `pfns` are off the LRU, a reference to each is the caller's and is consumed. Returns how many were
   * freed; the rest are back on the LRU. Requires: no lock below mmap.
   */
  shrink(pfns: Int32Array, count: number, ignoreReferences: boolean): number {
    assert(count <= RECLAIM_BATCH, 'shrink: more pages than a batch has');
    this.stuck = false;
    for (let i = 0; i < count; i++) this.#fates[i] = this.#unmap(pfns[i] as Pfn, ignoreReferences);
    if (this.#deps.breaks.writeBeforeFlush) this.#writeAll(pfns, count);
    this.#flush();
    let freed = 0;
    for (let i = 0; i < count; i++) {
      if (this.#fates[i] !== Fate.Unmapped) continue;
      this.#fates[i] = this.#evict(pfns[i] as Pfn);
      this.#deps.pages.unlock(pfns[i] as Pfn);
      if (this.#fates[i] === Fate.Freed) freed++;
    }
    if (this.#deps.breaks.onlyMarked) this.#deps.batch.tellLate?.();
    this.#putback(pfns, count);
    return freed;
  }

  /** After this no vCPU reaches the batch's frames, and faults on them find the swap cache. */
  #flush(): void {
    const { batch, breaks } = this.#deps;
    if (!breaks.reclaimWithoutFlush) batch.flush();
    batch.end();
  }

  /** Up to the pte: everything before the flush. A page that comes out Unmapped stays locked. */
  #unmap(pfn: Pfn, ignoreReferences: boolean): number {
    const { pages } = this.#deps;
    if (!pages.tryLock(pfn)) return Fate.Keep;
    const fate = this.#unmapLocked(pfn, ignoreReferences);
    if (fate !== Fate.Unmapped) pages.unlock(pfn);
    return fate;
  }

  #unmapLocked(pfn: Pfn, ignoreReferences: boolean): number {
    const { layout, pages, swap, rmap, batch } = this.#deps;
    const p = pages.at(pfn);
    const flags = layout.page.flags.load(p);
    if ((flags & (PageFlag.Mlocked | PageFlag.HwPoison)) !== 0) return Fate.Activate;
    const cached = (flags & PageFlag.SwapCache) !== 0;
    const lazy = !cached && (flags & PageFlag.LazyFree) !== 0;
    if (!cached && layout.page.mapcount.load(p) === 0) return Fate.Activate;
    if (!cached && !lazy && swap.isFull()) return Fate.Activate;
    const used = ignoreReferences ? Fate.Unmapped : this.#referenced(pfn);
    if (used !== Fate.Unmapped) return used;
    if (!cached && !lazy && !swap.addPage(pfn)) return Fate.Activate;
    if (layout.page.mapcount.load(p) === 0) return Fate.Unmapped;
    return rmap.tryToUnmap(pfn, batch) === 'unmapped' ? Fate.Unmapped : Fate.Activate;
  }

  /** Used once: another round on the inactive list. Used twice, or by several: active. (M-34) */
  #referenced(pfn: Pfn): number {
    const { layout, pages, rmap } = this.#deps;
    const p = pages.at(pfn);
    const young = rmap.pageReferenced(pfn);
    if (young === 0) {
      layout.page.flags.and(p, ~PageFlag.Referenced);
      return Fate.Unmapped;
    }
    const before = layout.page.flags.or(p, PageFlag.Referenced);
    return (before & PageFlag.Referenced) !== 0 || young > 1 ? Fate.Activate : Fate.Keep;
  }

  /** Writes an unmapped page if its slot is out of date, and frees it unless somebody came for it. */
  #evict(pfn: Pfn): number {
    const { layout, pages, swap, lru, breaks } = this.#deps;
    const p = pages.at(pfn);
    const { refcount, flags, memcg } = layout.page;
    // MADV_FREE and clean: rmap left holes, there is nothing to keep (M-32).
    if ((flags.load(p) & PageFlag.SwapCache) === 0) return Fate.Freed;
    // M-35: the cache's reference and ours, else the page is pinned or was found again.
    if (refcount.load(p) !== 2 && !breaks.ignorePinned) return Fate.Activate;
    if ((flags.load(p) & PageFlag.Dirty) !== 0) {
      const wanted = swap.count(layout.page.swap.load(p) - 1) > 0 && !breaks.forgetDirty;
      if (!wanted) flags.and(p, ~PageFlag.Dirty);
      else if (this.stuck || !this.#write(pfn)) return Fate.Keep;
    }
    const lruvec = lru.lruvecOf(memcg.load(p));
    if (breaks.ignorePinned) swap.removeFromCache(pfn);
    else if (!swap.removeEvicted(pfn, lru.evicted(lruvec))) return Fate.Activate;
    return Fate.Freed;
  }

  #write(pfn: Pfn): boolean {
    this.stuck = this.#deps.swap.writePage(pfn) !== 'ok';
    return !this.stuck;
  }

  /** For the broken variant alone. */
  #writeAll(pfns: Int32Array, count: number): void {
    for (let i = 0; i < count; i++) if (this.#fates[i] === Fate.Unmapped) this.#write(pfns[i] as Pfn);
  }

  /** Kept pages go back to the LRU, then every reference is dropped, which frees the others. */
  #putback(pfns: Int32Array, count: number): void {
    const { pages, lru } = this.#deps;
    let kept = 0;
    for (let i = 0; i < count; i++) {
      const pfn = pfns[i] as Pfn;
      if (this.#fates[i] === Fate.Freed) continue;
      if (this.#fates[i] === Fate.Activate) this.#activate(pfn);
      this.#kept[kept++] = pfn;
    }
    lru.putback(this.#kept, kept);
    for (let i = 0; i < count; i++) pages.put(pfns[i] as Pfn);
  }

  #activate(pfn: Pfn): void {
    const { layout, pages, lru } = this.#deps;
    const p = pages.at(pfn);
    const before = layout.page.flags.or(p, PageFlag.Active);
    if ((before & PageFlag.Active) === 0) lru.activated(lru.lruvecOf(layout.page.memcg.load(p)));
  }
}
