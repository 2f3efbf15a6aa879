import { Errno } from '../base/errno.ts';
import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmBreaks } from './breaks.ts';
import type { MmCore } from './core.ts';
import { GUP_PFN_MASK } from './fault-codes.ts';
import { testMm } from './testing.ts';
import type { Userfaultfd } from './userfaultfd/userfaultfd.ts';

// The address spaces of a random script (mixed-model-testing.ts), each with what its pages must hold.

type Mm = Ptr<'mm'>;

/** First page: 2 MiB aligned. */
export const BASE = 0x20000;
export const PAGES = 3 * 512;
export const INODE_PAGES = 700;
export const address = (page: number): number => (BASE + page) * PAGE_SIZE;

/** What a page must hold. `value` undefined: anything. `lazy`: or zero. `ino`: the value is the inode's. */
export type Cell = { value: number | undefined; lazy: boolean; readOnly: boolean; ino: number; pin: number };
export type Space = {
  mm: Mm;
  cells: Map<number, Cell>;
  fd: Userfaultfd | undefined;
  armed: boolean;
};

export const cell = (over: Partial<Cell> = {}): Cell => ({
  ...{ value: 0, lazy: false, readOnly: false, ino: -1, pin: -1 },
  ...over,
});
/** Pages that scripts come back to: the ends of tables, and a few beyond. */
const EDGES = [
  0, 1, 2, 3, 4, 5, 6, 7, 255, 508, 510, 511, 512, 513, 514, 700, 1020, 1023, 1024, 1025, 1100, 1533, 1535,
];
export const LENGTHS = [1, 1, 2, 4, 9, 512, 600] as const;
/** Makes address spaces, reads and writes them, and holds pages of theirs as a device does. */
export class MixedSpaces {
  readonly core: MmCore;
  protected readonly random: Random;
  protected readonly spaces: Space[] = [];
  protected readonly inode: Ptr<'inode'>;
  /** Of the inode: what pages hold; those absent are holes. */
  protected readonly shared = new Map<number, number | undefined>();
  protected readonly pins: number[] = [];
  /** For the report of a failure. */
  readonly log: string[] = [];
  /** How often each call came to what end. */
  readonly counts: Record<string, number> = {};

  constructor(seed: number, breaks: Partial<MmBreaks> = {}) {
    this.random = new Random(seed);
    this.core = testMm({ frames: 5120, swap: { kind: 'zram', bytes: 16 << 20 }, breaks });
    this.core.ksm.set('use_zero_pages', seed % 2);
    this.inode = this.core.shmem.create(INODE_PAGES * PAGE_SIZE);
    const mm = this.core.createMm({ limitPages: 2200 });
    this.spaces.push({ mm, cells: new Map(), fd: undefined, armed: false });
    this.map(this.spaces[0]!, 0, PAGES, 0);
  }

  protected page(): number {
    return this.random.oneIn(3) ? this.random.below(PAGES) : this.random.pick(EDGES);
  }

  /** A range within the window. */
  protected range(): [number, number] {
    const first = this.random.oneIn(3) ? this.random.below(3) * 512 : this.page();
    return [first, Math.min(PAGES - first, this.random.pick(LENGTHS))];
  }

  /** Mostly a part of one mapping, for a resolver of one that is registered: else most calls would be refused. */
  protected within({ mm, fd }: Space, op: string, first: number, count: number): [number, number] {
    const { core } = this;
    const { start, end, uffd } = core.layout.vma;
    if (this.random.oneIn(4)) return [first, count];
    const resolver = /copy|zeropage|poison|continue|protectUffd|moveUffd|unregister/.test(op);
    let vma = core.mmap.find(mm, address(first));
    for (let i = 0; resolver && fd !== undefined && i < core.vmas.count(mm); i++)
      if (uffd.get(core.vmas.at(mm, i)) === fd.ctx && this.random.oneIn(2)) vma = core.vmas.at(mm, i);
    if (vma === 0) return [first, count];
    const [from, to] = [start.get(vma) - BASE, end.get(vma) - BASE];
    const at = first >= from && first < to ? first : from + this.random.below(to - from);
    return [at, Math.min(count, to - at)];
  }

  /** Runs a call; the Errno's code if it throws one. */
  protected try(work: () => void): string | undefined {
    try {
      work();
      return undefined;
    } catch (error) {
      if (error instanceof Errno) return error.code;
      throw error;
    }
  }

  protected each(space: Space, first: number, count: number, work: (c: Cell, page: number) => void): void {
    for (let p = first; p < first + count; p++) {
      const at = space.cells.get(p);
      if (at !== undefined) work(at, p);
    }
  }

  protected unknown(space: Space, first: number, count: number): void {
    this.each(space, first, count, c => this.set(c, undefined));
  }

  protected get(c: Cell): number | undefined {
    return c.ino < 0 ? c.value : this.shared.has(c.ino) ? this.shared.get(c.ino) : 0;
  }

  protected set(c: Cell, value: number | undefined): void {
    if (c.ino < 0) c.value = value;
    else this.shared.set(c.ino, value);
    c.lazy = false;
  }

  protected hole(space: Space, c: Cell, page: number): void {
    if (c.ino >= 0) return;
    space.cells.set(page, cell({ readOnly: c.readOnly }));
  }

  protected pagesDone(bytes: number | undefined): number {
    return bytes === undefined || bytes < 0 ? 0 : bytes / PAGE_SIZE;
  }

  protected map(space: Space, first: number, count: number, kind: number): string | undefined {
    const { core } = this;
    const shared = kind === 3;
    const offset = this.random.below(300);
    return this.try(() => {
      core.mmap.map(space.mm, count * PAGE_SIZE, {
        ...{ address: address(first), fixed: 'replace' as const },
        ...(shared ? { shared: this.inode, offset: offset * PAGE_SIZE } : {}),
        ...(kind === 2 ? { locked: count < 10 } : {}),
      });
      for (let p = first; p < first + count; p++)
        space.cells.set(p, cell({ ino: shared ? offset + p - first : -1 }));
    });
  }

  protected fork(space: Space): string | undefined {
    if (this.spaces.length >= 3) return 'enough';
    return this.try(() => {
      const child = this.core.fork(space.mm);
      const cells = new Map<number, Cell>();
      for (const [page, c] of space.cells) {
        // MADV_DONTFORK is seen from the child's mappings.
        if (this.core.mmap.find(child, address(page)) !== 0) cells.set(page, { ...c, pin: -1 });
      }
      this.spaces.push({ mm: child, cells, fd: undefined, armed: space.armed });
    });
  }

  protected exit(space: Space): undefined {
    const fdFirst = this.random.oneIn(2);
    if (fdFirst) space.fd?.close();
    this.core.exit(space.mm);
    if (!fdFirst) space.fd?.close();
    this.spaces.splice(this.spaces.indexOf(space), 1);
  }

  protected write(space: Space, page: number, value: number): void {
    const c = space.cells.get(page);
    const code = this.try(() => this.core.access.write32(space.mm, address(page), value));
    if (c === undefined) {
      if (code !== 'EFAULT') throw new Error(`write to unmapped ${page}: ${code}`);
      return;
    }
    if (code === undefined) {
      this.set(c, value);
      return;
    }
    const blank = !this.get(c) || c.lazy;
    const fine =
      code === 'ENOMEM' ||
      (code === 'EFAULT' && (c.readOnly || space.armed || c.ino >= 0)) ||
      (code === 'EHWPOISON' && blank);
    if (!fine) throw new Error(`write of ${page}: ${code} ${JSON.stringify(c)}`);
    this.counts[`write refused ${code}`] = (this.counts[`write refused ${code}`] ?? 0) + 1;
  }

  protected read(space: Space, page: number): void {
    const c = space.cells.get(page);
    let value = 0;
    const code = this.try(() => {
      value = this.core.access.read32(space.mm, address(page));
    });
    if (c === undefined) {
      if (code !== 'EFAULT') throw new Error(`read of unmapped ${page}: ${code}`);
      return;
    }
    const wanted = this.get(c);
    const blank = !wanted || c.lazy;
    if (code !== undefined) {
      const fine =
        code === 'ENOMEM' ||
        (code === 'EFAULT' && (c.ino >= 0 || (space.armed && blank))) ||
        (code === 'EHWPOISON' && blank);
      if (!fine) throw new Error(`read of ${page}: ${code} ${JSON.stringify(c)}`);
      return;
    }
    if (wanted === undefined) {
      this.set(c, value);
      return;
    }
    if (value !== wanted && !(c.lazy && value === 0))
      throw new Error(
        `page ${page} of space ${this.spaces.indexOf(space)} holds ${value}, not ${wanted} ${JSON.stringify(c)}`,
      );
    if (value === 0 && c.lazy) this.set(c, 0);
  }

  protected pin(space: Space, page: number): string | undefined {
    const c = space.cells.get(page);
    if (c === undefined || c.ino >= 0 || c.pin >= 0 || this.pins.length > 6) return 'none';
    const found = this.core.gup.fault(space.mm, BASE + page, true);
    if (found < 0) return `${found}`;
    c.pin = found & GUP_PFN_MASK;
    this.pins.push(c.pin);
    return;
  }

  /** A device writes to what it holds: whoever maps the page must see it. */
  protected pinWrite(value: number): string | undefined {
    const cells = this.spaces.flatMap(space => [...space.cells.values()]).filter(c => c.pin >= 0);
    if (cells.length === 0) return 'none';
    const c = this.random.pick(cells);
    Atomics.store(this.core.sync.words, frameWord(c.pin), value);
    this.core.pages.setDirty(c.pin);
    this.set(c, value);
    return;
  }

  protected unpin(): string | undefined {
    const pfn = this.pins.pop();
    if (pfn === undefined) return 'none';
    for (const { cells } of this.spaces) for (const c of cells.values()) if (c.pin === pfn) c.pin = -1;
    this.core.pages.put(pfn);
    return;
  }

  readAll(): void {
    for (const space of this.spaces) for (let p = 0; p < PAGES; p += 1) this.read(space, p);
  }

  end(): void {
    while (this.pins.length > 0) this.unpin();
    while (this.spaces.length > 0) this.exit(this.spaces[0]!);
    this.core.shmem.put(this.inode);
    this.core.ksm.fullScans(1);
    // What was held as its last mapping went is left to reclaim, in the swap cache.
    this.core.vmscan.reclaim(0 as Ptr<'memcg'>, 5000);
    this.core.checkInvariants();
    const { slabs } = this.core;
    const left = (
      ['mm', 'vma', 'avc', 'anonVma', 'ksmItem', 'ksmNode', 'uffd', 'uffdWait', 'inode'] as const
    ).filter(name => slabs[name].used !== 0);
    if (left.length > 0) throw new Error(`left over: ${left.join()}`);
  }
}
