import type { AtomicWords } from './atomics.ts';
import type { Sync } from './sync.ts';

/**
 * A sequence lock in two words of the arena (Linux: seqlock_t; K-14, K-15): [0] the sequence, odd while a
 * writer is inside, atomic; [1] the writers' mutex, class 'invalidate'. A reader takes a sample, reads, and
 * asks whether anything was written meanwhile; what it reads is atomic itself, or it holds the lock that a
 * writer also takes while the sequence is odd.
 */
export class SeqCount {
  readonly #sync: Sync;
  readonly #atomics: AtomicWords;

  constructor(sync: Sync) {
    this.#sync = sync;
    this.#atomics = sync.arena.atomics;
  }

  /** An even sequence. Sleeps while a writer is inside; hold nothing that the writer may wait for. */
  readBegin(at: number): number {
    for (;;) {
      const seq = this.#atomics.load(at);
      if ((seq & 1) === 0) return seq;
      this.#sync.waiter.wait(at, seq);
    }
  }

  /** True if a writer has been inside since `seen` was sampled. Pairs with both steps of the writer. */
  readRetry(at: number, seen: number): boolean {
    return this.#atomics.load(at) !== seen;
  }

  writeBegin(at: number): void {
    this.#sync.lock('invalidate', at + 1);
    this.#atomics.add(at, 1);
  }

  writeEnd(at: number): void {
    this.#atomics.add(at, 1);
    this.#sync.waiter.notify(at, Number.POSITIVE_INFINITY);
    this.#sync.unlock('invalidate', at + 1);
  }
}
