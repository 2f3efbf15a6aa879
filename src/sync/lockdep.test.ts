import { expect, test } from 'vitest';
import { LOCK_ORDER, Lockdep } from './lockdep.ts';

const FIRST_LEAF = LOCK_ORDER.indexOf('mmu');

// M-10, M-13
test('every pair of classes is allowed in one order alone, and no two leaves at all', () => {
  for (const [i, outer] of LOCK_ORDER.entries()) {
    for (const [j, inner] of LOCK_ORDER.entries()) {
      const lockdep = new Lockdep();
      lockdep.acquire(outer, 10);
      const allowed = i < j && i < FIRST_LEAF;
      // The same class at a lower address is never allowed, whether or not it may be paired.
      const take = () => lockdep.acquire(inner, 5);
      if (allowed) take();
      else expect(take, `${inner} inside ${outer}`).toThrow('lock order');
    }
  }
});

test('two locks of a paired class go lower address first; other classes never go in pairs', () => {
  const pairs = LOCK_ORDER.filter(cls => {
    const lockdep = new Lockdep();
    lockdep.acquire(cls, 5);
    try {
      lockdep.acquire(cls, 10);
      return true;
    } catch {
      return false;
    }
  });
  expect(pairs).toEqual(['mmap', 'anonVma', 'ptl']);
});

test('a lock that was only tried may go against the order, as it cannot deadlock', () => {
  const lockdep = new Lockdep();
  lockdep.acquire('zone', 5);
  lockdep.acquire('page', 5, true);
  expect(lockdep.holds('page')).toBe(true);
});

// M-13
test('releasing what is not held fails, and so does sleeping with a lock', () => {
  const lockdep = new Lockdep();
  lockdep.acquire('page', 5);
  expect(() => lockdep.release('page', 6)).toThrow('not held');
  expect(() => lockdep.assertNone()).toThrow('locks held: page');
  lockdep.release('page', 5);
  lockdep.assertNone();
});
