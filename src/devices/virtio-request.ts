import type { Pin } from './interface.ts';

/** A buffer as the driver names it: guest physical bytes, and whether the device writes to it. */
export type Segment = { readonly gpa: number; readonly length: number; readonly write: boolean };

/** One request of a virtqueue: two byte streams, in whatever pieces the driver and its pages make. */
export class VirtioRequest {
  readonly head: number;
  readonly pins: readonly Pin[];
  /** Bytes the driver sends. */
  readonly readableLength: number;
  /** Bytes the driver has room for. */
  readonly writableLength: number;
  /** Its buffers in order; none of length zero. */
  readonly ranges: readonly Segment[];
  readonly #readable: readonly Uint8Array[];
  readonly #writable: readonly Uint8Array[];

  constructor(
    head: number,
    pins: readonly Pin[],
    readable: readonly Uint8Array[],
    writable: readonly Uint8Array[],
    ranges: readonly Segment[] = [],
  ) {
    this.ranges = ranges;
    this.head = head;
    this.pins = pins;
    this.#readable = readable;
    this.#writable = writable;
    this.readableLength = total(readable);
    this.writableLength = total(writable);
  }

  /** Fills `into` with what the driver sent from `offset` on, as far as there is any. */
  read(offset: number, into: Uint8Array): void {
    each(this.#readable, offset, into.length, (piece, at) => into.set(piece, at));
  }

  /** Puts `from` into the driver's buffers from `offset` on, as far as there is room. */
  write(offset: number, from: Uint8Array): void {
    each(this.#writable, offset, from.length, (piece, at) => piece.set(from.subarray(at, at + piece.length)));
  }
}

function total(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}

/** Visits the parts of `pieces` that make up [offset, offset + length), with where each starts in that range. */
function each(
  pieces: readonly Uint8Array[],
  offset: number,
  length: number,
  visit: (piece: Uint8Array, at: number) => void,
): void {
  let start = 0;
  for (const piece of pieces) {
    const from = Math.max(offset - start, 0);
    const to = Math.min(offset + length - start, piece.length);
    if (from < to) visit(piece.subarray(from, to), start + from - offset);
    start += piece.length;
    if (start >= offset + length) return;
  }
}
