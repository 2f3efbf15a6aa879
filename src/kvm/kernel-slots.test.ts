import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { Miss } from '../cpu/interface.ts';
import { NotifyEvent, NotifyFlag } from '../mm/mmu-notifier-ops.ts';
import type { KvmBreaks } from './breaks.ts';
import { GENERATION_MASK, Protocol, SlotFlag, Spte } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';

// Slots that can fail after they were published: the kernel's own, and those that the CPU refuses. And what a
// change of the slots makes stale.

/** Where the kernel's slot lies, in another 2 MiB than slot 0 unless said otherwise. */
const AT = 4096;

const kernelSlot = (rig: KvmRig, more: { gfn?: number; flags?: number; pages?: number } = {}): void =>
  rig.kvm.memslots.set(rig.vm, {
    slot: 7,
    guestAddress: (more.gfn ?? AT) * PAGE_SIZE,
    lengthBytes: (more.pages ?? 4) * PAGE_SIZE,
    flags: more.flags ?? 0,
  });

const addressOf = (rig: KvmRig): number => {
  const { slot } = rig.kvm.layout;
  const found = rig.kvm.memslots.find(rig.kvm.memslots.active(rig.vm), 0, AT);
  return slot.vpn.get(found) * PAGE_SIZE;
};

const mapped = (rig: KvmRig, address: number): boolean => rig.core.mmap.find(rig.mm, address) !== 0;

test('L-4: the memory of a kernel slot is mapped with no mmu_lock held, shows as zeros, and is unmapped with the slot', () => {
  for (const protocol of [Protocol.Modern, Protocol.SeqlockPin] as const) {
    const rig = new KvmRig({ protocol });
    const locked: boolean[] = [];
    rig.at = label => {
      if (label === 'G.map') locked.push(rig.sync.lockdep!.holds('mmu'));
    };
    kernelSlot(rig);
    expect(locked).toEqual([false]);
    const address = addressOf(rig);
    rig.sync.words[rig.write(AT + 3) * 1024] = 5;
    expect(rig.core.access.read32(rig.mm, address + 3 * PAGE_SIZE)).toBe(5);
    rig.check();
    rig.core.madvise.advise(rig.mm, address, 4 * PAGE_SIZE, 'dontneed');
    expect(rig.leaf(AT + 3) & Spte.Present).toBe(0); // the notifier sees it now
    rig.check();
    kernelSlot(rig, { pages: 0 });
    expect([rig.read(AT), mapped(rig, address)]).toEqual([Miss.Mmio, false]);
    rig.check();
  }
});

// B-9
test('L-3: a slot without an address is skipped by invalidations and maps nothing; a user’s at address 0 is seen, or refused in seed08', () => {
  const rig = new KvmRig();
  const state: unknown[] = [];
  rig.at = label => {
    if (label !== 'G.map') return;
    rig.at = () => {};
    const { seq } = rig.kvm.layout.vm;
    const range = [rig.vm, rig.mm, 0, 4, NotifyEvent.Clear] as const;
    rig.kvm.modern.invalidateRangeStart!(...range, NotifyFlag.Blockable);
    rig.kvm.modern.invalidateRangeEnd!(...range);
    state.push(rig.read(AT), rig.leaf(AT), seq.load(rig.vm));
  };
  kernelSlot(rig);
  expect(state).toEqual([Miss.Again, 0, 0]);
  expect(rig.read(AT)).toBeGreaterThan(0);

  const zero = { slot: 3, guestAddress: 2 ** 32, lengthBytes: 32 * PAGE_SIZE, hostAddress: 0 };
  rig.kvm.memslots.set(rig.vm, zero);
  const low = rig.core.mmap.map(rig.mm, PAGE_SIZE, { address: 16 * PAGE_SIZE, fixed: 'exclusive' });
  const gfn = 2 ** 20 + 16;
  expect([rig.write(gfn) > 0, rig.read(2 ** 20)]).toEqual([true, Miss.Fault]);
  rig.core.mmap.unmap(rig.mm, low, PAGE_SIZE);
  expect(rig.leaf(gfn)).toBe(0);
  rig.check();

  const old = new KvmRig({ protocol: Protocol.SeqlockPin });
  expect(() => old.kvm.memslots.set(old.vm, zero)).toThrow('EINVAL');
});

test('L-5: a change of flags and a move keep the address of a slot, which need not be named', () => {
  const rig = new KvmRig();
  kernelSlot(rig);
  const address = addressOf(rig);
  rig.sync.words[rig.write(AT + 1) * 1024] = 9;
  kernelSlot(rig, { flags: SlotFlag.LogDirty });
  expect(addressOf(rig)).toBe(address);
  kernelSlot(rig, { gfn: AT - 1, flags: SlotFlag.LogDirty });
  expect(rig.sync.words[rig.read(AT) * 1024]).toBe(9);
  kernelSlot(rig, { gfn: AT - 1, pages: 0 });
  expect(mapped(rig, address)).toBe(false);
  rig.check();
});

test('L-2 L-4: a kernel slot whose memory can not be mapped is ENOMEM, and nothing is left of it', () => {
  const rig = new KvmRig();
  kernelSlot(rig);
  kernelSlot(rig, { pages: 0 });
  const before = { ...rig.slots(), generation: 0 };
  const usage = rig.usage();
  rig.mapFails = true;
  expect(() => kernelSlot(rig)).toThrow('ENOMEM');
  expect({ ...rig.slots(), generation: 0 }).toEqual(before);
  expect(rig.usage()).toEqual(usage);
  rig.mapFails = false;
  for (let n = 0; n < 7; n++) {
    rig.allocations = n;
    expect(() => kernelSlot(rig)).toThrow('ENOMEM');
    expect(rig.usage()).toEqual(usage);
  }
  expect(rig.read(AT)).toBe(Miss.Mmio);
  rig.check();
});

test('T-SLOT-02 L-2 B-9: a slot that the CPU refuses after a fault went through it goes with its leaves; else they stay', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = new KvmRig({ breaks });
    rig.write(GFN); // stocks up
    const before = rig.slots();
    const usage = rig.usage();
    rig.kvm.cpu.commitSlot = () => {
      rig.write(GFN + 33);
      throw new Error('no');
    };
    expect(() => rig.set({ slot: 1, gfn: GFN + 32, page: 0, pages: 4 })).toThrow('no');
    delete rig.kvm.cpu.commitSlot;
    rig.check();
    return { rig, same: JSON.stringify(rig.slots().list) === JSON.stringify(before.list), before, usage };
  };
  const { rig, same, before, usage } = run({});
  expect([same, rig.slots().leaves, rig.usage().heap]).toEqual([true, before.leaves, usage.heap]);
  expect(rig.read(GFN + 33)).toBe(Miss.Mmio);
  expect(run({ keepHook: true }).same).toBe(false);
  // With its leaves kept, what the slot showed outlives it: the count of leaves says so.
  expect(() => run({ deleteKeepsLeaves: true })).toThrow(/V2/);
});

test('K-6 T-SLOT-09: where no slot is a miss is remembered, for this generation; else a slot that comes is not seen', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = new KvmRig({ breaks });
    rig.write(GFN);
    expect([rig.read(GFN + 40), rig.read(GFN + 40)]).toEqual([Miss.Mmio, Miss.Mmio]);
    const { generation } = rig.slots();
    expect(rig.leaf(GFN + 40)).toBe((generation << 12) | Spte.Mmio);
    rig.check();
    rig.set({ slot: 1, gfn: GFN + 40, page: 32, pages: 2 });
    return { rig, seen: rig.read(GFN + 40) };
  };
  const { rig, seen } = run({});
  expect(seen).toBeGreaterThan(0);
  rig.check();
  expect(run({ staleMmio: true }).seen).toBe(Miss.Mmio);
});

test('L-16: nothing is remembered while the slots change, and no old generation comes round again', () => {
  const rig = new KvmRig();
  const { generation } = rig.kvm.layout.vm;
  rig.write(GFN);
  const odd: number[] = [];
  rig.at = label => {
    if (label !== 'G.sync') return;
    odd.push(generation.load(rig.vm) & 1, rig.read(GFN + 40), rig.leaf(GFN + 40));
  };
  rig.set({ slot: 1, gfn: GFN + 100, page: 32, pages: 1 });
  expect(odd).toEqual([1, Miss.Mmio, 0]);
  rig.at = () => {};
  rig.read(GFN + 40);
  expect(rig.leaf(GFN + 40) & Spte.Mmio).not.toBe(0);
  generation.store(rig.vm, GENERATION_MASK - 1);
  rig.set({ slot: 2, gfn: GFN + 110, page: 33, pages: 1 });
  expect([generation.load(rig.vm) & GENERATION_MASK, rig.leaf(GFN + 40)]).toEqual([0, 0]);
  rig.check();
});

test('no table is made to remember a miss', () => {
  const rig = new KvmRig();
  rig.write(GFN);
  const before = rig.usage();
  for (let i = 0; i < 100; i++) expect(rig.read(2 ** 20 + i * 512)).toBe(Miss.Mmio);
  expect(rig.usage()).toEqual(before);
});
