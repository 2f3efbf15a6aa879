import { expect, test } from 'vitest';
import { Errno } from '../base/errno.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmBreaks } from './breaks.ts';
import type { MmCore } from './core.ts';
import { HUGE_BYTES, HugeRig } from './huge/huge-testing.ts';
import { PageFlag, POISON_ENTRY, ptePfn, VmFlag } from './layout.ts';
import type { MremapOptions } from './mremap.ts';
import { Checker, Shadow } from './notifier-testing.ts';
import { testMm } from './testing.ts';

const PAGE = 4096;
const AT = 0x20000000;
const TO = 0x30000000;

type Made = { core: MmCore; mm: Ptr<'mm'> };

function mapped(pages: number, breaks: Partial<MmBreaks> = {}): Made {
  const core = testMm({ breaks, swap: { kind: 'zram', bytes: 1 << 20 } });
  const mm = core.createMm();
  core.mmap.map(mm, pages * PAGE, { address: AT, fixed: 'exclusive' });
  for (let i = 0; i < pages; i++) core.access.write32(mm, AT + i * PAGE, 100 + i);
  return { core, mm };
}

function code(work: () => unknown): string {
  try {
    work();
    return 'ok';
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    return error.code;
  }
}

const remap = ({ core, mm }: Made, from: number, old: number, pages: number, options: MremapOptions = {}) =>
  core.mremap.remap(mm, from, old * PAGE, pages * PAGE, options);

test('mremap shortens in place, and grows in place when the next pages are free', () => {
  const made = mapped(4);
  const { core, mm } = made;
  expect(remap(made, AT, 4, 2)).toBe(AT);
  expect(remap(made, AT, 2, 3)).toBe(AT);
  expect(core.describe(mm)).toBe(`0x20000000-0x20003000 rw- anon
  0x20000000 page writable dirty ×2`);
  expect(core.access.read32(mm, AT + 2 * PAGE)).toBe(0);
  core.checkInvariants();
});

test('mremap moves a mapping that has no room, with content, zero page, swap, holes and poison', () => {
  const made = mapped(6);
  const { core, mm } = made;
  core.madvise.advise(mm, AT + PAGE, PAGE, 'pageout');
  core.madvise.advise(mm, AT + 2 * PAGE, 3 * PAGE, 'dontneed');
  core.access.read32(mm, AT + 3 * PAGE);
  core.pageTable.lock(core.pageTable.walk(mm, AT / PAGE + 4));
  core.pageTable.fill(core.pageTable.walk(mm, AT / PAGE + 4), POISON_ENTRY);
  core.pageTable.unlock(core.pageTable.walk(mm, AT / PAGE + 4));
  core.mmap.map(mm, PAGE, { address: AT + 6 * PAGE, fixed: 'exclusive', protection: { read: true } });
  expect(code(() => remap(made, AT, 6, 8))).toBe('ENOMEM');
  expect(remap(made, AT, 6, 8, { mayMove: true })).toBe(0x10000000);
  expect(core.describe(mm)).toBe(`0x10000000-0x10008000 rw- anon
  0x10000000 page writable dirty
  0x10001000 swap exclusive
  0x10003000 zero
  0x10004000 poison
  0x10005000 page writable dirty
0x20006000-0x20007000 r-- anon`);
  core.checkInvariants();
  expect([0, 1, 5].map(i => core.access.read32(mm, 0x10000000 + i * PAGE))).toEqual([100, 101, 105]);
  expect(code(() => core.access.read32(mm, AT))).toBe('EFAULT');
  expect(code(() => core.access.read32(mm, 0x10004000))).toBe('EHWPOISON');
  core.checkInvariants();
});

test('U-32, T-FLG-03: the flags of user faults move with the VMA; a moved part splits, moved back it merges', () => {
  const made = mapped(4);
  const { core, mm } = made;
  core.madvise.advise(mm, AT, 4 * PAGE, 'userfault');
  const before = core.describe(mm);
  remap(made, AT + PAGE, 2, 2, { mayMove: true, to: TO });
  expect(core.describe(mm)).toBe(`0x20000000-0x20001000 rw- anon uf
  0x20000000 page writable dirty
0x20003000-0x20004000 rw- anon uf
  0x20003000 page writable dirty
0x30000000-0x30002000 rw- anon uf
  0x30000000 page writable dirty ×2`);
  core.checkInvariants();
  remap(made, TO, 2, 2, { mayMove: true, to: AT + PAGE });
  expect(core.describe(mm)).toBe(before);
  core.checkInvariants();
});

test('U-32: DONTUNMAP leaves a hole under the old flags; FIXED replaces what is mapped at the target', () => {
  const made = mapped(2);
  const { core, mm } = made;
  core.madvise.advise(mm, AT, 2 * PAGE, 'userfault');
  core.mmap.map(mm, 2 * PAGE, { address: TO, fixed: 'exclusive' });
  core.access.write32(mm, TO, 7);
  expect(remap(made, AT, 2, 2, { mayMove: true, keep: true, to: TO })).toBe(TO);
  expect(core.describe(mm)).toBe(`0x20000000-0x20002000 rw- anon uf
0x30000000-0x30002000 rw- anon uf
  0x30000000 page writable dirty ×2`);
  expect(core.access.read32(mm, TO + PAGE)).toBe(101);
  core.checkInvariants();
});

test('DONTUNMAP takes the lock along: all of the mapping that it leaves behind is unlocked, pages included', () => {
  const made = mapped(4);
  const { core, mm } = made;
  core.mlock.lock(mm, AT, 4 * PAGE);
  remap(made, AT + PAGE, 2, 2, { mayMove: true, keep: true, to: TO });
  expect(core.describe(mm)).toBe(`0x20000000-0x20004000 rw- anon
  0x20000000 page writable dirty
  0x20003000 page writable dirty
0x30000000-0x30002000 rw- anon lo
  0x30000000 page writable dirty ×2`);
  const marked = [AT, AT + 3 * PAGE, TO, TO + PAGE].map(at =>
    core.pages.has(ptePfn(core.pageTable.entryOf(mm, at / PAGE)), PageFlag.Mlocked),
  );
  expect(marked).toEqual([false, false, true, true]);
  core.checkInvariants();
});

test('DONTUNMAP unlocks what moves too where that becomes one mapping with the rest, as in Linux', () => {
  const made = mapped(1);
  const { core, mm } = made;
  core.mmap.map(mm, 4 * PAGE, { address: TO, fixed: 'exclusive' });
  core.mlock.lock(mm, TO, 4 * PAGE, true);
  remap(made, TO + 2 * PAGE, 2, 2, { mayMove: true, keep: true, to: TO + 4 * PAGE });
  expect(core.describe(mm)).toBe(`0x20000000-0x20001000 rw- anon
  0x20000000 page writable dirty
0x30000000-0x30006000 rw- anon`);
  core.checkInvariants();
});

test('mremap without an old length makes another view of shared memory, from the page that it names on', () => {
  const core = testMm();
  const mm = core.createMm();
  core.mmap.map(mm, 4 * PAGE, { address: AT, fixed: 'exclusive', shared: true });
  const made = { core, mm };
  for (let i = 0; i < 4; i++) core.access.write32(mm, AT + i * PAGE, 100 + i);
  expect(remap(made, AT + PAGE, 0, 2, { mayMove: true, to: TO })).toBe(TO);
  core.access.write32(mm, TO + PAGE, 7);
  expect([0, 1, 2, 3].map(i => core.access.read32(mm, AT + i * PAGE))).toEqual([100, 101, 7, 103]);
  expect(core.access.read32(mm, TO)).toBe(101);
  expect(code(() => remap(made, AT, 0, 2))).toBe('ENOMEM');
  expect(code(() => remap(made, AT, 0, 2, { mayMove: true, to: AT }))).toBe('EFAULT');
  core.checkInvariants();
});

test('mremap moves a huge page whole where it may stay huge, and splits it where it may not', () => {
  const rig = new HugeRig({ areas: 3, frames: 4096 });
  const { core, mm } = rig;
  rig.write(5, 50);
  rig.read(512);
  rig.write(1024, 60);
  const before = core.layout.mm.nrPtes.load(mm);
  const to = TO + 3 * HUGE_BYTES;
  core.mremap.remap(mm, rig.at(0), 2 * HUGE_BYTES, 2 * HUGE_BYTES, { mayMove: true, to });
  core.mremap.remap(mm, rig.at(1024), HUGE_BYTES, HUGE_BYTES, { mayMove: true, to: TO + PAGE });
  expect(core.describe(mm)).toBe(`0x30001000-0x30201000 rw- anon hg
  0x30001000 page writable dirty ×512
0x30600000-0x30a00000 rw- anon hg
  0x30600000 huge page writable dirty ×512
  0x30800000 huge zero ×512`);
  expect([core.access.read32(mm, to + 5 * PAGE), core.access.read32(mm, TO + PAGE)]).toEqual([50, 60]);
  // Two tables instead of one under what straddles two areas, and a middle one for the new place.
  expect(core.layout.mm.nrPtes.load(mm)).toBe(before + 1);
  core.checkInvariants();
  core.exit(core.fork(mm));
  core.exit(mm);
  core.checkInvariants();
});

test('mremap refuses in the order of Linux, with the space as it was', () => {
  const made = mapped(4);
  const { core, mm } = made;
  core.mmap.map(mm, PAGE, { address: AT + 4 * PAGE, fixed: 'exclusive', flags: { lo: VmFlag.DontExpand } });
  const before = core.describe(mm);
  const move = { mayMove: true };
  const rows: [string, number, number, number, MremapOptions][] = [
    ['EINVAL', AT + 1, 0, 0, { to: TO }],
    ['EINVAL', AT, 4, 4, { keep: true }],
    ['EINVAL', AT, 4, 5, { ...move, keep: true }],
    ['EINVAL', AT + 1, 1, 1, {}],
    ['EINVAL', AT, 1, 0, {}],
    ['EINVAL', TO, 1, 2, { ...move, to: AT + 1 }],
    ['EFAULT', TO, 1, 2, { ...move, to: AT }],
    ['EINVAL', AT, 2, 2, { ...move, to: TO + 1 }],
    ['EINVAL', AT, 2, 2, { ...move, to: AT + PAGE }],
    ['EINVAL', AT, 2, 2, { ...move, to: 2 ** 39 - PAGE }],
    ['EINVAL', AT, 0, 1, move],
    ['EFAULT', AT + 2 * PAGE, 3, 4, move],
    ['EFAULT', AT + 4 * PAGE, 1, 2, move],
    ['EINVAL', AT + 4 * PAGE, 1, 1, { ...move, keep: true }],
    ['ENOMEM', AT, 4, 5, {}],
  ];
  expect(
    rows.map(([, from, old, pages, options]) => code(() => remap(made, from, old, pages, options))),
  ).toEqual(rows.map(([wanted]) => wanted));
  expect(core.describe(mm)).toBe(before);
  core.checkInvariants();
});

test('mremap that runs out of frames for tables or of VMAs leaves the space as it was', () => {
  for (const fails of [1, 2]) {
    const made = mapped(600);
    const { core, mm } = made;
    const before = core.describe(mm);
    core.pageAlloc.failAt(fails);
    const options = { mayMove: true, to: TO };
    expect(code(() => remap(made, AT + PAGE, 598, 598, options))).toBe('ENOMEM');
    expect(core.describe(mm)).toBe(before);
    core.checkInvariants();
    expect(remap(made, AT + PAGE, 598, 598, options)).toBe(TO);
    expect(core.access.read32(mm, TO + 597 * PAGE)).toBe(698);
    core.checkInvariants();
  }
});

test('a moved page is found by reclaim at its new place, also one that fork shares', () => {
  const made = mapped(2);
  const { core, mm } = made;
  const child = core.fork(mm);
  remap(made, AT, 2, 2, { mayMove: true, to: TO });
  core.checkInvariants();
  core.madvise.advise(mm, TO, PAGE, 'pageout');
  core.lru.drainAll();
  expect(core.vmscan.reclaim(0 as Ptr<'memcg'>, 64)).toBeGreaterThan(0);
  core.checkInvariants();
  expect([core.access.read32(mm, TO), core.access.read32(child, AT)]).toEqual([100, 100]);
  core.access.write32(mm, TO, 1);
  expect(core.access.read32(child, AT)).toBe(100);
  core.checkInvariants();
});

function notified(pins: boolean, breaks: Partial<MmBreaks>): string[] {
  const made = mapped(3, breaks);
  const { core, mm } = made;
  const checker = new Checker(core, AT / PAGE);
  const shadow = new Shadow(core, pins);
  core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 0);
  core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 0);
  for (let i = 0; i < 3; i++) shadow.fill(mm, AT / PAGE + i, true);
  checker.heard();
  remap(made, AT + PAGE, 2, 2, { mayMove: true, keep: true, to: TO });
  shadow.check(mm);
  expect([...shadow.entries.keys()]).toEqual([AT / PAGE]);
  return checker.heard();
}

test.each([false, true])(
  'C-15: the old range is bracketed, pinning subscriber %s; without it one keeps a stale entry',
  pins => {
    expect(notified(pins, {})).toEqual(['start Unmap 1-3', 'end Unmap 1-3']);
    expect(() => notified(pins, { moveWithoutBracket: true })).toThrow('OR-3');
  },
);
