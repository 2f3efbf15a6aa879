import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import { PageFlag } from '../mm/layout.ts';
import { NotifyEvent, NotifyFlag } from '../mm/mmu-notifier-ops.ts';
import type { KvmBreaks } from './breaks.ts';
import { Protocol, Spte, sptePfn } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';
import { Vms } from './vm.ts';

// What holds at each point of a fault and of an invalidation, seen from one thread in the middle of it.

const SEED = { protocol: Protocol.SeqlockPin } as const;
const held = (rig: KvmRig, lock: 'mmuLock' | 'slotsLock'): boolean =>
  rig.sync.words[rig.vm + rig.kvm.layout.vm[lock].at] !== 0;
/** Faults on their way: readers of the slots (K-16). */
const readers = (rig: KvmRig): number => {
  const { srcuReaders } = rig.kvm.layout.vm;
  return (rig.sync.words[rig.vm + srcuReaders.at]! + rig.sync.words[rig.vm + srcuReaders.at + 1]!) as number;
};

/** Runs `work` and notes what `see` says at each point whose label begins with one of the letters. */
function watch<T>(rig: KvmRig, letters: string, work: () => void, see: () => T): Record<string, T> {
  const seen: Record<string, T> = {};
  rig.at = label => {
    if (letters.includes(label[0]!)) seen[label] = see();
  };
  work();
  rig.at = () => {};
  return seen;
}

test('K-1: a VM begins with a root for each space, no slot, and no invalidation; a slot brings a head for each page and 2 MiB', () => {
  const rig = new KvmRig({ pages: 0 });
  const { vm: v } = rig.kvm.layout;
  const words = [v.seq, v.inProgress, v.mnActive, v.invSeq].map(field => field.load(rig.vm));
  expect(words).toEqual([0, 0, 0, 0]);
  const roots = [0, 1].map(space => rig.kvm.mmu.root(rig.vm, space));
  expect(roots.every(root => root > 0) && roots[0] !== roots[1]).toBe(true);
  expect(rig.slots()).toMatchObject({ list: [], leaves: 0 });
  const before = rig.usage().heap;
  rig.set({ gfn: 510, pages: 16 }); // touches two areas of 2 MiB
  const slot = rig.kvm.memslots.find(rig.kvm.memslots.active(rig.vm), 0, 510);
  const heads = [510, 525].map(gfn => rig.kvm.rmap.head(slot, gfn, 0));
  expect(heads[1]! - heads[0]!).toBe(15);
  expect(rig.kvm.rmap.head(slot, 525, 1) - rig.kvm.rmap.head(slot, 510, 1)).toBe(1);
  expect(rig.usage().heap).toBeGreaterThanOrEqual(before + 16 + 4);
  rig.check();
});

// K-2, B-4
test('B-4: a notifier that is called while it is being registered finds all that it reads', () => {
  const rig = new KvmRig();
  let called = 0;
  const early = new Vms(rig.kvm, {
    registerOps: ops => rig.core.notifiers.registerOps(ops),
    register(mm, _ops, subscriber) {
      for (const ops of [rig.kvm.modern, rig.kvm.seqlock]) {
        ops.invalidateRangeStart?.(subscriber, mm, 0, 512, NotifyEvent.Clear, NotifyFlag.Blockable);
        ops.invalidateRangeEnd?.(subscriber, mm, 0, 512, NotifyEvent.Clear);
        ops.clearFlushYoung?.(subscriber, mm, 0, 512);
        ops.release?.(subscriber, mm);
        called++;
      }
      return 0;
    },
    unregister: () => {},
  });
  const vm = early.create({ mm: rig.mm });
  expect(called).toBe(2);
  early.destroy(vm);
  rig.check();
});

test('K-3: a frame has a leaf in each root and slot that shows it, each in the reverse map of its guest frame', () => {
  const rig = new KvmRig();
  rig.set({ slot: 1, gfn: GFN + 32, page: 0, pages: 4 });
  rig.set({ slot: 2, gfn: GFN, page: 0, pages: 4, space: 1 });
  const pfn = rig.write(GFN);
  expect([rig.write(GFN + 32), rig.write(GFN, 1)]).toEqual([pfn, pfn]);
  expect(rig.slots().leaves).toBe(3);
  rig.check();
  rig.advise('dontneed', 0);
  expect(rig.slots().leaves).toBe(0);
  rig.check();
});

test('K-24: a modern fault samples, looks, checks under mmu_lock, installs, and lets go of its reference last', () => {
  const rig = new KvmRig();
  rig.write(GFN + 1); // the stores are full
  let pfn = 0;
  const seen = watch(
    rig,
    'F',
    () => {
      pfn = rig.write(GFN);
    },
    () => held(rig, 'mmuLock'),
  );
  const [no, yes] = [false, true];
  expect(Object.entries(seen)).toEqual([
    ['F.enter', no],
    ['F.slot', no],
    ['F.s', no],
    ['F.p', no],
    ['F.L', yes],
    ['F.c', yes],
    ['F.i', yes],
    ['F.U', no],
    ['F.r', no],
  ]);
  expect(rig.core.pages.refcount(pfn)).toBe(1);
  rig.check();
});

test('K-27: the reference of the lookup is held from there to after the installation, and then dropped', () => {
  const rig = new KvmRig();
  const pfn = rig.write(GFN);
  rig.core.pages.put(rig.core.gup.fault(rig.mm, rig.vpn, true) & 0xffffff);
  rig.set({ pages: 0 });
  rig.set({ pages: 16 });
  const counts = watch(
    rig,
    'F',
    () => expect(rig.write(GFN)).toBe(pfn),
    () => rig.core.pages.refcount(pfn),
  );
  expect([counts['F.s'], counts['F.p'], counts['F.c'], counts['F.i'], counts['F.U'], counts['F.r']]).toEqual([
    1, 2, 2, 2, 2, 1,
  ]);
  rig.check();
});

test('K-16: a fault reads the slots from end to end, holds mmap for the lookup alone and mmu_lock for check and leaf', () => {
  const rig = new KvmRig(SEED);
  const seen = watch(
    rig,
    'F',
    () => rig.write(GFN),
    () => [
      readers(rig),
      rig.sync.lockdep!.holds('slots'),
      rig.sync.lockdep!.holds('mmap'),
      held(rig, 'mmuLock'),
    ],
  );
  for (const [label, [inside, slots, mmap, mmu]] of Object.entries(seen)) {
    expect([label, inside, slots, mmap, mmu]).toEqual([
      label,
      1,
      false,
      false,
      ['F.L', 'F.c', 'F.i'].includes(label),
    ]);
  }
  expect(readers(rig)).toBe(0);
});

test('K-35 B-6: a fault whose page is replaced between its lookup and its check installs the new frame', () => {
  for (const protocol of [Protocol.Modern, Protocol.SeqlockPin, Protocol.NonRange] as const) {
    const rig = new KvmRig({ protocol });
    const old = rig.write(GFN);
    rig.set({ pages: 0 });
    rig.set({ pages: 16 });
    let next = 0;
    rig.at = label => {
      if (label !== 'F.p') return;
      rig.at = () => {};
      rig.advise('dontneed', 0);
      next = rig.core.gup.fault(rig.mm, rig.vpn, true) & 0xffffff;
    };
    expect(rig.write(GFN)).toBe(next);
    expect([next === old, sptePfn(rig.leaf(GFN))]).toEqual([false, next]);
    expect(rig.kvm.layout.vm.pfRetried.load(rig.vm)).toBe(1);
    rig.core.pages.put(next);
    rig.check();
  }
});

test('K-26: the variant without ranges waits for an invalidation of any page; the modern one for its own', () => {
  for (const [protocol, page, waits] of [
    [Protocol.NonRange, 9, true],
    [Protocol.Modern, 9, false],
    [Protocol.Modern, 0, true],
  ] as const) {
    const rig = new KvmRig({ protocol });
    const range = [rig.vm, rig.mm, rig.vpn + page, rig.vpn + page + 1, NotifyEvent.Clear] as const;
    rig.kvm.modern.invalidateRangeStart!(...range, NotifyFlag.Blockable);
    // To wait is an assertion where there is nobody to wait for.
    if (waits) expect(() => rig.write(GFN)).toThrow('one-worker mode');
    else expect(rig.write(GFN)).toBeGreaterThan(0);
    expect(rig.kvm.layout.vm.pfRetried.load(rig.vm)).toBe(waits ? 1 : 0);
    rig.kvm.modern.invalidateRangeEnd!(...range);
    expect(rig.write(GFN)).toBeGreaterThan(0);
    rig.check();
  }
});

test('K-10: invalidate_page zaps while the sequence is odd, under mmu_lock, and leaves it even and moved on', () => {
  const rig = new KvmRig(SEED);
  rig.write(GFN);
  const { invSeq } = rig.kvm.layout.vm;
  const seen = watch(
    rig,
    'I',
    () => rig.kvm.seqlock.invalidatePage!(rig.vm, rig.mm, rig.vpn),
    () => [invSeq.load(rig.vm), held(rig, 'mmuLock'), rig.leaf(GFN) !== 0],
  );
  expect(Object.entries(seen)).toEqual([
    ['I.b', [1, false, true]],
    ['I.l', [1, true, true]],
    ['I.z', [1, true, false]],
    ['I.f', [1, true, false]],
    ['I.u', [1, false, false]],
    ['I.e', [2, false, false]],
    ['I.x', [2, false, false]],
  ]);
});

test('K-18: invalidate_page drops the leaf and its reference though the pte is what it was', () => {
  const rig = new KvmRig(SEED);
  const pfn = rig.write(GFN);
  expect(rig.core.pages.refcount(pfn)).toBe(2);
  rig.kvm.seqlock.invalidatePage!(rig.vm, rig.mm, rig.vpn);
  expect([rig.leaf(GFN), rig.core.pages.refcount(pfn)]).toEqual([0, 1]);
  expect(rig.write(GFN)).toBe(pfn);
  rig.check();
});

// B-13
test('K-11: the end of a range leaves what single pages would, with one hold of the lock', () => {
  const run = (invalidate: (rig: KvmRig) => void) => {
    const rig = new KvmRig(SEED);
    const pfns = [0, 1, 2, 3, 4].map(page => rig.write(GFN + page));
    let holds = 0;
    rig.at = label => {
      if (label === 'I.l') holds++;
    };
    invalidate(rig);
    rig.check();
    const refs = pfns.map(pfn => rig.core.pages.refcount(pfn));
    return { state: { present: rig.present(), slots: rig.slots(), refs }, holds };
  };
  const { seqlock } = new KvmRig(SEED).kvm;
  expect(seqlock.pins).toBe(true);
  const range = run(rig =>
    rig.kvm.seqlock.invalidateRangeEnd!(rig.vm, rig.mm, rig.vpn + 1, rig.vpn + 4, NotifyEvent.Clear),
  );
  const single = run(rig => {
    for (let page = 1; page < 4; page++) rig.kvm.seqlock.invalidatePage!(rig.vm, rig.mm, rig.vpn + page);
  });
  expect(range.state).toEqual(single.state);
  expect(range.state).toMatchObject({ present: [GFN, GFN + 4], refs: [2, 1, 1, 1, 2] });
  expect([range.holds, single.holds]).toEqual([1, 3]);
});

test('K-22: an end moves the sequence before it counts itself out, and wakes who waits to publish', () => {
  const rig = new KvmRig();
  const { vm: v } = rig.kvm.layout;
  const args = [rig.vm, rig.mm, rig.vpn, rig.vpn + 2, NotifyEvent.Clear] as const;
  rig.kvm.modern.invalidateRangeStart!(...args, NotifyFlag.Blockable);
  const seen = watch(
    rig,
    'E',
    () => rig.kvm.modern.invalidateRangeEnd!(...args),
    () => [v.seq.load(rig.vm), v.inProgress.load(rig.vm), v.mnActive.load(rig.vm), held(rig, 'mmuLock')],
  );
  expect(Object.entries(seen)).toEqual([
    ['E.l', [0, 1, 1, true]],
    ['E.q', [1, 1, 1, true]],
    ['E.d', [1, 0, 1, true]],
    ['E.u', [1, 0, 1, false]],
    ['E.a', [1, 0, 0, false]],
  ]);
  expect(() => rig.kvm.modern.invalidateRangeEnd!(...args)).toThrow('K-22');
});

test('B-8: an unmapping has flushed before it lets go of mmu_lock', () => {
  for (const [protocol, letters] of [
    [Protocol.Modern, 'S'],
    [Protocol.SeqlockPin, 'I'],
  ] as const) {
    const rig = new KvmRig({ protocol });
    rig.write(GFN);
    const flushes = () => rig.kvm.layout.vm.remoteTlbFlush.load(rig.vm);
    const before = flushes();
    const seen = watch(
      rig,
      letters,
      () => rig.advise('dontneed', 0),
      () => [flushes() - before, held(rig, 'mmuLock')],
    );
    expect([seen[`${letters}.z`], seen[`${letters}.f`]]).toEqual([
      [0, true],
      [1, true],
    ]);
  }
});

test('K-50: clear_flush_young clears and flushes, clear_young clears, test_young changes nothing; a no flushes nothing', () => {
  const rig = new KvmRig();
  const { modern, layout } = rig.kvm;
  const range = [rig.vm, rig.mm, rig.vpn, rig.vpn + 4] as const;
  const state = () => ({
    young: [0, 1].map(page => (rig.leaf(GFN + page) & Spte.Accessed) !== 0),
    flushes: layout.vm.remoteTlbFlush.load(rig.vm),
  });
  const use = () => [rig.write(GFN), rig.write(GFN + 1)];
  use();
  expect(modern.testYoung!(rig.vm, rig.mm, rig.vpn + 1)).toBe(true);
  expect(state()).toEqual({ young: [true, true], flushes: 0 });
  expect(modern.clearYoung!(...range)).toBe(true);
  expect(state()).toEqual({ young: [false, false], flushes: 0 });
  expect([modern.clearYoung!(...range), modern.clearFlushYoung!(...range)]).toEqual([false, false]);
  expect(modern.testYoung!(rig.vm, rig.mm, rig.vpn)).toBe(false);
  expect(state()).toEqual({ young: [false, false], flushes: 0 });
  use();
  expect(modern.clearFlushYoung!(...range)).toBe(true);
  expect(state()).toEqual({ young: [false, false], flushes: 1 });
  rig.check();
});

test('T-AGE-12 M-11: no table lock is taken under mmu_lock; a fault that brings a page in there fails', () => {
  const run = (breaks: { gupUnderLock?: true }) => {
    const rig = new KvmRig({ breaks });
    rig.write(GFN);
    rig.advise('pageout', 0);
    rig.write(GFN);
    rig.check();
  };
  run({});
  expect(() => run({ gupUnderLock: true })).toThrow('lock order');
});

test('T-AGE-08 K-13: without accessed bits ageing unmaps, says yes if anything was mapped, and the guest faults again; else it stays young', () => {
  const run = (protocol: 0 | 1, breaks: Partial<KvmBreaks>) => {
    const rig = new KvmRig({ protocol, breaks });
    rig.kvm.layout.vm.noAccessed.set(rig.vm, 1);
    const pfn = rig.write(GFN);
    const refs = rig.core.pages.refcount(pfn);
    rig.core.pages.clear(pfn, PageFlag.Dirty);
    const age = () => rig.kvm.age(rig.vm, rig.vpn, rig.vpn + 4, true, true);
    const answers = [rig.kvm.age(rig.vm, rig.vpn, rig.vpn + 4, false, false), age(), age()];
    const left = { present: rig.present(), dirty: rig.core.pages.has(pfn, PageFlag.Dirty) };
    const dropped = refs - rig.core.pages.refcount(pfn);
    expect(rig.write(GFN)).toBe(pfn);
    rig.check();
    return { answers, ...left, dropped };
  };
  const unmapped = { answers: [true, true, false], present: [], dirty: true };
  expect(run(Protocol.Modern, {})).toEqual({ ...unmapped, dropped: 0 });
  expect(run(Protocol.SeqlockPin, {})).toEqual({ ...unmapped, dropped: 1 });
  expect(run(Protocol.Modern, { ageKeepsLeaves: true }).answers).toEqual([true, true, true]);
});

test('K-24 (8): what the mm has beside a fault is mapped with it, unused and within the slot, if the VM asks for it', () => {
  const run = (prefetch: number) => {
    const rig = new KvmRig({ pages: 0 });
    rig.set({ gfn: GFN + 2, page: 2, pages: 4 });
    for (const page of [1, 2, 3, 5, 6]) rig.core.access.write32(rig.mm, (rig.vpn + page) * PAGE_SIZE, page);
    rig.core.access.read32(rig.mm, (rig.vpn + 4) * PAGE_SIZE); // the zero page is left alone
    rig.kvm.layout.vm.prefetch.set(rig.vm, prefetch);
    rig.read(GFN + 3);
    rig.check();
    expect([rig.leaf(GFN + 2) & Spte.Accessed, rig.leaf(GFN + 5) & Spte.Accessed]).toEqual([0, 0]);
    const found = rig.present();
    rig.advise('dontneed', 2, 4);
    rig.check();
    return found;
  };
  expect(run(0)).toEqual([GFN + 3]);
  expect(run(4)).toEqual([GFN + 2, GFN + 3]);
  expect(run(8)).toEqual([GFN + 2, GFN + 3, GFN + 5]);
});
