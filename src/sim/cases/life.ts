import { assert } from '../../base/assert.ts';
import { checkInvariants } from '../../mm/invariants.ts';
import { NotifyEvent } from '../../mm/mmu-notifier-ops.ts';
import type { AnyCase, Case, Event } from '../case.ts';
import { PROBE_WORDS, probeReport } from '../probe.ts';
import { GFN, type World, type WorldBreaks } from '../world.ts';
import { ALL, base, COUNTED, checkFaults, fourPages, type Setup } from './faults.ts';

// T-LIFE: subscribers come and go while the mm works. Rows that need user faults are not here.

type LifeSetup = Setup & { probe: number; notifier: number };
type LifeCase = Case<World, LifeSetup, WorldBreaks>;

/** A guest, and a probe that subscribes to its mm if told. */
function probed(subscribed: boolean): (world: World) => LifeSetup {
  return world => {
    const setup = fourPages(world);
    world.touch(setup.guest, GFN, 1);
    const probe = world.mm.heap.alloc(PROBE_WORDS);
    const { notifiers } = world.mm;
    const notifier = subscribed ? notifiers.register(setup.guest.mm, world.probeOps, probe) : 0;
    world.settle();
    return { ...setup, probe, notifier };
  };
}

/** N-18: after unregister has returned no callback runs. */
function checkSilence(trace: readonly Event[], callbacks: RegExp): void {
  const gone = trace.findIndex(e => e.label === 'L.gone');
  const late = trace.findIndex((e, i) => gone >= 0 && i > gone && callbacks.test(e.label));
  assert(late < 0, 'N-18: a callback after unregister');
}

const unregister: LifeCase = {
  ...base,
  name: 'T-LIFE-06',
  heavy: true,
  title: 'a subscriber leaves while its callbacks run: it waits, and hears no more',
  profiles: ALL,
  setup: probed(true),
  actors: {
    leave(world, { notifier }) {
      world.mm.notifiers.unregister(notifier);
      world.sync.y('L.gone');
    },
    discard: (world, { guest }) => world.discard(guest, 0),
    reclaim: (world, { guest }) => void world.reclaim(guest, 1),
  },
  reach: { 'T-LIFE-06': 'P.start < P.release < P.end < L.gone', 'both go on': 'L.gone < M.k' },
  oracle(world, { guest, probe }, trace) {
    checkFaults(world, guest, trace);
    checkSilence(trace, /^P\./);
    assert(probeReport(world.sync.words, probe).releases === 1, 'N-18: release comes exactly once');
  },
  mutants: [{ name: 'unregister does not wait', breaks: { mm: { unregisterWithoutWait: true } } }],
};

const exit: LifeCase = {
  ...base,
  name: 'T-LIFE-07',
  title: 'a subscriber leaves while the mm exits: release comes exactly once',
  profiles: ALL,
  setup: probed(true),
  actors: {
    leave(world, { notifier }) {
      world.mm.notifiers.unregister(notifier);
      world.sync.y('L.gone');
    },
    exit: (world, { guest }) => world.mm.exit(guest.mm),
  },
  reach: { 'leave first': 'leave:P.release < exit:M.k', 'exit first': 'exit:P.release < L.gone' },
  oracle(world, { probe }, trace) {
    checkInvariants(world.mm);
    world.checkPoison();
    checkSilence(trace, /^P\./);
    const { releases } = probeReport(world.sync.words, probe);
    assert(releases === 1, 'T-LIFE-07: release comes exactly once');
    const released = trace.findIndex(e => e.label === 'P.release');
    const late = trace.findIndex(
      (e, i) => i > released + 1 && e.actor === trace[released]!.actor && /^P\./.test(e.label),
    );
    assert(late < 0, 'N-18: a callback after release, from who sent it');
  },
  mutants: [{ name: 'release unclaimed', breaks: { mm: { releaseUnclaimed: true } } }],
};

const register: LifeCase = {
  ...base,
  name: 'T-LIFE-08',
  title: 'a subscriber joins while ranges are open: it hears no end whose start it missed (N-17, B-11)',
  profiles: ALL,
  setup: probed(false),
  actors: {
    join: (world, { guest, probe }) => void world.mm.notifiers.register(guest.mm, world.probeOps, probe),
    reclaim: (world, { guest }) => void world.reclaim(guest, 0),
    discard: (world, { guest }) => world.discard(guest, 1),
  },
  reach: profile => ({
    'T-LIFE-08': profile === 'seed08' ? 'reclaim:M.0 < join:sleep' : 'reclaim:S.u < join:sleep',
  }),
  oracle(world, { guest, probe }, trace) {
    checkFaults(world, guest, trace);
    const { starts, ends } = probeReport(world.sync.words, probe);
    assert(starts === ends, 'N-12: starts and ends come in pairs');
  },
  mutants: [{ name: 'join with ranges open', breaks: { mm: { registerInRange: true } } }],
};

/** The address space goes while a vCPU is in its fault. */
const exitUnderFault: LifeCase = {
  ...base,
  name: 'T-LIFE-05',
  title: 'the mm exits under a fault of a vCPU: its frames are not used once they are freed',
  profiles: ALL,
  setup: probed(false),
  actors: {
    vcpu(world, { guest }) {
      try {
        world.vcpu(guest).run(vcpu => vcpu.increment(GFN + 1));
      } catch (error) {
        if (!/memory behind the slot is gone/.test(String(error))) throw error;
      }
    },
    exit: (world, { guest }) => world.mm.exit(guest.mm),
  },
  reach: { 'under the fault': 'F.p < G.zap < F.c' },
  oracle(world, { guest }) {
    checkInvariants(world.mm);
    world.checkPoison();
    for (let gfn = GFN; gfn < GFN + guest.pages; gfn++) {
      const leaf = world.kvm.mmu.walk(guest.vm, 0, gfn);
      assert(leaf === 0 || world.sync.words[leaf] === 0, 'N-19: a leaf outlives the address space');
    }
  },
  mutants: [{ name: 'ignore the sequence', breaks: { kvm: { ignoreSeq: true } } }],
};

/** Unmapping what slots back: the VM is left with holes, and a fault there with an error. */
const unmap: LifeCase = {
  ...base,
  name: 'T-LIFE-01',
  title: 'memory that a slot backs is unmapped while the guest faults on it',
  profiles: ALL,
  setup: probed(false),
  actors: {
    vcpu(world, { guest }) {
      const pfn = world.kvm.fault.resolve(guest.vm, 0, GFN + 1, 1);
      assert(pfn >= 0 || pfn === -3, 'K-30: a fault on unmapped memory is a memory fault');
    },
    unmap: (world, { guest }) => world.mm.mmap.unmap(guest.mm, guest.vpn * 4096, guest.pages * 4096),
  },
  reach: { 'under the fault': 'F.p < M.0, M.x < F.c' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'ignore the sequence', breaks: { kvm: { ignoreSeq: true } } }],
};

/** T-FIR-22: a start that may not sleep is refused half-way. */
const refused: LifeCase = {
  ...base,
  name: 'T-FIR-22',
  title: 'one of three subscribers refuses a start that may not sleep: the others get their ends',
  profiles: COUNTED,
  setup(world) {
    const setup = probed(false)(world);
    const { notifiers, heap } = world.mm;
    notifiers.register(setup.guest.mm, world.refuserOps, heap.alloc(1));
    notifiers.register(setup.guest.mm, world.probeOps, setup.probe);
    world.settle();
    return setup;
  },
  actors: {
    vmm(world, { guest }) {
      const { mm, vpn } = guest;
      const result = world.mm.notifiers.start(mm, vpn, vpn + 1, NotifyEvent.Clear, 0);
      assert(result === -11, 'N-14: the refusal is the answer');
      world.sync.y('L.refused');
    },
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN + 1)),
  },
  reach: { 'a fault meanwhile': 'F.p < P.start < P.end < F.c' },
  oracle(world, { guest, probe }, trace) {
    checkFaults(world, guest, trace);
    const { starts, ends } = probeReport(world.sync.words, probe);
    assert(starts === 1 && ends === 1, 'T-FIR-22: who was told of the start is told of the end');
  },
  mutants: [{ name: 'who began is not ended', breaks: { mm: { refusalWithoutEnds: true } } }],
};

/** A VM is destroyed from another thread while its vCPU is in a fault. */
const destroyUnderFault: LifeCase = {
  ...base,
  name: 'T-LIFE-09',
  title: 'a VM is destroyed under a fault of its vCPU: it stops first, and nothing freed is touched',
  profiles: ALL,
  setup: probed(false),
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN + 1)),
    destroy(world, { guest }) {
      world.vms.destroy(guest.vm);
      world.sync.y('L.gone');
    },
  },
  reach: { 'under the fault': 'F.p < destroy:sleep < F.c < L.gone', 'before it starts': 'L.gone < vcpu:end' },
  oracle(world, { guest }, trace) {
    checkInvariants(world.mm);
    world.checkPoison();
    const late = trace.findIndex(e => e.label === 'L.gone');
    assert(!trace.some((e, i) => i > late && e.label === 'F.s'), 'T-LIFE-09: a fault in a VM that is gone');
    // The heap keeps free words zero: whoever wrote to the record after it was freed shows.
    const record = world.sync.words.subarray(guest.vm, guest.vm + world.kvm.layout.vm.words);
    assert(
      record.every(word => word === 0),
      'T-LIFE-09: a freed VM was written',
    );
  },
  mutants: [{ name: 'destroy without waiting', breaks: { kvm: { destroyWithoutWait: true } } }],
};

export const cases: readonly AnyCase[] = [
  ...[unregister, exit, exitUnderFault, register, unmap, refused],
  destroyUnderFault,
];
