import { Errno } from '../base/errno.ts';
import { type Hva, isPageAligned, type Pfn, pageNumber, pagesOf, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmBreaks } from './breaks.ts';
import { FaultFlag, GUP_HWPOISON, GUP_NOMEM, GUP_PFN_MASK } from './fault-codes.ts';
import type { Gup } from './gup.ts';
import type { HugeAdvice } from './huge/huge-advice.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import type { Ksm } from './ksm/ksm.ts';
import { KSM_INCOMPATIBLE } from './ksm/ksm-merge.ts';
import {
  isSwap,
  type MmLayout,
  PageFlag,
  Pte,
  pmdIsHuge,
  pteIsPresent,
  ptePfn,
  SwpType,
  swpOffset,
  swpType,
  VmFlag,
  VmFlagHigh,
} from './layout.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, type PteAt, TABLE_PAGES, VPN_MAX } from './page-table.ts';
import type { Lru } from './reclaim/lru.ts';
import type { Shmem } from './shmem.ts';
import type { Swap } from './swap/swap.ts';
import type { UffdEvents } from './userfaultfd/events.ts';
import type { Vmas } from './vma.ts';
import type { VmaEdit } from './vma-edit.ts';
import type { Vmstat } from './vmstat.ts';
import type { Zap } from './zap.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** Advice by name; the numbers of each ABI are the facade's business. */
export const ADVICE = [
  'normal',
  'willneed',
  'dontneed',
  'free',
  'remove',
  'cold',
  'pageout',
  'populate-read',
  'populate-write',
  'dontfork',
  'dofork',
  'dontdump',
  'dodump',
  'mergeable',
  'unmergeable',
  'hugepage',
  'nohugepage',
  'userfault',
  'nouserfault',
  'collapse',
] as const;
export type Advice = (typeof ADVICE)[number];

type FlagChange = { set: number; clear: number; setHigh?: number; clearHigh?: number; anonymous?: boolean };
const FLAG_ADVICE: Partial<Record<Advice, FlagChange>> = {
  dontfork: { set: VmFlag.DontCopy, clear: 0 },
  dofork: { set: 0, clear: VmFlag.DontCopy },
  dontdump: { set: VmFlag.DontDump, clear: 0 },
  dodump: { set: 0, clear: VmFlag.DontDump },
  mergeable: { set: VmFlag.Mergeable, clear: 0 },
  unmergeable: { set: 0, clear: VmFlag.Mergeable },
  hugepage: { set: VmFlag.HugePage, clear: VmFlag.NoHugePage },
  nohugepage: { set: VmFlag.NoHugePage, clear: VmFlag.HugePage },
  userfault: { set: 0, clear: 0, setHigh: VmFlagHigh.UserFault, anonymous: true },
  nouserfault: { set: 0, clear: 0, clearHigh: VmFlagHigh.UserFault, anonymous: true },
};

export type MadviseDeps = {
  readonly breaks: MmBreaks;
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly zap: Zap;
  readonly gup: Gup;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly notifiers: MmuNotifiers;
  readonly swap: Swap;
  readonly shmem: Shmem;
  readonly lru: Lru;
  readonly vmstat: Vmstat;
  readonly hugePmd: HugePmd;
  readonly hugeAdvice: HugeAdvice;
  readonly uffdEvents: UffdEvents;
  readonly ksm: Ksm;
  /** Takes given isolated pages, at most 32 (vmscan.ts). */
  readonly reclaimPages: (pfns: Int32Array, count: number) => number;
};

const BATCH = 32;

/** What a program tells of its memory. Linux: mm/madvise.c. */
export class Madvise {
  readonly #deps: MadviseDeps;
  readonly #pfns = new Int32Array(BATCH);

  constructor(deps: MadviseDeps) {
    this.#deps = deps;
  }

  /**
   * Throws, in this order (U-3): EINVAL for advice that isn't, an unaligned address, a length that isn't;
   * EINVAL from a VMA, earlier ones staying changed; EAGAIN when a VMA can't be split; ENOMEM when there
   * were gaps, everything mapped being done. From populate: EINVAL where the rights forbid it, EFAULT where a
   * user fault would have to be asked for, EHWPOISON, ENOMEM.
   */
  advise(mm: Mm, address: Hva, bytes: number, advice: Advice): void {
    if (!ADVICE.includes(advice)) throw new Errno('EINVAL', 'madvise', 'unknown advice');
    if (!isPageAligned(address)) throw new Errno('EINVAL', 'madvise', 'unaligned address');
    const start = pageNumber(address);
    const end = start + pagesOf(bytes);
    if (!(bytes >= 0) || start < 0 || end > VPN_MAX) throw new Errno('EINVAL', 'madvise', 'not a range');
    if (start === end) return;
    if (advice === 'populate-read' || advice === 'populate-write') {
      this.#populate(mm, start, end, advice === 'populate-write');
      return;
    }
    if (advice === 'collapse') {
      if (this.#deps.hugeAdvice.collapse(mm, start, end))
        throw new Errno('ENOMEM', 'madvise', 'a gap in the range');
      return;
    }
    const gaps =
      FLAG_ADVICE[advice] !== undefined
        ? this.#flags(mm, start, end, advice)
        : this.#pages(mm, start, end, advice);
    if (gaps) throw new Errno('ENOMEM', 'madvise', 'a gap in the range');
  }

  #flags(mm: Mm, start: Vpn, end: Vpn, advice: Advice): boolean {
    const { sync, layout } = this.#deps;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      return this.#walk(mm, start, end, (vma, from, to) => this.#setFlags(mm, vma, from, to, advice));
    } finally {
      sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    }
  }

  #pages(mm: Mm, start: Vpn, end: Vpn, advice: Advice): boolean {
    const { sync, layout } = this.#deps;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      return this.#walk(mm, start, end, (vma, from, to) => this.#pageAdvice(mm, vma, from, to, advice));
    } finally {
      sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    }
  }

  /** Calls `work` for the mapped parts of a range, which says how far it came; true if there were gaps. */
  #walk(mm: Mm, start: Vpn, end: Vpn, work: (vma: Vma, from: Vpn, to: Vpn) => Vpn): boolean {
    const { vmas, layout } = this.#deps;
    let gaps = false;
    for (let vpn = start; vpn < end; ) {
      const index = vmas.indexOf(mm, vpn);
      const vma = index === vmas.count(mm) ? (0 as Vma) : vmas.at(mm, index);
      const from = vma === 0 ? end : Math.max(vpn, layout.vma.start.get(vma));
      gaps ||= from > vpn;
      if (gaps && this.#deps.breaks.madviseStopsAtGap) break;
      if (from >= end) break;
      vpn = work(vma, from, Math.min(end, layout.vma.end.get(vma)));
    }
    return gaps;
  }

  #setFlags(mm: Mm, vma: Vma, start: Vpn, end: Vpn, advice: Advice): Vpn {
    const { vmas, edit, layout } = this.#deps;
    const change = FLAG_ADVICE[advice] as FlagChange;
    if (change.anonymous && layout.vma.ops.get(vma) !== 0)
      throw new Errno('EINVAL', 'madvise', 'not anonymous memory');
    const old = vmas.flags(vma);
    const lo = (old.lo & ~change.clear) | change.set;
    const hi = (old.hi & ~(change.clearHigh ?? 0)) | (change.setHigh ?? 0);
    if (lo === old.lo && hi === old.hi) return end;
    if (((lo ^ old.lo) & VmFlag.Mergeable) !== 0) {
      if ((lo & KSM_INCOMPATIBLE) !== 0) return end;
      // What could not be unmerged for lack of memory may be tried again (U-3).
      if (advice === 'unmergeable' && !this.#deps.ksm.unmerge(mm, vma, start, end))
        throw new Errno('EAGAIN', 'madvise');
    }
    try {
      edit.setFlags(mm, start, end, lo, hi, 'madvise');
    } catch (error) {
      // ENOMEM always means a gap (U-3).
      throw error instanceof Errno && error.code === 'ENOMEM' ? new Errno('EAGAIN', 'madvise') : error;
    }
    return end;
  }

  /** How far it came: a manager may have to be asked, and the VMA be shorter afterwards (V-52). */
  #pageAdvice(mm: Mm, vma: Vma, start: Vpn, end: Vpn, advice: Advice): Vpn {
    const { layout, uffdEvents } = this.#deps;
    if (advice === 'normal' || advice === 'willneed') return end;
    this.#checkVma(vma, advice);
    if (advice === 'cold' || advice === 'pageout') {
      this.#collect(mm, start, end, advice);
      return end;
    }
    const ctx = uffdEvents.removing(mm, vma, start, end);
    try {
      if (ctx !== 0) {
        const again = this.#deps.vmas.find(mm, start);
        if (again === 0) throw new Errno('ENOMEM', 'madvise', 'unmapped meanwhile');
        this.#checkVma(again, advice);
        vma = again;
        end = Math.min(end, layout.vma.end.get(again));
      }
      this.#discard(mm, vma, start, end, advice);
    } finally {
      if (ctx !== 0) uffdEvents.removed(ctx);
    }
    return end;
  }

  #checkVma(vma: Vma, advice: Advice): void {
    const { layout } = this.#deps;
    if ((layout.vma.flags.get(vma) & (VmFlag.Locked | VmFlag.PfnMap)) !== 0)
      throw new Errno('EINVAL', 'madvise', 'locked memory');
    if (advice === 'free' && layout.vma.ops.get(vma) !== 0)
      throw new Errno('EINVAL', 'madvise', 'not anonymous memory');
    if (advice === 'remove') this.#checkRemove(vma);
  }

  #checkRemove(vma: Vma): void {
    const { layout } = this.#deps;
    // As of Linux 6.7: who may make it writable may punch holes.
    const needed = VmFlag.Shared | VmFlag.MayWrite;
    if (layout.vma.ops.get(vma) === 0) throw new Errno('EINVAL', 'madvise', 'anonymous memory');
    if ((layout.vma.flags.get(vma) & needed) !== needed)
      throw new Errno('EACCES', 'madvise', 'not shared, or never writable');
  }

  /** DONTNEED, FREE and REMOVE. Requires: the VMA that [start, end) lies in, looked up since mmap was last taken. */
  #discard(mm: Mm, vma: Vma, start: Vpn, end: Vpn, advice: Advice): void {
    const { notifiers, zap, layout, breaks } = this.#deps;
    const told = !breaks.rangeWithoutNotify;
    if (advice === 'remove') {
      this.#remove(vma, start, end);
      return;
    }
    if (told) notifiers.start(mm, start, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    if (advice === 'dontneed') zap.range(mm, start, end, layout.vma.ops.get(vma) !== 0);
    else {
      notifiers.unpinRange(mm, start, end, NotifyEvent.Clear);
      const free = (first: PteAt, count: number) => this.#freeTable(mm, first, count);
      this.#eachTable(mm, start, end, free, pmd => this.#deps.hugeAdvice.free(pmd));
    }
    if (told) notifiers.end(mm, start, end, NotifyEvent.Clear);
  }

  /** Holes in the inode, wherever it is mapped. */
  #remove(vma: Vma, start: Vpn, end: Vpn): void {
    const { shmem, layout } = this.#deps;
    shmem.removeRange(layout.vma.ops.get(vma), shmem.indexOf(vma, start), shmem.indexOf(vma, end));
  }

  /**
   * Calls `work` for the entries of each table. A huge page goes to `whole`, or is split where that is missing or the
   * range ends inside; but one that others map too is left alone, as is the zero page.
   */
  #eachTable(
    mm: Mm,
    start: Vpn,
    end: Vpn,
    work: (first: PteAt, count: number, vpn: Vpn) => void,
    whole?: (pmd: PteAt, vpn: Vpn) => void,
  ): void {
    const { pageTable, hugePmd, hugeAdvice } = this.#deps;
    for (let vpn = start; vpn < end; ) {
      const stop = Math.min(end, nextTable(vpn));
      const first = pageTable.walk(mm, vpn);
      if (first === HUGE) {
        const pmd = pageTable.pmd(mm, vpn);
        const entry = pageTable.load(pmd);
        if (!pmdIsHuge(entry)) continue;
        const ours = (entry & Pte.Zero) === 0 && !hugeAdvice.isShared(ptePfn(entry));
        if (ours && (whole === undefined || stop - vpn < TABLE_PAGES)) {
          // What is advised is said of pages: each goes its own way from here.
          hugePmd.split(mm, vpn);
          continue;
        }
        if (ours) whole?.(pmd, vpn);
      } else if (first !== 0) work(first, stop - vpn, vpn);
      vpn = stop;
    }
  }

  /** MADV_FREE of one table's entries: pages of our own may be dropped while they stay clean (M-32). */
  #freeTable(mm: Mm, first: PteAt, count: number): void {
    const { pageTable, swap, layout } = this.#deps;
    pageTable.lock(first);
    for (let pte = first; pte < first + count; pte++) {
      const entry = pageTable.load(pte);
      if (isSwap(entry)) {
        pageTable.clear(pte);
        layout.mm.swapEnts.add(mm, -1);
        swap.free(swpOffset(entry));
      } else if (swpType(entry) === SwpType.Poison) {
        pageTable.clear(pte); // lost content is given up like any other
      } else if (pteIsPresent(entry) && (entry & Pte.Zero) === 0) this.#freePage(pte, ptePfn(entry));
    }
    pageTable.unlock(first);
  }

  /** Requires: the ptl, the secondaries emptied, so that their dirty bits have come in. */
  #freePage(pte: PteAt, pfn: Pfn): void {
    const { pages, swap, pageTable, vmstat, layout } = this.#deps;
    const p = pages.at(pfn);
    // Shared, pinned or busy pages are left as they are.
    if (!pages.has(pfn, PageFlag.AnonExclusive) || !pages.tryLock(pfn)) return;
    if (pages.has(pfn, PageFlag.SwapCache)) swap.tryToFreeSwap(pfn);
    if (!pages.has(pfn, PageFlag.SwapCache) && layout.page.refcount.load(p) === 1) {
      pageTable.change(pte, 0, Pte.Dirty | Pte.Young);
      // A store begun before this is given up with the rest; one that comes later finds the entry clean (M-32).
      pages.settle(pfn);
      layout.page.flags.and(p, ~(PageFlag.Dirty | PageFlag.Referenced));
      pages.set(pfn, PageFlag.LazyFree);
      vmstat.add('pglazyfree', 1);
    }
    pages.unlock(pfn);
  }

  /** COLD and PAGEOUT: pages mapped here alone move to the cold end, or out, a batch at a time. */
  #collect(mm: Mm, start: Vpn, end: Vpn, advice: 'cold' | 'pageout'): void {
    const { notifiers, pages, lru } = this.#deps;
    lru.drainAll();
    let count = 0;
    const cold =
      advice === 'cold' ? (pmd: PteAt, vpn: Vpn) => this.#deps.hugeAdvice.cold(mm, pmd, vpn) : undefined;
    const each = (first: PteAt, entries: number, vpn: Vpn) => {
      for (let i = 0; i < entries; i++) {
        const pfn = this.#grab(first + i, advice === 'cold');
        if (pfn < 0) continue;
        if (advice === 'cold') {
          notifiers.clearYoung(mm, vpn + i, false);
          lru.deactivate(pfn);
        } else if (lru.isolatePage(pfn)) this.#pfns[count++] = pfn;
        // Isolation took a reference of its own.
        pages.put(pfn);
        if (count === BATCH) count = this.#reclaim(count);
      }
    };
    this.#eachTable(mm, start, end, each, cold);
    if (count > 0) this.#reclaim(count);
  }

  #reclaim(count: number): 0 {
    this.#deps.reclaimPages(this.#pfns, count);
    return 0;
  }

  /** The page that only this entry maps, with a reference; -1 for anything else. */
  #grab(pte: PteAt, age: boolean): Pfn | -1 {
    const { pageTable, pages } = this.#deps;
    if (!pteIsPresent(pageTable.load(pte))) return -1;
    pageTable.lock(pte);
    const entry = pageTable.load(pte);
    const mine = pteIsPresent(entry) && (entry & Pte.Zero) === 0 && pages.mapcount(ptePfn(entry)) === 1;
    if (mine) pages.get(ptePfn(entry));
    if (mine && age) pageTable.change(pte, 0, Pte.Young);
    pageTable.unlock(pte);
    return mine ? ptePfn(entry) : -1;
  }

  /** As if every page were touched. Stops at the first that can't be. */
  #populate(mm: Mm, start: Vpn, end: Vpn, write: boolean): void {
    const { gup, pages } = this.#deps;
    for (let vpn = start; vpn < end; vpn++) {
      const result = gup.faultWait(mm, vpn, write, FaultFlag.Kernel);
      if (result >= 0) pages.put(result & GUP_PFN_MASK);
      else this.#failed(mm, vpn, result, write);
    }
  }

  #failed(mm: Mm, vpn: Vpn, result: number, write: boolean): never {
    const { sync, layout, vmas } = this.#deps;
    if (result === GUP_NOMEM) throw new Errno('ENOMEM', 'madvise', 'out of memory');
    if (result === GUP_HWPOISON) throw new Errno('EHWPOISON', 'madvise');
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const vma = vmas.find(mm, vpn);
    const rights = vma === 0 ? 0 : layout.vma.flags.get(vma);
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (vma === 0) throw new Errno('ENOMEM', 'madvise', 'a gap in the range');
    const allowed = (rights & (write ? VmFlag.Write : VmFlag.Read | VmFlag.Write)) !== 0;
    throw allowed ? new Errno('EFAULT', 'madvise') : new Errno('EINVAL', 'madvise', 'not with these rights');
  }
}
