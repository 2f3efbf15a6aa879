import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import type { AnyCase, Event } from '../case.ts';
import { checkRetries } from '../retries.ts';
import { GFN, type World } from '../world.ts';
import {
  ALL,
  base,
  COUNTED,
  checkFaults,
  cleanPage,
  fourPages,
  type Setup,
  type WorldCase,
} from './faults.ts';

// T-FIR: what several invalidations at once do to a fault.

/** Two invalidations overlap in time, one of the guest's page and one of another. */
// K-21: one hull, until all have ended.
const overlap: WorldCase = {
  ...base,
  name: 'T-FIR-11',
  heavy: true,
  title: 'the page is swapped out while another is discarded, and then a third: the hull (T-FIR-11, -12)',
  profiles: COUNTED,
  setup: fourPages,
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
    discard(world, { guest }) {
      world.discard(guest, 1);
      world.discard(guest, 3);
    },
  },
  reach: profile => ({
    'T-FIR-11': 'reclaim:S.u < discard:S.l, reclaim:E.u < F.c < discard:E.l',
    ...(profile === 'modern' ? { 'T-FIR-12': 'reclaim:E.u < discard:S.l < F.s, F.i < discard:E.l' } : {}),
  }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const ranges = {
      reclaim: [[GFN, GFN + 1]],
      discard: [
        [GFN + 1, GFN + 2],
        [GFN + 3, GFN + 4],
      ],
    } as const;
    checkRetries(trace, 'vcpu', GFN, ranges, world.profile);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    {
      name: 'the hull is never reset (T-FIR-12)',
      breaks: { kvm: { staleHull: true } },
      profiles: ['modern'],
    },
    { name: 'a flag instead of a counter (T-FIR-13)', breaks: { kvm: { inProgressFlag: true } } },
  ],
};

/** The same page, begun twice. */
// N-13: a count, not a flag.
const nested: WorldCase = {
  ...base,
  name: 'T-FIR-13',
  heavy: true,
  title: 'two discards of one page, nested or overlapping, against a fault',
  profiles: COUNTED,
  setup: fourPages,
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    discard: (world, { guest }) => world.discard(guest, 0),
    other: (world, { guest }) => world.discard(guest, 0),
  },
  reach: { 'T-FIR-13': 'discard:S.u < other:S.u < discard:E.u < F.s < F.c < other:E.l' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const range = [[GFN, GFN + 1]] as const;
    checkRetries(trace, 'vcpu', GFN, { discard: range, other: range }, world.profile);
  },
  mutants: [{ name: 'a flag instead of a counter (T-FIR-13)', breaks: { kvm: { inProgressFlag: true } } }],
};

/** Memory of the mm that no slot shows to the guest. */
// K-20: no slot, no lock.
const unseen: WorldCase = {
  ...base,
  name: 'T-FIR-14',
  title: 'memory that no slot backs is discarded: the VM is left alone',
  profiles: COUNTED,
  setup(world) {
    const setup = fourPages(world);
    const { guest } = setup;
    const vpn = world.mm.mmap.map(guest.mm, PAGE_SIZE) / PAGE_SIZE;
    world.hostStore(guest.mm, vpn, 5);
    world.settle();
    return { ...setup, flag: vpn };
  },
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    discard(world, { guest, flag: vpn }) {
      world.discard({ ...guest, vpn }, 0);
    },
  },
  reach: { 'T-FIR-14': 'F.s < discard:S.a < discard:S.u < F.c' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    checkRetries(trace, 'vcpu', GFN, {}, world.profile);
    assert(!trace.some(e => e.label === 'S.l' || e.label === 'E.l'), 'T-FIR-14: mmu_lock was taken');
    assert(world.kvm.layout.vm.seq.load(guest.vm) === 0, 'T-FIR-14: the sequence moved');
  },
  mutants: [{ name: 'counted all the same', breaks: { kvm: { countUnseen: true } } }],
};

/** A present leaf that lacks its use bits: set without a lock, against a zap. */
// K-29
const fastPath: WorldCase = {
  ...base,
  name: 'T-FIR-20',
  title: 'use bits are set on a present leaf while it is zapped and its page replaced (also T-FIR-21)',
  profiles: ['seed08', 'modern', 'nonrange'],
  setup(world) {
    const setup = cleanPage(world);
    world.touch(setup.guest, GFN, 0);
    world.age(setup.guest, 0);
    world.settle();
    return setup;
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 42, 'OR-2: the guest does not see its own write');
      });
    },
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: profile =>
    profile === 'seed08' ? { 'hit, then zapped': 'F.t < I.z' } : { 'hit, then zapped': 'F.t < S.z' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    { name: 'use bits by OR (mm-figures B.2)', breaks: { kvm: { accessedBitOr: true } } },
    { name: 'the dirty bit is dropped (K-7)', breaks: { kvm: { dropDirty: true } } },
    { name: 'flush without waiting', breaks: { kvm: { flushWithoutAck: true } } },
  ],
};

/** Who sampled before the roots became obsolete does not install (K-24 (7)). */
function checkObsolete(trace: readonly Event[]): void {
  let obsolete = false;
  for (const [i, { actor, label }] of trace.entries()) {
    if (label === 'Z.l') obsolete = true;
    if (actor === 'vcpu' && label === 'F.s') obsolete = false;
    if (actor !== 'vcpu' || label !== 'F.c' || !obsolete) continue;
    const next = trace.slice(i + 1).find(e => e.actor === 'vcpu' && e.label.startsWith('F.'));
    assert(next?.label !== 'F.i', 'K-34: a leaf was installed by the sequence of an obsolete root');
  }
}

/** Everything is zapped by generation under a fault. */
// K-34
const obsoleteRoot: WorldCase = {
  ...base,
  name: 'T-FIR-19',
  title: 'all roots become obsolete under a fault: it begins again with the new one',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    world.touch(setup.guest, GFN + 1, 1);
    world.settle();
    return setup;
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 42 && vcpu.load(GFN + 1) === 43, 'OR-2: the guest reads another page');
      });
    },
    zap: (world, { guest }) => assert(world.kvm.zapAll(guest.vm), 'K-34: no frame for new roots'),
  },
  reach: {
    'T-FIR-19': 'F.p < Z.l < Z.u < F.c',
    'installed in the old one': 'F.U < Z.l',
    'beside the zap': 'Z.u < F.i < Z.leaves',
  },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    checkObsolete(trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [{ name: 'faults are not told (K-34)', breaks: { kvm: { zapAllQuietly: true } } }],
};

/** The slot begins at the first guest frames, whose entries a poisoned frame is looked at in. */
function agedLeaf(world: World): Setup {
  const setup = fourPages(world);
  const { guest } = setup;
  world.setSlot(guest.vm, 1, 0, guest.vpn, 4);
  world.touch(guest, 0, 0);
  world.age(guest, 0);
  world.settle();
  return setup;
}

/** A walker without a lock has the address of a leaf in hand while its table goes. */
const freedTable: WorldCase = {
  ...base,
  name: 'T-RMAP-04',
  title: 'the tables are freed while a vCPU that took no lock is about to mark a leaf in one as used',
  profiles: ALL,
  setup: agedLeaf,
  actors: {
    vcpu: (world, { guest }) =>
      void world.vcpu(guest).run(vcpu => assert(vcpu.load(0) === 41, 'OR-2: the guest reads another page')),
    zap: (world, { guest }) => assert(world.kvm.zapAll(guest.vm), 'K-34: no frame for new roots'),
  },
  reach: { 'T-RMAP-04': 'F.use < Z.u < F.t', 'and it waits': 'F.use < Z.leaves < zap:sleep < Z.x' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'freed at once (OR-1)', breaks: { kvm: { freeTablesAtOnce: true } } }],
};

export const cases: readonly AnyCase[] = [obsoleteRoot, freedTable, overlap, nested, unseen, fastPath];
