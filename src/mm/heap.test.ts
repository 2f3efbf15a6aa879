import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import { Heap } from './heap.ts';
import { testMm } from './testing.ts';

function heapOf(bytes: number): { heap: Heap; arena: Arena } {
  const arena = Arena.create({ frames: 16, heapBytes: bytes, shared: false });
  const sync = new Sync(arena, { lockdep: true });
  Heap.init(sync);
  return { heap: new Heap(sync), arena };
}

test('blocks are zeroed, aligned, inside the heap and apart; freed, they are one again', () => {
  const { heap, arena } = heapOf(256 * 1024);
  const random = new Random(9);
  const held: { at: number; words: number }[] = [];
  for (let step = 0; step < 3000; step++) {
    if (held.length > 0 && random.oneIn(2)) {
      const [block] = held.splice(random.below(held.length), 1);
      expect(arena.words.subarray(block!.at, block!.at + block!.words).every(w => w === block!.at)).toBe(
        true,
      );
      heap.free(block!.at);
      continue;
    }
    const words = 1 + random.below(random.oneIn(10) ? 4000 : 60);
    let at: number;
    try {
      at = heap.alloc(words);
    } catch {
      continue; // full
    }
    expect(at % 16).toBe(0);
    expect(at >= arena.heap && at + words <= arena.heap + arena.heapWords).toBe(true);
    expect(arena.words.subarray(at, at + words).every(w => w === 0)).toBe(true);
    arena.words.fill(at, at, at + words);
    held.push({ at, words });
  }
  for (const { at } of held) heap.free(at);
  expect(heap.used).toBe(0);
  expect(() => heap.alloc(60_000)).not.toThrow();
});

test('what does not fit is ENOMEM, and nothing is freed twice', () => {
  const { heap } = heapOf(64 * 1024);
  expect(() => heap.alloc(1 << 20)).toThrow('ENOMEM');
  const at = heap.alloc(10);
  heap.free(at);
  expect(() => heap.free(at)).toThrow('not in use');
  heap.free(0);
});

test('frames are handed out lowest first, and warm ones before those never used', () => {
  const { pageAlloc } = testMm();
  const [a, b, c] = [pageAlloc.alloc(), pageAlloc.alloc(), pageAlloc.alloc()];
  expect([b, c]).toEqual([a + 1, a + 2]);
  pageAlloc.free(a);
  pageAlloc.free(b);
  expect([pageAlloc.alloc(), pageAlloc.alloc(), pageAlloc.alloc()]).toEqual([b, a, c + 1]);
});

test('users leave the last frames to the kernel, and an empty zone answers -1', () => {
  const { pageAlloc } = testMm({ frames: 256 });
  let users = 0;
  while (pageAlloc.allocUser(1, 0) >= 0) users++;
  let kernel = 0;
  while (pageAlloc.alloc() >= 0) kernel++;
  expect([kernel, users > 200]).toEqual([8, true]);
  expect(pageAlloc.freeFrames).toBe(0);
});
