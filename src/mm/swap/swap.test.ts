import { expect, test } from 'vitest';
import { AssertionError } from '../../base/assert.ts';
import { PageFlag } from '../layout.ts';
import { MapDevice, ReclaimRig } from '../reclaim/reclaim-testing.ts';

const locked = (rig: ReclaimRig, pfn: number, body: () => void): void => {
  rig.pages.lock(pfn);
  body();
  rig.pages.unlock(pfn);
};

test('a slot counts its entries and its cached page, and is free at zero', () => {
  const rig = new ReclaimRig({ slots: 2 });
  const slot = rig.swap.allocSlot();
  expect(slot).toBe(0);
  expect(rig.swap.duplicate(slot)).toBe(true);
  expect(rig.swap.count(slot)).toBe(2);
  rig.swap.free(slot);
  rig.swap.free(slot);
  expect([rig.swap.slots.used, rig.swap.duplicate(slot)]).toEqual([0, false]);
  expect(() => rig.swap.free(slot)).toThrow(AssertionError);
});

test('slots run out, and come back when freed, the last freed first', () => {
  const rig = new ReclaimRig({ slots: 3 });
  expect([rig.swap.allocSlot(), rig.swap.allocSlot(), rig.swap.allocSlot()]).toEqual([0, 1, 2]);
  expect([rig.swap.isFull(), rig.swap.allocSlot()]).toEqual([true, -1]);
  rig.swap.free(0);
  rig.swap.free(2);
  expect([rig.swap.isFull(), rig.swap.allocSlot(), rig.swap.allocSlot(), rig.swap.allocSlot()]).toEqual([
    false,
    2,
    0,
    -1,
  ]);
});

test('a second device takes over when the first is full', () => {
  const rig = new ReclaimRig({ slots: 1 });
  const other = new MapDevice(rig.arena.words, 2);
  expect(rig.swap.swapon(other)).toBe(1);
  expect([rig.swap.allocSlot(), rig.swap.allocSlot(), rig.swap.allocSlot()]).toEqual([0, 1, 2]);
  expect(rig.swap.slots.backendOf(2)).toBe(other);
  expect(rig.swap.slots.onDevice(2)).toBe(1);
});

test('a page is found in the swap cache with a reference, until it is removed', () => {
  const rig = new ReclaimRig();
  const pfn = rig.page(0 as never, 7);
  locked(rig, pfn, () => expect(rig.swap.addPage(pfn)).toBe(true));
  const { page } = rig.layout;
  const p = rig.pages.at(pfn);
  expect([page.swap.load(p), page.refcount.load(p), rig.swap.count(0)]).toEqual([1, 2, 0]);
  expect(rig.has(pfn, PageFlag.SwapCache) && rig.has(pfn, PageFlag.Dirty)).toBe(true);
  expect(rig.swap.lookupCache(0)).toBe(pfn);
  expect(page.refcount.load(p)).toBe(3);
  rig.pages.put(pfn);
  locked(rig, pfn, () => rig.swap.removeFromCache(pfn));
  expect([rig.swap.lookupCache(0), page.refcount.load(p), rig.swap.slots.used]).toEqual([0, 1, 0]);
});

test('one frame holds a slot: the second that comes is told so, or that the slot is gone', () => {
  const rig = new ReclaimRig();
  const [a, b] = [rig.page(0 as never, 1), rig.page(0 as never, 2)];
  const slot = rig.swap.allocSlot();
  locked(rig, a, () => expect(rig.swap.addToCache(slot, a)).toBe('ok'));
  locked(rig, b, () => expect(rig.swap.addToCache(slot, b)).toBe('exists'));
  locked(rig, a, () => rig.swap.removeFromCache(a));
  rig.swap.free(slot);
  locked(rig, b, () => expect(rig.swap.addToCache(slot, b)).toBe('gone'));
});

test('the last entry to go takes an unmapped cached page with it', () => {
  const rig = new ReclaimRig();
  const pfn = rig.page(0 as never, 1);
  locked(rig, pfn, () => rig.swap.addPage(pfn));
  rig.swap.duplicate(0);
  rig.layout.page.mapcount.store(rig.pages.at(pfn), 0);
  rig.pages.put(pfn); // the pte's
  rig.swap.free(0);
  expect([rig.freed, rig.swap.slots.used, rig.swap.slots.cached]).toEqual([[pfn], 0, 0]);
});

test('a page that is mapped stays when its slot is given back, and is dirty', () => {
  const rig = new ReclaimRig();
  const pfn = rig.page(0 as never, 1);
  locked(rig, pfn, () => {
    rig.swap.addPage(pfn);
    rig.swap.writePage(pfn);
    expect(rig.has(pfn, PageFlag.Dirty)).toBe(false);
    rig.swap.duplicate(0);
    expect(rig.swap.tryToFreeSwap(pfn)).toBe(false);
    rig.swap.free(0);
    expect(rig.swap.tryToFreeSwap(pfn)).toBe(true);
  });
  expect([rig.has(pfn, PageFlag.Dirty), rig.swap.slots.used, rig.freed]).toEqual([true, 0, []]);
});

test('a device that fails to write keeps the page dirty and gets no more; what it holds can be read', () => {
  const rig = new ReclaimRig();
  const [a, b] = [rig.page(0 as never, 1), rig.page(0 as never, 2)];
  locked(rig, a, () => {
    rig.swap.addPage(a);
    expect(rig.swap.writePage(a)).toBe('ok');
  });
  locked(rig, b, () => {
    rig.swap.addPage(b);
    rig.device.answer = 'error';
    expect(rig.swap.writePage(b)).toBe('error');
  });
  expect([rig.has(b, PageFlag.Dirty), rig.swap.isFull(), rig.swap.allocSlot()]).toEqual([true, true, -1]);
  expect(rig.swap.readPage(0, b)).toBe('ok');
  expect(rig.arena.words[b * 1024]).toBe(1);
  expect(rig.counters).toEqual(
    new Map([
      ['pswpout', 1],
      ['pswpin', 1],
    ]),
  );
});

test('a device that is full is tried again once a slot was freed', () => {
  const rig = new ReclaimRig();
  const pfn = rig.page(0 as never, 1);
  const kept = rig.swap.allocSlot();
  rig.device.answer = 'full';
  locked(rig, pfn, () => {
    rig.swap.addPage(pfn);
    expect(rig.swap.writePage(pfn)).toBe('full');
  });
  expect(rig.swap.isFull()).toBe(true);
  rig.swap.free(kept);
  expect(rig.swap.isFull()).toBe(false);
});

test('swap is charged to the group of the page, up to its limit', () => {
  const rig = new ReclaimRig();
  const memcg = rig.memcontrol.create({ max: 64, swapMax: 1 });
  const [a, b] = [rig.page(memcg, 1), rig.page(memcg, 2)];
  locked(rig, a, () => expect(rig.swap.addPage(a)).toBe(true));
  locked(rig, b, () => expect(rig.swap.addPage(b)).toBe(false));
  expect(rig.layout.memcg.swapUsage.load(memcg)).toBe(1);
  locked(rig, a, () => rig.swap.removeFromCache(a));
  expect(rig.layout.memcg.swapUsage.load(memcg)).toBe(0);
});

test('an eviction fails once somebody has found the page, or written to it', () => {
  const rig = new ReclaimRig();
  const pfn = rig.page(0 as never, 1);
  const { page } = rig.layout;
  locked(rig, pfn, () => {
    rig.swap.addPage(pfn);
    rig.swap.duplicate(0);
    rig.swap.writePage(pfn);
    rig.swap.lookupCache(0);
    expect(rig.swap.removeEvicted(pfn, 0)).toBe(false);
    rig.pages.put(pfn);
    page.flags.or(rig.pages.at(pfn), PageFlag.Dirty);
    expect(rig.swap.removeEvicted(pfn, 0)).toBe(false);
    page.flags.and(rig.pages.at(pfn), ~PageFlag.Dirty);
    expect(rig.swap.removeEvicted(pfn, 0)).toBe(true);
  });
  expect([rig.swap.lookupCache(0), rig.swap.count(0)]).toEqual([0, 1]);
});
