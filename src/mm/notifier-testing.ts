import { assert } from '../base/assert.ts';
import type { Pfn, Vpn } from '../base/units.ts';
import { LOCK_ORDER } from '../sync/lockdep.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmCore } from './core.ts';
import { GUP_PFN_MASK, GUP_WRITABLE } from './fault-codes.ts';
import { PageFlag, Pte, pteIsPresent, ptePfn } from './layout.ts';
import { type MmuNotifierOps, NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';

type Mm = Ptr<'mm'>;
type Range = { start: Vpn; end: Vpn; event: number };

const EVENTS = Object.entries(NotifyEvent);
const eventName = (event: number): string => EVENTS.find(([, value]) => value === event)![0];

/**
 * A subscriber that proves the contract of every call (N-26 a): pairs with the same bounds (N-12), no ptl and
 * the right outer lock at start (N-15), nothing after release (N-18). Writes down what it hears, pages
 * counted from `base`.
 */
export class Checker {
  readonly log: string[] = [];
  readonly #open: Range[] = [];
  readonly #core: MmCore;
  readonly #base: Vpn;
  #released = false;

  constructor(core: MmCore, base: Vpn) {
    this.#core = core;
    this.#base = base;
  }

  ops(): MmuNotifierOps {
    return {
      name: 'checker',
      pins: false,
      invalidateRangeStart: (_s, _mm, start, end, event, flags) => this.#start({ start, end, event }, flags),
      invalidateRangeEnd: (_s, _mm, start, end, event) => this.#end({ start, end, event }),
      flush: () => this.#say('flush'),
      clearYoung: (_s, _mm, start) => {
        this.#say(`age ${start - this.#base}`);
        return false;
      },
      ageingPassEnd: () => this.#say('pass'),
      release: () => {
        this.#maySleep();
        assert(this.#open.length === 0, 'N-19: released inside a range');
        this.#say('release');
        this.#released = true;
      },
    };
  }

  #say(what: string): void {
    assert(!this.#released, 'N-18: called after release');
    this.log.push(what);
  }

  #start(range: Range, flags: number): number {
    const { lockdep } = this.#core.sync;
    assert(range.start < range.end, 'N-16: a range has pages');
    assert(Number.isInteger(range.start) && Number.isInteger(range.end), 'N-16: a range is of whole pages');
    assert(lockdep === undefined || !lockdep.holds('ptl'), 'N-15: start under a ptl');
    const outer = lockdep === undefined || lockdep.holds('mmap') || lockdep.holds('anonVma');
    assert(outer, 'N-15: start under mmap or an anon_vma lock');
    this.#maySleep();
    this.#open.push(range);
    this.#say(`start ${this.#text(range)}${(flags & NotifyFlag.DeferFlush) !== 0 ? ' deferred' : ''}`);
    return 0;
  }

  #end(range: Range): void {
    const { lockdep } = this.#core.sync;
    assert(lockdep === undefined || !lockdep.holds('ptl'), 'N-15: end under a ptl');
    this.#maySleep();
    const at = this.#open.findIndex(r => this.#text(r) === this.#text(range));
    assert(at >= 0, 'N-12: an end without its start');
    this.#open.splice(at, 1);
    this.#say(`end ${this.#text(range)}`);
  }

  /** N-24: at the ends of a range and at release a subscriber may take its time. */
  #maySleep(): void {
    const { lockdep } = this.#core.sync;
    for (const cls of LOCK_ORDER.slice(LOCK_ORDER.indexOf('ptl')))
      assert(lockdep === undefined || !lockdep.holds(cls), 'N-24: called under a lock that forbids sleeping');
  }

  #text({ start, end, event }: Range): string {
    return `${eventName(event)} ${start - this.#base}-${end - this.#base}`;
  }

  /** What was heard since the last call; no range may be open. */
  heard(): string[] {
    assert(this.#open.length === 0, 'N-12: a start without its end');
    return this.log.splice(0);
  }
}

/**
 * A subscriber that holds translations of its own and compares them with the primary at rest (N-26 b). With
 * `pins` each holds a page reference, as in 2008.
 */
export class Shadow {
  readonly entries = new Map<Vpn, { pfn: Pfn; writable: boolean }>();
  readonly #core: MmCore;
  readonly #pins: boolean;
  /** It shares the primary's tables, and hears of its flushes alone (N-23). */
  readonly #shares: boolean;

  constructor(core: MmCore, pins: boolean, shares = false) {
    this.#core = core;
    this.#pins = pins;
    this.#shares = shares;
  }

  ops(): MmuNotifierOps {
    const drop = (_s: number, _mm: Mm, start: Vpn, end: Vpn): 0 => this.#drop(start, end);
    const page = (_s: number, _mm: Mm, vpn: Vpn): void => void this.#drop(vpn, vpn + 1);
    const release = (): void => void this.#drop(0, 2 ** 27);
    if (this.#shares) return { name: 'sharing', pins: false, archInvalidateSecondaryTlbs: drop, release };
    if (this.#pins)
      return { name: 'pinning', pins: true, invalidatePage: page, invalidateRangeEnd: drop, release };
    return { name: 'shadow', pins: false, invalidateRangeStart: drop, release };
  }

  #drop(start: Vpn, end: Vpn): 0 {
    for (const [vpn, { pfn }] of [...this.entries]) {
      if (vpn < start || vpn >= end) continue;
      this.entries.delete(vpn);
      assert(
        !this.#core.pages.has(pfn, PageFlag.Free),
        'J-9: a frame is free before its translation is gone',
      );
      if (this.#pins) this.#core.pages.put(pfn);
    }
    return 0;
  }

  /** Takes a translation, as a vCPU's fault does; nothing when the access is refused. */
  fill(mm: Mm, vpn: Vpn, write: boolean): void {
    const found = this.#core.gup.fault(mm, vpn, write);
    if (found < 0) return;
    const pfn = found & GUP_PFN_MASK;
    const old = this.entries.get(vpn);
    this.entries.set(vpn, { pfn, writable: (found & GUP_WRITABLE) !== 0 });
    if (!this.#pins) this.#core.pages.put(pfn);
    else if (old !== undefined) this.#core.pages.put(old.pfn);
  }

  /** OR-3: each maps the frame that the primary maps, writable only if that is. */
  check(mm: Mm): void {
    for (const [vpn, { pfn, writable }] of this.entries) {
      const entry = this.#core.pageTable.entryOf(mm, vpn);
      assert(pteIsPresent(entry) && ptePfn(entry) === pfn, 'OR-3: the primary maps another frame');
      assert(!writable || (entry & Pte.Write) !== 0, 'OR-3: the primary is read-only');
    }
  }
}
