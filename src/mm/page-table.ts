import { assert } from '../base/assert.ts';
import { PAGE_WORDS, type Pfn, type Vpn } from '../base/units.ts';
import { frameByte, frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import { type MmLayout, mkPte, PageFlag, ptePfn, Table } from './layout.ts';
import type { Pages } from './page.ts';
import type { PageAlloc } from './page-alloc.ts';

// Three levels of nine bits cover the 27 bits of a page number: top, middle, and the table of ptes.
// A pte is named by the word index of its entry; the rest of its table is found by masking.

const TABLE_MASK = ~(PAGE_WORDS - 1);
const INDEX = 511;
/** Pages that one table of ptes maps, and one middle table. */
export const TABLE_PAGES = 512;
const MIDDLE_PAGES = 512 * 512;
export const VPN_MAX = 1 << 27;

/** Word index of a page-table entry. */
export type PteAt = number;

export type PageTableDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageOps: PageOps;
};

/**
 * An mm's page tables. Entries change under their table's lock alone, by atomics, as they are read without
 * it. Who holds the lock, and so shuts out every writer, reads them plainly; likewise who holds mmap reads
 * the entries of the upper tables, which then only ever go from none to a table, and are looked at again
 * under the lock.
 */
export class PageTable {
  readonly #deps: PageTableDeps;
  readonly #words: Int32Array;

  constructor(deps: PageTableDeps) {
    this.#deps = deps;
    this.#words = deps.sync.words;
  }

  /** Makes the top table; false when there is no frame. */
  create(mm: Ptr<'mm'>): boolean {
    const pfn = this.#newTable();
    if (pfn < 0) return false;
    this.#deps.layout.mm.pgd.set(mm, pfn);
    return true;
  }

  /** The entry of a page, or 0 when there is no table for it. Takes no lock. */
  walk(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const words = this.#words;
    const top = Atomics.load(words, frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18));
    if (top === 0) return 0;
    const middle = Atomics.load(words, frameWord(ptePfn(top)) + ((vpn >>> 9) & INDEX));
    return middle === 0 ? 0 : frameWord(ptePfn(middle)) + (vpn & INDEX);
  }

  /** As `walk`, making the tables on the way; 0 when there is no frame. Requires: mmap. */
  alloc(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const top = frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18);
    const middle = this.#below(mm, top);
    if (middle < 0) return 0;
    const table = this.#below(mm, frameWord(middle) + ((vpn >>> 9) & INDEX));
    return table < 0 ? 0 : frameWord(table) + (vpn & INDEX);
  }

  /** The table that a middle entry names, made if need be; -1 when there is no frame. */
  #below(mm: Ptr<'mm'>, entryAt: number): Pfn | -1 {
    const entry = this.#words[entryAt] as number;
    return entry !== 0 ? ptePfn(entry) : this.#install(mm, entryAt);
  }

  #install(mm: Ptr<'mm'>, entryAt: number): Pfn | -1 {
    const { sync, layout, pageAlloc } = this.#deps;
    const fresh = this.#newTable();
    if (fresh < 0) return -1;
    sync.lock('ptl', mm + layout.mm.tableLock.at);
    const entry = Atomics.load(this.#words, entryAt);
    if (entry === 0) {
      Atomics.store(this.#words, entryAt, mkPte(fresh, 0));
      this.#words[(entryAt & TABLE_MASK) + Table.used]! += 1;
    }
    sync.unlock('ptl', mm + layout.mm.tableLock.at);
    if (entry !== 0) {
      pageAlloc.free(fresh);
      return ptePfn(entry);
    }
    layout.mm.nrPtes.add(mm, 1);
    return fresh;
  }

  #newTable(): Pfn | -1 {
    const { pageAlloc, pages, pageOps } = this.#deps;
    const pfn = pageAlloc.alloc();
    if (pfn < 0) return -1;
    pageOps.zero(frameByte(pfn));
    pages.set(pfn, PageFlag.Table);
    this.#words[frameWord(pfn) + Table.refs] = 1;
    return pfn;
  }

  /** Takes the lock of the table that an entry lies in. */
  lock(pte: PteAt): void {
    this.#deps.sync.lock('ptl', (pte & TABLE_MASK) + Table.lock);
  }

  unlock(pte: PteAt): void {
    this.#deps.sync.unlock('ptl', (pte & TABLE_MASK) + Table.lock);
  }

  /** Takes the locks of the tables of two entries, lower address first; the same one once (M-10). */
  lockTwo(a: PteAt, b: PteAt): void {
    this.lock(Math.min(a, b));
    if ((a & TABLE_MASK) !== (b & TABLE_MASK)) this.lock(Math.max(a, b));
  }

  unlockTwo(a: PteAt, b: PteAt): void {
    this.unlock(a);
    if ((a & TABLE_MASK) !== (b & TABLE_MASK)) this.unlock(b);
  }

  load(pte: PteAt): number {
    return Atomics.load(this.#words, pte);
  }

  /** As `load`. Requires: its lock. */
  held(pte: PteAt): number {
    return this.#words[pte] as number;
  }

  /** Fills an entry that is none. Requires: its lock. */
  fill(pte: PteAt, entry: number): void {
    this.#words[(pte & TABLE_MASK) + Table.used]! += 1;
    Atomics.store(this.#words, pte, entry);
  }

  /** Replaces an entry that is not present by another that is not none. Requires: its lock. */
  replace(pte: PteAt, entry: number): void {
    Atomics.store(this.#words, pte, entry);
  }

  /** Empties an entry for good; what it was, bits set in the last moment included. Requires: its lock. */
  clear(pte: PteAt): number {
    this.#words[(pte & TABLE_MASK) + Table.used]! -= 1;
    return Atomics.exchange(this.#words, pte, 0);
  }

  /** Empties an entry that `replace` fills again under the same hold of the lock. Requires: its lock. */
  take(pte: PteAt): number {
    return Atomics.exchange(this.#words, pte, 0);
  }

  /** Sets and clears bits of an entry. Returns what it was. Requires: its lock. */
  change(pte: PteAt, set: number, clear: number): number {
    const before = this.#words[pte] as number;
    const after = (before & ~clear) | set;
    if (after !== before) Atomics.store(this.#words, pte, after);
    return before;
  }

  /**
   * Frees the tables of [start, end) that lie within [floor, ceiling), where no VMA is left. Requires:
   * mmap for write, `wpSeq` odd (lockless walkers look at it), no VMA there in any anon_vma.
   */
  free(mm: Ptr<'mm'>, start: Vpn, end: Vpn, floor: Vpn, ceiling: Vpn): void {
    const top = frameWord(this.#deps.layout.mm.pgd.get(mm));
    for (let base = start - (start % MIDDLE_PAGES); base < end; base += MIDDLE_PAGES) {
      const entry = Atomics.load(this.#words, top + (base >>> 18));
      if (entry === 0) continue;
      const middle = frameWord(ptePfn(entry));
      const from = Math.max(base, start - (start % TABLE_PAGES));
      for (let at = from; at < Math.min(end, base + MIDDLE_PAGES); at += TABLE_PAGES) {
        if (at >= floor && at + TABLE_PAGES <= ceiling) this.#drop(mm, middle + ((at >>> 9) & INDEX));
      }
      if (base >= floor && base + MIDDLE_PAGES <= ceiling) this.#drop(mm, top + (base >>> 18));
    }
  }

  #drop(mm: Ptr<'mm'>, entryAt: number): void {
    const entry = Atomics.load(this.#words, entryAt);
    if (entry === 0) return;
    const table = ptePfn(entry);
    assert(this.#words[frameWord(table) + Table.used] === 0, 'page table: freed with entries');
    this.#words[(entryAt & TABLE_MASK) + Table.used]! -= 1;
    Atomics.store(this.#words, entryAt, 0);
    this.#deps.layout.mm.nrPtes.add(mm, -1);
    this.#deps.pageAlloc.free(table);
  }

  /** The mm is empty and nobody walks it. */
  destroy(mm: Ptr<'mm'>): void {
    const pgd = this.#deps.layout.mm.pgd.get(mm);
    assert(this.#words[frameWord(pgd) + Table.used] === 0, 'page table: destroyed with entries');
    this.#deps.layout.mm.pgd.set(mm, 0);
    this.#deps.pageAlloc.free(pgd);
  }

  /** Entries of the table of a pte that are not none. */
  used(pte: PteAt): number {
    return this.#words[(pte & TABLE_MASK) + Table.used] as number;
  }
}

/** The first page of the next table of ptes. */
export const nextTable = (vpn: Vpn): Vpn => (vpn | INDEX) + 1;
