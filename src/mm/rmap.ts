import { assert } from '../base/assert.ts';
import type { Pfn, Vpn } from '../base/units.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { AnonVmas } from './anon-vma.ts';
import { MARK, type MmBreaks } from './breaks.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import {
  type MmLayout,
  mkSwap,
  PageFlag,
  Pte,
  pmdIsHuge,
  pteIsPresent,
  ptePfn,
  Swp,
  VmFlag,
} from './layout.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE, hugePte, type PageTable, type PteAt, TABLE_PAGES } from './page-table.ts';
import type { UnmapBatch } from './reclaim/unmap-batch.ts';
import type { Swap } from './swap/swap.ts';

type Vma = Ptr<'vma'>;
type Mm = Ptr<'mm'>;

export type RmapDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly anonVmas: AnonVmas;
  readonly notifiers: MmuNotifiers;
  readonly swap: Swap;
  readonly hugePmd: HugePmd;
  readonly vmstat: { add(name: 'pglazyfreed', by: number): void };
  readonly breaks: MmBreaks;
};

/** Looks at one place; true ends the walk. */
type Visit = (mm: Mm, vpn: Vpn, pfn: Pfn, vma: Vma) => boolean;

/** What unmapping does at one mapping. */
const UNMAPPED = 0;
const SKIPPED = 1;
const BUSY = 2;

/**
 * From a page to the ptes that map it: through its anon_vma to VMAs, through its index to addresses
 * (design 9). Linux: mm/rmap.c. Every walk needs a reference to the page, and the page lock where it
 * changes what the page is.
 */
export class Rmap {
  readonly #deps: RmapDeps;

  constructor(deps: RmapDeps) {
    this.#deps = deps;
  }

  /** A new page becomes its VMA's; the caller maps it. Nobody else knows the page yet: hence plain. */
  addNew(pfn: Pfn, vma: Vma, vpn: Vpn): void {
    const { page, vma: v } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const anonVma = v.anonVma.load(vma);
    this.#deps.anonVmas.get(anonVma);
    page.mapping.set(p, anonVma);
    page.index.set(p, v.pgoff.get(vma) + vpn - v.start.get(vma));
    page.mapcount.set(p, 1);
  }

  /**
   * A page that was read from swap gets its place: in the VMA's own anon_vma if no other pte names its
   * slot, else in the root's, below which all that may map it are. Requires: the page locked.
   */
  adopt(pfn: Pfn, vma: Vma, vpn: Vpn, exclusive: boolean): void {
    const { page, vma: v, anonVma: a } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    if (page.mapping.load(p) !== 0) return;
    const own = v.anonVma.load(vma);
    const anonVma = exclusive ? own : a.root.get(own);
    this.#deps.anonVmas.get(anonVma);
    page.index.set(p, v.pgoff.get(vma) + vpn - v.start.get(vma));
    page.mapping.store(p, anonVma);
  }

  /** One pte fewer maps the page. Requires: the ptl. */
  removeMapping(pfn: Pfn): void {
    const { pages, layout } = this.#deps;
    const before = layout.page.mapcount.add(pages.at(pfn), -1);
    assert(before > 0, 'M3: a mapping removed that was not counted');
  }

  /**
   * Calls `visit` for each place where the page may be mapped, until it answers true. The walk of a merged page
   * goes through the items of its node, and may come to a place twice (Linux: rmap_walk_ksm). Requires: the
   * page locked. True if it was stopped.
   */
  #walk(pfn: Pfn, visit: Visit): boolean {
    const { page, ksmNode, ksmItem: i } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const mapping = page.mapping.load(p);
    if (mapping === 0) return false;
    // The page's lock keeps it: who moves a page takes that too, so there is no need to look again.
    this.#deps.sync.y('A.m');
    // Ksm changes under the page lock alone.
    if ((page.flags.get(p) & PageFlag.Ksm) === 0)
      return this.#walkVmas(mapping, page.index.get(p), pfn, visit);
    for (
      let item = ksmNode.items.get(mapping as number as Ptr<'ksmNode'>);
      item !== 0;
      item = i.link.get(item)
    ) {
      if (this.#walkVmas(i.anonVma.get(item), i.index.get(item), pfn, visit)) return true;
    }
    return false;
  }

  #walkVmas(anonVma: Ptr<'anonVma'>, index: number, pfn: Pfn, visit: Visit): boolean {
    const { layout, anonVmas } = this.#deps;
    const { avc: c, anonVma: a } = layout;
    let stopped = false;
    anonVmas.lock(anonVma);
    for (let avc = a.head.get(anonVma); avc !== 0 && !stopped; avc = c.nextSameAnonVma.get(avc)) {
      const vma = c.vma.get(avc);
      const vpn = this.#addressIn(vma, index);
      if (vpn >= 0) stopped = visit(layout.vma.mm.get(vma), vpn, pfn, vma);
    }
    anonVmas.unlock(anonVma);
    return stopped;
  }

  /** Does some VMA of an anon_vma map the page as its `index`? Requires: the page locked. */
  isMappedThrough(anonVma: Ptr<'anonVma'>, index: number, pfn: Pfn): boolean {
    return this.#walkVmas(anonVma, index, pfn, this.#isMapped);
  }

  readonly #isMapped = (mm: Mm, vpn: Vpn, pfn: Pfn): boolean =>
    maps(this.#deps.pageTable.entryOf(mm, vpn), pfn);

  /** Does a locked VMA map the page? Requires: the page locked. */
  isLocked(pfn: Pfn): boolean {
    return this.#walk(pfn, this.#lockedHere);
  }

  readonly #lockedHere = (mm: Mm, vpn: Vpn, pfn: Pfn, vma: Vma): boolean =>
    this.#keeps(vma) && maps(this.#deps.pageTable.entryOf(mm, vpn), pfn);

  /** C-16: what a locked VMA maps stays in memory. The flag is set before the locks of the entries are taken. */
  #keeps(vma: Vma): boolean {
    return (this.#deps.layout.vma.flags.get(vma) & VmFlag.Locked) !== 0;
  }

  /**
   * How many mappings used the page since the last time, their young bits and the secondaries' cleared
   * (M-34). Requires: the page locked.
   */
  pageReferenced(pfn: Pfn): number {
    this.#young = 0;
    this.#walk(pfn, this.#countYoung);
    return this.#young;
  }

  /** Of the walk under way on this thread. */
  #young = 0;
  readonly #countYoung = (mm: Mm, vpn: Vpn, pfn: Pfn): boolean => {
    this.#young += this.#referencedAt(mm, vpn, pfn);
    return false;
  };

  #referencedAt(mm: Mm, vpn: Vpn, pfn: Pfn): number {
    const { pageTable, notifiers, sync, breaks } = this.#deps;
    const pte = pageTable.walk(mm, vpn);
    if (pte === HUGE) return this.#hugeReferenced(mm, vpn, pfn);
    if (pte === 0 || !maps(pageTable.load(pte), pfn)) return 0;
    pageTable.lock(pte);
    const mapped = maps(pageTable.load(pte), pfn);
    const primary = mapped && (pageTable.change(pte, 0, Pte.Young) & Pte.Young) !== 0;
    sync.y('A.p');
    // Both, always: each clears its own bit (N-3).
    const secondary = mapped && !(breaks.ageShortCircuit && primary) && notifiers.clearYoung(mm, vpn, false);
    pageTable.unlock(pte);
    return primary || secondary ? 1 : 0;
  }

  /**
   * One young bit serves 512 pages, each of which is asked for in turn. So the first page's check alone
   * clears it, and the secondaries' bits for all of them; the first is the newest of its run on the LRU, so
   * that a pass comes to it last.
   */
  #hugeReferenced(mm: Mm, vpn: Vpn, pfn: Pfn): number {
    const { pageTable, notifiers, sync } = this.#deps;
    const pmd = pageTable.pmd(mm, vpn);
    const clears = vpn % TABLE_PAGES === 0;
    pageTable.lock(pmd);
    const entry = pageTable.held(pmd);
    const mapped = pmdIsHuge(entry) && maps(hugePte(entry, vpn), pfn);
    const primary = mapped && (pageTable.change(pmd, 0, clears ? Pte.Young : 0) & Pte.Young) !== 0;
    sync.y('A.p');
    const secondary =
      mapped && (clears ? notifiers.clearYoung(mm, vpn, false, TABLE_PAGES) : notifiers.testYoung(mm, vpn));
    pageTable.unlock(pmd);
    return primary || secondary ? 1 : 0;
  }

  /** Where a VMA maps an index if it does, else -1. Requires: the anon_vma lock. */
  #addressIn(vma: Vma, index: number): Vpn | -1 {
    const { vma: v } = this.#deps.layout;
    const start = v.start.get(vma);
    const vpn = start + index - v.pgoff.get(vma);
    return vpn >= start && vpn < v.end.get(vma) ? vpn : -1;
  }

  /**
   * Turns every pte that maps the page into a swap entry, or into none where a clean MADV_FREE page may go
   * (M-32). The invalidations stay open in `batch`, whose `flush` and `end` the caller calls. `busy`: some
   * mapping is left. Requires: the page locked, and in the swap cache unless it is LazyFree.
   */
  tryToUnmap(pfn: Pfn, batch: UnmapBatch): 'unmapped' | 'busy' {
    const { layout, pages } = this.#deps;
    if (layout.page.mapping.load(pages.at(pfn)) === 0) return 'busy';
    this.#batch = batch;
    const busy = this.#walk(pfn, this.#unmapVisit);
    return busy || layout.page.mapcount.load(pages.at(pfn)) > 0 ? 'busy' : 'unmapped';
  }

  /** Of the walk under way on this thread. */
  #batch: UnmapBatch | undefined;
  readonly #unmapVisit = (mm: Mm, vpn: Vpn, pfn: Pfn, vma: Vma): boolean =>
    this.#unmapAt(mm, vpn, pfn, vma) === BUSY;

  #unmapAt(mm: Mm, vpn: Vpn, pfn: Pfn, vma: Vma): number {
    const { pageTable, notifiers, hugePmd } = this.#deps;
    let pte = pageTable.walk(mm, vpn);
    if (pte === 0 || !maps(pte === HUGE ? pageTable.entryOf(mm, vpn) : pageTable.load(pte), pfn))
      return SKIPPED;
    if (this.#keeps(vma)) return this.#locked(pfn);
    const told = !this.#isUntold(pfn);
    if (!this.#batch!.open(mm, vpn, told)) return BUSY;
    if (pte === HUGE) {
      hugePmd.split(mm, vpn);
      pte = pageTable.walk(mm, vpn);
    }
    if (told) notifiers.pageStart(mm, vpn, NotifyEvent.Clear, NotifyFlag.Blockable | NotifyFlag.DeferFlush);
    if (pte <= 0) return SKIPPED; // zapped before it could be split
    const result = this.#unmapPte(mm, pte, pfn, vma);
    if (result === UNMAPPED) this.#unmapped(mm, vpn, pfn, told);
    return result;
  }

  /** In a test that leaves out what N-5 asks for. */
  #isUntold(pfn: Pfn): boolean {
    const { breaks, sync } = this.#deps;
    if (!breaks.unmapWithoutNotify) return false;
    return !breaks.onlyMarked || Atomics.load(sync.words, frameWord(pfn)) === MARK;
  }

  /** Pinning subscribers let go after the ptl, before anyone looks at the reference count (M-35, N-7). */
  #unmapped(mm: Mm, vpn: Vpn, pfn: Pfn, told: boolean): void {
    this.#deps.sync.y('I.P');
    if (told) this.#deps.notifiers.invalidatePage(mm, vpn);
    this.#deps.pages.put(pfn);
  }

  /** Whoever comes next need not look (Linux: mlock_vma_folio in try_to_unmap_one). */
  #locked(pfn: Pfn): number {
    this.#deps.pages.set(pfn, PageFlag.Mlocked);
    return BUSY;
  }

  #unmapPte(mm: Mm, pte: PteAt, pfn: Pfn, vma: Vma): number {
    const { pageTable, sync, breaks } = this.#deps;
    pageTable.lock(pte);
    sync.y('M.0');
    if (!maps(pageTable.load(pte), pfn)) {
      pageTable.unlock(pte);
      return SKIPPED;
    }
    if (this.#keeps(vma) && !breaks.mlockSeenEarly) {
      pageTable.unlock(pte);
      return this.#locked(pfn);
    }
    const was = pageTable.take(pte);
    const entry = this.#entryFor(pfn, was);
    if (entry === was) pageTable.replace(pte, was);
    else this.#settle(mm, pte, pfn, entry);
    pageTable.unlock(pte);
    sync.y('M.k');
    return entry === was ? BUSY : UNMAPPED;
  }

  /** What takes the place of a cleared pte: a swap entry, 0, or the pte itself if it must stay. */
  #entryFor(pfn: Pfn, was: number): number {
    const { pages, swap, layout, breaks } = this.#deps;
    const p = pages.at(pfn);
    if ((was & Pte.Dirty) !== 0 && !breaks.unmapForgetsDirty) pages.setDirty(pfn);
    const flags = layout.page.flags.load(p);
    if ((flags & PageFlag.SwapCache) === 0) return this.#dropLazyFree(pfn, was);
    if (!swap.duplicate(layout.page.swap.load(p) - 1)) return breaks.unmapWithoutRestore ? 0 : was;
    const exclusive = (flags & PageFlag.AnonExclusive) !== 0 ? Swp.Exclusive : 0;
    if (exclusive !== 0) pages.clear(pfn, PageFlag.AnonExclusive);
    const softDirty = (was & Pte.SoftDirty) !== 0 ? Swp.SoftDirty : 0;
    const uffdWp = (was & Pte.UffdWp) !== 0 ? Swp.UffdWp : 0;
    return mkSwap(layout.page.swap.load(p) - 1, exclusive | softDirty | uffdWp);
  }

  /** A HOLE APPEARS where a lazily freed page was clean; redirtied, it is ordinary again. */
  #dropLazyFree(pfn: Pfn, was: number): number {
    const { pages, layout, vmstat, breaks } = this.#deps;
    const p = pages.at(pfn);
    const flags = layout.page.flags.load(p);
    assert((flags & PageFlag.LazyFree) !== 0, 'unmap: neither in the swap cache nor lazily freed');
    // One reference is the mapping's, one the caller's: more are pins (M-35).
    const dirty = (flags & PageFlag.Dirty) !== 0 && !breaks.freeForgetsDirty;
    if (dirty || layout.page.refcount.load(p) > 2) {
      pages.clear(pfn, PageFlag.LazyFree);
      return was;
    }
    vmstat.add('pglazyfreed', 1);
    return 0;
  }

  /** Requires: the ptl; the pte has been taken. */
  #settle(mm: Mm, pte: PteAt, pfn: Pfn, entry: number): void {
    const { layout, pageTable } = this.#deps;
    layout.mm.anonPages.add(mm, -1);
    if (entry === 0) pageTable.clear(pte);
    else {
      layout.mm.swapEnts.add(mm, 1);
      pageTable.replace(pte, entry);
    }
    this.removeMapping(pfn);
  }

  /** The ptes that map the page, counted from the tables: for checks. Requires: the page locked. */
  countMappings(pfn: Pfn): number {
    const places = new Set<string>();
    this.#walk(pfn, (mm, vpn) => {
      if (this.#isMapped(mm, vpn, pfn)) places.add(`${mm} ${vpn}`);
      return false;
    });
    return places.size;
  }
}

const maps = (entry: number, pfn: Pfn): boolean => pteIsPresent(entry) && ptePfn(entry) === pfn;
