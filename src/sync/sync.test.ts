import { expect, test } from 'vitest';
import { Arena } from './arena.ts';
import { SeqCount } from './seqcount.ts';
import { Srcu } from './srcu.ts';
import { Sync } from './sync.ts';

// What one thread can see. How the primitives behave between threads is explored in sim/cases/locks.ts.

function alone(): { sync: Sync; at: number } {
  const sync = new Sync(Arena.create({ frames: 1, heapBytes: 4096, shared: false }), { lockdep: true });
  return { sync, at: sync.arena.heap };
}

test('a held mutex can be neither tried nor unlocked twice', () => {
  const { sync, at } = alone();
  sync.lock('zone', at);
  expect([sync.isLocked(at), sync.tryLock('zone', at)]).toEqual([true, false]);
  sync.unlock('zone', at);
  expect(sync.isLocked(at)).toBe(false);
  expect(() => sync.unlock('zone', at)).toThrow('not held');
});

test('readers share, a writer does not, and each unlock must match', () => {
  const { sync, at } = alone();
  sync.readLock('mmap', at);
  expect(sync.tryReadLock('mmap', at)).toBe(true);
  expect(sync.words[at]).toBe(2);
  sync.readUnlock('mmap', at);
  sync.readUnlock('mmap', at);
  sync.writeLock('mmap', at);
  expect(sync.tryReadLock('mmap', at)).toBe(false);
  sync.writeUnlock('mmap', at);
  expect([...sync.words.subarray(at, at + 2)]).toEqual([0, 0]);
});

test('in one-worker mode a lock that somebody holds is a bug, not a hang', () => {
  const { sync, at } = alone();
  sync.lock('zone', at);
  const other = new Sync(sync.arena);
  expect(() => other.lock('zone', at)).toThrow('nobody else can change');
});

test('a lock taken against the order fails before it is taken', () => {
  const { sync, at } = alone();
  sync.lock('mmu', at);
  expect(() => sync.lock('page', at + 1)).toThrow('lock order');
  expect(sync.isLocked(at + 1)).toBe(false);
});

test('a sequence is odd while written, and a sample from before must be retried', () => {
  const { sync, at } = alone();
  const seq = new SeqCount(sync);
  const seen = seq.readBegin(at);
  expect(seq.readRetry(at, seen)).toBe(false);
  seq.writeBegin(at);
  expect([sync.words[at]! & 1, seq.readRetry(at, seen)]).toEqual([1, true]);
  seq.writeEnd(at);
  expect([seq.readBegin(at), seq.readRetry(at, seen)]).toEqual([2, true]);
});

test('synchronize flips the count, and a reader that stayed is one that it waits for', () => {
  const { sync, at } = alone();
  const srcu = new Srcu(sync);
  srcu.readUnlock(at, srcu.readLock(at));
  srcu.synchronize(at);
  expect([...sync.words.subarray(at, at + 3)]).toEqual([1, 0, 0]);
  const token = srcu.readLock(at);
  expect(token).toBe(1);
  expect(() => srcu.synchronize(at)).toThrow('nobody else can change');
});
