import { expect, test } from 'vitest';
import { Root } from '../sync/arena.ts';
import { testMm } from './testing.ts';
import { VMSTAT } from './vmstat.ts';

test('a page reads as zeros, keeps what is written, and is its own after a fork', () => {
  const mm = testMm();
  const parent = mm.createMm();
  const at = mm.mmap.map(parent, 8 * 4096);
  expect(mm.access.read32(parent, at)).toBe(0);
  mm.access.write32(parent, at, 1);
  mm.access.write32(parent, at + 4096, 2);
  const child = mm.fork(parent);
  mm.access.write32(child, at, 10);
  mm.access.write32(parent, at + 4096, 20);
  const words = (space: typeof parent) => [0, 4096, 8192].map(offset => mm.access.read32(space, at + offset));
  expect([words(parent), words(child)]).toEqual([
    [1, 20, 0],
    [10, 2, 0],
  ]);
  mm.checkInvariants();
  mm.exit(child);
  mm.checkInvariants();
  mm.exit(parent);
});

test('pages that a limit pushes out come back with what they held', () => {
  const mm = testMm({ swap: { kind: 'zram', bytes: 4 << 20 } });
  const space = mm.createMm({ limitPages: 64 });
  const at = mm.mmap.map(space, 512 * 4096);
  for (let i = 0; i < 512; i++) mm.access.write32(space, at + i * 4096, i * 7 + 1);
  for (let i = 0; i < 512; i++) expect(mm.access.read32(space, at + i * 4096)).toBe(i * 7 + 1);
  expect(mm.vmstat.read('pswpout')).toBeGreaterThan(400);
  const { usage, peak } = mm.layout.memcg;
  expect(peak.load(mm.layout.mm.memcg.get(space))).toBeLessThanOrEqual(64);
  mm.checkInvariants();
  mm.exit(space);
  mm.checkInvariants();
  expect(usage.load(mm.memcontrol.first())).toBe(0);
});

test('no two roots of the arena, and no two counters, share a word', () => {
  for (const table of [Root, VMSTAT]) {
    const places = Object.values(table);
    expect(new Set(places).size).toBe(places.length);
  }
});
