import type { Sync } from './sync.ts';

/**
 * Read sections that may sleep, and a wait for all that began before (Linux: SRCU). Three words in
 * the arena: [0] index of the count that new readers use, [1] and [2] the two counts.
 */
export class Srcu {
  readonly #sync: Sync;
  readonly #words: Int32Array;

  constructor(sync: Sync) {
    this.#sync = sync;
    this.#words = sync.words;
  }

  /** Returns the token for `readUnlock`. */
  readLock(at: number): number {
    for (;;) {
      const index = Atomics.load(this.#words, at) & 1;
      Atomics.add(this.#words, at + 1 + index, 1);
      // A synchronize that flipped in between may have read this count as zero: begin again there.
      if ((Atomics.load(this.#words, at) & 1) === index) return index;
      this.readUnlock(at, index);
    }
  }

  readUnlock(at: number, index: number): void {
    if (Atomics.sub(this.#words, at + 1 + index, 1) === 1) this.#sync.waiter.notify(at + 1 + index, 1);
  }

  /** Returns when every reader that was inside has left. The caller serialises synchronizes. */
  synchronize(at: number): void {
    const old = Atomics.load(this.#words, at) & 1;
    Atomics.store(this.#words, at, old ^ 1);
    for (;;) {
      const readers = Atomics.load(this.#words, at + 1 + old);
      if (readers === 0) return;
      this.#sync.waiter.wait(at + 1 + old, readers);
    }
  }
}
