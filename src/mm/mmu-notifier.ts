import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import type { Vpn } from '../base/units.ts';
import { Srcu } from '../sync/srcu.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmBreaks } from './breaks.ts';
import { IntervalNotifiers } from './interval-notifier.ts';
import { type MmLayout, RANGES_CLOSED } from './layout.ts';
import { type MmuNotifierOps, type NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import type { Slabs } from './slab.ts';

type Mm = Ptr<'mm'>;
type Notifier = Ptr<'notifier'>;

const EAGAIN = -11;
/** Values of `notifier.state`: `release` is claimed by one, and once it has returned nothing is called. */
const LIVE = 0;
const RELEASING = 1;
const RELEASED = 2;

export type MmuNotifiersDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly breaks?: MmBreaks;
  /** Word index of the three words of an Srcu. */
  readonly srcuAt: number;
  /** Word index of the lock of the list of address spaces. */
  readonly mmListLock: number;
  /** Word index of the list of what was put and is not yet freed. */
  readonly putAt: number;
  /** N-4: false builds an mm that nobody can subscribe to. */
  readonly enabled?: boolean;
  /** Drops a count of the mm's structure. */
  readonly dropMm: (mm: Mm) => void;
};

/**
 * Tells the secondary MMUs of an mm what is about to change (N). The list of an mm is walked without a
 * lock, inside a read section that `unregister` waits for; a subscriber that joins during a walk is
 * kept out of ranges under way by `mmap` and `mm.ranges` (N-17). Linux: mm/mmu_notifier.c.
 *
 * Two forms of bracket. `start`/`end` surround the change of a range, and a pinning subscriber hears the
 * end alone, which suffices for it (N-6). `pageStart`/`pageEnd` surround the change of one page; a pinning
 * subscriber then hears `invalidatePage` in between (N-7), and no end.
 */
export class MmuNotifiers {
  readonly #deps: MmuNotifiersDeps;
  readonly #srcu: Srcu;
  /** By number. There is no number 0: a record that was freed is zero, and a callback through it must not pass. */
  readonly #ops: (MmuNotifierOps | undefined)[] = [undefined];
  readonly #enabled: boolean;
  readonly #intervalOps: number;
  /** Subscribers to parts of an mm. */
  readonly intervals: IntervalNotifiers;

  constructor(deps: MmuNotifiersDeps) {
    this.#deps = deps;
    this.#srcu = new Srcu(deps.sync);
    this.#enabled = deps.enabled ?? true;
    // It keeps the mm's hooks alive, and has nothing to be told itself.
    this.#intervalOps = this.registerOps({ name: 'intervals', pins: true });
    this.intervals = new IntervalNotifiers({
      ...{ sync: deps.sync, layout: deps.layout, slabs: deps.slabs, dropMm: deps.dropMm },
      ...(deps.breaks && { breaks: deps.breaks }),
      join: (mm, intervals, joined) => this.register(mm, this.#intervalOps, intervals, joined),
      leave: notifier => this.unregister(notifier),
    });
  }

  /** Makes an implementation known on this thread; each thread does so in the same order. */
  registerOps(ops: MmuNotifierOps): number {
    const { invalidateRangeStart: start, invalidateRangeEnd: end, archInvalidateSecondaryTlbs: arch } = ops;
    if (arch !== undefined && (start !== undefined || end !== undefined))
      throw new Errno('EINVAL', 'mmuNotifierRegister', 'start or end beside the flush of shared tables');
    const hears = start !== undefined || arch !== undefined;
    assert(ops.pins || hears, 'N-6: who does not pin implements start');
    this.#ops.push(ops);
    return this.#ops.length - 1;
  }

  /**
   * Subscribes to an mm; callbacks come from here on. `joined` is called while no range is open. Throws ENOMEM,
   * ESRCH when the mm has exited, ENODEV when there are no notifiers (N-4). Requires: no lock.
   */
  register(mm: Mm, ops: number, subscriber: number, joined?: () => void): Notifier {
    const { sync, layout, slabs } = this.#deps;
    if (!this.#enabled) throw new Errno('ENODEV', 'mmuNotifierRegister', 'built without notifiers');
    const { notifier: n, mm: m } = layout;
    const notifier = slabs.notifier.alloc();
    if (notifier === 0) throw new Errno('ENOMEM', 'mmuNotifierRegister');
    n.mm.set(notifier, mm);
    n.ops.set(notifier, ops);
    n.subscriber.set(notifier, subscriber);
    sync.writeLock('mmap', mm + m.mmapLock.at);
    if (m.users.load(mm) === 0) {
      sync.writeUnlock('mmap', mm + m.mmapLock.at);
      slabs.notifier.free(notifier);
      throw new Errno('ESRCH', 'mmuNotifierRegister', 'the address space has exited');
    }
    m.count.add(mm, 1);
    if (!this.#deps.breaks?.registerInRange) this.closeRanges(mm);
    n.next.store(notifier, m.notifiers.load(mm));
    m.notifiers.store(mm, notifier);
    joined?.();
    this.openRanges(mm);
    sync.writeUnlock('mmap', mm + m.mmapLock.at);
    return notifier;
  }

  /**
   * Ends a subscription, with `release` if the mm has not sent it yet. After it returns no callback runs
   * and none will (N-18). Not from a callback.
   */
  unregister(notifier: number): void {
    const { layout, slabs, srcuAt } = this.#deps;
    const { notifier: n } = layout;
    const record = notifier as Notifier;
    const mm = n.mm.get(record);
    const token = this.#srcu.readLock(srcuAt);
    this.#release(record);
    this.#srcu.readUnlock(srcuAt, token);
    this.#unlinkLocked(mm, record);
    if (!this.#deps.breaks?.unregisterWithoutWait) this.#synchronize();
    slabs.notifier.free(record);
    this.#deps.dropMm(mm);
    this.reap();
  }

  #unlinkLocked(mm: Mm, record: Notifier): void {
    const { sync, layout } = this.#deps;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    this.#unlink(mm, record);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
  }

  /** Returns when no callback runs that began before. Requires: no lock inside 'mmList'. */
  #synchronize(): void {
    const { sync, srcuAt, mmListLock } = this.#deps;
    sync.lock('mmList', mmListLock); // one synchronize at a time
    this.#srcu.synchronize(srcuAt);
    sync.unlock('mmList', mmListLock);
  }

  /**
   * Ends a subscription without waiting, for who must not sleep, within `release` too: no callback begins any more,
   * and `release` is not sent (N-20). The record goes later; until then the mm's structure stays.
   */
  put(notifier: number): void {
    const { sync, layout, putAt } = this.#deps;
    const { putNext, state } = layout.notifier;
    const record = notifier as Notifier;
    state.store(record, RELEASED);
    for (let head = Atomics.load(sync.words, putAt); ; ) {
      putNext.set(record, head as Notifier);
      const seen = Atomics.compareExchange(sync.words, putAt, head, record);
      if (seen === head) return;
      head = seen;
    }
  }

  /** Frees what was put, after the callbacks that may still be in it. Linux: call_srcu. Requires: no lock. */
  reap(): void {
    const { sync, layout, slabs, putAt, breaks, dropMm } = this.#deps;
    const { mm: mmOf, putNext } = layout.notifier;
    if (Atomics.load(sync.words, putAt) === 0) return;
    const first = Atomics.exchange(sync.words, putAt, 0) as Notifier;
    for (let at = first; at !== 0; at = putNext.get(at)) this.#unlinkLocked(mmOf.get(at), at);
    if (!breaks?.putWithoutWait) this.#synchronize();
    for (let at = first; at !== 0; ) {
      const next = putNext.get(at);
      const mm = mmOf.get(at);
      slabs.notifier.free(at);
      dropMm(mm);
      at = next;
    }
  }

  /** Requires: mmap for write. A walk that stands on it still finds the rest. */
  #unlink(mm: Mm, notifier: Notifier): void {
    const { notifier: n, mm: m } = this.#deps.layout;
    const next = n.next.load(notifier);
    if (m.notifiers.load(mm) === notifier) {
      m.notifiers.store(mm, next);
      return;
    }
    for (let at = m.notifiers.load(mm); at !== 0; at = n.next.load(at)) {
      if (n.next.load(at) === notifier) n.next.store(at, next);
    }
  }

  /** Exactly once per subscriber, whoever of exit and unregister comes first (N-18). */
  #release(notifier: Notifier): void {
    const { notifier: n } = this.#deps.layout;
    const claimed = n.state.cas(notifier, LIVE, RELEASING) === LIVE;
    if (!claimed && !this.#deps.breaks?.releaseUnclaimed) return;
    this.#opsOf(notifier).release?.(n.subscriber.get(notifier), n.mm.get(notifier));
    n.state.store(notifier, RELEASED);
  }

  /** The mm exits: every subscriber hears `release`, while its ptes still exist (N-19). */
  releaseAll(mm: Mm): void {
    const { notifier: n, mm: m } = this.#deps.layout;
    if (m.notifiers.load(mm) === 0) return;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    this.intervals.release(mm);
    for (let at = m.notifiers.load(mm); at !== 0; at = n.next.load(at)) this.#release(at);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
    this.intervals.left(mm);
    this.reap();
  }

  /** The first subscriber from `notifier` on that may be called, or 0. */
  #live(notifier: Notifier): Notifier {
    const { next, state } = this.#deps.layout.notifier;
    let at = notifier;
    while (at !== 0 && state.load(at) === RELEASED) at = next.load(at);
    return at;
  }

  #opsOf(notifier: Notifier): MmuNotifierOps {
    const ops = this.#ops[this.#deps.layout.notifier.ops.get(notifier)];
    assert(ops !== undefined, 'notifier: freed, or this thread has not registered the implementation');
    return ops;
  }

  /** A cheap test that spares the brackets of an mm without subscribers (N-4). */
  any(mm: Mm): boolean {
    return this.#enabled && this.#deps.layout.mm.notifiers.load(mm) !== 0;
  }

  /** Waits until no invalidation of reclaim is open, and lets none begin. Requires: mmap for write. */
  closeRanges(mm: Mm): void {
    const { sync, layout } = this.#deps;
    const { ranges } = layout.mm;
    for (let seen = ranges.or(mm, RANGES_CLOSED) | RANGES_CLOSED; seen !== RANGES_CLOSED; ) {
      sync.waiter.wait(mm + ranges.at, seen);
      seen = ranges.load(mm);
    }
  }

  openRanges(mm: Mm): void {
    this.#deps.layout.mm.ranges.and(mm, ~RANGES_CLOSED);
  }

  /** Begins an invalidation that no mmap lock covers; false when none may begin now. Never waits. */
  tryOpenRange(mm: Mm): boolean {
    const { ranges } = this.#deps.layout.mm;
    if ((ranges.add(mm, 1) & RANGES_CLOSED) === 0) return true;
    this.closeRange(mm);
    return false;
  }

  closeRange(mm: Mm): void {
    const { sync, layout } = this.#deps;
    const before = layout.mm.ranges.add(mm, -1);
    assert((before & ~RANGES_CLOSED) > 0, 'notifier: a range closed that was not open');
    if (before === (RANGES_CLOSED | 1)) sync.waiter.notify(mm + layout.mm.ranges.at, 1);
  }

  /**
   * The ptes of [start, end) are about to change. After it returns no secondary translates there until
   * `end`, but for pinning ones (N-6). EAGAIN only without Blockable, and then there is no end (N-14).
   * Requires: mmap, or the anon_vma lock with a range open; no ptl.
   */
  start(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent, flags: number): number {
    if (!this.any(mm)) return 0;
    return this.#starts(mm, start, end, event, flags);
  }

  #starts(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent, flags: number): number {
    const { notifier: n, mm: m } = this.#deps.layout;
    if (!this.intervals.start(mm, start, end, event, flags)) return EAGAIN;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    let failed = false;
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      const ops = this.#opsOf(at);
      const result = ops.invalidateRangeStart?.(n.subscriber.get(at), mm, start, end, event, flags) ?? 0;
      if (result === 0) continue;
      assert((flags & NotifyFlag.Blockable) === 0 && result === EAGAIN, 'N-14: a start that may not fail');
      assert(ops.invalidateRangeEnd === undefined, 'N-14: who may fail has no end');
      failed = true;
    }
    if (failed && !this.#deps.breaks?.refusalWithoutEnds) this.#ends(mm, start, end, event, false);
    // 6.12 forgets the intervals here (N-14).
    if (failed && !this.#deps.breaks?.intervalLeftBegun) this.intervals.end(mm);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
    return failed ? EAGAIN : 0;
  }

  /** The ptes of a range have changed; pairs with `start`, with the same bounds (N-12). */
  end(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent): void {
    if (this.any(mm)) this.#endAll(mm, start, end, event, true);
  }

  #endAll(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent, pinning: boolean): void {
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    this.#flushed(mm, start, end);
    this.intervals.end(mm);
    this.#ends(mm, start, end, event, pinning);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }

  #ends(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent, pinning: boolean): void {
    const { notifier: n, mm: m } = this.#deps.layout;
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      const ops = this.#opsOf(at);
      if (pinning || !ops.pins) ops.invalidateRangeEnd?.(n.subscriber.get(at), mm, start, end, event);
    }
  }

  /**
   * The primary's translations of [start, end) are flushed: the ptes have changed, nothing is freed yet (N-23). The
   * ends and `invalidatePage` say so by themselves; who frees before the end calls it.
   */
  flushPrimary(mm: Mm, start: Vpn, end: Vpn): void {
    if (!this.any(mm)) return;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    this.#flushed(mm, start, end);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }

  #flushed(mm: Mm, start: Vpn, end: Vpn): void {
    if (this.#deps.breaks?.flushPrimaryAlone) return;
    const { notifier: n, mm: m } = this.#deps.layout;
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at)))
      this.#opsOf(at).archInvalidateSecondaryTlbs?.(n.subscriber.get(at), mm, start, end);
  }

  /** One page's pte is about to change. As `start`. */
  pageStart(mm: Mm, page: Vpn, event: NotifyEvent, flags: number): void {
    this.start(mm, page, page + 1, event, flags);
  }

  /**
   * The pte was cleared, the page not yet freed: pinning subscribers drop it. A removal calls it outside
   * the ptl; a replacement inside, before the new pte is set (N-7).
   */
  invalidatePage(mm: Mm, page: Vpn): void {
    if (!this.any(mm)) return;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      this.#opsOf(at).invalidatePage?.(n.subscriber.get(at), mm, page);
    }
    this.#flushed(mm, page, page + 1);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }

  pageEnd(mm: Mm, page: Vpn, event: NotifyEvent): void {
    if (this.any(mm)) this.#endAll(mm, page, page + 1, event, false);
  }

  /** Pinning subscribers let go of a range at once, so that their references don't look like pins. */
  unpinRange(mm: Mm, start: Vpn, end: Vpn, event: NotifyEvent): void {
    if (!this.any(mm)) return;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      const ops = this.#opsOf(at);
      if (ops.pins) ops.invalidateRangeEnd?.(n.subscriber.get(at), mm, start, end, event);
    }
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }

  /** Returns once no vCPU uses what starts with DeferFlush zapped. */
  flush(mm: Mm): void {
    if (!this.any(mm)) return;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      this.#opsOf(at).flush?.(n.subscriber.get(at));
    }
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }

  /**
   * Was any of `pages` pages used through a secondary? Every subscriber is asked and clears its bits (N-3).
   * `flush`: so that a use from now on shows even where a translation is cached.
   */
  clearYoung(mm: Mm, page: Vpn, flush: boolean, pages = 1): boolean {
    if (!this.any(mm)) return false;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    let young = false;
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      young = clearYoungOf(this.#opsOf(at), n.subscriber.get(at), mm, page, page + pages, flush) || young;
    }
    if (flush) this.#flushed(mm, page, page + pages);
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
    return young;
  }

  /** As `clearYoung`, changing nothing. */
  testYoung(mm: Mm, page: Vpn): boolean {
    if (!this.any(mm)) return false;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    let young = false;
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      young = this.#opsOf(at).testYoung?.(n.subscriber.get(at), mm, page) || young;
    }
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
    return young;
  }

  /** A full ageing pass is over: cached translations must be refilled once (design 11). */
  ageingPassEnd(mm: Mm): void {
    if (!this.any(mm)) return;
    const { notifier: n, mm: m } = this.#deps.layout;
    const token = this.#srcu.readLock(this.#deps.srcuAt);
    for (let at = this.#live(m.notifiers.load(mm)); at !== 0; at = this.#live(n.next.load(at))) {
      this.#opsOf(at).ageingPassEnd?.(n.subscriber.get(at));
    }
    this.#srcu.readUnlock(this.#deps.srcuAt, token);
  }
}

function clearYoungOf(
  ops: MmuNotifierOps,
  subscriber: number,
  mm: Mm,
  start: Vpn,
  end: Vpn,
  flush: boolean,
): boolean {
  if (ops.pins && ops.agePage !== undefined) {
    let young = false;
    for (let page = start; page < end; page++) young = ops.agePage(subscriber, mm, page) || young;
    return young;
  }
  if (flush && ops.clearFlushYoung !== undefined) return ops.clearFlushYoung(subscriber, mm, start, end);
  return ops.clearYoung?.(subscriber, mm, start, end) ?? false;
}
