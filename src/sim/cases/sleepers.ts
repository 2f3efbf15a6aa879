import { assert } from '../../base/assert.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { UffdMode, Userfaultfd } from '../../mm/index.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type World } from '../world.ts';
import { ALL, base, checkFaults, fourPages, type Setup, type WorldCase } from './faults.ts';

// A vCPU that sleeps for a page that a program is to bring, against those who change its VM.

/** The third page is a hole that a context, named by `flag`, is asked for; slot 1 shows the first two again. */
function asleep(world: World): Setup {
  const setup = fourPages(world);
  const { guest } = setup;
  world.setSlot(guest.vm, 1, GFN + 16, guest.vpn, 2);
  world.touch(guest, GFN + 16, 0);
  const userfault = Userfaultfd.create(world.mm, guest.mm, { nonBlock: true });
  userfault.api(0);
  userfault.register((guest.vpn + 2) * PAGE_SIZE, PAGE_SIZE, UffdMode.Missing);
  world.settle();
  return { guest, flag: userfault.ctx };
}

function readOne({ mm: { uffdRead } }: World, { flag }: Setup): void {
  for (;;) {
    const seen = uffdRead.seen(flag as never);
    if (uffdRead.next(flag as never)) return;
    uffdRead.wait(flag as never, seen);
  }
}

function fill(world: World, { guest, flag }: Setup): void {
  const bytes = new Uint8Array(PAGE_SIZE).fill(7);
  const result = world.mm.mfill.copy(flag as never, (guest.vpn + 2) * PAGE_SIZE, bytes, PAGE_SIZE);
  assert(result === 0, 'sleepers: the page was there');
}

/** Who sleeps for a page has left its read section of the slots, so that an update never waits for a program. */
// L-15
const updateWhileAsleep: WorldCase = {
  ...base,
  arena: { frames: 128, heapBytes: 4096 * 24 },
  name: 'T-SLOT-07',
  title:
    'the thread that answers user faults deletes a slot before it answers: it does not wait for the sleeper',
  profiles: ALL,
  setup: asleep,
  actors: {
    vcpu: (world, { guest }) =>
      void world.vcpu(guest).run(vcpu => {
        assert(vcpu.load(GFN + 2) === 0x07070707, 'OR-7: not the bytes of the manager');
      }),
    manager(world, setup) {
      readOne(world, setup);
      world.setSlot(setup.guest.vm, 1, GFN + 16, setup.guest.vpn, 0);
      fill(world, setup);
    },
  },
  reach: { 'T-SLOT-07': 'U.k < vcpu:sleep < G.pub', 'awake still': 'G.pub < U.k' },
  oracle: (world, { guest }, trace) => checkFaults(world, guest, trace),
  mutants: [{ name: 'asleep in its read section', breaks: { kvm: { sleepInReadSection: true } } }],
};

export const cases: readonly AnyCase[] = [updateWhileAsleep];
