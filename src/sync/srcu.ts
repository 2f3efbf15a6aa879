import type { AtomicWords } from './atomics.ts';
import type { Sync } from './sync.ts';

const WAITS = 2;

/**
 * Read sections that may sleep, and a wait for all that began before (Linux: SRCU). Three words in
 * the arena: [0] bit 0 the count that new readers use, bit 1 set while somebody waits; [1] and [2] the counts.
 */
export class Srcu {
  readonly #sync: Sync;
  readonly #atomics: AtomicWords;

  constructor(sync: Sync) {
    this.#sync = sync;
    this.#atomics = sync.arena.atomics;
  }

  /** Returns the token for `readUnlock`. */
  readLock(at: number): number {
    for (;;) {
      const index = this.#atomics.load(at) & 1;
      this.#atomics.add(at + 1 + index, 1);
      // A synchronize that flipped in between may have read this count as zero: begin again there.
      if ((this.#atomics.load(at) & 1) === index) return index;
      this.readUnlock(at, index);
    }
  }

  readUnlock(at: number, index: number): void {
    if (this.#atomics.sub(at + 1 + index, 1) !== 1) return;
    // A wake-up costs more than the section. Pairs with synchronize, which says so before it counts.
    if ((this.#atomics.load(at) & WAITS) !== 0) this.#sync.waiter.notify(at + 1 + index, 1);
  }

  /** Returns when every reader that was inside has left. The caller serialises synchronizes. */
  synchronize(at: number): void {
    const old = this.#atomics.load(at) & 1;
    this.#atomics.store(at, (old ^ 1) | WAITS);
    for (;;) {
      const readers = this.#atomics.load(at + 1 + old);
      if (readers === 0) break;
      this.#sync.waiter.wait(at + 1 + old, readers);
    }
    this.#atomics.store(at, old ^ 1);
  }
}
