import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { Merging } from './ksm-testing.ts';

const PAGE = PAGE_SIZE;

test('C-6: equal pages of two address spaces become one, which both map read-only', () => {
  const m = new Merging();
  const [a, b] = [m.space(3), m.space(3)];
  for (const { mm, at } of [a, b]) {
    m.fill(mm, at, 7);
    m.fill(mm, at + PAGE, mm);
  }
  m.scan();
  expect(m.mm.describe(a.mm)).toBe(
    [
      '0x10000000-0x10003000 rw- anon mg',
      '  0x10000000 page ksm shared×2 dirty',
      '  0x10001000 page writable dirty',
    ].join('\n'),
  );
  expect(m.mm.describe(b.mm)).toBe(m.mm.describe(a.mm));
  expect(m.figures()).toBe('shared 1 sharing 1 unshared 2 volatile 0');
});
