import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type World } from '../world.ts';
import { ALL, base, COUNTED, checkFaults, fourPages, type Setup, type WorldCase } from './faults.ts';

// T-COW: pages that fork shares.

/** A forked child over the same pages. */
function forked(world: World): Setup {
  const setup = fourPages(world);
  const child = world.mm.fork(setup.guest.mm);
  world.settle();
  return { ...setup, flag: child };
}

const isolation: WorldCase = {
  ...base,
  name: 'T-COW-02',
  heavy: true,
  title: 'the guest writes a forked page while the child reads it, and the page is swapped out',
  profiles: ALL,
  setup: forked,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 42, 'OR-2: the guest does not see its own write');
      });
    },
    child(world, { guest, flag: child }) {
      const read = world.hostLoad(child as Setup['guest']['mm'], guest.vpn);
      world.sync.y('W.read');
      assert(read === 41, 'T-COW-02: the child sees the write of its parent');
    },
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: { 'read after the write': 'F.a < W.read' },
  oracle(world, { guest, flag: child }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
    const read = world.hostLoad(child as Setup['guest']['mm'], guest.vpn);
    assert(read === 41, 'T-COW-02: the child sees the write of its parent');
  },
  mutants: [{ name: 'skip the zap', breaks: { kvm: { skipZap: true } } }],
};

/** Fork write-protects under a guest that has a writable leaf. */
const duringFork: WorldCase = {
  ...base,
  name: 'T-COW-fork',
  title:
    'the mm is forked while the guest writes a page that it has a writable leaf of: T-FRK-03, T-FRK-04 (N-25)',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    world.touch(setup.guest, GFN, 1);
    world.settle();
    return setup;
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.store(GFN, 50);
        vcpu.stopPoint();
        vcpu.store(GFN, 51);
      });
    },
    fork(world, { guest, flag }) {
      const child = world.mm.fork(guest.mm);
      Atomics.store(world.sync.words, flag, world.hostLoad(child, guest.vpn));
      world.sync.y('W.read');
      const again = world.hostLoad(child, guest.vpn);
      assert(again === Atomics.load(world.sync.words, flag), 'T-COW-02: the child sees a later write');
    },
  },
  reach: { 'write before fork': 'F.a < M.0', 'write after fork': 'W.read < F.c' },
  oracle(world, { guest, flag }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 51, 'OR-2: a write of the guest is lost');
    assert([41, 50, 51].includes(world.sync.words[flag]!), 'OR-2: the child reads what nobody wrote');
  },
  mutants: [
    { name: 'fork leaves the ptes writable', breaks: { mm: { forkKeepsWritable: true } } },
    // Under seed08 the reference of a leaf that stays makes fork copy the page at once.
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } }, profiles: COUNTED },
  ],
};

/** A page that mprotect made read-only for a while is written: in place, and the secondaries hear nothing. */
const inPlace: WorldCase = {
  ...base,
  name: 'T-COW-03',
  title: 'a write makes a read-only page that is exclusive writable in place',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    const { guest } = setup;
    const at = guest.vpn * PAGE_SIZE;
    world.mm.mmap.protect(guest.mm, at, PAGE_SIZE, { read: true });
    world.mm.mmap.protect(guest.mm, at, PAGE_SIZE, { read: true, write: true });
    world.touch(guest, GFN, 0);
    world.settle();
    return setup;
  },
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    age: (world, { guest }) => void world.age(guest, 0),
  },
  reach: { 'aged meanwhile': 'F.s < A.l < F.L' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
    const attempts = trace.filter(e => e.label === 'F.slot').length;
    assert(attempts === 1, 'T-COW-03: the write took more than one fault');
    assert(!trace.some(e => e.label === 'S.a' || e.label === 'I.b'), 'T-COW-03: somebody was notified');
  },
  mutants: [],
};

export const cases: readonly AnyCase[] = [isolation, duringFork, inPlace];
