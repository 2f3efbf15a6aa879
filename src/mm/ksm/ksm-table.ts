import { frameWord, Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { type MmLayout, PageFlag } from '../layout.ts';
import type { PageAlloc } from '../page-alloc.ts';
import { BUCKETS_PER_FRAME, type KsmLayout, type KsmRoot } from './ksm-layout.ts';

type Item = Ptr<'ksmItem'>;
type Node = Ptr<'ksmNode'>;

export type KsmTableDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly ksm: KsmLayout;
  readonly pageAlloc: PageAlloc;
};

/**
 * Two hash tables over the content of pages, in place of Linux's trees: the stable one of nodes, and the
 * unstable one of items, which is emptied after each pass because its pages go on changing. Heads lie in frames
 * that are made when first needed. All under 'ksm'.
 */
export class KsmTable {
  readonly #deps: KsmTableDeps;
  readonly #words: Int32Array;
  readonly #root: KsmRoot;

  constructor(deps: KsmTableDeps) {
    this.#deps = deps;
    this.#words = deps.sync.words;
    this.#root = deps.sync.arena.root(Root.ksm) as KsmRoot;
  }

  /** Word index of a bucket's head, 0 when its frame is missing. */
  #head(lo: number, owner: number, unstable: boolean): number {
    const { ksm } = this.#deps.ksm;
    const bucket = (lo ^ Math.imul(owner, 0x9e3779b1)) & ksm.mask.get(this.#root);
    const frames = ksm.directory.get(this.#root);
    const pfn = this.#words[frames + Math.floor(bucket / BUCKETS_PER_FRAME)] as number;
    if (pfn === 0) return 0;
    return frameWord(pfn) + (unstable ? BUCKETS_PER_FRAME : 0) + (bucket % BUCKETS_PER_FRAME);
  }

  /** Makes room for a hash; false when there is no frame. */
  reserve(lo: number, owner: number): boolean {
    if (this.#head(lo, owner, false) !== 0) return true;
    const { ksm } = this.#deps.ksm;
    const pfn = this.#deps.pageAlloc.alloc(1, PageFlag.Slab);
    if (pfn < 0) return false;
    const bucket = (lo ^ Math.imul(owner, 0x9e3779b1)) & ksm.mask.get(this.#root);
    this.#words.fill(0, frameWord(pfn), frameWord(pfn) + 2 * BUCKETS_PER_FRAME);
    this.#words[ksm.directory.get(this.#root) + Math.floor(bucket / BUCKETS_PER_FRAME)] = pfn;
    return true;
  }

  firstNode(lo: number, owner: number): Node {
    const head = this.#head(lo, owner, false);
    return (head === 0 ? 0 : this.#words[head]) as Node;
  }

  /** Requires: `reserve`. */
  addNode(node: Node): void {
    const { lo, owner, link } = this.#deps.layout.ksmNode;
    const head = this.#head(lo.get(node), owner.get(node), false);
    link.set(node, this.#words[head] as Node);
    this.#words[head] = node;
  }

  removeNode(node: Node): void {
    const { lo, owner, link } = this.#deps.layout.ksmNode;
    const head = this.#head(lo.get(node), owner.get(node), false);
    if (this.#words[head] === node) {
      this.#words[head] = link.get(node);
      return;
    }
    for (let at = this.#words[head] as Node; at !== 0; at = link.get(at)) {
      if (link.get(at) === node) link.set(at, link.get(node));
    }
  }

  firstItem(lo: number, owner: number): Item {
    const head = this.#head(lo, owner, true);
    return (head === 0 ? 0 : this.#words[head]) as Item;
  }

  /** Requires: `reserve`; the item's hash set. */
  addItem(item: Item, owner: number): void {
    const { lo, link, back } = this.#deps.layout.ksmItem;
    const head = this.#head(lo.get(item), owner, true);
    const first = this.#words[head] as Item;
    link.set(item, first);
    back.set(item, 0 as Item);
    if (first !== 0) back.set(first, item);
    this.#words[head] = item;
  }

  removeItem(item: Item, owner: number): void {
    const { lo, link, back } = this.#deps.layout.ksmItem;
    const [next, before] = [link.get(item), back.get(item)];
    if (next !== 0) back.set(next, before);
    if (before !== 0) link.set(before, next);
    else this.#words[this.#head(lo.get(item), owner, true)] = next;
  }

  /** Forgets every item: a pass is over. */
  clearUnstable(): void {
    const { ksm } = this.#deps.ksm;
    const directory = ksm.directory.get(this.#root);
    const frames = (ksm.mask.get(this.#root) + 1) / BUCKETS_PER_FRAME;
    for (let i = 0; i < frames; i++) {
      const pfn = this.#words[directory + i] as number;
      const at = frameWord(pfn) + BUCKETS_PER_FRAME;
      if (pfn !== 0) this.#words.fill(0, at, at + BUCKETS_PER_FRAME);
    }
  }

  /** What the unstable table holds: for checks. */
  unstable(): Item[] {
    const { ksm } = this.#deps.ksm;
    const found: Item[] = [];
    const frames = (ksm.mask.get(this.#root) + 1) / BUCKETS_PER_FRAME;
    for (let i = 0; i < frames * BUCKETS_PER_FRAME; i++) {
      const pfn = this.#words[ksm.directory.get(this.#root) + Math.floor(i / BUCKETS_PER_FRAME)] as number;
      const head = frameWord(pfn) + BUCKETS_PER_FRAME + (i % BUCKETS_PER_FRAME);
      let at = (pfn === 0 ? 0 : this.#words[head]) as Item;
      for (; at !== 0; at = this.#deps.layout.ksmItem.link.get(at)) found.push(at);
    }
    return found;
  }
}
