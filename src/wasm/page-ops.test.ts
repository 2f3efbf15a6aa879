import { describe, expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { createPageOps, type PageOps } from './page-ops.ts';
import { createPageOpsTwin } from './page-ops-twin.ts';
import { PAGE_SAMPLES } from './page-samples.ts';

const PAGE = 4096;
const KINDS = Object.entries(PAGE_SAMPLES);

/** One memory of eight pages and its operations. */
function world(kind: 'wasm' | 'twin', shared = false) {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared });
  const ops = kind === 'wasm' ? createPageOps(memory, shared) : createPageOpsTwin(memory);
  return { ops, bytes: new Uint8Array(memory.buffer) };
}

/** The same operation on both implementations: equal results, equal memories. */
class Pair {
  readonly wasm = world('wasm');
  readonly twin = world('twin');

  write(at: number, content: Uint8Array): void {
    this.wasm.bytes.set(content, at);
    this.twin.bytes.set(content, at);
  }

  run<T>(operation: (ops: PageOps) => T): T {
    const got = operation(this.wasm.ops);
    expect(got).toEqual(operation(this.twin.ops));
    this.expectSameMemory();
    return got;
  }

  expectSameMemory(): void {
    expect(Buffer.compare(this.wasm.bytes, this.twin.bytes)).toBe(0);
  }
}

describe.each(KINDS)('a page of %s', (_name, fill) => {
  test('is seen alike by wasm and twin', () => {
    const random = new Random(1);
    const pair = new Pair();
    const page = new Uint8Array(PAGE);
    for (let i = 0; i < 12; i++) {
      fill(page, random);
      const at = random.below(3 * PAGE);
      pair.write(at, page);
      pair.run(ops => [ops.isZero(at), ops.sameFilled(at), ops.hash64(at), ops.hashHigh()]);
      pair.run(ops => ops.copy(5 * PAGE, at));
      expect(pair.run(ops => ops.equal(5 * PAGE, at))).toBe(true);
      pair.write(at + random.below(PAGE), Uint8Array.of(random.u32()));
      pair.run(ops => [ops.equal(5 * PAGE, at), ops.isZero(at), ops.sameFilled(at)]);
    }
  });

  test('compresses to the same block, and comes back by either decoder', () => {
    const random = new Random(2);
    const pair = new Pair();
    const page = new Uint8Array(PAGE);
    for (let i = 0; i < 25; i++) {
      fill(page, random);
      pair.write(0, page);
      const [a, b] = [pair.wasm, pair.twin].map(w => w.ops.lz4Compress(0, PAGE, 5000, 6 * PAGE));
      expect(a).toBe(b);
      expect(a).toBeGreaterThan(0);
      const block = pair.wasm.bytes.slice(PAGE, PAGE + a!);
      expect(Buffer.compare(block, pair.twin.bytes.slice(PAGE, PAGE + a!))).toBe(0);
      pair.write(PAGE, pair.wasm.bytes.slice(PAGE, 4 * PAGE));
      expect(pair.run(ops => ops.lz4Decompress(PAGE, a!, 4 * PAGE, PAGE))).toBe(PAGE);
      expect(pair.run(ops => ops.equal(0, 4 * PAGE))).toBe(true);
    }
  });

  test('is refused by the compressor exactly below the capacity its block takes', () => {
    const random = new Random(3);
    const pair = new Pair();
    const page = new Uint8Array(PAGE);
    fill(page, random);
    pair.write(0, page);
    for (const { ops, bytes } of [pair.wasm, pair.twin]) {
      const full = ops.lz4Compress(0, PAGE, 5000, 6 * PAGE);
      for (const capacity of [-1, 0, 1, full >> 1, full - 1, full]) {
        bytes.fill(0xa5, PAGE, 3 * PAGE);
        expect(ops.lz4Compress(0, PAGE + 64, capacity, 6 * PAGE)).toBe(capacity === full ? full : 0);
        const guards = [
          bytes.slice(PAGE, PAGE + 64),
          bytes.slice(PAGE + 64 + Math.max(0, capacity), 3 * PAGE),
        ];
        expect(guards.every(g => g.every(byte => byte === 0xa5))).toBe(true);
      }
    }
  });
});

test('one different byte anywhere makes pages unequal, not zero, and not same-filled', () => {
  const pair = new Pair();
  for (let at = 0; at < PAGE; at++) {
    pair.write(PAGE + at, Uint8Array.of(0x80));
    expect([
      pair.wasm.ops.equal(0, PAGE),
      pair.wasm.ops.isZero(PAGE),
      pair.wasm.ops.sameFilled(PAGE),
    ]).toEqual([false, false, false]);
    pair.write(PAGE + at, Uint8Array.of(0));
  }
  expect([pair.wasm.ops.equal(0, PAGE), pair.wasm.ops.isZero(PAGE), pair.wasm.ops.sameFilled(PAGE)]).toEqual([
    true,
    true,
    true,
  ]);
});

test('fill, move, zero and fillWords touch their range and nothing else', () => {
  const random = new Random(4);
  const pair = new Pair();
  const noise = new Uint8Array(8 * PAGE);
  PAGE_SAMPLES.noise!(noise, random);
  pair.write(0, noise);
  for (let i = 0; i < 60; i++) {
    const [a, b, n] = [random.below(7 * PAGE), random.below(7 * PAGE), random.below(PAGE)];
    const [lo, hi] = [random.u32() | 0, random.u32() | 0];
    pair.run(ops => ops.move(a, b, n));
    pair.run(ops => ops.fill(b, lo, n >> 2));
    if (random.oneIn(4)) pair.run(ops => ops.fillWords(a, lo, hi));
    if (random.oneIn(4)) pair.run(ops => ops.zero(b));
    if (random.oneIn(4)) pair.run(ops => ops.copy(a, b));
  }
  pair.run(ops => ops.fillWords(0, 0x03020100, 0x07060504));
  expect([...pair.wasm.bytes.slice(4088, 4096)]).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
});

test('the hash is XXH64 with seed 0', () => {
  const pair = new Pair();
  const hash = () => pair.run(ops => [ops.hash64(0) >>> 0, ops.hashHigh() >>> 0]);
  expect(hash()).toEqual([0x32d8bbdb, 0xac869b6f]);
  pair.write(
    0,
    Uint8Array.from({ length: PAGE }, (_, i) => i * 7 + (i >> 8)),
  );
  expect(hash()).toEqual([0xb4b78856, 0x2f2095db]);
});

test('pages at the very end of a memory are in reach, and the byte after it is not', () => {
  for (const shared of [false, true]) {
    for (const { ops, bytes } of [world('wasm', shared), world('twin', shared)]) {
      const last = bytes.length - PAGE;
      bytes.fill(7, last);
      expect(ops.lz4Compress(last, 0, PAGE, 2 * PAGE)).toBeGreaterThan(0);
      const length = ops.lz4Compress(last, 0, PAGE, 2 * PAGE);
      ops.zero(last);
      expect([
        ops.isZero(last),
        ops.lz4Decompress(0, length, last, PAGE),
        bytes[last],
        bytes[bytes.length - 1],
      ]).toEqual([true, PAGE, 7, 7]);
      for (const beyond of [
        () => ops.zero(last + 1),
        () => ops.copy(0, last + 1),
        () => ops.isZero(-1),
        () => ops.move(0, 0, -1),
      ]) {
        expect(beyond).toThrow();
      }
    }
  }
});
