import { ERRNO } from '../../base/errno.ts';
import { type Hva, PAGE_SIZE, pageNumber, type Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { HugePmd } from '../huge/huge-pmd.ts';
import {
  isSwap,
  type MmLayout,
  PageFlag,
  PTE_PFN_SHIFT,
  Pte,
  pmdIsHuge,
  ptePfn,
  Swp,
  SwpType,
  swpType,
  VmFlag,
  WP_MARKER,
  withoutUffdWp,
} from '../layout.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import type { Pages } from '../page.ts';
import { HUGE, nextTable, type PageTable, type PteAt, TABLE_PAGES } from '../page-table.ts';
import type { Vmas } from '../vma.ts';
import type { UffdContexts } from './contexts.ts';
import { isRange } from './move.ts';
import { UffdFeature } from './state.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type WriteProtectDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly notifiers: MmuNotifiers;
  readonly hugePmd: HugePmd;
  readonly uffds: UffdContexts;
  readonly breaks: MmBreaks;
};

/** Mode bits of WRITEPROTECT. */
export const UffdWriteProtect = { Wp: 1, DontWake: 2 } as const;

/** What is done to the entries of a range. */
const PROTECT = 1;
const PROTECT_HOLES = 2;
const UNPROTECT = 3;

/**
 * Write protection by userfaultfd: a bit of each entry, and markers in holes (V-36, V-62). Linux:
 * mwriteprotect_range, change_protection.
 */
export class WriteProtect {
  readonly #deps: WriteProtectDeps;

  constructor(deps: WriteProtectDeps) {
    this.#deps = deps;
  }

  /**
   * WRITEPROTECT: 0, or a negative error number: EAGAIN, EINVAL, ESRCH, ENOMEM; ENOENT at a VMA that is not
   * registered for it, those before it being changed. When it returns, no write to what it protects can be
   * missed. Requires: no lock of the mm.
   */
  protect(ctx: Uffd, address: Hva, length: number, mode: number): number {
    const { uffds, layout, sync } = this.#deps;
    const { Wp, DontWake } = UffdWriteProtect;
    if (uffds.isChanging(ctx)) return -ERRNO.EAGAIN;
    if (!isRange(address, length)) return -ERRNO.EINVAL;
    if ((mode & ~(Wp | DontWake)) !== 0 || mode === (Wp | DontWake)) return -ERRNO.EINVAL;
    const mm = layout.uffd.mm.get(ctx);
    const [start, end] = [pageNumber(address), pageNumber(address + length)];
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const lives = layout.mm.users.load(mm) > 0;
    const result = lives ? this.#gated(ctx, mm, start, end, mode) : -ERRNO.ESRCH;
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (result === 0 && mode === 0) uffds.wakeRange(ctx, start, end);
    return result;
  }

  /** Requires: mmap for read. */
  #gated(ctx: Uffd, mm: Mm, start: Vpn, end: Vpn, mode: number): number {
    const { uffds, layout } = this.#deps;
    if (!uffds.tryEnter(ctx)) return -ERRNO.EAGAIN;
    const holes = (layout.uffd.features.load(ctx) & UffdFeature.WpUnpopulated) !== 0;
    const set = holes ? PROTECT_HOLES : PROTECT;
    const result = this.#vmas(mm, start, end, (mode & UffdWriteProtect.Wp) !== 0 ? set : UNPROTECT);
    uffds.leave(ctx);
    return result;
  }

  /** Gaps are skipped (V-36). */
  #vmas(mm: Mm, start: Vpn, end: Vpn, work: number): number {
    const { vmas, layout } = this.#deps;
    let result: number = -ERRNO.ENOENT;
    for (let i = vmas.indexOf(mm, start); i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      if (layout.vma.start.get(vma) >= end) break;
      if ((layout.vma.flags.get(vma) & VmFlag.UffdWp) === 0) return -ERRNO.ENOENT;
      const from = Math.max(start, layout.vma.start.get(vma));
      result = this.#change(mm, vma, from, Math.min(end, layout.vma.end.get(vma)), work);
      if (result !== 0) return result;
    }
    return result;
  }

  /**
   * Takes all protection off a range of a VMA, markers too: it is being unregistered (V-14, V-62). Requires:
   * mmap for write.
   */
  clear(mm: Mm, vma: Vma, start: Vpn, end: Vpn): void {
    this.#change(mm, vma, start, end, UNPROTECT);
  }

  /** V-37: the addresses of the pages of a range that were written since they were protected. Holes were not. */
  written(mm: Mm, address: Hva, length: number): Hva[] {
    const { sync, layout, pageTable } = this.#deps;
    const found: Hva[] = [];
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    for (let vpn = pageNumber(address); vpn < pageNumber(address + length); vpn++) {
      const entry = pageTable.entryOf(mm, vpn);
      if ((entry & Pte.Present) !== 0 && (entry & (Pte.UffdWp | Pte.Zero)) === 0) found.push(vpn * PAGE_SIZE);
      else if (isSwap(entry) && (entry & Swp.UffdWp) === 0) found.push(vpn * PAGE_SIZE);
    }
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    return found;
  }

  /** Only taking rights away needs to be told: the next fault gives them. */
  #change(mm: Mm, vma: Vma, start: Vpn, end: Vpn, work: number): number {
    const { notifiers, breaks } = this.#deps;
    const told = work !== UNPROTECT && !breaks.protectWithoutNotify;
    const event = NotifyEvent.ProtectionVma;
    if (told) notifiers.start(mm, start, end, event, NotifyFlag.Blockable);
    const result = this.#tables(mm, vma, start, end, work);
    if (told) notifiers.end(mm, start, end, event);
    return result;
  }

  #tables(mm: Mm, vma: Vma, start: Vpn, end: Vpn, work: number): number {
    const { pageTable, hugePmd } = this.#deps;
    for (let vpn = start; vpn < end; ) {
      const stop = Math.min(end, nextTable(vpn));
      let first = pageTable.peek(mm, vpn);
      if (first === HUGE) {
        if (stop - vpn === TABLE_PAGES && this.#huge(mm, vma, vpn, work)) vpn = stop;
        else hugePmd.split(mm, vpn);
        continue; // done, or a table now, or none
      }
      if (first === 0 && work === PROTECT_HOLES) {
        first = pageTable.alloc(mm, vpn);
        if (first === 0) return -ERRNO.ENOMEM;
        if (first === HUGE) continue;
      }
      if (first !== 0) this.#table(vma, first, stop - vpn, work);
      vpn = stop;
    }
    return 0;
  }

  /** 2 MiB that are protected, or not, as one. False when they aren't any more. Linux: change_huge_pmd. */
  #huge(mm: Mm, vma: Vma, vpn: Vpn, work: number): boolean {
    const { pageTable, hugePmd } = this.#deps;
    const pmd = pageTable.pmd(mm, vpn);
    if (work !== UNPROTECT) return hugePmd.change(pmd, Pte.UffdWp, Pte.Write);
    const entry = pageTable.load(pmd);
    if (!pmdIsHuge(entry)) return false;
    if ((entry & Pte.UffdWp) === 0) return true;
    let writable = Pte.Write as number;
    for (let i = 0; i < TABLE_PAGES && writable !== 0; i++)
      writable &= this.#writable(vma, entry + (i << PTE_PFN_SHIFT));
    return hugePmd.change(pmd, writable, Pte.UffdWp);
  }

  #table(vma: Vma, first: PteAt, count: number, work: number): void {
    const { pageTable, sync } = this.#deps;
    pageTable.lock(first);
    sync.y('M.0');
    for (let pte = first; pte < first + count; pte++) {
      if (work === UNPROTECT) this.#unprotect(vma, pte);
      else this.#protect(pte, work === PROTECT_HOLES);
    }
    sync.y('M.k');
    pageTable.unlock(first);
  }

  #protect(pte: PteAt, holes: boolean): void {
    const { pageTable } = this.#deps;
    const entry = pageTable.held(pte);
    if ((entry & Pte.Present) !== 0) {
      pageTable.change(pte, Pte.UffdWp, Pte.Write);
      if ((entry & Pte.Write) !== 0) this.#deps.pages.settle(ptePfn(entry));
    } else if (isSwap(entry) || swpType(entry) === SwpType.Migration)
      pageTable.replace(pte, entry | Swp.UffdWp);
    else if (entry === 0 && holes) pageTable.fill(pte, WP_MARKER);
  }

  #unprotect(vma: Vma, pte: PteAt): void {
    const { pageTable } = this.#deps;
    const entry = pageTable.held(pte);
    const plain = withoutUffdWp(entry);
    if (plain === entry) return;
    if (plain === 0) pageTable.clear(pte);
    else if ((entry & Pte.Present) === 0) pageTable.replace(pte, plain);
    else pageTable.change(pte, this.#writable(vma, entry), Pte.UffdWp);
  }

  /** A page that is ours alone may be written at once, so that the access that waits needs no other fault. */
  #writable(vma: Vma, entry: number): number {
    const { layout, pages } = this.#deps;
    if ((layout.vma.flags.get(vma) & VmFlag.Write) === 0 || (entry & Pte.Zero) !== 0) return 0;
    return pages.has(ptePfn(entry), PageFlag.AnonExclusive) ? Pte.Write : 0;
  }
}
