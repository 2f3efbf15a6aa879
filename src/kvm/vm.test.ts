import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { Access, Request } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import { frameWord, Root } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { MAX_VCPUS, Protocol, Spte } from './layout.ts';
import { GFN, KvmRig } from './testing.ts';

const PROTOCOLS = [
  ['modern', Protocol.Modern],
  ['seed08', Protocol.SeqlockPin],
  ['nonrange', Protocol.NonRange],
] as const;

/** What a VM does in its life: slots, faults of all kinds, pages taken away. */
function live(rig: KvmRig, vm: Ptr<'vm'>): void {
  const set = (slot: number, gfn: number, pages: number) =>
    rig.kvm.memslots.set(vm, {
      ...{ slot, guestAddress: gfn * PAGE_SIZE, lengthBytes: pages * PAGE_SIZE },
      hostAddress: rig.vpn * PAGE_SIZE,
    });
  set(0, GFN, 16);
  set(1, GFN + 1024, 16);
  for (let i = 0; i < 16; i++) {
    expect(rig.kvm.fault.resolve(vm, 0, GFN + i, i % 2 === 0 ? Access.Write : Access.Read)).toBeGreaterThan(
      0,
    );
    expect(rig.kvm.fault.resolve(vm, 0, GFN + 1024 + i, Access.Exec)).toBeGreaterThan(0);
  }
}

test.each(PROTOCOLS)(
  'a VM that was created, lived and was destroyed leaves nothing behind (%s)',
  (_name, protocol) => {
    const rig = new KvmRig({ protocol });
    live(rig, rig.vm); // the mm's own tables and pages stay
    rig.vms.destroy(rig.vms.create({ mm: rig.mm, protocol })); // and its records of subscriptions
    const before = rig.usage();
    for (let round = 0; round < 3; round++) {
      const vm = rig.vms.create({ mm: rig.mm, protocol });
      live(rig, vm);
      rig.vms.destroy(vm);
    }
    expect(rig.usage()).toEqual(before);
    rig.check();
  },
);

test('VMs are in the list from creation to destruction, whichever of them goes', () => {
  const rig = new KvmRig();
  const list = () => {
    const found: number[] = [];
    const { next } = rig.kvm.layout.vm;
    for (let vm = rig.sync.arena.root(Root.vmList) as Ptr<'vm'>; vm !== 0; vm = next.get(vm)) found.push(vm);
    return found;
  };
  const [a, b, c] = [0, 1, 2].map(() => rig.vms.create({ mm: rig.mm })) as [Ptr<'vm'>, Ptr<'vm'>, Ptr<'vm'>];
  expect(list()).toEqual([c, b, a, rig.vm]);
  rig.vms.destroy(b);
  rig.vms.destroy(c);
  rig.vms.destroy(rig.vm);
  expect(list()).toEqual([a]);
  rig.vms.destroy(a);
  expect(list()).toEqual([]);
});

// K-2
test('a creation that runs out of words or frames is ENOMEM and leaves nothing behind', () => {
  const rig = new KvmRig();
  rig.vms.destroy(rig.vms.create({ mm: rig.mm }));
  const before = { usage: rig.usage(), list: rig.sync.arena.root(Root.vmList) };
  const attempt = () => rig.vms.create({ mm: rig.mm });
  for (let n = 0; n < 2; n++) {
    rig.allocations = n;
    expect(attempt).toThrow('ENOMEM');
  }
  rig.allocations = Number.POSITIVE_INFINITY;
  for (let n = 0; n < 2; n++) {
    rig.core.pageAlloc.failAt(n + 1);
    expect(attempt).toThrow('ENOMEM');
    expect(rig.core.pageAlloc.failuresLeft).toBe(0);
  }
  expect({ usage: rig.usage(), list: rig.sync.arena.root(Root.vmList) }).toEqual(before);
});

// K-2
test('destroying a VM stops its vCPUs and ends its subscription', () => {
  const rig = new KvmRig();
  const vm = rig.vms.create({ mm: rig.mm });
  const vcpu = rig.addVcpu(vm);
  rig.vms.destroy(vm);
  expect((rig.sync.words[vcpu + AT.requests] as number) & Request.Stop).not.toBe(0);
  rig.write(GFN);
  rig.advise('dontneed', 0); // tells the VM that is left, and nobody else
  expect(rig.leaf(GFN)).toBe(0);
  rig.check();
});

test('a VM takes as many vCPUs as there is room for, and no more', () => {
  const rig = new KvmRig();
  for (let i = 0; i < MAX_VCPUS; i++) rig.addVcpu();
  expect(() => rig.addVcpu()).toThrow('EINVAL');
  expect(rig.kvm.layout.vm.vcpuCount.load(rig.vm)).toBe(MAX_VCPUS);
});

test.each(PROTOCOLS)('an mm that exits under a living VM takes its leaves along (%s)', (_name, protocol) => {
  const rig = new KvmRig({ protocol });
  for (let gfn = GFN; gfn < GFN + 16; gfn++) rig.write(gfn);
  rig.core.exit(rig.mm);
  expect(rig.present()).toEqual([]);
  expect(rig.write(GFN)).toBeLessThan(0);
  rig.vms.destroy(rig.vm);
  rig.core.checkInvariants();
});

// K-5, K-28
test('a leaf is writable only if the primary is, and a write after a read makes it so', () => {
  const rig = new KvmRig();
  expect(rig.read(GFN)).toBe(rig.core.pages.zeroPage);
  expect(rig.leaf(GFN) & (Spte.Present | Spte.Write | Spte.Dirty)).toBe(Spte.Present);
  const pfn = rig.write(GFN);
  expect(pfn).not.toBe(rig.core.pages.zeroPage);
  expect(rig.leaf(GFN) & (Spte.Write | Spte.Dirty)).toBe(Spte.Write | Spte.Dirty);
  rig.check();
});

test.each(PROTOCOLS)(
  'bytes survive a random workload of faults, swap and memslots (%s)',
  (_name, protocol) => {
    const rig = new KvmRig({ protocol });
    const random = new Random(2008);
    const bytes = new Int32Array(16);
    const { words } = rig.sync;
    const steps = [
      (page: number) => {
        const value = random.below(1 << 30);
        words[frameWord(rig.write(GFN + page)) + 5] = value;
        bytes[page] = value;
      },
      (page: number) => expect(words[frameWord(rig.read(GFN + page)) + 5]).toBe(bytes[page]),
      (page: number) => rig.advise('pageout', page, Math.min(4, 16 - page)),
      (page: number) => {
        rig.advise('dontneed', page);
        bytes[page] = 0;
      },
      (page: number) => rig.set({ slot: 1, gfn: GFN + 64, page, pages: 1 }),
      () => rig.kvm.age(rig.vm, rig.vpn, rig.vpn + 16, true, true),
      () => rig.core.vmscan.reclaim(0 as Ptr<'memcg'>, 8),
    ];
    for (let i = 0; i < 600; i++) {
      (steps[random.below(steps.length)] as (page: number) => void)(random.below(16));
      rig.read(GFN + 64);
      if (rig.slots().list.length > 1) rig.set({ slot: 1, gfn: GFN + 64, pages: 0 });
      rig.check();
    }
    expect(rig.kvm.layout.vm.mmuShadowZapped.load(rig.vm)).toBeGreaterThan(50);
  },
);
