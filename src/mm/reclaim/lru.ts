import { assert } from '../../base/assert.ts';
import type { Pfn } from '../../base/units.ts';
import { Root } from '../../sync/arena.ts';
import type { AtomicWords } from '../../sync/atomics.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { type MmLayout, PageFlag } from '../layout.ts';
import { MAX_PAGEVECS, PAGEVEC_SIZE, type ReclaimLayout } from './reclaim-layout.ts';
import type { PagesPort, WordsPort } from './reclaim-ports.ts';

type Lruvec = Ptr<'lruvec'>;

export type LruDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly reclaim: ReclaimLayout;
  readonly pages: Pick<PagesPort, 'at' | 'tryGet'>;
  readonly heap: WordsPort;
  readonly vmstat?: {
    add(name: 'workingset_refault_anon' | 'workingset_activate_anon' | 'pgactivate', by: number): void;
  };
};

const ON_LRU = PageFlag.Lru | PageFlag.LruPending;

/**
 * Which pages to take first: per group an active and an inactive list, newest at the head. Linux: swap.c,
 * the lists of vmscan.c, workingset.c.
 *
 * A new page goes into its thread's *pagevec*, so that the lock is taken once for 15 of them. A pagevec
 * holds no reference: a page in it carries LruPending, which only the LRU lock's holder turns into Lru, and
 * freeing the page clears it. A leftover entry of a freed page therefore does nothing, or, when the frame
 * is pending again for a new owner, does that owner's work. Pagevecs lie in the arena, so that reclaim
 * empties those of all threads.
 */
export class Lru {
  readonly #deps: LruDeps;
  readonly #atomics: AtomicWords;
  readonly #root: Lruvec;
  readonly #pagevecs: number;
  /** This thread's, or 0: then pages are added one by one. */
  readonly #pagevec: Ptr<'pagevec'> | 0;
  #pending = 0;

  constructor(deps: LruDeps) {
    this.#deps = deps;
    this.#atomics = deps.sync.arena.atomics;
    const lru = deps.sync.arena.root(Root.lru) as Ptr<'lru'>;
    assert(lru !== 0, 'Lru: the arena has no lru root');
    this.#root = deps.reclaim.lru.root.get(lru);
    this.#pagevecs = deps.reclaim.lru.pagevecs.get(lru);
    this.#pagevec = this.#claimPagevec();
  }

  /** Once per arena, before the first instance. */
  static init(deps: Omit<LruDeps, 'pages' | 'vmstat'>): void {
    const { lru, pagevec } = deps.reclaim;
    const at = deps.heap.alloc(lru.words) as Ptr<'lru'>;
    lru.root.set(at, deps.heap.alloc(deps.layout.lruvec.words) as Lruvec);
    lru.pagevecs.set(at, deps.heap.alloc(MAX_PAGEVECS * pagevec.words));
    deps.sync.arena.setRoot(Root.lru, at);
  }

  #claimPagevec(): Ptr<'pagevec'> | 0 {
    const { pagevec } = this.#deps.reclaim;
    for (let i = 0; i < MAX_PAGEVECS; i++) {
      const vec = (this.#pagevecs + i * pagevec.words) as Ptr<'pagevec'>;
      if (pagevec.owner.cas(vec, 0, 1) === 0) return vec;
    }
    return 0;
  }

  /** The thread leaves: its pagevec is emptied and free for another. The instance is dead. */
  close(): void {
    this.drain();
    if (this.#pagevec !== 0) this.#deps.reclaim.pagevec.owner.store(this.#pagevec, 0);
  }

  createLruvec(): Lruvec {
    return this.#deps.heap.alloc(this.#deps.layout.lruvec.words) as Lruvec;
  }

  /** The lists of a group; of pages charged to none when 0. */
  lruvecOf(memcg: Ptr<'memcg'>): Lruvec {
    return memcg === 0 ? this.#root : this.#deps.layout.memcg.lru.get(memcg);
  }

  #lruvecOfPage(p: Ptr<'page'>): Lruvec {
    return this.lruvecOf(this.#deps.layout.page.memcg.load(p));
  }

  lock(lruvec: Lruvec): void {
    this.#deps.sync.lock('lru', lruvec + this.#deps.layout.lruvec.lock.at);
  }

  unlock(lruvec: Lruvec): void {
    this.#deps.sync.unlock('lru', lruvec + this.#deps.layout.lruvec.lock.at);
  }

  /** A new or newly swapped-in anonymous page, its `memcg` set; inactive unless a refault made it Active. */
  add(pfn: Pfn): void {
    const before = this.#deps.layout.page.flags.or(this.#deps.pages.at(pfn), PageFlag.LruPending);
    assert((before & ON_LRU) === 0, 'lru: a page is added once');
    this.addPending(pfn);
  }

  /** As `add`, for a page that was born LruPending: that spares an atomic. */
  addPending(pfn: Pfn): void {
    if (this.#pagevec === 0) {
      this.#settle(pfn);
      return;
    }
    // Only this thread fills the vector, front to back; others at most empty it.
    const at = this.#pagevec + this.#deps.reclaim.pagevec.pages.at + this.#pending;
    this.#atomics.store(at, pfn);
    if (++this.#pending === PAGEVEC_SIZE) this.drain();
  }

  /**
   * Puts `count` new pages on the inactive list at once. The caller has filled in their records, which
   * nobody can find yet: Lru set, linked in order, ends open. The first is the newest. Requires: no leaf lock.
   */
  addRun(first: Pfn, count: number): void {
    const { page, lruvec: l } = this.#deps.layout;
    const last = this.#deps.pages.at(first + count - 1);
    const lruvec = this.#lruvecOfPage(last);
    this.lock(lruvec);
    const head = l.inactiveHead.get(lruvec);
    page.next.set(last, head);
    page.prev.set(this.#deps.pages.at(first), 0);
    if (head !== 0) page.prev.set(this.#deps.pages.at(head), first + count - 1);
    else l.inactiveTail.set(lruvec, first + count - 1);
    l.inactiveHead.set(lruvec, first);
    l.inactiveCount.add(lruvec, count);
    this.unlock(lruvec);
  }

  /** Empties this thread's pagevec. Requires: no leaf lock. */
  drain(): void {
    if (this.#pagevec !== 0) this.#drainVec(this.#pagevec);
    this.#pending = 0;
  }

  /** Empties the pagevecs of all threads. Linux: lru_add_drain_all. */
  drainAll(): void {
    for (let i = 0; i < MAX_PAGEVECS; i++) {
      this.#drainVec((this.#pagevecs + i * this.#deps.reclaim.pagevec.words) as Ptr<'pagevec'>);
    }
  }

  #drainVec(vec: Ptr<'pagevec'>): void {
    let locked = 0 as Lruvec;
    for (let i = 0; i < PAGEVEC_SIZE; i++) {
      const at = vec + this.#deps.reclaim.pagevec.pages.at + i;
      if (vec !== this.#pagevec && this.#atomics.load(at) === 0) continue;
      const pfn = this.#atomics.exchange(at, 0);
      if (pfn !== 0) locked = this.#settleLocked(pfn, locked);
    }
    if (locked !== 0) this.unlock(locked);
  }

  #settle(pfn: Pfn): void {
    const locked = this.#settleLocked(pfn, 0 as Lruvec);
    if (locked !== 0) this.unlock(locked);
  }

  /**
   * Puts a pending page on its list. `locked` is the vector whose lock is held, 0 for none; returns which
   * is held now. One without references is being freed, or born again: then it doesn't say yet whose it is, and is
   * named by another pagevec, too.
   */
  #settleLocked(pfn: Pfn, locked: Lruvec): Lruvec {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    while ((page.flags.load(p) & PageFlag.LruPending) !== 0 && page.refcount.load(p) !== 0) {
      const lruvec = this.#lruvecOfPage(p);
      if (lruvec === locked) {
        // With the lock of its own group held the page can be neither freed nor moved: `remove` takes it.
        this.#linkHead(locked, pfn, PageFlag.LruPending);
        break;
      }
      if (locked !== 0) this.unlock(locked);
      locked = lruvec;
      this.lock(locked);
    }
    return locked;
  }

  /** Takes a page off that is being freed (refcount 0). Requires: no leaf lock. */
  remove(pfn: Pfn): void {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    if ((page.flags.load(p) & ON_LRU) === 0) return;
    const lruvec = this.#lruvecOfPage(p);
    this.lock(lruvec);
    if ((page.flags.load(p) & PageFlag.Lru) !== 0) this.#unlink(lruvec, pfn);
    page.flags.and(p, ~(ON_LRU | PageFlag.Active));
    this.unlock(lruvec);
  }

  /** The page was used by the VMM: counts at the next scan like a young pte. */
  markAccessed(pfn: Pfn): void {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    if ((page.flags.load(p) & PageFlag.Referenced) === 0) page.flags.or(p, PageFlag.Referenced);
  }

  /** To the cold end: MADV_COLD. */
  deactivate(pfn: Pfn): void {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    this.drain();
    const lruvec = this.#lruvecOfPage(p);
    this.lock(lruvec);
    const flags = page.flags.load(p);
    const listed = (flags & (PageFlag.Lru | PageFlag.Unevictable)) === PageFlag.Lru;
    if (listed && this.#lruvecOfPage(p) === lruvec) {
      this.#unlink(lruvec, pfn);
      page.flags.and(p, ~(PageFlag.Active | PageFlag.Referenced));
      this.#linkTail(lruvec, pfn);
    }
    this.unlock(lruvec);
  }

  /**
   * The page is Mlocked, or no more: it leaves the lists, or comes back to one. On its way to the LRU, or off it,
   * it comes to the right place by itself. The caller's page-table lock, or a reference, keeps it. Linux:
   * mlock_folio, munlock_folio.
   */
  move(pfn: Pfn): void {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const lruvec = this.#lruvecOfPage(p);
    this.lock(lruvec);
    if ((page.flags.load(p) & PageFlag.Lru) !== 0) {
      this.#unlink(lruvec, pfn);
      this.#linkHead(lruvec, pfn);
    }
    this.unlock(lruvec);
  }

  /** Pages of a group that are on no list because they are locked in memory; a hint. */
  unevictable(lruvec: Lruvec): number {
    return this.#deps.layout.lruvec.unevictable.load(lruvec);
  }

  /**
   * Takes one given page off its list with a reference, for MADV_PAGEOUT. The caller's page-table lock, or
   * a reference, keeps it from being freed meanwhile. False if it is on no list.
   */
  isolatePage(pfn: Pfn): boolean {
    const { page } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const lruvec = this.#lruvecOfPage(p);
    this.lock(lruvec);
    const on = (page.flags.load(p) & PageFlag.Lru) !== 0 && this.#deps.pages.tryGet(pfn);
    if (on) {
      this.#unlink(lruvec, pfn);
      page.flags.and(p, ~PageFlag.Lru);
    }
    this.unlock(lruvec);
    return on;
  }

  /**
   * Takes up to `count` of the oldest pages off a list, a reference to each with them. Returns how many
   * are in `into`.
   */
  isolate(lruvec: Lruvec, active: boolean, count: number, into: Int32Array): number {
    const { lruvec: l } = this.#deps.layout;
    const tail = active ? l.activeTail : l.inactiveTail;
    let taken = 0;
    this.lock(lruvec);
    for (let looked = 0; looked < 2 * count && taken < count; looked++) {
      const pfn = tail.get(lruvec);
      if (pfn === 0) break;
      const held = this.#deps.pages.tryGet(pfn);
      this.#unlink(lruvec, pfn);
      if (held) {
        this.#deps.layout.page.flags.and(this.#deps.pages.at(pfn), ~PageFlag.Lru);
        into[taken++] = pfn;
      } else {
        // On its way out; its Lru bit stays set, for `remove` waits for this lock.
        this.#linkHead(lruvec, pfn);
      }
    }
    this.unlock(lruvec);
    return taken;
  }

  /** Puts isolated pages back at the head of the list that their Active flag says. The references stay. */
  putback(pfns: Int32Array, count: number): void {
    let locked = 0 as Lruvec;
    for (let i = 0; i < count; i++) {
      const pfn = pfns[i] as Pfn;
      const lruvec = this.#lruvecOfPage(this.#deps.pages.at(pfn));
      if (lruvec !== locked) {
        if (locked !== 0) this.unlock(locked);
        locked = lruvec;
        this.lock(locked);
      }
      this.#linkHead(locked, pfn);
    }
    if (locked !== 0) this.unlock(locked);
  }

  /** Pages on the list; a hint, since it is read without the lock. */
  count(lruvec: Lruvec, active: boolean): number {
    const { lruvec: l } = this.#deps.layout;
    return (active ? l.activeCount : l.inactiveCount).load(lruvec);
  }

  /** A page moves up to the active list: the clock ticks (workingset_activation). */
  activated(lruvec: Lruvec): void {
    this.#deps.layout.lruvec.age.add(lruvec, 1);
    this.#deps.layout.lruvec.pgactivate.add(lruvec, 1);
    this.#deps.vmstat?.add('pgactivate', 1);
  }

  /** Notes an eviction and returns the clock's reading for the page's slot. Linux: workingset_eviction. */
  evicted(lruvec: Lruvec): number {
    return this.#deps.layout.lruvec.age.add(lruvec, 1) & 0x3fffffff;
  }

  /**
   * A page comes back. If the clock moved by less than the active list is long, it would have stayed had it
   * been there: it starts active. Linux: workingset_refault.
   */
  refaulted(pfn: Pfn, age: number): void {
    const { page, lruvec: l } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const lruvec = this.#lruvecOfPage(p);
    const distance = (l.age.load(lruvec) - age) & 0x3fffffff;
    l.refaults.add(lruvec, 1);
    this.#deps.vmstat?.add('workingset_refault_anon', 1);
    if (distance > l.activeCount.load(lruvec)) return;
    l.activations.add(lruvec, 1);
    this.#deps.vmstat?.add('workingset_activate_anon', 1);
    page.flags.or(p, PageFlag.Active | PageFlag.Workingset);
  }

  /**
   * `from`: the flag that Lru takes the place of, in one step, as `remove` looks for either before it takes
   * the lock; or 0. Requires: 'lru'.
   */
  #linkHead(lruvec: Lruvec, pfn: Pfn, from = 0): void {
    const { page, lruvec: l } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const before = from === 0 ? page.flags.or(p, PageFlag.Lru) : page.flags.add(p, PageFlag.Lru - from);
    if ((before & PageFlag.Mlocked) !== 0) {
      page.flags.or(p, PageFlag.Unevictable);
      l.unevictable.add(lruvec, 1);
      return;
    }
    const active = (before & PageFlag.Active) !== 0;
    const head = active ? l.activeHead : l.inactiveHead;
    const tail = active ? l.activeTail : l.inactiveTail;
    const first = head.get(lruvec);
    page.next.set(p, first);
    page.prev.set(p, 0);
    if (first !== 0) page.prev.set(this.#deps.pages.at(first), pfn);
    else tail.set(lruvec, pfn);
    head.set(lruvec, pfn);
    (active ? l.activeCount : l.inactiveCount).add(lruvec, 1);
  }

  /** As #linkHead, at the cold end of the inactive list. Requires: 'lru', Active clear. */
  #linkTail(lruvec: Lruvec, pfn: Pfn): void {
    const { page, lruvec: l } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    page.flags.or(p, PageFlag.Lru);
    const last = l.inactiveTail.get(lruvec);
    page.prev.set(p, last);
    page.next.set(p, 0);
    if (last !== 0) page.next.set(this.#deps.pages.at(last), pfn);
    else l.inactiveHead.set(lruvec, pfn);
    l.inactiveTail.set(lruvec, pfn);
    l.inactiveCount.add(lruvec, 1);
  }

  /** Off its list; the Lru bit is the caller's to clear. Requires: 'lru'. */
  #unlink(lruvec: Lruvec, pfn: Pfn): void {
    const { page, lruvec: l } = this.#deps.layout;
    const p = this.#deps.pages.at(pfn);
    const flags = page.flags.load(p);
    if ((flags & PageFlag.Unevictable) !== 0) {
      page.flags.and(p, ~PageFlag.Unevictable);
      l.unevictable.add(lruvec, -1);
      return;
    }
    const active = (flags & PageFlag.Active) !== 0;
    const next = page.next.get(p);
    const prev = page.prev.get(p);
    if (next !== 0) page.prev.set(this.#deps.pages.at(next), prev);
    else (active ? l.activeTail : l.inactiveTail).set(lruvec, prev);
    if (prev !== 0) page.next.set(this.#deps.pages.at(prev), next);
    else (active ? l.activeHead : l.inactiveHead).set(lruvec, next);
    (active ? l.activeCount : l.inactiveCount).add(lruvec, -1);
    page.next.set(p, 0);
    page.prev.set(p, 0);
  }
}
