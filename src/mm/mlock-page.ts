import type { Pfn, Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import { PageFlag, Pte, pmdIsHuge, pteIsPresent, ptePfn } from './layout.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, type PteAt, TABLE_PAGES } from './page-table.ts';
import type { Lru } from './reclaim/lru.ts';
import type { Rmap } from './rmap.ts';

type Mm = Ptr<'mm'>;

export type MlockPagesDeps = {
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly lru: Lru;
  readonly rmap: Rmap;
};

/**
 * Marks pages that some locked VMA maps, so that reclaim does not meet them (O-3, C-16). What keeps them in memory
 * is not the mark but the flag of the VMA, which the reverse map looks at under the page-table lock. So a mark
 * that is missing costs reclaim a look; one too many would keep a page for ever, hence whoever takes a locked
 * mapping away asks whether there is another. Linux: mm/mlock.c before mlock_count.
 */
export class MlockPages {
  readonly #deps: MlockPagesDeps;
  /** Pages of one table that more than one pte maps, with a reference each. Empty between calls. */
  readonly #shared = new Int32Array(TABLE_PAGES);
  #count = 0;

  constructor(deps: MlockPagesDeps) {
    this.#deps = deps;
  }

  /** A locked VMA maps the page. Requires: a reference, or the ptl of a pte that maps it. */
  lock(pfn: Pfn): void {
    const { pages, lru } = this.#deps;
    if (pfn === pages.zeroPage || pages.has(pfn, PageFlag.Mlocked)) return;
    pages.set(pfn, PageFlag.Mlocked);
    lru.move(pfn);
  }

  /** A locked VMA maps the page no more: does another? Requires: a reference; no page, anon_vma or ptl lock. */
  recheck(pfn: Pfn): void {
    const { pages, rmap, lru } = this.#deps;
    if (!pages.has(pfn, PageFlag.Mlocked)) return;
    pages.lock(pfn);
    if (!rmap.isLocked(pfn)) {
      pages.clear(pfn, PageFlag.Mlocked);
      lru.move(pfn);
    }
    pages.unlock(pfn);
  }

  /** The VMA of [start, end) has been locked, or unlocked. Requires: mmap for write, its flags set. */
  range(mm: Mm, start: Vpn, end: Vpn, locked: boolean): void {
    const { pageTable } = this.#deps;
    for (let vpn = start; vpn < end; vpn = nextTable(vpn)) {
      const pte = pageTable.walk(mm, vpn);
      if (pte === HUGE) this.#huge(pageTable.pmd(mm, vpn), locked);
      else if (pte !== 0) this.#table(pte, Math.min(end, nextTable(vpn)) - vpn, locked);
      this.#recheckShared();
    }
  }

  #table(first: PteAt, count: number, locked: boolean): void {
    const { pageTable } = this.#deps;
    pageTable.lock(first);
    for (let pte = first; pte < first + count; pte++) {
      const entry = pageTable.held(pte);
      if (pteIsPresent(entry) && (entry & Pte.Zero) === 0) this.#page(ptePfn(entry), locked);
    }
    pageTable.unlock(first);
  }

  /** Whole: a VMA ends inside no huge page. */
  #huge(pmd: PteAt, locked: boolean): void {
    const { pageTable } = this.#deps;
    pageTable.lock(pmd);
    const entry = pageTable.held(pmd);
    if (pmdIsHuge(entry) && (entry & Pte.Zero) === 0) {
      for (let i = 0; i < TABLE_PAGES; i++) this.#page(ptePfn(entry) + i, locked);
    }
    pageTable.unlock(pmd);
  }

  /** Requires: the lock of its entry. */
  #page(pfn: Pfn, locked: boolean): void {
    const { pages, lru } = this.#deps;
    if (locked) this.lock(pfn);
    else if (pages.has(pfn, PageFlag.Mlocked)) {
      if (pages.mapcount(pfn) > 1) {
        pages.get(pfn);
        this.#shared[this.#count++] = pfn;
      } else {
        pages.clear(pfn, PageFlag.Mlocked);
        lru.move(pfn);
      }
    }
  }

  #recheckShared(): void {
    for (let i = 0; i < this.#count; i++) {
      this.recheck(this.#shared[i] as Pfn);
      this.#deps.pages.put(this.#shared[i] as Pfn);
    }
    this.#count = 0;
  }
}
