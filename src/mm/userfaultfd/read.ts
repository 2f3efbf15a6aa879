import { PAGE_SIZE, type Vpn } from '../../base/units.ts';
import { changed } from '../../sync/changed.ts';
import { HaltPoll } from '../../sync/halt-poll.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import type { UffdContexts } from './contexts.ts';
import type { Ticket } from './queues.ts';
import { UffdEvent, UffdFeature } from './state.ts';

type Uffd = Ptr<'uffd'>;

/** Bytes of a message of today (V-25), and of 2014: one word of 64 bits. */
export const MESSAGE_BYTES = 32;
export const WORD_BYTES = 8;

export type ReadDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly uffds: UffdContexts;
  readonly breaks: MmBreaks;
};

/** What a read found: numbers alone, and one object for all reads of a thread. */
export class UffdMessage {
  /** UffdEvent. */
  event = 0;
  /** UffdFault, of a page fault. */
  flags = 0;
  vpn: Vpn = 0;
  /** Of the faulting address within its page, if EXACT_ADDRESS is on. */
  offset = 0;
  /** If THREAD_ID is on. */
  thread = 0;
  end: Vpn = 0;
  to: Vpn = 0;
  /** Fork: the child's context, with the reference that the reader then owns. */
  child = 0 as Uffd;

  /** As it is read from a descriptor; a fork carries `fd`. */
  encode(into: Uint8Array, at: number, fd = 0): void {
    const view = new DataView(into.buffer, into.byteOffset + at, MESSAGE_BYTES);
    const word = (offset: number, value: number): void => {
      view.setUint32(offset, value % 2 ** 32, true);
      view.setUint32(offset + 4, Math.floor(value / 2 ** 32), true);
    };
    for (let offset = 0; offset < MESSAGE_BYTES; offset += 8) word(offset, 0);
    view.setUint8(0, this.event);
    if (this.event === UffdEvent.Pagefault) {
      word(8, this.flags);
      word(16, this.vpn * PAGE_SIZE + this.offset);
      view.setUint32(24, this.thread, true);
    } else if (this.event === UffdEvent.Fork) view.setUint32(8, fd, true);
    else if (this.event === UffdEvent.Remap) {
      [this.vpn, this.to, this.end - this.vpn].forEach((vpn, i) => void word(8 + 8 * i, vpn * PAGE_SIZE));
    } else [this.vpn, this.end].forEach((vpn, i) => void word(8 + 8 * i, vpn * PAGE_SIZE));
  }
}

/** Takes messages from a context, in the order of their queueing (V-22, V-25, F-10). */
export class UffdRead {
  /** The last one that `next` has read. */
  readonly message = new UffdMessage();
  readonly #deps: ReadDeps;
  readonly #poll: HaltPoll;
  #serial = 0;

  constructor(deps: ReadDeps) {
    this.#deps = deps;
    this.#poll = new HaltPoll(deps.sync.words, deps.sync.waiter);
  }

  /**
   * Reads one message into `message`; false when there is none. `deliver` hands it on, and throws if it can't:
   * then nothing was read (B-25). It may be called again when another reader was quicker.
   */
  next(ctx: Uffd, deliver?: (message: UffdMessage) => void): boolean {
    const { uffds, sync, breaks } = this.#deps;
    for (;;) {
      const entry = uffds.queues.peek(ctx, at => this.#copy(ctx, at));
      if (entry === 0) return false;
      if (breaks.takeBeforeCopy) uffds.queues.taken(ctx, entry, this.#serial);
      deliver?.(this.message);
      if (breaks.takeBeforeCopy) return true;
      sync.y('R.o');
      if (!uffds.queues.taken(ctx, entry, this.#serial)) continue;
      sync.y('R.m');
      return true;
    }
  }

  /** Requires: the queues' lock. */
  #copy(ctx: Uffd, entry: Ticket): void {
    const w = this.#deps.layout.uffdWait;
    const m = this.message;
    const features = this.#deps.layout.uffd.features.load(ctx);
    this.#serial = w.serial.get(entry);
    m.event = w.event.get(entry);
    m.flags = w.flags.get(entry);
    m.vpn = w.vpn.get(entry);
    const exact = (features & UffdFeature.ExactAddress) !== 0 || this.#deps.breaks.alwaysExact;
    m.offset = exact ? w.offset.get(entry) : 0;
    m.thread = (features & UffdFeature.ThreadId) !== 0 ? w.thread.get(entry) : 0;
    m.end = w.end.get(entry);
    m.to = w.to.get(entry);
    m.child = w.child.get(entry);
  }

  /** A number that changes after something was queued. Taken before the look, it tells whether to sleep. */
  seen(ctx: Uffd): number {
    return this.#deps.layout.uffd.ready.load(ctx);
  }

  /** Sleeps until something may have been queued since `seen`. Requires: no lock, a thread that may sleep. */
  wait(ctx: Uffd, seen: number, timeoutMs?: number): void {
    this.#poll.wait(ctx + this.#deps.layout.uffd.ready.at, seen, timeoutMs);
  }

  /** As `wait`, on a thread that may not sleep. */
  waitAsync(ctx: Uffd, seen: number): Promise<void> {
    return changed(this.#deps.sync.words, ctx + this.#deps.layout.uffd.ready.at, seen);
  }
}
