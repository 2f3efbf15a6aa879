import { expect, test } from 'vitest';
import type { MmBreaks } from '../breaks.ts';
import { PageFlag } from '../layout.ts';
import { ReclaimRig } from './reclaim-testing.ts';

const NONE = 0 as never;
const fill = (rig: ReclaimRig, memcg: never, count: number): number[] => {
  const pfns = Array.from({ length: count }, (_, i) => rig.page(memcg, i + 1));
  rig.lru.drain();
  return pfns;
};

// C-2
test('a batch is unmapped, flushed once, ended once, and only then written and freed', () => {
  const rig = new ReclaimRig();
  const pfns = fill(rig, NONE, 4);
  expect(rig.vmscan.reclaim(NONE, 4)).toBe(4);
  expect(rig.log).toEqual(['flush 4', 'end 4', 'write', 'write', 'write', 'write']);
  expect([...rig.freed].sort()).toEqual([...pfns].sort());
  expect([...rig.device.kept.values()].map(page => page[0])).toEqual([1, 2, 3, 4]);
  expect(rig.swap.slots.cached).toBe(0);
});

test('a page in use stays for a round, and moves up when used again (M-34)', () => {
  const rig = new ReclaimRig();
  const [once, twice, never] = fill(rig, NONE, 3) as [number, number, number];
  rig.young.set(once, 1);
  rig.young.set(twice, 1);
  rig.vmscan.reclaim(NONE, 1);
  expect(rig.freed).toEqual([never]);
  rig.young.set(twice, 1);
  rig.vmscan.reclaim(NONE, 1);
  expect(rig.freed).toEqual([never, once]);
  expect(rig.list(NONE, true)).toEqual([twice]);
});

test('a pinned page is found out after the flush, and stays with its content (M-35)', () => {
  const rig = new ReclaimRig();
  const [pinned, other] = fill(rig, NONE, 2) as [number, number];
  rig.pages.get(pinned);
  expect(rig.vmscan.reclaim(NONE, 2)).toBe(1);
  expect(rig.freed).toEqual([other]);
  expect(rig.arena.words[pinned * 1024]).toBe(1);
  expect([rig.has(pinned, PageFlag.SwapCache), rig.has(pinned, PageFlag.Lru)]).toEqual([true, true]);
});

test('a locked page, a locked-in page and a poisoned page are left alone', () => {
  const rig = new ReclaimRig();
  const [locked, mlocked, poisoned] = fill(rig, NONE, 3) as [number, number, number];
  rig.pages.lock(locked);
  rig.layout.page.flags.or(rig.pages.at(mlocked), PageFlag.Mlocked);
  rig.layout.page.flags.or(rig.pages.at(poisoned), PageFlag.HwPoison);
  expect(rig.vmscan.reclaim(NONE, 3)).toBe(0);
  expect([rig.freed, rig.log]).toEqual([[], []]);
  rig.pages.unlock(locked);
});

test('a clean page of the swap cache goes without a write, a dirty one with', () => {
  const rig = new ReclaimRig();
  const [clean, dirty] = fill(rig, NONE, 2) as [number, number];
  for (const pfn of [clean, dirty]) {
    rig.pages.lock(pfn);
    rig.swap.addPage(pfn);
    rig.swap.writePage(pfn);
    rig.pages.unlock(pfn);
  }
  rig.layout.page.flags.or(rig.pages.at(dirty), PageFlag.Dirty);
  rig.device.writes = 0;
  expect(rig.vmscan.reclaim(NONE, 2)).toBe(2);
  expect(rig.device.writes).toBe(1);
});

test('when the device fails the pages stay, dirty and found by the next fault', () => {
  const rig = new ReclaimRig();
  const pfns = fill(rig, NONE, 40);
  rig.device.answer = 'error';
  expect(rig.vmscan.reclaim(NONE, 40)).toBe(0);
  expect([rig.freed, rig.device.writes]).toEqual([[], 1]);
  const unmapped = pfns.filter(pfn => rig.entries.has(pfn));
  expect(unmapped.every(pfn => rig.swap.lookupCache(rig.entries.get(pfn) as number) === pfn)).toBe(true);
  expect(unmapped.every(pfn => rig.has(pfn, PageFlag.Dirty) && rig.has(pfn, PageFlag.Lru))).toBe(true);
});

test('a page of the cache that no entry wants is dropped without a write', () => {
  const rig = new ReclaimRig();
  const [pfn] = fill(rig, NONE, 1) as [number];
  rig.pages.lock(pfn);
  rig.swap.addPage(pfn);
  rig.layout.page.mapcount.store(rig.pages.at(pfn), 0);
  rig.pages.unlock(pfn);
  rig.pages.put(pfn); // the pte's
  expect([rig.vmscan.reclaim(NONE, 1), rig.device.writes, rig.swap.slots.used]).toEqual([1, 0, 0]);
});

test('an ageing pass ends when as many pages were looked at as there are, and is told once', () => {
  const rig = new ReclaimRig();
  const memcg = rig.memcontrol.create({ max: 256 });
  fill(rig, memcg as never, 64);
  for (let i = 0; i < 4; i++) rig.vmscan.age(memcg, 32);
  const { lruvec } = rig.layout;
  expect([rig.passes, lruvec.pass.load(rig.lru.lruvecOf(memcg))]).toEqual([2, 2]);
});

test('ageing moves used pages up and takes nothing', () => {
  const rig = new ReclaimRig();
  const pfns = fill(rig, NONE, 10);
  for (const pfn of pfns.slice(0, 5)) rig.young.set(pfn, 1);
  rig.vmscan.age(NONE, 10);
  expect([rig.list(NONE, true).length, rig.list(NONE, false).length, rig.freed.length]).toEqual([5, 5, 0]);
});

test('background reclaim works down to `high` and no further', () => {
  const rig = new ReclaimRig();
  const memcg = rig.memcontrol.create({ max: 256 });
  for (let i = 0; i < 200; i++) rig.page(memcg, i);
  rig.memcontrol.storeHigh(memcg, 100);
  expect(rig.vmscan.needsBackground()).toBe(true);
  expect(rig.vmscan.background(32)).toBe(true);
  while (rig.vmscan.background(32));
  expect(rig.layout.memcg.usage.load(memcg)).toBeLessThanOrEqual(100);
  expect(rig.layout.memcg.usage.load(memcg)).toBeGreaterThan(100 - 64);
  expect(rig.vmscan.background(32)).toBe(false);
});

test('reclaim of everything visits every group', () => {
  const rig = new ReclaimRig();
  const groups = [rig.memcontrol.create({ max: 64 }), rig.memcontrol.create({ max: 64 })];
  for (const memcg of groups) fill(rig, memcg as never, 20);
  fill(rig, NONE, 10);
  expect(rig.vmscan.reclaim(NONE, 50)).toBe(50);
});

test('MADV_PAGEOUT takes the given pages, used or not', () => {
  const rig = new ReclaimRig();
  const [a, b] = fill(rig, NONE, 3) as [number, number, number];
  rig.young.set(a, 2);
  const pfns = Int32Array.from([a, b].filter(pfn => rig.lru.isolatePage(pfn)));
  expect(rig.vmscan.reclaimPages(pfns, pfns.length)).toBe(2);
  expect([...rig.freed].sort()).toEqual([a, b].sort());
});

test('each rule that may be broken shows when it is', () => {
  const log = (breaks: Partial<MmBreaks>, pinned: boolean) => {
    const rig = new ReclaimRig({ breaks });
    const [pfn] = fill(rig, NONE, 1) as [number];
    if (pinned) rig.pages.get(pfn);
    rig.vmscan.reclaim(NONE, 1);
    return [...rig.log, rig.has(pfn, PageFlag.SwapCache) ? 'kept' : 'taken'].join(' ');
  };
  expect(log({}, false)).toBe('flush 1 end 1 write taken');
  expect(log({ writeBeforeFlush: true }, false)).toBe('write flush 1 end 1 taken');
  expect(log({ reclaimWithoutFlush: true }, false)).toBe('end 1 write taken');
  expect(log({ forgetDirty: true }, false)).toBe('flush 1 end 1 taken');
  expect(log({}, true)).toBe('flush 1 end 1 kept');
  expect(log({ ignorePinned: true }, true)).toBe('flush 1 end 1 write taken');
});
