import type { Waiter } from './waiter.ts';

// A sleep and its wake cost several microseconds a side, more than most answers to a user fault take, and now and then
// hundreds, where an idle processor is a virtual one. So who waits for one
// looks at the word for a while first, as KVM polls before it halts (halt_poll_ns): longer while that finds something,
// not at all while it doesn't, so that a loaded machine pays little.

/** Looks at a word; some 10 ns each. */
const FIRST = 500;
/** 200 us, as KVM's limit is. */
const MAX = 20_000;
/** A sleep shorter than this, in milliseconds, is one that polling would have saved. */
const SHORT = 0.2;

/** One thread's polling of one kind of word. Holds no state that anything but speed depends on. */
export class HaltPoll {
  readonly #words: Int32Array;
  readonly #waiter: Waiter;
  #window = FIRST;

  constructor(words: Int32Array, waiter: Waiter) {
    this.#words = words;
    this.#waiter = waiter;
  }

  /** As Waiter.wait. */
  wait(at: number, expected: number, timeoutMs?: number): void {
    const limit = this.#waiter.spins(this.#window);
    for (let i = 0; i < limit; i++) if (Atomics.load(this.#words, at) !== expected) return;
    const start = performance.now();
    const outcome = this.#waiter.wait(at, expected, timeoutMs);
    // Looking at the word does not make a timer come sooner.
    const isShort = outcome !== 'timed-out' && performance.now() - start < SHORT;
    this.#window = isShort ? Math.min(MAX, Math.max(FIRST, this.#window * 2)) : this.#window >> 1;
  }
}
