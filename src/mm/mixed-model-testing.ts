import { PAGE_SIZE } from '../base/units.ts';
import type { Advice } from './madvise.ts';
import {
  address,
  BASE,
  type Cell,
  cell,
  INODE_PAGES,
  LENGTHS,
  MixedSpaces,
  PAGES,
  type Space,
} from './mixed-spaces-testing.ts';
import { UffdFeature, UffdMode } from './userfaultfd/state.ts';
import { Userfaultfd } from './userfaultfd/userfaultfd.ts';

// A random script over everything at once: huge and merged pages, user faults, moves, mremap, shared memory, locks,
// swap, forks and pins. What pages must hold is kept in a Map; after each step every invariant is proved.

const ADVICES: Advice[] = [
  ...([
    'dontneed',
    'dontneed',
    'free',
    'pageout',
    'pageout',
    'cold',
    'mergeable',
    'mergeable',
    'unmergeable',
  ] as const),
  ...([
    'hugepage',
    'hugepage',
    'nohugepage',
    'userfault',
    'nouserfault',
    'collapse',
    'collapse',
    'remove',
  ] as const),
  ...(['populate-read', 'populate-write', 'dontfork', 'dofork'] as const),
];

type Call = (space: Space, first: number, count: number, value: number) => string | undefined;
type UffdCall = (fd: Userfaultfd, ...rest: Parameters<Call>) => string | undefined;

const { Sigbus, WpUnpopulated, WpAsync } = UffdFeature;
const { Missing, Wp, Minor } = UffdMode;
const bytesOf = (pages: number): number => pages * PAGE_SIZE;

/** How often a call is made, beside the others. */
const WEIGHTS: Record<string, number> = {
  ...{ write: 6, read: 4, advise: 6, map: 2, unmap: 1, mremap: 3, protect: 2, fork: 1, exit: 1, reclaim: 2 },
  ...{
    ksm: 3,
    ksmUnmerge: 1,
    khugepaged: 2,
    numa: 1,
    mlock: 2,
    munlock: 2,
    lockall: 1,
    punch: 1,
    truncate: 1,
  },
  ...{
    pin: 1,
    pinWrite: 1,
    unpin: 1,
    move: 2,
    open: 5,
    close: 1,
    register: 4,
    unregister: 1,
    copy: 3,
    zeropage: 2,
  },
  ...{ poison: 1, continue: 1, protectUffd: 2, moveUffd: 3 },
};
const NAMES = Object.entries(WEIGHTS).flatMap(([name, weight]) => Array<string>(weight).fill(name));

export class MixedModel extends MixedSpaces {
  readonly #calls: Record<string, Call> = {
    write: (space, first, count, value) => {
      for (let p = first; p < first + Math.min(count, 16); p++) this.write(space, p, value);
      return undefined;
    },
    read: (space, first, count) => {
      for (let p = first; p < first + Math.min(count, 16); p++) this.read(space, p);
      return undefined;
    },
    advise: (space, first, count) => this.#advise(space, first, count),
    map: (space, first, count, value) => this.map(space, first, count, value),
    unmap: (space, first, count) =>
      this.try(() => {
        this.core.mmap.unmap(space.mm, address(first), bytesOf(count));
        for (let p = first; p < first + count; p++) space.cells.delete(p);
      }),
    mremap: (space, first, count, value) => this.#mremap(space, first, count, value),
    protect: (space, first, count, value) => this.#protect(space, first, count, value > 0),
    fork: space => this.fork(space),
    exit: space => (this.spaces.length > 1 ? this.exit(space) : 'the last'),
    reclaim: ({ mm }) => {
      const { vmscan, layout } = this.core;
      vmscan.reclaim(layout.mm.memcg.get(mm), 1 + this.random.below(300));
      return undefined;
    },
    ksm: () => `${Math.sign(this.core.ksm.scan(50 + this.random.below(3000)))}`,
    ksmUnmerge: () => this.try(() => this.core.ksm.set('run', 2)),
    khugepaged: () => `${this.core.khugepaged.step(PAGES)}`,
    numa: ({ mm }, first, count) => {
      this.core.numa.changeProtNuma(mm, BASE + first, BASE + first + count);
      return undefined;
    },
    mlock: ({ mm }, first, count, value) =>
      this.try(() => this.core.mlock.lock(mm, address(first), bytesOf(Math.min(count, 9)), value === 0)),
    munlock: ({ mm }, first, count) =>
      this.try(() => this.core.mlock.unlock(mm, address(first), bytesOf(count))),
    lockall: ({ mm }, _first, _count, value) =>
      this.try(() => (value === 0 ? this.core.mlock.lockAll(mm, 5) : this.core.mlock.unlockAll(mm))),
    punch: (_space, first, count) => {
      this.core.shmem.punchHole(this.inode, bytesOf(first), bytesOf(count));
      for (let i = first; i < first + count; i++) this.shared.delete(i);
      return undefined;
    },
    truncate: (_space, _first, _count, value) => {
      const size = value === 0 ? this.random.below(INODE_PAGES) : INODE_PAGES;
      this.core.shmem.truncate(this.inode, bytesOf(size));
      for (const i of [...this.shared.keys()]) if (i >= size) this.shared.delete(i);
      return undefined;
    },
    pin: (space, first) => this.pin(space, first),
    pinWrite: (_space, _first, _count, value) => this.pinWrite(value),
    unpin: () => this.unpin(),
    move: (space, first, count) => this.#move(space, first, count, undefined),
    open: space => this.#open(space),
    close: space => {
      space.fd?.close();
      space.fd = undefined;
      return undefined;
    },
  };
  readonly #uffdCalls: Record<string, UffdCall> = {
    register: (fd, space, first, count) => {
      space.armed = true;
      const mode = this.random.pick([Missing, Wp, Missing | Wp, Missing | Minor]);
      return this.try(() => void fd.register(address(first), bytesOf(count), mode));
    },
    unregister: (fd, _space, first, count) => this.try(() => fd.unregister(address(first), bytesOf(count))),
    copy: (fd, space, first, count, value) => {
      const source = new Uint8Array(bytesOf(count));
      for (let i = 0; i < count; i++) source[bytesOf(i)] = value;
      const { mfill } = this.core;
      const code = mfill.copy(fd.ctx, address(first), source, bytesOf(count), this.random.oneIn(3) ? 2 : 0);
      this.each(space, first, this.pagesDone(mfill.result), c => this.set(c, value));
      return `${code}`;
    },
    zeropage: (fd, space, first, count) => {
      const { mfill } = this.core;
      const code = mfill.zeropage(fd.ctx, address(first), bytesOf(count));
      this.each(space, first, this.pagesDone(mfill.result), c => this.set(c, 0));
      return `${code}`;
    },
    poison: (fd, _space, first, count) => `${this.core.mfill.poison(fd.ctx, address(first), bytesOf(count))}`,
    continue: (fd, _space, first, count) =>
      `${this.core.mfill.continue(fd.ctx, address(first), bytesOf(count), this.random.oneIn(4) ? 2 : 0)}`,
    protectUffd: (fd, _space, first, count, value) =>
      `${this.core.writeProtect.protect(fd.ctx, address(first), bytesOf(count), value > 1 ? 1 : 0)}`,
    moveUffd: (fd, space, first, count) => this.#move(space, first, count, fd),
  };

  /** One call, whose outcome is noted. */
  step(): void {
    const name = this.random.pick(NAMES);
    const space = this.random.pick(this.spaces);
    const [first, count] = this.within(space, name, ...this.range());
    const value = this.random.below(4);
    this.log.push(`${name} space ${this.spaces.indexOf(space)} [${first},+${count}) value ${value}`);
    const outcome = this.#call(name, space, first, count, value) ?? 'ok';
    this.log[this.log.length - 1] += ` ${outcome}`;
    this.counts[`${name} ${outcome}`] = (this.counts[`${name} ${outcome}`] ?? 0) + 1;
  }

  #call(name: string, space: Space, first: number, count: number, value: number): string | undefined {
    const call = this.#calls[name];
    if (call !== undefined) return call(space, first, count, value);
    return space.fd === undefined ? 'no fd' : this.#uffdCalls[name]!(space.fd, space, first, count, value);
  }

  #open(space: Space): string | undefined {
    if (space.fd !== undefined) return 'open';
    const closePolicy = this.random.pick(['poison', 'mainline', 'hang'] as const);
    space.fd = Userfaultfd.create(this.core, space.mm, { nonBlock: true, closePolicy });
    space.fd.api(this.random.pick([Sigbus, Sigbus | WpUnpopulated, Sigbus | WpAsync]));
    return closePolicy;
  }

  #protect(space: Space, first: number, count: number, write: boolean): string | undefined {
    const code = this.try(() =>
      this.core.mmap.protect(space.mm, address(first), bytesOf(count), { read: true, write }),
    );
    this.each(space, first, count, c => {
      if (code === undefined) c.readOnly = !write;
      else c.readOnly ||= !write;
    });
    return code;
  }

  #mremap(space: Space, first: number, count: number, kind: number): string | undefined {
    const [target] = this.range();
    const pages = this.random.oneIn(2) ? count : this.random.pick(LENGTHS);
    if (target + pages > PAGES) return 'none';
    const keep = kind === 3;
    const to = address(target);
    const inPlace = kind === 0;
    if (inPlace && first + pages > PAGES) return 'none';
    // With FIXED the target may be unmapped before what fails.
    const before = new Map(space.cells);
    const code = this.try(() =>
      this.core.mremap.remap(
        space.mm,
        address(first),
        count * PAGE_SIZE,
        pages * PAGE_SIZE,
        inPlace ? {} : { mayMove: true, to, keep },
      ),
    );
    const moved = [...Array(pages)].map((_, i) => before.get(first + i));
    if (code !== undefined) {
      if (!inPlace && code === 'ENOMEM') throw new Error('ENOMEM in mremap');
      return code;
    }
    const template = before.get(first)!;
    const last = before.get(first + Math.min(count, pages) - 1)!;
    const grown = (i: number): Cell =>
      cell({ readOnly: template.readOnly, ino: last.ino < 0 ? -1 : template.ino + i });
    if (inPlace) {
      for (let i = pages; i < count; i++) space.cells.delete(first + i);
      for (let i = count; i < pages; i++) space.cells.set(first + i, grown(i));
      return;
    }
    for (let i = 0; i < count; i++) {
      const c = before.get(first + i);
      if (keep && c !== undefined) space.cells.set(first + i, cell({ readOnly: c.readOnly, ino: c.ino }));
      else space.cells.delete(first + i);
    }
    for (let i = 0; i < pages; i++) space.cells.set(target + i, i < count ? moved[i]! : grown(i));
    return;
  }

  #advise(space: Space, first: number, count: number): string | undefined {
    const advice = this.random.pick(ADVICES);
    this.log[this.log.length - 1] += ` ${advice}`;
    const code = this.try(() =>
      this.core.madvise.advise(space.mm, address(first), count * PAGE_SIZE, advice),
    );
    if (advice === 'userfault') space.armed = true;
    const partial = code !== undefined && code !== 'ENOMEM';
    if (advice === 'dontneed') {
      if (partial) this.unknown(space, first, count);
      else this.each(space, first, count, (c, page) => this.hole(space, c, page));
      // Locked parts were refused, and stay.
    } else if (advice === 'free') this.each(space, first, count, c => (c.lazy = c.ino < 0));
    else if (advice === 'remove') {
      this.each(space, first, count, c => {
        if (c.ino < 0) return;
        if (code === undefined) this.shared.delete(c.ino);
        else this.shared.set(c.ino, undefined);
      });
    }
    return `${advice} ${code ?? 'ok'}`;
  }

  #move(space: Space, first: number, count: number, fd: Userfaultfd | undefined): string | undefined {
    const { move } = this.core;
    let [target] = this.range();
    if (this.random.oneIn(3))
      [first, target, count] = [this.random.below(3) * 512, this.random.below(3) * 512, 512];
    if (fd !== undefined) [first, target] = [target, first];
    if (target + count > PAGES || first + count > PAGES || Math.abs(target - first) < count) return 'none';
    const holes = this.random.oneIn(2);
    const [dst, src] = [address(target), address(first)];
    let done: number;
    if (fd === undefined) done = move.remapAnonPages(space.mm, dst, src, count * PAGE_SIZE, holes ? 1 : 0);
    else {
      move.move(fd.ctx, space.mm, dst, src, count * PAGE_SIZE, holes ? 2 : 0);
      done = move.result ?? -1;
    }
    for (let i = 0; i < this.pagesDone(done); i++) {
      const from = space.cells.get(first + i)!;
      const into = space.cells.get(target + i)!;
      space.cells.set(target + i, { ...from, readOnly: into.readOnly });
      this.hole(space, from, first + i);
    }
    return done > 0 ? 'moved' : `${done}`;
  }
}
