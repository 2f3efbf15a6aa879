import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import type { AnyCase } from '../case.ts';
import { base, COUNTED, checkFaults, fourPages, type WorldCase } from './faults.ts';

// C-16: memory is locked while reclaim has its pages in hand.

/** When mlock has returned the page is there, and stays. */
const lockAgainstReclaim: WorldCase = {
  ...base,
  name: 'mlock-reclaim',
  title:
    'mlock of a page that reclaim is about to unmap: once mlock has returned the page is in memory (C-16)',
  // Under seed08 there is no named point between the two looks.
  profiles: COUNTED,
  setup: fourPages,
  actors: {
    lock(world, { guest }) {
      const { mm, vpn } = guest;
      // The whole VMA: a split would wait for reclaim, which has the anon_vma lock.
      world.mm.mlock.lock(mm, vpn * PAGE_SIZE, guest.pages * PAGE_SIZE);
      assert(world.primary(mm, vpn) !== undefined, 'C-16: mlock has returned and the page is not there');
    },
    reclaim: (world, { guest }) => void world.reclaim(guest, 0),
  },
  reach: {
    'unmapped first, and brought back': 'reclaim:M.k < lock:L.f',
    'locked between the two looks': 'reclaim:S.l < lock:L.p < reclaim:M.0',
  },
  oracle(world, { guest }, trace) {
    checkFaults(world, guest, trace);
    assert(world.primary(guest.mm, guest.vpn) !== undefined, 'C-16: a locked page was taken');
    assert(world.hostLoad(guest.mm, guest.vpn) === 41, 'OR-2: a page lost its content');
  },
  mutants: [
    { name: 'the flag is looked at without the lock of the entry', breaks: { mm: { mlockSeenEarly: true } } },
  ],
};

export const cases: readonly AnyCase[] = [lockAgainstReclaim];
