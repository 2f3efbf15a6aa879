import { expect, test } from 'vitest';
import { PAGE_WORDS } from '../base/units.ts';
import { Arena, frameByte, frameWord, PAGE_STRUCT_WORDS, Root } from './arena.ts';

const options = { frames: 100, heapBytes: 3 * 4096, shared: true };

test('the header, the page array, the heap and the frames lie one behind the other', () => {
  const arena = Arena.create(options);
  const arrayPages = Math.ceil((100 * PAGE_STRUCT_WORDS) / PAGE_WORDS);
  expect(arena.pageArray).toBe(PAGE_WORDS);
  expect(arena.heap).toBe((1 + arrayPages) * PAGE_WORDS);
  expect(arena.heapWords).toBe(3 * PAGE_WORDS);
  expect(frameWord(arena.firstFrame)).toBe(arena.heap + arena.heapWords);
  expect(arena.words.length).toBeGreaterThanOrEqual(frameWord(arena.firstFrame + 100));
});

test('a thread that attaches sees the same layout and the same bytes', () => {
  const arena = Arena.create(options);
  arena.setRoot(Root.swap, 77);
  const other = Arena.attach(arena.memory);
  const shape = (a: Arena) => [a.firstFrame, a.frames, a.pageArray, a.heap, a.heapWords, a.shared];
  expect(shape(other)).toEqual(shape(arena));
  expect(other.root(Root.swap)).toBe(77);
});

test('a memory that no arena was made in is refused', () => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  expect(() => Arena.attach(memory)).toThrow('not an arena');
});

test('only the frames that page_alloc hands out count as frames', () => {
  const arena = Arena.create(options);
  const edges = [-1, 0, 99, 100].map(i => arena.isFrame(arena.firstFrame + i));
  expect(edges).toEqual([false, true, true, false]);
  expect(frameByte(0xfffff)).toBe(0xfffff000);
});

test('one-worker mode gets an unshared memory', () => {
  expect(Arena.create({ ...options, shared: false }).shared).toBe(false);
});

test('an arena above 4 GiB is ENOMEM', () => {
  expect(() => Arena.create({ ...options, frames: 2 ** 20 })).toThrow('ENOMEM');
});
