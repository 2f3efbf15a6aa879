import { assert } from '../../base/assert.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import { Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnonVmas } from '../anon-vma.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, PageFlag } from '../layout.ts';
import type { Pages } from '../page.ts';
import type { Rmap } from '../rmap.ts';
import type { Slabs } from '../slab.ts';
import { type KsmLayout, KsmMerge, type KsmRoot } from './ksm-layout.ts';
import type { KsmTable } from './ksm-table.ts';

type Mm = Ptr<'mm'>;
type Item = Ptr<'ksmItem'>;
type Node = Ptr<'ksmNode'>;
type AnonVma = Ptr<'anonVma'>;

export type KsmItemsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly ksm: KsmLayout;
  readonly slabs: Slabs;
  readonly pages: Pages;
  readonly anonVmas: AnonVmas;
  readonly rmap: Rmap;
  readonly breaks: MmBreaks;
  readonly table: KsmTable;
};

const NO_ITEM = 0 as Item;

/**
 * Items and nodes, and the figures that follow from them. Everything here requires 'ksm'.
 *
 * A node holds no reference to its page. While the page lives, its `mapping` is the node; `grab` finds out. An item
 * on a node says where the reverse map looks, for its own mapping and for those that fork made of it; so an item
 * that goes before those becomes an orphan on its node and goes with them. Linux has no orphans: such a page can't
 * be swapped out there until a scan comes to the other mapping.
 */
export class KsmItems {
  readonly #deps: KsmItemsDeps;
  readonly #root: KsmRoot;

  constructor(deps: KsmItemsDeps) {
    this.#deps = deps;
    this.#root = deps.sync.arena.root(Root.ksm) as KsmRoot;
  }

  /** Whose pages those of an address space may be merged with. */
  ownerOf(mm: Mm): number {
    const self = this.#deps.ksm.ksm.merge.load(this.#root) === KsmMerge.Self;
    return self ? mm : this.#deps.layout.mm.owner.get(mm);
  }

  /** The item of a page, made if there is none; `prev` is the item before that place. 0: no memory. */
  create(mm: Mm, vpn: Vpn, prev: Item): Item {
    const { layout, slabs, ksm } = this.#deps;
    const item = slabs.ksmItem.alloc();
    if (item === 0) return item;
    const { next } = layout.ksmItem;
    layout.ksmItem.mm.set(item, mm);
    layout.ksmItem.vpn.set(item, vpn);
    next.set(item, this.after(mm, prev));
    if (prev === 0) layout.mm.ksmItems.store(mm, item);
    else next.set(prev, item);
    ksm.ksm.items.add(this.#root, 1);
    return item;
  }

  /** The item after `prev`, the first when 0. */
  after(mm: Mm, prev: Item): Item {
    const { layout } = this.#deps;
    return prev === 0 ? layout.mm.ksmItems.load(mm) : layout.ksmItem.next.get(prev);
  }

  /** Forgets an item, whose mapping of a merged page, if it had one, is gone. */
  drop(item: Item, prev: Item): void {
    const { layout, ksm } = this.#deps;
    const i = layout.ksmItem;
    const mm = i.mm.get(item);
    if (prev === 0) layout.mm.ksmItems.store(mm, i.next.get(item));
    else i.next.set(prev, i.next.get(item));
    this.leaveUnstable(item);
    i.next.set(item, NO_ITEM);
    ksm.ksm.items.add(this.#root, -1);
    if (i.node.get(item) !== 0 && this.#leaveNode(item)) return;
    this.#deps.slabs.ksmItem.free(item);
  }

  /** Into the unstable table; the figures are those of Linux: an item counts until it is looked at again. */
  enterUnstable(item: Item): void {
    const { layout, table, ksm } = this.#deps;
    const mm = layout.ksmItem.mm.get(item);
    if (!table.reserve(layout.ksmItem.lo.get(item), this.ownerOf(mm))) return;
    layout.ksmItem.seq.set(item, ksm.ksm.seq.get(this.#root));
    table.addItem(item, this.ownerOf(mm));
    ksm.ksm.pages_unshared.add(this.#root, 1);
  }

  leaveUnstable(item: Item): void {
    const { layout, table, ksm } = this.#deps;
    const { seq, mm } = layout.ksmItem;
    const since = seq.get(item);
    if (since === 0) return;
    if (since === ksm.ksm.seq.get(this.#root)) table.removeItem(item, this.ownerOf(mm.get(item)));
    seq.set(item, 0);
    ksm.ksm.pages_unshared.add(this.#root, -1);
  }

  /** A node for a page, with no item; 0 when there is no memory. */
  createNode(pfn: Pfn, lo: number, hi: number, owner: number): Node {
    const { layout, slabs, table, ksm } = this.#deps;
    const n = layout.ksmNode;
    if (!table.reserve(lo, owner)) return 0 as Node;
    const node = slabs.ksmNode.alloc();
    if (node === 0) return node;
    n.pfn.set(node, pfn);
    n.lo.set(node, lo);
    n.hi.set(node, hi);
    n.owner.set(node, owner);
    const first = ksm.ksm.nodes.get(this.#root);
    n.next.set(node, first);
    if (first !== 0) n.prev.set(first, node);
    ksm.ksm.nodes.set(this.#root, node);
    table.addNode(node);
    return node;
  }

  /** Forgets a node without items. */
  destroyNode(node: Node): void {
    const { layout, slabs, table, ksm } = this.#deps;
    const n = layout.ksmNode;
    assert(n.items.get(node) === 0, 'ksm: a node destroyed with items');
    const [next, prev] = [n.next.get(node), n.prev.get(node)];
    if (ksm.ksm.sweep.get(this.#root) === node) ksm.ksm.sweep.set(this.#root, next);
    if (next !== 0) n.prev.set(next, prev);
    if (prev !== 0) n.next.set(prev, next);
    else ksm.ksm.nodes.set(this.#root, next);
    table.removeNode(node);
    slabs.ksmNode.free(node);
  }

  /** The node's page with a reference, or -1, the node then being gone with its page. */
  grab(node: Node): Pfn | -1 {
    const { layout, pages } = this.#deps;
    const pfn = layout.ksmNode.pfn.get(node);
    if (this.#isOf(pfn, node) && pages.tryGet(pfn)) {
      // With a reference held the page stays what it is.
      if (this.#isOf(pfn, node)) return pfn;
      pages.put(pfn);
    }
    this.#prune(node);
    return -1;
  }

  #isOf(pfn: Pfn, node: Node): boolean {
    return this.nodeOf(pfn) === node;
  }

  /** The node whose page this is, 0 if it is none's. Stable while a reference is held. */
  nodeOf(pfn: Pfn): Node {
    const { pages, layout } = this.#deps;
    const mapping = pages.has(pfn, PageFlag.Ksm) ? layout.page.mapping.load(pages.at(pfn)) : 0;
    return mapping as number as Node;
  }

  /** The page is gone, hence nobody walks the node: all its items are single again. */
  #prune(node: Node): void {
    const { layout, slabs, anonVmas } = this.#deps;
    const i = layout.ksmItem;
    for (let item = layout.ksmNode.items.get(node); item !== 0; ) {
      const next = i.link.get(item);
      this.#unlink(item, node);
      anonVmas.put(i.anonVma.get(item));
      if (i.mm.get(item) === 0) slabs.ksmItem.free(item);
      item = next;
    }
    this.destroyNode(node);
  }

  /**
   * From now on the item tells the reverse map of a mapping of the node's page. Consumes a reference to the
   * anon_vma. Requires: the page locked.
   */
  append(item: Item, node: Node, anonVma: AnonVma, index: number): void {
    const { layout, ksm } = this.#deps;
    const { ksmItem: i, ksmNode: n } = layout;
    i.node.set(item, node);
    i.anonVma.set(item, anonVma);
    i.index.set(item, index);
    const first = n.items.get(node);
    i.link.set(item, first);
    i.back.set(item, NO_ITEM);
    if (first !== 0) i.back.set(first, item);
    n.items.set(node, item);
    const before = n.count.get(node);
    n.count.set(node, before + 1);
    (before === 0 ? ksm.ksm.pages_shared : ksm.ksm.pages_sharing).add(this.#root, 1);
  }

  /** Takes an item off its node, whose page is locked or gone; the reference to the anon_vma is the caller's. */
  #unlink(item: Item, node: Node): void {
    const { ksmItem: i, ksmNode: n } = this.#deps.layout;
    const [next, before] = [i.link.get(item), i.back.get(item)];
    if (next !== 0) i.back.set(next, before);
    if (before !== 0) i.link.set(before, next);
    else n.items.set(node, next);
    i.node.set(item, 0 as Node);
    if (i.mm.get(item) !== 0) this.#uncount(node);
  }

  #uncount(node: Node): void {
    const { ksmNode: n } = this.#deps.layout;
    const { ksm } = this.#deps.ksm;
    const left = n.count.get(node) - 1;
    n.count.set(node, left);
    (left === 0 ? ksm.pages_shared : ksm.pages_sharing).add(this.#root, -1);
  }

  /** The item leaves its node, or, true, stays there as an orphan because forks are found through it. */
  #leaveNode(item: Item): boolean {
    const { layout, pages, rmap, breaks } = this.#deps;
    const i = layout.ksmItem;
    const node = i.node.get(item);
    const pfn = this.grab(node);
    if (pfn < 0) return false;
    pages.lock(pfn);
    const needed = !breaks.ksmNoOrphans && rmap.isMappedThrough(i.anonVma.get(item), i.index.get(item), pfn);
    if (needed) {
      this.#uncount(node);
      i.mm.set(item, 0 as Mm);
    } else this.#release(item, node);
    pages.unlock(pfn);
    pages.put(pfn);
    return needed;
  }

  #release(item: Item, node: Node): void {
    this.#unlink(item, node);
    this.#deps.anonVmas.put(this.#deps.layout.ksmItem.anonVma.get(item));
  }

  /** Undoes the making of a node that nobody else came to share. Requires: the page locked. */
  takeBack(item: Item, node: Node): void {
    this.#unlink(item, node);
    this.destroyNode(node);
  }

  /** Forgets a node whose page is gone, and orphans through which nothing is mapped any more. */
  sweep(node: Node): void {
    const { layout, pages, rmap, slabs } = this.#deps;
    const { ksmItem: i, ksmNode: n } = layout;
    const pfn = this.grab(node);
    if (pfn < 0) return;
    pages.lock(pfn);
    for (let item = n.items.get(node); item !== 0; ) {
      const next = i.link.get(item);
      const orphan = i.mm.get(item) === 0;
      if (orphan && !rmap.isMappedThrough(i.anonVma.get(item), i.index.get(item), pfn)) {
        this.#release(item, node);
        slabs.ksmItem.free(item);
      }
      item = next;
    }
    pages.unlock(pfn);
    pages.put(pfn);
  }
}
