import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { PageFlag } from '../layout.ts';
import { Lru } from './lru.ts';
import { ReclaimRig } from './reclaim-testing.ts';

const NONE = 0 as never;

test('pages reach the list fifteen at a time, or when it is drained', () => {
  const rig = new ReclaimRig();
  const pfns = Array.from({ length: 16 }, (_, i) => rig.page(NONE, i));
  expect(rig.list(NONE, false)).toEqual(pfns.slice(0, 15).reverse());
  rig.lru.drain();
  expect(rig.list(NONE, false)).toEqual([...pfns].reverse());
});

test('a page freed before its pagevec is drained is never listed', () => {
  const rig = new ReclaimRig();
  const [a, b] = [rig.page(NONE, 1), rig.page(NONE, 2)];
  rig.pages.put(a);
  rig.lru.drain();
  expect(rig.list(NONE, false)).toEqual([b]);
});

test('a frame freed and handed out again while an old entry names it is listed once', () => {
  const rig = new ReclaimRig();
  const a = rig.page(NONE, 1);
  rig.pages.put(a);
  const memcg = rig.memcontrol.create({ max: 64 });
  expect(rig.page(memcg, 2)).toBe(a);
  rig.lru.drain();
  expect([rig.list(NONE, false), rig.list(memcg, false)]).toEqual([[], [a]]);
});

test('another thread can drain what this one collected', () => {
  const rig = new ReclaimRig();
  const a = rig.page(NONE, 1);
  const { sync, layout, reclaim, pages } = rig;
  const other = new Lru({ sync, layout, reclaim, pages, heap: { alloc: () => 0 } });
  other.drainAll();
  expect(rig.list(NONE, false)).toEqual([a]);
  rig.page(NONE, 2);
  rig.lru.drain();
  expect(rig.list(NONE, false)).toHaveLength(2);
  other.close();
});

test('isolated pages are off the list, oldest first, and go back to where their flag says', () => {
  const rig = new ReclaimRig();
  const [a, b, c] = [rig.page(NONE, 1), rig.page(NONE, 2), rig.page(NONE, 3)];
  rig.lru.drain();
  const out = new Int32Array(2);
  expect(rig.lru.isolate(rig.lru.lruvecOf(NONE), false, 2, out)).toBe(2);
  expect([[...out], rig.list(NONE, false)]).toEqual([[a, b], [c]]);
  rig.layout.page.flags.or(rig.pages.at(a), PageFlag.Active);
  rig.lru.putback(out, 2);
  expect([rig.list(NONE, true), rig.list(NONE, false)]).toEqual([[a], [b, c]]);
});

test('a page that comes back within the length of the active list starts active', () => {
  const rig = new ReclaimRig();
  const lruvec = rig.lru.lruvecOf(NONE);
  const [hot, early, late] = [rig.page(NONE, 1), rig.page(NONE, 2), rig.page(NONE, 3)];
  rig.layout.page.flags.or(rig.pages.at(hot), PageFlag.Active);
  rig.lru.drain();
  const age = rig.lru.evicted(lruvec);
  rig.lru.refaulted(early, age);
  rig.lru.evicted(lruvec);
  rig.lru.refaulted(late, age);
  expect([rig.has(early, PageFlag.Active), rig.has(late, PageFlag.Active)]).toEqual([true, false]);
});

test('ten thousand random moves leave lists that agree with their counts', () => {
  const rig = new ReclaimRig();
  const random = new Random(11);
  const live: number[] = [];
  const out = new Int32Array(8);
  const { lruvec } = rig.layout;
  const lv = rig.lru.lruvecOf(NONE);
  for (let step = 0; step < 10_000; step++) {
    const what = random.below(6);
    if (what < 2 && live.length < 400) live.push(rig.page(NONE, step));
    else if (what === 2 && live.length > 0)
      rig.pages.put(live.splice(random.below(live.length), 1)[0] as number);
    else if (what === 3) rig.lru.deactivate(live.length > 0 ? random.pick(live) : rig.arena.firstFrame);
    else if (what === 4) {
      const taken = rig.lru.isolate(lv, random.oneIn(2), 8, out);
      for (let i = 0; i < taken; i++) {
        const p = rig.pages.at(out[i] as number);
        if (random.oneIn(2)) rig.layout.page.flags.or(p, PageFlag.Active);
        else rig.layout.page.flags.and(p, ~PageFlag.Active);
      }
      rig.lru.putback(out, taken);
      for (let i = 0; i < taken; i++) rig.pages.put(out[i] as number);
    } else if (random.oneIn(4)) rig.lru.drainAll();
  }
  rig.lru.drainAll();
  const [active, inactive] = [rig.list(NONE, true), rig.list(NONE, false)];
  expect([lruvec.activeCount.load(lv), lruvec.inactiveCount.load(lv)]).toEqual([
    active.length,
    inactive.length,
  ]);
  expect([...active, ...inactive].sort((x, y) => x - y)).toEqual([...live].sort((x, y) => x - y));
});
