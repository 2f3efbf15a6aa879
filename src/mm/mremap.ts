import { Errno } from '../base/errno.ts';
import { type Hva, isPageAligned, PAGE_SIZE, pageNumber, pagesOf, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import { type MmLayout, Pte, pteIsPresent, ptePfn, VmFlag, withoutUffdWp } from './layout.ts';
import type { MlockPages } from './mlock-page.ts';
import type { Mmap } from './mmap.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, TABLE_PAGES, VPN_MAX } from './page-table.ts';
import type { Shmem } from './shmem.ts';
import type { UffdEvents } from './userfaultfd/events.ts';
import type { Ticket } from './userfaultfd/queues.ts';
import { MAX_VMAS, type Vmas } from './vma.ts';
import type { VmaEdit } from './vma-edit.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type MremapOptions = {
  /** MREMAP_MAYMOVE. */
  mayMove?: boolean;
  /** MREMAP_FIXED: the address it moves to, whatever is mapped there. Byte address. */
  to?: Hva;
  /** MREMAP_DONTUNMAP: the old range stays mapped, and empty. */
  keep?: boolean;
};

export type MremapDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly anonVmas: AnonVmas;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly notifiers: MmuNotifiers;
  readonly mmap: Mmap;
  readonly hugePmd: HugePmd;
  readonly uffdEvents: UffdEvents;
  readonly mlockPages: MlockPages;
  readonly shmem: Shmem;
  readonly breaks: MmBreaks;
  /** Touches every page of a range (mlock.ts). */
  readonly populate: (mm: Mm, start: Vpn, end: Vpn) => void;
};

/** Where a mapping may be put that has to move; as mmap does. */
const MMAP_BASE: Vpn = 1 << 16;
/** VMAs that a move may need beyond those there are. */
const SPARE_VMAS = 4;

/**
 * Makes a mapping longer or shorter, or moves it with its pages (mremap). A page keeps its index and its
 * anon_vma: the new VMA is tied to all anon_vmas of the old one. Linux: mm/mremap.c.
 */
export class Mremap {
  readonly #deps: MremapDeps;

  constructor(deps: MremapDeps) {
    this.#deps = deps;
  }

  /**
   * Returns where the mapping is then. Throws, in Linux's order: EINVAL for options that contradict one
   * another, an unaligned address, no new length, a target outside the address space or over the old range;
   * EFAULT when no mapping is there; EINVAL without an old length, unless it is shared memory, of which that makes
   * another view; EFAULT when the range leaves its mapping;
   * ENOMEM when there is no room or no memory. All but lack of memory is found before anything changes.
   */
  remap(mm: Mm, address: Hva, oldBytes: number, newBytes: number, options: MremapOptions = {}): Hva {
    const { sync, layout, uffdEvents } = this.#deps;
    const [old, pages] = [pagesOf(oldBytes), pagesOf(newBytes)];
    const { mayMove = false, to, keep = false } = options;
    if ((to !== undefined || keep) && !mayMove) refuse('EINVAL', 'may not move');
    if (keep && old !== pages) refuse('EINVAL', 'what stays mapped keeps its length');
    if (!isPageAligned(address)) refuse('EINVAL', 'unaligned address');
    if (!(oldBytes >= 0) || !(newBytes > 0)) refuse('EINVAL', 'no length');
    const from = pageNumber(address);
    if (to !== undefined) this.#checkTarget(from, old, pages, to);
    let [at, locked] = [0, false];
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      at = this.#remap(mm, from, old, pages, options);
      locked = (layout.vma.flags.get(this.#deps.vmas.find(mm, at)) & VmFlag.Locked) !== 0;
    } finally {
      sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
      uffdEvents.settle();
    }
    if (locked && pages > old) this.#deps.populate(mm, at + old, at + pages);
    return at * PAGE_SIZE;
  }

  #remap(mm: Mm, from: Vpn, old: number, pages: number, { mayMove, to, keep }: MremapOptions): Vpn {
    const { vmas, mmap, layout } = this.#deps;
    if (layout.mm.users.load(mm) === 0 || vmas.find(mm, from) === 0) refuse('EFAULT', 'not mapped');
    if (to !== undefined || keep) return this.#moveTo(mm, from, old, pages, to, keep === true);
    if (old >= pages) {
      if (old > pages) mmap.unmapRange(mm, from + pages, from + old, 'mremap');
      return from;
    }
    const vma = this.#resizable(mm, from, old, pages, false);
    if (this.#growsInPlace(mm, vma, from, old, pages)) return from;
    if (!mayMove) refuse('ENOMEM', 'no room to grow');
    return this.#move(mm, from, old, pages, this.#gap(mm, pages), false);
  }

  /** FIXED or DONTUNMAP. */
  #moveTo(mm: Mm, from: Vpn, old: number, pages: number, to: Hva | undefined, keep: boolean): Vpn {
    const { mmap, vmas } = this.#deps;
    const moving = Math.min(old, pages);
    this.#resizable(mm, from, moving, pages, keep);
    if (vmas.count(mm) + SPARE_VMAS > MAX_VMAS) refuse('ENOMEM', 'too many mappings');
    if (to !== undefined) mmap.unmapRange(mm, pageNumber(to), pageNumber(to) + pages, 'mremap');
    // A range without length may begin where the target does.
    if (vmas.find(mm, from) === 0) refuse('EFAULT', 'not mapped any more');
    if (old > pages) mmap.unmapRange(mm, from + pages, from + old, 'mremap');
    const at = to === undefined ? this.#gap(mm, pages) : pageNumber(to);
    return this.#move(mm, from, moving, pages, at, keep);
  }

  #checkTarget(from: Vpn, old: number, pages: number, to: Hva): void {
    const at = pageNumber(to);
    if (!isPageAligned(to) || at < 0 || at + pages > VPN_MAX) refuse('EINVAL', 'not a target');
    if (from + old > at && at + pages > from) refuse('EINVAL', 'onto itself');
  }

  /** The VMA of the old range, if it may have the new length. Linux: vma_to_resize. */
  #resizable(mm: Mm, from: Vpn, old: number, pages: number, keep: boolean): Vma {
    const { vmas, layout } = this.#deps;
    const vma = vmas.find(mm, from);
    if (vma === 0) refuse('EFAULT', 'not mapped');
    const special = (layout.vma.flags.get(vma) & (VmFlag.DontExpand | VmFlag.PfnMap)) !== 0;
    if (old === 0 && layout.vma.ops.get(vma) === 0) refuse('EINVAL', 'no old length');
    if (keep && special) refuse('EINVAL', 'special memory');
    if (from + old > layout.vma.end.get(vma)) refuse('EFAULT', 'the range leaves its mapping');
    if (pages > old && special) refuse('EFAULT', 'special memory');
    return vma;
  }

  #growsInPlace(mm: Mm, vma: Vma, from: Vpn, old: number, pages: number): boolean {
    const { vmas, layout, edit } = this.#deps;
    if (layout.vma.end.get(vma) !== from + old || from + pages > VPN_MAX) return false;
    const next = vmas.indexOf(mm, from + old);
    if (next < vmas.count(mm) && layout.vma.start.get(vmas.at(mm, next)) < from + pages) return false;
    edit.grow(mm, vma, from + pages);
    return true;
  }

  #gap(mm: Mm, pages: number): Vpn {
    const align = pages >= TABLE_PAGES ? TABLE_PAGES : 1;
    const at = this.#deps.vmas.findGap(mm, pages, MMAP_BASE, align);
    if (at < 0) refuse('ENOMEM', 'no room in the address space');
    return at;
  }

  /** Without an old length: another view of the inode, from the page on that the old range begins with. */
  #duplicate(mm: Mm, from: Vpn, pages: number, to: Vpn): Vpn {
    const { edit, layout, vmas, shmem, uffdEvents } = this.#deps;
    const source = vmas.find(mm, from);
    const ctx = layout.vma.uffd.get(source);
    const view = edit.place(mm, source, to, to + pages, shmem.indexOf(source, from), 'mremap');
    let event = 0 as Ticket;
    try {
      event = uffdEvents.remapping(view);
    } catch (error) {
      this.#remove(mm, to);
      throw error;
    }
    edit.mergeAt(mm, to + pages);
    edit.mergeAt(mm, to);
    uffdEvents.remapped(ctx, event, from, to, 0, false);
    return to;
  }

  /** All that can fail comes before the first page moves. */
  #move(mm: Mm, from: Vpn, old: number, pages: number, to: Vpn, keep: boolean): Vpn {
    const { edit, layout, vmas, uffdEvents } = this.#deps;
    if (old === 0) return this.#duplicate(mm, from, pages, to);
    const whole = this.#isWhole(mm, from, old);
    edit.splitAt(mm, from, 'mremap');
    const ctx = layout.vma.uffd.get(vmas.find(mm, from));
    let event = 0 as Ticket;
    try {
      edit.splitAt(mm, from + old, 'mremap');
      const source = vmas.find(mm, from);
      const pgoff = layout.vma.anonVma.load(source) === 0 ? to : layout.vma.pgoff.get(source);
      const moved = edit.place(mm, source, to, to + pages, pgoff, 'mremap');
      this.#makeTables(mm, from, to, old);
      event = uffdEvents.remapping(moved);
      this.#movePages(mm, source, moved, from, to, old);
    } catch (error) {
      this.#undo(mm, from, old, to);
      throw error;
    }
    if (keep) this.#emptied(mm, from, old, whole);
    else this.#remove(mm, from);
    edit.mergeAt(mm, to + pages);
    edit.mergeAt(mm, to);
    if (keep) this.#unlock(mm, from);
    uffdEvents.remapped(ctx, event, from, to, old, !keep);
    return to;
  }

  #undo(mm: Mm, from: Vpn, old: number, to: Vpn): void {
    if (this.#deps.vmas.find(mm, to) !== 0) this.#remove(mm, to);
    this.#mergeBack(mm, from, old);
  }

  #mergeBack(mm: Mm, from: Vpn, old: number): void {
    this.#deps.edit.mergeAt(mm, from + old);
    this.#deps.edit.mergeAt(mm, from);
  }

  #remove(mm: Mm, vpn: Vpn): void {
    const { mmap, vmas } = this.#deps;
    const index = vmas.indexOf(mm, vpn);
    mmap.removeVmas(mm, index, index + 1);
  }

  #isWhole(mm: Mm, from: Vpn, pages: number): boolean {
    const { layout, vmas } = this.#deps;
    const vma = vmas.find(mm, from);
    return layout.vma.start.get(vma) === from && layout.vma.end.get(vma) === from + pages;
  }

  /**
   * An old range that stays has nothing in it that a walk of the reverse map could look for. A part of a
   * mapping keeps its anon_vma all the same, or it could not become one with the rest again.
   */
  #emptied(mm: Mm, from: Vpn, old: number, whole: boolean): void {
    const { layout, anonVmas, vmas } = this.#deps;
    const vma = vmas.find(mm, from);
    if (whole && layout.vma.ops.get(vma) === 0) anonVmas.unlink(vma);
    if (!whole) this.#mergeBack(mm, from, old);
  }

  /**
   * The lock goes with the pages; what stays has none. As in Linux it is all of the mapping that loses it, what did
   * not move and what the new range has merged with included, and it is not merged again after that.
   */
  #unlock(mm: Mm, from: Vpn): void {
    const { layout, vmas, mlockPages } = this.#deps;
    const vma = vmas.find(mm, from);
    const flags = layout.vma.flags.get(vma);
    if ((flags & VmFlag.Locked) === 0) return;
    vmas.setFlags(vma, flags & ~(VmFlag.Locked | VmFlag.LockOnFault), vmas.flagsHigh(vma));
    mlockPages.range(mm, layout.vma.start.get(vma), layout.vma.end.get(vma), false);
  }

  /** Throws ENOMEM; tables that were made are the caller's to take away. */
  #makeTables(mm: Mm, from: Vpn, to: Vpn, pages: number): void {
    const { pageTable, hugePmd } = this.#deps;
    for (let i = 0; i < pages; i = nextRun(from, to, i)) {
      if (this.#movesWhole(mm, from + i, to + i, pages - i)) {
        if (pageTable.allocPmd(mm, to + i) === 0) refuse('ENOMEM', 'no frame for a page table');
        continue;
      }
      // Nothing turns huge again while mmap is held for writing.
      if (pageTable.walk(mm, from + i) === HUGE) hugePmd.split(mm, from + i);
      if (pageTable.walk(mm, from + i) === 0) continue;
      if (pageTable.alloc(mm, to + i) === 0) refuse('ENOMEM', 'no frame for a page table');
    }
  }

  /** A huge page that moves to where one fits, and nothing is in the way. */
  #movesWhole(mm: Mm, from: Vpn, to: Vpn, pages: number): boolean {
    const { pageTable } = this.#deps;
    if (from % TABLE_PAGES !== 0 || to % TABLE_PAGES !== 0 || pages < TABLE_PAGES) return false;
    return pageTable.walk(mm, from) === HUGE && pageTable.walk(mm, to) === 0;
  }

  /** Secondaries hear of the old range alone: at the new one nothing was mapped (C-15). */
  #movePages(mm: Mm, source: Vma, moved: Vma, from: Vpn, to: Vpn, pages: number): void {
    const { pageTable, notifiers, layout, breaks } = this.#deps;
    const keepsWp = (layout.vma.flags.get(moved) & VmFlag.UffdWp) !== 0;
    const event = NotifyEvent.Unmap;
    if (!breaks.moveWithoutBracket) notifiers.start(mm, from, from + pages, event, NotifyFlag.Blockable);
    for (let i = 0; i < pages; ) {
      const stop = Math.min(pages, nextRun(from, to, i));
      const first = pageTable.walk(mm, from + i);
      if (first === HUGE) this.#moveHuge(mm, source, from + i, to + i, keepsWp);
      else if (first !== 0) this.#moveRun(source, first, pageTable.walk(mm, to + i), stop - i, keepsWp);
      i = stop;
    }
    if (!breaks.moveWithoutBracket) notifiers.end(mm, from, from + pages, event);
  }

  /** As #moveRun, for the middle entry and the table that is kept with it. Linux: move_huge_pmd. */
  #moveHuge(mm: Mm, source: Vma, from: Vpn, to: Vpn, keepsWp: boolean): void {
    const { pageTable, pages, anonVmas, layout, sync } = this.#deps;
    const [old, into] = [pageTable.pmd(mm, from), pageTable.pmd(mm, to)];
    const anonVma = layout.vma.anonVma.load(source);
    if (anonVma !== 0) anonVmas.lock(anonVma);
    pageTable.lockTwo(old, into);
    sync.y('M.0');
    const entry = pageTable.held(old);
    const table = pageTable.clearHuge(old);
    if ((entry & Pte.Write) !== 0) for (let i = 0; i < TABLE_PAGES; i++) pages.settle(ptePfn(entry) + i);
    pageTable.fillHuge(into, keepsWp ? entry : entry & ~Pte.UffdWp, table);
    sync.y('M.k');
    pageTable.unlockTwo(old, into);
    if (anonVma !== 0) anonVmas.unlock(anonVma);
  }

  /** Walks of the reverse map are shut out, or one might look at the new place before and the old one after. */
  #moveRun(source: Vma, from: number, to: number, count: number, keepsWp: boolean): void {
    const { pageTable, pages, anonVmas, layout, sync } = this.#deps;
    const anonVma = layout.vma.anonVma.load(source);
    if (anonVma !== 0) anonVmas.lock(anonVma);
    pageTable.lockTwo(from, to);
    sync.y('M.0');
    for (let i = 0; i < count; i++) {
      if (pageTable.held(from + i) === 0) continue;
      const entry = pageTable.clear(from + i);
      if (pteIsPresent(entry) && (entry & Pte.Write) !== 0) pages.settle(ptePfn(entry));
      const kept = keepsWp ? entry : withoutUffdWp(entry);
      if (kept !== 0) pageTable.fill(to + i, kept);
    }
    sync.y('M.k');
    pageTable.unlockTwo(from, to);
    if (anonVma !== 0) anonVmas.unlock(anonVma);
  }
}

/** First page from which either side needs another table. */
function nextRun(from: Vpn, to: Vpn, done: number): number {
  return Math.min(nextTable(from + done) - from, nextTable(to + done) - to);
}

function refuse(code: 'EINVAL' | 'EFAULT' | 'ENOMEM', detail: string): never {
  throw new Errno(code, 'mremap', detail);
}
