import { beforeEach, expect, test } from 'vitest';
import { Errno } from '../../base/errno.ts';
import { Random } from '../../base/random.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { Arena, frameByte } from '../../sync/arena.ts';
import { createPageOpsTwin } from '../../wasm/page-ops-twin.ts';
import { PAGE_SAMPLES } from '../../wasm/page-samples.ts';
import { SwapFile, type SwapFilePort } from './swap-file.ts';

const SLOTS = 32;

/** A disk of limited size that moves a few bytes at a time and fails on demand. */
class Disk implements SwapFilePort {
  readonly data = new Uint8Array(SLOTS * PAGE_SIZE);
  /** Bytes that fit. */
  room = this.data.length;
  length = 0;
  failing: 'none' | 'reads' | 'writes' = 'none';
  writes = 0;
  readonly #random: Random;

  constructor(random: Random) {
    this.#random = random;
  }

  readAt(offset: number, bytes: Uint8Array): number {
    if (this.failing === 'reads') throw new Errno('EIO', 'read');
    const n = Math.max(
      0,
      Math.min(bytes.length, this.length - offset, 1 + this.#random.below(PAGE_SIZE * 2)),
    );
    bytes.set(this.data.subarray(offset, offset + n));
    return n;
  }

  writeAt(offset: number, bytes: Uint8Array): number {
    this.writes++;
    if (this.failing === 'writes') throw new Errno('EIO', 'write');
    const n = Math.min(bytes.length, this.room - offset, 1 + this.#random.below(PAGE_SIZE * 2));
    if (n <= 0) throw new Errno('ENOSPC', 'write');
    this.data.set(bytes.subarray(0, n), offset);
    this.length = Math.max(this.length, offset + n);
    return n;
  }
}

let disk: Disk;
let swap: SwapFile;
let random: Random;
let arena: Arena;
let pfn: number;
let page: Uint8Array;

beforeEach(() => {
  random = new Random(1);
  disk = new Disk(random);
  arena = Arena.create({ frames: 4, heapBytes: 4096, shared: true });
  let next = arena.heap;
  const heap = { alloc: (words: number) => (next += words) - words };
  swap = SwapFile.create({ arena, ops: createPageOpsTwin(arena.memory), heap, file: disk }, SLOTS);
  pfn = arena.firstFrame + 2;
  page = arena.bytes.subarray(frameByte(pfn), frameByte(pfn) + PAGE_SIZE);
});

const write = (slot: number, kind: string): string => {
  PAGE_SAMPLES[kind]!(page, random);
  return swap.writePage(slot, pfn);
};

test('a random workload reads back what a map holds, on a disk that moves bytes piecemeal', () => {
  const held = new Map<number, Uint8Array>();
  const other = SwapFile.attach({ arena, ops: createPageOpsTwin(arena.memory), file: disk });
  const around = arena.bytes.slice();
  for (let i = 0; i < 1500; i++) {
    const slot = random.below(SLOTS);
    const device = random.oneIn(2) ? swap : other;
    const what = random.below(3);
    if (what === 0) {
      expect(write(slot, random.pick(['zero', 'text', 'noise']))).toBe('ok');
      held.set(slot, page.slice());
    } else if (what === 1) {
      device.freeSlot(slot);
      held.delete(slot);
    } else {
      page.fill(0x77);
      const want = held.get(slot);
      expect(device.readPage(slot, pfn)).toBe(want === undefined ? 'error' : 'ok');
      if (want !== undefined) expect(Buffer.compare(page, want)).toBe(0);
    }
  }
  // Nothing but the page and the slot table was touched.
  page.set(around.subarray(frameByte(pfn), frameByte(pfn) + PAGE_SIZE));
  for (let slot = 0; slot < SLOTS; slot++) swap.freeSlot(slot);
  expect(Buffer.compare(arena.bytes, around)).toBe(0);
});

test('zero pages take no write and no room', () => {
  disk.room = 0;
  expect([write(0, 'zero'), disk.writes]).toEqual(['ok', 0]);
  page.fill(1);
  expect([swap.readPage(0, pfn), page.every(b => b === 0)]).toEqual(['ok', true]);
});

test('a full disk is full, the slot is empty afterwards, and the stored pages stay', () => {
  disk.room = 3 * PAGE_SIZE + 100;
  expect([0, 1, 2].map(slot => write(slot, 'noise'))).toEqual(['ok', 'ok', 'ok']);
  const last = page.slice();
  expect(write(3, 'noise')).toBe('full');
  expect(swap.readPage(3, pfn)).toBe('error');
  expect([swap.readPage(2, pfn), Buffer.compare(page, last)]).toEqual(['ok', 0]);
  disk.room = disk.data.length;
  expect(write(3, 'noise')).toBe('ok');
});

test('an overwrite that fails leaves no old page behind', () => {
  write(5, 'text');
  disk.failing = 'writes';
  expect(write(5, 'noise')).toBe('error');
  disk.failing = 'none';
  expect(swap.readPage(5, pfn)).toBe('error');
});

test('read errors and a file that lost its end are errors', () => {
  write(4, 'text');
  disk.failing = 'reads';
  expect(swap.readPage(4, pfn)).toBe('error');
  disk.failing = 'none';
  expect(swap.readPage(4, pfn)).toBe('ok');
  disk.length = 4 * PAGE_SIZE + 17;
  expect(swap.readPage(4, pfn)).toBe('error');
});

test('a bug in the port is not mistaken for a bad disk', () => {
  const broken = {
    readAt: () => 0,
    writeAt: () => {
      throw new TypeError('oops');
    },
  };
  const device = SwapFile.attach({ arena, ops: createPageOpsTwin(arena.memory), file: broken });
  page.fill(1);
  expect(() => device.writePage(0, pfn)).toThrow(TypeError);
});
