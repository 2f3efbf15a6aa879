import { assert } from '../base/assert.ts';
import { PAGE_WORDS, type Pfn, type Vpn } from '../base/units.ts';
import { frameByte, frameWord } from '../sync/arena.ts';
import type { AtomicWords } from '../sync/atomics.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import { GUP_WRITABLE } from './fault-codes.ts';
import { type MmLayout, mkPte, PageFlag, PTE_BITS, PTE_PFN_SHIFT, Pte, ptePfn, Table } from './layout.ts';
import type { Pages } from './page.ts';
import type { PageAlloc } from './page-alloc.ts';

// Three levels of nine bits cover the 27 bits of a page number: top, middle, and the table of ptes.
// A pte is named by the word index of its entry; the rest of its table is found by masking.

// A middle entry is named likewise: none, a table, or Present | Huge over 512 aligned frames (M-5, decision 4).

const TABLE_MASK = ~(PAGE_WORDS - 1);
const INDEX = 511;
/** Pages that one table of ptes maps, and one middle table. */
export const TABLE_PAGES = 512;
const MIDDLE_PAGES = 512 * 512;
export const VPN_MAX = 1 << 27;

/** Word index of a page-table entry. */
export type PteAt = number;
/** Instead of a pte: a huge entry maps the page; see `pmd`. */
export const HUGE = -1;

export type PageTableDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly pageOps: PageOps;
};

/**
 * An mm's page tables. Entries of every level change under their table's lock alone, by atomics, as they are
 * read without it. Who holds the lock, and so shuts out every writer, reads them plainly; likewise who holds
 * mmap reads the entries of the upper tables. Under mmap for read those go none → table, none → huge,
 * huge → table, huge → none; so a table stays one, and whoever saw anything else looks again under the lock.
 */
export class PageTable {
  readonly #deps: PageTableDeps;
  readonly #words: Int32Array;
  readonly #atomics: AtomicWords;

  constructor(deps: PageTableDeps) {
    this.#deps = deps;
    this.#words = deps.sync.words;
    this.#atomics = deps.sync.arena.atomics;
  }

  /** Makes the top table; false when there is no frame. */
  create(mm: Ptr<'mm'>): boolean {
    const pfn = this.newTable();
    if (pfn < 0) return false;
    this.#deps.layout.mm.pgd.set(mm, pfn);
    return true;
  }

  /** The entry of a page, 0 when there is no table for it, or HUGE. Takes no lock. */
  walk(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const top = this.#atomics.load(frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18));
    if (top === 0) return 0;
    const middle = this.#atomics.load(frameWord(ptePfn(top)) + ((vpn >>> 9) & INDEX));
    if ((middle & Pte.Huge) !== 0) return HUGE;
    return middle === 0 ? 0 : frameWord(ptePfn(middle)) + (vpn & INDEX);
  }

  /** As `walk`, for who holds mmap. */
  peek(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const words = this.#words;
    const top = words[frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18)] as number;
    if (top === 0) return 0;
    const middle = words[frameWord(ptePfn(top)) + ((vpn >>> 9) & INDEX)] as number;
    if ((middle & Pte.Huge) !== 0) return HUGE;
    return middle === 0 ? 0 : frameWord(ptePfn(middle)) + (vpn & INDEX);
  }

  /** Where the middle entry of a page lies, or 0 when there is no middle table. Takes no lock. */
  pmd(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const top = this.#atomics.load(frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18));
    return top === 0 ? 0 : frameWord(ptePfn(top)) + ((vpn >>> 9) & INDEX);
  }

  /** As `pmd`, making the middle table; 0 when there is no frame. Requires: mmap. */
  allocPmd(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const middle = this.#below(mm, frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18));
    return middle < 0 ? 0 : frameWord(ptePfn(middle)) + ((vpn >>> 9) & INDEX);
  }

  /**
   * What maps a page, as a pte: its own entry, or what a huge entry says of it, with Huge kept; 0 for none.
   * Takes no lock.
   */
  entryOf(mm: Ptr<'mm'>, vpn: Vpn): number {
    const pmd = this.pmd(mm, vpn);
    const middle = pmd === 0 ? 0 : this.#atomics.load(pmd);
    if ((middle & Pte.Huge) !== 0) return hugePte(middle, vpn);
    return middle === 0 ? 0 : this.#atomics.load(frameWord(ptePfn(middle)) + (vpn & INDEX));
  }

  /**
   * pfn | GUP_WRITABLE of a page that a small entry maps and anybody may use; -1 for all else, the zero page too. Takes
   * no lock: the caller knows that no invalidation is about the page.
   */
  mapped(mm: Ptr<'mm'>, vpn: Vpn): number {
    const entry = this.entryOf(mm, vpn);
    if ((entry & (Pte.Present | Pte.Zero | Pte.ProtNone | Pte.Huge)) !== Pte.Present) return -1;
    return ptePfn(entry) | ((entry & Pte.Write) !== 0 ? GUP_WRITABLE : 0);
  }

  /** Does a huge entry map a page to this frame, or to any when -1? Takes no lock. */
  mapsHuge(mm: Ptr<'mm'>, vpn: Vpn, pfn: Pfn): boolean {
    const pmd = this.pmd(mm, vpn);
    const middle = pmd === 0 ? 0 : this.#atomics.load(pmd);
    if ((middle & (Pte.Huge | Pte.Zero)) !== Pte.Huge) return false;
    return pfn < 0 || ptePfn(middle) + (vpn & INDEX) === pfn;
  }

  /** As `walk`, making the tables on the way; 0 when there is no frame, or HUGE. Requires: mmap. */
  alloc(mm: Ptr<'mm'>, vpn: Vpn): PteAt {
    const top = frameWord(this.#deps.layout.mm.pgd.get(mm)) + (vpn >>> 18);
    const middle = this.#below(mm, top);
    if (middle < 0) return 0;
    const table = this.#below(mm, frameWord(ptePfn(middle)) + ((vpn >>> 9) & INDEX));
    if (table < 0) return 0;
    return (table & Pte.Huge) !== 0 ? HUGE : frameWord(ptePfn(table)) + (vpn & INDEX);
  }

  /** An entry of an upper table, a table made for it if it is none; -1 when there is no frame. */
  #below(mm: Ptr<'mm'>, entryAt: number): number {
    const entry = this.#words[entryAt] as number;
    return entry !== 0 ? entry : this.#install(mm, entryAt);
  }

  #install(mm: Ptr<'mm'>, entryAt: number): number {
    const { layout, pageAlloc } = this.#deps;
    const fresh = this.newTable();
    if (fresh < 0) return -1;
    this.lock(entryAt);
    const entry = this.held(entryAt);
    if (entry === 0) this.fill(entryAt, mkPte(fresh, 0));
    this.unlock(entryAt);
    if (entry !== 0) {
      pageAlloc.free(fresh);
      return entry;
    }
    layout.mm.nrPtes.add(mm, 1);
    return mkPte(fresh, 0);
  }

  /** An empty table that nobody points to; -1 when there is no frame. `pageAlloc.free` ends it. */
  newTable(): Pfn | -1 {
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
    return this.#atomics.load(pte);
  }

  /** As `load`. Requires: its lock. */
  held(pte: PteAt): number {
    return this.#words[pte] as number;
  }

  /** Fills an entry that is none. Requires: its lock. */
  fill(pte: PteAt, entry: number): void {
    this.#words[(pte & TABLE_MASK) + Table.used]! += 1;
    this.#atomics.store(pte, entry);
  }

  /** Replaces an entry that is not present by another that is not none. Requires: its lock. */
  replace(pte: PteAt, entry: number): void {
    this.#atomics.store(pte, entry);
  }

  /** Empties an entry for good; what it was, bits set in the last moment included. Requires: its lock. */
  clear(pte: PteAt): number {
    this.#words[(pte & TABLE_MASK) + Table.used]! -= 1;
    return this.#atomics.exchange(pte, 0);
  }

  /** Empties an entry that `replace` fills again under the same hold of the lock. Requires: its lock. */
  take(pte: PteAt): number {
    return this.#atomics.exchange(pte, 0);
  }

  /** Sets and clears bits of an entry. Returns what it was. Requires: its lock. */
  change(pte: PteAt, set: number, clear: number): number {
    const before = this.#words[pte] as number;
    const after = (before & ~clear) | set;
    if (after !== before) this.#atomics.store(pte, after);
    return before;
  }

  /** Calls `work` for each middle entry that is not none, with its first page. Requires: mmap. */
  eachPmd(mm: Ptr<'mm'>, work: (entry: number, vpn: Vpn) => void): void {
    const top = frameWord(this.#deps.layout.mm.pgd.get(mm));
    for (let i = 0; i < TABLE_PAGES; i++) {
      const middle = this.#words[top + i] as number;
      for (let j = 0; middle !== 0 && j < TABLE_PAGES; j++) {
        const entry = this.#atomics.load(frameWord(ptePfn(middle)) + j);
        if (entry !== 0) work(entry, i * MIDDLE_PAGES + j * TABLE_PAGES);
      }
    }
  }

  /**
   * Makes a middle entry that is none huge, and keeps an empty `table` with it, from which a split will make
   * 512 entries. Requires: the lock of the middle table.
   */
  fillHuge(pmd: PteAt, entry: number, table: Pfn): void {
    assert(this.held(pmd) === 0, 'H-4: a huge entry is made where there is none');
    this.#deposit(pmd, table);
    this.fill(pmd, entry);
  }

  #deposit(pmd: PteAt, table: Pfn): void {
    const spare = (pmd & TABLE_MASK) + Table.deposit;
    this.#words[frameWord(table)] = this.#words[spare] as number;
    this.#words[spare] = table;
  }

  #withdraw(pmd: PteAt): Pfn {
    const spare = (pmd & TABLE_MASK) + Table.deposit;
    const table = this.#words[spare] as Pfn;
    assert(table !== 0, 'page table: a huge entry has a table in deposit');
    this.#words[spare] = this.#words[frameWord(table)] as number;
    this.#words[frameWord(table)] = 0;
    return table;
  }

  /**
   * Makes a huge entry none. Returns the table that was kept with it, which no walker ever saw: the caller
   * frees it, or deposits it elsewhere. Requires: the lock of the middle table.
   */
  clearHuge(pmd: PteAt): Pfn {
    this.clear(pmd);
    return this.#withdraw(pmd);
  }

  /**
   * Makes 512 entries of a huge one: the same frames, rights and marks of use (H-10), the zero page in each
   * of a huge zero's (H-11). It cannot fail. Requires: the lock of the middle table.
   */
  splitHuge(pmd: PteAt): void {
    const entry = this.held(pmd);
    const table = this.#withdraw(pmd);
    const first = frameWord(table);
    const step = (entry & Pte.Zero) !== 0 ? 0 : 1 << PTE_PFN_SHIFT;
    for (let i = 0, e = entry & ~Pte.Huge; i < TABLE_PAGES; i++, e = (e + step) | 0)
      this.#words[first + i] = e;
    this.#words[first + Table.used] = TABLE_PAGES;
    // Publishes what was filled in plainly.
    this.replace(pmd, mkPte(table, 0));
  }

  /**
   * Takes a table of ptes out of a middle entry, for a collapse. Walkers without a lock may still be in it.
   * Requires: the lock of the middle table, mmap for write, `wpSeq` odd.
   */
  detach(pmd: PteAt): Pfn {
    return ptePfn(this.clear(pmd));
  }

  /** The pte of a page in a table that `detach` took out. */
  pteIn(table: Pfn, vpn: Vpn): PteAt {
    return frameWord(table) + (vpn & INDEX);
  }

  /**
   * Frees the tables of [start, end) that lie within [floor, ceiling), where no VMA is left. Requires:
   * mmap for write, `wpSeq` odd (lockless walkers look at it), no VMA there in any anon_vma.
   */
  free(mm: Ptr<'mm'>, start: Vpn, end: Vpn, floor: Vpn, ceiling: Vpn): void {
    const top = frameWord(this.#deps.layout.mm.pgd.get(mm));
    for (let base = start - (start % MIDDLE_PAGES); base < end; base += MIDDLE_PAGES) {
      const entry = this.#atomics.load(top + (base >>> 18));
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
    const entry = this.#atomics.load(entryAt);
    if (entry === 0) return;
    assert((entry & Pte.Huge) === 0, 'page table: freed with a huge entry');
    const table = ptePfn(entry);
    assert(this.#words[frameWord(table) + Table.used] === 0, 'page table: freed with entries');
    this.#words[(entryAt & TABLE_MASK) + Table.used]! -= 1;
    this.#atomics.store(entryAt, 0);
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

/** What a huge entry says of one of its pages, as a pte with Huge kept. */
export const hugePte = (entry: number, vpn: Vpn): number =>
  (entry & Pte.Zero) !== 0 ? entry : mkPte(ptePfn(entry) + (vpn & INDEX), entry & PTE_BITS);

/** The first page of the next table of ptes. */
export const nextTable = (vpn: Vpn): Vpn => (vpn | INDEX) + 1;
