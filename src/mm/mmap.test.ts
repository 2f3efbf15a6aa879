import { expect, test } from 'vitest';
import { Errno } from '../base/errno.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmBreaks } from './breaks.ts';
import type { MmCore } from './core.ts';
import { VmFlag, VmFlagHigh } from './layout.ts';
import { testMm } from './testing.ts';
import { proven } from './userfaultfd/manager-testing.ts';

const PAGE = 4096;
const AT = 0x20000000;

function mapped(pages: number, breaks: Partial<MmBreaks> = {}): { core: MmCore; mm: Ptr<'mm'> } {
  const core = testMm({ breaks });
  const mm = core.createMm();
  core.mmap.map(mm, pages * PAGE, { address: AT, fixed: 'exclusive' });
  return { core, mm };
}

const code = (work: () => unknown): string => {
  try {
    work();
    return 'ok';
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    return error.code;
  }
};

// J-2
test('T-FLG-01: each of 64 flags is set, kept apart in split and merge, and cleared, alone; without the rule it fails', () => {
  proven({ mergeIgnoresHigh: true }, breaks => {
    const { core, mm } = mapped(4, breaks);
    const vma = core.mmap.find(mm, AT);
    const before = core.vmas.flags(vma);
    for (let bit = 0; bit < 64; bit++) {
      const [lo, hi] = bit < 32 ? [1 << bit, 0] : [0, 1 << (bit - 32)];
      core.vmas.setFlags(vma, lo, hi);
      expect(core.vmas.flags(vma)).toEqual({ lo, hi });
      core.mmap.map(mm, PAGE, {
        address: AT + 4 * PAGE,
        fixed: 'replace',
        protection: {},
        flags: { lo, hi },
      });
      const other = core.mmap.find(mm, AT + 4 * PAGE);
      core.vmas.setFlags(other, lo, hi);
      expect(core.vmas.sameKind(vma, other)).toBe(true);
      core.vmas.setFlags(other, lo ^ (bit < 32 ? 0 : 1), hi ^ (bit < 32 ? 1 : 0));
      expect(core.vmas.sameKind(vma, other)).toBe(false);
      core.vmas.setFlags(other, 0, 0);
      expect(core.vmas.flags(vma)).toEqual({ lo, hi });
      core.mmap.unmap(mm, AT + 4 * PAGE, PAGE);
    }
    core.vmas.setFlags(vma, before.lo, before.hi);
    core.checkInvariants();
  });
});

test('T-FLG-02: a gap is ENOMEM with the rest done; special memory in the middle EINVAL with the first part; without the rule it fails', () => {
  proven({ madviseStopsAtGap: true }, breaks => {
    const { core, mm } = mapped(6, breaks);
    core.mmap.unmap(mm, AT + 2 * PAGE, PAGE);
    expect(code(() => core.madvise.advise(mm, AT, 6 * PAGE, 'userfault'))).toBe('ENOMEM');
    const armed = (page: number): boolean =>
      (core.vmas.flagsHigh(core.mmap.find(mm, AT + page * PAGE)) & VmFlagHigh.UserFault) !== 0;
    expect([0, 1, 3, 4, 5].map(armed)).toEqual([true, true, true, true, true]);
    core.mmap.map(mm, PAGE, { address: AT + 3 * PAGE, fixed: 'replace', shared: true });
    expect(code(() => core.madvise.advise(mm, AT, 6 * PAGE, 'nouserfault'))).toBe('EINVAL');
    expect([0, 1, 3, 4].map(armed)).toEqual([false, false, false, true]);
  });
});

test('T-FLG-02: bad calls of madvise are refused in the order of U-3', () => {
  const { core, mm } = mapped(1);
  expect([
    code(() => core.madvise.advise(mm, AT + 1, 0, 'unknown' as never)),
    code(() => core.madvise.advise(mm, AT + 1, 0, 'cold')),
    code(() => core.madvise.advise(mm, AT, -1, 'cold')),
    code(() => core.madvise.advise(mm, AT, 0, 'cold')),
    code(() => core.madvise.advise(mm, AT, 2 * PAGE, 'mergeable')),
    code(() => core.madvise.advise(mm, AT + 64 * PAGE, PAGE, 'populate-read')),
  ]).toEqual(['EINVAL', 'EINVAL', 'EINVAL', 'ok', 'ENOMEM', 'ENOMEM']);
});

test('T-FLG-03: advice splits at the edges, survives forks, and merges again when equal; without the rule it fails', () => {
  proven({ mergeIgnoresHigh: true }, breaks => {
    const { core, mm } = mapped(6, breaks);
    core.access.write32(mm, AT + 2 * PAGE, 7);
    core.madvise.advise(mm, AT + 2 * PAGE, 2 * PAGE, 'userfault');
    const child = core.fork(mm);
    const split = `0x20000000-0x20002000 rw- anon
0x20002000-0x20004000 rw- anon uf
  0x20002000 page shared×2 dirty
0x20004000-0x20006000 rw- anon`;
    expect([core.describe(mm), core.describe(child)]).toEqual([split, split]);
    core.madvise.advise(mm, AT, 6 * PAGE, 'nouserfault');
    expect(core.describe(mm)).toBe('0x20000000-0x20006000 rw- anon\n  0x20002000 page shared×2 dirty');
    core.checkInvariants();
  });
});

test('neighbours that are equal become one mapping, whatever the order in which they come', () => {
  const { core, mm } = mapped(2);
  const map = (page: number) => core.mmap.map(mm, PAGE, { address: AT + page * PAGE, fixed: 'exclusive' });
  map(4);
  core.access.write32(mm, AT + 4 * PAGE, 4);
  map(2);
  map(3);
  core.access.write32(mm, AT, 1);
  expect(core.describe(mm)).toBe(`0x20000000-0x20005000 rw- anon
  0x20000000 page writable dirty
  0x20004000 page writable dirty`);
  core.checkInvariants();
});

test('what is mapped twice is refused, replaced, or put elsewhere', () => {
  const { core, mm } = mapped(2);
  core.access.write32(mm, AT, 1);
  expect(code(() => core.mmap.map(mm, PAGE, { address: AT, fixed: 'exclusive' }))).toBe('EEXIST');
  expect(core.mmap.map(mm, PAGE, { address: AT })).not.toBe(AT);
  expect(core.mmap.map(mm, PAGE, { address: AT, fixed: 'replace' })).toBe(AT);
  expect(core.access.read32(mm, AT)).toBe(0);
  expect([
    code(() => core.mmap.map(mm, 0)),
    code(() => core.mmap.map(mm, PAGE, { address: 5 })),
    code(() => core.mmap.map(mm, 2 ** 40)),
    code(() => core.mmap.unmap(mm, AT + 1, PAGE)),
    code(() => core.mmap.unmap(mm, AT, 0)),
    code(() => core.mmap.protect(mm, AT + 64 * PAGE, PAGE, { read: true })),
  ]).toEqual(['EINVAL', 'EINVAL', 'ENOMEM', 'EINVAL', 'EINVAL', 'ENOMEM']);
});

test('rights that are taken away refuse the access, and content is there when they return', () => {
  const { core, mm } = mapped(1);
  core.access.write32(mm, AT, 5);
  core.mmap.protect(mm, AT, PAGE, {});
  expect(code(() => core.access.read32(mm, AT))).toBe('EFAULT');
  core.mmap.protect(mm, AT, PAGE, { read: true });
  expect([core.access.read32(mm, AT), code(() => core.access.write32(mm, AT, 6))]).toEqual([5, 'EFAULT']);
  core.mmap.protect(mm, AT, PAGE, { read: true, write: true });
  core.access.write32(mm, AT, 6);
  expect(core.access.read32(mm, AT)).toBe(6);
  core.checkInvariants();
});

test('a fork of a page that a device holds copies it at once, so that the device keeps the parent', () => {
  const { core, mm } = mapped(1);
  core.access.write32(mm, AT, 1);
  const pfn = core.gup.fault(mm, AT / PAGE, true) & 0xffffff;
  const child = core.fork(mm);
  core.sync.words[pfn * 1024] = 2;
  expect([core.access.read32(mm, AT), core.access.read32(child, AT)]).toEqual([2, 1]);
  core.pages.put(pfn);
  core.checkInvariants();
});

// C-22
test('after its exit an address space is nothing: no frame, record, table or charge is left', () => {
  const core = testMm();
  const live = (): number => {
    const mm = core.createMm({ limitPages: 64 });
    const address = core.mmap.map(mm, 1024 * PAGE);
    for (let i = 0; i < 1024; i += 50) core.access.write32(mm, address + i * PAGE, i);
    const child = core.fork(mm);
    const grandchild = core.fork(child);
    core.access.write32(grandchild, address, 1);
    for (const space of [child, mm, grandchild]) core.exit(space);
    core.checkInvariants();
    return core.pageAlloc.freeFrames;
  };
  const free = live(); // the slabs keep their frames
  expect(live()).toBe(free);
  const { mm, vma, avc, anonVma } = core.slabs;
  expect([mm, vma, avc, anonVma].map(cache => cache.used)).toEqual([0, 0, 0, 0]);
  expect(core.memcontrol.isLive(core.memcontrol.first())).toBe(false);
});

// J-3
test('a mapping that asks for pages beyond 2^31 bytes is addressed exactly', () => {
  const core = testMm();
  const mm = core.createMm();
  const address = core.mmap.map(mm, 2 ** 37, { address: 2 ** 38 });
  core.access.write32(mm, address + 2 ** 37 - 4, 77);
  expect([address, core.access.read32(mm, address + 2 ** 37 - 4)]).toEqual([2 ** 38, 77]);
  expect(code(() => core.access.read32(mm, address + 2 ** 37))).toBe('EFAULT');
  core.checkInvariants();
  expect(core.layout.vma.flags.get(core.mmap.find(mm, address)) & VmFlag.Write).toBe(VmFlag.Write);
});
