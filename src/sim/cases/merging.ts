import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { frameWord } from '../../sync/arena.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type World } from '../world.ts';
import {
  ALL,
  base,
  COUNTED,
  checkFaults,
  fourPages,
  SEED,
  type Setup,
  type WorldCase,
  type WorldMutant,
} from './faults.ts';

// T-KSM: equal pages become one under a guest. Another address space has a merged page already, so that one page of
// the guest is merged by `protect`, compare and `replace` alone.

/** What is written to every page that may be merged. */
const CONTENT = 41;
type Donor = Setup & { flag: number };

/** A guest whose first page, and second if asked, is what a merged page of `donor` (the flag) holds. */
function likeDonor(world: World, second = false): Donor {
  const { guest } = fourPages(world);
  if (second) world.hostStore(guest.mm, guest.vpn + 1, CONTENT);
  const donor = world.mm.createMm({});
  const at = world.mm.mmap.map(donor, 2 * PAGE_SIZE);
  for (const page of [0, 1]) world.hostStore(donor, at / PAGE_SIZE + page, CONTENT);
  world.mm.madvise.advise(donor, at, 2 * PAGE_SIZE, 'mergeable');
  world.mm.ksm.fullScans(2);
  assert(world.mm.ksm.stats().pages_sharing === 1, 'setup: the pages of the donor are one');
  world.mm.madvise.advise(guest.mm, guest.vpn * PAGE_SIZE, 4 * PAGE_SIZE, 'mergeable');
  world.settle();
  return { guest, flag: donor };
}

/** The same, merged; the guest has read both pages. */
function merged(world: World): Donor {
  const setup = likeDonor(world, true);
  world.mm.ksm.fullScans(1);
  assert(world.mm.ksm.stats().pages_sharing === 3, 'setup: the pages of the guest are merged');
  for (const gfn of [GFN, GFN + 1]) world.touch(setup.guest, gfn, 0);
  world.settle();
  return setup;
}

/** What no schedule may change: the other pages that were equal. */
function checkDonor(
  world: World,
  { guest, flag: donor }: Donor,
  trace: Parameters<typeof checkFaults>[2],
): void {
  checkFaults(world, guest, trace);
  for (const [mm, page] of donorPages(world, donor)) {
    assert(world.hostLoad(mm, page) === CONTENT, 'OR-2: a write shows where nobody wrote');
  }
}

function donorPages(world: World, donor: number): [Setup['guest']['mm'], number][] {
  const mm = donor as Setup['guest']['mm'];
  const start = world.mm.layout.vma.start.get(world.mm.vmas.at(mm, 0));
  return [
    [mm, start],
    [mm, start + 1],
  ];
}

/** Under seed08 the reference of a leaf that stays is a pin, and nothing is merged: two rules must go (B-1). */
const silent: readonly WorldMutant[] = [
  { name: 'KSM tells nobody (C-5, C-6)', breaks: { mm: { ksmWithoutNotify: true } }, profiles: COUNTED },
  { name: 'skip the zap', breaks: { kvm: { skipZap: true } }, profiles: COUNTED },
  {
    name: 'KSM tells nobody, and takes pinned pages',
    breaks: { mm: { ksmWithoutNotify: true, ksmIgnorePins: true } },
    profiles: SEED,
  },
];

const scan = (world: World): void => void world.mm.ksm.scan(64);

const fault: WorldCase = {
  ...base,
  name: 'T-KSM-01',
  heavy: true,
  title: 'a write fault of the guest against the merging of its page: retry, then COW',
  profiles: ALL,
  setup: world => likeDonor(world),
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === CONTENT + 1, 'OR-2: the guest does not see its own write');
      });
    },
    ksm: scan,
  },
  reach: profile =>
    profile === 'seed08'
      ? { 'T-KSM-01': 'F.p < I.b, I.e < F.L', 'COW after the merge': 'K.rep < F.s' }
      : { 'T-KSM-01': 'F.p < S.l, E.u < F.c', 'COW after the merge': 'K.rep < F.s' },
  oracle(world, setup, trace) {
    checkDonor(world, setup, trace);
    const value = world.hostLoad(setup.guest.mm, setup.guest.vpn);
    assert(value === CONTENT + 1, 'OR-2: a write of the guest is lost');
  },
  mutants: [
    ...silent,
    { name: 'flush without waiting', breaks: { kvm: { flushWithoutAck: true } } },
    {
      // Either alone is enough: a fault holds a reference until its leaf is in.
      name: 'ignore the sequence, and the reference of the fault',
      breaks: { kvm: { ignoreSeq: true }, mm: { ksmIgnorePins: true } },
    },
  ],
};

const pinned: WorldCase = {
  ...base,
  name: 'T-KSM-02',
  title: 'a page that the VMM holds for DMA against merging: it stays (C-5, C-20)',
  profiles: ALL,
  setup: world => likeDonor(world),
  actors: {
    device(world, { guest }) {
      const pfn = world.grab(guest.mm, guest.vpn, true);
      world.sync.y('W.held');
      Atomics.store(world.sync.words, frameWord(pfn), 77);
      world.mm.pages.setDirty(pfn);
      world.sync.y('W.written');
      world.mm.pages.put(pfn);
    },
    ksm: scan,
  },
  reach: { 'T-KSM-02': 'W.held < M.0, M.k < W.written' },
  oracle(world, setup, trace) {
    checkDonor(world, setup, trace);
    const value = world.hostLoad(setup.guest.mm, setup.guest.vpn);
    assert(value === 77, 'C-5: a write to a pinned page is lost');
  },
  mutants: [{ name: 'KSM takes pinned pages (C-5)', breaks: { mm: { ksmIgnorePins: true } } }],
};

const between: WorldCase = {
  ...base,
  name: 'T-KSM-03',
  heavy: true,
  title: 'the guest, with a writable leaf, writes between the compare and the replacement',
  profiles: ALL,
  setup(world) {
    const setup = likeDonor(world);
    world.touch(setup.guest, GFN, 1);
    world.settle();
    return setup;
  },
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN) === CONTENT, 'OR-2: the guest reads what nobody wrote');
        vcpu.store(GFN, 50);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === 50, 'T-KSM-03: the write of the guest is gone');
      });
    },
    ksm: scan,
  },
  reach: { 'write before the compare': 'F.a < K.cmp', 'write after the merge': 'K.rep < F.s' },
  oracle(world, setup, trace) {
    checkDonor(world, setup, trace);
    assert(
      world.hostLoad(setup.guest.mm, setup.guest.vpn) === 50,
      'T-KSM-03: the write of the guest is lost',
    );
  },
  mutants: [
    { name: 'compare, then protect (C-6)', breaks: { mm: { ksmCompareFirst: true } } },
    ...silent,
    { name: 'flush without waiting', breaks: { kvm: { flushWithoutAck: true } } },
  ],
};

const unmerge: WorldCase = {
  ...base,
  name: 'T-KSM-06',
  heavy: true,
  title: 'everything is unmerged while the guest reads one merged page and writes another',
  profiles: ALL,
  setup: merged,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN) === CONTENT, 'OR-2: the guest reads what nobody wrote');
        vcpu.increment(GFN + 1);
        vcpu.stopPoint();
        assert(vcpu.load(GFN + 1) === CONTENT + 1, 'OR-2: the guest does not see its own write');
        assert(vcpu.load(GFN) === CONTENT, 'OR-2: the guest reads what nobody wrote');
      });
    },
    unmerge: world => void world.mm.ksm.set('run', 2),
  },
  reach: profile => ({
    'read leaf when its page is copied': profile === 'seed08' ? 'F.t < I.b' : 'F.t < unmerge:S.l',
  }),
  oracle(world, setup, trace) {
    checkDonor(world, setup, trace);
    const { guest } = setup;
    const values = [0, 1].map(page => world.hostLoad(guest.mm, guest.vpn + page));
    assert(values.join() === `${CONTENT},${CONTENT + 1}`, 'OR-2: a write of the guest is lost');
    const { pages_shared, pages_sharing } = world.mm.ksm.stats();
    assert(pages_shared + pages_sharing === 0, 'T-KSM-06: something is merged still');
  },
  mutants: [
    { name: 'the copy tells nobody (M-31)', breaks: { mm: { cowWithoutNotify: true } } },
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
  ],
};

const swapped: WorldCase = {
  ...base,
  name: 'T-KSM-swap',
  heavy: true,
  title: 'a merged page is reclaimed from all who map it while the guest writes to it',
  profiles: ALL,
  setup: merged,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert(vcpu.load(GFN) === CONTENT + 1, 'OR-2: the guest does not see its own write');
      });
    },
    reclaim(world, { guest, flag: donor }) {
      world.reclaim(guest, 1);
      // All who shared it come back for it.
      for (const [mm, page] of [[guest.mm, guest.vpn + 1], ...donorPages(world, donor)] as const) {
        assert(world.hostLoad(mm, page) === CONTENT, 'OR-2: what comes back is not what went');
      }
    },
  },
  reach: {},
  oracle(world, setup, trace) {
    const { guest } = setup;
    const values = [0, 1].map(page => world.hostLoad(guest.mm, guest.vpn + page));
    assert(values.join() === `${CONTENT + 1},${CONTENT}`, 'OR-2: a write of the guest is lost');
    checkDonor(world, setup, trace);
  },
  mutants: [
    { name: 'the rmap tells nobody (N-5)', breaks: { mm: { unmapWithoutNotify: true } }, profiles: COUNTED },
    { name: 'swap-in maps what it finds', breaks: { mm: { ksmSwapInAnywhere: true } } },
  ],
};

export const cases: readonly AnyCase[] = [fault, pinned, between, unmerge, swapped];
