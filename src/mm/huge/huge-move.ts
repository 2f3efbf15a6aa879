import { assert } from '../../base/assert.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import { PageFlag, Pte, pmdIsHuge, ptePfn } from '../layout.ts';
import { HUGE_FRAMES } from '../page-alloc.ts';
import type { PteAt } from '../page-table.ts';
import { type HugePmdDeps, mkHuge } from './huge-pmd.ts';

type Vma = Ptr<'vma'>;

/** What a resolver needs to move a huge page whole: `lockPages`, anon_vma lock, `lockTwo`, `move`. */
export class HugeMove {
  readonly #deps: Pick<HugePmdDeps, 'layout' | 'pages' | 'pageTable' | 'anonVmas'>;

  constructor(deps: Pick<HugePmdDeps, 'layout' | 'pages' | 'pageTable' | 'anonVmas'>) {
    this.#deps = deps;
  }

  /** Takes the page locks of a huge page's 512; none when one is taken. Requires: no lock below 'page'. */
  lockPages(first: Pfn): boolean {
    const { pages } = this.#deps;
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      if (pages.tryLock(pfn)) continue;
      while (--pfn >= first) pages.unlock(pfn);
      return false;
    }
    return true;
  }

  unlockPages(first: Pfn): void {
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) this.#deps.pages.unlock(pfn);
  }

  /**
   * Each of the 512 is mapped once, named by no swap entry, and held by its mapping and `extra` references.
   * Requires: the lock of the middle table that maps them.
   */
  isOurs(first: Pfn, extra = 0): boolean {
    const { pages, layout } = this.#deps;
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      if (pages.mapcount(pfn) !== 1 || !pages.has(pfn, PageFlag.AnonExclusive)) return false;
      const cached = layout.page.swap.load(pages.at(pfn)) === 0 ? 0 : 1;
      if (pages.refcount(pfn) !== 1 + cached + extra) return false;
    }
    return true;
  }

  /**
   * Moves a huge entry and the table kept with it to a middle entry that is none, of the same mm, and makes
   * the pages the other VMA's: dirty, writable if `writable`. Requires: mmap, the range of the
   * source begun, the 512 page locks, the anon_vma lock of the source, both ptls; dst's anon_vma prepared.
   */
  move(from: PteAt, into: PteAt, vma: Vma, base: Vpn, writable: boolean): void {
    const { pageTable, layout, pages, anonVmas } = this.#deps;
    const entry = pageTable.held(from);
    assert(pmdIsHuge(entry) && (entry & Pte.Zero) === 0, 'R-13: what moves whole is a huge page');
    const first = ptePfn(entry);
    const table = pageTable.clearHuge(from);
    const anonVma = layout.vma.anonVma.load(vma);
    const index = layout.vma.pgoff.get(vma) + base - layout.vma.start.get(vma);
    anonVmas.get(anonVma, HUGE_FRAMES);
    for (let i = 0; i < HUGE_FRAMES; i++) {
      const p = pages.at(first + i);
      anonVmas.put(layout.page.mapping.load(p));
      layout.page.mapping.store(p, anonVma);
      layout.page.index.store(p, index + i);
    }
    const rights = writable ? Pte.Write : 0;
    pageTable.fillHuge(into, mkHuge(first, Pte.Dirty | Pte.Young | rights), table);
  }
}
