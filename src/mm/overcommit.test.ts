import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import type { MmBreaks } from './breaks.ts';
import { Merging } from './ksm/ksm-testing.ts';
import { Pte } from './layout.ts';
import { Checker } from './notifier-testing.ts';
import { workingMinimumPages } from './reclaim/memcontrol.ts';
import { Swapping } from './swap/swapping-testing.ts';
import { DST, PAGE, page, Resolving } from './userfaultfd/resolve-testing.ts';

test('O-1: any page of ordinary memory may be swapped, merged, discarded or moved, and reads as it should after', () => {
  const m = new Merging();
  const { mm: core } = m;
  const { mm, at } = m.space(8);
  for (let i = 0; i < 8; i++) m.fill(mm, at + i * PAGE, i < 2 ? 7 : 10 + i);
  m.scan(); // merged: 0 and 1
  core.madvise.advise(mm, at + 2 * PAGE, PAGE, 'pageout');
  core.madvise.advise(mm, at + 3 * PAGE, PAGE, 'dontneed');
  core.numa.changeProtNuma(mm, at / PAGE + 4, at / PAGE + 5);
  const moved = 0x4000_0000;
  core.mremap.remap(mm, at + 5 * PAGE, PAGE, PAGE, { mayMove: true, to: moved });
  expect(core.describe(mm)).toBe(`0x10000000-0x10005000 rw- anon mg
  0x10000000 page ksm shared×2 dirty ×2
  0x10002000 swap exclusive
  0x10004000 page none writable dirty
0x10006000-0x10008000 rw- anon mg
  0x10006000 page writable dirty ×2
0x40000000-0x40001000 rw- anon mg
  0x40000000 page writable dirty`);
  expect([0, 1, 2, 3, 4, 6].map(i => m.read(mm, at + i * PAGE))).toEqual([7, 7, 12, 0, 14, 16]);
  expect(m.read(mm, moved)).toBe(15);
  core.checkInvariants();
});

test('O-2: with the least limit, memory of twenty times as much makes progress and stays right, in any order', () => {
  const limit = workingMinimumPages(1, 0);
  const pages = 20 * limit;
  const world = new Swapping({ frames: 2048 });
  const { mm, at } = world.map(pages, limit);
  const { access, layout } = world.mm;
  const random = new Random(3);
  const held = new Map<number, number>();
  for (let i = 0; i < 6 * pages; i++) {
    const where = random.below(pages);
    if (random.oneIn(2)) {
      access.write32(mm, at + where * PAGE, i);
      held.set(where, i);
    } else expect(access.read32(mm, at + where * PAGE)).toBe(held.get(where) ?? 0);
  }
  world.mm.checkInvariants();
  expect(layout.memcg.peak.load(layout.mm.memcg.get(mm))).toBeLessThanOrEqual(limit);
  expect(() => world.mm.createMm({ limitPages: limit - 1 - workingMinimumPages(1, 0) })).toThrow('EINVAL');
});

test('O-7: looking at what is in use asks and clears the marks of use alone, in both MMUs', () => {
  const world = new Swapping();
  const { mm, at } = world.map(4, 100);
  const { mm: core } = world;
  for (let i = 0; i < 4; i++) core.access.write32(mm, at + i * PAGE, i + 1);
  core.lru.drainAll();
  const checker = new Checker(core, at / PAGE);
  core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 1);
  const entries = () => [0, 1, 2, 3].map(i => core.pageTable.entryOf(mm, at / PAGE + i));
  const before = entries();
  const memcg = core.layout.mm.memcg.get(mm);
  const aged = core.vmscan.age(memcg, 8);
  expect(aged).toBeGreaterThanOrEqual(4);
  const lines = new Set(checker.heard());
  lines.delete('pass');
  expect([...lines].sort()).toEqual(['age 0', 'age 1', 'age 2', 'age 3']);
  expect(entries()).toEqual(before.map(entry => entry & ~Pte.Young));
  expect([world.usage(mm), core.layout.mm.swapEnts.load(mm)]).toEqual([4, 0]);
  core.checkInvariants();
});

test('O-8: pages that a manager has brought are ordinary: they go to swap and come back, and it is not asked again', () => {
  const at = new Resolving(8);
  const { core, ctx, mm } = at;
  for (let i = 0; i < 4; i++) core.mfill.copy(ctx, DST + i * PAGE, page(i + 1), PAGE);
  at.advise(DST, 8, 'pageout');
  expect(at.describe().split('\n').slice(0, 2)).toEqual([
    '0x20000000-0x20008000 rw- anon um',
    '  0x20000000 swap exclusive ×4',
  ]);
  expect([0, 1, 2, 3].map(i => core.access.read8(mm, DST + i * PAGE))).toEqual([1, 2, 3, 4]);
  expect([core.layout.uffd.serial.get(ctx), at.fault(DST + 4 * PAGE, false)]).toEqual([0, 'blocked']);
  at.message();
  core.checkInvariants();
});

test('C-17: rights that are taken are told before they are gone, rights that are given to nobody; untold, a copy is stale', () => {
  const heard = (rule: Partial<MmBreaks>): string[][] => {
    const world = new Swapping({ breaks: rule });
    const { mm: core } = world;
    const { mm, at } = world.map(2);
    core.access.write32(mm, at, 1);
    const checker = new Checker(core, at / PAGE);
    core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 1);
    const steps = [{ read: true }, { read: true, write: true }, {}, { read: true }].map(rights => {
      core.mmap.protect(mm, at, 2 * PAGE, rights);
      return checker.heard();
    });
    core.mmap.protect(mm, at, 2 * PAGE, { read: true, write: true });
    core.access.write32(mm, at, 2);
    core.checkInvariants();
    return steps;
  };
  const told = ['start ProtectionVma 0-2', 'end ProtectionVma 0-2'];
  expect(heard({})).toEqual([told, [], told, []]);
  expect(heard({ rangeWithoutNotify: true })).toEqual([[], [], [], []]);
});

test('N-7: a page that goes is told of outside the table lock, one that is replaced inside, between clear and set', () => {
  const world = new Swapping();
  const { mm: core } = world;
  const { mm, at } = world.map(2);
  for (const i of [0, 1]) core.access.write32(mm, at + i * PAGE, 1);
  const seen: [boolean, number, boolean][] = [];
  let before = 0;
  const invalidatePage = (_s: number, _mm: number, vpn: number) =>
    void seen.push([
      core.sync.lockdep!.holds('ptl'),
      core.pageTable.entryOf(mm, vpn) & Pte.Present,
      core.pages.refcount(before) > 0,
    ]);
  core.notifiers.register(mm, core.notifiers.registerOps({ name: 'pins', pins: true, invalidatePage }), 1);
  const child = core.fork(mm);
  before = world.pfn(mm, at);
  core.access.write32(mm, at, 2);
  core.exit(child);
  expect(seen.splice(0)).toEqual([[true, 0, true]]); // nothing is there, the old page lives
  before = world.pfn(mm, at + PAGE);
  expect(world.pageOut(mm, at + PAGE)).toBe(true);
  expect(seen).toEqual([[false, 0, true]]);
  core.checkInvariants();
});
