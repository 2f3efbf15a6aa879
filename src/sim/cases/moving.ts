import { assert } from '../../base/assert.ts';
import { PAGE_SIZE, type Vpn } from '../../base/units.ts';
import { frameWord } from '../../sync/arena.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type Guest, type World } from '../world.ts';
import { ALL, base, checkFaults, fourPages, type Setup, type WorldCase } from './faults.ts';

// T-RAP and T-SWP: entries that move while others look at them (part R). Page 0 holds 41, page 1 holds 43, pages
// 2 and 3 are holes.

const EEXIST = -17;
const ENOENT = -2;

/** remap_anon_pages of guest pages, by number. */
function move(world: World, { mm, vpn }: Guest, dst: number, src: number, pages = 1): number {
  return moveAt(world, mm, vpn + dst, vpn + src, pages);
}

function moveAt(world: World, mm: Guest['mm'], dst: Vpn, src: Vpn, pages: number): number {
  return world.mm.move.remapAnonPages(mm, dst * PAGE_SIZE, src * PAGE_SIZE, pages * PAGE_SIZE, 0);
}

/** What a call came to, for the oracle: slots of the setup's words. */
const note = (world: World, { flag }: Setup, slot: number, value: number): void =>
  void Atomics.store(world.sync.words, flag + slot, value);
const noted = (world: World, { flag }: Setup, slot: number): number => world.sync.words[flag + slot]!;

/** As `fourPages`, with words for what the actors found. */
function pages(world: World): Setup {
  const setup = fourPages(world);
  return { ...setup, flag: world.mm.heap.alloc(8) };
}

const quick = { ...base, profiles: ['modern'], maxSteps: 4000 } as const;
const races = [{ name: 'no second look under the locks', breaks: { mm: { moveWithoutRecheck: true } } }];

const sameTarget: WorldCase = {
  ...quick,
  name: 'T-RAP-10',
  title: 'two threads move different pages to the same hole: one does, the other learns it (R-6)',
  setup: pages,
  actors: {
    a: (world, setup) => note(world, setup, 0, move(world, setup.guest, 2, 0)),
    b: (world, setup) => note(world, setup, 1, move(world, setup.guest, 2, 1)),
  },
  reach: { 'b is quicker': 'a:V.c < b:M.k < a:V.t', 'a is quicker': 'b:V.c < a:M.k < b:V.t' },
  oracle(world, setup, trace) {
    checkFaults(world, setup.guest, trace);
    const said = [noted(world, setup, 0), noted(world, setup, 1)];
    assert(said.includes(PAGE_SIZE) && said.includes(EEXIST), 'T-RAP-10: not one success and one EEXIST');
    const { mm, vpn } = setup.guest;
    const winner = said[0] === PAGE_SIZE ? 0 : 1;
    assert(world.hostLoad(mm, vpn + 2) === 41 + 2 * winner, 'T-RAP-10: not the page of the winner');
    const loser = world.hostLoad(mm, vpn + 1 - winner);
    assert(loser === 43 - 2 * winner, 'R-6: the page of the loser was touched');
  },
  mutants: races,
};

const sameSource: WorldCase = {
  ...quick,
  name: 'T-RAP-11',
  title: 'two threads move the same page to different holes: one does, the other finds a hole',
  setup: pages,
  actors: {
    a: (world, setup) => note(world, setup, 0, move(world, setup.guest, 2, 0)),
    b: (world, setup) => note(world, setup, 1, move(world, setup.guest, 3, 0)),
  },
  reach: { 'b is quicker': 'a:V.c < b:M.k', 'a is quicker': 'b:V.c < a:M.k' },
  oracle(world, setup, trace) {
    checkFaults(world, setup.guest, trace);
    const said = [noted(world, setup, 0), noted(world, setup, 1)];
    assert(said.includes(PAGE_SIZE) && said.includes(ENOENT), 'T-RAP-11: not one success and one ENOENT');
    const { mm, vpn } = setup.guest;
    const winner = said[0] === PAGE_SIZE ? 2 : 3;
    assert(world.hostLoad(mm, vpn + winner) === 41, 'T-RAP-11: the page is not where it was moved');
    assert(world.primary(mm, vpn + 5 - winner) === undefined, 'T-RAP-11: the other hole was filled');
  },
  mutants: races,
};

/** Far enough that it has a table of its own. */
const AWAY: Vpn = 1 << 17;

const crosswise: WorldCase = {
  ...quick,
  name: 'T-RAP-12',
  title: 'moves from A to B and from B to A at the same time: no deadlock, each page once',
  setup(world) {
    const setup = pages(world);
    const { mm } = setup.guest;
    world.mm.mmap.map(mm, 4 * PAGE_SIZE, { address: AWAY * PAGE_SIZE, fixed: 'exclusive' });
    for (const i of [2, 3]) world.hostStore(mm, AWAY + i, 50 + i);
    world.settle();
    return setup;
  },
  actors: {
    out(world, { guest }) {
      assert(moveAt(world, guest.mm, AWAY, guest.vpn, 2) === 2 * PAGE_SIZE, 'T-RAP-12: not all moved out');
    },
    back(world, { guest }) {
      const moved = moveAt(world, guest.mm, guest.vpn + 2, AWAY + 2, 2);
      assert(moved === 2 * PAGE_SIZE, 'T-RAP-12: not all moved back');
    },
  },
  reach: { 'one inside the other': 'out:V.c < back:M.k < out:M.k' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const at = [AWAY, AWAY + 1, guest.vpn + 2, guest.vpn + 3];
    const found = at.map(vpn => world.hostLoad(guest.mm, vpn));
    assert(found.join() === '41,43,52,53', 'T-RAP-12: a page is lost');
  },
  mutants: [{ name: 'the locks of the tables in any order', breaks: { mm: { moveLocksUnordered: true } } }],
};

const ageing: WorldCase = {
  ...quick,
  name: 'T-RAP-13',
  title: 'a walk of the reverse map asks whether a page is used while it moves (R-15)',
  setup(world) {
    const setup = pages(world);
    note(world, setup, 0, world.primary(setup.guest.mm, setup.guest.vpn)!.pfn);
    return setup;
  },
  actors: {
    age(world, setup) {
      const pfn = noted(world, setup, 0);
      const { pages: table, rmap } = world.mm;
      assert(table.tryGet(pfn), 'T-RAP-13: the page is gone');
      table.lock(pfn);
      assert(rmap.pageReferenced(pfn) === 1, 'T-RAP-13: the walk does not find a page that is used');
      table.unlock(pfn);
      table.put(pfn);
    },
    move(world, { guest }) {
      assert(move(world, guest, 2, 0) === PAGE_SIZE, 'T-RAP-13: not moved');
    },
  },
  reach: { 'the walk comes first': 'A.p < M.k', 'the move comes first': 'M.k < A.m' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn + 2) === 41, 'T-RAP-13: the page is not where it was moved');
  },
  mutants: [{ name: 'the move does not lock the page', breaks: { mm: { moveWithoutPageLock: true } } }],
};

/** A word of a page as another thread finds it, without faulting; -1 when it is not there. */
function peek(world: World, { mm, vpn }: Guest, page: number): number {
  const found = world.mm.gup.fast(mm, vpn + page, false);
  if (found < 0) return -1;
  const value = Atomics.load(world.sync.words, frameWord(found & 0xffffff));
  world.mm.pages.put(found & 0xffffff);
  return value;
}

function tell(world: World, { flag }: Setup, slot: number): void {
  Atomics.store(world.sync.words, flag + slot, 1);
  world.sync.waiter.notify(flag + slot, 1);
}

function until(world: World, { flag }: Setup, slot: number): void {
  while (Atomics.load(world.sync.words, flag + slot) === 0) world.sync.waiter.wait(flag + slot, 0);
}

const guestWrites: WorldCase = {
  ...base,
  name: 'T-RAP-14',
  title:
    'the guest writes a page while it moves away: the write is there before, or goes to a new page; T-RAP-15',
  profiles: ALL,
  preemptions: 1,
  setup(world) {
    const setup = pages(world);
    world.touch(setup.guest, GFN, 1);
    world.settle();
    return setup;
  },
  // The guest has what it needs to write without a fault, and does so when the reader has looked.
  actors: {
    vcpu(world, setup) {
      world.vcpu(setup.guest).run(vcpu => {
        vcpu.store(GFN, 42);
        until(world, setup, 0);
        vcpu.store(GFN, 44);
      });
      tell(world, setup, 1);
    },
    move(world, { guest }) {
      assert(move(world, guest, 2, 0) === PAGE_SIZE, 'T-RAP-14: not moved');
      world.sync.y('W.moved');
    },
    reader(world, setup) {
      const first = peek(world, setup.guest, 2);
      world.sync.y('W.read');
      tell(world, setup, 0);
      until(world, setup, 1);
      const second = peek(world, setup.guest, 2);
      assert(first < 0 || first === second, 'OR-2: a page that has moved is written at its old place');
    },
  },
  reach: { 'written before': 'F.a < M.k', 'looked at after the move': 'W.moved < W.read' },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const moved = world.hostLoad(guest.mm, guest.vpn + 2);
    const left = world.hostLoad(guest.mm, guest.vpn);
    const order = `${moved},${left}`;
    assert(['41,44', '42,44', '44,0'].includes(order), 'T-RAP-14: a write is lost, or seen twice');
  },
  mutants: [
    {
      name: 'the secondaries hear of it afterwards (T-RAP-15)',
      breaks: { mm: { moveWithoutBracket: true } },
    },
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
  ],
};

const swapIn: WorldCase = {
  ...quick,
  name: 'T-SWP-06',
  title: 'a page is swapped in while its entry moves: never EBUSY, and its content once (R-12, B-42)',
  setup(world) {
    const setup = pages(world);
    world.swapOut(setup.guest, 0);
    assert(world.primary(setup.guest.mm, setup.guest.vpn) === undefined, 'setup: the page is in swap');
    world.settle();
    return setup;
  },
  actors: {
    touch(world, { guest }) {
      const seen = world.hostLoad(guest.mm, guest.vpn);
      assert(seen === 41 || seen === 0, 'OR-2: the VMM reads what nobody wrote');
    },
    move(world, { guest }) {
      assert(move(world, guest, 2, 0) === PAGE_SIZE, 'T-SWP-06: not moved');
    },
  },
  everyAtomic: true,
  preemptions: 1,
  reach: {},
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn + 2) === 41, 'T-SWP-06: the content is lost');
    assert(world.hostLoad(guest.mm, guest.vpn) === 0, 'T-SWP-06: the content is there twice');
    checkFaults(world, guest, trace);
  },
  mutants: [{ name: 'the count before the entry', breaks: { mm: { moveSwapStale: true } } }],
};

const swapOut: WorldCase = {
  ...quick,
  name: 'T-SWP-07',
  title:
    'a page moves while reclaim takes it: whichever entry it is, content and reverse map go along (B-24)',
  setup: pages,
  actors: {
    reclaim: (world, { guest }) => void world.reclaim(guest, 0),
    move(world, { guest }) {
      assert(move(world, guest, 2, 0) === PAGE_SIZE, 'T-SWP-07: not moved');
    },
  },
  reach: {
    'unmapped first': 'reclaim:I.P < move:V.c',
    'unmapped in between': 'move:V.p < reclaim:I.P < move:V.t',
  },
  oracle(world, { guest }, trace) {
    assert(world.hostLoad(guest.mm, guest.vpn + 2) === 41, 'T-SWP-07: the content is lost');
    checkFaults(world, guest, trace);
  },
  mutants: [
    ...races,
    { name: 'the cached page stays behind', breaks: { mm: { moveSwapWithoutRekey: true } } },
  ],
};

export const cases: readonly AnyCase[] = [
  sameTarget,
  sameSource,
  crosswise,
  ageing,
  guestWrites,
  swapIn,
  swapOut,
];
