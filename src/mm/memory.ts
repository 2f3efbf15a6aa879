import type { Pfn, Vpn } from '../base/units.ts';
import { frameByte } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import {
  FAULT_FALLBACK,
  FAULT_RETRY,
  GUP_FAULT,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
  GUP_WRITABLE,
} from './fault-codes.ts';
import type { HugeMemory } from './huge/huge-memory.ts';
import {
  type MmLayout,
  mkPte,
  PageFlag,
  Pte,
  ptePfn,
  SwpType,
  swpType,
  VmFlag,
  VmFlagHigh,
} from './layout.ts';
import type { MlockPages } from './mlock-page.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import type { PageAlloc } from './page-alloc.ts';
import { HUGE, type PageTable, type PteAt } from './page-table.ts';
import type { Lru } from './reclaim/lru.ts';
import type { Memcontrol } from './reclaim/memcontrol.ts';
import type { Psi } from './reclaim/psi.ts';
import type { Rmap } from './rmap.ts';
import type { Shmem } from './shmem.ts';
import type { Swap } from './swap/swap.ts';
import type { SwapIn } from './swap/swap-in.ts';
import type { UffdHandle } from './userfaultfd/handle.ts';
import { UffdFault, UffdFeature } from './userfaultfd/state.ts';
import type { Vmas } from './vma.ts';
import type { Vmstat } from './vmstat.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type MemoryDeps = {
  readonly layout: MmLayout;
  readonly pageOps: PageOps;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageTable: PageTable;
  readonly vmas: Vmas;
  readonly anonVmas: AnonVmas;
  readonly rmap: Rmap;
  readonly notifiers: MmuNotifiers;
  readonly memcontrol: Memcontrol;
  readonly psi: Psi;
  readonly lru: Lru;
  readonly swap: Swap;
  readonly shmem: Shmem;
  readonly mlockPages: MlockPages;
  readonly vmstat: Vmstat;
  readonly uffdHandle: UffdHandle;
  /** U-13 to the letter: a write to an armed hole allocates and charges before it tests. For T-CHG. */
  readonly strictSeedOrder: boolean;
  readonly breaks: MmBreaks;
  readonly huge: HugeMemory;
  readonly y: (label: string) => void;
  /** Global reclaim, when the zone itself is empty. */
  readonly reclaim: (pages: number) => number;
};

/** How often reclaim may free nothing before a fault gives up; what others took of it doesn't count (M-26). */
const ZONE_RETRIES = 16;
/** What may have changed in a present pte without its being another. */
const USE_BITS = Pte.Young | Pte.Dirty;
/** A pte of a merged page has no right to write; what else it says holds of the copy. */
const KEPT_BY_UNSHARE = Pte.Young | Pte.SoftDirty | Pte.UffdWp | Pte.ProtNone;
/** A page nobody shares, its content in place when it is mapped. */
export const NEW_ANON = PageFlag.AnonExclusive | PageFlag.Uptodate;

/**
 * Page faults of anonymous memory: first touch, the zero page, copy on write, swap (M.3, M.4). Linux:
 * mm/memory.c. An answer is a frame with a reference held for the caller, or a code.
 */
export class Memory {
  readonly #deps: MemoryDeps;
  readonly #layout: MmLayout;
  readonly #pageTable: PageTable;
  readonly #pages: Pages;
  #swapIn: SwapIn | undefined;

  constructor(deps: MemoryDeps) {
    this.#deps = deps;
    this.#layout = deps.layout;
    this.#pageTable = deps.pageTable;
    this.#pages = deps.pages;
  }

  /** Swap-in allocates through us, and we fault through it. */
  wire(swapIn: SwapIn): void {
    this.#swapIn = swapIn;
  }

  /**
   * Makes a page of a VMA present for an access. FAULT_RETRY: something changed; look the VMA up again.
   * `how` is of FaultFlag. Requires: mmap for read, nothing below it.
   */
  fault(mm: Mm, vma: Vma, vpn: Vpn, write: boolean, how = 0): number {
    const flags = this.#layout.vma.flags.get(vma);
    // Rights come first: a write to a read-only VMA is never a user fault (U-16).
    if ((flags & (write ? VmFlag.Write : VmFlag.Read | VmFlag.Write)) === 0)
      return this.#deps.breaks.holeBeforeRights
        ? this.#deps.uffdHandle.fault(mm, vma, vpn, 0, how)
        : GUP_FAULT;
    const pte = this.#pageTable.peek(mm, vpn);
    const result =
      pte > 0
        ? this.#fault(mm, vma, vpn, pte, flags, write, how)
        : this.#noTable(mm, vma, vpn, pte, flags, write, how);
    if ((flags & VmFlag.Locked) !== 0 && result >= 0) this.#deps.mlockPages.lock(result & GUP_PFN_MASK);
    return result;
  }

  /** The middle entry is none, or huge. */
  #noTable(mm: Mm, vma: Vma, vpn: Vpn, seen: number, flags: number, write: boolean, how: number): number {
    const { huge } = this.#deps;
    if (seen === HUGE) return huge.present(mm, vma, vpn, write, how);
    if (huge.isEligible(vma, vpn)) {
      const result = huge.fault(mm, vma, vpn, write, how);
      if (result !== FAULT_FALLBACK) return result;
    }
    const pte = this.#pageTable.alloc(mm, vpn);
    if (pte === 0) return this.#makeRoom() ? FAULT_RETRY : GUP_NOMEM;
    return pte === HUGE ? FAULT_RETRY : this.#fault(mm, vma, vpn, pte, flags, write, how);
  }

  #fault(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, flags: number, write: boolean, how: number): number {
    const entry = this.#pageTable.load(pte);
    if (entry === 0) {
      // The flag is at hand; it says that there may be an inode.
      if ((flags & VmFlag.MayShare) !== 0 && this.#layout.vma.ops.get(vma) !== 0)
        return this.#shared(mm, vma, vpn, pte, 0, flags, write, how);
      const armed = this.#deps.uffdHandle.isArmed(flags, this.#deps.vmas.flagsHigh(vma));
      if (armed && !this.#deps.breaks.fillArmed) return this.#hole(mm, vma, vpn, pte, 0, write, how);
      return write ? this.#anonymous(mm, vma, vpn, pte, 0) : this.#zero(mm, vma, pte, 0);
    }
    if ((entry & Pte.Present) === 0) return this.#notPresent(mm, vma, vpn, pte, entry, write, how);
    if ((entry & Pte.ProtNone) !== 0) return this.#hinted(pte, entry);
    if (write && (entry & Pte.Write) === 0) {
      if ((entry & Pte.UffdWp) !== 0 && (flags & VmFlag.UffdWp) !== 0)
        return this.#protectedByUffd(mm, vma, vpn, pte, entry, how);
      if (this.#layout.vma.ops.get(vma) === 0) return this.#writeProtected(mm, vma, vpn, pte, entry);
      return this.#present(pte, entry, write, Pte.Write);
    }
    return this.#present(pte, entry, write);
  }

  /** V-37: with WP_ASYNC the first write takes the bit, and nobody is asked. Else who protects it is (V-63). */
  #protectedByUffd(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, how: number): number {
    const { uffd, vma: v } = this.#layout;
    if ((uffd.features.load(v.uffd.get(vma)) & UffdFeature.WpAsync) === 0)
      return this.#userFault(mm, vma, vpn, pte, entry, UffdFault.Wp | UffdFault.Write, how);
    this.#pageTable.lock(pte);
    if (((this.#pageTable.held(pte) ^ entry) & ~USE_BITS) === 0) this.#pageTable.change(pte, 0, Pte.UffdWp);
    this.#pageTable.unlock(pte);
    return FAULT_RETRY;
  }

  /**
   * A hole of a mapping of an inode: a program is asked for what the cache lacks, or has (MISSING, MINOR; V-61),
   * if it wants to be.
   */
  #shared(
    mm: Mm,
    vma: Vma,
    vpn: Vpn,
    pte: PteAt,
    entry: number,
    flags: number,
    write: boolean,
    how: number,
  ): number {
    const { shmem, vmas } = this.#deps;
    const missing = (flags & VmFlag.UffdMissing) !== 0;
    const minor = (vmas.flagsHigh(vma) & VmFlagHigh.UffdMinor) !== 0;
    if (missing || minor) {
      if (shmem.isBeyond(vma, vpn)) return GUP_SIGBUS;
      const cached = shmem.isCached(vma, vpn);
      const fault = (write ? UffdFault.Write : 0) | (cached ? UffdFault.Minor : 0);
      if (cached ? minor : missing) return this.#userFault(mm, vma, vpn, pte, entry, fault, how);
    }
    return shmem.fault(mm, vma, vpn, pte, entry, write);
  }

  /** A hole of an armed VMA (U-12, U-13, V-16). `entry` is none, or a marker that is as good as none. */
  #hole(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, write: boolean, how: number): number {
    const fault = write ? UffdFault.Write : 0;
    if (!write || !this.#deps.strictSeedOrder) return this.#userFault(mm, vma, vpn, pte, entry, fault, how);
    if (this.#deps.anonVmas.prepare(vma) === 0) return this.#makeRoom() ? FAULT_RETRY : GUP_NOMEM;
    const pfn = this.newPage(mm, 1, NEW_ANON);
    if (pfn < 0) return GUP_NOMEM;
    const result = this.#userFault(mm, vma, vpn, pte, entry, fault, how);
    // The last reference takes the charge back, too.
    this.#pages.put(pfn);
    return result;
  }

  /** A program is asked, if the entry is, under its lock, what the fault took it for (U-11). */
  #userFault(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, fault: number, how: number): number {
    const { vmstat, uffdHandle, breaks, y } = this.#deps;
    y('U.v');
    this.#pageTable.lock(pte);
    const same = ((this.#pageTable.held(pte) ^ entry) & ~USE_BITS) === 0;
    const reaped = this.#isReaped(mm);
    y('U.t');
    this.#pageTable.unlock(pte);
    y('U.ul');
    if (reaped && same && (entry & Pte.Present) === 0) return GUP_SIGBUS;
    if (!same && !breaks.deliverUnchecked) return FAULT_RETRY;
    vmstat.add('pgfault', 1);
    return uffdHandle.fault(mm, vma, vpn, fault, how);
  }

  /** A NUMA hint fault: the VMA allows what the pte does not. One node: the page is where it belongs (C-10). */
  #hinted(pte: PteAt, entry: number): number {
    const pageTable = this.#pageTable;
    pageTable.lock(pte);
    if (((pageTable.held(pte) ^ entry) & ~USE_BITS) === 0) {
      pageTable.change(pte, 0, Pte.ProtNone);
      this.#deps.vmstat.add('numa_hint_faults', 1);
    }
    pageTable.unlock(pte);
    return FAULT_RETRY;
  }

  #notPresent(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, write: boolean, how: number): number {
    if (swpType(entry) === SwpType.Marker) {
      const flags = this.#layout.vma.flags.get(vma);
      if (this.#layout.vma.ops.get(vma) !== 0)
        return this.#shared(mm, vma, vpn, pte, entry, flags, write, how);
      const { uffdHandle, vmas } = this.#deps;
      if (uffdHandle.isArmed(this.#layout.vma.flags.get(vma), vmas.flagsHigh(vma)))
        return this.#hole(mm, vma, vpn, pte, entry, write, how);
      return write ? this.#anonymous(mm, vma, vpn, pte, entry) : this.#zero(mm, vma, pte, entry);
    }
    if (swpType(entry) === SwpType.Swap)
      return this.#deps.breaks.swapIsHole ? GUP_SIGBUS : this.#swapIn!.fault(mm, vma, vpn, pte, entry, write);
    return swpType(entry) === SwpType.Poison ? GUP_HWPOISON : GUP_FAULT;
  }

  /** The access is allowed by now; a page of an inode may be written as soon as the VMA may: `rights`. */
  #present(pte: PteAt, entry: number, write: boolean, rights = 0): number {
    const pageTable = this.#pageTable;
    const use = (write ? USE_BITS : Pte.Young) | rights;
    pageTable.lock(pte);
    if (((pageTable.held(pte) ^ entry) & ~USE_BITS) !== 0) {
      pageTable.unlock(pte);
      return FAULT_RETRY;
    }
    pageTable.change(pte, use, 0);
    this.#pages.get(ptePfn(entry));
    pageTable.unlock(pte);
    return ptePfn(entry) | (((entry | rights) & Pte.Write) !== 0 ? GUP_WRITABLE : 0);
  }

  /** Fills a hole; write protection that a marker remembers goes on. Requires: the ptl. */
  #install(vma: Vma, pte: PteAt, marker: number, page: number): void {
    if (marker === 0) this.#pageTable.fill(pte, page);
    else if ((this.#layout.vma.flags.get(vma) & VmFlag.UffdWp) === 0) this.#pageTable.replace(pte, page);
    else this.#pageTable.replace(pte, (page & ~Pte.Write) | Pte.UffdWp);
  }

  /**
   * A read of a hole: the shared zero page (M-30). `marker`: what the entry is, 0 or a marker. Armed VMAs have
   * branched off before this (U-12).
   */
  #zero(mm: Mm, vma: Vma, pte: PteAt, marker: number): number {
    const { vmstat } = this.#deps;
    const pageTable = this.#pageTable;
    const zero = this.#pages.zeroPage;
    pageTable.lock(pte);
    if (pageTable.held(pte) !== marker || this.#isReaped(mm)) return this.#unlockRefused(mm, pte);
    this.#install(vma, pte, marker, mkPte(zero, Pte.Zero | Pte.Young));
    pageTable.unlock(pte);
    vmstat.add('pgfault', 1);
    vmstat.add('zero_page_map', 1);
    return zero;
  }

  /** Its memory is being taken for good: a hole is SIGBUS (C-19). Requires: the ptl of the hole. */
  #isReaped(mm: Mm): boolean {
    return this.#layout.mm.flags.get(mm) !== 0 && !this.#deps.breaks.fillReaped;
  }

  /** Drops the ptl under which a hole was not to be filled. */
  #unlockRefused(mm: Mm, pte: PteAt): number {
    const reaped = this.#isReaped(mm);
    this.#pageTable.unlock(pte);
    return reaped ? GUP_SIGBUS : FAULT_RETRY;
  }

  /** A write to a hole: a new zeroed page. Behind a marker it is protected, and the access tried again (V-36). */
  #anonymous(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, marker: number): number {
    const pageTable = this.#pageTable;
    if (this.#deps.anonVmas.prepare(vma) === 0) return this.#makeRoom() ? FAULT_RETRY : GUP_NOMEM;
    const pfn = this.newPage(mm, 2, NEW_ANON | PageFlag.LruPending);
    if (pfn < 0) return GUP_NOMEM;
    this.#deps.pageOps.zero(frameByte(pfn));
    pageTable.lock(pte);
    const changed = pageTable.held(pte) !== marker && !this.#deps.breaks.faultWithoutRecheck;
    if (changed || this.#isReaped(mm)) {
      const result = this.#unlockRefused(mm, pte);
      this.#dropNew(pfn);
      return result;
    }
    this.#deps.rmap.addNew(pfn, vma, vpn);
    this.#install(vma, pte, marker, mkPte(pfn, Pte.Write | USE_BITS));
    this.#layout.mm.anonPages.add(mm, 1);
    pageTable.unlock(pte);
    const added = this.#added(pfn);
    if (marker === 0) return added;
    this.#pages.put(pfn);
    return FAULT_RETRY;
  }

  /** A new page that nobody saw goes, with the references of the pte and the caller. */
  #dropNew(pfn: Pfn): number {
    this.#pages.put(pfn);
    this.#pages.put(pfn);
    return FAULT_RETRY;
  }

  /** The page was born LruPending. */
  #added(pfn: Pfn): number {
    this.#deps.lru.addPending(pfn);
    this.#deps.vmstat.add('pgfault', 1);
    return pfn | GUP_WRITABLE;
  }

  /** A charged frame with `refs` references, unknown content, or -1: out of memory. Requires: no lock below mmap. */
  newPage(mm: Mm, refs: number, flags: number): Pfn | -1 {
    const { memcontrol, pageAlloc, breaks } = this.#deps;
    const memcg = this.#layout.mm.memcg.get(mm);
    if (!memcontrol.charge(memcg, 1)) return -1;
    const named = breaks.bornUnowned ? (0 as Ptr<'memcg'>) : memcg;
    let pfn = pageAlloc.allocUser(refs, flags, named);
    for (let inVain = 0; pfn < 0 && inVain < ZONE_RETRIES; pfn = pageAlloc.allocUser(refs, flags, named))
      if (!this.#makeRoom()) inVain++;
    if (pfn < 0) {
      memcontrol.uncharge(memcg, 1);
      return -1;
    }
    if (breaks.bornUnowned) this.#layout.page.memcg.set(this.#pages.at(pfn), memcg);
    return pfn;
  }

  /** The zone is empty: true if reclaim freed something, so that trying again is progress (M-26). */
  #makeRoom(): boolean {
    return this.#deps.reclaim(32) > 0;
  }

  /** A write to a page mapped read-only in a VMA that may be written (M-31). */
  #writeProtected(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number): number {
    if ((entry & Pte.Zero) !== 0)
      return this.#deps.breaks.zeroIsHole ? GUP_SIGBUS : this.#copy(mm, vma, vpn, pte, entry);
    const pfn = ptePfn(entry);
    const pageTable = this.#pageTable;
    pageTable.lock(pte);
    if (((pageTable.held(pte) ^ entry) & ~USE_BITS) !== 0) {
      pageTable.unlock(pte);
      return FAULT_RETRY;
    }
    const { copyOwnPage } = this.#deps.breaks;
    if (this.#pages.has(pfn, PageFlag.AnonExclusive) && !copyOwnPage) return this.#reuse(pte, pfn);
    this.#pages.get(pfn);
    pageTable.unlock(pte);
    const reused = copyOwnPage ? FAULT_RETRY : this.#reuseIfLast(pte, entry, pfn);
    if (reused !== FAULT_RETRY) return reused;
    const copied = this.#copy(mm, vma, vpn, pte, entry);
    this.#pages.put(pfn);
    return copied;
  }

  /** In place: secondaries may go on reading, nothing to tell them (T-COW-03). Requires: the ptl, dropped. */
  #reuse(pte: PteAt, pfn: Pfn): number {
    this.#pageTable.change(pte, Pte.Write | USE_BITS, 0);
    this.#pages.get(pfn);
    this.#pageTable.unlock(pte);
    this.#deps.vmstat.add('cow_reuse', 1);
    return pfn | GUP_WRITABLE;
  }

  /**
   * Is ours the last mapping, the other sharers gone? Under the page lock, as the swap cache is one too.
   * Consumes the caller's reference unless it answers FAULT_RETRY.
   */
  #reuseIfLast(pte: PteAt, entry: number, pfn: Pfn): number {
    const { swap, breaks } = this.#deps;
    const pages = this.#pages;
    if (pages.mapcount(pfn) !== 1) return FAULT_RETRY;
    // What is merged never changes: others may be about to map it.
    if (pages.has(pfn, PageFlag.Ksm) && !breaks.ksmReuse) return FAULT_RETRY;
    pages.lock(pfn);
    this.#pageTable.lock(pte);
    const same = ((this.#pageTable.held(pte) ^ entry) & ~USE_BITS) === 0;
    if (same && pages.has(pfn, PageFlag.SwapCache)) swap.tryToFreeSwap(pfn);
    const ksm = pages.has(pfn, PageFlag.Ksm) && !breaks.ksmReuse;
    const last = same && !ksm && pages.mapcount(pfn) === 1 && pages.refcount(pfn) === 2;
    let result = FAULT_RETRY;
    if (last && !pages.has(pfn, PageFlag.SwapCache)) {
      pages.set(pfn, PageFlag.AnonExclusive);
      result = this.#reuse(pte, pfn);
    } else this.#pageTable.unlock(pte);
    pages.unlock(pfn);
    if (result !== FAULT_RETRY) pages.put(pfn);
    return result;
  }

  /**
   * A page of our own in place of a merged one, with the rights that the pte has; true if there is none. False:
   * out of memory. Requires: mmap. Linux: break_ksm.
   */
  unshare(mm: Mm, vma: Vma, vpn: Vpn): boolean {
    for (;;) {
      const pte = this.#pageTable.walk(mm, vpn);
      const pfn = pte <= 0 ? 0 : this.#grabMerged(pte);
      if (pfn === 0) return true;
      const copied = this.#copy(mm, vma, vpn, pte, this.#merged, this.#merged & KEPT_BY_UNSHARE);
      this.#pages.put(pfn);
      if (copied >= 0) this.#pages.put(copied & GUP_PFN_MASK);
      if (copied !== FAULT_RETRY) return copied >= 0;
    }
  }

  /** The entry that `#grabMerged` found. */
  #merged = 0;
  /** The merged page that a pte maps, with a reference; or 0. */
  #grabMerged(pte: PteAt): Pfn | 0 {
    const pages = this.#pages;
    this.#pageTable.lock(pte);
    const entry = this.#pageTable.held(pte);
    const merged =
      (entry & (Pte.Present | Pte.Zero)) === Pte.Present && pages.has(ptePfn(entry), PageFlag.Ksm);
    if (merged) pages.get(ptePfn(entry));
    this.#pageTable.unlock(pte);
    this.#merged = entry;
    return merged ? ptePfn(entry) : 0;
  }

  /** A page of our own in place of a shared one. The caller holds a reference to the old one. */
  #copy(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, bits = Pte.Write | USE_BITS): number {
    const { anonVmas, pageOps, notifiers, breaks } = this.#deps;
    if (anonVmas.prepare(vma) === 0) return this.#makeRoom() ? FAULT_RETRY : GUP_NOMEM;
    const pfn = this.newPage(mm, 2, NEW_ANON | PageFlag.LruPending);
    if (pfn < 0) return GUP_NOMEM;
    if ((entry & Pte.Zero) !== 0) pageOps.zero(frameByte(pfn));
    else pageOps.copy(frameByte(pfn), frameByte(ptePfn(entry)));
    const flags = NotifyFlag.Blockable;
    if (!breaks.cowWithoutNotify) notifiers.pageStart(mm, vpn, NotifyEvent.Clear, flags);
    const done = this.#replace(mm, vma, vpn, pte, entry, mkPte(pfn, bits | Pte.Dirty));
    if (!breaks.cowWithoutNotify) notifiers.pageEnd(mm, vpn, NotifyEvent.Clear);
    if (!done) return this.#dropNew(pfn);
    if (this.#pages.has(ptePfn(entry), PageFlag.Ksm)) this.#deps.vmstat.add('cow_ksm', 1);
    if ((this.#layout.vma.flags.get(vma) & VmFlag.Locked) !== 0 && (entry & Pte.Zero) === 0)
      this.#deps.mlockPages.recheck(ptePfn(entry));
    // The old frame goes only after the end (M-31).
    if ((entry & Pte.Zero) === 0) this.#deps.swap.putMapped(ptePfn(entry));
    this.#deps.vmstat.add('cow_copy', 1);
    return this.#added(pfn);
  }

  /** Clear, tell pinning secondaries, set: the new page is never visible beside the old spte (N-7). */
  #replace(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, entry: number, fresh: number): boolean {
    const { notifiers, breaks, rmap, y } = this.#deps;
    const pageTable = this.#pageTable;
    pageTable.lock(pte);
    y('M.0');
    if (((pageTable.held(pte) ^ entry) & ~USE_BITS) !== 0) {
      pageTable.unlock(pte);
      return false;
    }
    pageTable.take(pte);
    y('I.P');
    if (!breaks.cowWithoutNotify) notifiers.invalidatePage(mm, vpn);
    rmap.addNew(ptePfn(fresh), vma, vpn);
    pageTable.replace(pte, fresh);
    if ((entry & Pte.Zero) === 0) rmap.removeMapping(ptePfn(entry));
    else this.#layout.mm.anonPages.add(mm, 1);
    pageTable.unlock(pte);
    y('M.k');
    return true;
  }
}
