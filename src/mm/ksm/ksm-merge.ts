import type { Pfn, Vpn } from '../../base/units.ts';
import { frameByte, Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import type { AnonVmas } from '../anon-vma.ts';
import type { MmBreaks } from '../breaks.ts';
import type { HugePmd } from '../huge/huge-pmd.ts';
import { type MmLayout, mkPte, PageFlag, Pte, pteIsPresent, ptePfn, VmFlag } from '../layout.ts';
import type { MlockPages } from '../mlock-page.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import type { Pages } from '../page.ts';
import { HUGE, type PageTable, type PteAt } from '../page-table.ts';
import type { Rmap } from '../rmap.ts';
import type { Swap } from '../swap/swap.ts';
import type { Vmas } from '../vma.ts';
import type { KsmItems } from './ksm-items.ts';
import type { KsmLayout, KsmRoot } from './ksm-layout.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Item = Ptr<'ksmItem'>;
type Node = Ptr<'ksmNode'>;

export type KsmMergeDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly ksm: KsmLayout;
  readonly pageOps: PageOps;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly vmas: Vmas;
  readonly anonVmas: AnonVmas;
  readonly notifiers: MmuNotifiers;
  readonly rmap: Rmap;
  readonly swap: Swap;
  readonly hugePmd: HugePmd;
  readonly mlockPages: MlockPages;
  readonly breaks: MmBreaks;
  readonly items: KsmItems;
};

/** A pte of these says nothing of its page's content, or must stay as it is (C-7). */
const NEVER = Pte.Zero | Pte.UffdWp;
/** What the pte of a merged page keeps of the one before. */
const KEPT = Pte.Young | Pte.SoftDirty | Pte.ProtNone;
/** VMAs whose pages are not private memory. Linux: vma_ksm_compatible. */
export const KSM_INCOMPATIBLE =
  VmFlag.Shared | VmFlag.MayShare | VmFlag.PfnMap | VmFlag.Io | VmFlag.DontExpand | VmFlag.HugeTlb;

export const mayMerge = (flags: number): boolean =>
  (flags & VmFlag.Mergeable) !== 0 && (flags & KSM_INCOMPATIBLE) === 0;

/** A pte that KSM may look at, of whatever page. */
export const mayScan = (entry: number, breaks: MmBreaks): boolean =>
  pteIsPresent(entry) && (entry & (breaks.ksmMergesProtected ? Pte.Zero : NEVER)) === 0;

/**
 * What is done to ptes. Content counts only while nobody can write it: first the pte is write-protected with every
 * secondary emptied, then is seen that nobody holds the page otherwise, then it is compared, then replaced, all
 * under the page lock (C-5, C-6). Everything here requires 'ksm' and takes mmap for reading itself; a page comes
 * with one reference, the caller's. Linux: write_protect_page, replace_page, try_to_merge_one_page.
 */
export class KsmMerger {
  readonly #deps: KsmMergeDeps;
  readonly #root: KsmRoot;

  constructor(deps: KsmMergeDeps) {
    this.#deps = deps;
    this.#root = deps.sync.arena.root(Root.ksm) as KsmRoot;
  }

  /**
   * Turns the item's page into one that may stand for others: a node of its own, or 0 when it is pinned, no
   * longer there, or no longer what the item's hash says.
   */
  promote(item: Item, pfn: Pfn): Node {
    return this.#locked(item, pfn, (vma, vpn) => {
      const pte = this.#pteAt(vma, vpn);
      if (pte === 0 || this.#protect(vma, vpn, pte, pfn) === 0) return 0;
      return this.#makeStable(item, pfn);
    }) as Node;
  }

  /** Lets the item's pte map the node's page instead of its own, if both are equal. */
  replace(item: Item, pfn: Pfn, node: Node, stable: Pfn): boolean {
    const { layout, anonVmas, pages, items } = this.#deps;
    let [anonVma, index] = [0 as Ptr<'anonVma'>, 0];
    const done = this.#locked(item, pfn, (vma, vpn) => {
      if (!this.#replace(vma, vpn, pfn, stable)) return 0;
      if ((layout.vma.flags.get(vma) & VmFlag.Locked) !== 0) this.#deps.mlockPages.lock(stable);
      anonVma = layout.vma.anonVma.load(vma);
      index = layout.vma.pgoff.get(vma) + vpn - layout.vma.start.get(vma);
      anonVmas.get(anonVma);
      return 1;
    });
    if (done === 0) return false;
    // Others may map it still, and none of them be locked (C-16).
    this.#deps.mlockPages.recheck(pfn);
    pages.lock(stable);
    items.append(item, node, anonVma, index);
    pages.unlock(stable);
    return true;
  }

  /** Lets the item's pte map the zero page, if the page is all zeroes. */
  replaceByZero(item: Item, pfn: Pfn): boolean {
    const { pages, ksm } = this.#deps;
    const done = this.#locked(item, pfn, (vma, vpn) =>
      this.#replace(vma, vpn, pfn, pages.zeroPage) ? 1 : 0,
    );
    if (done === 0) return false;
    this.#deps.mlockPages.recheck(pfn);
    ksm.ksm.zero_pages.add(this.#root, 1);
    return true;
  }

  /** The item's mapping is one more of a merged page that fork shared. */
  adopt(item: Item, pfn: Pfn, node: Node): boolean {
    const { layout, anonVmas, items } = this.#deps;
    const done = this.#locked(item, pfn, (vma, vpn) => {
      const anonVma = layout.vma.anonVma.load(vma);
      if (!this.#maps(vma, vpn, pfn) || items.nodeOf(pfn) !== node) return 0;
      anonVmas.get(anonVma);
      items.append(item, node, anonVma, layout.vma.pgoff.get(vma) + vpn - layout.vma.start.get(vma));
      return 1;
    });
    return done !== 0;
  }

  /** A page that was promoted in vain is what it was, but for being write-protected. */
  demote(item: Item, pfn: Pfn): void {
    const { layout, pages, items } = this.#deps;
    const i = layout.ksmItem;
    const p = pages.at(pfn);
    pages.lock(pfn);
    layout.page.index.set(p, i.index.get(item));
    layout.page.mapping.store(p, i.anonVma.get(item));
    layout.page.flags.and(p, ~PageFlag.Ksm);
    items.takeBack(item, i.node.get(item));
    pages.unlock(pfn);
  }

  /** A page of an item that may be merged, with a reference, or -1. Linux: get_mergeable_page. */
  pageOf(item: Item): Pfn | -1 {
    const { layout, sync, pageTable, pages } = this.#deps;
    const mm = layout.ksmItem.mm.get(item);
    let found = -1;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const vma = this.#vmaOf(item);
    const vpn = layout.ksmItem.vpn.get(item);
    const entry = vma === 0 ? 0 : pageTable.entryOf(mm, vpn);
    if (mayScan(entry, this.#deps.breaks) && pages.tryGet(ptePfn(entry))) {
      if (((pageTable.entryOf(mm, vpn) ^ entry) & ~(Pte.Young | Pte.Dirty)) === 0) found = ptePfn(entry);
      else pages.put(ptePfn(entry));
    }
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    return found;
  }

  /** The item's VMA if its pages may be merged, else 0. Requires: mmap. */
  #vmaOf(item: Item): Vma {
    const { layout, vmas } = this.#deps;
    const mm = layout.ksmItem.mm.get(item);
    const vma = layout.mm.users.load(mm) === 0 ? 0 : vmas.find(mm, layout.ksmItem.vpn.get(item));
    if (vma === 0 || !mayMerge(layout.vma.flags.get(vma as Vma))) return 0 as Vma;
    return layout.vma.anonVma.load(vma as Vma) === 0 ? (0 as Vma) : (vma as Vma);
  }

  /** Runs `work` with the item's VMA under mmap and the page locked; 0 if either can't be had. */
  #locked(item: Item, pfn: Pfn, work: (vma: Vma, vpn: Vpn) => number): number {
    const { layout, sync, pages } = this.#deps;
    const lock = layout.ksmItem.mm.get(item) + layout.mm.mmapLock.at;
    let result = 0;
    sync.readLock('mmap', lock);
    const vma = this.#vmaOf(item);
    // Reclaim may have it, and wait for nobody: so do we (Linux: trylock_page).
    if (vma !== 0 && pages.tryLock(pfn)) {
      result = work(vma, layout.ksmItem.vpn.get(item));
      pages.unlock(pfn);
    }
    sync.readUnlock('mmap', lock);
    return result;
  }

  #maps(vma: Vma, vpn: Vpn, pfn: Pfn): boolean {
    const entry = this.#deps.pageTable.entryOf(this.#deps.layout.vma.mm.get(vma), vpn);
    return pteIsPresent(entry) && ptePfn(entry) === pfn;
  }

  /** A page's own pte, the huge page around it split; 0 if there is none. Requires: mmap. */
  #pteAt(vma: Vma, vpn: Vpn): PteAt | 0 {
    const { layout, pageTable, hugePmd } = this.#deps;
    const mm = layout.vma.mm.get(vma);
    if (pageTable.walk(mm, vpn) === HUGE) hugePmd.split(mm, vpn);
    return Math.max(0, pageTable.walk(mm, vpn));
  }

  #isPlainAnon(pfn: Pfn): boolean {
    const { layout, pages } = this.#deps;
    const p = pages.at(pfn);
    const other = PageFlag.Ksm | PageFlag.Shmem | PageFlag.HwPoison | PageFlag.LazyFree;
    return (layout.page.flags.load(p) & other) === 0 && layout.page.mapping.load(p) !== 0;
  }

  /**
   * Takes the right to write from the pte, and from every secondary; the entry it then has, or 0 if the page
   * is not there or somebody else holds it (C-5). Requires: mmap, the page locked.
   */
  #protect(vma: Vma, vpn: Vpn, pte: PteAt, pfn: Pfn): number {
    const { layout, notifiers, breaks } = this.#deps;
    if (!this.#isPlainAnon(pfn)) return 0;
    const mm = layout.vma.mm.get(vma);
    if (!breaks.ksmWithoutNotify) notifiers.pageStart(mm, vpn, NotifyEvent.Clear, NotifyFlag.Blockable);
    const entry = this.#protectPte(mm, vpn, pte, pfn);
    if (!breaks.ksmWithoutNotify) notifiers.pageEnd(mm, vpn, NotifyEvent.Clear);
    return entry;
  }

  #protectPte(mm: Mm, vpn: Vpn, pte: PteAt, pfn: Pfn): number {
    const { pageTable, notifiers, pages, sync, breaks } = this.#deps;
    pageTable.lock(pte);
    sync.y('M.0');
    let entry = 0;
    const seen = pageTable.held(pte);
    if (mayScan(seen, breaks) && ptePfn(seen) === pfn) {
      const was = pageTable.take(pte);
      // Pinning secondaries let go before anyone counts (B-1, M-35), and before the pte is back (N-7).
      if (!breaks.ksmWithoutNotify) notifiers.invalidatePage(mm, vpn);
      if ((was & Pte.Dirty) !== 0) pages.setDirty(pfn);
      if (this.#isPinned(pfn) && !breaks.ksmIgnorePins) pageTable.replace(pte, was);
      else {
        if (pages.has(pfn, PageFlag.AnonExclusive)) pages.clear(pfn, PageFlag.AnonExclusive);
        entry = was & ~(Pte.Write | Pte.Dirty);
        pageTable.replace(pte, entry);
      }
    }
    sync.y('M.k');
    pageTable.unlock(pte);
    return entry;
  }

  /** Held by someone besides its ptes, the swap cache and us. */
  #isPinned(pfn: Pfn): boolean {
    const { pages, layout } = this.#deps;
    const cached = layout.page.swap.load(pages.at(pfn)) === 0 ? 0 : 1;
    return pages.mapcount(pfn) + 1 + cached !== pages.refcount(pfn);
  }

  /** Requires: the page locked and write-protected, so that what is hashed now stays. */
  #makeStable(item: Item, pfn: Pfn): Node {
    const { layout, pages, pageOps, items, sync } = this.#deps;
    const { ksmItem: i, page } = layout;
    const p = pages.at(pfn);
    sync.y('K.cmp');
    const lo = pageOps.hash64(frameByte(pfn));
    if (lo !== i.lo.get(item) || pageOps.hashHigh() !== i.hi.get(item)) return 0 as Node;
    const node = items.createNode(pfn, lo, i.hi.get(item), items.ownerOf(i.mm.get(item)));
    if (node === 0) return node;
    // The page's reference to its anon_vma is now the item's: through it all that may map the page are found.
    items.append(item, node, page.mapping.load(p), page.index.get(p));
    // Reclaim just frees a clean page that no pte calls dirty.
    page.flags.or(p, PageFlag.Ksm | PageFlag.Dirty);
    page.mapping.store(p, node as number as Ptr<'anonVma'>);
    return node;
  }

  /** Requires: mmap, the page locked. `stable` may be the zero page. */
  #replace(vma: Vma, vpn: Vpn, pfn: Pfn, stable: Pfn): boolean {
    const { pages, pageOps, sync, breaks } = this.#deps;
    const equal = (): boolean => pageOps.equal(frameByte(pfn), frameByte(stable));
    const pte = this.#pteAt(vma, vpn);
    if (pte === 0 || (breaks.ksmCompareFirst && !equal())) return false;
    const entry = this.#protect(vma, vpn, pte, pfn);
    sync.y('K.cmp');
    if (entry === 0 || (!breaks.ksmCompareFirst && !equal())) return false;
    sync.y('K.rep');
    pages.get(stable);
    if (this.#replacePte(vma, vpn, pte, entry, stable)) {
      this.#unmapped(pfn);
      return true;
    }
    pages.put(stable);
    return false;
  }

  #replacePte(vma: Vma, vpn: Vpn, pte: PteAt, entry: number, stable: Pfn): boolean {
    const { layout, pageTable, notifiers, sync, breaks } = this.#deps;
    const mm = layout.vma.mm.get(vma);
    if (!breaks.ksmWithoutNotify) notifiers.pageStart(mm, vpn, NotifyEvent.Clear, NotifyFlag.Blockable);
    pageTable.lock(pte);
    sync.y('M.0');
    // Whoever wrote meanwhile has another entry: the write made it writable, or another page.
    const same = ((pageTable.held(pte) ^ entry) & ~Pte.Young) === 0;
    if (same) {
      pageTable.take(pte);
      if (!breaks.ksmWithoutNotify) notifiers.invalidatePage(mm, vpn);
      this.#set(mm, pte, entry, stable);
    }
    sync.y('M.k');
    pageTable.unlock(pte);
    if (!breaks.ksmWithoutNotify) notifiers.pageEnd(mm, vpn, NotifyEvent.Clear);
    return same;
  }

  /** Requires: the ptl; the pte has been taken. */
  #set(mm: Mm, pte: PteAt, entry: number, stable: Pfn): void {
    const { layout, pageTable, pages, rmap, breaks } = this.#deps;
    if (stable === pages.zeroPage) {
      pageTable.replace(pte, mkPte(stable, Pte.Zero | (entry & KEPT)));
      layout.mm.anonPages.add(mm, -1);
    } else {
      layout.page.mapcount.add(pages.at(stable), 1);
      pageTable.replace(pte, mkPte(stable, (entry & KEPT) | (breaks.ksmKeepsWritable ? Pte.Write : 0)));
    }
    rmap.removeMapping(ptePfn(entry));
  }

  /** Drops the mapping's reference to the page that was given up. Requires: the page locked. */
  #unmapped(pfn: Pfn): void {
    const { pages, swap } = this.#deps;
    if (pages.mapcount(pfn) === 0 && pages.has(pfn, PageFlag.SwapCache)) swap.tryToFreeSwap(pfn);
    pages.put(pfn);
  }
}
