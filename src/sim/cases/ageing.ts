import { assert } from '../../base/assert.ts';
import { Spte } from '../../kvm/layout.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type Guest, type World } from '../world.ts';
import { ALL, base, COUNTED, checkFaults, cleanPage, fourPages, type WorldCase } from './faults.ts';

// T-AGE: reclaim asks whether a page was used, while the guest uses it.

const leafOf = (world: World, guest: Guest, gfn: number, space = 0): number => {
  const leaf = world.kvm.mmu.walk(guest.vm, space, gfn);
  return leaf === 0 ? 0 : (world.sync.words[leaf] as number);
};

const inFlight: WorldCase = {
  ...base,
  name: 'T-AGE-03',
  title: 'the page is aged during the fault on it: no retry, and the leaf is young (also T-AGE-11)',
  profiles: ALL,
  setup: fourPages,
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    reclaim: (world, { guest }) => void world.age(guest, 0),
  },
  reach: { 'T-AGE-03': 'F.p < A.l < A.u < F.L' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.kvm.layout.vm.pfRetried.load(guest.vm) === 0, 'K-54: a fault retried because of ageing');
    assert(world.kvm.layout.vm.seq.load(guest.vm) === 0, 'K-54: ageing moved the sequence');
    const last = trace.findLast(e => e.label === 'F.i' || e.label === 'A.z');
    const young = (leafOf(world, guest, GFN) & Spte.Accessed) !== 0;
    if (last?.label === 'F.i') assert(young, 'T-AGE-03: the leaf is not young');
    assert((leafOf(world, guest, GFN) & Spte.Dirty) !== 0, 'K-52: ageing took the dirty bit');
  },
  mutants: [{ name: 'ageing counts as an invalidation', breaks: { kvm: { ageMovesSequence: true } } }],
};

/** Clean, in the swap cache, mapped writable and young: only the leaf's dirty bit will tell of the write. */
function cleanInSwapCache(world: World) {
  const setup = cleanPage(world);
  world.touch(setup.guest, GFN, 0);
  world.settle();
  return setup;
}

// K-13
const dirtyBit: WorldCase = {
  ...base,
  name: 'T-AGE-04',
  title: 'a write sets the dirty bit of a leaf that is being aged; then the page is swapped out',
  profiles: ALL,
  setup: cleanInSwapCache,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => vcpu.increment(GFN));
    },
    reclaim(world, { guest }) {
      world.age(guest, 0);
      world.swapOut(guest, 0);
    },
  },
  reach: { 'T-AGE-04': 'A.l < F.t < A.z' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'T-AGE-04: the write of the guest is lost');
  },
  mutants: [
    { name: 'cleared by a plain store (B-7)', breaks: { kvm: { agePlainStore: true } } },
    { name: 'the dirty bit is dropped (K-7)', breaks: { kvm: { dropDirty: true } } },
  ],
};

/** Whoever zaps first hands the young bit to the page. */
const againstZap: WorldCase = {
  ...base,
  name: 'T-AGE-05',
  title: 'the page is aged while it is discarded, and while it is swapped out',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    world.touch(setup.guest, GFN, 1);
    world.touch(setup.guest, GFN + 1, 1);
    world.settle();
    return setup;
  },
  actors: {
    age(world, { guest }) {
      world.age(guest, 0);
      world.age(guest, 1);
    },
    zap(world, { guest }) {
      world.discard(guest, 0);
      world.swapOut(guest, 1);
    },
  },
  reach: profile => (profile === 'seed08' ? { 'T-AGE-05': 'M.k < A.p' } : { 'T-AGE-05': 'A.p < S.l < A.l' }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn + 1) === 43, 'OR-2: a page lost its content');
  },
  mutants: [{ name: 'skip the zap', breaks: { kvm: { skipZap: true } } }],
};

/** Leaves of two slots and two address spaces over one page, all young. */
const manyLeaves: WorldCase = {
  ...base,
  name: 'T-AGE-06',
  title: 'a page with leaves in two slots and two spaces is aged: all are cleared, the answer is one yes',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    const { guest } = setup;
    world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2);
    world.setSlot(guest.vm, 2, GFN, guest.vpn, 2, 1);
    world.touch(guest, GFN, 0);
    world.touch(guest, GFN + 16, 0);
    world.touch(guest, GFN, 0, 1);
    world.settle();
    return setup;
  },
  actors: {
    reclaim(world, { guest }) {
      assert(world.age(guest, 0), 'T-AGE-06: a used page counts as unused');
      assert(!world.age(guest, 0), 'T-AGE-06: some leaf stayed young');
    },
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.load(GFN + 1)),
  },
  reach: { 'beside a fault': 'F.p < A.l < F.i' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const leaves = [leafOf(world, guest, GFN), leafOf(world, guest, GFN + 16), leafOf(world, guest, GFN, 1)];
    for (const leaf of leaves) assert((leaf & Spte.Present) !== 0, 'K-52: ageing removed a leaf');
    for (const leaf of leaves) assert((leaf & Spte.Accessed) === 0, 'T-AGE-06: some leaf stayed young');
  },
  mutants: [{ name: 'stop at the first young leaf', breaks: { kvm: { ageShortCircuit: true } } }],
};

/** Two VMs over one mm: both know the page. */
const twoVms: WorldCase = {
  ...base,
  name: 'T-AGE-07',
  title: 'two VMs share the mm: both are asked, both are cleared',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    const { guest } = setup;
    const other = world.createGuest({ pages: 4, vcpus: 1, mm: guest.mm, vpn: guest.vpn });
    world.touch(guest, GFN, 0);
    world.touch(other, GFN, 0);
    world.settle();
    return { guest: { ...guest, others: [other] }, flag: 0 };
  },
  actors: {
    reclaim(world, { guest }) {
      assert(world.age(guest, 0), 'T-AGE-07: a used page counts as unused');
      assert(!world.age(guest, 0), 'N-3: a subscriber was not asked');
    },
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.load(GFN + 1)),
  },
  reach: { 'beside a fault': 'F.p < A.l < F.i' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'ask only when the pte was old', breaks: { mm: { ageShortCircuit: true } } }],
};

/** A page that only the guest uses survives a pass; left alone, it goes. */
// C-4
const pass: WorldCase = {
  ...base,
  name: 'T-AGE-01',
  title:
    'a reclaim pass keeps what the guest used since the last one, and takes it when it did not (also -02)',
  profiles: ALL,
  setup: fourPages,
  actors: {
    scenario(world, { guest }) {
      world.vcpu(guest).run(vcpu => vcpu.increment(GFN));
      assert(world.age(guest, 0), 'T-AGE-01: the page was used');
      assert(!world.age(guest, 0), 'T-AGE-02: nobody used it since');
      world.vcpu(guest).run(vcpu => vcpu.load(GFN));
      assert(world.age(guest, 0), 'T-AGE-01: the secondary alone knows of the use');
      world.swapOut(guest, 0);
      world.vcpu(guest).run(vcpu => assert(vcpu.load(GFN) === 42, 'OR-2: the page lost its content'));
    },
    other: (world, { guest }) => void world.age(guest, 1),
  },
  reach: { 'young by the guest': 'F.i < A.l' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'skip the zap', breaks: { kvm: { skipZap: true } } }],
};

/** Spins, letting others run, until the word has the value. */
function until(world: World, word: number, value: number, meanwhile: () => void = () => {}): void {
  while (Atomics.load(world.sync.words, word) !== value) {
    world.sync.y('W.spin');
    meanwhile();
  }
}

/** The page is hot: the vCPU never misses, so its leaf's accessed bit is set by a refill alone. */
const hot: WorldCase = {
  ...base,
  name: 'T-AGE-09',
  title: 'a page hot in the TLB looks used again after an ageing pass has ended (K-51, design 11)',
  profiles: ALL,
  setup: fourPages,
  actors: {
    vcpu(world, { guest, flag }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.load(GFN);
        Atomics.store(world.sync.words, flag, 1);
        until(world, flag, 2, () => vcpu.stopPoint());
        vcpu.stopPoint();
        vcpu.load(GFN);
        Atomics.store(world.sync.words, flag, 3);
      });
    },
    reclaim(world, { guest, flag }) {
      until(world, flag, 1);
      world.age(guest, 0);
      world.mm.notifiers.ageingPassEnd(guest.mm);
      Atomics.store(world.sync.words, flag, 2);
      until(world, flag, 3);
      assert(world.age(guest, 0), 'K-51: a page in use looks unused');
    },
  },
  reach: { 'T-AGE-09': 'F.t < A.z < F.f' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [
    { name: 'the pass ends without a bump', breaks: { kvm: { noAgeingBump: true } }, profiles: COUNTED },
  ],
};

export const cases: readonly AnyCase[] = [inFlight, dirtyBit, againstZap, manyLeaves, twoVms, pass, hot];
