import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { SwapConfig } from '../swap/swap-config.ts';
import { Swapping } from '../swap/swapping-testing.ts';

const KIB = 1024;

/** An address space in a group of its own, of which `touched` pages are in memory. */
function group(options: { limit?: number; pages?: number; swap?: SwapConfig } = {}) {
  const { limit = 200, pages = 256, swap } = options;
  const world = new Swapping(swap === undefined ? {} : { swap });
  const { mm, at } = world.map(pages, limit);
  const memcg = world.mm.layout.mm.memcg.get(mm);
  const touch = (from: number, count: number): void => {
    for (let i = from; i < from + count; i++) world.mm.access.write32(mm, at + i * PAGE_SIZE, i);
  };
  return { world, mm, at, memcg, touch, files: world.mm.memcgFiles };
}

test('C-11 the files of a group say what it uses, in bytes, and its limits', () => {
  const { files, memcg, touch, world, mm, at } = group();
  touch(0, 10);
  world.pageOut(mm, at);
  files.setSwapMax(memcg, 8 * KIB * KIB + 1);
  expect([files.current(memcg), files.swapCurrent(memcg), files.peak(memcg)]).toEqual([
    9 * PAGE_SIZE,
    PAGE_SIZE,
    10 * PAGE_SIZE,
  ]);
  expect([files.max(memcg), files.high(memcg), files.low(memcg), files.swapMax(memcg)]).toEqual([
    200 * PAGE_SIZE,
    undefined,
    0,
    8 * KIB * KIB,
  ]);
  files.setMax(memcg, undefined);
  expect(files.max(memcg)).toBeUndefined();
  expect(() => files.setHigh(memcg, -1)).toThrow('EINVAL');
  world.mm.checkInvariants();
});

test('C-11 a charge beyond high is granted and then made to reclaim; each time is an event', () => {
  const { files, memcg, touch, world } = group();
  files.setHigh(memcg, 100 * PAGE_SIZE);
  touch(0, 180);
  const events = files.events(memcg);
  expect([events.high > 0, events.max, events.oom]).toEqual([true, 0, 0]);
  expect(files.current(memcg)).toBeLessThanOrEqual(100 * PAGE_SIZE);
  expect(files.peak(memcg)).toBe(101 * PAGE_SIZE);
  world.mm.checkInvariants();
});

test('C-11 without swap what is beyond high is charged all the same: high never fails a charge', () => {
  const { files, memcg, touch } = group({ swap: { kind: 'none' } });
  files.setHigh(memcg, 50 * PAGE_SIZE);
  touch(0, 60);
  expect([files.current(memcg), files.events(memcg).high]).toEqual([60 * PAGE_SIZE, 10]);
});

test('C-11 lowering high takes what is above it', () => {
  const { files, memcg, touch } = group();
  touch(0, 150);
  files.setHigh(memcg, 64 * PAGE_SIZE);
  expect(files.current(memcg)).toBeLessThanOrEqual(64 * PAGE_SIZE);
});

test('C-11 O-10 a charge at max reclaims and is a max event; one that finds nothing is an oom', () => {
  const { files, memcg, touch } = group({ limit: 64 });
  touch(0, 100);
  expect(files.events(memcg)).toMatchObject({ high: 0, oom: 0, oomKill: 0 });
  expect(files.events(memcg).max).toBeGreaterThan(0);
  files.setSwapMax(memcg, 0);
  expect(() => touch(100, 100)).toThrow('ENOMEM');
  files.countOomKill(memcg);
  expect(files.events(memcg)).toMatchObject({ oom: 1, oomKill: 1 });
  expect(files.peak(memcg)).toBe(64 * PAGE_SIZE);
});

test('C-11 memory.reclaim frees what it is asked for, and touches come back', () => {
  const { files, memcg, touch, world, mm, at } = group();
  touch(0, 150);
  files.reclaim(memcg, 40 * PAGE_SIZE + 100);
  expect(files.current(memcg)).toBeLessThanOrEqual(110 * PAGE_SIZE);
  expect(files.current(memcg)).toBeGreaterThan(50 * PAGE_SIZE);
  for (let i = 0; i < 150; i++) expect(world.mm.access.read32(mm, at + i * PAGE_SIZE)).toBe(i);
  files.reclaim(memcg, 0);
  expect(files.events(memcg)).toMatchObject({ high: 0, max: 0 });
});

test('C-11 memory.reclaim of more than can go frees what can, and throws EAGAIN', () => {
  const { files, memcg, touch } = group({ swap: { kind: 'zram', bytes: 32 * PAGE_SIZE } });
  touch(0, 100);
  expect(() => files.reclaim(memcg, 60 * PAGE_SIZE)).toThrow('EAGAIN');
  expect(files.current(memcg)).toBe(68 * PAGE_SIZE);
  expect(() => files.reclaim(memcg, Number.NaN)).toThrow('EINVAL');
});

test('C-11 reclaim on request counts nobody as stalled', () => {
  const { files, memcg, touch, world } = group();
  touch(0, 100);
  files.reclaim(memcg, 32 * PAGE_SIZE);
  files.setMax(memcg, 40 * PAGE_SIZE);
  expect(world.counter('allocstall')).toBe(0);
});

test('C-11 memory.low keeps a group from reclaim of the Host while there is another to take from', () => {
  const { files, memcg, touch, world } = group();
  const other = world.map(100, 200);
  touch(0, 64);
  for (let i = 0; i < 64; i++) world.mm.access.write8(other.mm, other.at + i * PAGE_SIZE, 1);
  files.setLow(memcg, 64 * PAGE_SIZE);
  const reclaim = (): number => world.mm.vmscan.reclaim(0 as Ptr<'memcg'>, 1000);
  expect([reclaim() > 0, files.current(memcg), files.events(memcg).low]).toEqual([true, 64 * PAGE_SIZE, 0]);
  world.mm.exit(other.mm);
  expect([reclaim() > 0, files.events(memcg).low]).toEqual([true, 1]);
});

test('C-11 a group that takes over a record starts with nothing counted and nothing lost', () => {
  const { files, memcg, touch, world, mm } = group({ limit: 64 });
  touch(0, 100);
  world.mm.exit(mm);
  const next = world.mm.layout.mm.memcg.get(world.map(1, 100).mm);
  expect([next, files.events(next), files.peak(next), files.pressure(next).some.totalUs]).toEqual([
    memcg,
    { low: 0, high: 0, max: 0, oom: 0, oomKill: 0 },
    0,
    0,
  ]);
});
