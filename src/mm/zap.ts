import type { Pfn, Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import { type HugePmd, hugeBase } from './huge/huge-pmd.ts';
import { isSwap, type MmLayout, Pte, ptePfn, swpOffset } from './layout.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, type PteAt, TABLE_PAGES } from './page-table.ts';
import type { Rmap } from './rmap.ts';
import type { Swap } from './swap/swap.ts';

type Mm = Ptr<'mm'>;

export type ZapDeps = {
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly rmap: Rmap;
  readonly swap: Swap;
  readonly hugePmd: HugePmd;
  readonly notifiers: MmuNotifiers;
  readonly y: (label: string) => void;
};

/** Empties ranges of page tables. Linux: zap_pte_range, mmu_gather. */
export class Zap {
  readonly #deps: ZapDeps;
  /** Pages of one table, freed once its lock is dropped (M-36). Empty between calls. */
  readonly #gathered = new Int32Array(TABLE_PAGES);
  #count = 0;

  constructor(deps: ZapDeps) {
    this.#deps = deps;
  }

  /**
   * Makes every entry of [start, end) none. `shared`: it is of a VMA that maps an inode, whose pages stay in its
   * cache. Requires: mmap, or for a shared range the tree's lock; and the range begun at the notifiers.
   */
  range(mm: Mm, start: Vpn, end: Vpn, shared = false): void {
    for (let vpn = start; vpn < end; ) {
      const stop = Math.min(end, nextTable(vpn));
      const pte = this.#deps.pageTable.walk(mm, vpn);
      if (pte === HUGE) {
        this.#huge(mm, vpn, stop);
        continue; // it is none now, or a table
      }
      if (pte !== 0) this.#table(mm, vpn, pte, stop - vpn, shared);
      vpn = stop;
    }
  }

  /** A huge page goes whole, or is split first: then only the part becomes holes (H-12). */
  #huge(mm: Mm, start: Vpn, end: Vpn): void {
    const { hugePmd, pageTable } = this.#deps;
    if (end - start < TABLE_PAGES) {
      hugePmd.split(mm, start);
      return;
    }
    const entry = hugePmd.clear(mm, pageTable.pmd(mm, hugeBase(start)));
    if (entry === 0 || (entry & Pte.Zero) !== 0) return;
    while (this.#count < TABLE_PAGES) this.#gathered[this.#count] = ptePfn(entry) + this.#count++;
    this.#deps.notifiers.flushPrimary(mm, hugeBase(start), hugeBase(start) + TABLE_PAGES);
    this.#free();
  }

  #table(mm: Mm, vpn: Vpn, first: PteAt, count: number, shared: boolean): void {
    const { pageTable, y } = this.#deps;
    pageTable.lock(first);
    y('M.0');
    const stop = pageTable.used(first) === 0 ? first : first + count;
    for (let pte = first; pte < stop; pte++) {
      if (pageTable.load(pte) !== 0) this.#entry(mm, pageTable.clear(pte), shared);
    }
    y('M.k');
    pageTable.unlock(first);
    if (this.#count > 0) this.#deps.notifiers.flushPrimary(mm, vpn, vpn + count);
    this.#free();
  }

  /** Requires: the ptl; the entry has been cleared. */
  #entry(mm: Mm, entry: number, shared: boolean): void {
    const { layout, pages, rmap, swap } = this.#deps;
    if ((entry & Pte.Present) !== 0) {
      if ((entry & Pte.Zero) !== 0) return;
      (shared ? layout.mm.shmemPages : layout.mm.anonPages).add(mm, -1);
      // A private page goes with what a late store writes to it; this one stays in its cache.
      if (shared && (entry & Pte.Write) !== 0) pages.settle(ptePfn(entry));
      // Whoever maps it next must know that the cache's page is not what it was.
      if (shared && (entry & Pte.Dirty) !== 0) pages.setDirty(ptePfn(entry));
      rmap.removeMapping(ptePfn(entry));
      this.#gathered[this.#count++] = ptePfn(entry);
    } else if (isSwap(entry)) {
      layout.mm.swapEnts.add(mm, -1);
      swap.free(swpOffset(entry));
    }
  }

  #free(): void {
    for (let i = 0; i < this.#count; i++) this.#deps.swap.putMapped(this.#gathered[i] as Pfn);
    this.#count = 0;
    this.#deps.y('M.x');
  }
}
