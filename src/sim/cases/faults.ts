import { assert } from '../../base/assert.ts';
import { frameWord } from '../../sync/arena.ts';
import type { AnyCase, Case, Event, Mutant, Schedules } from '../case.ts';
import { checkRetries } from '../retries.ts';
import { GFN, type Guest, World, type WorldBreaks } from '../world.ts';

// T-FIP and T-FIR: a guest fault against the mm taking the page away, under each protocol. The same actors
// play both; only the names of the points differ.

export type Setup = { guest: Guest; flag: number };
export type WorldCase = Case<World, Setup, WorldBreaks>;
export type WorldMutant = Mutant<WorldBreaks>;

export const SEED: readonly string[] = ['seed08'];
export const COUNTED: readonly string[] = ['modern', 'nonrange'];
export const ALL: readonly string[] = ['seed08', 'modern', 'nonrange'];

export const base = {
  arena: { frames: 64, heapBytes: 4096 * 24 },
  core: (sync: World['sync'], options: ConstructorParameters<typeof World>[1]) => new World(sync, options),
  reset: (world: World) => world.mm.lru.drain(),
} as const;

/**
 * The rows whose schedule any taking away of one page brings about. `changed` is the label of the pte's
 * change under seed08: I.P, or M.k where a range is emptied first and seed08 hears of it at the end.
 */
function rows(
  changed: string,
  more: Schedules = {},
  moreCounted: Schedules = {},
): (profile: string) => Schedules {
  const seed: Schedules = {
    'T-FIP-01': `F.r < ${changed}`,
    'T-FIP-02': 'I.x < F.s',
    'T-FIP-03': `F.p < ${changed}, I.e < F.L`,
    'T-FIP-04': `F.p < ${changed} < I.b < F.L < I.l`,
    'T-FIP-05': `F.p < ${changed} < F.L < F.U < I.b`,
    'T-FIP-06': 'I.b < vcpu:sleep < I.e',
    'T-FIP-15': 'F.t < I.z < F.a < I.f',
    ...more,
  };
  const counted: Schedules = {
    'T-FIR-01': 'F.U < S.l',
    'T-FIR-02': 'F.p < S.l, S.u < F.c < E.l',
    'T-FIR-03': 'F.p < S.l, E.u < F.c',
    'T-FIR-04': 'S.u < F.s < F.p < M.0, F.c < E.l',
    'T-FIR-05': 'S.u < F.s < F.p < M.0, E.u < F.c',
    'T-FIR-06': 'M.k < F.p, F.s < E.q < F.c',
    'T-FIR-07': 'E.q < F.s < E.d',
    ...moreCounted,
  };
  return profile => (profile === 'seed08' ? seed : counted);
}

/** T-FIP-06: nobody samples while the sequence is odd. */
function checkSamples(trace: readonly Event[]): void {
  let odd = false;
  for (const { label } of trace) {
    if (label === 'I.b') odd = true;
    if (label === 'I.e') odd = false;
    assert(!(odd && label === 'F.s'), 'K-14: the sequence was sampled while odd');
  }
}

/** What every case of this file demands of a schedule. */
export function checkFaults(world: World, guest: Guest, trace: readonly Event[]): void {
  world.check(guest);
  checkSamples(trace);
}

const protocol: readonly WorldMutant[] = [
  { name: 'skip the zap (T-FIP-01)', breaks: { kvm: { skipZap: true } } },
  { name: 'ignore the sequence (T-FIP-03, T-FIR-03)', breaks: { kvm: { ignoreSeq: true } } },
  { name: 'ignore in_progress (T-FIR-02)', breaks: { kvm: { ignoreInProgress: true } }, profiles: COUNTED },
  { name: 'sequence at the start only (T-FIR-05)', breaks: { kvm: { seqAtStart: true } }, profiles: COUNTED },
  {
    name: 'check without the lock, in_progress down first (T-FIR-08)',
    breaks: { kvm: { checkUnlocked: true, decrementFirst: true } },
    profiles: COUNTED,
  },
  { name: 'sample while odd (T-FIP-06)', breaks: { kvm: { sampleOdd: true } }, profiles: SEED },
  { name: 'sample after GUP (T-FIP-09)', breaks: { kvm: { sampleAfterGup: true } } },
  { name: 'a retry leaks its reference (T-FIR-18)', breaks: { kvm: { leakOnRetry: true } } },
  { name: 'flush without waiting (T-FIP-15)', breaks: { kvm: { flushWithoutAck: true } } },
  { name: 'flush without a name (J-7)', breaks: { kvm: { forgetNames: true } } },
];

/** A VM of four pages, the first two written by the VMM and not yet seen by the guest. */
export function fourPages(world: World): Setup {
  const guest = world.createGuest({ pages: 4, vcpus: 2 });
  world.hostStore(guest.mm, guest.vpn, 41);
  world.hostStore(guest.mm, guest.vpn + 1, 43);
  const flag = world.mm.heap.alloc(1);
  world.settle();
  return { guest, flag };
}

/** MADV_DONTNEED: the guest's write is there or it is zero. */
// K-11, K-20, K-22, K-24, K-27, K-35; with the profile nonrange K-26 and T-FIR-23.
const discard: WorldCase = {
  ...base,
  name: 'T-FIP-discard',
  title: 'a write fault against MADV_DONTNEED of the page: T-FIP, T-FIR, T-DN-05',
  profiles: ALL,
  setup: fourPages,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        const seen = vcpu.load(GFN);
        assert([0, 1, 42].includes(seen), 'OR-2: the guest reads what nobody wrote');
      });
    },
    discard: (world, { guest }) => world.discard(guest, 0),
  },
  reach: rows(
    'M.k',
    { 'T-FIP-07': 'F.s < M.k < F.p < I.b', 'T-DN-05': 'F.p < M.0, I.x < F.c' },
    { 'T-DN-05': 'F.p < M.0, M.x < F.c < E.l' },
  ),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const value = world.hostLoad(guest.mm, guest.vpn);
    assert([0, 1].includes(value), 'T-DN-05: what was discarded is zero until written');
  },
  mutants: protocol,
};

/** The same, but the first page is clean and has its content in swap: only dirty bits tell of a write. */
export function cleanPage(world: World): Setup {
  const setup = fourPages(world);
  world.swapOut(setup.guest, 0);
  world.hostLoad(setup.guest.mm, setup.guest.vpn);
  world.settle();
  return setup;
}

/** Swap-out and back: nothing may be lost. */
// K-10, M-32
const swapOut: WorldCase = {
  ...base,
  name: 'T-FIP-swap',
  title: 'a read fault, then a write, against swap-out of the page: T-FIP, T-FIR',
  profiles: ALL,
  setup: cleanPage,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.load(GFN);
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 42, 'OR-2: the guest does not see its own write');
      });
    },
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: rows('I.P', { 'T-FIP-08': 'F.U < F.a < I.z' }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    ...protocol,
    { name: 'the dirty bit is dropped (T-FIP-08)', breaks: { kvm: { dropDirty: true } } },
    {
      name: 'write-back before the flush (T-FIP-08)',
      breaks: { mm: { writeBeforeFlush: true } },
      profiles: COUNTED,
    },
    {
      name: 'reclaim does not flush (J-9)',
      breaks: { mm: { reclaimWithoutFlush: true } },
      profiles: COUNTED,
    },
    { name: 'a dirty page counts as clean', breaks: { mm: { forgetDirty: true } } },
    { name: 'the rmap tells nobody (N-5)', breaks: { mm: { unmapWithoutNotify: true } } },
    { name: 'a miss is used in spite of a flush (J-7)', breaks: { vcpu: { useStaleMiss: true } } },
  ],
};

/** A device, or the VMM, holds a page and writes it late. */
const pinned: WorldCase = {
  ...base,
  name: 'T-FIP-pin',
  title: 'a page that the VMM holds for DMA against swap-out: it stays (M-35)',
  profiles: ALL,
  setup: cleanPage,
  actors: {
    device(world, { guest }) {
      const pfn = world.grab(guest.mm, guest.vpn, true);
      world.sync.y('W.held');
      Atomics.store(world.sync.words, frameWord(pfn), 77);
      world.mm.pages.setDirty(pfn);
      world.sync.y('W.written');
      world.mm.pages.put(pfn);
    },
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: { 'reclaim while it is held': 'W.held < M.0, M.k < W.written' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 77, 'M-35: a write to a pinned page is lost');
  },
  mutants: [{ name: 'reclaim takes pinned pages (M-35)', breaks: { mm: { ignorePinned: true } } }],
};

/** A shared page, mapped read-only in the guest, which the VMM writes. */
function sharedPage(world: World): Setup {
  const setup = fourPages(world);
  const { guest } = setup;
  world.mm.fork(guest.mm);
  world.touch(guest, GFN, 0);
  world.settle();
  return setup;
}

const cow: WorldCase = {
  ...base,
  name: 'T-COW-01',
  title: 'the VMM breaks COW while the guest has a read leaf on the old frame (also T-FIP-05, T-FIP-10)',
  profiles: ALL,
  setup: sharedPage,
  actors: {
    vcpu(world, { guest, flag }) {
      world.vcpu(guest).run(vcpu => {
        for (let i = 0; i < 2; i++) {
          let written = false;
          const seen = vcpu.reload(GFN, () => {
            written = Atomics.load(world.sync.words, flag) === 1;
          });
          assert(seen === 99 || (seen === 41 && !written), 'T-COW-01: the guest reads the old page');
          vcpu.stopPoint();
        }
      });
    },
    vmm(world, { guest, flag }) {
      world.hostStore(guest.mm, guest.vpn, 99);
      Atomics.store(world.sync.words, flag, 1);
      world.sync.y('W.done');
    },
  },
  reach: profile =>
    profile === 'seed08'
      ? { 'T-COW-01': 'F.t < I.z < F.a', 'T-FIP-05': 'I.P < I.z < I.e < M.k' }
      : { 'T-COW-01': 'F.t < S.z < F.a' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 99, 'OR-2: the write of the VMM is lost');
  },
  mutants: [
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
    { name: 'flush without waiting', breaks: { kvm: { flushWithoutAck: true } } },
    { name: 'COW tells nobody (M-31)', breaks: { mm: { cowWithoutNotify: true } } },
  ],
};

/** While one vCPU is about to notice that it installed a stale leaf, another uses it. */
const staleVisible: WorldCase = {
  ...base,
  name: 'T-FIP-10',
  heavy: true,
  title: 'one vCPU faults while the VMM breaks COW, another reads after the write has returned',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    world.mm.fork(setup.guest.mm);
    world.settle();
    return setup;
  },
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.load(GFN)),
    vmm(world, { guest, flag }) {
      world.hostStore(guest.mm, guest.vpn, 99);
      Atomics.store(world.sync.words, flag, 1);
    },
    other(world, { guest, flag }) {
      world.vcpu(guest, 1).run(vcpu => {
        const written = Atomics.load(world.sync.words, flag) === 1;
        const seen = vcpu.load(GFN);
        assert(seen === 99 || (seen === 41 && !written), 'T-FIP-10: a vCPU reads the old page');
      });
    },
  },
  reach: profile => ({
    'T-FIP-10':
      profile === 'seed08' ? 'vcpu:F.p < I.P, vcpu:F.r < other:F.a' : 'vcpu:F.p < S.l, vcpu:F.r < other:F.a',
  }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 99, 'OR-2: the write of the VMM is lost');
  },
  mutants: [
    { name: 'install, then check (B-6)', breaks: { kvm: { installThenCheck: true } } },
    { name: 'ignore the sequence', breaks: { kvm: { ignoreSeq: true } } },
  ],
};

/** A leaf that the guest may only read becomes writable: a second path to a leaf (K-17). */
const upgrade: WorldCase = {
  ...base,
  name: 'T-FIP-16',
  title: 'a write upgrades a read leaf on a shared page, by COW, against swap-out',
  profiles: ALL,
  setup: sharedPage,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN) === 41, 'OR-2: the guest reads what nobody wrote');
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 42, 'OR-2: the guest does not see its own write');
      });
    },
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: profile =>
    profile === 'seed08'
      ? { 'reclaim inside the upgrade': 'F.p < reclaim:I.P, reclaim:I.e < F.L' }
      : { 'reclaim inside the upgrade': 'F.p < reclaim:S.l, reclaim:E.u < F.c' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    { name: 'ignore the sequence (B-33)', breaks: { kvm: { ignoreSeq: true } } },
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
  ],
};

/** Two slots over the same page; the guest knows both. */
// K-12: every slot of the address.
const alias: WorldCase = {
  ...base,
  name: 'T-FIP-11',
  title: 'two slots alias the page that is discarded; a fault through the second (also T-SLOT-10, T-FIR-15)',
  profiles: ALL,
  setup(world) {
    const setup = fourPages(world);
    const { guest } = setup;
    world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2);
    world.setSlot(guest.vm, 2, GFN, guest.vpn, 2, 1);
    for (const [gfn, space] of [
      [GFN, 0],
      [GFN + 16, 0],
      [GFN, 1],
    ] as const)
      world.touch(guest, gfn, 0, space);
    world.settle();
    return setup;
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        const seen = vcpu.load(GFN + 16);
        assert(seen === 41 || seen === 0, 'OR-2: the guest reads what nobody wrote');
      });
    },
    discard: (world, { guest }) => world.discard(guest, 0),
  },
  reach: profile => ({
    'T-FIP-11': 'M.k < F.s',
    ...(profile === 'seed08'
      ? { 'T-SLOT-10': 'I.z < F.s' }
      : { 'T-FIR-15': 'S.z < F.s', 'T-SLOT-10': 'S.z < F.s' }),
  }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
  },
  mutants: [{ name: 'stop at the first slot (L-17)', breaks: { kvm: { firstSlotOnly: true } } }],
};

/** Two vCPUs fault on one page. */
const twoVcpus: WorldCase = {
  ...base,
  name: 'T-FIP-13',
  heavy: true,
  title: 'two vCPUs write to the same page, which is swapped out between their faults',
  profiles: ['seed08', 'modern'],
  setup: fourPages,
  actors: {
    vcpu0: (world, { guest }) => void world.vcpu(guest, 0).run(vcpu => vcpu.store(GFN, 10, 1)),
    vcpu1: (world, { guest }) => void world.vcpu(guest, 1).run(vcpu => vcpu.store(GFN, 20, 2)),
    reclaim: (world, { guest }) => world.swapOut(guest, 0),
  },
  reach: profile =>
    profile === 'seed08'
      ? { 'T-FIP-13': 'vcpu0:F.i < I.P < vcpu1:F.L' }
      : { 'T-FIP-13': 'vcpu0:F.i < S.a < vcpu1:F.i' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const values = [0, 1, 2].map(word => world.hostLoad(guest.mm, guest.vpn, word));
    assert(values.join() === '41,10,20', 'OR-2: a write of a vCPU is lost');
  },
  mutants: [
    { name: 'ignore the sequence', breaks: { kvm: { ignoreSeq: true } } },
    { name: 'flush without waiting', breaks: { kvm: { flushWithoutAck: true } } },
  ],
};

/** Another page than the guest's. */
const otherPage: WorldCase = {
  ...base,
  name: 'T-FIP-14',
  title:
    'a fault while another page is discarded: at most one retry (T-FIP-14), none for the range (T-FIR-09, -10)',
  profiles: ALL,
  setup: fourPages,
  actors: {
    vcpu: (world, { guest }) => void world.vcpu(guest).run(vcpu => vcpu.increment(GFN)),
    discard: (world, { guest }) => world.discard(guest, 1),
  },
  reach: profile => {
    if (profile === 'seed08') return { 'T-FIP-14': 'F.s < I.b, I.e < F.L' };
    const unrelated = { 'T-FIR-10': 'F.s < S.a, E.u < F.c' };
    return profile === 'modern' ? { ...unrelated, 'T-FIR-09': 'S.u < F.s, F.i < M.0' } : unrelated;
  },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    checkRetries(trace, 'vcpu', GFN, { discard: [[GFN + 1, GFN + 2]] }, world.profile);
    const attempts = trace.filter(e => e.actor === 'vcpu' && e.label === 'F.slot').length;
    if (world.profile !== 'nonrange') assert(attempts <= 2, 'K-25: more than one retry for one invalidation');
    assert(world.hostLoad(guest.mm, guest.vpn) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    {
      name: 'retry whatever the range (T-FIR-09)',
      breaks: { kvm: { ignoreRange: true } },
      profiles: ['modern'],
    },
    { name: 'a retry leaks its reference (T-FIR-18)', breaks: { kvm: { leakOnRetry: true } } },
  ],
};

/** A fault that maps its neighbours while one of them is taken away. */
// K-24 (8), K-17
const prefetch: WorldCase = {
  ...base,
  name: 'T-FIP-12',
  title: 'a fault maps the seven pages beside it while the fifth is discarded: that one is left alone',
  profiles: COUNTED,
  setup(world) {
    const guest = world.createGuest({ pages: 8, vcpus: 1 });
    for (let page = 0; page < 8; page++) world.hostStore(guest.mm, guest.vpn + page, 41 + page);
    world.kvm.layout.vm.prefetch.set(guest.vm, 8);
    world.settle();
    return { guest, flag: 0 };
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN) === 41, 'OR-2: the guest reads another page');
        vcpu.stopPoint();
        assert([0, 45].includes(vcpu.load(GFN + 4)), 'OR-2: the guest reads what nobody wrote');
        assert(vcpu.load(GFN + 5) === 46, 'OR-2: the guest reads another page');
      });
    },
    discard: (world, { guest }) => world.discard(guest, 4),
  },
  reach: profile => ({
    'before the start': 'F.U < S.l',
    'after the end': 'E.u < F.s',
    ...(profile === 'modern' ? { 'T-FIP-12': 'S.u < F.L < F.U < M.0' } : {}),
  }),
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const faults = trace.filter(e => e.label === 'F.i').length;
    assert(faults <= 2, 'K-24: what the mm had was not mapped beside the fault');
    assert(world.hostLoad(guest.mm, guest.vpn + 4) === 0, 'what was discarded is zero');
  },
  mutants: [
    {
      name: 'only the page of the fault is checked',
      breaks: { kvm: { prefetchUnchecked: true } },
      profiles: ['modern'],
    },
    { name: 'ignore the sequence', breaks: { kvm: { ignoreSeq: true } } },
  ],
};

export const cases: readonly AnyCase[] = [
  prefetch,
  discard,
  swapOut,
  pinned,
  cow,
  staleVisible,
  upgrade,
  alias,
  twoVcpus,
  otherPage,
];
