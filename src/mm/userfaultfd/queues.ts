import { assert } from '../../base/assert.ts';
import type { Vpn } from '../../base/units.ts';
import type { Accessor, Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import type { Slabs } from '../slab.ts';
import { UffdEvent, WaitState } from './state.ts';

type Uffd = Ptr<'uffd'>;
export type Ticket = Ptr<'uffdWait'>;
type End = Accessor<'uffd', { words: number; to: 'uffdWait' }>;

/** In `flags` of an event. */
const EVENT_READ = 1;

export type QueuesDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly breaks: MmBreaks;
  /** Drops a count of a context's structure. */
  readonly drop: (ctx: Uffd) => void;
};

/**
 * The three queues of a context: faults nobody has read, faults read and not answered, events. An entry is in
 * exactly one of them, or in none and Woken (U2); who made it frees it. Linux: fault_pending_wqh, fault_wqh,
 * event_wqh.
 */
export class UffdQueues {
  readonly #deps: QueuesDeps;
  readonly #uffd: MmLayout['uffd'];
  readonly #wait: MmLayout['uffdWait'];

  constructor(deps: QueuesDeps) {
    this.#deps = deps;
    this.#uffd = deps.layout.uffd;
    this.#wait = deps.layout.uffdWait;
  }

  /** An entry in no queue, which holds a count of the context; 0 when there is no memory. */
  alloc(ctx: Uffd, event: number): Ticket {
    const entry = this.#deps.slabs.uffdWait.alloc();
    if (entry === 0) return entry;
    this.#uffd.count.add(ctx, 1);
    this.#wait.ctx.set(entry, ctx);
    this.#wait.event.set(entry, event);
    return entry;
  }

  /**
   * Puts a fault at the end of those to be read. From here on a wake of its page reaches it, so its owner looks
   * at the pte afterwards (V-24).
   */
  enqueueFault(ctx: Uffd, entry: Ticket): void {
    this.#lock(ctx);
    this.#append(ctx, this.#uffd.pendingHead, this.#uffd.pendingTail, entry);
    this.#uffd.waiters.add(ctx, 1);
    this.#unlock(ctx);
  }

  enqueueEvent(ctx: Uffd, entry: Ticket): void {
    this.#lock(ctx);
    this.#append(ctx, this.#uffd.eventHead, this.#uffd.eventTail, entry);
    this.#unlock(ctx);
  }

  /** Tells readers and pollers that there is something (T-WAK-06: after it is queued). */
  announce(ctx: Uffd): void {
    this.#uffd.ready.add(ctx, 1);
    this.#deps.sync.waiter.notify(ctx + this.#uffd.ready.at, Number.POSITIVE_INFINITY);
  }

  /**
   * Wakes the faults of [start, end), of `onlyRead` those that have been read (F-21). Returns how many. Who has
   * installed a page calls it afterwards, and so either finds the sleeper, or the sleeper sees the page.
   */
  wake(ctx: Uffd, start: Vpn, end: Vpn, onlyRead: boolean): number {
    const { sync, breaks } = this.#deps;
    sync.y('V.b');
    if (this.#uffd.waiters.load(ctx) === 0) return 0;
    this.#lock(ctx);
    let woken = this.#wakeIn(ctx, this.#uffd.faultHead, this.#uffd.faultTail, start, end);
    if (!onlyRead && !breaks.wakeOnlyRead)
      woken += this.#wakeIn(ctx, this.#uffd.pendingHead, this.#uffd.pendingTail, start, end);
    this.#unlock(ctx);
    if (woken > 0) sync.y('V.k');
    return woken;
  }

  #wakeIn(ctx: Uffd, head: End, tail: End, start: Vpn, end: Vpn): number {
    const { breaks } = this.#deps;
    let woken = 0;
    for (let entry = head.get(ctx); entry !== 0; ) {
      const next = this.#wait.next.get(entry);
      const vpn = this.#wait.vpn.get(entry);
      if ((vpn >= start && vpn < end) || breaks.wakeWholeQueue) {
        this.#unlink(ctx, head, tail, entry);
        this.#uffd.waiters.add(ctx, -1);
        this.#release(entry);
        woken++;
        if (breaks.wakeFirstOnly) break;
      }
      entry = next;
    }
    return woken;
  }

  /** Ends the wait of every event: the context is released. */
  wakeEvents(ctx: Uffd): void {
    this.#lock(ctx);
    for (let entry = this.#uffd.eventHead.get(ctx); entry !== 0; entry = this.#uffd.eventHead.get(ctx)) {
      this.#unlink(ctx, this.#uffd.eventHead, this.#uffd.eventTail, entry);
      this.#release(entry);
    }
    this.#unlock(ctx);
  }

  /** Its owner may free it as soon as the state is stored; a notification too many is harmless. */
  #release(entry: Ticket): void {
    this.#wait.state.store(entry, WaitState.Woken);
    this.#deps.sync.waiter.notify(entry + this.#wait.state.at, 1);
  }

  /**
   * The first fault that can be read, or else the first event; 0 when there is neither (V-22). `copy` is called
   * with it under the queues' lock, and takes from it what it needs. The entry stays until `taken`.
   */
  peek(ctx: Uffd, copy: (entry: Ticket) => void): Ticket {
    this.#lock(ctx);
    const { pendingHead, pendingTail } = this.#uffd;
    const fault = (this.#deps.breaks.readNewestFirst ? pendingTail : pendingHead).get(ctx);
    const entry = fault !== 0 ? fault : this.#uffd.eventHead.get(ctx);
    if (entry !== 0) copy(entry);
    this.#unlock(ctx);
    return entry;
  }

  /**
   * What `peek` showed has been copied out: a fault goes from unread to read under one hold of the lock, so that
   * no wake misses it in between (T-UF-07); an event is done. False if it isn't that entry's turn any more, as
   * somebody else has read it or it was woken; `serial` tells it from another in the same place.
   */
  taken(ctx: Uffd, entry: Ticket, serial: number): boolean {
    this.#lock(ctx);
    const { pendingHead, pendingTail } = this.#uffd;
    const fault = (this.#deps.breaks.readNewestFirst ? pendingTail : pendingHead).get(ctx) === entry;
    const event = !fault && this.#uffd.eventHead.get(ctx) === entry;
    const same = (fault || event) && this.#wait.serial.get(entry) === serial;
    if (same && fault) this.#refile(ctx, entry);
    if (same && event) {
      this.#unlink(ctx, this.#uffd.eventHead, this.#uffd.eventTail, entry);
      this.#wait.flags.set(entry, EVENT_READ);
      this.#release(entry);
    }
    this.#unlock(ctx);
    return same;
  }

  /** Requires: the lock. */
  #refile(ctx: Uffd, entry: Ticket): void {
    const { sync, breaks } = this.#deps;
    this.#unlink(ctx, this.#uffd.pendingHead, this.#uffd.pendingTail, entry);
    if (breaks.refileInTwoSteps) {
      this.#unlock(ctx);
      sync.y('R.d');
      this.#lock(ctx);
    }
    this.#wait.state.store(entry, WaitState.Read);
    this.#append(ctx, this.#uffd.faultHead, this.#uffd.faultTail, entry);
  }

  /** Was a woken event read, rather than given up? */
  wasRead(entry: Ticket): boolean {
    return this.#wait.state.load(entry) === WaitState.Woken && this.#wait.flags.get(entry) === EVENT_READ;
  }

  /** Frees an entry that was never queued. */
  drop(entry: Ticket): void {
    this.#wait.state.store(entry, WaitState.Woken);
    this.finish(entry);
  }

  /** Takes an entry out, if nobody has woken it, and frees it. */
  finish(entry: Ticket): void {
    const { slabs, drop, breaks } = this.#deps;
    const ctx = this.#wait.ctx.get(entry);
    const queued = this.#wait.state.load(entry) !== WaitState.Woken;
    if (queued && !breaks.finishWithoutUnlink) this.#takeOut(ctx, entry);
    slabs.uffdWait.free(entry);
    drop(ctx);
  }

  #takeOut(ctx: Uffd, entry: Ticket): void {
    this.#lock(ctx);
    const state = this.#wait.state.load(entry);
    const u = this.#uffd;
    if (state !== WaitState.Woken) {
      const fault = this.#wait.event.get(entry) === UffdEvent.Pagefault;
      if (!fault) this.#unlink(ctx, u.eventHead, u.eventTail, entry);
      else if (state === WaitState.Read) this.#unlink(ctx, u.faultHead, u.faultTail, entry);
      else this.#unlink(ctx, u.pendingHead, u.pendingTail, entry);
      if (fault) u.waiters.add(ctx, -1);
    }
    this.#unlock(ctx);
  }

  /** Is there anything to read? */
  hasUnread(ctx: Uffd): boolean {
    this.#lock(ctx);
    const unread = this.#uffd.pendingHead.get(ctx) !== 0 || this.#uffd.eventHead.get(ctx) !== 0;
    this.#unlock(ctx);
    return unread;
  }

  /** Faults not read, and read and not answered; events not read. */
  counts(ctx: Uffd): { pending: number; read: number; events: number } {
    const length = (head: End): number => {
      let n = 0;
      for (let entry = head.get(ctx); entry !== 0; entry = this.#wait.next.get(entry)) n++;
      return n;
    };
    this.#lock(ctx);
    const { pendingHead, faultHead, eventHead } = this.#uffd;
    const counts = { pending: length(pendingHead), read: length(faultHead), events: length(eventHead) };
    this.#unlock(ctx);
    return counts;
  }

  #append(ctx: Uffd, head: End, tail: End, entry: Ticket): void {
    const last = tail.get(ctx);
    this.#wait.prev.set(entry, last);
    this.#wait.next.set(entry, 0 as Ticket);
    if (last === 0) head.set(ctx, entry);
    else this.#wait.next.set(last, entry);
    tail.set(ctx, entry);
    const serial = this.#uffd.serial.get(ctx) + 1;
    this.#uffd.serial.set(ctx, serial);
    this.#wait.serial.set(entry, serial);
  }

  #unlink(ctx: Uffd, head: End, tail: End, entry: Ticket): void {
    const prev = this.#wait.prev.get(entry);
    const next = this.#wait.next.get(entry);
    assert(prev !== 0 || head.get(ctx) === entry, 'userfaultfd: an entry is not where its state says');
    if (prev === 0) head.set(ctx, next);
    else this.#wait.next.set(prev, next);
    if (next === 0) tail.set(ctx, prev);
    else this.#wait.prev.set(next, prev);
  }

  #lock(ctx: Uffd): void {
    this.#deps.sync.lock('uffd', ctx + this.#uffd.lock.at);
  }

  #unlock(ctx: Uffd): void {
    this.#deps.sync.unlock('uffd', ctx + this.#uffd.lock.at);
  }
}
