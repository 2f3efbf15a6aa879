import { ERRNO } from '../../base/errno.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { HugeMove } from '../huge/huge-move.ts';
import { PageFlag, Pte, pmdIsHuge, ptePfn, VmFlag } from '../layout.ts';
import { NotifyEvent } from '../mmu-notifier-ops.ts';
import { HUGE_FRAMES } from '../page-alloc.ts';
import type { PteAt } from '../page-table.ts';
import { AGAIN, MOVED, MoveFlag, type MovePage, type MovePageDeps } from './move-page.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** The source moves page by page: it is no huge page, or the destination has a table. */
export const SMALL = 2;

const USE_BITS = Pte.Young | Pte.Dirty;
const ON_LRU = PageFlag.Lru | PageFlag.LruPending;

export type MoveHugeDeps = MovePageDeps & { readonly hugeMove: HugeMove };

/** Moves a huge page whole, with the table kept for it. Linux: move_pages_huge_pmd. */
export class MoveHuge {
  readonly #deps: MoveHugeDeps;
  readonly #page: MovePage;

  constructor(deps: MoveHugeDeps, page: MovePage) {
    this.#deps = deps;
    this.#page = page;
  }

  /**
   * As MovePage.move for the 512 pages from `dst` and `src` on, both 2 MiB aligned, or SMALL with nothing done.
   * Requires: as there, and the whole 2 MiB of the source begun at the notifiers (N-16).
   */
  move(mm: Mm, vma: Vma, dst: Vpn, src: Vpn, how: number): number {
    const { pageTable, layout } = this.#deps;
    const from = pageTable.pmd(mm, src);
    const entry = from === 0 ? 0 : pageTable.load(from);
    if (!pmdIsHuge(entry)) return SMALL;
    const to = pageTable.allocPmd(mm, dst);
    if (to === 0) return -ERRNO.ENOMEM;
    const there = pageTable.load(to);
    if (pmdIsHuge(there)) return -ERRNO.EEXIST;
    const readable = (layout.vma.flags.get(vma) & (VmFlag.Read | VmFlag.Write)) !== 0;
    if (there !== 0 || !readable || (entry & Pte.UffdWp) !== 0) return SMALL;
    if ((entry & Pte.Zero) !== 0) return this.#zero(to, from, entry, how);
    return this.#locked(mm, vma, to, dst, from, src, entry, how);
  }

  /** B-39: an answer, not an assertion. */
  #zero(to: PteAt, from: PteAt, entry: number, how: number): number {
    const { pageTable, y } = this.#deps;
    if ((how & MoveFlag.Modern) === 0) return -ERRNO.EBUSY;
    pageTable.lockTwo(from, to);
    const same = this.#same(to, from, entry);
    if (same) pageTable.fillHuge(to, entry, pageTable.clearHuge(from));
    y('M.k');
    pageTable.unlockTwo(from, to);
    return same ? MOVED : AGAIN;
  }

  #same(to: PteAt, from: PteAt, entry: number): boolean {
    const { pageTable } = this.#deps;
    return pageTable.held(to) === 0 && ((pageTable.held(from) ^ entry) & ~USE_BITS) === 0;
  }

  /** The locks of all 512 pages, as each changes its anon_vma; none is waited for while others are held. */
  #locked(mm: Mm, vma: Vma, to: PteAt, dst: Vpn, from: PteAt, src: Vpn, entry: number, how: number): number {
    const { hugeMove, pages, layout, anonVmas, pageTable, notifiers, y } = this.#deps;
    const first = ptePfn(entry);
    if (!hugeMove.lockPages(first)) return this.#deps.breaks.moveHugeGivesUp ? -ERRNO.EBUSY : AGAIN;
    const anonVma = layout.page.mapping.load(pages.at(first));
    if (anonVma === 0 || pages.has(first, PageFlag.Ksm)) {
      hugeMove.unlockPages(first);
      return AGAIN;
    }
    anonVmas.lock(anonVma);
    pageTable.lockTwo(from, to);
    y('V.t');
    // Pinning subscribers let go; what they take from here on they give back at the end.
    notifiers.unpinRange(mm, src, src + HUGE_FRAMES, NotifyEvent.Clear);
    const result = this.#same(to, from, entry) ? this.#judge(first, how) : AGAIN;
    if (result === MOVED) this.#commit(vma, to, dst, from, first);
    pageTable.unlockTwo(from, to);
    anonVmas.unlock(anonVma);
    hugeMove.unlockPages(first);
    return result;
  }

  #commit(vma: Vma, to: PteAt, dst: Vpn, from: PteAt, first: Pfn): void {
    const { hugeMove, layout, pages, y } = this.#deps;
    hugeMove.move(from, to, vma, dst, (layout.vma.flags.get(vma) & VmFlag.Write) !== 0);
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++)
      if (!pages.has(pfn, PageFlag.AnonExclusive)) pages.set(pfn, PageFlag.AnonExclusive);
    y('M.k');
  }

  /** Row 4 for each of the 512, and pins. Requires: the lock of the source. */
  #judge(first: Pfn, how: number): number {
    if (this.#deps.breaks.moveHugeUnjudged) return MOVED;
    for (let pfn = first; pfn < first + HUGE_FRAMES; pfn++) {
      if (!this.#page.isOurs(pfn, how)) return -ERRNO.EBUSY;
      const pinned = this.#refusedByPin(pfn, how);
      if (pinned !== MOVED) return pinned;
    }
    return MOVED;
  }

  #refusedByPin(pfn: Pfn, how: number): number {
    const { layout, pages } = this.#deps;
    const p = pages.at(pfn);
    const flags = layout.page.flags.load(p);
    if ((how & MoveFlag.Modern) === 0 && (flags & PageFlag.AnonExclusive) !== 0) return MOVED;
    const known = (flags & PageFlag.SwapCache) !== 0 ? 2 : 1;
    if (layout.page.refcount.load(p) <= known) return MOVED;
    return (flags & ON_LRU) === 0 ? AGAIN : -ERRNO.EBUSY;
  }
}
