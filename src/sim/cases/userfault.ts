import { assert } from '../../base/assert.ts';
import { ERRNO, Errno } from '../../base/errno.ts';
import { PAGE_SIZE, type Vpn } from '../../base/units.ts';
import { GUP_FAULT, GUP_PFN_MASK, UffdFeature, UffdMode, Userfaultfd } from '../../mm/index.ts';
import { frameWord } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { AnyCase, Case, Event } from '../case.ts';
import { GFN, type Guest, type World, type WorldBreaks } from '../world.ts';
import { base as worldBase } from './faults.ts';

// T-UF, T-LIFE, T-DN, T-FRK: faults on armed holes, their manager, and those who change the layout meanwhile.

type Armed = { mm: Ptr<'mm'>; ctx: Ptr<'uffd'>; vpn: Vpn; flag: number; guest?: Guest };
type ArmedCase = Case<World, Armed, WorldBreaks>;

const PAGES = 4;
const base = { ...worldBase, arena: { frames: 128, heapBytes: 4096 * 24 }, profiles: ['modern'] } as const;

/** A page of a byte, and the word that it then reads as. */
const content = (byte: number): Uint8Array => new Uint8Array(PAGE_SIZE).fill(byte);
const wordOf = (byte: number): number => byte * 0x01010101;

function arm(world: World, mm: Ptr<'mm'>, vpn: Vpn, features: number): Armed {
  const userfault = Userfaultfd.create(world.mm, mm, { nonBlock: true });
  userfault.api(features);
  userfault.register(vpn * PAGE_SIZE, PAGES * PAGE_SIZE, UffdMode.Missing);
  const flag = world.mm.heap.alloc(4);
  return { mm, ctx: userfault.ctx, vpn, flag };
}

/** Four pages that a context has registered; `filled` of them are there. */
function armed(features = 0, filled = 0): (world: World) => Armed {
  return world => {
    const mm = world.mm.createMm({});
    const setup = arm(world, mm, world.mm.mmap.map(mm, PAGES * PAGE_SIZE) / PAGE_SIZE, features);
    for (let page = 0; page < filled; page++) fill(world, setup, page, 9);
    world.settle();
    return setup;
  };
}

/** COPY: 0 or the negative error number. */
function fill(world: World, { ctx, vpn }: Armed, page: number, byte: number): number {
  const result = world.mm.mfill.copy(ctx, (vpn + page) * PAGE_SIZE, content(byte), PAGE_SIZE);
  if (result === -ERRNO.EAGAIN) world.sync.y('W.again');
  return result;
}

/** What a thread reads from a page, sleeping as often as it must; or a negative GUP_ code. */
function touch(world: World, { mm, vpn }: Armed, page = 0, write = true): number {
  const found = world.mm.gup.faultWait(mm, vpn + page, write);
  if (found < 0) return found;
  const word = Atomics.load(world.sync.words, frameWord(found & GUP_PFN_MASK));
  world.mm.pages.put(found & GUP_PFN_MASK);
  world.sync.y('W.done');
  return word;
}

/** Reads one message, sleeping for it. */
function readOne(world: World, { ctx }: Armed): void {
  const { uffdRead } = world.mm;
  for (;;) {
    const seen = uffdRead.seen(ctx);
    if (uffdRead.next(ctx)) return;
    uffdRead.wait(ctx, seen);
  }
}

const close = (world: World, { ctx }: Armed): void => world.mm.uffds.put(ctx);

/** No entry is left, and everything else is in order. */
function checkQuiet(world: World): void {
  world.check();
  assert(world.mm.slabs.uffdWait.used === 0, 'OR-4: an entry is left over');
}

const place = (trace: readonly Event[], label: string): number => trace.findIndex(e => e.label === label);

/** V-54: between the shutting and the opening of the gate nothing is installed. */
function checkGate(trace: readonly Event[]): void {
  const [shut, open] = [place(trace, 'X.ev'), place(trace, 'X.c')];
  const inside = trace.some((e, i) => e.label === 'V.i' && i > shut && i < open && shut >= 0);
  assert(!inside, 'V-54: a page came through a shut gate');
}

/** A resolver that has read nothing, against a fault. */
// B-30: the entry is queued, and then the pte is looked at again.
const lateQueue: ArmedCase = {
  ...base,
  name: 'T-UF-03',
  title:
    'a page is installed while a fault of it is queued: it never sleeps for what is there (F-13, V-24; T-UF-02, -06)',
  setup: armed(),
  actors: {
    fault: (world, setup) => assert(touch(world, setup) === wordOf(7), 'OR-7: not the bytes of the manager'),
    resolve: (world, setup) => assert(fill(world, setup, 0, 7) === 0, 'T-UF-03: the page was there'),
  },
  reach: {
    'T-UF-02': 'V.i < U.t',
    'T-UF-03': 'U.t < V.i, V.b < U.q',
    'T-UF-06': 'U.q < V.i < V.k',
    'V-24': 'U.q < V.i < U.w < V.b',
  },
  oracle(world, { ctx }, trace) {
    checkQuiet(world);
    const [installed, tested] = [place(trace, 'V.i'), place(trace, 'U.t')];
    const asked = place(trace, 'U.q') >= 0;
    assert(!(asked && installed >= 0 && installed < tested), 'T-UF-02: a message about a page that is there');
    assert(!world.mm.uffds.queues.hasUnread(ctx), 'T-UF-06: the reader would get what was woken');
  },
  mutants: [
    { name: 'no look after queueing', breaks: { mm: { queueWithoutRecheck: true } } },
    { name: 'wake only what was read (T-UF-06)', breaks: { mm: { wakeOnlyRead: true } } },
    { name: 'deliver without the lock (T-UF-02, U-11)', breaks: { mm: { deliverUnchecked: true } } },
  ],
};

/** T-ZERO-03: a reader that was about to map the zero page. */
const readHole: ArmedCase = {
  ...lateQueue,
  name: 'T-ZERO-03',
  title: 'a read fault sees a hole that is filled before it looks under the lock: it gets the real data',
  actors: {
    ...lateQueue.actors,
    fault: (world, setup) => assert(touch(world, setup, 0, false) === wordOf(7), 'OR-7: zeros for content'),
  },
  reach: { 'T-ZERO-03': 'U.v < V.i < U.t' },
};

const twoSleepers: ArmedCase = {
  ...base,
  name: 'T-UF-01',
  title: 'two threads fault on one page: one page wakes both',
  setup: armed(),
  actors: {
    a: lateQueue.actors.fault!,
    b: (world, setup) =>
      assert(touch(world, setup, 0, false) === wordOf(7), 'OR-7: not the bytes of the manager'),
    resolve: lateQueue.actors.resolve!,
  },
  reach: { 'T-UF-01': 'a:U.q < V.i, b:U.q < V.i' },
  oracle: checkQuiet,
  mutants: [
    { name: 'no look after queueing', breaks: { mm: { queueWithoutRecheck: true } } },
    { name: 'wake one of them', breaks: { mm: { wakeFirstOnly: true } } },
  ],
};

const twoResolvers: ArmedCase = {
  ...base,
  name: 'T-UF-05',
  title:
    'two resolvers of one page: one EEXIST, the bytes are the other one’s, and its frame is the only one',
  setup: armed(),
  actors: {
    one: (world, setup) => resolveCounted(world, setup, 1),
    two: (world, setup) => resolveCounted(world, setup, 2),
  },
  reach: { 'T-UF-05': 'one:V.c < two:V.i < one:V.t' },
  oracle(world, setup) {
    checkQuiet(world);
    const { words } = world.sync;
    assert(words[setup.flag] === 1, 'T-UF-05: one of them wins');
    assert(
      touch(world, setup) === wordOf(words[setup.flag + 1] as number),
      'OR-7: not the bytes of the winner',
    );
  },
  mutants: [{ name: 'install over what is there', breaks: { mm: { fillWithoutRecheck: true } } }],
};

function resolveCounted(world: World, setup: Armed, byte: number): void {
  const result = fill(world, setup, 0, byte);
  assert(result === 0 || result === -ERRNO.EEXIST, 'T-UF-05: ok or EEXIST');
  if (result !== 0) return;
  Atomics.add(world.sync.words, setup.flag, 1);
  Atomics.store(world.sync.words, setup.flag + 1, byte);
}

const refile: ArmedCase = {
  ...base,
  name: 'T-UF-07',
  title: 'a fault is read while its page is installed: no wake misses it between the queues (V-25, F-32)',
  setup: armed(),
  actors: {
    ...lateQueue.actors,
    read: (world, { ctx }) => void world.mm.uffdRead.next(ctx),
  },
  reach: { 'T-UF-07': 'U.q < R.o < V.k', 'read, then woken': 'R.m < V.b' },
  oracle: checkQuiet,
  mutants: [{ name: 'off one queue, later on the other', breaks: { mm: { refileInTwoSteps: true } } }],
};

// F-32, B-35: what a message tells was copied under the lock of the queues, so that the entry may go.
const killed: ArmedCase = {
  ...base,
  name: 'T-UF-12',
  preemptions: 3,
  title: 'a sleeper is killed unread, read, or as it is read: no entry is left, and a wake finds nobody',
  setup: armed(),
  actors: {
    sleeper(world, { mm, vpn }) {
      world.mm.gup.fault(mm, vpn, true);
      const { ticket } = world.mm.gup;
      world.sync.y('W.kill');
      world.mm.uffdWaits.finish(ticket);
    },
    read: (world, { ctx }) => void world.mm.uffdRead.next(ctx),
    wake: (world, { ctx, vpn }) => void world.mm.uffds.wakeRange(ctx, vpn, vpn + 1),
  },
  reach: { unread: 'U.r < R.o', read: 'R.m < W.kill', between: 'R.o < U.r < R.m', woken: 'V.k < W.kill' },
  oracle(world) {
    checkQuiet(world);
  },
  mutants: [{ name: 'freed while it is queued', breaks: { mm: { finishWithoutUnlink: true } } }],
};

const order: ArmedCase = {
  ...base,
  name: 'T-UF-21',
  title: 'two faults are read in the order in which they were queued',
  setup: armed(),
  actors: {
    a: (world, setup) => void touch(world, setup, 0),
    b: (world, setup) => void touch(world, setup, 1),
    manager(world, setup) {
      for (const name of ['R.first', 'R.second']) {
        readOne(world, setup);
        const page = world.mm.uffdRead.message.vpn - setup.vpn;
        world.sync.y(`${name}.${page}`);
        assert(fill(world, setup, page, 7) === 0, 'T-UF-21: the page was there');
      }
    },
  },
  reach: { 'both wait': 'a:U.q < R.o, b:U.q < R.o' },
  oracle(world, _setup, trace) {
    checkQuiet(world);
    const queued = trace.filter(e => e.label === 'U.q').map(e => (e.actor === 'a' ? 0 : 1));
    const read = trace.filter(e => /^R\.(first|second)/.test(e.label)).map(e => Number(e.label.at(-1)));
    const both = trace.findLastIndex(e => e.label === 'U.q') < place(trace, 'R.o');
    assert(!both || queued.join() === read.join(), 'T-UF-21: not in the order of queueing');
  },
  mutants: [{ name: 'the newest first', breaks: { mm: { readNewestFirst: true } } }],
};

const poll: ArmedCase = {
  ...base,
  name: 'T-WAK-06',
  title: 'a manager that sleeps until something is queued never sleeps while something is',
  setup: armed(),
  actors: {
    fault: lateQueue.actors.fault!,
    manager(world, setup) {
      readOne(world, setup);
      fill(world, setup, 0, 7);
    },
  },
  reach: { 'asleep before': 'manager:sleep < U.q', 'queued before': 'U.q < R.o' },
  oracle: checkQuiet,
  mutants: [{ name: 'told before it is queued', breaks: { mm: { announceBeforeQueue: true } } }],
};

const vcpu: ArmedCase = {
  ...base,
  name: 'T-UF-13',
  title: 'a vCPU and a thread of the VMM wait for one page',
  setup(world) {
    const guest = world.createGuest({ pages: PAGES, vcpus: 1 });
    const setup = arm(world, guest.mm, guest.vpn, 0);
    world.settle();
    return { ...setup, guest };
  },
  actors: {
    vcpu: (world, { guest }) =>
      void world
        .vcpu(guest!)
        .run(cpu => assert(cpu.load(GFN) === wordOf(7), 'OR-7: not the bytes of the manager')),
    thread: lateQueue.actors.fault!,
    resolve: lateQueue.actors.resolve!,
  },
  reach: { 'T-UF-13': 'vcpu:U.q < V.i, thread:U.q < V.i' },
  oracle(world, { guest }) {
    world.check(guest!);
    assert(world.mm.slabs.uffdWait.used === 0, 'OR-4: an entry is left over');
  },
  mutants: [{ name: 'no look after queueing', breaks: { mm: { queueWithoutRecheck: true } } }],
};

const closing: ArmedCase = {
  ...base,
  name: 'T-LIFE-03',
  title: 'the last descriptor is closed under a fault, wherever it is: it never sleeps for ever (V-29)',
  setup: armed(),
  actors: { fault: (world, setup) => assert(touch(world, setup) === 0, 'V-29: ordinary memory'), close },
  reach: {
    'at U.v': 'U.v < X.rel < U.t',
    'at U.t': 'U.t < X.rel < U.ul',
    'at U.q': 'U.q < X.rel < U.k',
    'at U.k': 'U.k < X.rel',
  },
  oracle: checkQuiet,
  mutants: [{ name: 'nobody is woken', breaks: { mm: { releaseWithoutWake: true } } }],
};

const closeOrRegister: ArmedCase = {
  ...base,
  name: 'T-LIFE-04',
  title: 'one thread registers while another closes the descriptor: no mapping keeps a context that is gone',
  setup(world) {
    const setup = armed()(world);
    new Userfaultfd(world.mm, setup.ctx).unregister(setup.vpn * PAGE_SIZE, PAGES * PAGE_SIZE);
    return setup;
  },
  actors: {
    register(world, { ctx, vpn }) {
      try {
        new Userfaultfd(world.mm, ctx).register(vpn * PAGE_SIZE, PAGES * PAGE_SIZE, UffdMode.Missing);
      } catch (error) {
        if (!(error instanceof Errno)) throw error;
      }
      world.sync.y('W.done');
    },
    close,
  },
  reach: { 'register first': 'W.done < X.rel', 'close in between': 'close:X.rel < W.done' },
  oracle(world) {
    world.check();
    assert(world.mm.slabs.uffd.used === 0, 'T-LIFE-04: the context is gone');
  },
  mutants: [{ name: 'a call holds no reference', breaks: { mm: { callWithoutReference: true } } }],
};

const unmapping: ArmedCase = {
  ...base,
  name: 'T-LIFE-01-wake',
  title: 'a range is unmapped under a thread that sleeps in it: it wakes, and its access fails (V-57)',
  setup: armed(),
  actors: {
    fault: (world, setup) => assert(touch(world, setup) === GUP_FAULT, 'V-57: nothing is mapped'),
    unmap: (world, { mm, vpn }) => world.mm.mmap.unmap(mm, vpn * PAGE_SIZE, PAGES * PAGE_SIZE),
  },
  reach: { 'T-LIFE-01': 'U.k < M.0', 'queued before': 'U.q < unmap:V.b' },
  oracle: checkQuiet,
  mutants: [{ name: 'nobody is woken', breaks: { mm: { unmapWithoutWake: true } } }],
};

const unregistering: ArmedCase = {
  ...base,
  name: 'T-LIFE-02',
  title: 'a range is unregistered under a thread that sleeps in it: it wakes, and finds ordinary memory',
  setup: armed(),
  actors: {
    fault: (world, setup) => assert(touch(world, setup) === 0, 'T-LIFE-02: ordinary memory'),
    unregister: (world, { ctx, vpn }) =>
      world.mm.uffdRegister.unregister(ctx, vpn * PAGE_SIZE, PAGES * PAGE_SIZE),
  },
  reach: { 'T-LIFE-02': 'U.k < V.k' },
  oracle: checkQuiet,
  mutants: [{ name: 'nobody is woken (B-34)', breaks: { mm: { unregisterWithoutWake: true } } }],
};

const discard = (world: World, { mm, vpn }: Armed): void =>
  world.mm.madvise.advise(mm, vpn * PAGE_SIZE, PAGE_SIZE, 'dontneed');

const zapOrFill: ArmedCase = {
  ...base,
  name: 'T-DN-01',
  title:
    'a page is given up while a resolver installs it: before the event, or after the gate has opened (T-DN-02)',
  setup: armed(UffdFeature.EventRemove),
  actors: {
    discard,
    manager: readOne,
    resolve(world, setup) {
      const result = fill(world, setup, 0, 7);
      assert(result === 0 || result === -ERRNO.EAGAIN, 'T-DN-01: ok or EAGAIN');
    },
  },
  reach: { 'T-DN-01': 'V.g < X.ev', 'T-DN-02': 'X.ev < W.again' },
  oracle(world, _setup, trace) {
    checkGate(trace);
    checkQuiet(world);
  },
  mutants: [{ name: 'resolvers pass by the gate', breaks: { mm: { skipGate: true } } }],
};

const readerDies: ArmedCase = {
  ...base,
  name: 'T-DN-07',
  title: 'the manager closes instead of reading the event: the mutator goes on (V-55)',
  setup: armed(UffdFeature.EventRemove, 1),
  actors: { discard, close },
  reach: { asleep: 'discard:sleep < X.rel', 'closed before': 'X.rel < discard:X.ev' },
  oracle: checkQuiet,
  mutants: [
    { name: 'nobody is woken', breaks: { mm: { releaseWithoutWake: true } } },
    { name: 'released last', breaks: { mm: { releaseLate: true } } },
  ],
};

const forkOrFill: ArmedCase = {
  ...base,
  name: 'T-FRK-10',
  title: 'a fork that the manager hears of, while a resolver installs a page (T-FRK-05)',
  setup: armed(UffdFeature.EventFork, 1),
  actors: {
    fork(world, { mm }) {
      world.mm.fork(mm);
      world.sync.y('W.forked');
    },
    manager(world, setup) {
      readOne(world, setup);
      world.mm.uffds.put(world.mm.uffdRead.message.child);
    },
    resolve: (world, setup) => void fill(world, setup, 1, 7),
  },
  reach: { 'T-FRK-10': 'X.ev < W.again', 'T-FRK-05': 'X.ev < R.m < W.forked' },
  oracle(world, _setup, trace) {
    checkGate(trace);
    assert(place(trace, 'R.m') < place(trace, 'W.forked'), 'T-FRK-05: fork returned before it was read');
    checkQuiet(world);
  },
  mutants: [{ name: 'resolvers pass by the gate', breaks: { mm: { skipGate: true } } }],
};

const forkOrClose: ArmedCase = {
  ...base,
  name: 'T-FRK-06',
  title:
    'the manager closes instead of reading of the fork: the parent goes on, the child has ordinary memory',
  setup: armed(UffdFeature.EventFork, 1),
  actors: {
    fork(world, setup) {
      const child = world.mm.fork(setup.mm);
      assert(touch(world, { ...setup, mm: child }, 1) === 0, 'V-50: the holes of the child are zeros');
    },
    close,
  },
  reach: { asleep: 'fork:sleep < X.rel', 'closed before': 'X.rel < X.ev' },
  oracle(world) {
    checkQuiet(world);
    assert(world.mm.slabs.uffd.used === 0, 'V-50: the context of the child is released');
  },
  mutants: [{ name: 'nobody is woken', breaks: { mm: { releaseWithoutWake: true } } }],
};

export const cases: readonly AnyCase[] = [
  lateQueue,
  readHole,
  twoSleepers,
  twoResolvers,
  refile,
  killed,
  order,
  poll,
  vcpu,
  closing,
  closeOrRegister,
  unmapping,
  unregistering,
  zapOrFill,
  readerDies,
  forkOrFill,
  forkOrClose,
];
