import { expect, test } from 'vitest';
import { HugeRig } from './huge/huge-testing.ts';
import { testMm } from './testing.ts';

const PAGE = 4096;

/** Four pages: written, read (the zero page), never touched, written. And a subscriber that counts. */
function hinted(breaks: { hintWithoutNotify?: boolean } = {}) {
  const mm = testMm({ breaks });
  const space = mm.createMm();
  const at = mm.mmap.map(space, 4 * PAGE);
  for (const p of [0, 3]) mm.access.write32(space, at + p * PAGE, 1 + p);
  mm.access.read32(space, at + PAGE);
  const heard: string[] = [];
  const ops = mm.notifiers.registerOps({
    name: 'ears',
    pins: false,
    invalidateRangeStart: (_s, _mm, start, end, event) => heard.push(`start ${end - start} ${event}`) * 0,
    invalidateRangeEnd: () => void heard.push('end'),
  });
  mm.notifiers.register(space, ops, 0);
  mm.numa.changeProtNuma(space, at / PAGE, at / PAGE + 4);
  return { mm, space, at, heard };
}

test('C-10, M-4: a hint takes the access away, is no hole, and is over with the next access', () => {
  const { mm, space, at } = hinted();
  mm.checkInvariants();
  const lines = () => mm.describe(space).split('\n').slice(1);
  expect(lines()).toEqual([
    '  0x10000000 page none writable dirty',
    '  0x10001000 zero',
    '  0x10003000 page none writable dirty',
  ]);
  expect(mm.numa.changeProtNuma(space, at / PAGE, at / PAGE + 4)).toBe(0);
  // Armed, and asked for all the same: a hint is not a user fault (U-9).
  mm.madvise.advise(space, at, 4 * PAGE, 'userfault');
  expect([mm.access.read32(space, at), mm.access.read32(space, at + 3 * PAGE)]).toEqual([1, 4]);
  mm.access.write32(space, at, 5);
  expect(lines()[0]).toBe('  0x10000000 page writable dirty');
  expect([mm.vmstat.read('numa_pte_updates'), mm.vmstat.read('numa_hint_faults')]).toEqual([2, 2]);
  mm.checkInvariants();
});

test('C-10: secondaries drop what will take a hint; else a guest would use it unseen', () => {
  expect(hinted().heard).toEqual(['start 4 2', 'end']);
  expect(hinted({ hintWithoutNotify: true }).heard).toEqual([]);
});

test('C-10: memory that may not be accessed takes no hint, and stays shut', () => {
  const mm = testMm();
  const space = mm.createMm();
  const at = mm.mmap.map(space, PAGE);
  mm.access.write32(space, at, 1);
  mm.mmap.protect(space, at, PAGE, {});
  expect(mm.numa.changeProtNuma(space, at / PAGE, at / PAGE + 1)).toBe(0);
  expect(() => mm.access.read32(space, at)).toThrow('EFAULT');
  mm.mmap.protect(space, at, PAGE, { read: true });
  expect(mm.access.read32(space, at)).toBe(1);
  expect(mm.vmstat.read('numa_hint_faults')).toBe(0);
});

test('H-6: a huge page takes one hint, which is no hole', () => {
  const rig = new HugeRig();
  for (let p = 0; p < 512; p += 100) rig.write(p, p + 1);
  rig.advise('userfault', 0, 512);
  expect(rig.core.numa.changeProtNuma(rig.mm, rig.at(0) / PAGE, rig.at(512) / PAGE)).toBe(1);
  expect(rig.text()).toBe('  0x20000000 huge page none writable dirty ×512');
  expect([rig.read(100), rig.read(500)]).toEqual([101, 501]);
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  expect(rig.counts('numa_pte_updates', 'numa_hint_faults')).toEqual({
    numa_pte_updates: 1,
    numa_hint_faults: 1,
  });
});
