import { ModuleBuilder } from './encoder.ts';
import { defineHash } from './page-ops-hash.ts';
import { defineLz4Compress } from './page-ops-lz4-compress.ts';
import { defineLz4Decompress } from './page-ops-lz4-decompress.ts';
import { defineBulk, defineCompare } from './page-ops-simple.ts';

/** Words of scratch that `lz4Compress` needs; one per thread. */
export const LZ4_SCRATCH_WORDS = 2048;

/**
 * What is done to the contents of pages. Addresses are byte addresses of the arena, unsigned or wrapped
 * to signed alike; "page" is 4096 bytes at any address. An address outside the memory is a bug of the
 * caller and throws. Plain accesses throughout: the caller sees to it that nobody else writes, or doesn't
 * mind (J-4).
 *
 * Two implementations are equal by property test: `createPageOps` (generated wasm) and
 * `createPageOpsTwin` (TypeScript, for the explorer and as the specification).
 */
export type PageOps = {
  zero(page: number): void;
  copy(dst: number, src: number): void;
  equal(a: number, b: number): boolean;
  isZero(page: number): boolean;
  /** True if the page is one 64-bit word repeated; that word is then the page's first two words. */
  sameFilled(page: number): boolean;
  /** Writes the 64-bit word `hi:lo` 512 times. */
  fillWords(page: number, lo: number, hi: number): void;
  /** The low half of the page's XXH64 with seed 0, signed; `hashHigh` then returns the other half. */
  hash64(page: number): number;
  hashHigh(): number;
  /** Sets `length` bytes to `value`. */
  fill(address: number, value: number, length: number): void;
  /** Copies `length` bytes; the ranges may overlap. */
  move(dst: number, src: number, length: number): void;
  /**
   * Compresses one page as an LZ4 block of at most `capacity` bytes at `dst`. Returns its length, or 0
   * when it doesn't fit; then `dst` holds rubbish. `scratch`: LZ4_SCRATCH_WORDS words nobody else uses.
   */
  lz4Compress(src: number, dst: number, capacity: number, scratch: number): number;
  /**
   * Decodes an LZ4 block of `length` bytes. Returns how many bytes came out, or -1 for anything that is
   * not a well-formed block of at most `capacity` bytes. Whatever the input, reads stay in
   * [src, src + length) and writes in [dst, dst + capacity); both lengths are below 2^31. The two ranges
   * must not overlap.
   */
  lz4Decompress(src: number, length: number, dst: number, capacity: number): number;
};

/** The exports as the engine hands them out. */
type Raw = Omit<PageOps, 'equal' | 'isZero' | 'sameFilled'> & {
  equal(a: number, b: number): number;
  isZero(page: number): number;
  sameFilled(page: number): number;
};

/** The bytes of the page operations' module. */
export function pageOpsModule(shared: boolean): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared, maximum: 65536 });
  defineBulk(m);
  defineCompare(m);
  defineHash(m);
  defineLz4Compress(m);
  defineLz4Decompress(m);
  return m.finish();
}

/** Page operations over `memory`, for one thread: `hashHigh` is its own. */
export function createPageOps(memory: WebAssembly.Memory, shared: boolean): PageOps {
  const module = new WebAssembly.Module(pageOpsModule(shared));
  const raw = new WebAssembly.Instance(module, { env: { memory } }).exports as unknown as Raw;
  const { equal, isZero, sameFilled } = raw;
  return {
    zero: raw.zero,
    copy: raw.copy,
    equal: (a, b) => equal(a, b) !== 0,
    isZero: page => isZero(page) !== 0,
    sameFilled: page => sameFilled(page) !== 0,
    fillWords: raw.fillWords,
    hash64: raw.hash64,
    hashHigh: raw.hashHigh,
    fill: raw.fill,
    move: raw.move,
    lz4Compress: raw.lz4Compress,
    lz4Decompress: raw.lz4Decompress,
  };
}
