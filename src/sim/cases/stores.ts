import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE, type Vpn } from '../../base/units.ts';
import { UffdFeature, UffdMode, Userfaultfd } from '../../mm/index.ts';
import { UffdWriteProtect } from '../../mm/userfaultfd/writeprotect.ts';
import { frameWord } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { AnyCase, Case, Schedules } from '../case.ts';
import type { World, WorldBreaks } from '../world.ts';
import { base } from './faults.ts';

// A thread of the VMM stores to a page (mm/access.ts) whose entry loses its rights, or goes elsewhere, meanwhile. The
// store is there when the change returns, or is made anew by what the entry then says.

type Mm = Ptr<'mm'>;
/** The word is at `vpn` when it is stored to, and to be seen at `seen` of `view` after the change. */
type Setup = { mm: Mm; vpn: Vpn; view: Mm; seen: Vpn; flag: number; ctx: Ptr<'uffd'> };
type StoreCase = Case<World, Setup, WorldBreaks>;

const PAGES = 4;
const WAS = 41;
const STORED = 42;

function pages(world: World): Setup {
  const mm = world.mm.createMm({});
  const vpn = world.mm.mmap.map(mm, PAGES * PAGE_SIZE) / PAGE_SIZE;
  world.hostStore(mm, vpn, WAS);
  const flag = world.mm.heap.alloc(4);
  world.settle();
  return { mm, vpn, view: mm, seen: vpn, flag, ctx: 0 as Ptr<'uffd'> };
}

/** EFAULT where there is nothing to write to any more. */
function store(world: World, { mm, vpn, flag }: Setup): void {
  try {
    world.mm.access.write32(mm, vpn * PAGE_SIZE, STORED);
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
  }
  Atomics.store(world.sync.words, flag, 1);
  world.sync.waiter.notify(flag, 1);
}

/** A word as another thread finds it, without faulting; -1 when it is not there. */
function peek(world: World, { view, seen }: Setup): number {
  const found = world.mm.gup.fast(view, seen, false);
  if (found < 0) return -1;
  const value = Atomics.load(world.sync.words, frameWord(found & 0xffffff));
  world.mm.pages.put(found & 0xffffff);
  return value;
}

/** What is seen once `change` has returned, and when the store is over. */
function changed(world: World, setup: Setup, change: () => void): { first: number; last: number } {
  change();
  const first = peek(world, setup);
  world.sync.y('W.read');
  while (Atomics.load(world.sync.words, setup.flag) === 0) world.sync.waiter.wait(setup.flag, 0);
  const last = peek(world, setup);
  assert(first === WAS || first === STORED, 'the page has gone');
  return { first, last };
}

const reach: Schedules = {
  'the change comes between look-up and store': 'A.h < M.0',
  'the store comes first': 'A.s < M.0',
  'the store comes last': 'W.read < A.h',
};
const { 'the store comes last': _faults, ...gone } = reach;

const storeBase = {
  ...base,
  profiles: ['modern'],
  reach,
  oracle: (world: World) => world.check(),
  mutants: [{ name: 'a store is held by a reference like any other', breaks: { mm: { storeUnheld: true } } }],
} as const;

/** WP_ASYNC: a later store is let through, and marks the page as written. */
const protect: StoreCase = {
  ...storeBase,
  name: 'store-protect',
  title: 'the VMM stores to a page that WRITEPROTECT protects: what comes after it is seen (V-36, V-37)',
  setup(world) {
    const setup = pages(world);
    const fd = Userfaultfd.create(world.mm, setup.mm, { nonBlock: true });
    fd.api(UffdFeature.WpAsync | UffdFeature.WpUnpopulated);
    fd.register(setup.vpn * PAGE_SIZE, PAGES * PAGE_SIZE, UffdMode.Wp);
    world.settle();
    return { ...setup, ctx: fd.ctx };
  },
  actors: {
    store,
    protect(world, setup) {
      const at = setup.vpn * PAGE_SIZE;
      const { first, last } = changed(world, setup, () => {
        const { Wp } = UffdWriteProtect;
        assert(world.mm.writeProtect.protect(setup.ctx, at, PAGE_SIZE, Wp) === 0, 'V-36: not protected');
      });
      const written = world.mm.writeProtect.written(setup.mm, at, PAGE_SIZE).length > 0;
      assert(first === last || written, 'V-36: a store landed that the protection missed');
    },
  },
};

/** With a manager: the page does not change until it is let. */
const protectAndAsk: StoreCase = {
  ...storeBase,
  name: 'store-protect-ask',
  title: 'the same with somebody who is asked: the page keeps what it held until its protection ends (V-36)',
  setup(world) {
    const setup = pages(world);
    const fd = Userfaultfd.create(world.mm, setup.mm, { nonBlock: true });
    fd.api(UffdFeature.PagefaultFlagWp);
    fd.register(setup.vpn * PAGE_SIZE, PAGES * PAGE_SIZE, UffdMode.Wp);
    world.settle();
    return { ...setup, ctx: fd.ctx };
  },
  actors: {
    store,
    protect(world, setup) {
      const { writeProtect } = world.mm;
      const at = setup.vpn * PAGE_SIZE;
      assert(
        writeProtect.protect(setup.ctx, at, PAGE_SIZE, UffdWriteProtect.Wp) === 0,
        'V-36: not protected',
      );
      const first = peek(world, setup);
      world.sync.y('W.read');
      assert(peek(world, setup) === first, 'V-36: a page was written while it was protected');
      assert(writeProtect.protect(setup.ctx, at, PAGE_SIZE, 0) === 0, 'V-36: still protected');
    },
  },
};

const mprotect: StoreCase = {
  ...storeBase,
  name: 'store-mprotect',
  title: 'the VMM stores to a page that mprotect makes read-only (C-17)',
  setup: pages,
  reach: gone,
  actors: {
    store,
    protect(world, setup) {
      const { first, last } = changed(world, setup, () =>
        world.mm.mmap.protect(setup.mm, setup.vpn * PAGE_SIZE, PAGES * PAGE_SIZE, { read: true }),
      );
      assert(first === last, 'C-17: a store landed after the right to it was gone');
    },
  },
};

/** Far enough that it has a table of its own. */
const AWAY: Vpn = 1 << 17;

const mremap: StoreCase = {
  ...storeBase,
  name: 'store-mremap',
  title: 'the VMM stores to a page that mremap takes elsewhere (C-15)',
  setup: world => ({ ...pages(world), seen: AWAY }),
  reach: gone,
  actors: {
    store,
    move(world, setup) {
      const bytes = PAGES * PAGE_SIZE;
      const { first, last } = changed(world, setup, () =>
        world.mm.mremap.remap(setup.mm, setup.vpn * PAGE_SIZE, bytes, bytes, {
          mayMove: true,
          to: AWAY * PAGE_SIZE,
        }),
      );
      assert(first === last, 'C-15: a store to the old address landed at the new one');
    },
  },
};

const move: StoreCase = {
  ...storeBase,
  name: 'store-move',
  title: 'the VMM stores to a page that remap_anon_pages moves (R-9, R-17)',
  setup(world) {
    const setup = pages(world);
    return { ...setup, seen: setup.vpn + 2 };
  },
  reach: {
    'the change comes between look-up and store': 'A.h < M.k',
    'the store comes last': 'W.read < A.h',
  },
  actors: {
    store,
    move(world, setup) {
      const [to, from] = [setup.seen * PAGE_SIZE, setup.vpn * PAGE_SIZE];
      const { first, last } = changed(world, setup, () => {
        const moved = world.mm.move.remapAnonPages(setup.mm, to, from, PAGE_SIZE, 0);
        assert(moved === PAGE_SIZE, 'R-9: not moved');
      });
      assert(first === last, 'R-9: a store to the old address landed at the new one');
    },
  },
};

const unmapShared: StoreCase = {
  ...storeBase,
  name: 'store-unmap-shared',
  title: 'the VMM stores to a page of shared memory while its mapping goes, and another stays (J-9)',
  setup(world) {
    const { mmap, shmem } = world.mm;
    const setup = pages(world);
    const inode = shmem.create(PAGE_SIZE);
    const [mm, view] = [setup.mm, world.mm.createMm({})];
    const vpn = mmap.map(mm, PAGE_SIZE, { shared: inode }) / PAGE_SIZE;
    const seen = mmap.map(view, PAGE_SIZE, { shared: inode }) / PAGE_SIZE;
    world.hostStore(mm, vpn, WAS);
    world.hostLoad(view, seen);
    world.settle();
    return { ...setup, vpn, view, seen };
  },
  reach: gone,
  actors: {
    store,
    unmap(world, setup) {
      const { first, last } = changed(world, setup, () =>
        world.mm.mmap.unmap(setup.mm, setup.vpn * PAGE_SIZE, PAGE_SIZE),
      );
      assert(first === last, 'J-9: a store landed after its mapping was gone');
    },
  },
};

export const cases: readonly AnyCase[] = [protect, protectAndAsk, mprotect, mremap, move, unmapShared];
