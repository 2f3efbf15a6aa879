import { expect, test } from 'vitest';
import { CopyError, UserFaultSigbus } from '../access.ts';
import { FaultFlag, GUP_BLOCKED, GUP_FAULT, GUP_SIGBUS } from '../fault-codes.ts';
import { Pte } from '../layout.ts';
import { testMm } from '../testing.ts';
import { proven } from './manager-testing.ts';

const PAGE = 4096;

function armed(options: Parameters<typeof testMm>[0] = {}) {
  const core = testMm(options);
  const mm = core.createMm({ limitPages: 64 });
  const at = core.mmap.map(mm, 16 * PAGE);
  core.madvise.advise(mm, at, 16 * PAGE, 'userfault');
  return { core, mm, at };
}

function thrown(work: () => void): unknown {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
}

test('U-20, U-22: an access to an armed hole raises SIGBUS with its exact address, and does not happen', () => {
  const { core, mm, at } = armed();
  const error = thrown(() => core.access.write32(mm, at + 8, 1));
  expect(error).toBeInstanceOf(UserFaultSigbus);
  expect(error).toMatchObject({ code: 'EFAULT', address: at + 8, write: true });
  expect(thrown(() => core.access.read8(mm, at + 77))).toMatchObject({ address: at + 77, write: false });
  expect(core.describe(mm)).toBe(`0x${at.toString(16)}-0x${(at + 16 * PAGE).toString(16)} rw- anon uf`);
  core.checkInvariants();
});

test('U-21: the handler runs as often as the hole is still there, and a handler before it gets what it leaves', () => {
  const { core, mm, at } = armed();
  const calls: string[] = [];
  core.access.onSigbus((_mm, address, write) => {
    calls.push(`${address - at} ${write}`);
    if (calls.length === 3) core.madvise.advise(mm, at, PAGE, 'nouserfault');
    return calls.length <= 3;
  });
  const off = core.access.onSigbus(() => false);
  core.access.write32(mm, at + 4, 9);
  off();
  expect(calls).toEqual(['4 true', '4 true', '4 true']);
  expect(core.access.read32(mm, at + 4)).toBe(9);
  expect(thrown(() => core.access.read32(mm, at + PAGE))).toBeInstanceOf(UserFaultSigbus);
});

test('U-15, T-CHG-11: a thousand user faults change nothing but pgfault, allocating before the test or after', () => {
  for (const strictSeedOrder of [false, true]) {
    const { core, mm, at } = armed({ strictSeedOrder });
    core.gup.fault(mm, at / PAGE, true);
    const state = () => {
      core.lru.drainAll();
      const { pgfault: _, pgfree: __, ...stat } = core.vmstat.all();
      const { usage } = core.layout.memcg;
      return [core.describe(mm), core.pageAlloc.freeFrames, usage.load(core.memcontrol.first()), stat];
    };
    const [before, faults] = [state(), core.vmstat.read('pgfault')];
    for (let i = 0; i < 500; i++) {
      expect(core.gup.fault(mm, at / PAGE + (i % 16), true)).toBe(GUP_SIGBUS);
      expect(core.gup.fault(mm, at / PAGE + (i % 16), false)).toBe(GUP_SIGBUS);
    }
    expect(state()).toEqual(before);
    expect(core.vmstat.read('pgfault') - faults).toBe(1000);
    core.checkInvariants();
  }
});

test('U-14: only in the order of the seed can a lack of memory hide the user fault', () => {
  const results = [false, true].map(strictSeedOrder => {
    const { core, mm, at } = armed({ strictSeedOrder });
    core.gup.fault(mm, at / PAGE, false); // the tables are there
    core.pageAlloc.failAt(1, 1e9);
    return core.gup.fault(mm, at / PAGE, true);
  });
  expect(results).toEqual([GUP_SIGBUS, -2]);
});

test('T-UF-17, U-16, U-17: rights come first, so a write to a read-only hole is no user fault; without the rule it fails', () => {
  proven({ holeBeforeRights: true }, breaks => {
    const { core, mm, at } = armed({ breaks });
    core.mmap.protect(mm, at, PAGE, { read: true });
    core.mmap.protect(mm, at + PAGE, PAGE, {});
    expect(core.gup.fault(mm, at / PAGE, true)).toBe(GUP_FAULT);
    expect(core.gup.fault(mm, at / PAGE, false)).toBe(GUP_SIGBUS);
    expect(core.gup.fault(mm, at / PAGE + 1, false)).toBe(GUP_FAULT);
  });
});

test('U-9, U-10: swapped out, shared, zero and prot-none pages are no holes; DONTNEED makes one again', () => {
  const core = testMm({ swap: { kind: 'zram', bytes: 1 << 20 } });
  const mm = core.createMm();
  const at = core.mmap.map(mm, 5 * PAGE);
  for (const page of [0, 1, 2]) core.access.write32(mm, at + page * PAGE, page + 1);
  core.access.read32(mm, at + 3 * PAGE);
  core.madvise.advise(mm, at, PAGE, 'pageout');
  core.mmap.protect(mm, at + PAGE, PAGE, {});
  core.mmap.protect(mm, at + PAGE, PAGE, { read: true, write: true });
  core.madvise.advise(mm, at, 5 * PAGE, 'userfault');
  expect(core.pageTable.load(core.pageTable.walk(mm, at / PAGE + 3)) & Pte.Zero).not.toBe(0);
  const child = core.fork(mm);
  for (const space of [mm, child]) {
    const words = [0, 1, 2, 3].map(page => core.access.read32(space, at + page * PAGE));
    expect(words).toEqual([1, 2, 3, 0]);
    expect(core.gup.fault(space, at / PAGE + 4, false)).toBe(GUP_SIGBUS);
  }
  core.access.write32(mm, at + 3 * PAGE, 4); // T-ZERO-02: copied, no user fault
  expect(core.access.read32(mm, at + 3 * PAGE)).toBe(4);
  core.madvise.advise(mm, at, PAGE, 'dontneed');
  expect(core.gup.fault(mm, at / PAGE, false)).toBe(GUP_SIGBUS);
  core.checkInvariants();
});

test('U-6: clearing the flag changes the next fault and nothing else', () => {
  const { core, mm, at } = armed();
  expect(core.gup.fault(mm, at / PAGE, true)).toBe(GUP_SIGBUS);
  core.madvise.advise(mm, at, PAGE, 'nouserfault');
  expect(core.access.read32(mm, at)).toBe(0);
  core.madvise.advise(mm, at, PAGE, 'userfault');
  expect(core.access.read32(mm, at)).toBe(0);
});

test('T-UF-16, U-23: a copy that meets an armed hole is EFAULT with the bytes done, and calls no handler', () => {
  const { core, mm, at } = armed();
  core.madvise.advise(mm, at, PAGE, 'nouserfault');
  core.access.onSigbus(() => expect.unreachable('a system call gets no signal'));
  const bytes = new Uint8Array(PAGE).fill(7);
  const write = thrown(() => core.access.copyToUser(mm, at + 100, bytes));
  expect(write).toBeInstanceOf(CopyError);
  expect(write).toMatchObject({ code: 'EFAULT', done: PAGE - 100 });
  expect(thrown(() => core.access.copyFromUser(mm, at + 8, bytes))).toMatchObject({ done: PAGE - 8 });
  expect(core.access.read8(mm, at + PAGE - 1)).toBe(7);
});

test('U-25, U-33: without a context nobody sleeps, whatever the caller allows, and populate is EFAULT', () => {
  const { core, mm, at } = armed();
  for (const how of [0, FaultFlag.NoWait, FaultFlag.NoRetry, FaultFlag.Kernel]) {
    const result = core.gup.fault(mm, at / PAGE, false, how);
    expect(result).toBe(GUP_SIGBUS);
    expect(result).not.toBe(GUP_BLOCKED);
  }
  expect(thrown(() => core.madvise.advise(mm, at, PAGE, 'populate-write'))).toMatchObject({ code: 'EFAULT' });
});
