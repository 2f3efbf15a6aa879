import { assert } from '../../base/assert.ts';
import type { AnyCase } from '../case.ts';
import { base, checkFaults, fourPages, type WorldCase } from './faults.ts';

// Swap-in against swap-out, stopped before every atomic access: the windows here have no names.

/** The page is in swap, and its slot was the last one taken. */
const reused: WorldCase = {
  ...base,
  name: 'swap-slot-reused',
  title:
    'a swap-in is overtaken by one that frees the slot and a swap-out that takes it again (mm-figures B.3)',
  profiles: ['modern'],
  everyAtomic: true,
  preemptions: 1,
  maxSteps: 4000,
  setup(world) {
    const setup = fourPages(world);
    world.swapOut(setup.guest, 0);
    assert(world.primary(setup.guest.mm, setup.guest.vpn) === undefined, 'setup: the page is in swap');
    world.settle();
    return setup;
  },
  actors: {
    slow(world, { guest }) {
      const seen = world.hostLoad(guest.mm, guest.vpn);
      assert(seen === 41 || seen === 44, 'OR-2: the VMM reads what nobody wrote');
    },
    quick(world, { guest }) {
      world.hostStore(guest.mm, guest.vpn, 44);
      world.swapOut(guest, 0);
    },
  },
  reach: {},
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.hostLoad(guest.mm, guest.vpn) === 44, 'mm-figures B.3: a write is lost');
  },
  mutants: [{ name: 'the pte alone is compared', breaks: { mm: { swapInByPteAlone: true } } }],
};

/** Two threads touch a hole. */
const firstTouch: WorldCase = {
  ...base,
  name: 'first-touch',
  title: 'two threads write to the same hole: one page comes of it',
  profiles: ['modern'],
  everyAtomic: true,
  preemptions: 1,
  maxSteps: 4000,
  setup: fourPages,
  actors: {
    a: (world, { guest }) => world.hostStore(guest.mm, guest.vpn + 2, 1, 1),
    b: (world, { guest }) => world.hostStore(guest.mm, guest.vpn + 2, 2, 2),
  },
  reach: {},
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    const values = [1, 2].map(word => world.hostLoad(guest.mm, guest.vpn + 2, word));
    assert(values.join() === '1,2', 'OR-2: a write is lost');
  },
  mutants: [{ name: 'no second look at the pte', breaks: { mm: { faultWithoutRecheck: true } } }],
};

export const cases: readonly AnyCase[] = [reused, firstTouch];
