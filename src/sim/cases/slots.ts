import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { Spte } from '../../kvm/layout.ts';
import type { AnyCase, Event } from '../case.ts';
import { GFN, type World } from '../world.ts';
import { ALL, base, COUNTED, checkFaults, fourPages, type Setup, type WorldCase } from './faults.ts';

// T-SLOT: memslots change under faults and invalidations.

/** L-12: no set is published between a start and its end. */
function checkPublication(trace: readonly Event[]): void {
  let active = 0;
  for (const { label } of trace) {
    if (label === 'S.a') active++;
    if (label === 'E.a') active--;
    assert(!(label === 'G.pub' && active > 0), 'L-12: published between a start and its end');
  }
}

const waits: WorldCase = {
  ...base,
  name: 'T-SLOT-04',
  heavy: true,
  title: 'a slot is created while pages are discarded and swapped out (also T-SLOT-05, L-13)',
  profiles: COUNTED,
  setup: fourPages,
  actors: {
    updater: (world, { guest }) => world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2),
    discard: (world, { guest }) => world.discard(guest, 0),
    reclaim: (world, { guest }) => world.swapOut(guest, 1),
  },
  reach: {
    'T-SLOT-04': 'discard:S.a < G.w < discard:E.a < G.pub',
    'T-SLOT-05': 'discard:S.a < G.w < reclaim:S.a < discard:E.a < reclaim:E.a < G.pub',
  },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    checkPublication(trace);
  },
  mutants: [{ name: 'publish at once (L-12)', breaks: { kvm: { publishAtOnce: true } } }],
};

function twoSlots(world: World): Setup {
  const setup = fourPages(world);
  const { guest } = setup;
  world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2);
  world.touch(guest, GFN + 16, 0);
  world.settle();
  return setup;
}

/** A leaf of a slot that is gone. */
function assertNoLeaf(world: World, { guest }: Setup, gfn: number): void {
  const leaf = world.kvm.mmu.walk(guest.vm, 0, gfn);
  assert(leaf === 0 || (world.sync.words[leaf]! & Spte.Present) === 0, 'L-14: a leaf outlives its slot');
}

const remove: WorldCase = {
  ...base,
  name: 'T-SLOT-06',
  title: 'a slot is deleted under a fault through it',
  profiles: ALL,
  setup: twoSlots,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN + 17) === 43, 'OR-2: the guest reads another page');
      });
    },
    updater: (world, { guest }) => world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 0),
  },
  reach: { 'T-SLOT-06': 'F.slot < G.pub < F.i < G.zap' },
  oracle(world, setup, trace) {
    checkFaults(world, setup.guest, trace);
    assertNoLeaf(world, setup, GFN + 16);
    assertNoLeaf(world, setup, GFN + 17);
  },
  mutants: [{ name: 'the leaves stay (L-14)', breaks: { kvm: { deleteKeepsLeaves: true } } }],
};

// L-1: a set that notifiers and faults may see is never edited.
const move: WorldCase = {
  ...base,
  name: 'T-SLOT-08',
  title:
    'a slot moves while the guest faults at the old address; then the new one shows the same page (also T-SLOT-03)',
  profiles: ALL,
  setup: twoSlots,
  actors: {
    vcpu(world, { guest }) {
      const atOld = world.vcpu(guest).run(vcpu => {
        vcpu.store(GFN + 17, 44);
      });
      if (atOld) Atomics.store(world.sync.words, guest.vcpus[1]!, 1);
    },
    updater(world, { guest }) {
      world.setSlot(guest.vm, 1, GFN + 32, guest.vpn, 2);
      const found = world.vcpu(guest, 1).run(vcpu => {
        assert([43, 44].includes(vcpu.load(GFN + 33)), 'T-SLOT-08: the slot shows another page');
      });
      assert(found, 'T-SLOT-08: nothing at the new address');
    },
  },
  reach: { 'T-SLOT-08': 'F.slot < G.pub < F.i' },
  oracle(world, setup, trace) {
    checkFaults(world, setup.guest, trace);
    assertNoLeaf(world, setup, GFN + 16);
    assertNoLeaf(world, setup, GFN + 17);
  },
  mutants: [
    { name: 'the leaves stay (L-14)', breaks: { kvm: { deleteKeepsLeaves: true } } },
    { name: 'the record is edited where it is (T-SLOT-03)', breaks: { kvm: { editInPlace: true } } },
  ],
};

/** The id is used again, over other memory, while a fault through its first life is under way. */
const recreate: WorldCase = {
  ...base,
  name: 'T-SLOT-13',
  title: 'a slot is deleted and made anew over another page, under a fault',
  profiles: ALL,
  setup: twoSlots,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        const seen = vcpu.load(GFN + 17);
        assert(seen === 41 || seen === 43, 'OR-2: the guest reads another page');
      });
    },
    updater(world, { guest }) {
      world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 0);
      world.setSlot(guest.vm, 1, GFN + 17, guest.vpn, 1);
      world.vcpu(guest, 1).run(vcpu => {
        assert(vcpu.load(GFN + 17) === 41, 'T-SLOT-13: the guest reads the page of the old slot');
      });
    },
  },
  reach: { 'T-SLOT-13': 'vcpu:F.slot < G.pub < vcpu:F.c' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'the leaves stay (L-14)', breaks: { kvm: { deleteKeepsLeaves: true } } }],
};

/** A slot whose memory is mapped once it is there, while the guest reaches for it. */
// L-4
const kernelSlot: WorldCase = {
  ...base,
  name: 'T-SLOT-01',
  title: 'a kernel slot is made under a fault of it and an invalidation: skipped until it has its address',
  profiles: ALL,
  setup: fourPages,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => vcpu.store(GFN + 16, 7));
    },
    updater(world, { guest }) {
      const memory = { slot: 1, guestAddress: (GFN + 16) * PAGE_SIZE, lengthBytes: 2 * PAGE_SIZE };
      world.kvm.memslots.set(guest.vm, memory);
    },
    discard: (world, { guest }) => world.discard(guest, 0),
  },
  reach: profile =>
    profile === 'seed08'
      ? { 'T-SLOT-01': 'G.pub < I.l < G.map', 'a fault meanwhile': 'G.pub < vcpu:F.slot < G.map' }
      : { 'T-SLOT-01': 'G.pub < S.u < G.map', 'a fault meanwhile': 'G.pub < vcpu:F.slot < G.map' },
  oracle(world, setup, trace) {
    checkFaults(world, setup.guest, trace);
    const { slot } = world.kvm.layout;
    const { memslots } = world.kvm;
    const found = memslots.find(memslots.active(setup.guest.vm), 0, GFN + 16);
    const vpn = slot.vpn.get(found);
    assert(vpn !== 0, 'L-4: the slot has no address');
    world.discard({ ...setup.guest, vpn }, 0);
    assertNoLeaf(world, setup, GFN + 16);
  },
  mutants: [{ name: 'faults look behind address 0 (L-3)', breaks: { kvm: { faultThroughZero: true } } }],
};

/** What was remembered as MMIO is not believed once a slot is there. */
// K-6, L-16
const staleMmio: WorldCase = {
  ...base,
  name: 'T-SLOT-09',
  title: 'a slot is made where the guest has just found none: the remembered miss is of another generation',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    world.touch(setup.guest, GFN + 1, 0); // the table is there
    world.settle();
    return setup;
  },
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.load(GFN + 17)),
    updater(world, { guest }) {
      world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2);
      const found = world.vcpu(guest, 1).run(vcpu => {
        assert(vcpu.load(GFN + 17) === 43, 'T-SLOT-09: the slot shows another page');
      });
      assert(found, 'T-SLOT-09: the slot is not seen');
    },
  },
  reach: { 'remembered before': 'F.mmio < G.w', 'remembered while it comes': 'F.g < G.pub < F.mmio' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'a remembered miss is for ever (L-16)', breaks: { kvm: { staleMmio: true } } }],
};

/** T-SLOT-12: the table of errors, each with the state as before. */
const errors: WorldCase = {
  ...base,
  name: 'T-SLOT-12',
  title: 'the error table of L-11 leaves the set of slots as it was',
  profiles: ['modern'],
  setup: twoSlots,
  actors: {
    updater(world, { guest }) {
      const before = world.kvm.memslots.active(guest.vm);
      const at = guest.vpn * PAGE_SIZE;
      const good = { slot: 5, guestAddress: 64 * PAGE_SIZE, lengthBytes: PAGE_SIZE, hostAddress: at };
      const rows: [string, object][] = [
        ['EINVAL', { flags: 1 << 8 }],
        ['EINVAL', { lengthBytes: 100 }],
        ['EINVAL', { guestAddress: 1 }],
        ['EINVAL', { hostAddress: at + 1 }],
        ['EINVAL', { space: 2 }],
        ['EINVAL', { slot: 40000 }],
        ['EINVAL', { guestAddress: 2 ** 39 }],
        ['EINVAL', { lengthBytes: 0 }],
        ['EINVAL', { slot: 1, guestAddress: (GFN + 16) * PAGE_SIZE, lengthBytes: PAGE_SIZE }],
        ['EEXIST', { guestAddress: GFN * PAGE_SIZE }],
      ];
      for (const [code, change] of rows) {
        let thrown = 'nothing';
        try {
          world.kvm.memslots.set(guest.vm, { ...good, ...change });
        } catch (error) {
          thrown = (error as { code?: string }).code ?? String(error);
        }
        assert(thrown === code, `L-11: ${JSON.stringify(change)} gave ${thrown}`);
      }
      assert(world.kvm.memslots.active(guest.vm) === before, 'L-11: a refused change left a trace');
    },
  },
  reach: {},
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'slots may overlap', breaks: { kvm: { overlapUnchecked: true } } }],
};

export const cases: readonly AnyCase[] = [waits, remove, move, recreate, kernelSlot, staleMmio, errors];
