import { assert } from '../../base/assert.ts';
import { ERRNO } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { UffdMode } from '../../mm/userfaultfd/state.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { AnyCase, Case } from '../case.ts';
import { GFN, type Guest, type World, type WorldBreaks } from '../world.ts';
import { ALL, base, COUNTED } from './faults.ts';

// Memory that two address spaces map: a guest's fault on a page against a hole that is punched there (V-61).

type Setup = { guest: Guest; view: Guest; inode: Ptr<'inode'> };
type ShmemCase = Case<World, Setup, WorldBreaks>;

const PAGES = 2;

/** A guest over shared memory, and another address space that maps it too. The first page is cached: 41. */
function twoViews(world: World): Setup {
  const { mmap, shmem, madvise } = world.mm;
  const inode = shmem.create(PAGES * PAGE_SIZE);
  const views = [0, 1].map(() => {
    const mm = world.mm.createMm({});
    const vpn = mmap.map(mm, PAGES * PAGE_SIZE, { shared: inode }) / PAGE_SIZE;
    return world.createGuest({ pages: PAGES, vcpus: 1, mm, vpn });
  });
  const [guest, view] = views as [Guest, Guest];
  world.hostStore(view.mm, view.vpn, 41);
  // Tables exist, so that the walk has something to find; the guest's page is unmapped again.
  world.hostStore(guest.mm, guest.vpn + 1, 43);
  madvise.advise(guest.mm, guest.vpn * PAGE_SIZE, PAGE_SIZE, 'dontneed');
  world.settle();
  return { guest: { ...guest, others: [view] }, view, inode };
}

const punch: ShmemCase = {
  ...base,
  name: 'shmem-punch',
  title:
    'a fault on a cached page of shared memory against fallocate(PUNCH_HOLE) by another address space (V-61)',
  profiles: ALL,
  setup: twoViews,
  actors: {
    vcpu(world, { guest }) {
      world.vcpu(guest).run(vcpu => {
        vcpu.increment(GFN);
        vcpu.stopPoint();
        assert([0, 1, 42].includes(vcpu.load(GFN)), 'OR-2: the guest reads what nobody wrote');
      });
    },
    punch: (world, { inode }) => world.mm.shmem.punchHole(inode, 0, PAGE_SIZE),
  },
  reach: {
    'found, then punched': 'vcpu:H.f < punch:H.r',
    'mapped after the range was emptied, before the page is taken out': 'punch:M.k < vcpu:F.p < punch:H.r',
  },
  oracle(world, { guest, view }) {
    world.check(guest);
    const values = [guest, view].map(({ mm, vpn }) => world.hostLoad(mm, vpn));
    assert(values[0] === values[1], 'V-61: two views show different pages');
    assert([0, 1].includes(values[0] as number), 'a punched page is zero until it is written');
  },
  mutants: [
    { name: 'the range is unmapped once', breaks: { mm: { punchUnmapsOnce: true } } },
    { name: 'what the cache had is mapped', breaks: { mm: { mapUncached: true } } },
    { name: 'skip the zap', breaks: { kvm: { skipZap: true } } },
  ],
};

/** The guest's view is registered; a manager maps what the loader has put into the cache. */
const resolve: Case<World, Setup & { ctx: Ptr<'uffd'> }, WorldBreaks> = {
  ...base,
  name: 'shmem-continue',
  title:
    'UFFDIO_CONTINUE of a cached page against a hole punched there: the page is mapped and cached, or neither (V-33)',
  profiles: COUNTED,
  setup(world) {
    const setup = twoViews(world);
    const { mm, vpn } = setup.guest;
    const ctx = world.mm.uffds.create(mm, 0);
    world.mm.uffdRegister.register(ctx, vpn * PAGE_SIZE, PAGES * PAGE_SIZE, UffdMode.Minor);
    world.settle();
    return { ...setup, ctx };
  },
  actors: {
    manager(world, { guest, ctx }) {
      const code = world.mm.mfill.continue(ctx, guest.vpn * PAGE_SIZE, PAGE_SIZE);
      assert(code === 0 || code === -ERRNO.EFAULT, 'V-33: mapped, or a hole by then');
    },
    punch: (world, { inode }) => world.mm.shmem.punchHole(inode, 0, PAGE_SIZE),
  },
  reach: { 'found, then punched': 'manager:H.f < punch:H.r' },
  oracle(world, { guest, view }) {
    world.check(guest);
    assert(world.primary(guest.mm, guest.vpn) === undefined, 'V-33: a page that was punched is mapped');
    assert(world.hostLoad(view.mm, view.vpn) === 0, 'a punched page is zero until it is written');
  },
  mutants: [
    { name: 'the range is unmapped once', breaks: { mm: { punchUnmapsOnce: true } } },
    { name: 'what the cache had is mapped', breaks: { mm: { mapUncached: true } } },
  ],
};

export const cases: readonly AnyCase[] = [punch, resolve];
