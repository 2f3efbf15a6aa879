import type { Sync } from './sync.ts';

// A byte ring in the arena, for one writer and one reader on different threads:
//   word 0   head: bytes ever written, modulo 2^32; atomic; the writer's
//   word 1   tail: bytes ever read; atomic; the reader's
//   word 2…  the bytes
// Head is stored after the bytes it covers, tail after the bytes have been taken.

const HEADER_WORDS = 2;

/** Words that a ring of `bytes` (a power of two) needs. */
export const ringWords = (bytes: number): number => HEADER_WORDS + bytes / 4;

export class Ring {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #at: number;
  readonly #size: number;

  constructor(sync: Sync, at: number, bytes: number) {
    this.#words = sync.words;
    this.#bytes = sync.arena.bytes;
    this.#at = at;
    this.#size = bytes;
  }

  /** Bytes that wait to be read. */
  get length(): number {
    return (Atomics.load(this.#words, this.#at) - Atomics.load(this.#words, this.#at + 1)) >>> 0;
  }

  get room(): number {
    return this.#size - this.length;
  }

  /** Writes as much of `bytes` as fits; returns how much. */
  write(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.room);
    const head = Atomics.load(this.#words, this.#at);
    const base = (this.#at + HEADER_WORDS) * 4;
    for (let i = 0; i < count; i++)
      this.#bytes[base + (((head >>> 0) + i) % this.#size)] = bytes[i] as number;
    Atomics.store(this.#words, this.#at, (head + count) | 0);
    return count;
  }

  /** A copy of up to `max` bytes that wait, left in place until `skip`. */
  peek(max: number): Uint8Array {
    const count = Math.min(max, this.length);
    const tail = Atomics.load(this.#words, this.#at + 1) >>> 0;
    const base = (this.#at + HEADER_WORDS) * 4;
    const out = new Uint8Array(count);
    for (let i = 0; i < count; i++) out[i] = this.#bytes[base + ((tail + i) % this.#size)] as number;
    return out;
  }

  skip(count: number): void {
    const tail = Atomics.load(this.#words, this.#at + 1);
    Atomics.store(this.#words, this.#at + 1, (tail + count) | 0);
  }
}
