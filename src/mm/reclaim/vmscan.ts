import type { Pfn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import { PageFlag } from '../layout.ts';
import type { Memcontrol } from './memcontrol.ts';
import type { UnmapBatchPort } from './reclaim-ports.ts';
import { RECLAIM_BATCH, ShrinkList, type ShrinkListDeps } from './shrink-list.ts';

type Memcg = Ptr<'memcg'>;
type Lruvec = Ptr<'lruvec'>;

/** Of a list's pages, 2^-priority are looked at in a round. Linux: DEF_PRIORITY. */
const FIRST_PRIORITY = 12;
/** Pages of a background step: some 100 us without compression, 1 ms with. */
const BACKGROUND_BUDGET = 128;

export type VmscanDeps<B extends UnmapBatchPort> = ShrinkListDeps<B> & {
  readonly memcontrol: Memcontrol;
  /**
   * Tells the secondaries of every mm of a group (all of them when 0) that an ageing pass is over. False
   * when that can't be done now, because of a lock: it is tried again. Absent, passes end silently.
   */
  readonly passEnd?: ((memcg: Memcg) => boolean) | undefined;
  /** The zone is short of frames: every group gives some back in the background. */
  readonly zoneIsLow?: (() => boolean) | undefined;
};

/**
 * Finds pages to take away: ages the active list into the inactive one, and takes from that what nobody
 * used since (O-3). Linux: vmscan.c. One per thread.
 */
export class Vmscan<B extends UnmapBatchPort> {
  readonly #deps: VmscanDeps<B>;
  readonly #list: ShrinkList<B>;
  readonly #pfns = new Int32Array(RECLAIM_BATCH);

  constructor(deps: VmscanDeps<B>) {
    this.#deps = deps;
    this.#list = new ShrinkList(deps);
  }

  /**
   * Frees about `pages` pages of a group, or of all groups when 0. Returns how many it freed; 0 when
   * nothing is to be had. Requires: no lock but mmap for read.
   */
  reclaim(memcg: Memcg, pages: number): number {
    const { lru } = this.#deps;
    lru.drainAll();
    if (memcg !== 0) return this.#reclaimGroup(memcg, pages);
    let freed = this.#reclaimLruvec(lru.lruvecOf(memcg), memcg, pages);
    freed += this.#reclaimGroups(pages - freed, false);
    // Only when nothing else is to be had does `low` not help (Linux: memcg_low_skipped).
    return freed > 0 ? freed : this.#reclaimGroups(pages, true);
  }

  /** Takes from one group after the other; from those that `low` protects only if they are meant. */
  #reclaimGroups(pages: number, protectedOnes: boolean): number {
    const { memcontrol, layout } = this.#deps;
    let freed = 0;
    for (let m = memcontrol.first(); m !== 0 && freed < pages; m = layout.memcg.next.load(m)) {
      if (!memcontrol.isLive(m) || memcontrol.isLow(m) !== protectedOnes) continue;
      if (protectedOnes) layout.memcg.lowEvents.add(m, 1);
      freed += this.#reclaimGroup(m, pages - freed);
    }
    return freed;
  }

  #reclaimGroup(memcg: Memcg, pages: number): number {
    const { reclaiming } = this.#deps.layout.memcg;
    reclaiming.add(memcg, 1);
    const freed = this.#reclaimLruvec(this.#deps.lru.lruvecOf(memcg), memcg, pages);
    reclaiming.add(memcg, -1);
    return freed;
  }

  /** Looks harder round by round, at last at everything. */
  #reclaimLruvec(lruvec: Lruvec, memcg: Memcg, pages: number): number {
    let freed = 0;
    for (let priority = FIRST_PRIORITY; priority >= 0 && freed < pages; priority--) {
      freed += this.#round(lruvec, priority, pages - freed);
      this.#endPass(lruvec, memcg);
      if (this.#list.stuck) break;
    }
    return freed;
  }

  #round(lruvec: Lruvec, priority: number, pages: number): number {
    const { lru, breaks } = this.#deps;
    const active = lru.count(lruvec, true);
    const inactive = lru.count(lruvec, false);
    if (inactive < active || breaks.evictUsed) {
      // Second chances are for when there is a choice.
      const keepUsed = priority > FIRST_PRIORITY / 2 && !breaks.evictUsed;
      this.#shrinkActive(lruvec, share(active, priority), keepUsed);
    }
    let freed = 0;
    for (let left = share(Math.max(inactive, 1), priority); left > 0 && freed < pages; ) {
      const taken = lru.isolate(lruvec, false, Math.min(left, RECLAIM_BATCH), this.#pfns);
      if (taken === 0) break;
      left -= taken;
      freed += this.#shrinkInactive(lruvec, taken);
      if (this.#list.stuck) break;
    }
    return freed;
  }

  #shrinkInactive(lruvec: Lruvec, taken: number): number {
    this.#scanned(lruvec, taken);
    const freed = this.#list.shrink(this.#pfns, taken, this.#deps.breaks.evictUsed);
    const { pgscan, pgsteal } = this.#deps.layout.lruvec;
    pgscan.add(lruvec, taken);
    pgsteal.add(lruvec, freed);
    this.#deps.vmstat?.add('pgscan', taken);
    this.#deps.vmstat?.add('pgsteal', freed);
    return freed;
  }

  /** Ages the oldest active pages: used ones stay if `keepUsed`, all others become inactive. */
  #shrinkActive(lruvec: Lruvec, count: number, keepUsed: boolean): number {
    const { lru } = this.#deps;
    let looked = 0;
    while (looked < count) {
      const taken = lru.isolate(lruvec, true, Math.min(count - looked, RECLAIM_BATCH), this.#pfns);
      if (taken === 0) break;
      looked += taken;
      this.#scanned(lruvec, taken);
      for (let i = 0; i < taken; i++) this.#ageActive(lruvec, this.#pfns[i] as Pfn, keepUsed);
      lru.putback(this.#pfns, taken);
      for (let i = 0; i < taken; i++) this.#deps.pages.put(this.#pfns[i] as Pfn);
    }
    return looked;
  }

  #ageActive(lruvec: Lruvec, pfn: Pfn, keepUsed: boolean): void {
    const { layout, pages } = this.#deps;
    const p = pages.at(pfn);
    const used = this.#wasUsed(lruvec, pfn);
    if ((used && keepUsed) || (layout.page.flags.load(p) & PageFlag.Mlocked) !== 0) return;
    layout.page.flags.and(p, ~(PageFlag.Active | PageFlag.Referenced));
    layout.lruvec.pgdeactivate.add(lruvec, 1);
    this.#deps.vmstat?.add('pgdeactivate', 1);
  }

  /** Test-and-clear of every accessed bit (M-34). A page that is locked now counts as used. */
  #wasUsed(lruvec: Lruvec, pfn: Pfn): boolean {
    const { layout, pages, rmap } = this.#deps;
    if (!pages.tryLock(pfn)) return true;
    const used = rmap.pageReferenced(pfn) > 0;
    if (used) layout.page.gen.store(pages.at(pfn), layout.lruvec.pass.load(lruvec));
    pages.unlock(pfn);
    return used;
  }

  /**
   * Ages up to `pages` of a group's pages without taking any: for working-set figures, and so that the
   * lists are in order before there is pressure (O-7). Returns how many were looked at.
   */
  age(memcg: Memcg, pages: number): number {
    const { lru } = this.#deps;
    const lruvec = lru.lruvecOf(memcg);
    lru.drainAll();
    const half = Math.ceil(pages / 2);
    const looked = this.#shrinkActive(lruvec, Math.min(half, lru.count(lruvec, true)), true);
    const left = Math.min(pages - looked, lru.count(lruvec, false));
    const aged = looked + this.#ageInactive(lruvec, left);
    this.#endPass(lruvec, memcg);
    return aged;
  }

  /** Used inactive pages become active; the others go round. */
  #ageInactive(lruvec: Lruvec, count: number): number {
    const { lru, layout, pages } = this.#deps;
    let looked = 0;
    while (looked < count) {
      const taken = lru.isolate(lruvec, false, Math.min(count - looked, RECLAIM_BATCH), this.#pfns);
      if (taken === 0) break;
      looked += taken;
      this.#scanned(lruvec, taken);
      for (let i = 0; i < taken; i++) {
        const pfn = this.#pfns[i] as Pfn;
        if (this.#wasUsed(lruvec, pfn)) layout.page.flags.or(pages.at(pfn), PageFlag.Active);
      }
      lru.putback(this.#pfns, taken);
      for (let i = 0; i < taken; i++) pages.put(this.#pfns[i] as Pfn);
    }
    return looked;
  }

  /** A pass is over when as many pages were looked at as there are. */
  #scanned(lruvec: Lruvec, pages: number): void {
    const { lruvec: l } = this.#deps.layout;
    const before = l.scanned.add(lruvec, pages);
    const all = l.activeCount.load(lruvec) + l.inactiveCount.load(lruvec) + pages;
    if (before + pages < all || l.scanned.cas(lruvec, before + pages, 0) !== before + pages) return;
    l.pass.add(lruvec, 1);
    l.passEnd.store(lruvec, 1);
  }

  /**
   * Accessed bits are set when a TLB is filled, so each must be filled once more, or the hottest pages,
   * which never miss, would look oldest (design 11). Requires: no lock below mmap.
   */
  #endPass(lruvec: Lruvec, memcg: Memcg): void {
    const { passEnd, layout } = this.#deps;
    if (layout.lruvec.passEnd.load(lruvec) === 0) return;
    if (layout.lruvec.passEnd.exchange(lruvec, 0) === 0 || passEnd === undefined) return;
    if (!passEnd(memcg)) layout.lruvec.passEnd.store(lruvec, 1);
  }

  /**
   * Takes given pages, whatever their age: MADV_PAGEOUT. At most RECLAIM_BATCH of them, isolated by
   * lru.isolatePage. Requires: no lock but mmap for read. Returns how many were freed.
   */
  reclaimPages(pfns: Int32Array, count: number): number {
    return this.#list.shrink(pfns, count, true);
  }

  /** Is there work for `background`? Cheap enough to ask between slices. */
  needsBackground(): boolean {
    const { memcontrol, layout } = this.#deps;
    if (this.#deps.zoneIsLow?.()) return true;
    for (let m = memcontrol.first(); m !== 0; m = layout.memcg.next.load(m)) {
      if (memcontrol.isOver(m)) return true;
    }
    return false;
  }

  /**
   * One bounded step of kswapd: groups above their `high`, or all when frames run short, give back up to
   * about `budget` pages in total. True if it did something and there is more to do. Requires: no lock held.
   */
  background(budget = BACKGROUND_BUDGET): boolean {
    const { memcontrol, layout } = this.#deps;
    let freed = 0;
    for (let m = memcontrol.first(); m !== 0 && freed < budget; m = layout.memcg.next.load(m)) {
      if (!memcontrol.isOver(m)) continue;
      const over = layout.memcg.usage.load(m) - layout.memcg.wmark.load(m);
      freed += this.reclaim(m, Math.min(Math.max(over, RECLAIM_BATCH), budget - freed));
    }
    if (freed < budget && this.#deps.zoneIsLow?.()) freed += this.reclaim(0 as Memcg, budget - freed);
    return freed > 0 && this.needsBackground();
  }
}

/** At least one batch. */
const share = (pages: number, priority: number): number => Math.max(pages >> priority, RECLAIM_BATCH);
