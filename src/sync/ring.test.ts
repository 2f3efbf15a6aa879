import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { Arena } from './arena.ts';
import { Ring, ringWords } from './ring.ts';
import { Sync } from './sync.ts';

function ring(bytes: number): { ring: Ring; words: Int32Array; at: number } {
  const sync = new Sync(Arena.create({ frames: 1, heapBytes: 4096, shared: true }));
  const at = sync.arena.heap + 8;
  return { ring: new Ring(sync, at, bytes), words: sync.words, at };
}

test('a ring takes what fits, gives it back in order, and touches nothing beside itself', () => {
  const { ring: r, words, at } = ring(16);
  words[at - 1] = words[at + ringWords(16)] = 0x5a5a5a5a;
  expect(r.write(new Uint8Array(20).map((_, i) => i))).toBe(16);
  expect([r.length, r.room]).toEqual([16, 0]);
  expect([...r.peek(5)]).toEqual([0, 1, 2, 3, 4]);
  r.skip(5);
  expect(r.write(new Uint8Array([100, 101]))).toBe(2);
  expect([...r.peek(99)].slice(-3)).toEqual([15, 100, 101]);
  expect([words[at - 1], words[at + ringWords(16)]]).toEqual([0x5a5a5a5a, 0x5a5a5a5a]);
});

test('a ring equals a queue over random writes and reads, also where its counters wrap', () => {
  const { ring: r, words, at } = ring(32);
  words[at] = words[at + 1] = -50; // 2^32 - 50 bytes ever written
  const random = new Random(7);
  const queue: number[] = [];
  for (let step = 0; step < 2000; step++) {
    const bytes = new Uint8Array(random.below(20)).map(() => random.below(256));
    const taken = r.write(bytes);
    expect(taken).toBe(Math.min(bytes.length, 32 - queue.length));
    queue.push(...bytes.subarray(0, taken));
    const out = r.peek(random.below(20));
    expect([...out]).toEqual(queue.splice(0, out.length));
    r.skip(out.length);
    expect(r.length).toBe(queue.length);
  }
});
