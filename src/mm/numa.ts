import type { Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmBreaks } from './breaks.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import { type MmLayout, PageFlag, Pte, pteIsPresent, ptePfn, VmFlag } from './layout.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import { HUGE, nextTable, type PageTable, type PteAt } from './page-table.ts';
import type { Vmas } from './vma.ts';
import type { Vmstat } from './vmstat.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type NumaDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly hugePmd: HugePmd;
  readonly notifiers: MmuNotifiers;
  readonly vmstat: Vmstat;
  readonly breaks: MmBreaks;
};

/**
 * NUMA hints (C-10): a pte loses its access rights, so that the next access tells who uses the page. There is one
 * node here, so a hint fault only gives them back and is counted. Linux: change_prot_numa, do_numa_page.
 */
export class Numa {
  readonly #deps: NumaDeps;

  constructor(deps: NumaDeps) {
    this.#deps = deps;
  }

  /**
   * Makes the pages of [start, end) tell of their next use. Zero pages and merged ones are left alone, as every
   * access to them would say nothing. Returns how many ptes changed; a huge one counts once.
   */
  changeProtNuma(mm: Mm, start: Vpn, end: Vpn): number {
    const { sync, layout, vmas, vmstat } = this.#deps;
    const lock = mm + layout.mm.mmapLock.at;
    let changed = 0;
    sync.readLock('mmap', lock);
    for (let i = vmas.indexOf(mm, start); i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      if (layout.vma.start.get(vma) >= end) break;
      changed += this.#changeVma(mm, vma, start, end);
    }
    sync.readUnlock('mmap', lock);
    vmstat.add('numa_pte_updates', changed);
    return changed;
  }

  #changeVma(mm: Mm, vma: Vma, start: Vpn, end: Vpn): number {
    const { layout, notifiers, breaks } = this.#deps;
    const v = layout.vma;
    // Where nothing may be accessed there is no hint to take: prot-none means that already.
    if ((v.flags.get(vma) & (VmFlag.Read | VmFlag.Write)) === 0) return 0;
    const from = Math.max(start, v.start.get(vma));
    const to = Math.min(end, v.end.get(vma));
    // A guest that kept its leaf would use the page unseen.
    if (!breaks.hintWithoutNotify)
      notifiers.start(mm, from, to, NotifyEvent.ProtectionVma, NotifyFlag.Blockable);
    const changed = this.#changeRange(mm, from, to);
    if (!breaks.hintWithoutNotify) notifiers.end(mm, from, to, NotifyEvent.ProtectionVma);
    return changed;
  }

  #changeRange(mm: Mm, start: Vpn, end: Vpn): number {
    const { pageTable, hugePmd } = this.#deps;
    let changed = 0;
    for (let vpn = start; vpn < end; ) {
      const stop = Math.min(end, nextTable(vpn));
      const first = pageTable.walk(mm, vpn);
      if (first === HUGE) {
        const hinted = (pageTable.entryOf(mm, vpn) & (Pte.Zero | Pte.ProtNone)) !== 0;
        // What is no longer huge is looked at again.
        if (!hinted && !hugePmd.change(pageTable.pmd(mm, vpn), Pte.ProtNone, 0)) continue;
        if (!hinted) changed++;
      } else if (first > 0) changed += this.#changeTable(first, stop - vpn);
      vpn = stop;
    }
    return changed;
  }

  #changeTable(first: PteAt, count: number): number {
    const { pageTable, sync } = this.#deps;
    let changed = 0;
    pageTable.lock(first);
    sync.y('M.0');
    for (let pte = first; pte < first + count; pte++) {
      if (!this.#takesHint(pageTable.held(pte))) continue;
      pageTable.change(pte, Pte.ProtNone, 0);
      changed++;
    }
    sync.y('M.k');
    pageTable.unlock(first);
    return changed;
  }

  #takesHint(entry: number): boolean {
    if (!pteIsPresent(entry) || (entry & (Pte.Zero | Pte.ProtNone)) !== 0) return false;
    return !this.#deps.pages.has(ptePfn(entry), PageFlag.Ksm);
  }
}
