import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { Arena } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { Sync } from '../../sync/sync.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../core.ts';
import { pressureText } from './psi.ts';

const HOST = 0 as Ptr<'memcg'>;
const SECOND = 1e9;

/** A clock that stands where the test puts it, and threads that share the arena. */
function rig(config: Partial<MmConfig> = {}) {
  const arena = Arena.create({ frames: 1024, heapBytes: 1 << 21, shared: true });
  const sync = new Sync(arena, { lockdep: true });
  const time = { now: 5 * SECOND };
  const options: MmConfig = {
    pageOps: createPageOps(arena.memory, true),
    swap: { kind: 'zram', bytes: 512 * PAGE_SIZE },
    clock: () => time.now,
    ...config,
  };
  const core = initMm(sync, options);
  return { core, time, thread: () => attachMm(new Sync(arena, { lockdep: true }), options) };
}

const text = (core: MmCore, memcg = HOST): string => pressureText(core.memcgFiles.pressure(memcg));
const share = (core: MmCore): number[] => {
  const { some, full } = core.psi.read(HOST);
  return [some.totalUs, full.totalUs];
};

test('O-10 a stall of a second is a second lost, and reads as /proc/pressure/memory does', () => {
  const { core, time } = rig();
  core.psi.enter(HOST);
  time.now += SECOND;
  core.psi.leave(HOST);
  time.now += SECOND;
  // calc_load(0, weight, 50): half of the first period of two seconds.
  expect(text(core)).toBe(
    'some avg10=9.05 avg60=1.63 avg300=0.34 total=1000000\nfull avg10=9.05 avg60=1.63 avg300=0.34 total=1000000\n',
  );
});

test('O-10 the text has the form of the file on this machine', ({ skip }) => {
  let ours: string;
  try {
    ours = readFileSync('/proc/pressure/memory', 'utf8');
  } catch {
    return skip('not run: no /proc/pressure/memory');
  }
  const form = (s: string): string => s.replaceAll(/\d+/g, '0');
  expect(form(text(rig().core))).toBe(form(ours));
});

test('O-10 half of the tasks stalled is half of the time lost, in some and, with a processor each, in full', () => {
  const { core, time, thread } = rig();
  const other = thread();
  core.psi.running(HOST, 1);
  other.psi.running(HOST, 1);
  other.psi.enter(HOST);
  time.now += SECOND;
  other.psi.leave(HOST);
  expect(share(core)).toEqual([500_000, 500_000]);
});

test('O-10 with one processor for two tasks a single stall costs some, but not full', () => {
  const { core, time, thread } = rig({ processors: 1 });
  const other = thread();
  core.psi.running(HOST, 2);
  other.psi.enter(HOST);
  time.now += SECOND;
  core.psi.enter(HOST);
  time.now += SECOND;
  core.psi.leave(HOST);
  other.psi.leave(HOST);
  expect(share(core)).toEqual([2_000_000, 1_000_000]);
});

test('O-10 stalls nest, and only the outermost counts', () => {
  const { core, time } = rig();
  core.psi.enter(HOST);
  core.psi.enter(HOST);
  time.now += SECOND;
  core.psi.leave(HOST);
  time.now += SECOND;
  core.psi.leave(HOST);
  time.now += SECOND;
  expect(share(core)).toEqual([2_000_000, 2_000_000]);
});

test('O-10 averages do not depend on how often they are read', () => {
  const often = rig();
  const once = rig();
  for (const { core } of [often, once]) core.psi.enter(HOST);
  for (let i = 0; i < 300; i++) {
    often.time.now += SECOND / 10;
    text(often.core);
  }
  once.time.now += 30 * SECOND;
  for (const { core } of [often, once]) core.psi.leave(HOST);
  expect(text(often.core)).toBe(text(once.core));
  expect(often.core.psi.read(HOST).some.avg10).toBeGreaterThan(94);
  for (const { time } of [often, once]) time.now += 86_400 * SECOND;
  expect(text(once.core)).toBe(
    'some avg10=0.00 avg60=0.00 avg300=0.00 total=30000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=30000000\n',
  );
});

test('O-10 a clock that goes back takes nothing away', () => {
  const { core, time } = rig();
  core.psi.enter(HOST);
  time.now += SECOND;
  text(core);
  time.now -= SECOND / 2;
  core.psi.leave(HOST);
  expect(share(core)).toEqual([1_000_000, 1_000_000]);
});

test('O-10 direct reclaim of a group is a stall of that group and of the Host, not of another', () => {
  const { core, time } = rig({ clock: undefined as never });
  // Each look at the clock takes a millisecond.
  const ticking = rig({ clock: () => (time.now += 1e6) });
  const { mms, mmap, access, layout, memcontrol } = ticking.core;
  const mm = mms.create({ limitPages: 64 });
  const at = mmap.map(mm, 128 * PAGE_SIZE);
  for (let i = 0; i < 128; i++) access.write8(mm, at + i * PAGE_SIZE, 1);
  const lost = (m: Ptr<'memcg'>): number => ticking.core.psi.read(m).some.totalUs;
  const mine = lost(layout.mm.memcg.get(mm));
  expect([mine > 0, lost(HOST) >= mine, lost(memcontrol.create({}))]).toEqual([true, true, 0]);
  expect(core.psi.read(HOST).some.totalUs).toBe(0);
});

test('O-10 reading back a page of the working set is a stall, reading back any other is none', () => {
  const clock = { now: SECOND };
  const { core } = rig({ clock: () => (clock.now += 1e6) });
  const mm = core.createMm({});
  const at = core.mmap.map(mm, PAGE_SIZE);
  const total = (): number => core.psi.read(HOST).some.totalUs;
  const back = (): number => {
    core.access.write8(mm, at, 1);
    core.madvise.advise(mm, at, PAGE_SIZE, 'pageout');
    const before = total();
    core.access.read8(mm, at);
    return total() - before;
  };
  // The active list is empty: the clock of evictions moves by one, further than it is long.
  expect(back()).toBe(0);
  const lruvec = core.lru.lruvecOf(HOST);
  core.layout.lruvec.activeCount.add(lruvec, 10);
  expect(back()).toBeGreaterThan(0);
});
