/** A bounded first-in first-out of bytes: what arrived from outside and the guest has not read yet. */
export class ByteQueue {
  readonly capacity: number;
  readonly #ring: Uint8Array;
  #head = 0;
  #length = 0;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.#ring = new Uint8Array(capacity);
  }

  get length(): number {
    return this.#length;
  }

  get room(): number {
    return this.capacity - this.#length;
  }

  /** Takes as many as fit; returns how many. */
  push(bytes: Uint8Array): number {
    const count = Math.min(bytes.length, this.room);
    const tail = (this.#head + this.#length) % this.capacity;
    const first = Math.min(count, this.capacity - tail);
    this.#ring.set(bytes.subarray(0, first), tail);
    this.#ring.set(bytes.subarray(first, count), 0);
    this.#length += count;
    return count;
  }

  /** Moves the oldest bytes to the start of `into`; returns how many. */
  take(into: Uint8Array): number {
    const count = Math.min(into.length, this.#length);
    const first = Math.min(count, this.capacity - this.#head);
    into.set(this.#ring.subarray(this.#head, this.#head + first), 0);
    into.set(this.#ring.subarray(0, count - first), first);
    this.drop(count);
    return count;
  }

  /** The oldest byte, or 0 if there is none. */
  shift(): number {
    if (this.#length === 0) return 0;
    const byte = this.#ring[this.#head]!;
    this.drop(1);
    return byte;
  }

  drop(count: number): void {
    const dropped = Math.min(count, this.#length);
    this.#head = (this.#head + dropped) % this.capacity;
    this.#length -= dropped;
  }

  /** A copy of all that waits, oldest first. */
  contents(): Uint8Array {
    const first = this.#ring.subarray(this.#head, this.#head + this.#length);
    const bytes = new Uint8Array(this.#length);
    bytes.set(first);
    bytes.set(this.#ring.subarray(0, this.#length - first.length), first.length);
    return bytes;
  }

  /** Replaces all that waits; `bytes` must fit. */
  restore(bytes: Uint8Array): void {
    this.drop(this.#length);
    this.push(bytes);
  }
}
