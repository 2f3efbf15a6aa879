import { expect, test } from 'vitest';
import { FaultFlag } from '../fault-codes.ts';
import { HugeRig } from '../huge/huge-testing.ts';
import { VmFlag } from '../layout.ts';
import type { MmuNotifierOps } from '../mmu-notifier-ops.ts';
import { DST, PAGE, Resolving, SRC } from '../userfaultfd/resolve-testing.ts';

const LOCKED = 0x5000_0000;
const SHARED = 0x5100_0000;
const DEVICE = 0x5200_0000;

/** Written memory of every kind, and one page of it swapped out; DST is registered and half filled. */
function full(fillReaped = false): Resolving {
  const at = new Resolving(4, { breaks: { fillReaped } });
  const { core, mm, ctx } = at;
  at.fill();
  at.advise(SRC + PAGE, 1, 'pageout');
  core.mfill.zeropage(ctx, DST, PAGE);
  core.mmap.map(mm, 2 * PAGE, { address: LOCKED, fixed: 'exclusive' });
  core.mlock.lock(mm, LOCKED, 2 * PAGE);
  core.mmap.map(mm, PAGE, { address: SHARED, fixed: 'exclusive', shared: core.shmem.create(PAGE) });
  core.access.write32(mm, SHARED, 5);
  core.mmap.map(mm, PAGE, { address: DEVICE, fixed: 'exclusive' });
  core.access.write32(mm, DEVICE, 6);
  const { flags } = core.layout.vma;
  const vma = core.mmap.find(mm, DEVICE);
  flags.set(vma, flags.get(vma) | VmFlag.PfnMap);
  return at;
}

test('C-19: reaped, an address space keeps what is shared and what is no memory; locked and swapped pages go', () => {
  const at = full();
  const { core, mm } = at;
  const free = core.pageAlloc.freeFrames;
  expect(core.oomReaper.reap(mm)).toBe(true);
  core.lru.drainAll();
  expect(at.describe()).toBe(`0x20000000-0x20004000 rw- anon um
0x30000000-0x30004000 rw- anon
0x50000000-0x50002000 rw- anon lo
0x51000000-0x51001000 rw- shmem
  0x51000000 page writable dirty
0x52000000-0x52001000 rw- anon pf
  0x52000000 page writable dirty`);
  const { swapEnts, anonPages, shmemPages } = core.layout.mm;
  expect([swapEnts, anonPages, shmemPages].map(field => field.load(mm))).toEqual([0, 1, 1]);
  // Three pages, two that were locked, and the one that zram kept the swapped page in.
  expect(core.pageAlloc.freeFrames - free).toBe(6);
  expect([core.oomReaper.reap(mm), core.access.read32(mm, SHARED)]).toEqual([true, 5]);
  core.checkInvariants();
  core.exit(mm);
  core.checkInvariants();
});

test('C-19: a fault on a hole of what is reaped is SIGBUS: no page, no zero page, no message; without the rule there are', () => {
  const asked = (fillReaped: boolean): [string[], string] => {
    const at = full(fillReaped);
    at.core.oomReaper.reap(at.mm);
    const said = [
      at.fault(SRC, true),
      at.fault(SRC + PAGE, false),
      at.fault(LOCKED, true),
      at.fault(DST, true, FaultFlag.NoWait),
      at.fault(DST + PAGE, true),
    ];
    if (fillReaped) at.message();
    at.core.checkInvariants();
    return [said, at.describe().split('\n').slice(0, 4).join('|')];
  };
  const empty = '0x20000000-0x20004000 rw- anon um|0x30000000-0x30004000 rw- anon|';
  expect(asked(false)).toEqual([
    ['SIGBUS', 'SIGBUS', 'SIGBUS', 'SIGBUS', 'SIGBUS'],
    expect.stringContaining(empty),
  ]);
  expect(asked(true)).toEqual([
    ['page', 'page', 'page', 'blocked', 'blocked'],
    expect.stringContaining('0x30001000 zero'),
  ]);
});

test('C-19: a fault that had its page ready when the reaper passed installs nothing, small or huge', () => {
  for (const fillReaped of [false, true]) {
    const at = full(fillReaped);
    const { core, mm } = at;
    at.advise(SRC + 2 * PAGE, 1, 'dontneed');
    const { newPage } = core.memory;
    core.memory.newPage = (...args) => {
      core.memory.newPage = newPage;
      const pfn = newPage.apply(core.memory, args);
      // As another thread does, that shares mmap for reading with the fault.
      core.layout.mm.flags.set(mm, 1);
      return pfn;
    };
    expect(at.fault(SRC + 2 * PAGE, true)).toBe(fillReaped ? 'page' : 'SIGBUS');
    core.checkInvariants();

    const rig = new HugeRig({ breaks: { fillReaped } });
    rig.touch(0, true);
    expect([rig.core.oomReaper.reap(rig.mm), rig.text()]).toEqual([true, '']);
    expect([rig.touch(0, true) > 0, rig.touch(1, false) > 0]).toEqual([fillReaped, fillReaped]);
    expect(rig.text() === '').toBe(!fillReaped);
  }
});

test('C-19, N-14: who would have to wait refuses; the rest is taken, nobody gets an end without a start, later all goes', () => {
  const at = full();
  const { core, mm } = at;
  let busy = true;
  const heard: string[] = [];
  const join = (ops: Partial<MmuNotifierOps>): void => {
    core.notifiers.register(mm, core.notifiers.registerOps({ name: 'x', pins: false, ...ops }), 0);
  };
  const isSource = (start: number): boolean => start === SRC / PAGE;
  join({ invalidateRangeStart: (_s, _mm, start) => (busy && isSource(start) ? -11 : 0) });
  join({
    invalidateRangeStart: (_s, _mm, start, end, _event, flags) => heard.push(`${end - start} ${flags}`) * 0,
    invalidateRangeEnd: (_s, _mm, start, end) =>
      void heard.push(`end ${end - start}${isSource(start) ? '!' : ''}`),
  });
  expect(core.oomReaper.reap(mm)).toBe(false);
  expect(heard.splice(0)).toEqual(['4 0', 'end 4', '4 0', 'end 4!', '2 0', 'end 2']);
  expect(at.describe()).toContain('0x30000000 page writable dirty');
  core.checkInvariants();
  busy = false;
  expect([core.oomReaper.reap(mm), at.describe().includes('0x30000000 page')]).toEqual([true, false]);
  // A writer has the mappings.
  const lock = mm + core.layout.mm.mmapLock.at;
  core.sync.writeLock('mmap', lock);
  expect(core.oomReaper.reap(mm)).toBe(false);
  core.sync.writeUnlock('mmap', lock);
  core.exit(mm);
  core.checkInvariants();
});
