import {
  LZ4_HASH,
  LZ4_HASH_BITS,
  LZ4_MATCH_END,
  LZ4_MATCH_START_LAST,
  LZ4_SKIP,
} from './page-ops-lz4-compress.ts';

// The LZ4 block format in plain TypeScript. The compressor makes the same choices as the generated one,
// so that their blocks are equal byte for byte; the decoder is the format's definition with its bounds.

const u16 = (b: Uint8Array, at: number): number => (b[at] as number) | ((b[at + 1] as number) << 8);
const u32 = (b: Uint8Array, at: number): number => u16(b, at) | (u16(b, at + 2) << 16);

/** Bytes that a length takes beyond its nibble. */
const extraBytes = (n: number): number => (n < 15 ? 0 : Math.floor((n - 15) / 255) + 1);

/** Compresses one page. Returns the block's length, or 0 when `dst` can't hold it. `scratch`: 8192 bytes. */
export function lz4CompressTwin(src: Uint8Array, dst: Uint8Array, scratch: Uint8Array): number {
  scratch.fill(0);
  const writer = new Writer(dst);
  let anchor = 0;
  let at = 1;
  for (;;) {
    const match = findMatch(src, scratch, at, anchor);
    if (match === undefined) break;
    const { from, candidate, length } = match;
    if (!writer.fits(from - anchor, length - 4, 2 + 6)) return 0;
    writer.sequence(src, anchor, from, length - 4);
    writer.offset(from - candidate);
    writer.length(length - 4);
    at = anchor = from + length;
    if (at > LZ4_MATCH_START_LAST) break;
    enter(src, scratch, at - 2);
  }
  if (!writer.fits(src.length - anchor, 0, 0)) return 0;
  writer.sequence(src, anchor, src.length, 0);
  return writer.at;
}

/**
 * The top 12 of the low 48 bits of six bytes times the prime, in halves of 24 bits, so that every product and sum is
 * exact.
 */
function hash6(src: Uint8Array, at: number): number {
  const half = 2 ** 24;
  const [a, b] = [u32(src, at) & (half - 1), u32(src, at + 3) & (half - 1)];
  const prime = LZ4_HASH.high * 2 ** 32 + LZ4_HASH.low;
  const [c, d] = [prime % half, Math.floor(prime / half)];
  const product = a * c + ((a * d + b * c) % half) * half;
  return Math.floor((product % 2 ** 48) / 2 ** (48 - LZ4_HASH_BITS));
}

/** Enters a position in the table; returns the one it replaces. */
function enter(src: Uint8Array, table: Uint8Array, at: number): number {
  const slot = hash6(src, at) * 2;
  const before = u16(table, slot);
  table[slot] = at;
  table[slot + 1] = at >>> 8;
  return before;
}

function findMatch(src: Uint8Array, table: Uint8Array, at: number, anchor: number) {
  let candidate: number;
  for (let misses = 1 << LZ4_SKIP; ; at += misses++ >>> LZ4_SKIP) {
    if (at > LZ4_MATCH_START_LAST) return undefined;
    candidate = enter(src, table, at);
    if (u32(src, candidate) === u32(src, at)) break;
  }
  let length = 4;
  while (at + length < LZ4_MATCH_END && src[at + length] === src[candidate + length]) length++;
  while (at > anchor && candidate > 0 && src[at - 1] === src[candidate - 1]) {
    at--;
    candidate--;
    length++;
  }
  return { from: at, candidate, length };
}

class Writer {
  at = 0;
  readonly #dst: Uint8Array;

  constructor(dst: Uint8Array) {
    this.#dst = dst;
  }

  fits(literals: number, match: number, more: number): boolean {
    return this.at + 1 + extraBytes(literals) + literals + extraBytes(match) + more <= this.#dst.length;
  }

  /** The token and the literals [from, to). */
  sequence(src: Uint8Array, from: number, to: number, match: number): void {
    const literals = to - from;
    this.#byte((Math.min(literals, 15) << 4) | Math.min(match, 15));
    this.length(literals);
    this.#dst.set(src.subarray(from, to), this.at);
    this.at += literals;
  }

  offset(value: number): void {
    this.#byte(value);
    this.#byte(value >>> 8);
  }

  length(n: number): void {
    if (n < 15) return;
    for (n -= 15; n >= 255; n -= 255) this.#byte(255);
    this.#byte(n);
  }

  #byte(value: number): void {
    this.#dst[this.at++] = value;
  }
}

/** Decodes a block. Returns how many bytes came out, or -1 if it is malformed or too long for `dst`. */
export function lz4DecompressTwin(src: Uint8Array, dst: Uint8Array): number {
  let at = 0;
  let out = 0;
  /** A length whose nibble is `n`, or -1. */
  const length = (n: number): number => {
    if (n < 15) return n;
    for (;;) {
      if (at >= src.length) return -1;
      const byte = src[at++] as number;
      n += byte;
      if (n > dst.length) return -1;
      if (byte < 255) return n;
    }
  };
  while (at < src.length) {
    const token = src[at++] as number;
    const literals = length(token >>> 4);
    if (literals < 0 || literals > src.length - at || literals > dst.length - out) return -1;
    for (let i = 0; i < literals; i++) dst[out++] = src[at++] as number;
    if (at === src.length) return out;
    if (src.length - at < 2) return -1;
    const offset = u16(src, at);
    at += 2;
    const match = length(token & 15);
    if (offset === 0 || offset > out || match < 0 || match + 4 > dst.length - out) return -1;
    for (let i = 0; i < match + 4; i++, out++) dst[out] = dst[out - offset] as number;
  }
  return -1;
}
