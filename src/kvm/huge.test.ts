import { expect, test } from 'vitest';
import { PageFlag } from '../mm/layout.ts';
import type { KvmBreaks } from './breaks.ts';
import { Protocol, SlotFlag, Spte, spteFrame, sptePfn } from './layout.ts';
import { KvmRig } from './testing.ts';

// Leaves of 2 MiB over huge pages of the mm.

/** A guest frame at a multiple of 512, as the mapping is. */
const G = 1024;

/** Three areas that ask for huge pages; one of them behind slot 0, unless said otherwise. */
function hugeRig(
  options: {
    protocol?: 0 | 1 | 2;
    breaks?: Partial<KvmBreaks>;
    slot?: Parameters<KvmRig['set']>[0];
    code?: number;
  } = {},
): KvmRig {
  const { slot = { gfn: G, pages: 1024 }, ...more } = options;
  const rig = new KvmRig({ frames: 3072, mapped: 1536, pages: 0, ...more });
  rig.advise('hugepage', 0, 1536);
  rig.set(slot);
  return rig;
}

/** Leaves of slot 0 by level, in order: `4K` or `2M` with the guest frame. */
function leaves(rig: KvmRig, from = G, pages = 1024): string[] {
  const list: string[] = [];
  for (let gfn = from; gfn < from + pages; gfn++) {
    const leaf = rig.leaf(gfn);
    if ((leaf & Spte.Present) === 0) continue;
    if ((leaf & Spte.Huge) === 0) list.push(`4K ${gfn}`);
    else if (gfn % 512 === 0) list.push(`2M ${gfn}`);
  }
  return list;
}

const frameOf = (rig: KvmRig, page: number): number =>
  rig.core.pageTable.entryOf(rig.mm, rig.vpn + page) >>> 12;

test('K-4: over a huge page of the primary one leaf maps 2 MiB, and each guest frame its own', () => {
  const rig = hugeRig();
  expect(rig.write(G + 7)).toBe(frameOf(rig, 7));
  expect(leaves(rig)).toEqual([`2M ${G}`]);
  const fixed = rig.slots().leaves;
  for (const gfn of [G, G + 7, G + 511]) expect(rig.read(gfn)).toBe(frameOf(rig, gfn - G));
  expect(rig.slots().leaves).toBe(fixed);
  rig.write(G + 512);
  expect(leaves(rig)).toEqual([`2M ${G}`, `2M ${G + 512}`]);
  expect(rig.kvm.layout.vm.pages2m.get(rig.vm)).toBe(2);
  rig.check();
});

test('K-4 (i): a slot that is not aligned as its memory, ends inside, or is logged, is mapped by 4 KiB', () => {
  const slots = [
    { gfn: G + 1, pages: 1024 },
    { gfn: G, page: 0, pages: 511 },
    { gfn: G + 1, page: 1, pages: 511 },
    { gfn: G, pages: 1024, flags: SlotFlag.LogDirty },
  ];
  for (const slot of slots) {
    const rig = hugeRig({ slot });
    rig.write(G + 7);
    expect(leaves(rig)).toEqual([`4K ${G + 7}`]);
    rig.check();
  }
  const edge = hugeRig({ slot: { gfn: G + 1, page: 1, pages: 1023 } });
  edge.write(G + 7);
  edge.write(G + 600);
  expect(leaves(edge)).toEqual([`4K ${G + 7}`, `2M ${G + 512}`]);
  edge.check();
});

test('H-13: a split of the primary takes the 2 MiB leaf away, and the guest comes back by 4 KiB', () => {
  const rig = hugeRig();
  rig.write(G + 7);
  expect(leaves(rig)).toEqual([`2M ${G}`]);
  rig.core.hugePmd.split(rig.mm, rig.vpn);
  expect(leaves(rig)).toEqual([]);
  rig.write(G + 7);
  expect(leaves(rig)).toEqual([`4K ${G + 7}`]);
  rig.check();
});

test('M-30: the huge zero page is one frame, and is mapped by 4 KiB; a write gives 2 MiB, or 4 KiB where there are none', () => {
  for (const lacking of [false, true]) {
    const rig = hugeRig();
    expect(rig.read(G + 7)).toBe(rig.core.pages.zeroPage);
    expect(leaves(rig)).toEqual([`4K ${G + 7}`]);
    rig.check();
    if (lacking) rig.core.pageAlloc.failHuge();
    rig.write(G + 7);
    expect(leaves(rig)).toEqual([lacking ? `4K ${G + 7}` : `2M ${G}`]);
    rig.check();
  }
});

test('T-THP-02 B-31: one pte of 512, frames and slot aligned: 4 KiB; by the shape it would map what is not there', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = hugeRig({ breaks });
    rig.core.pages.put(rig.core.gup.fault(rig.mm, rig.vpn + 7, true) & 0xffffff);
    rig.core.hugePmd.split(rig.mm, rig.vpn);
    rig.advise('dontneed', 0, 7);
    rig.advise('dontneed', 8, 504);
    // The guest frame has the place in its 2 MiB that the host frame has.
    expect((frameOf(rig, 7) ^ (G + 7)) % 512).toBe(0);
    rig.write(G + 7);
    return rig;
  };
  const rig = run({});
  expect(leaves(rig)).toEqual([`4K ${G + 7}`]);
  rig.write(G + 8);
  expect(leaves(rig)).toEqual([`4K ${G + 7}`, `4K ${G + 8}`]);
  rig.check();
  expect(() => run({ levelFromShape: true }).check()).toThrow(/V1/);
});

for (const [name, page, pages] of [
  ['T-FIR-16: half of a 2 MiB leaf in range', 256, 256],
  ['T-THP-05: one page of a 2 MiB leaf discarded', 9, 1],
] as const) {
  // T-FIR-16, T-THP-05
  test(`${name}: the whole leaf goes, the rest is intact and comes back small; else a leaf is left`, () => {
    const run = (breaks: Partial<KvmBreaks>) => {
      const rig = hugeRig({ breaks });
      for (let i = 0; i < 512; i += 3) rig.sync.words[rig.write(G + i) * 1024] = i + 1;
      rig.advise('dontneed', page, pages);
      return rig;
    };
    const rig = run({});
    expect(leaves(rig)).toEqual([]);
    for (let i = 0; i < 512; i += 3) {
      const gone = i >= page && i < page + pages;
      expect(rig.sync.words[rig.read(G + i) * 1024]).toBe(gone ? 0 : i + 1);
    }
    expect(leaves(rig).every(leaf => leaf.startsWith('4K'))).toBe(true);
    rig.check();
    const left = run({ smallLeavesOnly: true });
    expect(() => left.check()).toThrow(/V1/);
  });
}

/** Guest frames in two slots over the same memory: 2 MiB in the one, 4 KiB in the other. */
function aliased(options: Parameters<typeof hugeRig>[0] = {}): KvmRig {
  const rig = hugeRig(options);
  rig.set({ slot: 1, gfn: 4096 + 1, page: 0, pages: 600 });
  rig.set({ slot: 2, gfn: 8192, page: 0, pages: 512, space: 1 });
  rig.write(G + 3);
  for (const i of [0, 3, 5]) rig.write(4097 + i);
  rig.write(8192 + 3, 1);
  return rig;
}

test('T-RMAP-02 B-3: an invalidation leaves no leaf of either level in any slot', () => {
  const rig = aliased();
  expect(rig.slots().leaves).toBe(5);
  rig.check();
  rig.advise('dontneed', 0, 512);
  expect(rig.slots().leaves).toBe(0);
  rig.check();
  const broken = aliased({ breaks: { smallLeavesOnly: true } });
  broken.advise('dontneed', 0, 512);
  expect(broken.slots().leaves).toBe(2);
  expect(() => broken.check()).toThrow(/V1/);
});

test('T-AGE-06: all leaves of 2 slots, 2 levels, 2 spaces are asked and cleared; stopping at the first leaves some', () => {
  const young = (rig: KvmRig): number =>
    [rig.leaf(G), ...[0, 3, 5].map(i => rig.leaf(4097 + i)), rig.leaf(8192, 1)].filter(
      leaf => (leaf & Spte.Accessed) !== 0,
    ).length;
  const rig = aliased();
  expect(young(rig)).toBe(5);
  expect(rig.kvm.age(rig.vm, rig.vpn, rig.vpn + 512, true, false)).toBe(true);
  expect(young(rig)).toBe(0);
  expect(rig.kvm.age(rig.vm, rig.vpn, rig.vpn + 512, true, false)).toBe(false);
  for (const breaks of [{ ageShortCircuit: true }, { smallLeavesOnly: true }]) {
    const broken = aliased({ breaks });
    broken.kvm.age(broken.vm, broken.vpn, broken.vpn + 512, true, false);
    expect(young(broken)).toBeGreaterThan(0);
  }
});

test('T-AGE-13: ageing 4 KiB inside a 2 MiB leaf clears its one bit and returns what it was', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = hugeRig({ breaks });
    rig.write(G + 3);
    const { vm, vpn, kvm } = rig;
    const before = rig.leaf(G) & ~Spte.Accessed;
    const seen = [
      kvm.age(vm, vpn + 400, vpn + 401, false, false),
      kvm.age(vm, vpn + 400, vpn + 401, true, false),
      kvm.age(vm, vpn + 3, vpn + 4, true, false),
    ];
    expect(rig.leaf(G) & ~Spte.Accessed).toBe(before); // K-52
    rig.read(G + 77);
    return [...seen, kvm.age(vm, vpn + 3, vpn + 4, true, true)];
  };
  expect(run({})).toEqual([true, true, false, true]);
  expect(run({ smallLeavesOnly: true })).toEqual([false, false, false, false]);
});

test('M-34: the mm ages a huge page that the guest alone uses by its first page', () => {
  const rig = hugeRig();
  rig.write(G);
  rig.core.lru.drainAll();
  const first = frameOf(rig, 0);
  const referenced = (pfn: number): number => {
    rig.core.pages.lock(pfn);
    const n = rig.core.rmap.pageReferenced(pfn);
    rig.core.pages.unlock(pfn);
    return n;
  };
  expect([first + 9, first, first + 9].map(referenced)).toEqual([1, 1, 0]);
  rig.read(G + 100);
  expect([first + 9, first, first + 9].map(referenced)).toEqual([1, 1, 0]);
});

test('K-7: what was written or run through a 2 MiB leaf is so for all its 512 frames', () => {
  const rig = hugeRig({ code: 5 });
  const first = rig.write(G) as number;
  rig.kvm.fault.resolve(rig.vm, 0, G + 1, 2);
  for (let pfn = first; pfn < first + 512; pfn++) rig.core.pages.clear(pfn, PageFlag.Dirty);
  rig.core.hugePmd.split(rig.mm, rig.vpn);
  const dirty = Array.from({ length: 512 }, (_, i) => first + i).filter(pfn =>
    rig.core.pages.has(pfn, PageFlag.Dirty),
  );
  expect(dirty.length).toBe(512);
  expect(rig.dropped).toEqual(dirty);
  rig.check();
});

test('T-THP-04: a collapse zaps the small leaves at its start; the next fault maps 2 MiB, and the table comes back', () => {
  const rig = hugeRig();
  rig.advise('nohugepage', 0, 512);
  for (const i of [0, 3, 5]) rig.sync.words[rig.write(G + i) * 1024] = i + 1;
  expect(leaves(rig)).toEqual([`4K ${G}`, `4K ${G + 3}`, `4K ${G + 5}`]);
  const tables = rig.kvm.layout.vm.tables.get(rig.vm);
  rig.advise('hugepage', 0, 512);
  rig.advise('collapse', 0, 512);
  expect(leaves(rig)).toEqual([]);
  expect(rig.sync.words[rig.read(G + 3) * 1024]).toBe(4);
  expect(leaves(rig)).toEqual([`2M ${G}`]);
  rig.check();
  rig.core.hugePmd.split(rig.mm, rig.vpn);
  expect(rig.sync.words[rig.read(G + 5) * 1024]).toBe(6);
  expect(leaves(rig)).toEqual([`4K ${G + 5}`]);
  rig.read(G + 3);
  expect(rig.kvm.layout.vm.tables.get(rig.vm)).toBeLessThanOrEqual(tables + 2);
  rig.check();
});

test('T-THP-08: split while the slot is logged: leaves are small before and after; else one would be of 2 MiB', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = hugeRig({ slot: { gfn: G, pages: 1024, flags: SlotFlag.LogDirty }, breaks });
    rig.write(G + 3);
    const before = leaves(rig);
    rig.core.hugePmd.split(rig.mm, rig.vpn);
    rig.write(G + 3);
    rig.write(G + 4);
    rig.check();
    return [before, leaves(rig)];
  };
  const after = [`4K ${G + 3}`, `4K ${G + 4}`];
  expect(run({})).toEqual([[`4K ${G + 3}`], after]);
  expect(run({ hugeWhileLogged: true })).toEqual([[`2M ${G}`], after]);
});

test('a slot that comes to be logged takes a 2 MiB leaf apart at the next fault', () => {
  const rig = hugeRig();
  rig.write(G + 3);
  rig.set({ gfn: G, pages: 1024, flags: SlotFlag.LogDirty });
  rig.core.pages.put(rig.core.gup.fault(rig.mm, rig.vpn + 600, true) & 0xffffff);
  rig.write(G + 600);
  expect(leaves(rig)).toContain(`4K ${G + 600}`);
  rig.check();
});

test('T-THP-09 K-8: leaves that hold references are small; a split drops them; of 2 MiB they would drop others', () => {
  const run = (breaks: Partial<KvmBreaks>) => {
    const rig = hugeRig({ protocol: Protocol.SeqlockPin, breaks });
    const pfn = rig.write(G + 3) as number;
    const before = [leaves(rig), rig.core.pages.refcount(pfn), rig.core.pages.refcount(pfn + 1)];
    rig.core.hugePmd.split(rig.mm, rig.vpn);
    return { before, after: [leaves(rig), rig.core.pages.refcount(pfn)], rig };
  };
  const { before, after, rig } = run({});
  expect([before, after]).toEqual([
    [[`4K ${G + 3}`], 2, 1],
    [[], 1],
  ]);
  rig.check();
  expect(() => run({ hugePins: true })).toThrow('M3: a mapped page has references');
});

// B-1
test('B-1: a fault inside a huge page puts what it took: the counts of its first page and of the page are as before', () => {
  const rig = hugeRig();
  rig.core.pages.put(rig.core.gup.fault(rig.mm, rig.vpn + 7, true) & 0xffffff);
  const counts = () => [0, 6, 7, 8].map(page => rig.core.pages.refcount(frameOf(rig, page)));
  const before = counts();
  rig.write(G + 7);
  rig.read(G + 8);
  expect(counts()).toEqual(before);
  rig.advise('dontneed', 0, 512);
  rig.check();
});

test('deleting a slot, and the VM, leaves no 2 MiB leaf and gives every frame back', () => {
  const rig = hugeRig();
  rig.advise('nohugepage', 0, 512);
  rig.write(G + 3);
  rig.advise('hugepage', 0, 512);
  rig.advise('collapse', 0, 512);
  rig.write(G + 3);
  rig.write(G + 700);
  expect(leaves(rig).length).toBe(2);
  rig.set({ pages: 0, gfn: G });
  expect(rig.slots()).toMatchObject({ list: [], leaves: 0 });
  rig.check();
  rig.set({ gfn: G, pages: 1024 });
  rig.write(G + 3);
  rig.check();
  const before = rig.usage().frames;
  const tables = rig.kvm.layout.vm.tables.get(rig.vm);
  rig.vms.destroy(rig.vm);
  expect(before - rig.usage().frames).toBeGreaterThanOrEqual(tables);
  rig.core.checkInvariants();
});

test('spteFrame: a leaf of either level names a frame for each guest frame', () => {
  const huge = (1024 << 12) | Spte.Present | Spte.Huge;
  expect([spteFrame(huge, 7), spteFrame(huge, 512), spteFrame((33 << 12) | Spte.Present, 7)]).toEqual([
    1031, 1024, 33,
  ]);
  expect(sptePfn(huge)).toBe(1024);
});
