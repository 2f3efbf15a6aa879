import { Errno } from '../base/errno.ts';
import { type Hva, isPageAligned, PAGE_SIZE, pageNumber, pagesOf, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import { FaultFlag } from './fault-codes.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import { type MmLayout, Pte, pteIsPresent, ptePfn, VmFlag } from './layout.ts';
import type { MlockPages } from './mlock-page.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, TABLE_PAGES, VPN_MAX } from './page-table.ts';
import type { Shmem } from './shmem.ts';
import type { UffdEvents } from './userfaultfd/events.ts';
import type { Vmas } from './vma.ts';
import type { VmaEdit } from './vma-edit.ts';
import type { Zap } from './zap.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** What may be done with a mapping. */
export type Protection = { read?: boolean; write?: boolean; exec?: boolean };

export type MapOptions = {
  /** By default readable and writable. */
  protection?: Protection;
  /** Byte address, page aligned: a hint, unless `fixed`. */
  address?: Hva;
  /** `replace`: what is mapped there goes. `exclusive`: EEXIST if anything is. */
  fixed?: 'replace' | 'exclusive';
  /** Further vm_flags, such as those that advice sets. */
  flags?: { lo?: number; hi?: number };
  /** Shared memory: true for an object of its own, else an inode (shmem.ts) from byte `offset` on. */
  shared?: true | Ptr<'inode'>;
  offset?: number;
  /** MAP_LOCKED, MAP_POPULATE: pages are brought in at once; that one can't be had is no error. */
  locked?: boolean;
  populate?: boolean;
};

export type MmapDeps = {
  readonly breaks: MmBreaks;
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly anonVmas: AnonVmas;
  readonly pageTable: PageTable;
  readonly pages: Pages;
  readonly notifiers: MmuNotifiers;
  readonly zap: Zap;
  readonly shmem: Shmem;
  readonly mlockPages: MlockPages;
  /** Touches every page of a range (mlock.ts). */
  readonly populate: (mm: Mm, start: Vpn, end: Vpn, how?: number) => void;
  readonly hugePmd: HugePmd;
  readonly uffdEvents: UffdEvents;
};

/** Where an address without a hint is looked for; below is never mapped without asking. */
const MMAP_BASE: Vpn = 1 << 16;
const MAY = VmFlag.MayRead | VmFlag.MayWrite | VmFlag.MayExec;

/** The mappings of an address space: mmap, munmap, mprotect. Linux: mm/mmap.c, mm/mprotect.c. */
export class Mmap {
  readonly #deps: MmapDeps;

  constructor(deps: MmapDeps) {
    this.#deps = deps;
  }

  /**
   * Maps `bytes` of anonymous memory, private unless `shared`, and returns its address. Throws EINVAL (no
   * length, an unaligned address or offset), ENOMEM (no room, too many mappings, no memory), EEXIST
   * (`exclusive`).
   */
  map(mm: Mm, bytes: number, options: MapOptions = {}): Hva {
    const pages = pagesOf(bytes);
    if (!(bytes > 0)) throw new Errno('EINVAL', 'mmap', 'no length');
    if (!isPageAligned(options.address ?? 0)) throw new Errno('EINVAL', 'mmap', 'unaligned address');
    const { shared, offset = 0 } = options;
    if (!isPageAligned(offset) || offset < 0) throw new Errno('EINVAL', 'mmap', 'unaligned offset');
    const at =
      shared === undefined
        ? this.#write(mm, 'mmap', () => this.#map(mm, pages, options)) * PAGE_SIZE
        : this.#mapShared(mm, bytes, options, shared, pageNumber(offset));
    const locked = this.#lockFlags(mm, options);
    if (options.populate || (locked & (VmFlag.Locked | VmFlag.LockOnFault)) === VmFlag.Locked)
      this.#deps.populate(mm, pageNumber(at), pageNumber(at) + pages);
    return at;
  }

  /** MAP_LOCKED, and what mlockall has said of mappings to come. */
  #lockFlags(mm: Mm, options: MapOptions): number {
    return (options.locked ? VmFlag.Locked : 0) | this.#deps.layout.mm.defFlags.get(mm);
  }

  /** vm_flags that the options ask for, beside those of the kind of mapping. */
  #askedFlags(mm: Mm, options: MapOptions): number {
    return protectionFlags(options.protection) | this.#lockFlags(mm, options) | (options.flags?.lo ?? 0);
  }

  #map(mm: Mm, pages: number, options: MapOptions): Vpn {
    const { vmas, edit } = this.#deps;
    const start = this.#place(mm, pages, options);
    const lo = accounted(this.#askedFlags(mm, options) | MAY);
    const hi = options.flags?.hi ?? 0;
    if (options.fixed === 'replace') this.unmapRange(mm, start, start + pages, 'mmap');
    const index = vmas.indexOf(mm, start);
    if (edit.extend(mm, index, start, start + pages, lo, hi)) return start;
    edit.create(mm, index, start, start + pages, lo, hi, 'mmap');
    return start;
  }

  #mapShared(mm: Mm, bytes: number, options: MapOptions, shared: true | Ptr<'inode'>, index: number): Hva {
    const { shmem } = this.#deps;
    const inode = shared === true ? shmem.create(bytes) : shared;
    try {
      return (
        this.#write(mm, 'mmap', () => this.#mapInode(mm, pagesOf(bytes), options, inode, index)) * PAGE_SIZE
      );
    } finally {
      if (shared === true) shmem.put(inode);
    }
  }

  #mapInode(mm: Mm, pages: number, options: MapOptions, inode: Ptr<'inode'>, index: number): Vpn {
    const { vmas, edit } = this.#deps;
    const start = this.#place(mm, pages, options);
    const common = VmFlag.Shared | VmFlag.MayShare | MAY;
    const lo = this.#askedFlags(mm, options) | common;
    if (options.fixed === 'replace') this.unmapRange(mm, start, start + pages, 'mmap');
    const hi = options.flags?.hi ?? 0;
    edit.createShared(mm, vmas.indexOf(mm, start), start, start + pages, { lo, hi }, inode, index);
    return start;
  }

  #place(mm: Mm, pages: number, options: MapOptions): Vpn {
    const { vmas } = this.#deps;
    const wanted = pageNumber(options.address ?? 0);
    if (options.address !== undefined) {
      const next = vmas.indexOf(mm, wanted);
      const taken =
        next < vmas.count(mm) && this.#deps.layout.vma.start.get(vmas.at(mm, next)) < wanted + pages;
      const fits = wanted > 0 && wanted + pages <= VPN_MAX;
      if (options.fixed !== undefined && !fits)
        throw new Errno('ENOMEM', 'mmap', 'outside the address space');
      if (options.fixed === 'exclusive' && taken) throw new Errno('EEXIST', 'mmap', 'mapped already');
      if (options.fixed !== undefined || (fits && !taken)) return wanted;
    }
    const align = pages >= TABLE_PAGES ? TABLE_PAGES : 1;
    const start = vmas.findGap(mm, pages, MMAP_BASE, align);
    if (start < 0) throw new Errno('ENOMEM', 'mmap', 'no room in the address space');
    return start;
  }

  /**
   * Unmaps every page of [address, address + bytes); gaps are no error. Throws EINVAL, and ENOMEM when a
   * mapping would have to be split and can't be, with nothing changed.
   */
  unmap(mm: Mm, address: Hva, bytes: number): void {
    const { start, end } = range('munmap', address, bytes);
    if (start === end) throw new Errno('EINVAL', 'munmap', 'no length');
    this.#write(mm, 'munmap', () => this.unmapRange(mm, start, end, 'munmap'));
  }

  /** As `unmap`. Requires: mmap for write; `uffdEvents.settle` once it is given back. */
  unmapRange(mm: Mm, start: Vpn, end: Vpn, call: string): void {
    const { vmas, edit, layout } = this.#deps;
    edit.splitAt(mm, start, call);
    edit.splitAt(mm, end, call);
    const first = vmas.indexOf(mm, start);
    let last = first;
    while (last < vmas.count(mm) && layout.vma.start.get(vmas.at(mm, last)) < end) last++;
    if (last === first) return;
    this.#deps.uffdEvents.unmapping(mm, first, last, start, end, call);
    this.removeVmas(mm, first, last);
  }

  /**
   * Takes away the VMAs [first, last) with all they map: ptes, then the way to them, then the tables.
   * Requires: mmap for write.
   */
  removeVmas(mm: Mm, first: number, last: number): void {
    const { vmas, layout, notifiers, zap, anonVmas, edit, breaks } = this.#deps;
    const told = !breaks.rangeWithoutNotify;
    const start = layout.vma.start.get(vmas.at(mm, first));
    const end = layout.vma.end.get(vmas.at(mm, last - 1));
    for (let i = first; i < last; i++) {
      const vma = vmas.at(mm, i);
      const from = layout.vma.start.get(vma);
      const to = layout.vma.end.get(vma);
      this.#unlock(mm, vma, from, to);
      if (told) notifiers.start(mm, from, to, NotifyEvent.Unmap, NotifyFlag.Blockable);
      zap.range(mm, from, to, layout.vma.ops.get(vma) !== 0);
      if (told) notifiers.end(mm, from, to, NotifyEvent.Unmap);
      anonVmas.unlink(vma);
    }
    for (let i = first; i < last; i++) edit.destroy(mm, first);
    const floor = first === 0 ? 0 : layout.vma.end.get(vmas.at(mm, first - 1));
    const ceiling = first === vmas.count(mm) ? VPN_MAX : layout.vma.start.get(vmas.at(mm, first));
    // Odd: lockless walkers keep out while tables go. It is odd for good when the mm exits.
    const live = (layout.mm.wpSeq.load(mm) & 1) === 0;
    if (live) layout.mm.wpSeq.add(mm, 1);
    this.#deps.pageTable.free(mm, start, end, floor, ceiling);
    if (live) layout.mm.wpSeq.add(mm, 1);
  }

  /** Pages of a locked VMA that goes may be mapped elsewhere, where nobody locked them. */
  #unlock(mm: Mm, vma: Vma, start: Vpn, end: Vpn): void {
    const { vmas, mlockPages } = this.#deps;
    const { lo, hi } = vmas.flags(vma);
    if ((lo & VmFlag.Locked) === 0) return;
    vmas.setFlags(vma, lo & ~(VmFlag.Locked | VmFlag.LockOnFault), hi);
    mlockPages.range(mm, start, end, false);
  }

  /**
   * Changes what may be done with [address, address + bytes). Throws ENOMEM at a gap, the part before it
   * being changed, or when a mapping can't be split.
   */
  protect(mm: Mm, address: Hva, bytes: number, protection: Protection): void {
    const { start, end } = range('mprotect', address, bytes);
    if (start === end) return;
    const gained: [Vpn, Vpn][] = [];
    try {
      this.#write(mm, 'mprotect', () => this.#protect(mm, start, end, protection, gained));
    } finally {
      // Linux does this under its lock, and so can't wait for a user fault.
      for (const [from, to] of gained)
        this.#deps.populate(mm, from, to, FaultFlag.Kernel | FaultFlag.NoRetry);
    }
  }

  /** `gained`: locked memory that can be written from now on, and so has to have its pages (C-16). */
  #protect(mm: Mm, start: Vpn, end: Vpn, protection: Protection, gained: [Vpn, Vpn][]): void {
    const { vmas, edit, layout } = this.#deps;
    const rights = VmFlag.Read | VmFlag.Write | VmFlag.Exec;
    let vpn = start;
    while (vpn < end) {
      const vma = vmas.find(mm, vpn);
      if (vma === 0) throw new Errno('ENOMEM', 'mprotect', 'a gap in the range');
      const stop = Math.min(end, layout.vma.end.get(vma));
      const { lo, hi } = vmas.flags(vma);
      const wanted = (lo & ~rights) | protectionFlags(protection);
      const writable = (wanted & VmFlag.Write) !== 0;
      const untouched = layout.vma.ops.get(vma) === 0 && layout.vma.anonVma.get(vma) === 0;
      const flags = writable ? accounted(wanted) : untouched ? wanted & ~VmFlag.Account : wanted;
      if (flags !== lo) {
        const changed = edit.setFlags(mm, vpn, stop, flags, hi, 'mprotect');
        this.#changeProtection(mm, vpn, stop, layout.vma.flags.get(changed), lo);
        const { Locked, Shared, Write } = VmFlag;
        if (writable && (lo & (Locked | Shared | Write)) === Locked) gained.push([vpn, stop]);
      }
      vpn = stop;
    }
  }

  /**
   * Takes rights from the ptes; rights gained come with the next fault, which knows about COW. Secondaries hear of what
   * is taken alone: a translation with fewer rights than it might have does no harm (C-17).
   */
  #changeProtection(mm: Mm, start: Vpn, end: Vpn, flags: number, before: number): void {
    const { notifiers, pageTable, hugePmd, breaks } = this.#deps;
    const taken = (before & ~flags & (VmFlag.Read | VmFlag.Write)) !== 0 && !breaks.rangeWithoutNotify;
    const readable = (flags & (VmFlag.Read | VmFlag.Write)) !== 0;
    const set = readable ? 0 : Pte.ProtNone;
    const clear = ((flags & VmFlag.Write) === 0 ? Pte.Write : 0) | (readable ? Pte.ProtNone : 0);
    if (taken) notifiers.start(mm, start, end, NotifyEvent.ProtectionVma, NotifyFlag.Blockable);
    for (let vpn = start; vpn < end; ) {
      const stop = Math.min(end, nextTable(vpn));
      const first = pageTable.walk(mm, vpn);
      // Whole: a VMA ends inside no huge page.
      if (first === HUGE && !hugePmd.change(pageTable.pmd(mm, vpn), set, clear)) continue;
      if (first > 0) this.#changeTable(first, stop - vpn, set, clear);
      vpn = stop;
    }
    if (taken) notifiers.end(mm, start, end, NotifyEvent.ProtectionVma);
  }

  #changeTable(first: number, count: number, set: number, clear: number): void {
    const { pageTable, pages, sync } = this.#deps;
    pageTable.lock(first);
    sync.y('M.0');
    for (let pte = first; pte < first + count; pte++) {
      const entry = pageTable.load(pte);
      if (!pteIsPresent(entry)) continue;
      pageTable.change(pte, set, clear);
      if ((entry & clear & Pte.Write) !== 0) pages.settle(ptePfn(entry));
    }
    sync.y('M.k');
    pageTable.unlock(first);
  }

  /** The VMA that contains an address, or 0. Requires: mmap. */
  find(mm: Mm, address: Hva): Vma {
    return this.#deps.vmas.find(mm, pageNumber(address));
  }

  #write<T>(mm: Mm, call: string, work: () => T): T {
    const { sync, layout, uffdEvents } = this.#deps;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      if (layout.mm.users.load(mm) === 0) throw new Errno('ESRCH', call, 'the address space has exited');
      return work();
    } finally {
      sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
      uffdEvents.settle();
    }
  }
}

function protectionFlags({ read, write, exec }: Protection = { read: true, write: true }): number {
  return (read ? VmFlag.Read : 0) | (write ? VmFlag.Write : 0) | (exec ? VmFlag.Exec : 0);
}

/** Private memory that can be written counts for overcommit, and does so until it is unwritten and untouched. */
function accounted(flags: number): number {
  const { Write, Shared, NoReserve, Account } = VmFlag;
  return (flags & (Write | Shared | NoReserve)) === Write ? flags | Account : flags;
}

/** Page numbers of a byte range; EINVAL unless it is aligned and inside the address space. */
export function range(call: string, address: Hva, bytes: number): { start: Vpn; end: Vpn } {
  const start = pageNumber(address);
  const end = start + pagesOf(bytes);
  if (!isPageAligned(address) || !(bytes >= 0) || start < 0 || end > VPN_MAX)
    throw new Errno('EINVAL', call, 'not a range of pages');
  return { start, end };
}
