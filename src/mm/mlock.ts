import { Errno } from '../base/errno.ts';
import { type Hva, isPageAligned, PAGE_SIZE, pageNumber, pagesOf, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import { FaultFlag, GUP_NOMEM, GUP_PFN_MASK } from './fault-codes.ts';
import type { Gup } from './gup.ts';
import { isSwap, type MmLayout, pteIsPresent, SwpType, swpOffset, swpType, VmFlag } from './layout.ts';
import type { MlockPages } from './mlock-page.ts';
import type { Pages } from './page.ts';
import { type PageTable, VPN_MAX } from './page-table.ts';
import type { Shmem } from './shmem.ts';
import type { Swap } from './swap/swap.ts';
import type { Vmas } from './vma.ts';
import type { VmaEdit } from './vma-edit.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** Flags of mlockall, by Linux's values. */
export const Mcl = { Current: 1, Future: 2, OnFault: 4 } as const;
const LOCK_FLAGS = VmFlag.Locked | VmFlag.LockOnFault;
/** VMAs that mlock passes over. Linux: VM_SPECIAL. */
const SPECIAL = VmFlag.Io | VmFlag.DontExpand | VmFlag.PfnMap;

export type MlockDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly gup: Gup;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly swap: Swap;
  readonly shmem: Shmem;
  readonly mlockPages: MlockPages;
};

/**
 * Memory that stays in memory: mlock and its family, and mincore, which tells. There is no RLIMIT_MEMLOCK: limits
 * are the group's (memcontrol.ts). Linux: mm/mlock.c, mm/mincore.c.
 */
export class Mlock {
  readonly #deps: MlockDeps;

  constructor(deps: MlockDeps) {
    this.#deps = deps;
  }

  /**
   * Locks every page that [address, address + bytes) touches, and brings it in unless `onFault` (mlock2). Throws
   * EINVAL for what is no range; ENOMEM at a gap, what is before it being locked and nothing brought in; then,
   * all being locked, ENOMEM where a page can't be had by right (a user fault that is SIGBUS among them, U-33)
   * and EAGAIN where there is no memory for it.
   */
  lock(mm: Mm, address: Hva, bytes: number, onFault = false): void {
    const { start, end } = covered('mlock', address, bytes);
    if (start === end) return;
    this.#apply(mm, start, end, VmFlag.Locked | (onFault ? VmFlag.LockOnFault : 0), 'mlock');
    if (!onFault) this.populate(mm, start, end);
  }

  /** Throws EINVAL, and ENOMEM at a gap. */
  unlock(mm: Mm, address: Hva, bytes: number): void {
    const { start, end } = covered('munlock', address, bytes);
    if (start < end) this.#apply(mm, start, end, 0, 'munlock');
  }

  /**
   * Locks all that is mapped (Current), all that will be (Future); with OnFault as it is touched. Throws EINVAL for
   * other flags, or OnFault alone. What can't be brought in is no error.
   */
  lockAll(mm: Mm, flags: number): void {
    const known = Mcl.Current | Mcl.Future | Mcl.OnFault;
    if ((flags & ~known) !== 0 || (flags & (Mcl.Current | Mcl.Future)) === 0)
      throw new Errno('EINVAL', 'mlockall', 'unknown flags');
    const lo = VmFlag.Locked | ((flags & Mcl.OnFault) !== 0 ? VmFlag.LockOnFault : 0);
    this.#all(mm, lo, (flags & Mcl.Current) !== 0, (flags & Mcl.Future) !== 0);
    if ((flags & (Mcl.Current | Mcl.OnFault)) === Mcl.Current) this.populateQuietly(mm, 0, VPN_MAX);
  }

  unlockAll(mm: Mm): void {
    this.#all(mm, 0, true, false);
  }

  #all(mm: Mm, lo: number, current: boolean, future: boolean): void {
    const { vmas, layout } = this.#deps;
    this.#write(mm, 'mlockall', () => {
      layout.mm.defFlags.set(mm, future ? lo : 0);
      if (!current) return;
      for (let i = vmas.count(mm) - 1; i >= 0; i--) {
        const vma = vmas.at(mm, i);
        this.#fixup(mm, vma, layout.vma.start.get(vma), layout.vma.end.get(vma), lo, 'mlockall');
        // Merging may have taken away those behind it.
        i = Math.min(i, vmas.count(mm));
      }
    });
  }

  #apply(mm: Mm, start: Vpn, end: Vpn, lo: number, call: string): void {
    const { vmas, layout } = this.#deps;
    this.#write(mm, call, () => {
      for (let vpn = start; vpn < end; ) {
        const vma = vmas.find(mm, vpn);
        if (vma === 0) throw new Errno('ENOMEM', call, 'a gap in the range');
        const stop = Math.min(end, layout.vma.end.get(vma));
        this.#fixup(mm, vma, vpn, stop, lo, call);
        vpn = stop;
      }
    });
  }

  /** Flags first, then the pages, each under the lock of its entry: so reclaim sees one or the other (C-16). */
  #fixup(mm: Mm, vma: Vma, start: Vpn, end: Vpn, lo: number, call: string): void {
    const { vmas, edit, mlockPages, sync } = this.#deps;
    const old = vmas.flags(vma);
    const flags = (old.lo & ~LOCK_FLAGS) | lo;
    if (flags === old.lo || (old.lo & SPECIAL) !== 0) return;
    edit.setFlags(mm, start, end, flags, old.hi, call);
    sync.y('L.f');
    if (((flags ^ old.lo) & VmFlag.Locked) !== 0) mlockPages.range(mm, start, end, lo !== 0);
    sync.y('L.p');
  }

  #write(mm: Mm, call: string, work: () => void): void {
    const { sync, layout } = this.#deps;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      if (layout.mm.users.load(mm) === 0) throw new Errno('ESRCH', call, 'the address space has exited');
      work();
    } finally {
      sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    }
  }

  /** Touches every page of a range that is mapped; write access where the mapping is private (Linux: __mm_populate). */
  populate(mm: Mm, start: Vpn, end: Vpn, how: number = FaultFlag.Kernel): void {
    const { gup, pages } = this.#deps;
    for (let vpn = start; vpn < end; vpn++) {
      const next = this.#nextMapped(mm, vpn);
      if (next.vpn >= end) return;
      vpn = next.vpn;
      if (next.skip) continue;
      const result = gup.faultWait(mm, vpn, next.write, how);
      if (result >= 0) pages.put(result & GUP_PFN_MASK);
      else throw new Errno(result === GUP_NOMEM ? 'EAGAIN' : 'ENOMEM', 'mlock', 'a page cannot be had');
    }
  }

  /** As `populate`, to the first page that can't be had (MAP_POPULATE, mlockall, mprotect). */
  populateQuietly(mm: Mm, start: Vpn, end: Vpn, how: number = FaultFlag.Kernel): void {
    try {
      this.populate(mm, start, end, how);
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
    }
  }

  /** The first mapped page from `vpn` on, and how to touch it; `skip`: not at all. */
  #nextMapped(mm: Mm, vpn: Vpn): { vpn: Vpn; write: boolean; skip: boolean } {
    const { sync, vmas, layout } = this.#deps;
    const lock = mm + layout.mm.mmapLock.at;
    sync.readLock('mmap', lock);
    const index = layout.mm.users.load(mm) === 0 ? vmas.count(mm) : vmas.indexOf(mm, vpn);
    const vma = index === vmas.count(mm) ? (0 as Vma) : vmas.at(mm, index);
    const flags = vma === 0 ? 0 : layout.vma.flags.get(vma);
    const at = vma === 0 ? VPN_MAX : Math.max(vpn, layout.vma.start.get(vma));
    sync.readUnlock('mmap', lock);
    const write = (flags & (VmFlag.Write | VmFlag.Shared)) === VmFlag.Write;
    return { vpn: at, write, skip: (flags & (VmFlag.LockOnFault | VmFlag.Io | VmFlag.PfnMap)) !== 0 };
  }

  /**
   * For each page of a range, 1 if touching it would cost no reading: present, or in a cache. Throws EINVAL for
   * an unaligned address, ENOMEM where nothing is mapped. Linux: mincore.
   */
  mincore(mm: Mm, address: Hva, bytes: number): Uint8Array {
    const { sync, layout, vmas } = this.#deps;
    if (!isPageAligned(address) || !(bytes >= 0)) throw new Errno('EINVAL', 'mincore', 'unaligned address');
    const start = pageNumber(address);
    const resident = new Uint8Array(pagesOf(bytes));
    const lock = mm + layout.mm.mmapLock.at;
    sync.readLock('mmap', lock);
    try {
      for (let i = 0; i < resident.length; i++) {
        const vma = start + i < VPN_MAX ? vmas.find(mm, start + i) : 0;
        if (vma === 0) throw new Errno('ENOMEM', 'mincore', 'a gap in the range');
        resident[i] = this.isResident(mm, vma, start + i) ? 1 : 0;
      }
    } finally {
      sync.readUnlock('mmap', lock);
    }
    return resident;
  }

  /** Present, on its way elsewhere, or in the cache of its inode or of swap. Requires: mmap. */
  isResident(mm: Mm, vma: Vma, vpn: Vpn): boolean {
    const { pageTable, pages, swap, shmem, layout } = this.#deps;
    const entry = pageTable.entryOf(mm, vpn);
    if (pteIsPresent(entry) || swpType(entry) === SwpType.Migration) return true;
    if (layout.vma.ops.get(vma) !== 0) return shmem.isCached(vma, vpn);
    const cached = isSwap(entry) ? swap.lookupCache(swpOffset(entry)) : 0;
    if (cached !== 0) pages.put(cached);
    return cached !== 0;
  }
}

/** The pages that a range of bytes touches; of no bytes, the page that the address is inside of. */
function covered(call: string, address: Hva, bytes: number): { start: Vpn; end: Vpn } {
  const start = Math.floor(address / PAGE_SIZE);
  const end = Math.ceil((address + bytes) / PAGE_SIZE);
  if (!(bytes >= 0) || start < 0 || end > VPN_MAX) throw new Errno('EINVAL', call, 'not a range');
  return { start, end };
}
