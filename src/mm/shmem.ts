import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import { isPageAligned, type Pfn, pageNumber, pagesOf, type Vpn } from '../base/units.ts';
import { frameByte, Root } from '../sync/arena.ts';
import { i32, type Ptr, ptr, struct } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { MmBreaks } from './breaks.ts';
import { FAULT_RETRY, GUP_NOMEM, GUP_SIGBUS, GUP_WRITABLE } from './fault-codes.ts';
import type { Heap } from './heap.ts';
import { type MmLayout, mkPte, PageFlag, Pte, VmFlag, WP_MARKER } from './layout.ts';
import type { Pages } from './page.ts';
import { MAX_FILE_PAGES, type PageCache } from './page-cache.ts';
import type { PageTable, PteAt } from './page-table.ts';
import type { ShmemUnmap } from './shmem-unmap.ts';
import type { Slabs } from './slab.ts';
import type { Vmstat } from './vmstat.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Inode = Ptr<'inode'>;

const listLayout = (words: Int32Array) =>
  struct(words, 'inodes', {
    lock: i32, //           class 'iPages'
    head: ptr('inode'), //  under the lock
    numbers: i32, //        given so far; under the lock
  });

export type ShmemDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly pages: Pages;
  readonly pageOps: PageOps;
  readonly pageTable: PageTable;
  readonly pageCache: PageCache;
  readonly anonVmas: AnonVmas;
  readonly unmap: ShmemUnmap;
  readonly vmstat: Vmstat;
  readonly breaks: MmBreaks;
  /** A charged frame (memory.ts), or -1. */
  readonly newPage: (mm: Mm, refs: number, flags: number) => Pfn | -1;
};

/**
 * Memory that can be mapped more than once: shared anonymous mappings, and objects like a memfd's. An inode's
 * pages live in its cache, mapped or not; a mapping is a view of them. Linux: mm/shmem.c.
 *
 * The list of the VMAs that map an inode is an anon_vma, `inode.tree`: the reverse map, splits, merges and mremap
 * treat the VMAs of a file as they do others, and its lock stands where Linux has i_mmap_rwsem.
 *
 * A page is in the cache exactly while `mapping` names the tree, and that changes under the page lock alone. A
 * fault maps a page under its lock, so who takes it out under the same lock, and unmaps it there once more,
 * leaves no mapping behind.
 */
export class Shmem {
  readonly #deps: ShmemDeps;
  readonly #list: ReturnType<typeof listLayout>;
  readonly #l: Ptr<'inodes'>;

  constructor(deps: ShmemDeps) {
    this.#deps = deps;
    this.#list = listLayout(deps.sync.words);
    this.#l = deps.sync.arena.root(Root.inodes) as Ptr<'inodes'>;
    assert(this.#l !== 0, 'Shmem: the arena has no list of inodes');
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync, heap: Heap): void {
    sync.arena.setRoot(Root.inodes, heap.alloc(listLayout(sync.words).words));
  }

  /**
   * An object of `bytes`, all holes; the caller holds a reference, for `put`. Throws EINVAL for what is no size,
   * and ENOMEM. Linux: shmem_file_setup, memfd_create and ftruncate.
   */
  create(bytes: number): Inode {
    const { slabs, anonVmas, layout } = this.#deps;
    const pages = sizeOf('shmem', bytes);
    const inode = slabs.inode.alloc();
    const tree = inode === 0 ? (0 as Ptr<'anonVma'>) : anonVmas.create();
    if (tree === 0) {
      if (inode !== 0) slabs.inode.free(inode);
      throw new Errno('ENOMEM', 'shmem', 'no memory for an inode');
    }
    layout.inode.refs.store(inode, 1);
    layout.inode.size.store(inode, pages);
    layout.inode.tree.set(inode, tree);
    this.#locked(() => {
      const { head, numbers } = this.#list;
      numbers.set(this.#l, numbers.get(this.#l) + 1);
      layout.inode.number.set(inode, numbers.get(this.#l));
      layout.inode.next.set(inode, head.get(this.#l));
      head.set(this.#l, inode);
    });
    return inode;
  }

  #locked(work: () => void): void {
    const { sync } = this.#deps;
    sync.lock('iPages', this.#l + this.#list.lock.at);
    work();
    sync.unlock('iPages', this.#l + this.#list.lock.at);
  }

  /** Calls `work` for every inode, which may take no lock: for checks. */
  forEach(work: (inode: Inode) => void): void {
    const { next } = this.#deps.layout.inode;
    this.#locked(() => {
      for (let at = this.#list.head.get(this.#l); at !== 0; at = next.get(at)) work(at);
    });
  }

  /** One more VMA or handle. */
  get(inode: Inode): void {
    const before = this.#deps.layout.inode.refs.add(inode, 1);
    assert(before > 0, 'shmem: a reference to an inode that is gone');
  }

  /** Drops a reference; with the last one the pages go. Requires: no lock below mmap. */
  put(inode: Inode): void {
    const { layout, slabs, anonVmas, pageCache } = this.#deps;
    const before = layout.inode.refs.add(inode, -1);
    assert(before > 0, 'shmem: a reference dropped that nobody held');
    if (before > 1) return;
    this.#removePages(inode, 0, MAX_FILE_PAGES);
    pageCache.destroy(inode);
    this.#locked(() => this.#unlist(inode));
    anonVmas.put(layout.inode.tree.get(inode));
    slabs.inode.free(inode);
  }

  #unlist(inode: Inode): void {
    const { next } = this.#deps.layout.inode;
    const { head } = this.#list;
    if (head.get(this.#l) === inode) head.set(this.#l, next.get(inode));
    for (let at = head.get(this.#l); at !== 0; at = next.get(at)) {
      if (next.get(at) === inode) next.set(at, next.get(inode));
    }
  }

  /** The page of an inode that a page of a VMA shows. Requires: mmap. */
  indexOf(vma: Vma, vpn: Vpn): number {
    const { pgoff, start } = this.#deps.layout.vma;
    return pgoff.get(vma) + vpn - start.get(vma);
  }

  /** The cached page at an index with a reference taken, or 0 for a hole. */
  find(inode: Inode, index: number): Pfn | 0 {
    return this.#deps.pageCache.find(inode, index);
  }

  /** As `find`, and locked: it stays in the cache until it is unlocked. */
  findLocked(inode: Inode, index: number): Pfn | 0 {
    const { pageCache, pages, sync, breaks } = this.#deps;
    for (;;) {
      const pfn = pageCache.find(inode, index);
      if (pfn === 0) return 0;
      sync.y('H.f');
      pages.lock(pfn);
      if (this.#belongs(inode, index, pfn) || breaks.mapUncached) return pfn;
      pages.unlock(pfn);
      pages.put(pfn);
    }
  }

  /** Requires: the page locked, and a reference. */
  #belongs(inode: Inode, index: number, pfn: Pfn): boolean {
    const { layout, pages } = this.#deps;
    const p = pages.at(pfn);
    return (
      layout.page.mapping.load(p) === layout.inode.tree.get(inode) && layout.page.index.load(p) === index
    );
  }

  /** Does a page of a VMA lie beyond the end of its inode? Nobody can supply it. Requires: mmap. */
  isBeyond(vma: Vma, vpn: Vpn): boolean {
    const { layout } = this.#deps;
    return this.indexOf(vma, vpn) >= layout.inode.size.load(layout.vma.ops.get(vma));
  }

  /** Does the cache have the page of a VMA's page? Right to within what changes meanwhile. Requires: mmap. */
  isCached(vma: Vma, vpn: Vpn): boolean {
    const { layout, pages } = this.#deps;
    const pfn = this.find(layout.vma.ops.get(vma), this.indexOf(vma, vpn));
    if (pfn !== 0) pages.put(pfn);
    return pfn !== 0;
  }

  /**
   * As Memory.fault, for a hole of a VMA that maps an inode; `seen` is none, or the marker of a hole that stays
   * write-protected. Requires: mmap for read, nothing below it.
   */
  fault(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, seen: number, write: boolean): number {
    const { layout, pages, vmstat } = this.#deps;
    const pfn = this.#getPage(mm, layout.vma.ops.get(vma), this.indexOf(vma, vpn));
    if (pfn < 0) return pfn;
    const protectedHole = seen === WP_MARKER && (layout.vma.flags.get(vma) & VmFlag.UffdWp) !== 0;
    const bits = protectedHole ? Pte.UffdWp : write ? Pte.Dirty : 0;
    const mapped = this.mapPage(mm, vma, pte, pfn, bits, seen);
    pages.unlock(pfn);
    if (mapped !== FAULT_RETRY) vmstat.add('pgfault', 1);
    if (mapped !== FAULT_RETRY && !(write && protectedHole)) return mapped;
    // A write to what stays protected is a fault of its own.
    pages.put(pfn);
    return FAULT_RETRY;
  }

  /** The page at an index, made if it is a hole; locked, with a reference. Or a code. Linux: shmem_get_folio. */
  #getPage(mm: Mm, inode: Inode, index: number): Pfn | number {
    for (;;) {
      const found = this.findLocked(inode, index);
      if (found !== 0) return found;
      const pfn = this.#deps.newPage(mm, 2, PageFlag.Uptodate | PageFlag.Shmem);
      if (pfn < 0) return GUP_NOMEM;
      this.#deps.pageOps.zero(frameByte(pfn));
      const added = this.add(inode, index, pfn);
      if (added === 'ok') return pfn;
      this.#deps.pages.put(pfn);
      this.#deps.pages.put(pfn);
      // Beyond the end is a bus error, whoever is asked.
      if (added !== 'exists') return added === 'beyond' ? GUP_SIGBUS : GUP_NOMEM;
    }
  }

  /**
   * Makes a new page an inode's: charged, with the flags Uptodate and Shmem, its content in place, and two
   * references, of which one becomes the cache's. It comes back locked if the answer is `ok`. Linux:
   * shmem_add_to_page_cache.
   */
  add(inode: Inode, index: number, pfn: Pfn): 'ok' | 'exists' | 'beyond' | 'no-memory' {
    const { layout, pages, pageCache, anonVmas } = this.#deps;
    const { page, inode: i } = layout;
    const p = pages.at(pfn);
    pages.lock(pfn);
    const tree = i.tree.get(inode);
    page.index.store(p, index);
    page.private.set(p, inode);
    const added = pageCache.add(inode, index, pfn);
    if (added === 'ok') {
      anonVmas.get(tree);
      page.mapping.store(p, tree);
    } else pages.unlock(pfn);
    return added;
  }

  /**
   * Maps a page of the cache where the pte is `expected`, none or a marker, and takes the pte's reference.
   * FAULT_RETRY when the pte is another; else what a fault answers, for which the caller's reference serves. `bits`:
   * further ones of the pte; a UffdWp among them keeps it read-only. Requires: the page locked and in the cache.
   */
  mapPage(mm: Mm, vma: Vma, pte: PteAt, pfn: Pfn, bits: number, expected = 0): number {
    const { pageTable, layout, pages } = this.#deps;
    const mayWrite = (layout.vma.flags.get(vma) & VmFlag.Write) !== 0 && (bits & Pte.UffdWp) === 0;
    const entry = mkPte(pfn, Pte.Young | bits | (mayWrite ? Pte.Write : 0));
    pageTable.lock(pte);
    if (pageTable.held(pte) !== expected) {
      pageTable.unlock(pte);
      return FAULT_RETRY;
    }
    pages.get(pfn);
    layout.page.mapcount.add(pages.at(pfn), 1);
    layout.mm.shmemPages.add(mm, 1);
    if (expected === 0) pageTable.fill(pte, entry);
    else pageTable.replace(pte, entry);
    pageTable.unlock(pte);
    return pfn | (mayWrite ? GUP_WRITABLE : 0);
  }

  /**
   * Makes holes of whole pages: fallocate(PUNCH_HOLE). Whoever maps them faults anew, and reads zeros. Throws
   * EINVAL for what is no range of pages. Requires: no lock below mmap.
   */
  punchHole(inode: Inode, offset: number, bytes: number): void {
    if (!isPageAligned(offset) || offset < 0 || !(bytes > 0))
      throw new Errno('EINVAL', 'fallocate', 'not a range of pages');
    this.removeRange(inode, pageNumber(offset), pageNumber(offset) + pagesOf(bytes));
  }

  /** As punchHole, for the pages [first, end). */
  removeRange(inode: Inode, first: number, end: number): void {
    this.#deps.unmap.range(inode, first, end);
    this.#removePages(inode, first, end);
  }

  /**
   * Changes the size. What is beyond it goes, and touching it is a bus error; what is regained later is zero.
   * Throws EINVAL for what is no size. Requires: no lock below mmap. Linux: shmem_setattr.
   */
  truncate(inode: Inode, bytes: number): void {
    const pages = sizeOf('ftruncate', bytes);
    const before = this.#deps.layout.inode.size.load(inode);
    this.#deps.pageCache.resize(inode, pages);
    if (pages < before) this.removeRange(inode, pages, MAX_FILE_PAGES);
    if (bytes % 4096 !== 0) this.#zeroTail(inode, pages - 1, bytes % 4096);
  }

  #zeroTail(inode: Inode, index: number, from: number): void {
    const { pages, sync } = this.#deps;
    const pfn = this.find(inode, index);
    if (pfn === 0) return;
    sync.arena.bytes.fill(0, frameByte(pfn) + from, frameByte(pfn) + 4096);
    pages.setDirty(pfn);
    pages.put(pfn);
  }

  /** Takes the pages [first, end) out of the cache. Linux: shmem_undo_range. */
  #removePages(inode: Inode, first: number, end: number): void {
    const { pageCache } = this.#deps;
    for (let at = first; ; at++) {
      at = pageCache.next(inode, at, end);
      if (at < 0) return;
      const pfn = this.findLocked(inode, at);
      if (pfn !== 0) this.remove(inode, at, pfn);
    }
  }

  /**
   * Takes a page out of the cache, and out of every mapping. Consumes the caller's reference and lock. Linux:
   * truncate_inode_folio.
   */
  remove(inode: Inode, index: number, pfn: Pfn): void {
    const { layout, pages, pageCache, anonVmas, unmap, sync, breaks } = this.#deps;
    const p = pages.at(pfn);
    sync.y('H.r');
    // A fault may have mapped it since the range was unmapped; from here on none can.
    if (layout.page.mapcount.load(p) > 0 && !breaks.punchUnmapsOnce) unmap.page(inode, pfn);
    pageCache.remove(inode, index, pfn);
    layout.page.mapping.store(p, 0 as Ptr<'anonVma'>);
    anonVmas.put(layout.inode.tree.get(inode));
    pages.unlock(pfn);
    pages.put(pfn);
    pages.put(pfn);
  }
}

function sizeOf(call: string, bytes: number): number {
  const pages = pagesOf(bytes);
  if (!(bytes >= 0) || pages > MAX_FILE_PAGES) throw new Errno('EINVAL', call, 'not a size');
  return pages;
}
