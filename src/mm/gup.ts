import type { Pfn, Vpn } from '../base/units.ts';
import { frameWord } from '../sync/arena.ts';
import type { AtomicWords } from '../sync/atomics.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import {
  FAULT_RETRY,
  FaultFlag,
  GUP_BLOCKED,
  GUP_FAULT,
  GUP_HUGE,
  GUP_PFN_MASK,
  GUP_WRITABLE,
} from './fault-codes.ts';
import { createFastWalks, FAST_DROP, type FastWalks, MISS, readNeeds, writeNeeds } from './gup-fast.ts';
import { type MmLayout, Pte, pmdIsHuge, ptePfn } from './layout.ts';
import type { Memory } from './memory.ts';
import { type Pages, STORE_HOLD } from './page.ts';
import { hugePte, VPN_MAX } from './page-table.ts';
import type { UffdHandle } from './userfaultfd/handle.ts';
import type { Ticket } from './userfaultfd/queues.ts';
import type { UffdWaits } from './userfaultfd/waits.ts';
import type { Vmas } from './vma.ts';

type Mm = Ptr<'mm'>;

export type GupDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly vmas: Vmas;
  readonly memory: Memory;
  readonly uffdHandle: UffdHandle;
  readonly uffdWaits: UffdWaits;
  /** M-21: under the rule of 2014 one access is delivered once, then it is SIGBUS. */
  readonly retryRule: '2014' | 'modern';
};

/** Gets a page of an mm for an access, with a reference. Linux: mm/gup.c. */
export class Gup {
  readonly #deps: GupDeps;
  readonly #atomics: AtomicWords;
  readonly #mm: MmLayout['mm'];
  readonly #pages: Pages;
  /** Generated; undefined where the explorer may stop within. */
  readonly #generated: FastWalks | undefined;

  constructor(deps: GupDeps) {
    this.#deps = deps;
    this.#atomics = deps.sync.arena.atomics;
    this.#mm = deps.layout.mm;
    this.#pages = deps.pages;
    const { arena } = deps.sync;
    if (arena.atomicsKind === 'generated') this.#generated = createFastWalks(arena, deps.layout, deps.pages);
  }

  /**
   * The frame behind a page: `pfn | GUP_WRITABLE` if the pte lets it be written, with one reference held
   * for the caller, or a negative GUP_ code. The zero page may answer a read; its references aren't
   * counted. After GUP_BLOCKED the caller owns `ticket`. `how` is of FaultFlag. Requires: no lock of the mm.
   */
  fault(mm: Mm, vpn: Vpn, write: boolean, how = 0): number {
    const fast = this.fast(mm, vpn, write);
    return fast === MISS ? this.#slow(mm, vpn, write, how) : fast;
  }

  /** What the last GUP_BLOCKED on this thread waits for; 0: nothing, as it was told not to. */
  get ticket(): Ticket {
    return this.#deps.uffdHandle.ticket;
  }

  /**
   * As `fault`, but sleeps until user faults are answered, as often as it takes; so GUP_BLOCKED only with
   * NoWait. No lock may be held: who answers may need it (M-24).
   */
  faultWait(mm: Mm, vpn: Vpn, write: boolean, how = 0): number {
    const fast = this.fast(mm, vpn, write);
    return fast === MISS ? this.#slowWait(mm, vpn, write, how) : fast;
  }

  #slowWait(mm: Mm, vpn: Vpn, write: boolean, how: number): number {
    for (;;) {
      const result = this.#slow(mm, vpn, write, how);
      if (result !== GUP_BLOCKED || this.ticket === 0) return result;
      this.sleep(this.ticket);
      if (this.#deps.retryRule === '2014') how |= FaultFlag.Tried;
    }
  }

  /**
   * The frame behind a page, held for one store that follows at once and `pages.endHold` ends; or a negative code. As
   * a processor's store, it lands before the right to it is taken away, or is not made: who takes rights waits
   * for it (`pages.settle`). Sleeps as `faultWait` does.
   */
  holdWait(mm: Mm, vpn: Vpn, how = 0): number {
    for (;;) {
      const held = this.#hold(mm, vpn);
      if (held !== MISS) return held & GUP_PFN_MASK;
      const result = this.#slowWait(mm, vpn, true, how);
      if (result < 0) return result;
      if (this.#confirm(mm, vpn, result & GUP_PFN_MASK)) return result & GUP_PFN_MASK;
    }
  }

  /** The fault's answer may be out of date: held for the store, the entry is looked at again. Takes the reference. */
  #confirm(mm: Mm, vpn: Vpn, pfn: Pfn): boolean {
    this.#pages.toHold(pfn);
    const found = this.#generated?.look(mm, vpn, writeNeeds) ?? this.walk(mm, vpn, true, 0);
    if (found >= 0 && (found & GUP_PFN_MASK) === pfn) return true;
    this.#pages.endHold(pfn);
    return false;
  }

  #hold(mm: Mm, vpn: Vpn): number {
    if (this.#generated === undefined) return this.walk(mm, vpn, true, STORE_HOLD);
    const found = this.#generated.hold(mm, vpn, writeNeeds);
    if (found >= 0 || found === MISS) return found;
    if (found > FAST_DROP) return this.walk(mm, vpn, true, STORE_HOLD);
    this.#pages.endHold(FAST_DROP - found);
    return MISS;
  }

  /** Waits for a ticket and finishes it. */
  sleep(ticket: Ticket): void {
    const { uffdWaits, sync } = this.#deps;
    sync.y('U.k');
    try {
      uffdWaits.wait(ticket);
    } finally {
      uffdWaits.finish(ticket);
    }
  }

  /**
   * Without a lock. The tables may be freed and reused under the walk, so nothing read counts until
   * `wpSeq` is seen unmoved: it is odd while tables are freed and while fork write-protects (N-25). For
   * the same reason it writes nothing: an entry that lacks the marks of use is left to the slow path.
   */
  fast(mm: Mm, vpn: Vpn, write: boolean): number {
    if (this.#generated === undefined) return this.walk(mm, vpn, write);
    const found = this.#generated.walk(mm, vpn, write ? writeNeeds : readNeeds);
    if (found >= 0 || found === MISS) return found;
    if (found > FAST_DROP) return this.walk(mm, vpn, write);
    this.#pages.put(FAST_DROP - found);
    return MISS;
  }

  /** `fast` as it is meant, huge entries included; taking 1, STORE_HOLD or nothing of the frame's count. */
  walk(mm: Mm, vpn: Vpn, write: boolean, refs = 1): number {
    if (vpn >>> 0 >= VPN_MAX) return MISS;
    const seq = this.#mm.wpSeq.load(mm);
    if ((seq & 1) !== 0) return MISS;
    const top = this.#atomics.load(frameWord(this.#mm.pgd.get(mm)) + (vpn >>> 18));
    if (!this.#deps.sync.arena.isFrame(ptePfn(top))) return MISS;
    const pmd = frameWord(ptePfn(top)) + ((vpn >>> 9) & 511);
    const middle = this.#atomics.load(pmd);
    if (pmdIsHuge(middle)) return this.#fastHuge(mm, vpn, write, refs, seq, pmd, middle);
    if (!this.#deps.sync.arena.isFrame(ptePfn(middle))) return MISS;
    const pte = frameWord(ptePfn(middle)) + (vpn & 511);
    const entry = this.#atomics.load(pte);
    const need = write ? writeNeeds : readNeeds;
    if ((entry & (need | Pte.ProtNone)) !== need) return MISS;
    return this.#grab(mm, refs, seq, pte, entry);
  }

  /** As for a pte, but the entry that must still be what we read is the middle one. */
  #fastHuge(
    mm: Mm,
    vpn: Vpn,
    write: boolean,
    refs: number,
    seq: number,
    pmd: number,
    middle: number,
  ): number {
    const need = write ? writeNeeds : readNeeds;
    if ((middle & (need | Pte.ProtNone)) !== need) return MISS;
    const pfn = ptePfn(hugePte(middle, vpn));
    if (!this.#deps.sync.arena.isFrame(pfn) || !this.#take(pfn, refs)) return MISS;
    if (this.#atomics.load(pmd) !== middle || this.#mm.wpSeq.load(mm) !== seq) {
      this.#giveBack(pfn, refs);
      return MISS;
    }
    if ((middle & Pte.Zero) !== 0) return pfn;
    return pfn | GUP_HUGE | ((middle & Pte.Write) !== 0 ? GUP_WRITABLE : 0);
  }

  /** Reference first, then is the pte still what we read? */
  #grab(mm: Mm, refs: number, seq: number, pte: number, entry: number): number {
    const pfn = ptePfn(entry);
    if (!this.#deps.sync.arena.isFrame(pfn) || !this.#take(pfn, refs)) return MISS;
    if (this.#atomics.load(pte) !== entry || this.#mm.wpSeq.load(mm) !== seq) {
      this.#giveBack(pfn, refs);
      return MISS;
    }
    return pfn | ((entry & Pte.Write) !== 0 ? GUP_WRITABLE : 0);
  }

  #take(pfn: Pfn, refs: number): boolean {
    if (refs === 0) return true;
    return refs === 1 ? this.#pages.tryGet(pfn) : this.#pages.tryHold(pfn);
  }

  #giveBack(pfn: Pfn, refs: number): void {
    if (refs === 1) this.#pages.put(pfn);
    else if (refs !== 0) this.#pages.endHold(pfn);
  }

  #slow(mm: Mm, vpn: Vpn, write: boolean, how: number): number {
    const { sync, vmas, memory, uffdHandle } = this.#deps;
    const lock = mm + this.#mm.mmapLock.at;
    for (;;) {
      sync.readLock('mmap', lock);
      const vma = this.#mm.users.load(mm) === 0 ? 0 : vmas.find(mm, vpn);
      const result = vma === 0 ? GUP_FAULT : memory.fault(mm, vma, vpn, write, how);
      sync.readUnlock('mmap', lock);
      if (result === GUP_BLOCKED) sync.y('U.d');
      if (result !== FAULT_RETRY) return result;
      uffdHandle.beforeRetry();
    }
  }
}
