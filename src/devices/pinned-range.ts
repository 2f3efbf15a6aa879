import { assert } from '../base/assert.ts';

/**
 * Little-endian fields of pinned guest memory. The pieces are in order and need not be neighbours, so a
 * field may lie across two. Offsets are inside the range: the caller has checked them.
 */
export class PinnedRange {
  readonly #pieces: readonly Uint8Array[];
  /** The piece found last, and where in the range it starts. */
  #piece: Uint8Array;
  #start = 0;

  constructor(pieces: readonly Uint8Array[]) {
    assert(pieces.length > 0, 'pin: a pin has a piece');
    this.#pieces = pieces;
    this.#piece = pieces[0]!;
  }

  u16(offset: number): number {
    return this.#byte(offset) | (this.#byte(offset + 1) << 8);
  }

  u32(offset: number): number {
    return (this.u16(offset) | (this.u16(offset + 2) << 16)) >>> 0;
  }

  setU32(offset: number, value: number): void {
    for (let i = 0; i < 4; i++) this.#setByte(offset + i, value >>> (i * 8));
  }

  /** Pairs with the guest's own barriers: what it wrote before the index is seen after this. */
  atomicU16(offset: number): number {
    const half = this.#half(offset);
    return half === undefined ? this.u16(offset) : Atomics.load(half, 0);
  }

  /** Everything written before is seen by a guest that sees this. */
  setAtomicU16(offset: number, value: number): void {
    const half = this.#half(offset);
    if (half !== undefined) Atomics.store(half, 0, value);
    else {
      this.#setByte(offset, value);
      this.#setByte(offset + 1, value >>> 8);
    }
  }

  /** The field as an array of one, if memory has it aligned; rings are, by their rules. */
  #half(offset: number): Uint16Array | undefined {
    const at = this.#locate(offset) + this.#piece.byteOffset;
    const aligned = at % 2 === 0 && this.#start + this.#piece.length >= offset + 2;
    return aligned ? new Uint16Array(this.#piece.buffer, at, 1) : undefined;
  }

  #byte(offset: number): number {
    const at = this.#locate(offset);
    return this.#piece[at]!;
  }

  #setByte(offset: number, value: number): void {
    const at = this.#locate(offset);
    this.#piece[at] = value;
  }

  /** Makes `#piece` the one that holds `offset`, and returns where in it. */
  #locate(offset: number): number {
    const at = offset - this.#start;
    if (at >= 0 && at < this.#piece.length) return at;
    let start = 0;
    for (const piece of this.#pieces) {
      if (offset < start + piece.length) {
        this.#piece = piece;
        this.#start = start;
        return offset - start;
      }
      start += piece.length;
    }
    assert(false, 'pin: the offset lies in the range');
  }
}
