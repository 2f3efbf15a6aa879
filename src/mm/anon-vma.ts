import { assert } from '../base/assert.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmLayout } from './layout.ts';
import type { Slabs } from './slab.ts';
import type { Vmas } from './vma.ts';

type AnonVma = Ptr<'anonVma'>;
type Avc = Ptr<'avc'>;
type Vma = Ptr<'vma'>;

const NONE = 0 as AnonVma;

/**
 * Which VMAs may map an anonymous page (design 9). A page names an anon_vma; that lists, through
 * anon_vma_chains, the VMA in which the page was born and those that fork made of it. A fork gives the
 * child's VMA an anon_vma of its own for the pages it will make, below the parent's; all of such a tree
 * share the lock of its root. Linux: anon_vma of mm/rmap.c.
 *
 * Kept alive by one count for each chain, each page that names it, and each anon_vma whose root it is.
 */
export class AnonVmas {
  readonly #sync: Sync;
  readonly #layout: MmLayout;
  readonly #slabs: Slabs;
  readonly #vmas: Vmas;

  constructor(sync: Sync, layout: MmLayout, slabs: Slabs, vmas: Vmas) {
    this.#sync = sync;
    this.#layout = layout;
    this.#slabs = slabs;
    this.#vmas = vmas;
  }

  /** Takes the lock of the tree that an anon_vma belongs to. */
  lock(anonVma: AnonVma): void {
    const { root, lock } = this.#layout.anonVma;
    this.#sync.lock('anonVma', root.get(anonVma) + lock.at);
  }

  unlock(anonVma: AnonVma): void {
    const { root, lock } = this.#layout.anonVma;
    this.#sync.unlock('anonVma', root.get(anonVma) + lock.at);
  }

  get(anonVma: AnonVma, by = 1): void {
    this.#layout.anonVma.refcount.add(anonVma, by);
  }

  put(anonVma: AnonVma): void {
    const { refcount, root, head } = this.#layout.anonVma;
    const before = refcount.add(anonVma, -1);
    assert(before > 0, 'anon_vma: a count dropped that nobody held');
    if (before > 1) return;
    assert(head.get(anonVma) === 0, 'anon_vma: freed with VMAs');
    const above = root.get(anonVma);
    this.#slabs.anonVma.free(anonVma);
    if (above !== anonVma) this.put(above);
  }

  /** The tree of an inode, with one count, the caller's; 0 when there is no memory. */
  create(): AnonVma {
    return this.#newAnonVma(NONE, NONE);
  }

  /** Ties a new VMA to the tree of the inode that it maps. False: no memory. Requires: mmap for write. */
  join(vma: Vma, tree: AnonVma): boolean {
    const avc = this.#slabs.avc.alloc();
    if (avc === 0) return false;
    this.lock(tree);
    this.#link(vma, avc, tree);
    this.unlock(tree);
    this.#layout.vma.anonVma.store(vma, tree);
    this.#addActive(tree, 1);
    return true;
  }

  /** The VMA's anon_vma, made if it has none; 0 when there is no memory. Requires: mmap, for read at least. */
  prepare(vma: Vma): AnonVma {
    const seen = this.#layout.vma.anonVma.load(vma);
    return seen !== 0 ? seen : this.#create(vma);
  }

  #create(vma: Vma): AnonVma {
    const { mm, vma: v } = this.#layout;
    const shared = this.#neighbours(vma);
    const fresh = shared === 0 ? this.#newAnonVma(NONE, NONE) : shared;
    if (fresh === 0) return NONE;
    const avc = this.#slabs.avc.alloc();
    if (avc === 0) {
      if (shared === 0) this.put(fresh);
      return NONE;
    }
    const tableLock = v.mm.get(vma) + mm.tableLock.at;
    this.lock(fresh);
    this.#sync.lock('ptl', tableLock);
    const winner = v.anonVma.load(vma);
    if (winner === 0) {
      this.#link(vma, avc, fresh);
      const { activeVmas } = this.#layout.anonVma;
      activeVmas.set(fresh, activeVmas.get(fresh) + 1);
      v.anonVma.store(vma, fresh);
    }
    this.#sync.unlock('ptl', tableLock);
    this.unlock(fresh);
    if (winner !== 0) this.#slabs.avc.free(avc);
    if (shared === 0) this.put(fresh); // the maker's own count
    return winner !== 0 ? winner : fresh;
  }

  /**
   * The anon_vma of a neighbour that this VMA could be merged with, once their rights are equal: had each its
   * own, they never could (M-2). The VMA that has it keeps it alive, as mmap is held. Linux:
   * find_mergeable_anon_vma.
   */
  #neighbours(vma: Vma): AnonVma {
    const { vma: v } = this.#layout;
    const mm = v.mm.get(vma);
    const index = this.#vmas.indexOf(mm, v.start.get(vma));
    const after = index + 1 < this.#vmas.count(mm) ? this.#reusable(vma, index + 1, true) : NONE;
    return after !== 0 || index === 0 ? after : this.#reusable(vma, index - 1, false);
  }

  #reusable(vma: Vma, index: number, isAfter: boolean): AnonVma {
    const { vma: v, avc } = this.#layout;
    const other = this.#vmas.at(v.mm.get(vma), index);
    const [low, high] = isAfter ? [vma, other] : [other, vma];
    const pages = v.end.get(low) - v.start.get(low);
    if (v.end.get(low) !== v.start.get(high) || v.pgoff.get(low) + pages !== v.pgoff.get(high)) return NONE;
    const anonVma = v.anonVma.load(other);
    if (anonVma === 0 || !this.#vmas.sameButRights(low, high)) return NONE;
    return avc.nextSameVma.get(v.avcs.get(other)) === 0 ? anonVma : NONE;
  }

  /** With one count, the caller's. */
  #newAnonVma(root: AnonVma, parent: AnonVma): AnonVma {
    const a = this.#layout.anonVma;
    const fresh = this.#slabs.anonVma.alloc();
    if (fresh === 0) return NONE;
    a.refcount.store(fresh, 1);
    a.root.set(fresh, root === 0 ? fresh : root);
    a.parent.set(fresh, parent === 0 ? fresh : parent);
    if (root !== 0) this.get(root);
    else a.children.set(fresh, 1);
    return fresh;
  }

  /** Requires: the tree's lock, and mmap or the only reach of the VMA. */
  #link(vma: Vma, avc: Avc, anonVma: AnonVma): void {
    const { vma: v, avc: c, anonVma: a } = this.#layout;
    c.vma.set(avc, vma);
    c.anonVma.set(avc, anonVma);
    c.nextSameVma.set(avc, v.avcs.get(vma));
    v.avcs.set(vma, avc);
    const head = a.head.get(anonVma);
    c.nextSameAnonVma.set(avc, head);
    if (head !== 0) c.prevSameAnonVma.set(head, avc);
    a.head.set(anonVma, avc);
    this.get(anonVma);
  }

  /**
   * Ties `to` to every anon_vma of `from`: a split, or the first half of a fork. False when there is no
   * memory, `to` then being tied to none. Requires: mmap for write.
   */
  clone(to: Vma, from: Vma): boolean {
    const { vma: v, avc: c } = this.#layout;
    for (let avc = v.avcs.get(from); avc !== 0; avc = c.nextSameVma.get(avc)) {
      const fresh = this.#slabs.avc.alloc();
      if (fresh === 0) {
        v.anonVma.store(to, NONE); // not counted as active yet
        this.unlink(to);
        return false;
      }
      const anonVma = c.anonVma.get(avc);
      this.lock(anonVma);
      this.#link(to, fresh, anonVma);
      this.#reuse(to, from, anonVma);
      this.unlock(anonVma);
    }
    const own = v.anonVma.load(to);
    if (own !== 0) this.#addActive(own, 1);
    return true;
  }

  /** An anon_vma of a forebear with no VMA of its own and one child serves a fork again. Requires: its lock. */
  #reuse(to: Vma, from: Vma, anonVma: AnonVma): void {
    const { vma: v, anonVma: a } = this.#layout;
    if (v.anonVma.load(to) !== 0 || v.anonVma.load(from) === 0) return;
    if (a.children.get(anonVma) < 2 && a.activeVmas.get(anonVma) === 0) v.anonVma.store(to, anonVma);
  }

  #addActive(anonVma: AnonVma, by: number): void {
    const { activeVmas } = this.#layout.anonVma;
    this.lock(anonVma);
    activeVmas.set(anonVma, activeVmas.get(anonVma) + by);
    this.unlock(anonVma);
  }

  /** Gives a child's VMA the chains of its parent's and an anon_vma of its own. False: no memory. */
  fork(child: Vma, parent: Vma): boolean {
    const { vma: v, anonVma: a } = this.#layout;
    const above = v.anonVma.load(parent);
    if (above === 0) return true;
    if (v.ops.get(parent) !== 0) {
      // Both map the inode: no page is the child's alone.
      v.anonVma.store(child, above);
      return this.clone(child, parent);
    }
    v.anonVma.store(child, NONE);
    if (!this.clone(child, parent)) return false;
    if (v.anonVma.load(child) !== 0) return true;
    const own = this.#newAnonVma(a.root.get(above), above);
    const avc = own === 0 ? (0 as Avc) : this.#slabs.avc.alloc();
    if (avc === 0) {
      if (own !== 0) this.put(own);
      v.anonVma.store(child, NONE);
      this.unlink(child);
      return false;
    }
    v.anonVma.store(child, own);
    this.lock(own);
    this.#link(child, avc, own);
    a.activeVmas.set(own, 1);
    a.children.set(above, a.children.get(above) + 1);
    this.unlock(own);
    this.put(own);
    return true;
  }

  /**
   * Unties a VMA from everything: after this no walk of the reverse map finds it. Requires: mmap for
   * write, and no pte left that maps through it.
   */
  unlink(vma: Vma): void {
    const { vma: v, avc: c } = this.#layout;
    for (let avc = v.avcs.get(vma); avc !== 0; avc = c.nextSameVma.get(avc)) this.#unlinkOne(avc);
    const own = v.anonVma.load(vma);
    if (own !== 0 && v.avcs.get(vma) !== 0) this.#addActive(own, -1);
    v.anonVma.store(vma, NONE);
    // Only now may anon_vmas go: until here a child names its parent.
    for (let avc = v.avcs.get(vma); avc !== 0; ) {
      const next = c.nextSameVma.get(avc);
      const anonVma = c.anonVma.get(avc);
      this.#slabs.avc.free(avc);
      this.put(anonVma);
      avc = next;
    }
    v.avcs.set(vma, 0 as Avc);
  }

  #unlinkOne(avc: Avc): void {
    const { avc: c, anonVma: a } = this.#layout;
    const anonVma = c.anonVma.get(avc);
    this.lock(anonVma);
    const next = c.nextSameAnonVma.get(avc);
    const prev = c.prevSameAnonVma.get(avc);
    if (next !== 0) c.prevSameAnonVma.set(next, prev);
    if (prev !== 0) c.nextSameAnonVma.set(prev, next);
    else a.head.set(anonVma, next);
    if (a.head.get(anonVma) === 0) {
      const parent = a.parent.get(anonVma);
      a.children.set(parent, a.children.get(parent) - 1);
    }
    this.unlock(anonVma);
  }
}
