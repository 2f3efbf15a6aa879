import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { createPageOps } from './page-ops.ts';
import { createPageOpsTwin } from './page-ops-twin.ts';
import { PAGE_SAMPLES } from './page-samples.ts';

// The decoder against input a stranger wrote (images, migration, a damaged pool).
// Two guards on reading: what lies around the block differs between runs and must not show; and the memory
// may end with the block.

const PAGE = 4096;
const SRC = 2 * PAGE;
const DST = 5 * PAGE;
const GUARD = 0xa5;
const ROUNDS = 12_000;

const memory = () => new WebAssembly.Memory({ initial: 1, maximum: 1 });
const wasmMemory = memory();
const twinMemory = memory();
const wasm = createPageOps(wasmMemory, false);
const twin = createPageOpsTwin(twinMemory);
const bytes = new Uint8Array(wasmMemory.buffer);
const twinBytes = new Uint8Array(twinMemory.buffer);

/** Decodes with guards around both buffers; returns the result and what came out. */
function decode(block: Uint8Array, capacity: number, around: number): { length: number; out: Uint8Array } {
  bytes.fill(around, 0, DST - PAGE);
  bytes.fill(GUARD, DST - PAGE);
  bytes.set(block, SRC);
  const length = wasm.lz4Decompress(SRC, block.length, DST, capacity);
  for (let i = DST - PAGE; i < DST; i++)
    if (bytes[i] !== GUARD) throw new Error(`wrote ${DST - i} before dst`);
  for (let i = DST + capacity; i < DST + 2 * PAGE; i++)
    if (bytes[i] !== GUARD) throw new Error('wrote past dst');
  return { length, out: bytes.slice(DST, DST + Math.max(0, length)) };
}

/** Checks one block: guards, independence from the surroundings, and agreement with the twin. */
function check(block: Uint8Array, capacity: number): number {
  const one = decode(block, capacity, 0xff);
  const other = decode(block, capacity, 0x01);
  // With the block at the end of the memory, a read past it traps.
  bytes.set(block, bytes.length - block.length);
  expect(wasm.lz4Decompress(bytes.length - block.length, block.length, DST, capacity)).toBe(one.length);
  twinBytes.set(block, SRC);
  expect(one.length).toBe(other.length);
  expect(one.length).toBe(twin.lz4Decompress(SRC, block.length, DST, capacity));
  if (one.length > 0) {
    expect(Buffer.compare(one.out, other.out)).toBe(0);
    expect(Buffer.compare(one.out, twinBytes.slice(DST, DST + one.length))).toBe(0);
  }
  return one.length;
}

/** A block of random sequences, well-formed more often than not. */
function grammarBlock(random: Random): Uint8Array {
  const out: number[] = [];
  const length = (n: number) => {
    if (n < 15) return;
    for (n -= 15; n >= 255; n -= 255) out.push(255);
    out.push(n);
  };
  for (let sequences = random.below(8), produced = 0; ; sequences--) {
    const literals = random.pick([0, 1, 5, 14, 15, 16, 270, random.below(400)]);
    const match = random.pick([0, 1, 4, 14, 15, 270, random.below(3000)]);
    out.push((Math.min(15, literals) << 4) | Math.min(15, match));
    length(literals);
    for (let i = 0; i < literals; i++) out.push(random.below(256));
    produced += literals;
    if (sequences <= 0) return Uint8Array.from(out);
    const offset = random.oneIn(10)
      ? random.below(70000)
      : 1 + random.below(random.oneIn(2) ? 12 : produced + 1);
    out.push(offset & 255, (offset >> 8) & 255);
    length(match);
    produced += match + 4;
  }
}

test('blocks of random bytes, random sequences and damaged pages never reach outside the buffers', () => {
  const random = new Random(20261122);
  const page = new Uint8Array(PAGE);
  const kinds = Object.values(PAGE_SAMPLES);
  const tally = { good: 0, bad: 0 };
  for (let i = 0; i < ROUNDS; i++) {
    let block: Uint8Array;
    const kind = i % 3;
    if (kind === 0)
      block = Uint8Array.from(
        { length: random.below(40) },
        () => random.u32() & random.pick([0xff, 0x3f, 0xf0]),
      );
    else if (kind === 1) block = grammarBlock(random);
    else {
      random.pick(kinds)(page, random);
      bytes.set(page, 0);
      block = bytes.slice(SRC, SRC + wasm.lz4Compress(0, SRC, 5000, DST));
      for (let hits = random.below(4); hits > 0; hits--) block[random.below(block.length)] = random.u32();
      if (random.oneIn(3)) block = block.slice(0, random.below(block.length + 1));
    }
    const capacity = random.pick([PAGE, PAGE, 0, 1, 15, 16, 17, random.below(PAGE)]);
    check(block, capacity) < 0 ? tally.bad++ : tally.good++;
  }
  // Both outcomes are well represented, or the test tests nothing.
  expect(tally.good).toBeGreaterThan(ROUNDS / 20);
  expect(tally.bad).toBeGreaterThan(ROUNDS / 20);
});

test('every truncation of a block is refused or decodes to fewer bytes', () => {
  const random = new Random(5);
  const page = new Uint8Array(PAGE);
  PAGE_SAMPLES.stretches!(page, random);
  bytes.set(page, 0);
  const block = bytes.slice(SRC, SRC + wasm.lz4Compress(0, SRC, 5000, DST));
  for (let n = 0; n < block.length; n++) expect(check(block.subarray(0, n), PAGE)).toBeLessThan(PAGE);
  expect(check(block, PAGE)).toBe(PAGE);
});

test('lengths that would wrap around 32 bits are refused', () => {
  const huge = new Uint8Array(8000).fill(255);
  expect(check(huge, PAGE)).toBe(-1);
  expect([
    wasm.lz4Decompress(SRC, -1, DST, PAGE),
    wasm.lz4Decompress(SRC, 10, DST, -1),
    wasm.lz4Decompress(SRC, 0, DST, 0),
  ]).toEqual([-1, -1, -1]);
  expect([
    twin.lz4Decompress(SRC, -1, DST, PAGE),
    twin.lz4Decompress(SRC, 10, DST, -1),
    twin.lz4Decompress(SRC, 0, DST, 0),
  ]).toEqual([-1, -1, -1]);
});

test('a block of nothing is one zero byte', () => {
  expect([check(Uint8Array.of(0), 0), check(Uint8Array.of(0), 10), check(new Uint8Array(0), 10)]).toEqual([
    0, 0, -1,
  ]);
});
