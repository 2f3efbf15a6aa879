import { expect, test } from 'vitest';
import { mutant } from '../base/mutant-testing.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { Miss } from '../cpu/interface.ts';
import type { KvmBreaks } from './breaks.ts';
import { MAX_SLOTS, SlotFlag, Spte } from './layout.ts';
import type { MemoryRegion } from './memslots.ts';
import { GFN, KvmRig } from './testing.ts';

const errorOf = (work: () => void): string => {
  try {
    work();
  } catch (error) {
    return (error as { code: string }).code;
  }
  return 'none';
};

/** Slot 0 is 16 pages at GFN, slot 1 is 4 pages at GFN + 32. */
function twoSlots(): { rig: KvmRig; good: MemoryRegion } {
  const rig = new KvmRig();
  rig.set({ slot: 1, gfn: GFN + 32, page: 32, pages: 4 });
  for (let gfn = GFN; gfn < GFN + 8; gfn++) rig.write(gfn);
  const good: MemoryRegion = {
    slot: 2,
    guestAddress: 1024 * PAGE_SIZE,
    lengthBytes: PAGE_SIZE,
    hostAddress: rig.vpn * PAGE_SIZE,
  };
  return { rig, good };
}

const slot0 = (rig: KvmRig): MemoryRegion => ({
  slot: 0,
  guestAddress: GFN * PAGE_SIZE,
  lengthBytes: 16 * PAGE_SIZE,
  hostAddress: rig.vpn * PAGE_SIZE,
});

/** L-11, a row each: what is wrong, and the answer. Several things wrong: the first in the table's order. */
const ERRORS: [string, string, (rig: KvmRig, good: MemoryRegion) => MemoryRegion][] = [
  ['an unknown flag', 'EINVAL', (_, r) => ({ ...r, flags: 1 << 2 })],
  ['the internal flag', 'EINVAL', (_, r) => ({ ...r, flags: SlotFlag.Invalid })],
  ['a size that is not pages', 'EINVAL', (_, r) => ({ ...r, lengthBytes: PAGE_SIZE + 1 })],
  ['a gpa inside a page', 'EINVAL', (_, r) => ({ ...r, guestAddress: 8 })],
  ['an hva inside a page', 'EINVAL', (_, r) => ({ ...r, hostAddress: r.hostAddress! + 4 })],
  ['a negative size', 'EINVAL', (_, r) => ({ ...r, lengthBytes: -PAGE_SIZE })],
  ['a size that is no number', 'EINVAL', (_, r) => ({ ...r, lengthBytes: Number.NaN })],
  ['a gpa of 2^64', 'EINVAL', (_, r) => ({ ...r, guestAddress: 2 ** 64 })],
  ['an hva that no user has', 'EINVAL', (_, r) => ({ ...r, hostAddress: 2 ** 39 })],
  ['an address space too many', 'EINVAL', (_, r) => ({ ...r, space: 2 })],
  ['an address space below 0', 'EINVAL', (_, r) => ({ ...r, space: -1 })],
  ['half an address space', 'EINVAL', (_, r) => ({ ...r, space: 0.5 })],
  ['slot id 32767', 'EINVAL', (_, r) => ({ ...r, slot: 32767 })],
  ['slot id -1', 'EINVAL', (_, r) => ({ ...r, slot: -1 })],
  [
    'a gpa range that wraps',
    'EINVAL',
    (_, r) => ({ ...r, guestAddress: 2 ** 39 - PAGE_SIZE, lengthBytes: 8192 }),
  ],
  ['2^31 pages', 'EINVAL', (_, r) => ({ ...r, guestAddress: 0, hostAddress: 0, lengthBytes: 2 ** 43 })],
  ['DELETE of nothing', 'EINVAL', (_, r) => ({ ...r, lengthBytes: 0 })],
  ['DELETE in the other space', 'EINVAL', (_, r) => ({ ...r, slot: 0, space: 1, lengthBytes: 0 })],
  ['DELETE with a crooked gpa', 'EINVAL', rig => ({ ...slot0(rig), guestAddress: 1, lengthBytes: 0 })],
  ['DELETE with a crooked hva', 'EINVAL', rig => ({ ...slot0(rig), hostAddress: 1, lengthBytes: 0 })],
  ['another size', 'EINVAL', rig => ({ ...slot0(rig), lengthBytes: PAGE_SIZE })],
  ['another hva', 'EINVAL', rig => ({ ...slot0(rig), hostAddress: (rig.vpn + 1) * PAGE_SIZE })],
  ['READONLY later', 'EINVAL', rig => ({ ...slot0(rig), flags: SlotFlag.ReadOnly })],
  ['another size, and overlap', 'EINVAL', rig => ({ ...slot0(rig), lengthBytes: 40 * PAGE_SIZE })],
  ['CREATE over the end of a slot', 'EEXIST', (_, r) => ({ ...r, guestAddress: (GFN + 15) * PAGE_SIZE })],
  [
    'CREATE over the start of a slot',
    'EEXIST',
    (_, r) => ({ ...r, guestAddress: (GFN - 1) * PAGE_SIZE, lengthBytes: 8192 }),
  ],
  ['CREATE around a slot', 'EEXIST', (_, r) => ({ ...r, guestAddress: 0, lengthBytes: 128 * PAGE_SIZE })],
  ['MOVE onto a slot', 'EEXIST', rig => ({ ...slot0(rig), guestAddress: (GFN + 20) * PAGE_SIZE })],
];

// L-11
test.each(ERRORS)('%s is %s, and nothing has changed', (_why, code, region) => {
  const { rig, good } = twoSlots();
  const before = { slots: rig.slots(), usage: rig.usage(), present: rig.present() };
  expect(errorOf(() => rig.kvm.memslots.set(rig.vm, region(rig, good)))).toBe(code);
  expect({ slots: rig.slots(), usage: rig.usage(), present: rig.present() }).toEqual(before);
  rig.check();
});

// L-10
test('CREATE shows memory where nothing was, hva 0 and the last id included', () => {
  const rig = new KvmRig();
  expect(rig.read(GFN + 100)).toBe(Miss.Mmio);
  rig.set({ slot: 32766, gfn: GFN + 100, page: 3, pages: 2 });
  const pfn = rig.write(GFN + 100);
  expect(pfn).toBe(rig.write(GFN + 3));
  rig.kvm.memslots.set(rig.vm, { slot: 5, guestAddress: 0, lengthBytes: PAGE_SIZE, hostAddress: 0 });
  expect(rig.slots().list.map(s => [s.id, s.gfn, s.npages])).toEqual([
    [0, GFN, 16],
    [32766, GFN + 100, 2],
    [5, 0, 1],
  ]);
  rig.check();
});

test('each address space has slots of its own, with the same ids and guest frames', () => {
  const rig = new KvmRig();
  rig.set({ space: 1, page: 16 });
  expect(rig.write(GFN, 1)).not.toBe(rig.write(GFN, 0));
  rig.set({ space: 0, pages: 0 });
  expect([rig.read(GFN, 0), rig.read(GFN, 1) >= 0]).toEqual([Miss.Mmio, true]);
  rig.check();
});

// L-10
test('DELETE takes every leaf with it and gives its words back; the pages of the mm stay', () => {
  const rig = new KvmRig({ pages: 0 });
  let pfn = 0;
  for (let i = 0; i < 2; i++) {
    rig.set({ pages: 16 });
    pfn = rig.write(GFN + 1); // takes tables, which stay, and stocks up
    rig.set({ pages: 0 });
  }
  const before = rig.usage();
  rig.set({ pages: 16 });
  expect(rig.write(GFN + 1)).toBe(pfn);
  rig.set({ pages: 0 });
  expect(rig.slots()).toMatchObject({ list: [], leaves: 0 });
  expect(rig.leaf(GFN + 1)).toBe(0);
  expect(rig.read(GFN + 1)).toBe(Miss.Mmio);
  expect(rig.usage()).toEqual(before);
  rig.check();
});

test('DELETE of one alias leaves the leaves of the other', () => {
  const rig = new KvmRig();
  rig.set({ slot: 1, gfn: GFN + 32, page: 0, pages: 16 });
  rig.write(GFN);
  rig.write(GFN + 32);
  rig.set({ pages: 0 });
  expect(rig.leaf(GFN)).toBe(0);
  expect(rig.present(GFN + 32)).toEqual([GFN + 32]);
  rig.advise('dontneed', 0);
  expect(rig.leaf(GFN + 32)).toBe(0);
  rig.check();
});

// L-10
test('MOVE shows the same pages at the new place and nothing at the old', () => {
  const rig = new KvmRig();
  const pfn = rig.write(GFN + 2);
  const { heap } = rig.usage();
  rig.set({ gfn: GFN + 8 }); // overlaps its old place, which is no error
  expect(rig.present(GFN, 40)).toEqual([]);
  expect([rig.read(GFN + 2), rig.read(GFN + 10)]).toEqual([Miss.Mmio, pfn]);
  expect(rig.slots().list).toEqual([{ id: 0, space: 0, flags: 0, gfn: GFN + 8, npages: 16, page: 0 }]);
  expect(rig.usage().heap).toBe(heap);
  rig.check();
});

// L-10
test('FLAGS_ONLY keeps the leaves and moves the generation on; the same flags again change nothing', () => {
  const rig = new KvmRig();
  rig.write(GFN);
  const { heap } = rig.usage();
  const { generation } = rig.slots();
  rig.set({ flags: SlotFlag.LogDirty });
  const after = rig.slots();
  expect(after.list[0]).toMatchObject({ flags: SlotFlag.LogDirty, gfn: GFN });
  expect([after.generation - generation, after.leaves]).toEqual([2, 1]);
  rig.set({ flags: SlotFlag.LogDirty });
  expect(rig.slots()).toEqual(after);
  expect(rig.usage().heap).toBe(heap);
  rig.advise('dontneed', 0); // the reverse map came along
  expect(rig.leaf(GFN)).toBe(0);
  rig.check();
});

test('a read-only slot answers reads, and takes a write for MMIO', () => {
  const rig = new KvmRig();
  rig.set({ slot: 1, gfn: GFN + 32, page: 32, pages: 2, flags: SlotFlag.ReadOnly });
  expect(rig.write(GFN + 32)).toBe(Miss.Mmio);
  expect(rig.read(GFN + 32)).toBeGreaterThan(0);
  expect(rig.leaf(GFN + 32) & (Spte.Present | Spte.Write)).toBe(Spte.Present);
  rig.check();
});

test('K-28 a read of a read-only slot maps no writable leaf, though the page is: a write stays MMIO', () => {
  mutant<KvmBreaks>('ignoreReadOnlySlot', breaks => {
    const rig = new KvmRig({ breaks });
    rig.core.access.copyToUser(rig.mm, (rig.vpn + 32) * PAGE_SIZE, new Uint8Array(1));
    rig.set({ slot: 1, gfn: GFN + 32, page: 32, pages: 2, flags: SlotFlag.ReadOnly });
    expect(rig.read(GFN + 32)).toBeGreaterThan(0);
    expect(rig.leaf(GFN + 32) & (Spte.Present | Spte.Write)).toBe(Spte.Present);
    expect(rig.write(GFN + 32)).toBe(Miss.Mmio);
    rig.check();
  });
});

test('one slot too many is ENOMEM, and nothing is lost by it', () => {
  const rig = new KvmRig({ pages: 0 });
  for (let i = 0; i < MAX_SLOTS; i++) rig.set({ slot: i, gfn: GFN + i, pages: 1 });
  const before = { slots: rig.slots(), usage: rig.usage() };
  expect(errorOf(() => rig.set({ slot: MAX_SLOTS, gfn: GFN + MAX_SLOTS, pages: 1 }))).toBe('ENOMEM');
  expect({ slots: rig.slots(), usage: rig.usage() }).toEqual(before);
  rig.set({ slot: 3, gfn: GFN + 100, pages: 1 }); // a MOVE needs no more
  expect(rig.slots().list).toHaveLength(MAX_SLOTS);
});

test('a slot whose reverse map finds no room is ENOMEM, and nothing is lost by it', () => {
  const rig = new KvmRig();
  const before = { slots: rig.slots(), usage: rig.usage() };
  const huge = { slot: 1, guestAddress: 2 ** 32, lengthBytes: 2 ** 32, hostAddress: 0 };
  expect(errorOf(() => rig.kvm.memslots.set(rig.vm, huge))).toBe('ENOMEM');
  expect({ slots: rig.slots(), usage: rig.usage() }).toEqual(before);
});

const CHANGES: [string, number, (rig: KvmRig) => void][] = [
  ['CREATE', 4, rig => rig.set({ slot: 1, gfn: GFN + 32, pages: 4 })],
  ['FLAGS_ONLY', 2, rig => rig.set({ flags: SlotFlag.LogDirty })],
  ['MOVE', 6, rig => rig.set({ gfn: GFN + 100 })],
  ['DELETE', 3, rig => rig.set({ pages: 0 })],
];

test.each(CHANGES)(
  '%s that runs out of memory on the way is ENOMEM, and was not begun',
  (_what, needs, change) => {
    const rig = new KvmRig();
    rig.write(GFN);
    const before = { slots: rig.slots(), usage: rig.usage(), present: rig.present() };
    for (let n = 0; n < needs; n++) {
      rig.allocations = n;
      expect(errorOf(() => change(rig))).toBe('ENOMEM');
      expect({ slots: rig.slots(), usage: rig.usage(), present: rig.present() }).toEqual(before);
    }
    rig.allocations = needs;
    expect(errorOf(() => change(rig))).toBe('none');
    rig.check();
  },
);
