import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { frameWord } from '../../sync/arena.ts';
import type { AnyCase } from '../case.ts';
import type { Guest, World } from '../world.ts';
import { base, COUNTED, checkFaults, type Setup, type WorldCase } from './faults.ts';

// T-THP, T-CHG-10, T-ZERO: what splits, makes and collapses huge pages, against faults of guest and VMM.

/** The first guest frame of slot 1, aligned as the memory behind it. */
const G = 1024;

const huge = { ...base, arena: { frames: 1344, heapBytes: 4096 * 24 }, profiles: COUNTED } as const;

/** 2 MiB of memory that asks for a huge page, behind an aligned slot; nothing touched yet. */
function area(world: World): Setup {
  const guest = world.createGuest({ pages: 512, vcpus: 1 });
  world.setSlot(guest.vm, 1, G, guest.vpn, 512);
  advise(world, guest, 'hugepage');
  const flag = world.mm.heap.alloc(1);
  world.settle();
  return { guest, flag };
}

function advise(
  world: World,
  { mm, vpn }: Guest,
  advice: 'hugepage' | 'nohugepage',
  page = 0,
  pages = 512,
): void {
  world.mm.madvise.advise(mm, (vpn + page) * PAGE_SIZE, pages * PAGE_SIZE, advice);
}

/** The same, mapped by one huge entry; page 3 holds 41. */
function hugePage(world: World): Setup {
  const setup = area(world);
  world.hostStore(setup.guest.mm, setup.guest.vpn + 3, 41);
  world.settle();
  return setup;
}

/** As `hugePage`, and the guest has a 2 MiB leaf. */
function hugeLeaf(world: World): Setup {
  const setup = hugePage(world);
  world.touch(setup.guest, G, 1);
  world.settle();
  return setup;
}

/** Two small pages in an area that may be collapsed; page 3 holds 41 and is mapped by the guest. */
function small(world: World): Setup {
  const setup = area(world);
  const { guest } = setup;
  advise(world, guest, 'nohugepage');
  world.hostStore(guest.mm, guest.vpn + 3, 41);
  world.hostStore(guest.mm, guest.vpn + 4, 43);
  advise(world, guest, 'hugepage');
  world.touch(guest, G + 4, 1);
  world.settle();
  return setup;
}

function split(world: World, { mm, vpn }: Guest): void {
  const { sync, layout, hugePmd } = world.mm;
  sync.readLock('mmap', mm + layout.mm.mmapLock.at);
  hugePmd.split(mm, vpn);
  sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
}

/** The guest adds one to page 3, twice from one look-up and the next. */
function count(world: World, { guest }: Setup): void {
  world.vcpu(guest).run(vcpu => {
    vcpu.increment(G + 3);
    vcpu.stopPoint();
    assert(vcpu.load(G + 3) === 42, 'OR-2: the guest does not see its own write');
  });
}

const RETRIES = {
  'T-FIR-02': 'F.p < S.l, S.u < F.c < E.l',
  'T-FIR-05': 'S.u < F.s < F.p < M.0, E.u < F.c',
};

const splitting: WorldCase = {
  ...huge,
  name: 'T-THP-01',
  title: 'a fault that finds a huge page against its split: T-THP-01, T-THP-10',
  setup: hugePage,
  actors: { vcpu: count, split: (world, { guest }) => split(world, guest) },
  reach: { 'T-THP-01': 'F.p < S.l, E.u < F.c', 'T-THP-10': 'F.slot < S.l, E.u < F.s', ...RETRIES },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn + 3) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    { name: 'split without telling (H-10)', breaks: { mm: { splitWithoutNotify: true } } },
    { name: 'level before the sequence (T-THP-10)', breaks: { kvm: { levelBeforeSample: true } } },
    { name: 'level from the shape (B-31)', breaks: { kvm: { levelFromShape: true } } },
    { name: 'leaves of 4 KiB alone (B-3)', breaks: { kvm: { smallLeavesOnly: true } } },
  ],
};

const reclaiming: WorldCase = {
  ...huge,
  name: 'T-THP-reclaim',
  title: 'reclaim splits a huge page and takes one, while the guest writes it through its 2 MiB leaf',
  setup: hugeLeaf,
  actors: { vcpu: count, reclaim: (world, { guest }) => void world.reclaim(guest, 3) },
  reach: { 'split under a leaf': 'F.t < S.z < F.a' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn + 3) === 42, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
    { name: 'leaves of 4 KiB alone (B-3)', breaks: { kvm: { smallLeavesOnly: true } } },
  ],
};

const collapsing: WorldCase = {
  ...huge,
  name: 'T-THP-03',
  title: 'a collapse against a guest that faults and writes: T-THP-03, T-THP-04, T-THP-07',
  setup: small,
  actors: {
    vcpu: count,
    collapse: (world, { guest }) => void world.mm.khugepaged.collapse(guest.mm, guest.vpn, true),
  },
  reach: {
    'T-THP-03': 'F.p < M.0 < C.isolated < F.c',
    'T-THP-03 retried': 'F.s < S.l, E.u < F.p',
    'T-THP-04': 'S.z < C.installed < F.p',
    'T-FIR-05': RETRIES['T-FIR-05'],
  },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const words = [2, 3, 4].map(page => world.hostLoad(guest.mm, guest.vpn + page));
    assert(words.join() === '0,42,43', 'OR-2: a collapse loses or invents content');
  },
  mutants: [
    { name: 'collapse without telling (H-23)', breaks: { mm: { collapseWithoutNotify: true } } },
    { name: 'lose the old table (T-THP-07)', breaks: { mm: { collapseLosesTable: true } } },
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
  ],
};

const heldByVmm: WorldCase = {
  ...huge,
  name: 'T-THP-03-vmm',
  title: 'a collapse while the VMM writes to a page that it holds (H-22)',
  profiles: ['modern'],
  setup: small,
  actors: {
    vmm(world, { guest }) {
      const pfn = world.grab(guest.mm, guest.vpn + 4, true);
      world.sync.y('W.pinned');
      Atomics.store(world.sync.words, frameWord(pfn), 44);
      world.mm.pages.put(pfn);
    },
    collapse: (world, { guest }) => void world.mm.khugepaged.collapse(guest.mm, guest.vpn, true),
  },
  reach: { 'held when isolated': 'C.scanned < W.pinned < M.0' },
  oracle(world, { guest }) {
    world.check(guest);
    assert(world.hostLoad(guest.mm, guest.vpn + 4) === 44, 'OR-2: a write to a held page is lost');
    assert(world.hostLoad(guest.mm, guest.vpn + 3) === 41, 'OR-2: a collapse loses content');
  },
  mutants: [{ name: 'take pages that are held', breaks: { mm: { collapsePinned: true } } }],
};

const forking: WorldCase = {
  ...huge,
  name: 'T-THP-fork',
  title: 'the mm is forked while the guest writes through a 2 MiB leaf (N-25)',
  setup: hugeLeaf,
  actors: {
    vcpu: count,
    fork(world, { guest, flag }) {
      const child = world.mm.fork(guest.mm);
      world.sync.words[flag] = child;
    },
  },
  reach: { 'write in between': 'S.u < F.s < F.p < M.0' },
  oracle(world, { guest, flag }, trace) {
    checkFaults(world, guest, trace);
    const child = world.sync.words[flag] as Guest['mm'];
    const read = world.hostLoad(child, guest.vpn + 3);
    assert(read === 41 || read === 42, 'OR-2: the child reads what nobody wrote');
    world.hostStore(guest.mm, guest.vpn + 3, 99);
    assert(world.hostLoad(child, guest.vpn + 3) === read, 'T-COW-02: the child sees the write of its parent');
  },
  mutants: [
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
    { name: 'leaves of 4 KiB alone (B-3)', breaks: { kvm: { smallLeavesOnly: true } } },
  ],
};

/** What became of the area is counted once, whoever won. */
function checkCounted(world: World, { guest }: Setup): void {
  world.check(guest);
  const { layout, vmstat } = world.mm;
  assert(vmstat.read('thp_fault_alloc') === 1, 'T-CHG-10: counted once');
  assert(vmstat.read('thp_fault_fallback') === 0, 'T-CHG-10: a lost race is no fallback');
  assert(layout.mm.anonPages.load(guest.mm) === 512, 'T-CHG-10: 512 pages, once');
  const words = [1, 2, 3].map(page => world.hostLoad(guest.mm, guest.vpn + page));
  assert(words.join() === '7,8,0', 'OR-2: a write is lost');
}

const bothAllocate: WorldCase = {
  ...huge,
  name: 'T-CHG-10',
  title: 'two threads allocate a huge page for the same area: one installs, the other gives all back',
  profiles: ['modern'],
  arena: { frames: 2048, heapBytes: 4096 * 24 },
  setup: area,
  actors: {
    one: (world, { guest }) => world.hostStore(guest.mm, guest.vpn + 1, 7),
    two: (world, { guest }) => world.hostStore(guest.mm, guest.vpn + 2, 8),
  },
  reach: { 'both allocated': 'one:U.al < two:U.t, two:U.al < one:U.t' },
  oracle: (world, setup) => checkCounted(world, setup),
  mutants: [{ name: 'no look under the lock (H-2, 4)', breaks: { mm: { hugeWithoutRecheck: true } } }],
};

const zeroPage: WorldCase = {
  ...huge,
  name: 'T-ZERO-05',
  title: 'a read that brings the huge zero page against a write that allocates: T-ZERO-03, T-ZERO-05',
  profiles: ['modern'],
  setup: area,
  actors: {
    reader(world, { guest }) {
      const read = world.hostLoad(guest.mm, guest.vpn + 2);
      assert(read === 0 || read === 8, 'OR-2: the VMM reads what nobody wrote');
    },
    writer: (world, { guest }) => world.hostStore(guest.mm, guest.vpn + 2, 8),
  },
  reach: { 'T-ZERO-03': 'reader:U.n < writer:U.t < reader:U.t', 'zero first': 'reader:U.t < writer:M.0' },
  oracle(world, { guest }) {
    world.check(guest);
    assert(world.hostLoad(guest.mm, guest.vpn + 2) === 8, 'T-ZERO-03: a write is lost');
  },
  mutants: [{ name: 'no look under the lock (H-1, 4)', breaks: { mm: { hugeWithoutRecheck: true } } }],
};

export const cases: readonly AnyCase[] = [
  splitting,
  reclaiming,
  collapsing,
  heldByVmm,
  forking,
  bothAllocate,
  zeroPage,
];
