/** The stores of a region, and then the interpreter's from the same state. */
export class WriteLog {
  readonly #words: Int32Array;
  /** Where, in what order: byte address, bytes, byte address ... */
  #turn: number[] = [];
  #first: number[] = [];
  /** What the words were before any store, by index. */
  readonly #before = new Map<number, number>();
  /** What the region made of them. */
  readonly #made = new Map<number, number>();
  #isOn = false;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  /** Stores of the region. */
  get count(): number {
    return this.#first.length / 2;
  }

  /** The region's turn begins. */
  begin(): void {
    this.#turn = [];
    this.#first = [];
    this.#before.clear();
    this.#made.clear();
    this.#isOn = true;
  }

  end(): void {
    this.#isOn = false;
  }

  /** Before a store of `bytes` at `at`. */
  add(at: number, bytes: number): void {
    if (!this.#isOn) return;
    this.#turn.push(at, bytes);
    for (let word = at >>> 2; word <= (at + bytes - 1) >>> 2; word++) {
      if (!this.#before.has(word)) this.#before.set(word, this.#words[word]!);
    }
  }

  /** Puts back what was there; the interpreter's turn begins. */
  undo(): void {
    for (const [word, old] of this.#before) {
      this.#made.set(word, this.#words[word]!);
      this.#words[word] = old;
    }
    this.#first = this.#turn;
    this.#turn = [];
  }

  /** How memory and the order of the stores differ, in words; empty when they don't. */
  compare(): string {
    let what = '';
    for (const [word, old] of this.#before) {
      const [ours, theirs] = [this.#made.get(word) ?? old, this.#words[word]!];
      if (ours !== theirs) what += `memory at ${hex(word * 4)} ${hex(ours)}, not ${hex(theirs)}; `;
    }
    const [a, b] = [this.#first, this.#turn];
    const at =
      a.length === b.length ? a.findIndex((value, i) => value !== b[i]) : Math.min(a.length, b.length);
    if (at >= 0) what += `${a.length / 2} stores against ${b.length / 2}, the first other one ${at >> 1}; `;
    return what;
  }
}

const hex = (word: number): string => (word >>> 0).toString(16);
