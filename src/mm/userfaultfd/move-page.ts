import { ERRNO } from '../../base/errno.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { AnonVmas } from '../anon-vma.ts';
import type { MmBreaks } from '../breaks.ts';
import type { HugePmd } from '../huge/huge-pmd.ts';
import {
  isSwap,
  type MmLayout,
  mkPte,
  PageFlag,
  Pte,
  ptePfn,
  Swp,
  SwpType,
  swpOffset,
  swpType,
  VmFlag,
} from '../layout.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import type { Pages } from '../page.ts';
import { HUGE, type PageTable, type PteAt } from '../page-table.ts';
import type { Swap } from '../swap/swap.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type MovePageDeps = {
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly anonVmas: AnonVmas;
  readonly notifiers: MmuNotifiers;
  readonly swap: Swap;
  readonly hugePmd: HugePmd;
  readonly breaks: MmBreaks;
  readonly y: (label: string) => void;
};

/** How a page is moved: which rows of table R-5 apply. */
export const MoveFlag = {
  /** A hole of the source counts as moved. */
  AllowHoles: 1 << 0,
  /** As UFFDIO_MOVE: the zero page moves, exclusive is what is marked so, a pin refuses (V-35, R-17). */
  Modern: 1 << 1,
} as const;

/** Beside the negative error numbers: what became of one page. */
export const MOVED = 0;
/** Something changed underfoot, or is about to: look at the same page again (R-5, row 9). */
export const AGAIN = 1;

const USE_BITS = Pte.Young | Pte.Dirty;
const ON_LRU = PageFlag.Lru | PageFlag.LruPending;

/**
 * Moves the entry of one page to another place of its address space (table R-5), the first row that matches:
 * what remap_anon_pages and UFFDIO_MOVE have in common. Linux: move_pages_ptes.
 */
export class MovePage {
  readonly #deps: MovePageDeps;
  // The page in hand, for the time of one call.
  #mm = 0 as Mm;
  #vma = 0 as Vma;
  #dst: Vpn = 0;
  #src: Vpn = 0;
  #to: PteAt = 0;
  #from: PteAt = 0;
  #entry = 0;
  #how = 0;

  constructor(deps: MovePageDeps) {
    this.#deps = deps;
  }

  /**
   * MOVED, AGAIN or a negative error number; with an error nothing has changed but that tables were made, of
   * the source only where holes are allowed, and a huge source was split. Requires: mmap for read,
   * the source begun at the notifiers, no lock from 'page' on; `vma`, the destination's, has an anon_vma. `how`
   * is of MoveFlag.
   */
  move(mm: Mm, vma: Vma, dst: Vpn, src: Vpn, how: number): number {
    const { pageTable, breaks, y } = this.#deps;
    this.#mm = mm;
    this.#vma = vma;
    this.#dst = dst;
    this.#src = src;
    this.#how = how;
    this.#to = pageTable.alloc(mm, dst);
    if (this.#to === 0) return -ERRNO.ENOMEM;
    if (this.#to === HUGE) return -ERRNO.EEXIST;
    this.#from = pageTable.walk(mm, src);
    // Where holes are allowed a fault or a collapse finds a table later, as in Linux.
    if (this.#from === 0 && (how & MoveFlag.AllowHoles) !== 0) {
      this.#from = pageTable.alloc(mm, src);
      if (this.#from === 0) return -ERRNO.ENOMEM;
    }
    // Before the destination is looked at, as in Linux.
    if (this.#from === HUGE) {
      this.#deps.hugePmd.split(mm, src);
      return AGAIN;
    }
    if (pageTable.load(this.#to) !== 0 && !breaks.moveOntoPages) return -ERRNO.EEXIST;
    this.#entry = this.#from === 0 ? 0 : pageTable.load(this.#from);
    y('V.c');
    if (this.#entry !== 0) return this.#found();
    return (how & MoveFlag.AllowHoles) !== 0 || breaks.moveSkipsHoles ? MOVED : -ERRNO.ENOENT;
  }

  #found(): number {
    const entry = this.#entry;
    if ((entry & Pte.Zero) !== 0 && (entry & Pte.Present) !== 0) return this.#zero();
    if ((entry & Pte.Present) !== 0) return this.#present(ptePfn(entry));
    if (isSwap(entry)) return this.#swapped();
    const migrates = swpType(entry) === SwpType.Migration && !this.#deps.breaks.moveFailsMigration;
    return migrates ? AGAIN : -ERRNO.EFAULT;
  }

  #present(pfn: Pfn): number {
    const { pages, y, breaks } = this.#deps;
    const pinned = this.#pin(pfn);
    if (pinned !== MOVED) return pinned;
    y('V.p');
    if (!breaks.moveWithoutPageLock) pages.lock(pfn);
    const result = this.#lockRest(pfn);
    if (!breaks.moveWithoutPageLock) pages.unlock(pfn);
    pages.put(pfn);
    return result;
  }

  /** Row 4 under the lock of the source; a reference then keeps the page while locks are taken. */
  #pin(pfn: Pfn): number {
    const { pageTable, pages } = this.#deps;
    pageTable.lock(this.#from);
    let result = AGAIN;
    if (this.#same()) result = this.isOurs(pfn, this.#how) ? MOVED : -ERRNO.EBUSY;
    if (result === MOVED) pages.get(pfn);
    pageTable.unlock(this.#from);
    return result;
  }

  /** Is the source what it was when we looked? Requires: its ptl. */
  #same(): boolean {
    return ((this.#deps.pageTable.held(this.#from) ^ this.#entry) & ~USE_BITS) === 0;
  }

  /** Row 4: anonymous, not merged, and nobody else's, by a mapping or by a swap entry. */
  isOurs(pfn: Pfn, how: number): boolean {
    const { layout, pages, swap, breaks } = this.#deps;
    const p = pages.at(pfn);
    const flags = layout.page.flags.load(p);
    if (breaks.moveShared) return true;
    if ((flags & (PageFlag.Ksm | PageFlag.Shmem)) !== 0) return false;
    if ((how & MoveFlag.Modern) !== 0) return (flags & PageFlag.AnonExclusive) !== 0;
    if (layout.page.mapcount.load(p) !== 1) return false;
    const slot = layout.page.swap.load(p) - 1;
    return slot < 0 || breaks.moveByMapcountAlone || swap.owners(slot) === 0;
  }

  /** In the order of M-10: the anon_vma, then both tables. Requires: the page locked. */
  #lockRest(pfn: Pfn): number {
    const { layout, pages, pageTable, anonVmas, y } = this.#deps;
    const anonVma = layout.page.mapping.load(pages.at(pfn));
    // Merged meanwhile, it names something else.
    if (anonVma === 0 || pages.has(pfn, PageFlag.Ksm)) return AGAIN;
    anonVmas.lock(anonVma);
    this.#lockTables();
    y('V.t');
    const result = this.#recheck(pfn);
    const moved = result === MOVED ? this.#commit(pfn) : result;
    pageTable.unlockTwo(this.#from, this.#to);
    anonVmas.unlock(anonVma);
    if (moved === MOVED) anonVmas.put(anonVma); // the page names another one now
    return moved;
  }

  #lockTables(): void {
    const { pageTable, breaks } = this.#deps;
    if (!breaks.moveLocksUnordered) pageTable.lockTwo(this.#from, this.#to);
    else {
      pageTable.lock(this.#from);
      pageTable.lock(this.#to);
    }
  }

  /** Row 9. Requires: both ptls. */
  #recheck(pfn: Pfn): number {
    const { pageTable, breaks } = this.#deps;
    if (breaks.moveWithoutRecheck) return MOVED;
    if (pageTable.held(this.#to) !== 0 || !this.#same()) return AGAIN;
    return this.isOurs(pfn, this.#how) ? MOVED : -ERRNO.EBUSY;
  }

  /**
   * Who looks a page up without locks takes a reference, then looks at the entry again; so with the
   * entry gone every pin that counts is seen. Requires: the page, its anon_vma and both ptls.
   */
  #commit(pfn: Pfn): number {
    const { pageTable, pages, notifiers, breaks, y } = this.#deps;
    const was = pageTable.clear(this.#from);
    y('I.P');
    // Pinning subscribers did not hear the start; their references are no pins (N-7).
    if (!breaks.moveWithoutBracket) notifiers.invalidatePage(this.#mm, this.#src);
    pages.settle(pfn);
    const refused = this.#refusedByPin(pfn);
    if (refused !== MOVED) {
      pageTable.fill(this.#from, was);
      return refused;
    }
    this.#adopt(pfn);
    if (breaks.moveCountsAgain) this.#deps.layout.mm.anonPages.add(this.#mm, 1);
    if (!pages.has(pfn, PageFlag.AnonExclusive)) pages.set(pfn, PageFlag.AnonExclusive);
    if (breaks.moveWithoutRecheck && pageTable.held(this.#to) !== 0) pageTable.clear(this.#to);
    pageTable.fill(this.#to, mkPte(pfn, this.#rights() | Pte.Young | Pte.Dirty));
    y('M.k');
    return MOVED;
  }

  /**
   * MOVE refuses a pinned page. remap_anon_pages moves it with its pin, unless the page is one that fork
   * shared: that pin may be another address space's [P]. A page that reclaim has in hand is looked at again.
   */
  #refusedByPin(pfn: Pfn): number {
    const { layout, pages, breaks } = this.#deps;
    const p = pages.at(pfn);
    const flags = layout.page.flags.load(p);
    if (breaks.moveShared) return MOVED;
    if ((this.#how & MoveFlag.Modern) === 0 && (flags & PageFlag.AnonExclusive) !== 0) return MOVED;
    // The mapping's, ours, and the swap cache's.
    const known = (flags & PageFlag.SwapCache) !== 0 ? 3 : 2;
    if (layout.page.refcount.load(p) <= known) return MOVED;
    return (flags & ON_LRU) === 0 ? AGAIN : -ERRNO.EBUSY;
  }

  /** The page becomes the destination's; what it named before is the caller's to put. Requires: page locked. */
  #adopt(pfn: Pfn): void {
    const { layout, pages, anonVmas } = this.#deps;
    const { vma: v, page } = layout;
    const anonVma = v.anonVma.load(this.#vma);
    anonVmas.get(anonVma);
    page.mapping.store(pages.at(pfn), anonVma);
    page.index.set(pages.at(pfn), v.pgoff.get(this.#vma) + this.#dst - v.start.get(this.#vma));
  }

  #rights(): number {
    const flags = this.#deps.layout.vma.flags.get(this.#vma);
    if ((flags & VmFlag.Write) !== 0) return Pte.Write;
    return (flags & VmFlag.Read) !== 0 ? 0 : Pte.ProtNone;
  }

  /** The zero page has nothing but its entry. */
  #zero(): number {
    const { pageTable, pages, notifiers, breaks } = this.#deps;
    if ((this.#how & MoveFlag.Modern) === 0 && !breaks.moveZero14) return -ERRNO.EBUSY;
    this.#lockTables();
    const same = pageTable.held(this.#to) === 0 && this.#same();
    if (same) {
      pageTable.clear(this.#from);
      notifiers.invalidatePage(this.#mm, this.#src);
      const rights = this.#rights() & Pte.ProtNone;
      pageTable.fill(this.#to, mkPte(pages.zeroPage, Pte.Zero | Pte.Young | rights));
    }
    pageTable.unlockTwo(this.#from, this.#to);
    return same ? MOVED : AGAIN;
  }

  /** A swap entry moves as it is, and a page that holds its content goes with it (R-12, B-24). */
  #swapped(): number {
    const { swap, pages, layout, y } = this.#deps;
    const slot = swpOffset(this.#entry);
    const cached = swap.lookupCache(slot);
    y('V.p');
    if (cached === 0) return this.#moveSwap(0);
    pages.lock(cached);
    let result: number = AGAIN;
    if (layout.page.swap.load(pages.at(cached)) === slot + 1)
      result = pages.has(cached, PageFlag.Ksm) ? -ERRNO.EBUSY : this.#moveSwap(cached);
    if (result === MOVED) this.#rekey(cached);
    pages.unlock(cached);
    pages.put(cached);
    return result;
  }

  /** A page that was read and not mapped yet names nothing, and is adopted where it will be. */
  #rekey(cached: Pfn): void {
    const { layout, pages, anonVmas, breaks } = this.#deps;
    const named = layout.page.mapping.load(pages.at(cached));
    if (named === 0 || breaks.moveSwapWithoutRekey) return;
    // A merged page names a node, and is copied when it comes back.
    if (pages.has(cached, PageFlag.Ksm)) return;
    this.#adopt(cached);
    anonVmas.put(named);
  }

  /** Requires: the page of the slot locked, if it has one. */
  #moveSwap(cached: Pfn | 0): number {
    const { pageTable, layout, y } = this.#deps;
    this.#lockTables();
    y('V.t');
    const result = this.#recheckSwap(cached);
    if (result === MOVED) {
      pageTable.clear(this.#from);
      const keepsWp = (layout.vma.flags.get(this.#vma) & VmFlag.UffdWp) !== 0;
      pageTable.fill(this.#to, keepsWp ? this.#entry : this.#entry & ~Swp.UffdWp);
      y('M.k');
    }
    pageTable.unlockTwo(this.#from, this.#to);
    return result;
  }

  /**
   * Row 5. A page that came into the cache since we looked may be this entry's, swapped out again: it must be
   * locked first. One that is mapped is somebody else's, who read the slot before us [P].
   */
  #recheckSwap(cached: Pfn | 0): number {
    const { pageTable, swap, pages, breaks } = this.#deps;
    const entry = this.#entry;
    const slot = swpOffset(entry);
    if (breaks.moveSwapStale && swap.count(slot) !== 1) return -ERRNO.EBUSY;
    if (pageTable.held(this.#to) !== 0 || pageTable.held(this.#from) !== entry) return AGAIN;
    if (swap.cachedPage(slot) !== cached) return AGAIN;
    if ((this.#how & MoveFlag.Modern) !== 0) return (entry & Swp.Exclusive) !== 0 ? MOVED : -ERRNO.EBUSY;
    const shared = swap.owners(slot) !== 1 || (cached !== 0 && pages.mapcount(cached) !== 0);
    return shared ? -ERRNO.EBUSY : MOVED;
  }
}
