import { Errno } from '../base/errno.ts';
import type { Pfn, Vpn } from '../base/units.ts';
import { frameByte } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import { FAULT_RETRY, GUP_NOMEM, GUP_PFN_MASK } from './fault-codes.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import type { TransparentHugepage } from './huge/transparent-hugepage.ts';
import {
  isSwap,
  type MmLayout,
  mkPte,
  PageFlag,
  Pte,
  pmdIsHuge,
  pteIsPresent,
  ptePfn,
  Swp,
  swpOffset,
  VmFlag,
  VmFlagHigh,
  withoutUffdWp,
} from './layout.ts';
import { type Memory, NEW_ANON } from './memory.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE_FRAMES, type PageAlloc } from './page-alloc.ts';
import { HUGE, nextTable, type PageTable, type PteAt } from './page-table.ts';
import type { Lru } from './reclaim/lru.ts';
import type { Rmap } from './rmap.ts';
import type { Swap } from './swap/swap.ts';
import type { Forked, UffdEvents } from './userfaultfd/events.ts';
import type { Vmas } from './vma.ts';
import type { VmaEdit } from './vma-edit.ts';
import type { Vmstat } from './vmstat.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type ForkDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pageOps: PageOps;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageTable: PageTable;
  readonly hugePmd: HugePmd;
  readonly thp: TransparentHugepage;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly anonVmas: AnonVmas;
  readonly rmap: Rmap;
  readonly memory: Memory;
  readonly notifiers: MmuNotifiers;
  readonly swap: Swap;
  readonly lru: Lru;
  readonly vmstat: Vmstat;
  readonly uffdEvents: UffdEvents;
  readonly breaks: MmBreaks;
  /** An empty mm that charges to the same group; throws ENOMEM. */
  readonly createLike: (mm: Mm) => Mm;
  readonly exit: (mm: Mm) => void;
};

const DONE = -1;

/**
 * A copy of an address space that shares every page until one side writes. Linux: dup_mmap,
 * copy_page_range. Costs one entry a mapped page; tables are not shared yet (design 9).
 */
export class Fork {
  readonly #deps: ForkDeps;
  /** Of the VMA that is being copied. */
  #keepsWp = false;
  /** The VMA being copied maps an inode. */
  #shared = false;

  constructor(deps: ForkDeps) {
    this.#deps = deps;
  }

  /** Throws ENOMEM, with the parent as it was but for write protection. */
  fork(parent: Mm): Mm {
    const { layout, createLike, exit, vmstat, uffdEvents } = this.#deps;
    const child = createLike(parent);
    const forked: Forked[] = [];
    let copied = false;
    this.#lockBoth(parent, child);
    try {
      if (layout.mm.users.load(parent) === 0)
        throw new Errno('ESRCH', 'fork', 'the address space has exited');
      this.#copyVmas(parent, child, forked);
      copied = true;
    } finally {
      this.#unlockBoth(parent, child);
      if (!copied) {
        exit(child);
        uffdEvents.forkFailed(forked);
      }
    }
    uffdEvents.forked(forked);
    vmstat.add('fork', 1);
    return child;
  }

  /** The child is on the list of all, where scanners find it half made. */
  #lockBoth(parent: Mm, child: Mm): void {
    const { sync, layout } = this.#deps;
    sync.writeLock('mmap', Math.min(parent, child) + layout.mm.mmapLock.at);
    sync.writeLock('mmap', Math.max(parent, child) + layout.mm.mmapLock.at);
  }

  #unlockBoth(parent: Mm, child: Mm): void {
    const { sync, layout } = this.#deps;
    sync.writeUnlock('mmap', parent + layout.mm.mmapLock.at);
    sync.writeUnlock('mmap', child + layout.mm.mmapLock.at);
  }

  #copyVmas(parent: Mm, child: Mm, forked: Forked[]): void {
    const { vmas, layout, edit, anonVmas, uffdEvents } = this.#deps;
    for (let i = 0; i < vmas.count(parent); i++) {
      const from = vmas.at(parent, i);
      if ((layout.vma.flags.get(from) & VmFlag.DontCopy) !== 0) continue;
      const to = edit.copy(child, from, 'fork');
      vmas.insert(child, vmas.count(child), to);
      // Locks are not inherited (mlock(2)).
      const { lo, hi } = vmas.flags(to);
      vmas.setFlags(to, lo & ~(VmFlag.Locked | VmFlag.LockOnFault), hi);
      uffdEvents.forking(forked, child, from, to);
      if (!anonVmas.fork(to, from)) throw new Errno('ENOMEM', 'fork', 'no memory for the reverse map');
      // Without an anon_vma nothing but the zero page can be mapped, and the pages of an inode are in its cache:
      // the child faults them in again, unless that would be a user fault (U-30).
      const armed = (vmas.flagsHigh(from) & VmFlagHigh.UserFault) !== 0;
      // V-62: write protection goes to a child whose VMA has a context of its own.
      this.#keepsWp = (layout.vma.flags.get(to) & VmFlag.UffdWp) !== 0;
      this.#shared = layout.vma.ops.get(from) !== 0;
      const privately = !this.#shared && layout.vma.anonVma.load(from) !== 0;
      if (privately || armed || this.#keepsWp) this.#copyPtes(parent, child, from, to);
    }
  }

  /** Brackets the write protection; lockless lookups keep out of it (N-25). */
  #copyPtes(parent: Mm, child: Mm, from: Vma, to: Vma): void {
    const { layout, notifiers, breaks } = this.#deps;
    const told = !breaks.rangeWithoutNotify;
    const start = layout.vma.start.get(from);
    const end = layout.vma.end.get(from);
    const event = NotifyEvent.ProtectionPage;
    if (told) notifiers.start(parent, start, end, event, NotifyFlag.Blockable);
    layout.mm.wpSeq.add(parent, 1);
    notifiers.unpinRange(parent, start, end, event);
    try {
      for (let vpn = start; vpn < end; vpn = nextTable(vpn)) {
        this.#copyTable(parent, child, to, vpn, Math.min(end, nextTable(vpn)));
      }
    } finally {
      layout.mm.wpSeq.add(parent, 1);
      if (told) notifiers.end(parent, start, end, event);
    }
  }

  #copyTable(parent: Mm, child: Mm, to: Vma, start: Vpn, end: Vpn): void {
    const { pageTable } = this.#deps;
    if (pageTable.walk(parent, start) === HUGE && this.#copyHuge(parent, child, start)) return;
    const from = pageTable.walk(parent, start);
    if (from === 0) return;
    let into = 0;
    for (let done = 0; done < end - start; ) {
      if (into === 0) {
        into = pageTable.alloc(child, start);
        if (into === 0) throw new Errno('ENOMEM', 'fork', 'no frame for a page table');
      }
      const stopped = this.#copyRun(child, from, into, done, end - start);
      if (stopped === DONE) return;
      done = stopped;
      // A page that is held and swapped out comes in first: then it is copied like one that never went.
      if (isSwap(pageTable.load(from + stopped)) && this.#bringIn(parent, start + stopped)) continue;
      this.#copyPinned(child, to, start + stopped, from + stopped, into + stopped);
      done = stopped + 1;
    }
  }

  /** Both map the 512 pages read-only and huge; false when the entry had to be split, or was. */
  #copyHuge(parent: Mm, child: Mm, vpn: Vpn): boolean {
    const { pageTable, pageAlloc, hugePmd, sync } = this.#deps;
    const into = pageTable.allocPmd(child, vpn);
    const table = into === 0 ? -1 : pageTable.newTable();
    if (table < 0) throw new Errno('ENOMEM', 'fork', 'no frame for a page table');
    const from = pageTable.pmd(parent, vpn);
    pageTable.lockTwo(from, into);
    sync.y('M.0');
    const copied = this.#copyHugeEntry(child, from, into, table);
    sync.y('M.k');
    pageTable.unlockTwo(from, into);
    if (copied) return true;
    pageAlloc.free(table);
    hugePmd.split(parent, vpn);
    return false;
  }

  /** False for one that isn't huge, or has a pinned page. Requires: both ptls. */
  #copyHugeEntry(child: Mm, from: PteAt, into: PteAt, table: Pfn): boolean {
    const { pageTable, layout, thp } = this.#deps;
    const entry = pageTable.held(from);
    if (!pmdIsHuge(entry)) return false;
    if ((entry & Pte.Zero) !== 0) thp.getZero();
    else if (!this.#shareHuge(child, ptePfn(entry))) return false;
    const was = pageTable.change(from, 0, this.#deps.breaks.forkKeepsWritable ? 0 : Pte.Write);
    pageTable.fillHuge(into, this.#forChild(was) & ~(Pte.Write | Pte.Young), table);
    layout.mm.nrPtes.add(child, 1);
    return true;
  }

  #shareHuge(child: Mm, first: Pfn): boolean {
    const end = first + HUGE_FRAMES;
    for (let pfn = first; pfn < end; pfn++) if (this.#isPinned(pfn)) return false;
    for (let pfn = first; pfn < end; pfn++) this.#share(pfn);
    this.#deps.layout.mm.anonPages.add(child, HUGE_FRAMES);
    return true;
  }

  /** Copies entries until all are done, or one maps a page that is pinned: its number. */
  #copyRun(child: Mm, from: PteAt, into: PteAt, first: number, count: number): number {
    const { pageTable, sync } = this.#deps;
    let stopped = DONE;
    pageTable.lockTwo(from, into);
    sync.y('M.0');
    for (let i = first; i < count && stopped === DONE; i++) {
      const entry = pageTable.load(from + i);
      if (entry !== 0 && !this.#copyEntry(child, from + i, into + i, entry)) stopped = i;
    }
    sync.y('M.k');
    pageTable.unlockTwo(from, into);
    return stopped;
  }

  /** False for a pinned page, one in the swap cache among them unless `settled`. Requires: both ptls. */
  #copyEntry(child: Mm, from: PteAt, into: PteAt, entry: number, settled = false): boolean {
    const { pageTable, layout } = this.#deps;
    if (isSwap(entry)) {
      if (!settled && this.#isHeldInCache(entry)) return false;
      this.#copySwap(child, from, into, entry);
      return true;
    }
    if (!pteIsPresent(entry)) {
      const kept = this.#forChild(entry);
      if (kept !== 0) pageTable.fill(into, kept);
      return true;
    }
    if ((entry & Pte.Zero) === 0) {
      if (this.#isPinned(ptePfn(entry))) return false;
      this.#share(ptePfn(entry));
      (this.#shared ? layout.mm.shmemPages : layout.mm.anonPages).add(child, 1);
    }
    const clear = this.#deps.breaks.forkKeepsWritable ? 0 : Pte.Write;
    const was = pageTable.change(from, 0, clear);
    // The child's entry stays dirty: that the swap copy is old must outlive the parent.
    pageTable.fill(into, this.#forChild(was) & ~(Pte.Write | Pte.Young));
    return true;
  }

  #forChild(entry: number): number {
    return this.#keepsWp || this.#deps.breaks.forkKeepsProtection ? entry : withoutUffdWp(entry);
  }

  /** Held by someone other than its mapping and the swap cache: a device writes to it, or reads. */
  #isPinned(pfn: Pfn): boolean {
    const { pages, layout } = this.#deps;
    if (!pages.has(pfn, PageFlag.AnonExclusive) || this.#deps.breaks.forkSharesPinned) return false;
    const cached = layout.page.swap.load(pages.at(pfn)) === 0 ? 0 : 1;
    return pages.refcount(pfn) > 1 + cached;
  }

  /**
   * Reclaim took a pinned page's mapping, and could not take the page: what its holder writes must not be the
   * child's too. Reclaim may be the holder, by the look of it.
   */
  #isHeldInCache(entry: number): boolean {
    if ((entry & Swp.Exclusive) === 0) return false;
    const { swap, pages } = this.#deps;
    const pfn = swap.cachedPage(swpOffset(entry));
    return pfn !== 0 && pages.mapcount(pfn) === 0 && pages.refcount(pfn) > 1;
  }

  /** False where the VMA lets nothing be touched: such a page is shared after all. Throws ENOMEM. */
  #bringIn(parent: Mm, vpn: Vpn): boolean {
    const { memory, pages, vmas } = this.#deps;
    const found = memory.fault(parent, vmas.find(parent, vpn), vpn, false);
    if (found === GUP_NOMEM) throw new Errno('ENOMEM', 'fork', 'no frame for a page that is held');
    if (found >= 0) pages.put(found & GUP_PFN_MASK);
    return found >= 0 || found === FAULT_RETRY;
  }

  #share(pfn: Pfn): void {
    const { pages, layout } = this.#deps;
    if (pages.has(pfn, PageFlag.AnonExclusive)) pages.clear(pfn, PageFlag.AnonExclusive);
    pages.get(pfn);
    layout.page.mapcount.add(pages.at(pfn), 1);
  }

  #copySwap(child: Mm, from: PteAt, into: PteAt, entry: number): void {
    const { pageTable, swap, layout } = this.#deps;
    const shared = entry & ~Swp.Exclusive;
    swap.duplicate(swpOffset(entry)); // the parent's entry keeps the slot alive
    pageTable.replace(from, shared);
    pageTable.fill(into, this.#forChild(shared));
    layout.mm.swapEnts.add(child, 1);
  }

  /** The child gets a copy now: the pinned page must stay the parent's, or the device would miss it. */
  #copyPinned(child: Mm, to: Vma, vpn: Vpn, from: PteAt, into: PteAt): void {
    const { memory, pages, pageTable, pageOps, rmap, lru, layout } = this.#deps;
    const pfn = memory.newPage(child, 1, NEW_ANON);
    if (pfn < 0) throw new Errno('ENOMEM', 'fork', 'no frame to copy a pinned page');
    pageTable.lockTwo(from, into);
    const entry = pageTable.load(from);
    const mapped = pteIsPresent(entry) && (entry & Pte.Zero) === 0;
    if (mapped) {
      pageOps.copy(frameByte(pfn), frameByte(ptePfn(entry)));
      rmap.addNew(pfn, to, vpn);
      const wp = this.#forChild(entry) & Pte.UffdWp;
      const writable = (layout.vma.flags.get(to) & VmFlag.Write) !== 0 && wp === 0 ? Pte.Write : 0;
      pageTable.fill(into, mkPte(pfn, writable | wp | Pte.Dirty | (entry & Pte.ProtNone)));
      layout.mm.anonPages.add(child, 1);
    } else if (entry !== 0) this.#copyEntry(child, from, into, entry, true); // reclaim was quicker
    pageTable.unlockTwo(from, into);
    if (mapped) lru.add(pfn);
    else pages.put(pfn);
  }
}
