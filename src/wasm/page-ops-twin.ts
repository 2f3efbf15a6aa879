import { hashPage } from './hash-twin.ts';
import { lz4CompressTwin, lz4DecompressTwin } from './lz4-twin.ts';
import type { PageOps } from './page-ops.ts';

const PAGE = 4096;

/**
 * The page operations in TypeScript, byte by byte: what the wasm must equal, and what runs where stopping
 * inside an operation matters (the explorer). An address outside the memory throws a RangeError.
 */
export function createPageOpsTwin(memory: WebAssembly.Memory): PageOps {
  const bytes = new Uint8Array(memory.buffer);
  let high = 0;
  /** The range, checked; `set`, `fill` and `copyWithin` would clamp it silently. */
  const range = (address: number, length: number): Uint8Array => {
    const from = address >>> 0;
    if (from + length > bytes.length) throw new RangeError('memory access out of bounds');
    return bytes.subarray(from, from + length);
  };
  const repeats = (page: number, every: number): boolean => {
    const p = range(page, PAGE);
    for (let i = every; i < PAGE; i++) if (p[i] !== p[i - every]) return false;
    return true;
  };
  return {
    zero: page => void range(page, PAGE).fill(0),
    copy: (dst, src) => range(dst, PAGE).set(range(src, PAGE)),
    equal: (a, b) => {
      const other = range(b, PAGE);
      return range(a, PAGE).every((byte, i) => byte === other[i]);
    },
    isZero: page => range(page, PAGE).every(byte => byte === 0),
    sameFilled: page => repeats(page, 8),
    fillWords: (page, lo, hi) => {
      const p = range(page, PAGE);
      for (let i = 0; i < PAGE; i++) p[i] = (i & 4 ? hi : lo) >>> ((i & 3) * 8);
    },
    hash64: page => {
      const [lo, hi] = hashPage(range(page, PAGE));
      high = hi;
      return lo;
    },
    hashHigh: () => high,
    fill: (address, value, length) => void range(address, length >>> 0).fill(value),
    move: (dst, src, length) => range(dst, length >>> 0).set(range(src, length >>> 0)),
    lz4Compress: (src, dst, capacity, scratch) =>
      lz4CompressTwin(range(src, PAGE), range(dst, Math.max(0, capacity)), range(scratch, 8192)),
    lz4Decompress: (src, length, dst, capacity) => {
      if (length < 0 || capacity < 0) return -1;
      return lz4DecompressTwin(range(src, length), range(dst, capacity));
    },
  };
}
