import { Errno } from '../../base/errno.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { type MmLayout, PageFlag, Pte, pmdIsHuge, ptePfn } from '../layout.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import type { Pages } from '../page.ts';
import { type PageTable, type PteAt, TABLE_PAGES } from '../page-table.ts';
import type { Lru } from '../reclaim/lru.ts';
import type { Vmas } from '../vma.ts';
import type { Vmstat } from '../vmstat.ts';
import type { Khugepaged, ScanResult } from './khugepaged.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type HugeAdviceDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly notifiers: MmuNotifiers;
  readonly lru: Lru;
  readonly vmstat: Vmstat;
  readonly khugepaged: Khugepaged;
};

/** MADV_COLLAPSE goes on to the next area after these; an area without a table ends it. */
const GOES_ON: ReadonlySet<ScanResult> = new Set<ScanResult>([
  'pte-non-present',
  'pte-uffd-wp',
  'lack-referenced-page',
  'page-count',
  'page-lock',
  'page-lru',
]);
/** What it throws; else EINVAL. Linux: madvise_collapse_errno. */
const COLLAPSE_ERRNO: Partial<Record<ScanResult, 'ENOMEM' | 'EBUSY' | 'EAGAIN'>> = {
  'alloc-huge-page-fail': 'ENOMEM',
  'cgroup-charge-fail': 'EBUSY',
  'exceed-none-pte': 'EBUSY',
  'page-count': 'EAGAIN',
  'page-lock': 'EAGAIN',
  'page-lru': 'EAGAIN',
};

/** What madvise does to 2 MiB at a time. Linux: madvise_collapse, madvise_free_huge_pmd. */
export class HugeAdvice {
  readonly #deps: HugeAdviceDeps;

  constructor(deps: HugeAdviceDeps) {
    this.#deps = deps;
  }

  /**
   * Makes the 2 MiB areas that lie in the range huge, whatever the settings say, mapping by mapping. True if there
   * were gaps. Throws EINVAL for a part inside one area, for a mapping that can hold none or was never written to;
   * EINVAL, EBUSY, EAGAIN or ENOMEM by what was wrong with the last area that failed. Linux: madvise_collapse.
   */
  collapse(mm: Mm, start: Vpn, end: Vpn): boolean {
    const parts: { first: Vpn; end: Vpn; may: boolean }[] = [];
    const { sync, layout, khugepaged } = this.#deps;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const gaps = this.#walk(mm, start, end, (vma, from, to) => {
      const first = Math.ceil(from / TABLE_PAGES) * TABLE_PAGES;
      parts.push({ first, end: to - (to % TABLE_PAGES), may: khugepaged.mayCollapse(vma) });
    });
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    for (const part of parts) {
      const failed = part.may && part.first <= part.end ? this.#collapsePart(mm, part) : 'vma-check';
      if (failed !== 'succeed') throw new Errno(COLLAPSE_ERRNO[failed] ?? 'EINVAL', 'madvise', failed);
    }
    return gaps;
  }

  /** What was wrong with the last area that failed. */
  #collapsePart(mm: Mm, { first, end }: { first: Vpn; end: Vpn }): ScanResult {
    let failed: ScanResult = 'succeed';
    for (let at = first; at < end; at += TABLE_PAGES) {
      const result = this.#deps.khugepaged.collapse(mm, at, true);
      if (result !== 'succeed' && result !== 'pmd-mapped') failed = result;
      if (failed !== 'succeed' && !GOES_ON.has(failed)) break;
    }
    return failed;
  }

  /** Calls `work` for the mapped parts of a range; true if there were gaps. Requires: mmap. */
  #walk(mm: Mm, start: Vpn, end: Vpn, work: (vma: Vma, from: Vpn, to: Vpn) => void): boolean {
    const { vmas, layout } = this.#deps;
    let at = start;
    let gaps = false;
    for (let i = vmas.indexOf(mm, start); i < vmas.count(mm) && at < end; i++) {
      const vma = vmas.at(mm, i);
      const from = Math.max(at, layout.vma.start.get(vma));
      gaps ||= from > at;
      if (from >= end) return gaps;
      at = Math.min(end, layout.vma.end.get(vma));
      work(vma, from, at);
    }
    return gaps || at < end;
  }

  /** Does another entry map a page of a huge page? Linux: folio_maybe_mapped_shared. */
  isShared(first: Pfn): boolean {
    const { pages } = this.#deps;
    for (let pfn = first; pfn < first + TABLE_PAGES; pfn++) if (pages.mapcount(pfn) > 1) return true;
    return false;
  }

  /** MADV_FREE of 2 MiB that nobody shares or holds: they stay so, and clean. Requires: the secondaries emptied. */
  free(pmd: PteAt): void {
    const { pageTable, vmstat } = this.#deps;
    pageTable.lock(pmd);
    const entry = pageTable.held(pmd);
    const free = pmdIsHuge(entry) && this.#isOnlyMapped(ptePfn(entry));
    if (free) {
      pageTable.change(pmd, 0, Pte.Dirty | Pte.Young);
      this.#setLazyFree(ptePfn(entry));
    }
    pageTable.unlock(pmd);
    if (free) vmstat.add('pglazyfree', TABLE_PAGES);
  }

  /** One mapping each, and no other reference: so nobody is about to write one out. */
  #isOnlyMapped(first: Pfn): boolean {
    const { pages, layout } = this.#deps;
    for (let pfn = first; pfn < first + TABLE_PAGES; pfn++)
      if (pages.refcount(pfn) !== 1 || layout.page.swap.load(pages.at(pfn)) !== 0) return false;
    return true;
  }

  #setLazyFree(first: Pfn): void {
    const { pages, layout } = this.#deps;
    for (let pfn = first; pfn < first + TABLE_PAGES; pfn++) {
      layout.page.flags.and(pages.at(pfn), ~(PageFlag.Dirty | PageFlag.Referenced));
      pages.set(pfn, PageFlag.LazyFree);
    }
  }

  /** MADV_COLD of 2 MiB that nobody shares: they stay so. */
  cold(mm: Mm, pmd: PteAt, vpn: Vpn): void {
    const { notifiers, pageTable, lru } = this.#deps;
    pageTable.lock(pmd);
    const entry = pageTable.held(pmd);
    if (pmdIsHuge(entry)) {
      pageTable.change(pmd, 0, Pte.Young);
      for (let i = 0; i < TABLE_PAGES; i++) lru.deactivate((ptePfn(entry) + i) as Pfn);
    }
    pageTable.unlock(pmd);
    notifiers.clearYoung(mm, vpn, false, TABLE_PAGES);
  }
}
