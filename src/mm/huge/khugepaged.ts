import type { Pfn, Vpn } from '../../base/units.ts';
import { frameByte } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { FaultFlag, GUP_PFN_MASK } from '../fault-codes.ts';
import type { Gup } from '../gup.ts';
import { isSwap, mkPte, PageFlag, Pte, pteIsPresent, ptePfn, Swp, VmFlag } from '../layout.ts';
import type { MlockPages } from '../mlock-page.ts';
import type { Mms } from '../mms.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import { HUGE_FRAMES } from '../page-alloc.ts';
import { HUGE, type PteAt } from '../page-table.ts';
import type { Swap } from '../swap/swap.ts';
import { type HugeMemory, type HugeMemoryDeps, NO_HUGE_FRAME, userFaultArmed } from './huge-memory.ts';
import { hugeBase } from './huge-pmd.ts';
import type { ThpLimits } from './transparent-hugepage.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type KhugepagedDeps = Omit<HugeMemoryDeps, 'uffdHandle' | 'strictSeedOrder' | 'reclaim'> & {
  readonly huge: HugeMemory;
  readonly gup: Gup;
  readonly swap: Swap;
  readonly mms: Mms;
  readonly mlockPages: MlockPages;
};

/** What became of an area; Linux's names of scan_result without SCAN_. */
export type ScanResult =
  | 'succeed'
  | 'pmd-mapped'
  | 'any-process'
  | 'vma-check'
  | 'pmd-null'
  | 'exceed-none-pte'
  | 'exceed-swap-pte'
  | 'exceed-shared-pte'
  | 'pte-non-present'
  | 'pte-uffd-wp'
  | 'page-count'
  | 'page-lock'
  | 'page-lru'
  | 'lack-referenced-page'
  | 'alloc-huge-page-fail'
  | 'cgroup-charge-fail';

/** What a scan has counted in one area. Reused. */
type Tally = { none: number; swap: number; shared: number; young: number };

/** Without limits: what MADV_COLLAPSE may fill, bring in and copy. */
const NO_LIMITS: ThpLimits = { maxPtesNone: 512, maxPtesSwap: 512, maxPtesShared: 512 };

/**
 * Makes 512 small pages one huge page, by copying them (H.3). Holes and zero pages become zeros, so where a
 * user fault is armed one of them ends the attempt (H-20, H-21). Linux: mm/khugepaged.c.
 */
export class Khugepaged {
  readonly #deps: KhugepagedDeps;
  readonly #tally: Tally = { none: 0, swap: 0, shared: 0, young: 0 };
  /** Pages of the area at hand that are locked. */
  readonly #pfns = new Int32Array(HUGE_FRAMES);
  #locked = 0;
  /** Where this thread's `step` goes on: hints. */
  #mm = 0 as Mm;
  #vpn: Vpn = 0;

  constructor(deps: KhugepagedDeps) {
    this.#deps = deps;
  }

  /**
   * Collapses the 2 MiB around a page. `forced`: MADV_COLLAPSE, which knows no limits, settings or ages.
   * Requires: no lock, and that the caller keeps the address space alive.
   */
  collapse(mm: Mm, vpn: Vpn, forced: boolean): ScanResult {
    const { huge, layout, sync } = this.#deps;
    const base = hugeBase(vpn);
    this.#deps.lru.drainAll();
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const scanned = this.#scan(mm, base, forced);
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    sync.y('C.scanned');
    if (scanned !== 'succeed') return this.#count(scanned);
    const first = this.#allocate(mm);
    if (typeof first !== 'number') return first;
    if (this.#tally.swap > 0) this.#swapIn(mm, base);
    this.#deps.lru.drainAll();
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    const result = this.#collapse(mm, base, first, forced);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (result !== 'succeed') huge.release(mm, first);
    return this.#count(result);
  }

  #count(result: ScanResult): ScanResult {
    const { vmstat } = this.#deps;
    if (result === 'exceed-none-pte') vmstat.add('thp_scan_exceed_none_pte', 1);
    if (result === 'exceed-swap-pte') vmstat.add('thp_scan_exceed_swap_pte', 1);
    if (result === 'exceed-shared-pte') vmstat.add('thp_scan_exceed_share_pte', 1);
    return result;
  }

  /** With no locks held (H-23). */
  #allocate(mm: Mm): Pfn | ScanResult {
    const { huge, vmstat } = this.#deps;
    const first = huge.allocate(mm);
    vmstat.add(first === NO_HUGE_FRAME ? 'thp_collapse_alloc_failed' : 'thp_collapse_alloc', 1);
    if (first >= 0) return first;
    return first === NO_HUGE_FRAME ? 'alloc-huge-page-fail' : 'cgroup-charge-fail';
  }

  /** The VMA, if its 2 MiB may be huge: it has been written to, or there is nothing to make so. Requires: mmap. */
  #vma(mm: Mm, base: Vpn, forced: boolean): Vma {
    const { vmas, huge, layout } = this.#deps;
    const vma = layout.mm.users.load(mm) === 0 ? (0 as Vma) : vmas.find(mm, base);
    if (vma === 0 || layout.vma.anonVma.load(vma) === 0) return 0 as Vma;
    const rights = layout.vma.flags.get(vma) & (VmFlag.Read | VmFlag.Write);
    const wanted = forced ? huge.fits(vma, base) : huge.isEligible(vma, base);
    return wanted && rights !== 0 ? vma : (0 as Vma);
  }

  /** May MADV_COLLAPSE try at all in a VMA? It may hold a huge page somewhere. Requires: mmap. */
  mayCollapse(vma: Vma): boolean {
    const { layout, huge } = this.#deps;
    const first = Math.ceil(layout.vma.start.get(vma) / HUGE_FRAMES) * HUGE_FRAMES;
    return layout.vma.anonVma.load(vma) !== 0 && huge.fits(vma, first);
  }

  /** Requires: mmap. */
  #scan(mm: Mm, base: Vpn, forced: boolean): ScanResult {
    const { pageTable, layout } = this.#deps;
    if (layout.mm.users.load(mm) === 0) return 'any-process';
    const vma = this.#vma(mm, base, forced);
    if (vma === 0) return 'vma-check';
    const first = pageTable.walk(mm, base);
    if (first <= 0) return first === HUGE ? 'pmd-mapped' : 'pmd-null';
    pageTable.lock(first);
    const result = this.#scanTable(mm, vma, base, first, forced, false);
    pageTable.unlock(first);
    if (result === 'succeed' && !forced && this.#tally.young === 0) return 'lack-referenced-page';
    return result;
  }

  /** Looks at 512 ptes, and locks their pages if told. Requires: their ptl. */
  #scanTable(mm: Mm, vma: Vma, base: Vpn, first: PteAt, forced: boolean, lock: boolean): ScanResult {
    const { pageTable, vmas, thp, breaks } = this.#deps;
    const { lo, hi } = vmas.flags(vma);
    const unchecked = lock && breaks.collapseUnchecked;
    const armed = userFaultArmed(lo, hi) && !breaks.collapseArmed && !unchecked;
    const limits = forced || unchecked ? NO_LIMITS : thp.limits;
    if (armed && breaks.collapseRefusesArmed) return 'vma-check';
    Object.assign(this.#tally, { none: 0, swap: 0, shared: 0, young: 0 });
    for (let i = 0; i < HUGE_FRAMES; i++) {
      const entry = pageTable.held(first + i);
      const result = this.#scanEntry(entry, limits, armed, lock);
      if (result !== 'succeed') return result;
      if (lock || forced || this.#tally.young > 0 || !pteIsPresent(entry)) continue;
      if (this.#isYoung(mm, base + i, entry)) this.#tally.young++;
    }
    return 'succeed';
  }

  #scanEntry(entry: number, limits: ThpLimits, armed: boolean, lock: boolean): ScanResult {
    const tally = this.#tally;
    if (entry === 0) return this.#none(limits, armed);
    if (isSwap(entry)) {
      if ((entry & Swp.UffdWp) !== 0) return 'pte-uffd-wp';
      // By now they should have come in.
      if (lock) return 'pte-non-present';
      return ++tally.swap > limits.maxPtesSwap ? 'exceed-swap-pte' : 'succeed';
    }
    if (!pteIsPresent(entry)) return (entry & Swp.UffdWp) !== 0 ? 'pte-uffd-wp' : 'pte-non-present';
    if ((entry & Pte.UffdWp) !== 0) return 'pte-uffd-wp';
    if ((entry & Pte.Zero) !== 0) return this.#none(limits, armed);
    if (this.#deps.pages.mapcount(ptePfn(entry)) > 1 && ++tally.shared > limits.maxPtesShared)
      return 'exceed-shared-pte';
    return this.#page(ptePfn(entry), lock);
  }

  /** A hole or a zero page: zeros afterwards, which an armed VMA has not promised (H-20, H-21). */
  #none(limits: ThpLimits, armed: boolean): ScanResult {
    return armed || ++this.#tally.none > limits.maxPtesNone ? 'exceed-none-pte' : 'succeed';
  }

  /** On the LRU, not locked, and nobody but mappings and the swap cache holds it (H-22). */
  #page(pfn: Pfn, lock: boolean): ScanResult {
    const { pages, layout, sync, breaks } = this.#deps;
    const p = pages.at(pfn);
    if ((layout.page.flags.load(p) & PageFlag.Lru) === 0) return 'page-lru';
    if (lock) {
      if (!pages.tryLock(pfn)) return 'page-lock';
      this.#pfns[this.#locked++] = pfn;
    } else if (sync.isLocked(p + layout.page.lock.at)) return 'page-lock';
    const cached = layout.page.swap.load(p) === 0 ? 0 : 1;
    const held = layout.page.refcount.load(p) !== layout.page.mapcount.load(p) + cached;
    return held && !breaks.collapsePinned ? 'page-count' : 'succeed';
  }

  #isYoung(mm: Mm, vpn: Vpn, entry: number): boolean {
    const { pages, notifiers } = this.#deps;
    if ((entry & Pte.Young) !== 0) return true;
    if ((entry & Pte.Zero) === 0 && pages.has(ptePfn(entry), PageFlag.Referenced)) return true;
    return notifiers.testYoung(mm, vpn);
  }

  /** Brings in what is swapped; what doesn't come ends the attempt later. Requires: no lock. */
  #swapIn(mm: Mm, base: Vpn): void {
    const { gup, pages, sync, layout } = this.#deps;
    for (let vpn = base; vpn < base + HUGE_FRAMES; vpn++) {
      sync.readLock('mmap', mm + layout.mm.mmapLock.at);
      const swapped = this.#isSwapped(mm, vpn);
      sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
      if (!swapped) continue;
      const found = gup.fault(mm, vpn, false, FaultFlag.NoRetry);
      if (found >= 0) pages.put(found & GUP_PFN_MASK);
    }
  }

  /** Without mmap, the table might be freed and reused as we look. */
  #isSwapped(mm: Mm, vpn: Vpn): boolean {
    const { pageTable, layout } = this.#deps;
    return layout.mm.users.load(mm) > 0 && isSwap(pageTable.entryOf(mm, vpn));
  }

  /** From here on in the order of H-23. Requires: mmap for write. */
  #collapse(mm: Mm, base: Vpn, first: Pfn, forced: boolean): ScanResult {
    const { pageTable, anonVmas, sync } = this.#deps;
    const vma = this.#vma(mm, base, forced);
    if (vma === 0) return 'vma-check';
    if (pageTable.walk(mm, base) <= 0) return pageTable.walk(mm, base) === HUGE ? 'pmd-mapped' : 'pmd-null';
    const anonVma = anonVmas.prepare(vma);
    if (anonVma === 0) return 'alloc-huge-page-fail';
    const pmd = pageTable.pmd(mm, base);
    anonVmas.lock(anonVma);
    const table = this.#detach(mm, base, pmd);
    const ptes = pageTable.pteIn(table, base);
    pageTable.lock(ptes);
    const isolated = this.#scanTable(mm, vma, base, ptes, forced, true);
    pageTable.unlock(ptes);
    if (isolated !== 'succeed') this.#reattach(pmd, table);
    anonVmas.unlock(anonVma);
    sync.y('C.isolated');
    if (isolated === 'succeed') {
      this.#copy(ptes, first);
      this.#replace(mm, vma, base, pmd, table, first);
    }
    const count = this.#unlockPages();
    if (isolated === 'succeed') this.#free(count);
    return isolated;
  }

  /**
   * Nobody reaches the small pages after this: faults wait for mmap, the reverse map for the anon_vma lock,
   * secondaries have been emptied, and lockless lookups see `wpSeq` move. The end may come before the copy,
   * as the entry is none (H-23).
   */
  #detach(mm: Mm, base: Vpn, pmd: PteAt): Pfn {
    const { pageTable, notifiers, layout, sync, breaks } = this.#deps;
    const end = base + HUGE_FRAMES;
    if (!breaks.collapseWithoutNotify)
      notifiers.start(mm, base, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    layout.mm.wpSeq.add(mm, 1);
    pageTable.lock(pmd);
    sync.y('M.0');
    const table = pageTable.detach(pmd);
    sync.y('M.k');
    pageTable.unlock(pmd);
    layout.mm.wpSeq.add(mm, 1);
    if (!breaks.collapseWithoutNotify) notifiers.end(mm, base, end, NotifyEvent.Clear);
    return table;
  }

  #reattach(pmd: PteAt, table: Pfn): void {
    const { pageTable, breaks } = this.#deps;
    if (breaks.collapseLosesTable) return;
    pageTable.lock(pmd);
    pageTable.fill(pmd, mkPte(table, 0));
    pageTable.unlock(pmd);
  }

  #copy(ptes: PteAt, first: Pfn): void {
    const { pageTable, pageOps, breaks } = this.#deps;
    for (let i = 0; i < HUGE_FRAMES; i++) {
      const entry = pageTable.held(ptes + i);
      const isHole = !pteIsPresent(entry) || (entry & Pte.Zero) !== 0;
      if (isHole && breaks.collapseSkipsZeroing) continue;
      if (isHole) pageOps.zero(frameByte(first + i));
      else pageOps.copy(frameByte(first + i), frameByte(ptePfn(entry)));
    }
  }

  /** The small pages lose their mappings, the table its entries; it is kept with the huge entry. */
  #replace(mm: Mm, vma: Vma, base: Vpn, pmd: PteAt, table: Pfn, first: Pfn): void {
    const { pageTable, hugePmd, layout, sync } = this.#deps;
    const ptes = pageTable.pteIn(table, base);
    pageTable.lock(ptes);
    for (let i = 0; i < HUGE_FRAMES; i++) {
      const entry = pageTable.held(ptes + i);
      if (entry !== 0) this.#drop(mm, pageTable.clear(ptes + i));
    }
    pageTable.unlock(ptes);
    const writable = (layout.vma.flags.get(vma) & VmFlag.Write) !== 0 ? Pte.Write : 0;
    pageTable.lock(pmd);
    hugePmd.install(mm, vma, pmd, base, first, Pte.Young | Pte.Dirty | writable, table, true);
    sync.y('C.installed');
    pageTable.unlock(pmd);
  }

  /** Requires: the ptl of the detached table. */
  #drop(mm: Mm, entry: number): void {
    const { layout, pages } = this.#deps;
    if (!pteIsPresent(entry) || (entry & Pte.Zero) !== 0) return;
    layout.page.mapcount.add(pages.at(ptePfn(entry)), -1);
    layout.mm.anonPages.add(mm, -1);
  }

  /** Returns how many there were. */
  #unlockPages(): number {
    const count = this.#locked;
    for (let i = 0; i < count; i++) this.#deps.pages.unlock(this.#pfns[i] as Pfn);
    this.#locked = 0;
    return count;
  }

  /** The references that the mappings held. */
  #free(count: number): void {
    for (let i = 0; i < count; i++) {
      const pfn = this.#pfns[i] as Pfn;
      // A locked VMA maps it no more, but a fork may.
      if (this.#deps.pages.mapcount(pfn) > 0) this.#deps.mlockPages.recheck(pfn);
      this.#deps.swap.putMapped(pfn);
    }
  }

  /**
   * Background work: looks at about `pages` pages of memory that wants to be huge, from where this thread left
   * off. Returns how many areas became huge. Requires: no lock.
   */
  step(pages: number): number {
    if (this.#deps.thp.enabled === 'never') return 0;
    const alive = this.#grabAll();
    let collapsed = 0;
    let left = pages;
    let at = Math.max(0, alive.indexOf(this.#mm));
    if (alive[at] !== this.#mm) this.#vpn = 0;
    for (let looked = 0; looked <= alive.length && alive.length > 0 && left > 0; looked++) {
      const mm = alive[at] as Mm;
      for (; left > 0; left -= HUGE_FRAMES) {
        const area = this.#nextArea(mm, this.#vpn);
        if (area < 0) break;
        this.#vpn = area + HUGE_FRAMES;
        if (this.collapse(mm, area, false) === 'succeed') collapsed++;
      }
      if (left <= 0) break;
      at = (at + 1) % alive.length;
      this.#vpn = 0;
    }
    this.#mm = alive[at] ?? (0 as Mm);
    for (const mm of alive) this.#deps.mms.exit(mm);
    return collapsed;
  }

  /** Every address space that lives, kept alive. */
  #grabAll(): Mm[] {
    const alive: Mm[] = [];
    this.#deps.mms.forEach(mm => {
      if (this.#deps.mms.tryGet(mm)) alive.push(mm);
    });
    return alive;
  }

  /** The first area from `from` on that could become huge, or -1. */
  #nextArea(mm: Mm, from: Vpn): Vpn | -1 {
    const { sync, layout, vmas, pageTable } = this.#deps;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    let found = -1;
    for (let i = vmas.indexOf(mm, from); found < 0 && i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      const start = Math.max(from, layout.vma.start.get(vma));
      const end = layout.vma.end.get(vma);
      for (
        let at = hugeBase(start + HUGE_FRAMES - 1);
        found < 0 && at + HUGE_FRAMES <= end;
        at += HUGE_FRAMES
      ) {
        if (this.#vma(mm, at, false) === 0) break;
        if (pageTable.walk(mm, at) > 0) found = at;
      }
    }
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    return found;
  }
}
