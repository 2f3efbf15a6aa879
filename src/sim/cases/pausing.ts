import { assert } from '../../base/assert.ts';
import { Request } from '../../cpu/interface.ts';
import { AT, VCPU_WORDS } from '../../cpu/vcpu.ts';
import { Kvm } from '../../kvm/kvm.ts';
import type { MachineBreaks } from '../../machine/breaks.ts';
import { PAUSE_WORDS, Pauses } from '../../machine/pause.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { AnyCase, Case } from '../case.ts';
import { heapOnly } from '../heap-only.ts';

// Two runners of a guest, and somebody who pauses it once: while it is paused nobody is in it.

type Breaks = Partial<MachineBreaks> & {
  /** A runner reads its wake word after it was told to stay out. */
  wakeReadLate: boolean;
};
type Core = { sync: Sync; kvm: Kvm; pauses: Pauses; breaks: Partial<Breaks> };
type Setup = { pause: Ptr<'pause'>; vcpu: Ptr<'vcpu'>; paused: number; wakes: readonly number[] };

const TICKS = 7;

function setup({ kvm }: Core): Setup {
  const { heap } = kvm.mm;
  return {
    pause: heap.alloc(PAUSE_WORDS) as Ptr<'pause'>,
    vcpu: heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>,
    paused: heap.alloc(1),
    wakes: [heap.alloc(1), heap.alloc(1)],
  };
}

/** One turn in the guest; sleeps until it is resumed, should it be paused. */
function runner(core: Core, s: Setup, wake: number): void {
  const { sync, pauses, breaks } = core;
  for (;;) {
    const seen = Atomics.load(sync.words, wake);
    if (pauses.enter(s.pause)) break;
    sync.y('Z.out');
    sync.waiter.wait(wake, breaks.wakeReadLate ? Atomics.load(sync.words, wake) : seen);
  }
  inGuest(core, s);
  pauses.leave(s.pause);
}

function inGuest({ sync, pauses }: Core, { pause, paused }: Setup): void {
  const before = pauses.lost(pause);
  sync.y('Z.in');
  assert(Atomics.load(sync.words, paused) === 0, 'a runner is in a guest that is paused');
  assert(pauses.lost(pause) === before, "a guest's clock is set while it runs");
}

function pauser({ sync, pauses }: Core, { pause, vcpu, paused, wakes }: Setup): void {
  pauses.ask(pause, () => [vcpu]);
  pauses.awaitSettled(pause);
  Atomics.store(sync.words, paused, 1);
  sync.y('Z.paused');
  Atomics.store(sync.words, paused, 0);
  pauses.release(pause, () => [vcpu], TICKS);
  for (const wake of wakes) {
    Atomics.add(sync.words, wake, 1);
    sync.waiter.notify(wake, 1);
  }
}

const base = {
  profiles: ['modern'],
  arena: { frames: 1, heapBytes: 4096 * 4 },
  everyAtomic: true,
  core: (sync: Sync, { breaks }: { breaks: Partial<Breaks> }): Core => {
    const kvm = new Kvm(sync, heapOnly(sync), { dropCode() {} });
    return { sync, kvm, pauses: new Pauses(kvm, breaks), breaks };
  },
} as const;

const pausing: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'pause',
  title: 'two runners of a guest, and who pauses it (issue 4)',
  setup,
  actors: {
    first: (core, s) => runner(core, s, s.wakes[0]!),
    second: (core, s) => runner(core, s, s.wakes[1]!),
    pauser,
  },
  reach: {
    'a runner is waited for': 'first:Z.in < Z.paused',
    'a runner is kept out, and comes in': 'first:Z.out < first:Z.in',
    'both are kept out': 'first:Z.out < second:Z.in, second:Z.out < first:Z.in',
  },
  oracle({ sync, pauses }, { pause, vcpu }) {
    assert(pauses.lost(pause) === TICKS, 'the time of the pause counts once');
    assert(!pauses.isAsked(pause), 'the guest is resumed');
    assert((sync.words[vcpu + AT.requests]! & Request.Pause) === 0, 'its vCPU may run');
  },
  mutants: [
    { name: 'a runner looks before it says that it runs', breaks: { lookBeforeActive: true } },
    { name: 'who pauses does not wait', breaks: { pauseWithoutWait: true } },
    { name: 'a runner reads its wake word too late', breaks: { wakeReadLate: true } },
  ],
};

/** The machine's thread, as it ends: the guest is no longer shown, then its vCPU is freed, and is somebody else's. */
function end({ sync, pauses }: Core, { pause, vcpu, paused: shown }: Setup): void {
  Atomics.store(sync.words, shown, 0);
  pauses.awaitTold(pause);
  sync.y('Z.free');
  Atomics.store(sync.words, vcpu + AT.requests, 0);
}

const ending: Case<Core, Setup, Breaks> = {
  ...base,
  name: 'pause-end',
  title: 'a machine ends, while somebody pauses it and resumes it (issue 4)',
  setup(core) {
    const s = setup(core);
    Atomics.store(core.sync.words, s.paused, 1);
    return s;
  },
  actors: {
    end,
    pauser({ sync, pauses }, { pause, vcpu, paused: shown }) {
      const vcpus = () => (Atomics.load(sync.words, shown) === 0 ? [] : [vcpu]);
      pauses.ask(pause, vcpus);
      sync.y('Z.asked');
      pauses.release(pause, vcpus, TICKS);
    },
  },
  reach: { 'the machine is gone before it is resumed': 'Z.free < Z.asked', 'and after': 'Z.asked < Z.free' },
  oracle({ sync }, { vcpu }) {
    assert(sync.words[vcpu + AT.requests] === 0, 'a record was written to after it was freed');
  },
  mutants: [{ name: 'the machine does not wait', breaks: { freeWhileTelling: true } }],
};

export const cases: readonly AnyCase[] = [pausing, ending];
