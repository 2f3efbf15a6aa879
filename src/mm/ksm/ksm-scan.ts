import type { Pfn, Vpn } from '../../base/units.ts';
import { frameByte, Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, mkPte, Pte, ptePfn } from '../layout.ts';
import type { Pages } from '../page.ts';
import { HUGE, nextTable, type PageTable } from '../page-table.ts';
import type { Vmas } from '../vma.ts';
import type { KsmItems } from './ksm-items.ts';
import type { KsmLayout, KsmRoot } from './ksm-layout.ts';
import { type KsmMerger, mayMerge, mayScan } from './ksm-merge.ts';
import type { KsmTable } from './ksm-table.ts';

type Mm = Ptr<'mm'>;
type Item = Ptr<'ksmItem'>;
type Node = Ptr<'ksmNode'>;

export type KsmScanDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly ksm: KsmLayout;
  readonly pageOps: PageOps;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly vmas: Vmas;
  readonly items: KsmItems;
  readonly table: KsmTable;
  readonly merger: KsmMerger;
  readonly breaks: MmBreaks;
  /** The address space after one on the list of all; the first when 0. */
  readonly afterMm: (mm: Mm) => Mm;
};

/** Pages that are gathered under one hold of mmap, and looked at after it. */
const BATCH = 32;
/** Entries and tables passed over in one hold of mmap, so that sparse memory does not keep it. */
const STEPS = 2048;
const NO_ITEM = 0 as Item;
const MERGED = -1;

/**
 * One pass after the other over all pages of mergeable VMAs, a batch at a time; where it stands is in the arena, so
 * any thread may go on with it. A page is looked at through its item: merged with a stable page of the same
 * content, or with one that the pass has seen, but only if its own did not change since the last pass.
 * Everything here requires 'ksm'. Linux: ksm_do_scan, cmp_and_merge_page.
 */
export class KsmScanner {
  readonly #deps: KsmScanDeps;
  readonly #root: KsmRoot;
  readonly #items = new Int32Array(BATCH);
  readonly #pfns = new Int32Array(BATCH);
  #count = 0;
  /** Pages of this step, those included that needed no look. */
  #seen = 0;

  constructor(deps: KsmScanDeps) {
    this.#deps = deps;
    this.#root = deps.sync.arena.root(Root.ksm) as KsmRoot;
  }

  /** Looks at up to `pages` pages, at most a batch; -1 when that ended the pass. Takes mmap. */
  step(pages: number): number {
    const { ksm } = this.#deps.ksm;
    const root = this.#root;
    if (ksm.sweeping.get(root) !== 0) return this.#sweep();
    const mm = ksm.mm.get(root) === 0 ? this.#deps.afterMm(0 as Mm) : ksm.mm.get(root);
    if (mm === 0) return this.#beginSweep();
    ksm.mm.set(root, mm);
    this.#seen = 0;
    const more = this.#gather(mm, Math.min(pages, BATCH));
    const seen = this.#seen;
    this.#look();
    ksm.pages_scanned.add(root, seen);
    if (!more) this.leave(mm);
    return seen;
  }

  /** The scan goes on with the next address space, from its beginning; 0 after the last. */
  leave(mm: Mm): void {
    const { ksm } = this.#deps.ksm;
    if (ksm.mm.get(this.#root) !== mm) return;
    ksm.mm.set(this.#root, this.#deps.afterMm(mm));
    ksm.vpn.set(this.#root, 0);
    ksm.prev.set(this.#root, NO_ITEM);
    if (ksm.mm.get(this.#root) === 0) this.#beginSweep();
  }

  #beginSweep(): 0 {
    const { ksm } = this.#deps.ksm;
    ksm.sweeping.set(this.#root, 1);
    ksm.sweep.set(this.#root, ksm.nodes.get(this.#root));
    return 0;
  }

  /** The end of a pass: nodes whose page is gone are forgotten, then the unstable table is. */
  #sweep(): number {
    const { ksm } = this.#deps.ksm;
    for (let i = 0; i < BATCH; i++) {
      const node = ksm.sweep.get(this.#root);
      if (node === 0) {
        this.restart();
        ksm.full_scans.add(this.#root, 1);
        return -1;
      }
      ksm.sweep.set(this.#root, this.#deps.layout.ksmNode.next.get(node));
      this.#deps.items.sweep(node);
    }
    return 0;
  }

  /** Forgets every node whose page is gone. */
  sweepAll(): void {
    const { ksm } = this.#deps.ksm;
    for (let node = ksm.nodes.get(this.#root); node !== 0; ) {
      const next = this.#deps.layout.ksmNode.next.get(node);
      this.#deps.items.sweep(node);
      node = next;
    }
  }

  /** The next step begins a pass. */
  restart(): void {
    const { ksm } = this.#deps.ksm;
    ksm.sweeping.set(this.#root, 0);
    ksm.sweep.set(this.#root, 0 as Node);
    ksm.mm.set(this.#root, 0 as Mm);
    ksm.vpn.set(this.#root, 0);
    ksm.prev.set(this.#root, NO_ITEM);
    ksm.seq.set(this.#root, ksm.seq.get(this.#root) + 1);
    this.#deps.table.clearUnstable();
  }

  /** Collects pages from where the scan stands; false when it is through with the address space. */
  #gather(mm: Mm, pages: number): boolean {
    const { sync, layout } = this.#deps;
    const lock = mm + layout.mm.mmapLock.at;
    sync.readLock('mmap', lock);
    // Who exits frees its items itself (Ksm.exit).
    const more = layout.mm.users.load(mm) !== 0 && this.#gatherVmas(mm, pages);
    sync.readUnlock('mmap', lock);
    return more;
  }

  #gatherVmas(mm: Mm, pages: number): boolean {
    const { ksm } = this.#deps.ksm;
    const { layout, vmas } = this.#deps;
    const v = layout.vma;
    let steps = STEPS;
    for (let i = vmas.indexOf(mm, ksm.vpn.get(this.#root)); i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      if (!mayMerge(v.flags.get(vma)) || v.anonVma.load(vma) === 0) continue;
      let vpn = Math.max(ksm.vpn.get(this.#root), v.start.get(vma));
      for (const end = v.end.get(vma); vpn < end; steps--) {
        if (this.#seen >= pages || steps === 0) {
          ksm.vpn.set(this.#root, vpn);
          return true;
        }
        vpn = this.#gatherAt(mm, vpn);
      }
    }
    this.#dropUpTo(mm, Number.MAX_SAFE_INTEGER);
    return false;
  }

  /** Looks at one entry; the page number to go on with. */
  #gatherAt(mm: Mm, vpn: Vpn): Vpn {
    const { pageTable, pages, breaks } = this.#deps;
    const pte = pageTable.walk(mm, vpn);
    if (pte === 0) return nextTable(vpn);
    if (breaks.ksmFillsHoles && pte > 0 && pageTable.load(pte) === 0)
      pageTable.fill(pte, mkPte(pages.zeroPage, Pte.Zero));
    // A huge page is looked at like its 512, and split when one of them is merged.
    const entry = pte === HUGE ? pageTable.entryOf(mm, vpn) : pageTable.load(pte);
    if (mayScan(entry, breaks)) this.#gatherPage(mm, vpn, entry);
    return vpn + 1;
  }

  #gatherPage(mm: Mm, vpn: Vpn, entry: number): void {
    const { pages, pageTable, items, ksm } = this.#deps;
    const pfn = ptePfn(entry);
    this.#seen++;
    const known = this.#itemAt(mm, vpn, pfn);
    if (known === MERGED || !pages.tryGet(pfn)) return;
    const same = ((pageTable.entryOf(mm, vpn) ^ entry) & ~(Pte.Young | Pte.Dirty)) === 0;
    const prev = ksm.ksm.prev.get(this.#root);
    const item = !same || known !== 0 ? (known as Item) : items.create(mm, vpn, prev);
    if (!same || item === 0) {
      pages.put(pfn);
      return;
    }
    ksm.ksm.prev.set(this.#root, item);
    this.#items[this.#count] = item;
    this.#pfns[this.#count++] = pfn;
  }

  /**
   * The item of a page, 0 if it has none, MERGED if there is nothing to do. Items of lower addresses that the
   * scan did not come to are gone then, and so is one that tells of another page.
   */
  #itemAt(mm: Mm, vpn: Vpn, pfn: Pfn): Item | typeof MERGED {
    const { items, layout, ksm } = this.#deps;
    this.#dropUpTo(mm, vpn);
    const prev = ksm.ksm.prev.get(this.#root);
    const item = items.after(mm, prev);
    if (item === 0 || layout.ksmItem.vpn.get(item) !== vpn) return NO_ITEM;
    const node = layout.ksmItem.node.get(item);
    if (node === 0) return item;
    if (items.nodeOf(pfn) === node) {
      ksm.ksm.prev.set(this.#root, item);
      return MERGED;
    }
    items.drop(item, prev);
    return NO_ITEM;
  }

  /** Drops the items between the scan's place and `vpn`. */
  #dropUpTo(mm: Mm, vpn: Vpn): void {
    const { items, layout, ksm } = this.#deps;
    const prev = ksm.ksm.prev.get(this.#root);
    for (let item = items.after(mm, prev); item !== 0 && layout.ksmItem.vpn.get(item) < vpn; ) {
      items.drop(item, prev);
      item = items.after(mm, prev);
    }
  }

  #look(): void {
    for (let i = 0; i < this.#count; i++) {
      this.#lookAt(this.#items[i] as Item, this.#pfns[i] as Pfn);
      this.#deps.pages.put(this.#pfns[i] as Pfn);
    }
    this.#count = 0;
  }

  #lookAt(item: Item, pfn: Pfn): void {
    const { layout, items, merger, pageOps, ksm } = this.#deps;
    const { lo: low, hi: high, mm } = layout.ksmItem;
    items.leaveUnstable(item);
    const merged = items.nodeOf(pfn);
    if (merged !== 0) {
      merger.adopt(item, pfn, merged);
      return;
    }
    const lo = pageOps.hash64(frameByte(pfn));
    const hi = pageOps.hashHigh();
    const settled = low.get(item) === lo && high.get(item) === hi;
    low.set(item, lo);
    high.set(item, hi);
    if (this.#toStable(item, pfn, items.ownerOf(mm.get(item))) || !settled) return;
    const zero = lo === ksm.ksm.zeroLo.get(this.#root) && hi === ksm.ksm.zeroHi.get(this.#root);
    if (zero && ksm.ksm.use_zero_pages.load(this.#root) !== 0) merger.replaceByZero(item, pfn);
    else this.#toUnstable(item, pfn);
  }

  /** Merges a page with a stable one that has room for another mapping; false if there is none. */
  #toStable(item: Item, pfn: Pfn, owner: number): boolean {
    const { layout, table, items, merger, pages, ksm } = this.#deps;
    const { ksmItem: i, ksmNode: n } = layout;
    const most = ksm.ksm.max_page_sharing.load(this.#root);
    for (let node = table.firstNode(i.lo.get(item), owner); node !== 0; ) {
      const next = n.link.get(node);
      const equal = n.lo.get(node) === i.lo.get(item) && n.hi.get(node) === i.hi.get(item);
      const fits = equal && n.owner.get(node) === owner && n.count.get(node) < most;
      const stable = fits ? items.grab(node) : -1;
      if (stable >= 0) {
        const done = merger.replace(item, pfn, node, stable);
        pages.put(stable);
        return done;
      }
      node = next;
    }
    return false;
  }

  /** Merges a page with an equal one that the pass has seen, or has it seen. */
  #toUnstable(item: Item, pfn: Pfn): void {
    const { items, merger, pages } = this.#deps;
    const other = this.#equalItem(item);
    const page = other === 0 ? -1 : merger.pageOf(other);
    if (page < 0) {
      if (other !== 0) items.leaveUnstable(other);
      items.enterUnstable(item);
      return;
    }
    // One page that fork shares is one already.
    if (page !== pfn) this.#mergeTwo(item, pfn, other, page);
    pages.put(page);
  }

  #equalItem(item: Item): Item {
    const { layout, table, items } = this.#deps;
    const { lo, hi, mm, link } = layout.ksmItem;
    const owner = items.ownerOf(mm.get(item));
    let at = table.firstItem(lo.get(item), owner);
    while (at !== 0) {
      const equal = lo.get(at) === lo.get(item) && hi.get(at) === hi.get(item);
      if (equal && items.ownerOf(mm.get(at)) === owner) break;
      at = link.get(at);
    }
    return at;
  }

  /** The page of `item` becomes stable, if that of `other` then maps it: nothing is made for one alone. */
  #mergeTwo(item: Item, pfn: Pfn, other: Item, page: Pfn): void {
    const { items, merger } = this.#deps;
    items.leaveUnstable(other);
    const node = merger.promote(item, pfn);
    if (node !== 0 && !merger.replace(other, page, node, pfn)) merger.demote(item, pfn);
  }
}
