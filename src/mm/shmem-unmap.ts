import type { Pfn, Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import { type MmLayout, Pte, pteIsPresent, ptePfn } from './layout.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Pages } from './page.ts';
import type { PageTable } from './page-table.ts';
import type { Rmap } from './rmap.ts';
import type { Zap } from './zap.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Inode = Ptr<'inode'>;

export type ShmemUnmapDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly anonVmas: AnonVmas;
  readonly notifiers: MmuNotifiers;
  readonly rmap: Rmap;
  readonly zap: Zap;
  readonly breaks: MmBreaks;
};

/** How long to sleep while an address space lets no invalidation begin, before looking again. */
const PATIENCE_MS = 1;

/**
 * Takes the pages of an inode out of every address space that maps them. Linux: unmap_mapping_range. The VMAs'
 * list is held meanwhile, so that their bounds and tables stay.
 */
export class ShmemUnmap {
  readonly #deps: ShmemUnmapDeps;

  constructor(deps: ShmemUnmapDeps) {
    this.#deps = deps;
  }

  /** Unmaps the pages [first, end). They may be mapped again at once. Requires: no lock below mmap. */
  range(inode: Inode, first: number, end: number): void {
    this.#eachVma(inode, vma => {
      const { start, end: vmaEnd, pgoff, mm } = this.#deps.layout.vma;
      const base = start.get(vma) - pgoff.get(vma);
      const from = Math.max(start.get(vma), base + first);
      const to = Math.min(vmaEnd.get(vma), base + end);
      if (from < to) this.#zap(mm.get(vma), from, to);
    });
  }

  #eachVma(inode: Inode, work: (vma: Vma) => void): void {
    const { anonVmas, layout } = this.#deps;
    const { avc: c, anonVma: a, inode: i } = layout;
    const tree = i.tree.get(inode);
    anonVmas.lock(tree);
    for (let avc = a.head.get(tree); avc !== 0; avc = c.nextSameAnonVma.get(avc)) work(c.vma.get(avc));
    anonVmas.unlock(tree);
  }

  #zap(mm: Mm, start: Vpn, end: Vpn): void {
    const { notifiers, zap } = this.#deps;
    this.#openRange(mm);
    notifiers.start(mm, start, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    zap.range(mm, start, end, true);
    notifiers.end(mm, start, end, NotifyEvent.Clear);
    notifiers.closeRange(mm);
  }

  /** Nobody who keeps ranges from beginning needs what we hold, so this ends. */
  #openRange(mm: Mm): void {
    const { notifiers, sync, layout } = this.#deps;
    const at = mm + layout.mm.ranges.at;
    while (!notifiers.tryOpenRange(mm)) sync.waiter.wait(at, layout.mm.ranges.load(mm), PATIENCE_MS);
  }

  /** Unmaps one page everywhere. Requires: the page locked, and a reference. */
  page(inode: Inode, pfn: Pfn): void {
    const { layout, pages } = this.#deps;
    const index = layout.page.index.load(pages.at(pfn));
    this.#eachVma(inode, vma => {
      const { start, end, pgoff, mm } = layout.vma;
      const vpn = start.get(vma) + index - pgoff.get(vma);
      if (vpn >= start.get(vma) && vpn < end.get(vma)) this.#unmapAt(mm.get(vma), vpn, pfn);
    });
  }

  #unmapAt(mm: Mm, vpn: Vpn, pfn: Pfn): void {
    const { pageTable, notifiers, pages, breaks, sync } = this.#deps;
    const pte = pageTable.walk(mm, vpn);
    if (pte === 0 || !maps(pageTable.load(pte), pfn)) return;
    this.#openRange(mm);
    if (!breaks.unmapWithoutNotify) notifiers.pageStart(mm, vpn, NotifyEvent.Clear, NotifyFlag.Blockable);
    const cleared = this.#clear(mm, pte, pfn);
    sync.y('I.P');
    if (cleared && !breaks.unmapWithoutNotify) notifiers.invalidatePage(mm, vpn);
    if (!breaks.unmapWithoutNotify) notifiers.pageEnd(mm, vpn, NotifyEvent.Clear);
    notifiers.closeRange(mm);
    if (cleared) pages.put(pfn);
  }

  #clear(mm: Mm, pte: number, pfn: Pfn): boolean {
    const { pageTable, rmap, pages, layout, sync } = this.#deps;
    pageTable.lock(pte);
    sync.y('M.0');
    const mapped = maps(pageTable.load(pte), pfn);
    if (mapped) {
      if ((pageTable.clear(pte) & Pte.Dirty) !== 0) pages.setDirty(pfn);
      layout.mm.shmemPages.add(mm, -1);
      rmap.removeMapping(pfn);
    }
    sync.y('M.k');
    pageTable.unlock(pte);
    return mapped;
  }
}

const maps = (entry: number, pfn: Pfn): boolean => pteIsPresent(entry) && ptePfn(entry) === pfn;
