import { assert } from '../../base/assert.ts';
import { changed } from '../../sync/changed.ts';
import { HaltPoll } from '../../sync/halt-poll.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import type { Ticket, UffdQueues } from './queues.ts';
import { WaitState } from './state.ts';

type Uffd = Ptr<'uffd'>;

/** Reads and answers what it can; true if it has done anything. */
export type InlineServer = () => boolean;
type Served = { readonly ctx: Uffd; readonly serve: InlineServer; running: boolean };

export type WaitsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly queues: UffdQueues;
  readonly breaks: MmBreaks;
};

/**
 * How the owner of a ticket waits for it. A thread that serves contexts itself is given its turn as their
 * manager before it would sleep, so that one thread can be both (decision 5).
 */
export class UffdWaits {
  readonly #deps: WaitsDeps;
  readonly #state: MmLayout['uffdWait']['state'];
  readonly #served: Served[] = [];
  readonly #poll: HaltPoll;

  constructor(deps: WaitsDeps) {
    this.#deps = deps;
    this.#state = deps.layout.uffdWait.state;
    this.#poll = new HaltPoll(deps.sync.words, deps.sync.waiter);
  }

  /** Makes this thread a manager of `ctx`: `serve` runs when the thread would sleep. Returns how to end it. */
  serveInline(ctx: Uffd, serve: InlineServer): () => void {
    const served = { ctx, serve, running: false };
    this.#served.push(served);
    return () => {
      const index = this.#served.indexOf(served);
      if (index >= 0) this.#served.splice(index, 1);
    };
  }

  /** Has the entry been woken, or the event been read? */
  isOver(ticket: Ticket): boolean {
    return this.#state.load(ticket) === WaitState.Woken;
  }

  /**
   * Sleeps until the ticket is over; the caller then calls `finish`. No lock may be held (M-24). Throws
   * WouldBlockError on a thread that may not sleep, and is an assertion where nobody could answer.
   */
  wait(ticket: Ticket): void {
    const { sync } = this.#deps;
    sync.lockdep?.assertNone();
    while (!this.isOver(ticket)) {
      if (this.serve(ticket)) continue;
      const state = this.#state.load(ticket);
      if (state !== WaitState.Woken) this.#poll.wait(ticket + this.#state.at, state);
    }
  }

  /** As `wait`, for at most `timeoutMs`; true if the ticket is over. */
  waitFor(ticket: Ticket, timeoutMs: number): boolean {
    const { sync } = this.#deps;
    if (this.isOver(ticket) || (this.serve(ticket) && this.isOver(ticket))) return true;
    const state = this.#state.load(ticket);
    if (state !== WaitState.Woken) sync.waiter.wait(ticket + this.#state.at, state, timeoutMs);
    return this.isOver(ticket);
  }

  /** Takes the entry out, if nobody woke it, and frees it. Once for each ticket, on every way out. */
  finish(ticket: Ticket): void {
    this.#deps.sync.y('U.r');
    this.#deps.queues.finish(ticket);
  }

  /** Lets the managers of this thread work; true if any has. `ticket`, when not 0, is what it waits for. */
  serve(ticket: Ticket): boolean {
    const { breaks } = this.#deps;
    let worked = false;
    for (const served of [...this.#served]) {
      if (served.running) {
        const own = ticket !== 0 && this.#deps.layout.uffdWait.ctx.get(ticket) === served.ctx;
        assert(
          !own || breaks.managerMaySleep,
          'userfaultfd: a manager sleeps in a fault of its own context (F-35)',
        );
        continue;
      }
      served.running = true;
      try {
        worked = served.serve() || worked;
      } finally {
        served.running = false;
      }
    }
    return worked;
  }

  /** Resolves when the ticket is over, on a thread that may not sleep. The caller then calls `finish`. */
  async waitAsync(ticket: Ticket): Promise<void> {
    while (!this.isOver(ticket)) {
      if (this.serve(ticket)) continue;
      await changed(this.#deps.sync.words, ticket + this.#state.at, this.#state.load(ticket));
    }
  }
}
