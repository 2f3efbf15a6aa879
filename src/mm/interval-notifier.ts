import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import type { Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmBreaks } from './breaks.ts';
import type { MmLayout } from './layout.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Slabs } from './slab.ts';

type Mm = Ptr<'mm'>;
export type Interval = Ptr<'interval'>;
type Intervals = Ptr<'intervals'>;

/** How a device that maps memory by ranges hears of changes. Runs on whichever thread changes the mm. */
export type IntervalOps = {
  readonly name: string;
  /**
   * Part of the interval is about to change. Takes the lock that the device's own use is under, calls
   * `setSeq(interval, seq)`, and drops what it has of [start, end). False, having done nothing, only without
   * NotifyFlag.Blockable, when the lock is taken.
   */
  invalidate(
    interval: Interval,
    subscriber: number,
    start: Vpn,
    end: Vpn,
    event: NotifyEvent,
    flags: number,
    seq: number,
  ): boolean;
};

export type IntervalNotifiersDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly breaks?: MmBreaks;
  /** Puts something into the mm's list, so that its hooks are called; `joined` runs while no range is open. */
  readonly join: (mm: Mm, intervals: Intervals, joined: () => void) => Ptr<'notifier'>;
  readonly leave: (notifier: number) => void;
  readonly dropMm: (mm: Mm) => void;
};

/** The end of the address space, for `release`: every interval is in it. */
const EVERYTHING = 2 ** 31 - 1;

/**
 * Subscribers over a part of an mm (N-21), each with a sequence of its own: a device samples it with
 * `readBegin`, gets its pages, takes its lock, and begins again when `readRetry` says so. Linux:
 * mmu_interval_notifier.
 *
 * `intervals.seq` is odd from the first start that meets an interval to the end after which none is open. The list
 * changes only while it is even, so a start walks it without the lock. An interval's own sequence is the one of its
 * last invalidation, always odd: in progress exactly while the two are equal.
 */
export class IntervalNotifiers {
  readonly #deps: IntervalNotifiersDeps;
  readonly #all: MmLayout['intervals'];
  readonly #one: MmLayout['interval'];
  readonly #ops: IntervalOps[] = [];

  constructor(deps: IntervalNotifiersDeps) {
    this.#deps = deps;
    this.#all = deps.layout.intervals;
    this.#one = deps.layout.interval;
  }

  /** Makes an implementation known on this thread; each thread does so in the same order. */
  registerOps(ops: IntervalOps): number {
    this.#ops.push(ops);
    return this.#ops.length - 1;
  }

  /** Subscribes to [start, end). Throws ENOMEM, EINVAL, or ESRCH when the mm has exited. Requires: no lock. */
  insert(mm: Mm, start: Vpn, end: Vpn, ops: number, subscriber: number): Interval {
    if (start >= end) throw new Errno('EINVAL', 'mmuIntervalNotifierInsert');
    const { layout, slabs } = this.#deps;
    const intervals = this.#of(mm);
    const interval = slabs.interval.alloc();
    if (interval === 0) throw new Errno('ENOMEM', 'mmuIntervalNotifierInsert');
    layout.mm.count.add(mm, 1);
    const one = this.#one;
    one.mm.set(interval, mm);
    one.start.set(interval, start);
    one.end.set(interval, end);
    one.ops.set(interval, ops);
    one.subscriber.set(interval, subscriber);
    this.#link(intervals, interval);
    return interval;
  }

  /** Which ranges are under way is not written down, so each may be in the new one. */
  #link(intervals: Intervals, interval: Interval): void {
    const { seq, active, head, deferred } = this.#all;
    this.#lock(intervals);
    const busy = active.get(intervals) > 0 && !this.#deps.breaks?.intervalInsertedEarly;
    const walked = busy && (seq.load(intervals) & 1) !== 0;
    if (busy) seq.or(intervals, 1);
    this.#one.seq.store(interval, busy ? seq.load(intervals) : (seq.load(intervals) - 1) | 1);
    const list = walked ? deferred : head;
    this.#one.next.set(interval, list.get(intervals));
    list.set(intervals, interval);
    this.#unlock(intervals);
  }

  #of(mm: Mm): Intervals {
    const { layout, slabs, join, leave } = this.#deps;
    const found = layout.mm.intervals.load(mm);
    if (found !== 0) return found;
    const fresh = slabs.intervals.alloc();
    if (fresh === 0) throw new Errno('ENOMEM', 'mmuIntervalNotifierInsert');
    let won = false;
    let notifier = 0 as Ptr<'notifier'>;
    try {
      notifier = join(mm, fresh, () => {
        won = layout.mm.intervals.cas(mm, 0, fresh) === 0;
      });
    } catch (error) {
      slabs.intervals.free(fresh);
      throw error;
    }
    if (won) this.#all.notifier.store(fresh, notifier);
    else {
      leave(notifier);
      slabs.intervals.free(fresh);
    }
    return layout.mm.intervals.load(mm);
  }

  /** Ends a subscription, after the invalidation under way. Not from a callback; no lock may be held. */
  remove(interval: Interval): void {
    const { layout, slabs, dropMm } = this.#deps;
    const mm = this.#one.mm.get(interval);
    const intervals = layout.mm.intervals.load(mm);
    this.#lock(intervals);
    for (let seq = this.#all.seq.load(intervals); (seq & 1) !== 0; seq = this.#all.seq.load(intervals)) {
      this.#unlock(intervals);
      this.#wait(intervals, seq);
      this.#lock(intervals);
    }
    this.#unlink(intervals, interval);
    this.#unlock(intervals);
    slabs.interval.free(interval);
    dropMm(mm);
  }

  #unlink(intervals: Intervals, interval: Interval): void {
    const { head } = this.#all;
    const { next } = this.#one;
    if (head.get(intervals) === interval) {
      head.set(intervals, next.get(interval));
      return;
    }
    let at = head.get(intervals);
    while (at !== 0 && next.get(at) !== interval) at = next.get(at);
    assert(at !== 0, 'interval: removed, but not inserted');
    next.set(at, next.get(interval));
  }

  /** The sequence to compare later; waits while the interval is being invalidated. Requires: no lock that a change needs. */
  readBegin(interval: Interval): number {
    const intervals = this.#deps.layout.mm.intervals.load(this.#one.mm.get(interval));
    this.#lock(intervals);
    const seq = this.#one.seq.load(interval);
    const busy = seq === this.#all.seq.load(intervals);
    this.#unlock(intervals);
    if (busy) while (this.#all.seq.load(intervals) === seq) this.#wait(intervals, seq);
    return seq;
  }

  /** Was the interval invalidated since `readBegin`? Requires: the device's lock. */
  readRetry(interval: Interval, seq: number): boolean {
    return this.#one.seq.load(interval) !== seq;
  }

  /** What `invalidate` says under the device's lock. */
  setSeq(interval: Interval, seq: number): void {
    this.#one.seq.store(interval, seq);
  }

  /** False: an interval could not be told without sleeping, and nothing is begun. Requires: as MmuNotifiers.start. */
  start(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent, flags: number): boolean {
    const intervals = this.#deps.layout.mm.intervals.load(mm);
    if (intervals === 0) return true;
    const { active, seq, head } = this.#all;
    this.#lock(intervals);
    active.set(intervals, active.get(intervals) + 1);
    let at = this.#meeting(head.get(intervals), start, end);
    if (at !== 0) seq.or(intervals, 1);
    const now = seq.load(intervals);
    this.#unlock(intervals);
    for (; at !== 0; at = this.#meeting(this.#one.next.get(at), start, end)) {
      if (this.#tell(at, start, end, event, flags, now)) continue;
      assert((flags & NotifyFlag.Blockable) === 0, 'N-14: a start that may not fail');
      this.end(mm);
      return false;
    }
    return true;
  }

  #tell(at: Interval, start: Vpn, end: Vpn, event: NotifyEvent, flags: number, seq: number): boolean {
    const ops = this.#ops[this.#one.ops.get(at)];
    assert(ops !== undefined, 'interval: this thread has not registered the implementation');
    return ops.invalidate(at, this.#one.subscriber.get(at), start, end, event, flags, seq);
  }

  /** The first from `interval` on that shares a page with [start, end), or 0. */
  #meeting(interval: Interval, start: Vpn, end: Vpn): Interval {
    const one = this.#one;
    let at = interval;
    while (at !== 0 && (one.start.get(at) >= end || one.end.get(at) <= start)) at = one.next.get(at);
    return at;
  }

  /** Pairs with a `start` that said true. With the last one who waited goes on, and who was put off is in. */
  end(mm: Mm): void {
    const intervals = this.#deps.layout.mm.intervals.load(mm);
    if (intervals === 0) return;
    const { active, seq } = this.#all;
    this.#lock(intervals);
    active.set(intervals, active.get(intervals) - 1);
    assert(active.get(intervals) >= 0, 'N-12: an end without its start');
    const done = active.get(intervals) === 0 && (seq.load(intervals) & 1) !== 0;
    if (done) {
      this.#admit(intervals);
      seq.add(intervals, 1);
    }
    this.#unlock(intervals);
    if (done) this.#deps.sync.waiter.notify(intervals + seq.at, Number.POSITIVE_INFINITY);
  }

  /** Requires: the lock. */
  #admit(intervals: Intervals): void {
    const { head, deferred } = this.#all;
    for (let at = deferred.get(intervals); at !== 0; ) {
      const next = this.#one.next.get(at);
      this.#one.next.set(at, head.get(intervals));
      head.set(intervals, at);
      at = next;
    }
    deferred.set(intervals, 0 as Interval);
  }

  /** The mm exits: each hears that everything goes, and who waits goes on, to find it gone (N-19). */
  release(mm: Mm): void {
    this.start(mm, 0, EVERYTHING, NotifyEvent.Release, NotifyFlag.Blockable);
    this.end(mm);
  }

  /** The mm's list needs nothing for them any more. Requires: `release` was sent; no lock. */
  left(mm: Mm): void {
    const intervals = this.#deps.layout.mm.intervals.load(mm);
    const notifier = intervals === 0 ? 0 : this.#all.notifier.exchange(intervals, 0);
    if (notifier !== 0) this.#deps.leave(notifier);
  }

  /** The structure of the mm goes: nobody subscribes to it. */
  free(mm: Mm): void {
    const intervals = this.#deps.layout.mm.intervals.load(mm);
    if (intervals !== 0) this.#deps.slabs.intervals.free(intervals);
  }

  /** Ranges begun and not ended, and whether a sequence says so. For checks. */
  isQuiet(mm: Mm): boolean {
    const at = this.#deps.layout.mm.intervals.load(mm);
    if (at === 0) return true;
    const { active, seq, deferred, lock } = this.#all;
    const even = (seq.load(at) & 1) === 0;
    return (
      active.get(at) === 0 && even && deferred.get(at) === 0 && this.#deps.sync.words[at + lock.at] === 0
    );
  }

  #wait(intervals: Intervals, seq: number): void {
    this.#deps.sync.waiter.wait(intervals + this.#all.seq.at, seq);
  }

  #lock(intervals: Intervals): void {
    this.#deps.sync.lock('intervals', intervals + this.#all.lock.at);
  }

  #unlock(intervals: Intervals): void {
    this.#deps.sync.unlock('intervals', intervals + this.#all.lock.at);
  }
}
