import { assert } from '../base/assert.ts';
import { PAGE_WORDS, type Pfn } from '../base/units.ts';
import { frameByte, frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import { type MmLayout, PageFlag } from './layout.ts';
import type { Pages } from './page.ts';
import type { PageAlloc } from './page-alloc.ts';

type Inode = Ptr<'inode'>;

// Two levels: a frame of 1024 numbers of frames of 1024 pfns each, 0 for none. An arena holds no more pages.
const LEAF_PAGES = PAGE_WORDS;
/** Pages that an inode can have. */
export const MAX_FILE_PAGES = PAGE_WORDS * LEAF_PAGES;

export type PageCacheDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageOps: PageOps;
};

/**
 * The pages of an inode by their index. The cache holds a reference to each. Everything is under the inode's
 * lock, a leaf. Linux: mm/filemap.c over an xarray.
 */
export class PageCache {
  readonly #deps: PageCacheDeps;
  readonly #words: Int32Array;

  constructor(deps: PageCacheDeps) {
    this.#deps = deps;
    this.#words = deps.sync.words;
  }

  #lock(inode: Inode): void {
    this.#deps.sync.lock('iPages', inode + this.#deps.layout.inode.lock.at);
  }

  #unlock(inode: Inode): void {
    this.#deps.sync.unlock('iPages', inode + this.#deps.layout.inode.lock.at);
  }

  /** The page at an index with a reference taken, or 0. It may leave the cache unless the caller locks it. */
  find(inode: Inode, index: number): Pfn | 0 {
    this.#lock(inode);
    const at = this.#slot(inode, index);
    const pfn = at === 0 ? 0 : (this.#words[at] as number);
    if (pfn !== 0) this.#deps.pages.get(pfn);
    this.#unlock(inode);
    return pfn;
  }

  /** Where the pfn of an index stands, or 0 when there is no table for it. Requires: the lock. */
  #slot(inode: Inode, index: number): number {
    const root = this.#deps.layout.inode.root.get(inode);
    const leaf = root === 0 ? 0 : (this.#words[frameWord(root) + Math.floor(index / LEAF_PAGES)] as number);
    return leaf === 0 ? 0 : frameWord(leaf) + (index % LEAF_PAGES);
  }

  /**
   * Puts a page in, the cache taking over a reference that the caller has. `beyond`: the inode ends before
   * that index. Requires: the page locked, or known to nobody else.
   */
  add(inode: Inode, index: number, pfn: Pfn): 'ok' | 'exists' | 'beyond' | 'no-memory' {
    const { size, pages } = this.#deps.layout.inode;
    for (;;) {
      this.#lock(inode);
      const beyond = index >= size.load(inode);
      const at = this.#slot(inode, index);
      const free = !beyond && at !== 0 && this.#words[at] === 0;
      if (free) {
        this.#words[at] = pfn;
        pages.set(inode, pages.get(inode) + 1);
      }
      this.#unlock(inode);
      if (free) return 'ok';
      if (beyond || at !== 0) return beyond ? 'beyond' : 'exists';
      if (!this.#grow(inode, index)) return 'no-memory';
    }
  }

  /** Makes the table that an index lies in, unless another thread does. */
  #grow(inode: Inode, index: number): boolean {
    const { root } = this.#deps.layout.inode;
    const fresh = this.#newTable();
    if (fresh < 0) return false;
    this.#lock(inode);
    let used = true;
    if (root.get(inode) === 0) root.set(inode, fresh);
    else {
      const at = frameWord(root.get(inode)) + Math.floor(index / LEAF_PAGES);
      if (this.#words[at] === 0) this.#words[at] = fresh;
      else used = false;
    }
    this.#unlock(inode);
    if (!used) this.#deps.pageAlloc.free(fresh);
    return true;
  }

  #newTable(): Pfn | -1 {
    const pfn = this.#deps.pageAlloc.alloc(1, PageFlag.Slab);
    if (pfn >= 0) this.#deps.pageOps.zero(frameByte(pfn));
    return pfn;
  }

  /** Takes a page out; the cache's reference is the caller's then. Requires: the page locked. */
  remove(inode: Inode, index: number, pfn: Pfn): void {
    const { pages } = this.#deps.layout.inode;
    this.#lock(inode);
    const at = this.#slot(inode, index);
    assert(at !== 0 && this.#words[at] === pfn, 'page cache: a page removed that is not there');
    this.#words[at] = 0;
    pages.set(inode, pages.get(inode) - 1);
    this.#unlock(inode);
  }

  /** The first index of [from, end) that has a page, or -1. */
  next(inode: Inode, from: number, end: number): number {
    this.#lock(inode);
    let found = -1;
    for (let index = from; index < end && found < 0; ) {
      const at = this.#slot(inode, index);
      if (at === 0) index = (Math.floor(index / LEAF_PAGES) + 1) * LEAF_PAGES;
      else if (this.#words[at] === 0) index++;
      else found = index;
    }
    this.#unlock(inode);
    return found;
  }

  /** Changes the inode's size: no page is added beyond it from here on. */
  resize(inode: Inode, pages: number): void {
    this.#lock(inode);
    this.#deps.layout.inode.size.store(inode, pages);
    this.#unlock(inode);
  }

  /** Frees the tables of an inode that has no pages and that nobody knows any more. */
  destroy(inode: Inode): void {
    const { root, pages } = this.#deps.layout.inode;
    assert(pages.get(inode) === 0, 'page cache: destroyed with pages');
    const top = root.get(inode);
    if (top === 0) return;
    for (let i = 0; i < PAGE_WORDS; i++) {
      const leaf = this.#words[frameWord(top) + i] as number;
      if (leaf !== 0) this.#deps.pageAlloc.free(leaf);
    }
    this.#deps.pageAlloc.free(top);
    root.set(inode, 0);
  }
}
