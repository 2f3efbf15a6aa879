const utf8 = new TextEncoder();

/** A growing byte buffer with WebAssembly's integers: LEB128, vectors and names. */
export class Bytes {
  #data = new Uint8Array(1024);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  byte(value: number): this {
    if (this.#length === this.#data.length) this.#grow(1);
    this.#data[this.#length++] = value;
    return this;
  }

  raw(bytes: ArrayLike<number>): this {
    if (this.#length + bytes.length > this.#data.length) this.#grow(bytes.length);
    this.#data.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** Unsigned LEB128 of a number below 2^32. */
  u32(value: number): this {
    value >>>= 0;
    while (value >= 0x80) {
      this.byte((value & 0x7f) | 0x80);
      value >>>= 7;
    }
    return this.byte(value);
  }

  /** Signed LEB128 of a safe integer. */
  signed(value: number): this {
    if (value >= -64 && value < 64) return this.byte(value & 0x7f);
    for (;;) {
      const low = ((value % 128) + 128) % 128;
      value = (value - low) / 128;
      const done = (value === 0 && low < 64) || (value === -1 && low >= 64);
      this.byte(done ? low : low | 0x80);
      if (done) return this;
    }
  }

  /** Signed LEB128 of a 64-bit value given as two words. */
  signed64(low: number, high: number): this {
    low |= 0;
    high |= 0;
    for (;;) {
      const bits = low & 0x7f;
      low = (low >>> 7) | (high << 25);
      high >>= 7;
      const done = (low === 0 && high === 0 && bits < 64) || (low === -1 && high === -1 && bits >= 64);
      this.byte(done ? bits : bits | 0x80);
      if (done) return this;
    }
  }

  vector<T>(items: readonly T[], write: (item: T) => void): this {
    this.u32(items.length);
    for (const item of items) write(item);
    return this;
  }

  name(text: string): this {
    const bytes = utf8.encode(text);
    return this.u32(bytes.length).raw(bytes);
  }

  take(): Uint8Array<ArrayBuffer> {
    return this.#data.slice(0, this.#length);
  }

  #grow(extra: number): void {
    const bigger = new Uint8Array(Math.max(this.#data.length * 4, this.#length + extra));
    bigger.set(this.#data.subarray(0, this.#length));
    this.#data = bigger;
  }
}
