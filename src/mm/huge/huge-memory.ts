import type { Pfn, Vpn } from '../../base/units.ts';
import { frameByte } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import {
  FAULT_FALLBACK,
  FAULT_RETRY,
  GUP_HUGE,
  GUP_NOMEM,
  GUP_SIGBUS,
  GUP_WRITABLE,
} from '../fault-codes.ts';
import { PageFlag, Pte, pmdIsHuge, ptePfn, VmFlag, VmFlagHigh } from '../layout.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import { HUGE_FRAMES } from '../page-alloc.ts';
import type { PteAt } from '../page-table.ts';
import type { Memcontrol } from '../reclaim/memcontrol.ts';
import type { UffdHandle } from '../userfaultfd/handle.ts';
import { UffdFault, UffdFeature } from '../userfaultfd/state.ts';
import type { Vmas } from '../vma.ts';
import { type HugePmd, type HugePmdDeps, hugeBase, mkHuge } from './huge-pmd.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type HugeMemoryDeps = HugePmdDeps & {
  readonly pageOps: PageOps;
  readonly memcontrol: Memcontrol;
  readonly vmas: Vmas;
  readonly hugePmd: HugePmd;
  /** Allocates before it looks whether a user fault is due, as in 2014 (U-14); else it looks first. */
  readonly strictSeedOrder: boolean;
  /** Global reclaim: pages freed. */
  readonly reclaim: (pages: number) => number;
  readonly uffdHandle: UffdHandle;
};

/** What `allocate` answers instead of a frame. */
export const NO_HUGE_FRAME = -1;
export const NO_CHARGE = -2;
const HUGE_BYTES = HUGE_FRAMES * 4096;
const USE_BITS = Pte.Young | Pte.Dirty;

/** Any user fault may fire in the VMA: its holes and protections must outlive a collapse (H-20). */
export const userFaultArmed = (lo: number, hi: number): boolean =>
  (lo & (VmFlag.UffdMissing | VmFlag.UffdWp)) !== 0 ||
  (hi & (VmFlagHigh.UserFault | VmFlagHigh.UffdMinor)) !== 0;

/**
 * Faults on memory that may be, or is, mapped 2 MiB at a time (H.1). Every outcome leaves charge, frames and
 * counters as the table of H-2 says. Linux: mm/huge_memory.c.
 */
export class HugeMemory {
  readonly #deps: HugeMemoryDeps;

  constructor(deps: HugeMemoryDeps) {
    this.#deps = deps;
  }

  /** May a fault at `vpn` make a huge entry? The 2 MiB lie inside the VMA, which is anonymous. */
  isEligible(vma: Vma, vpn: Vpn): boolean {
    const { enabled } = this.#deps.thp;
    if (enabled === 'never' || !this.fits(vma, vpn)) return false;
    return enabled === 'always' || (this.#deps.layout.vma.flags.get(vma) & VmFlag.HugePage) !== 0;
  }

  /** Could the 2 MiB around a page be one, whatever the settings say? MADV_NOHUGEPAGE says no. */
  fits(vma: Vma, vpn: Vpn): boolean {
    const v = this.#deps.layout.vma;
    const base = hugeBase(vpn);
    const inside = base >= v.start.get(vma) && base + HUGE_FRAMES <= v.end.get(vma);
    return inside && v.ops.get(vma) === 0 && (v.flags.get(vma) & VmFlag.NoHugePage) === 0;
  }

  /**
   * A fault where the middle entry was none and the VMA is eligible. FAULT_FALLBACK: the pte path takes it,
   * and makes its own test for user faults (H-7). Requires: mmap for read, nothing below it.
   */
  fault(mm: Mm, vma: Vma, vpn: Vpn, write: boolean, how = 0): number {
    const { pageTable, anonVmas, thp } = this.#deps;
    if (anonVmas.prepare(vma) === 0) return this.#outOfMemory();
    const pmd = pageTable.allocPmd(mm, vpn);
    if (pmd === 0) return this.#outOfMemory();
    if (!this.#deps.strictSeedOrder && this.#isArmed(vma))
      return this.#armedFirst(mm, vma, vpn, pmd, write, how);
    return write || !thp.useZeroPage
      ? this.#anonymous(mm, vma, vpn, pmd, write, how)
      : this.#zero(mm, vma, vpn, pmd, how);
  }

  #isArmed(vma: Vma): boolean {
    const { uffdHandle, vmas, layout, breaks } = this.#deps;
    if (breaks.fillArmed) return false;
    return uffdHandle.isArmed(layout.vma.flags.get(vma), vmas.flagsHigh(vma));
  }

  /** C-19. Once true it stays so; the reaper says it before it takes the lock of any entry. */
  #isReaped(mm: Mm): boolean {
    return this.#deps.layout.mm.flags.get(mm) !== 0 && !this.#deps.breaks.fillReaped;
  }

  /** U-14: the outcome of the table, nothing allocated. */
  #armedFirst(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, write: boolean, how: number): number {
    const { pageTable, sync } = this.#deps;
    pageTable.lock(pmd);
    sync.y('U.t');
    const hole = pageTable.held(pmd) === 0;
    pageTable.unlock(pmd);
    return hole ? this.#userFault(mm, vma, vpn, write, how) : FAULT_RETRY;
  }

  /** Of the 4 KiB page that was touched (H-5, B-28). Nothing is held or allocated any more (B-27). */
  #userFault(mm: Mm, vma: Vma, vpn: Vpn, write: boolean, how: number): number {
    if (this.#isReaped(mm)) return GUP_SIGBUS;
    this.#deps.vmstat.add('pgfault', 1);
    return this.#deps.uffdHandle.fault(mm, vma, vpn, write ? UffdFault.Write : 0, how);
  }

  #outOfMemory(): number {
    return this.#deps.reclaim(32) > 0 ? FAULT_RETRY : GUP_NOMEM;
  }

  #fallback(): number {
    if (!this.#deps.breaks.hugeUncounted) this.#deps.vmstat.add('thp_fault_fallback', 1);
    return FAULT_FALLBACK;
  }

  /** H-1: a read of a hole. Before anyone sleeps, the table and the reference are given back (B-27). */
  #zero(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, how: number): number {
    const { pageTable, pageAlloc, pages, layout, thp, sync } = this.#deps;
    const table = pageTable.newTable();
    if (table < 0) return this.#outOfMemory();
    if (!thp.getZero()) {
      pageAlloc.free(table);
      return this.#fallback();
    }
    sync.y('U.n');
    pageTable.lock(pmd);
    sync.y('U.t');
    const hole = pageTable.held(pmd) === 0 || this.#deps.breaks.hugeWithoutRecheck;
    const install = hole && !this.#isArmed(vma) && !this.#isReaped(mm);
    if (install) {
      pageTable.fillHuge(pmd, mkHuge(pages.zeroPage, Pte.Zero | Pte.Young), table);
      layout.mm.nrPtes.add(mm, 1);
    }
    pageTable.unlock(pmd);
    if (install) return this.#counted('zero_page_map', pages.zeroPage);
    pageAlloc.free(table);
    thp.putZero();
    return hole ? this.#userFault(mm, vma, vpn, false, how) : FAULT_RETRY;
  }

  #counted(event: 'zero_page_map' | 'thp_fault_alloc', result: number): number {
    this.#deps.vmstat.add('pgfault', 1);
    if (!this.#deps.breaks.hugeUncounted) this.#deps.vmstat.add(event, 1);
    return result;
  }

  /** H-2: a write to a hole, or a read without a huge zero page. */
  #anonymous(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, write: boolean, how: number): number {
    const { pageTable, pageOps, sync } = this.#deps;
    const first = this.allocate(mm);
    if (first === NO_CHARGE) this.#deps.vmstat.add('thp_fault_fallback_charge', 1);
    if (first < 0) return this.#fallback();
    const table = pageTable.newTable();
    if (table < 0) {
      this.release(mm, first);
      return this.#outOfMemory();
    }
    pageOps.fill(frameByte(first), 0, HUGE_BYTES);
    sync.y('U.al');
    pageTable.lock(pmd);
    sync.y('U.t');
    const hole = pageTable.held(pmd) === 0 || this.#deps.breaks.hugeWithoutRecheck;
    if (!hole || this.#isArmed(vma) || this.#isReaped(mm)) {
      pageTable.unlock(pmd);
      this.#abandon(mm, first, table);
      return hole ? this.#userFault(mm, vma, vpn, write, how) : FAULT_RETRY;
    }
    const writable = (this.#deps.layout.vma.flags.get(vma) & VmFlag.Write) !== 0;
    const bits = writable ? Pte.Write | USE_BITS : USE_BITS;
    this.#deps.hugePmd.install(mm, vma, pmd, hugeBase(vpn), first, bits, table, false);
    const pfn = first + (vpn % HUGE_FRAMES);
    this.#deps.pages.get(pfn);
    pageTable.unlock(pmd);
    return this.#counted('thp_fault_alloc', pfn | GUP_HUGE | (writable ? GUP_WRITABLE : 0));
  }

  /** A charged run with unknown content; NO_HUGE_FRAME or NO_CHARGE. Nothing is reclaimed for it. */
  allocate(mm: Mm): Pfn | typeof NO_HUGE_FRAME | typeof NO_CHARGE {
    const { pageAlloc, memcontrol, layout } = this.#deps;
    const first = pageAlloc.allocHuge();
    if (first < 0) return NO_HUGE_FRAME;
    if (memcontrol.tryCharge(layout.mm.memcg.get(mm), HUGE_FRAMES)) return first;
    pageAlloc.freeHuge(first);
    return NO_CHARGE;
  }

  /** Takes back a run that nobody saw: the charge, then the frames. */
  release(mm: Mm, first: Pfn): void {
    const { pageAlloc, memcontrol, layout, breaks } = this.#deps;
    if (breaks.hugeKeepsCharge) return;
    memcontrol.uncharge(layout.mm.memcg.get(mm), HUGE_FRAMES);
    pageAlloc.freeHuge(first);
  }

  #abandon(mm: Mm, first: Pfn, table: Pfn): void {
    this.release(mm, first);
    this.#deps.pageAlloc.free(table);
  }

  /**
   * A fault on a page that a huge entry mapped a moment ago. A write to one that is read-only makes it writable if
   * all of it is ours, else it is split and the pte path copies one page (H-6); one to the zero page gives a huge
   * page, as of Linux 6.13. What a program protects stays whole until it answers (V-36). Requires: mmap for
   * read, nothing below it.
   */
  present(mm: Mm, vma: Vma, vpn: Vpn, write: boolean, how = 0): number {
    const { pageTable, hugePmd, pages } = this.#deps;
    const pmd = pageTable.pmd(mm, vpn);
    pageTable.lock(pmd);
    const entry = pageTable.held(pmd);
    if (!pmdIsHuge(entry)) {
      pageTable.unlock(pmd);
      return FAULT_RETRY;
    }
    const reuse = write && (entry & Pte.Write) === 0;
    if (reuse && !this.#mayReuse(entry)) {
      pageTable.unlock(pmd);
      const instead = this.#instead(mm, vma, vpn, pmd, entry, how);
      if (instead !== FAULT_FALLBACK) return instead;
      hugePmd.split(mm, vpn);
      return FAULT_RETRY;
    }
    if (reuse) this.#takeOver(ptePfn(entry));
    const writable = reuse || (entry & Pte.Write) !== 0;
    pageTable.change(pmd, (write ? USE_BITS : Pte.Young) | (reuse ? Pte.Write : 0), Pte.ProtNone);
    if ((entry & Pte.ProtNone) !== 0) this.#deps.vmstat.add('numa_hint_faults', 1);
    const zero = (entry & Pte.Zero) !== 0;
    const pfn = zero ? pages.zeroPage : ptePfn(entry) + (vpn % HUGE_FRAMES);
    pages.get(pfn);
    pageTable.unlock(pmd);
    return zero ? pfn : pfn | GUP_HUGE | (writable ? GUP_WRITABLE : 0);
  }

  /** A write that needs more than a right: FAULT_FALLBACK when it has to be split. Requires: mmap for read. */
  #instead(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, entry: number, how: number): number {
    const flags = this.#deps.layout.vma.flags.get(vma);
    if ((entry & Pte.UffdWp) !== 0 && (flags & VmFlag.UffdWp) !== 0)
      return this.#protected(mm, vma, vpn, pmd, entry, how);
    if ((entry & Pte.Zero) === 0) return FAULT_FALLBACK;
    return this.#deps.breaks.zeroIsHole ? GUP_SIGBUS : this.#replaceZero(mm, vma, vpn, pmd, entry);
  }

  /** With WP_ASYNC one page loses its protection, so all are split (V-37); else who protects it is asked (V-63). */
  #protected(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, entry: number, how: number): number {
    const { pageTable, layout, uffdHandle, vmstat, sync } = this.#deps;
    const features = layout.uffd.features.load(layout.vma.uffd.get(vma));
    if ((features & UffdFeature.WpAsync) !== 0) return FAULT_FALLBACK;
    pageTable.lock(pmd);
    sync.y('U.t');
    const same = ((pageTable.held(pmd) ^ entry) & ~USE_BITS) === 0;
    pageTable.unlock(pmd);
    if (!same) return FAULT_RETRY;
    vmstat.add('pgfault', 1);
    return uffdHandle.fault(mm, vma, vpn, UffdFault.Wp | UffdFault.Write, how);
  }

  /** Secondaries let go of the zero page before there is another. Linux: do_huge_zero_wp_pmd. */
  #replaceZero(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, entry: number): number {
    const { pageOps, notifiers, breaks } = this.#deps;
    if (this.#deps.anonVmas.prepare(vma) === 0) return this.#outOfMemory();
    const first = this.allocate(mm);
    if (first === NO_CHARGE) this.#deps.vmstat.add('thp_fault_fallback_charge', 1);
    if (first < 0) return this.#fallback();
    pageOps.fill(frameByte(first), 0, HUGE_BYTES);
    const base = hugeBase(vpn);
    const end = base + HUGE_FRAMES;
    if (!breaks.cowWithoutNotify) notifiers.start(mm, base, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    const result = this.#swapZero(mm, vma, vpn, pmd, entry, first);
    if (!breaks.cowWithoutNotify) notifiers.end(mm, base, end, NotifyEvent.Clear);
    if (result === FAULT_RETRY) this.release(mm, first);
    else this.#deps.thp.putZero();
    return result;
  }

  /** Puts the run in the zero page's place, with the table that was kept for it. */
  #swapZero(mm: Mm, vma: Vma, vpn: Vpn, pmd: PteAt, entry: number, first: Pfn): number {
    const { pageTable, hugePmd, pages, notifiers, sync, breaks } = this.#deps;
    const base = hugeBase(vpn);
    pageTable.lock(pmd);
    sync.y('M.0');
    if (((pageTable.held(pmd) ^ entry) & ~USE_BITS) !== 0 || this.#isReaped(mm)) {
      pageTable.unlock(pmd);
      return FAULT_RETRY;
    }
    const table = pageTable.clearHuge(pmd);
    if (!breaks.cowWithoutNotify) notifiers.unpinRange(mm, base, base + HUGE_FRAMES, NotifyEvent.Clear);
    hugePmd.install(mm, vma, pmd, base, first, Pte.Write | USE_BITS, table, true);
    const pfn = first + (vpn % HUGE_FRAMES);
    pages.get(pfn);
    sync.y('M.k');
    pageTable.unlock(pmd);
    return this.#counted('thp_fault_alloc', pfn | GUP_HUGE | GUP_WRITABLE);
  }

  /** All 512 pages are mapped here alone. Requires: the lock of the middle table. */
  #mayReuse(entry: number): boolean {
    if ((entry & (Pte.Zero | Pte.UffdWp)) !== 0) return false;
    const first = ptePfn(entry);
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      if (!this.#deps.pages.has(pfn, PageFlag.AnonExclusive) && !this.#isLast(pfn)) return false;
    }
    return true;
  }

  /**
   * Whoever shared it is gone. A further mapping would come of a fork or of swap: fork waits for mmap, and nothing
   * brings in what is not in the cache. Requires: as above.
   */
  #isLast(pfn: Pfn): boolean {
    const { pages, layout, breaks } = this.#deps;
    const alone = pages.mapcount(pfn) === 1 && pages.refcount(pfn) === 1 && !breaks.copyOwnPage;
    return alone && layout.page.swap.load(pages.at(pfn)) === 0;
  }

  #takeOver(first: Pfn): void {
    const { pages } = this.#deps;
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++)
      if (!pages.has(pfn, PageFlag.AnonExclusive)) pages.set(pfn, PageFlag.AnonExclusive);
  }
}
