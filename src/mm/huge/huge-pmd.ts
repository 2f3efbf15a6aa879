import { assert } from '../../base/assert.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import { frameWord, PAGE_STRUCT_WORDS } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnonVmas } from '../anon-vma.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, PageFlag, Pte, pmdIsHuge, ptePfn } from '../layout.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import type { Pages } from '../page.ts';
import { HUGE_FRAMES, type PageAlloc } from '../page-alloc.ts';
import type { PageTable, PteAt } from '../page-table.ts';
import type { Lru } from '../reclaim/lru.ts';
import type { Vmstat } from '../vmstat.ts';
import type { TransparentHugepage } from './transparent-hugepage.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type HugePmdDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageTable: PageTable;
  readonly anonVmas: AnonVmas;
  readonly notifiers: MmuNotifiers;
  readonly lru: Lru;
  readonly vmstat: Vmstat;
  readonly thp: TransparentHugepage;
  readonly breaks: MmBreaks;
};

/** The first page of the 2 MiB that a page is in. */
export const hugeBase = (vpn: Vpn): Vpn => vpn - (vpn % HUGE_FRAMES);

/** What is done to huge entries as such: making, splitting, emptying. Linux: the lower half of mm/huge_memory.c. */
export class HugePmd {
  readonly #deps: HugePmdDeps;

  constructor(deps: HugePmdDeps) {
    this.#deps = deps;
  }

  /**
   * Makes 512 ptes of the huge entry over a page; nothing if it isn't one. Secondaries give up their leaves
   * of the whole 2 MiB (H-10, H-13, N-16). It cannot fail, and touches no page: who holds a reference keeps
   * it (decision 4). Requires: mmap, or the anon_vma lock with a range open; no ptl.
   */
  split(mm: Mm, vpn: Vpn): void {
    const { pageTable, notifiers, breaks } = this.#deps;
    const pmd = pageTable.pmd(mm, vpn);
    if (pmd === 0 || !pmdIsHuge(pageTable.load(pmd))) return;
    const start = hugeBase(vpn);
    const end = start + HUGE_FRAMES;
    if (!breaks.splitWithoutNotify) notifiers.start(mm, start, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    this.#split(pmd);
    if (!breaks.splitWithoutNotify) notifiers.end(mm, start, end, NotifyEvent.Clear);
  }

  #split(pmd: PteAt): void {
    const { pageTable, vmstat, thp, sync } = this.#deps;
    pageTable.lock(pmd);
    sync.y('M.0');
    const entry = pageTable.held(pmd);
    if (pmdIsHuge(entry)) pageTable.splitHuge(pmd);
    if (this.#deps.breaks.splitZeroToHoles && (entry & Pte.Zero) !== 0)
      sync.words.fill(
        0,
        frameWord(ptePfn(pageTable.held(pmd))),
        frameWord(ptePfn(pageTable.held(pmd))) + 512,
      );
    sync.y('M.k');
    pageTable.unlock(pmd);
    if (!pmdIsHuge(entry)) return;
    vmstat.add('thp_split_pmd', 1);
    if ((entry & Pte.Zero) !== 0) thp.putZero();
  }

  /** Splits where `vpn` is to be a boundary inside a huge page. Linux: vma_adjust_trans_huge. As `split`. */
  splitAt(mm: Mm, vpn: Vpn): void {
    if (vpn % HUGE_FRAMES !== 0) this.split(mm, vpn);
  }

  /**
   * Makes a middle entry that is none map a run of fresh frames: their records, the reverse map, the LRU, the
   * entry. `counted`: the table to deposit is in nrPtes already. Requires: the lock of the middle table; the
   * frames zeroed or copied, charged to the mm's group.
   */
  install(
    mm: Mm,
    vma: Vma,
    pmd: PteAt,
    base: Vpn,
    first: Pfn,
    bits: number,
    table: Pfn,
    counted: boolean,
  ): void {
    const { layout, pageTable, anonVmas, lru } = this.#deps;
    const anonVma = layout.vma.anonVma.load(vma);
    const index = layout.vma.pgoff.get(vma) + base - layout.vma.start.get(vma);
    this.#fillRecords(first, layout.mm.memcg.get(mm), anonVma, index);
    anonVmas.get(anonVma, HUGE_FRAMES);
    lru.addRun(first, HUGE_FRAMES);
    pageTable.fillHuge(pmd, mkHuge(first, bits), table);
    layout.mm.anonPages.add(mm, HUGE_FRAMES);
    if (!counted) layout.mm.nrPtes.add(mm, 1);
  }

  /**
   * Plainly, as nobody finds the frames before the entry is stored. A walker with a stale entry may take a
   * reference as soon as there is one; it looks again and gives it back.
   */
  #fillRecords(first: Pfn, memcg: Ptr<'memcg'>, anonVma: Ptr<'anonVma'>, index: number): void {
    const { page } = this.#deps.layout;
    const { words } = this.#deps.sync;
    const [flagsAt, refcountAt, mapcountAt] = [page.flags.at, page.refcount.at, page.mapcount.at];
    const [mappingAt, indexAt, swapAt] = [page.mapping.at, page.index.at, page.swap.at];
    const [memcgAt, nextAt, prevAt] = [page.memcg.at, page.next.at, page.prev.at];
    let p = this.#deps.pages.at(first) as number;
    for (let i = 0; i < HUGE_FRAMES; i++, p += PAGE_STRUCT_WORDS) {
      words[p + flagsAt] = NEW_HUGE;
      words[p + mapcountAt] = 1;
      words[p + mappingAt] = anonVma;
      words[p + indexAt] = index + i;
      words[p + swapAt] = 0;
      words[p + memcgAt] = memcg;
      words[p + nextAt] = first + i + 1;
      words[p + prevAt] = first + i - 1;
      words[p + refcountAt] = 1;
    }
  }

  /**
   * Empties a huge entry for good. Returns what it was, 0 when it isn't huge any more. The pages' mappings are
   * removed, their references are the caller's to drop. Requires: mmap, the range begun; no ptl.
   */
  clear(mm: Mm, pmd: PteAt): number {
    const { layout, pageTable, pageAlloc, sync, thp } = this.#deps;
    pageTable.lock(pmd);
    sync.y('M.0');
    const entry = pageTable.held(pmd);
    if (!pmdIsHuge(entry)) {
      pageTable.unlock(pmd);
      return 0;
    }
    const table = pageTable.clearHuge(pmd);
    layout.mm.nrPtes.add(mm, -1);
    if ((entry & Pte.Zero) === 0) this.#unmapped(mm, ptePfn(entry));
    sync.y('M.k');
    pageTable.unlock(pmd);
    pageAlloc.free(table);
    if ((entry & Pte.Zero) !== 0) thp.putZero();
    return entry;
  }

  #unmapped(mm: Mm, first: Pfn): void {
    const { layout, pages } = this.#deps;
    layout.mm.anonPages.add(mm, -HUGE_FRAMES);
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      const before = layout.page.mapcount.add(pages.at(pfn), -1);
      assert(before > 0, 'M3: a mapping removed that was not counted');
    }
  }

  /** Sets and clears bits of a huge entry; false when it isn't one any more. Requires: no ptl. */
  change(pmd: PteAt, set: number, clear: number): boolean {
    const { pageTable, pages, sync } = this.#deps;
    pageTable.lock(pmd);
    sync.y('M.0');
    const entry = pageTable.held(pmd);
    const huge = pmdIsHuge(entry);
    if (huge) pageTable.change(pmd, set, clear);
    if (huge && (entry & clear & Pte.Write) !== 0)
      for (let i = 0; i < HUGE_FRAMES; i++) pages.settle(ptePfn(entry) + i);
    sync.y('M.k');
    pageTable.unlock(pmd);
    return huge;
  }

  /** Pages that huge entries of an mm map, the zero page aside; counted from the entries (AnonHugePages). */
  countPages(mm: Mm): number {
    let pages = 0;
    this.#deps.pageTable.eachPmd(mm, entry => {
      if (pmdIsHuge(entry) && (entry & Pte.Zero) === 0) pages += HUGE_FRAMES;
    });
    return pages;
  }
}

/** A fresh page on the LRU that nobody shares, its content in place. */
const NEW_HUGE = PageFlag.AnonExclusive | PageFlag.Uptodate | PageFlag.Lru;

export const mkHuge = (first: Pfn, bits: number): number => (first << 12) | Pte.Present | Pte.Huge | bits;
