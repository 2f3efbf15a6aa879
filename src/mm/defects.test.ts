import { expect, test } from 'vitest';
import { GUP_SIGBUS } from './fault-codes.ts';
import { HugeRig } from './huge/huge-testing.ts';
import { NotifyEvent } from './mmu-notifier-ops.ts';
import { Checker } from './notifier-testing.ts';
import { testMm } from './testing.ts';
import { Userfaultfd } from './userfaultfd/userfaultfd.ts';

// Defects of the two seeds (part B) that no other test is about: here they are repaired.

const PAGE = 4096;

/** Eight pages, four of them written, with a subscriber that proves the contract of every call. */
function watched(start?: () => void) {
  const core = testMm({ swap: { kind: 'zram', bytes: 1 << 20 } });
  const mm = core.createMm();
  const address = core.mmap.map(mm, 8 * PAGE);
  for (let page = 0; page < 4; page++) core.access.write32(mm, address + page * PAGE, page + 1);
  const checker = new Checker(core, address / PAGE);
  core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 1);
  if (start !== undefined) {
    const invalidateRangeStart = (): number => {
      start();
      return 0;
    };
    const ops = { name: 'early', pins: false, invalidateRangeStart };
    core.notifiers.register(mm, core.notifiers.registerOps(ops), 2);
  }
  return { core, mm, address, checker };
}

test('B-10: a fork that runs out of frames on its way ends the range that it began, over the same bounds', () => {
  for (let n = 1; n < 8; n++) {
    const { core, mm, checker } = watched();
    core.pageAlloc.failAt(n);
    let failed = false;
    try {
      core.exit(core.fork(mm));
    } catch {
      failed = true;
    }
    core.pageAlloc.failAt(0, 0);
    const heard = checker.heard(); // asserts that nothing is open
    const [starts, ends] = ['start', 'end'].map(kind =>
      heard.filter(line => line.startsWith(kind)).map(line => line.slice(kind.length)),
    );
    expect(ends).toEqual(starts);
    if (n === 1) expect(failed).toBe(true);
    core.checkInvariants();
  }
});

test('B-12: mremap begins its ranges with no table locked, and ends them so', () => {
  let held = 0;
  const w = watched(() => {
    held += w.core.sync.lockdep!.holds('ptl') ? 1 : 0;
  });
  const { core, mm, address, checker } = w;
  const place = core.mmap.map(mm, 8 * PAGE);
  core.mremap.remap(mm, address, 4 * PAGE, 4 * PAGE, { mayMove: true, to: place });
  expect(checker.heard().length).toBeGreaterThan(0);
  expect(held).toBe(0);
  expect(core.access.read32(mm, place + 2 * PAGE)).toBe(3);
  core.checkInvariants();
});

// N-19
test('B-14 B-5: when its address space exits a subscriber is released while every page is still mapped, and never told again', () => {
  const { core, mm, address } = watched();
  const calls: unknown[] = [];
  const ops = {
    name: 'last',
    pins: false,
    invalidateRangeStart: () => calls.push('start') * 0,
    release: () => {
      const entries = [0, 1, 2, 3].map(page => core.pageTable.entryOf(mm, address / PAGE + page) >>> 12);
      calls.push(entries.map(pfn => core.pages.refcount(pfn) > 0));
    },
  };
  const handle = core.notifiers.register(mm, core.notifiers.registerOps(ops), 3);
  core.exit(mm);
  expect(calls).toEqual([[true, true, true, true]]);
  core.notifiers.start(mm, 0, 1, NotifyEvent.Clear, 1);
  core.notifiers.unregister(handle);
  expect(calls).toHaveLength(1);
});

test('B-37: a descriptor that can not be made for want of memory, or of an address space, pins none', () => {
  const { core, mm } = watched();
  const count = core.layout.mm.count.load(mm);
  const drained: number[] = [];
  for (let at = core.slabs.uffd.alloc(); at !== 0; at = core.slabs.uffd.alloc()) drained.push(at);
  expect(() => Userfaultfd.create(core, mm, {})).toThrow('ENOMEM');
  for (const at of drained) core.slabs.uffd.free(at as never);
  expect(core.layout.mm.count.load(mm)).toBe(count);
  core.checkInvariants();
});

test('T-THP-06 H-11: the huge zero page, split in an armed area, is 512 zero pages: reads ask nobody, a write copies; holes would ask', () => {
  const run = (splitZeroToHoles: boolean) => {
    const rig = new HugeRig({ breaks: splitZeroToHoles ? { splitZeroToHoles: true } : {} });
    rig.read(0);
    rig.advise('userfault', 0, 512);
    rig.core.hugePmd.split(rig.mm, rig.at(0) / PAGE);
    const asked = Array.from({ length: 512 }, (_, page) => rig.touch(page, false)).filter(found => found < 0);
    return { rig, asked };
  };
  const { rig, asked } = run(false);
  expect(asked).toEqual([]);
  rig.write(3, 1);
  expect([rig.read(3), rig.read(4)]).toEqual([1, 0]);
  rig.text();
  expect(run(true).asked).toEqual(Array(512).fill(GUP_SIGBUS));
});
