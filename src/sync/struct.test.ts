import { expect, test } from 'vitest';
import { array, i32, type Ptr, ptr, struct, u64 } from './struct.ts';

const words = (): Int32Array => new Int32Array(new SharedArrayBuffer(4 * 64));

test('fields follow one another in declared order, each as wide as its kind', () => {
  const s = struct(words(), 's', { a: i32, b: u64, c: array(3), d: ptr('s') });
  expect(s.offsets).toEqual({ a: 0, b: 1, c: 3, d: 6 });
  expect(s.words).toBe(7);
});

test('a size pads the record, and one that is too small is refused', () => {
  expect(struct(words(), 's', { a: i32 }, 8).words).toBe(8);
  expect(() => struct(words(), 's', { a: u64 }, 1)).toThrow('2 words do not fit in 1');
});

test('every accessor reaches its own word of its own record and no other', () => {
  const w = words();
  const s = struct(w, 's', { a: i32, b: i32, c: i32 });
  const p = 8 as Ptr<'s'>;
  s.b.set(p, 5);
  expect([s.b.get(p), s.b.load(p)]).toEqual([5, 5]);
  expect([s.b.add(p, 2), s.b.or(p, 8), s.b.and(p, 12), s.b.exchange(p, 3)]).toEqual([5, 7, 15, 12]);
  expect([s.b.cas(p, 4, 9), s.b.cas(p, 3, 9)]).toEqual([3, 3]);
  s.c.store(p, -1);
  expect([...w.subarray(7, 12)]).toEqual([0, 0, 9, -1, 0]);
});
