import type { Sync } from './sync.ts';

const WAITS = 2;

/**
 * Read sections that may sleep, and a wait for all that began before (Linux: SRCU). Three words in
 * the arena: [0] bit 0 the count that new readers use, bit 1 set while somebody waits; [1] and [2] the counts.
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
    if (Atomics.sub(this.#words, at + 1 + index, 1) !== 1) return;
    // A wake-up costs more than the section. Pairs with synchronize, which says so before it counts.
    if ((Atomics.load(this.#words, at) & WAITS) !== 0) this.#sync.waiter.notify(at + 1 + index, 1);
  }

  /** Returns when every reader that was inside has left. The caller serialises synchronizes. */
  synchronize(at: number): void {
    const old = Atomics.load(this.#words, at) & 1;
    Atomics.store(this.#words, at, (old ^ 1) | WAITS);
    for (;;) {
      const readers = Atomics.load(this.#words, at + 1 + old);
      if (readers === 0) break;
      this.#sync.waiter.wait(at + 1 + old, readers);
    }
    Atomics.store(this.#words, at, old ^ 1);
  }
}
