import { describe, expect, test } from 'vitest';
import { Arena } from './arena.ts';
import { type AtomicWords, atomicsOf } from './atomics.ts';
import { i32, type Ptr, struct } from './struct.ts';

const arenaOf = (shared: boolean) => Arena.create({ frames: 16, heapBytes: 4096, shared });

/** One of each, with what they return and leave behind. */
function trace(a: AtomicWords, words: Int32Array, at: number): number[] {
  words[at] = -7;
  const got = [a.load(at), a.add(at, 9), a.sub(at, 3), a.or(at, 0x50), a.and(at, ~1), a.exchange(at, -1)];
  got.push(a.cas(at, 5, 6), a.cas(at, -1, -0x80000000), words[at] as number);
  words.fill(0, at, at + 2);
  got.push(
    a.enterIdle(at),
    a.enterIdle(at),
    words[at] as number,
    a.leave(at),
    a.leave(at),
    words[at] as number,
  );
  words.set([1, 3], at);
  got.push(a.leave(at), words[at] as number, a.enterIdle(at), words[at] as number);
  words.set([-1, 0], at);
  got.push(a.enterIdle(at), words[at] as number);
  a.store(at, 0x7fffffff);
  return [...got, words[at] as number];
}

describe.each([true, false])('atomics, shared %s', shared => {
  test('J-4: the generated operations return and leave what those of Atomics do', () => {
    const arena = arenaOf(shared);
    const plain = new Int32Array(16);
    expect(trace(arena.atomics, arena.words, arena.heap)).toEqual(trace(atomicsOf(plain), plain, 3));
  });

  test('the last word of the arena can be reached, and none beyond', () => {
    const arena = arenaOf(shared);
    arena.atomics.store(arena.words.length - 1, 5);
    expect(arena.atomics.load(arena.words.length - 1)).toBe(5);
    expect(() => arena.atomics.load(arena.words.length)).toThrow(/bounds/);
  });

  test('accessors of a view of the arena go by its operations', () => {
    const arena = arenaOf(shared);
    const record = struct(new Int32Array(arena.memory.buffer), 'record', { first: i32, second: i32 });
    record.second.store(arena.heap as Ptr<'record'>, 12);
    expect(record.second.add(arena.heap as Ptr<'record'>, 1)).toBe(12);
    expect(arena.words[arena.heap + 1]).toBe(13);
  });
});
