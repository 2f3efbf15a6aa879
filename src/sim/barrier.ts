const SPINS = 5_000;

/** Two real threads meet. Two zeroed words: [0] arrivals, [1] meetings so far. */
export class Barrier {
  readonly #words: Int32Array;
  readonly #at: number;

  constructor(words: Int32Array, at: number) {
    this.#words = words;
    this.#at = at;
  }

  meet(): void {
    const meeting = Atomics.load(this.#words, this.#at + 1);
    if (Atomics.add(this.#words, this.#at, 1) === 1) {
      Atomics.store(this.#words, this.#at, 0);
      Atomics.add(this.#words, this.#at + 1, 1);
      Atomics.notify(this.#words, this.#at + 1);
      return;
    }
    for (let i = 0; i < SPINS; i++) if (Atomics.load(this.#words, this.#at + 1) !== meeting) return;
    while (Atomics.load(this.#words, this.#at + 1) === meeting) {
      Atomics.wait(this.#words, this.#at + 1, meeting);
    }
  }
}
