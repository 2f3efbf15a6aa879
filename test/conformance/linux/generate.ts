import type { Random } from '../../../src/base/random.ts';
import { MAP } from '../../../src/mm/syscalls/abi.ts';
import { UffdFeature } from '../../../src/mm/userfaultfd/state.ts';
import { splitsHuge } from './differences.ts';
import type { Script, Step } from './script.ts';

const PAGE = 0x1000;
const HUGE = 512 * PAGE;

/** Where in the window calls go, and how far they reach. */
type Places = { page(r: Random): number; pages(r: Random): number };

/** Small, so that calls meet. */
const PAGES = 24;
const SMALL: Places = {
  page: r => r.below(PAGES),
  pages: r => 1 + r.below(r.oneIn(3) ? PAGES : 4),
};

/** Areas of 2 MiB, whole, in part, and from inside one to inside another. */
const AREAS = 4;
const LARGE: Places = {
  page: r => r.below(AREAS) * 512 + (r.oneIn(2) ? 0 : r.pick([1, 3, 255, 256, 511])),
  pages: r => (r.oneIn(3) ? r.pick([1, 2, 5, 257]) : r.pick([512, 512, 512, 1024, 511, 513, 1536])),
};
const PROTS = [3, 3, 3, 3, 1, 1, 0, 7, 5];
const FIXED = MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED;
const ADVICE = [4, 4, 4, 8, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 22, 23, 23, 0, 3];
const FREE = 8;
const REMOVE = 9;
const PAGEOUT = 21;
const HUGEPAGE = 14;
const COLLAPSE = 25;
const MERGEABLE = 12;
/** Offsets in a page that are touched; a dump reads them. */
const OFFSETS = [0, 8, 0x800];

type Weighted = readonly (readonly [weight: number, make: (g: Generator) => Step | undefined])[];

/** Makes one script: a few mappings first, then calls that get in each other's way. */
export class Generator {
  readonly r: Random;
  /** Does it map shared memory? */
  shares = false;
  #places = SMALL;
  /** What one in three scripts of its kind may do. */
  #oneInThree = false;
  #value = 3;
  #alike = false;
  #processes = [0];
  #openers: number[] = [];
  #born = 1;

  constructor(r: Random) {
    this.r = r;
  }

  /** With `races` one that does; else one in ten. */
  script(length: number, races = false): Script {
    const kind = races ? 'race' : this.#kind();
    this.#oneInThree = this.r.oneIn(3);
    if (kind === 'huge') return this.#huge(length >> 1);
    this.shares = kind === 'shared';
    const steps: Step[] = [this.#map(0, 16 * PAGE), this.#map(this.page(), this.pages() * PAGE)];
    if (kind === 'race') return this.#race(steps, length);
    if (this.r.oneIn(50)) steps.push(this.#of(0, 'memlock', this.r.below(PAGES) * PAGE));
    return this.#rest(steps, length, 16 * PAGE, this.shares ? SHARED_CALLS : CALLS);
  }

  /**
   * Not everything in every script: where FREE, COLD or PAGEOUT split a huge page, how many pages are mapped can't be
   * compared. Of shared memory, PAGEOUT takes the mapping alone in Linux, and nothing in ours; and a hole that is punched
   * takes UFFDIO_POISON with it in ours, not in Linux.
   */
  #isWanted(step: Step): boolean {
    const advice = step.call === 'madvise' ? step.args[2] : undefined;
    if (!this.shares) return this.#places === SMALL || this.#oneInThree || !splitsHuge(step);
    if (advice === PAGEOUT) return false;
    return this.#oneInThree ? advice !== REMOVE : step.call !== 'poison';
  }

  #kind(): 'plain' | 'race' | 'shared' | 'huge' {
    if (this.r.oneIn(10)) return 'race';
    if (this.r.oneIn(6)) return 'huge';
    return this.r.oneIn(4) ? 'shared' : 'plain';
  }

  /** In 2 MiB areas, most of which want to be huge. Shorter, as a look at a process touches all of them. */
  #huge(length: number): Script {
    this.#places = LARGE;
    const bytes = 2 * HUGE;
    const steps = [this.#of(0, 'thp', 1), this.#map(0, bytes), this.step('madvise', 0, bytes, HUGEPAGE)];
    return this.#rest(steps, length, bytes, HUGE_CALLS);
  }

  #rest(steps: Step[], length: number, registered: number, calls: Weighted): Script {
    const asksForPages = this.r.oneIn(2);
    if (asksForPages) steps.push(...this.#openUffd(0), this.uffd('register', 0, registered, this.modes()));
    while (steps.length < length) {
      const step = this.#pick(asksForPages && this.r.oneIn(2) ? UFFD_CALLS : calls);
      if (step !== undefined && this.#isWanted(step)) steps.push(step);
    }
    return [...steps, ...this.#processes.flatMap(p => ENDINGS.map(call => this.#of(p, call)))];
  }

  /**
   * Beside a thread that pages out, merges and forks: no calls whose outcome that may change, so no lazily freed
   * pages and no looks at what is resident.
   */
  #race(steps: Step[], length: number): Script {
    this.#alike = true;
    steps.push(this.#of(0, 'race'), this.step('madvise', 0, PAGES * PAGE, MERGEABLE));
    while (steps.length < length) {
      const step = this.#pick(RACE_CALLS);
      const lazy = step?.call === 'madvise' && step.args[2] === FREE;
      if (step !== undefined && !lazy && step.call !== 'maps' && step.call !== 'mincore') steps.push(step);
    }
    return [...steps, ...this.#processes.map(p => this.#of(p, 'dump'))];
  }

  /** Without a handler every missing page is a SIGBUS, so that nobody ever waits. */
  #openUffd(process: number): Step[] {
    this.#openers.push(process);
    if (this.r.oneIn(4)) {
      const policy = this.r.pick(this.shares && !this.#oneInThree ? [1, 1, 2] : [1, 1, 2, 3]);
      // A protected hole takes a copy alone: any other answer would be asked for again, for ever.
      const features = this.#some(policy === 1 ? [...EVENTS, Feature.WpUnpopulated] : EVENTS);
      return [this.#of(process, 'handler', policy, features)];
    }
    const features = Feature.Sigbus | this.#some([Feature.WpUnpopulated, Feature.ExactAddress]);
    return [this.#of(process, 'uffd', 0x800), this.#of(process, 'api', 0xaa, features)];
  }

  /** A call of a process that has a descriptor. */
  uffd(call: string, ...args: number[]): Step {
    const alive = this.#openers.filter(process => this.#processes.includes(process));
    return this.#of(this.r.pick(alive), call, ...args);
  }

  reopen(): Step | undefined {
    const [first, second] = this.#openUffd(this.r.pick(this.#processes));
    return second === undefined ? first : this.#of(second.process, 'handler', 1, 0);
  }

  /** Register modes, and now and then none or one that there isn't. */
  modes(): number {
    if (this.r.oneIn(20)) return this.r.pick([0, 4, 8]);
    // Of shared memory, ours has no write protection.
    return this.r.pick(this.shares && !this.r.oneIn(20) ? [1, 1, 4, 5] : [1, 1, 1, 2, 3, 3]);
  }

  /** Nothing, or now and then one of the mode bits. */
  mode(...bits: number[]): number {
    return this.r.oneIn(20) ? 8 : this.r.oneIn(4) ? this.r.pick(bits) : 0;
  }

  #some(bits: readonly number[]): number {
    return bits.filter(() => this.r.oneIn(3)).reduce((all, bit) => all | bit, 0);
  }

  #map(at: number, bytes: number): Step {
    return this.step('mmap', at, bytes, 3, this.shares && this.r.oneIn(2) ? SHARED_FIXED : FIXED);
  }

  #pick(of: Weighted): Step | undefined {
    let left = this.r.below(of.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, make] of of) if ((left -= weight) < 0) return make(this);
    return undefined;
  }

  #of(process: number, call: string, ...args: number[]): Step {
    return { process, call, args };
  }

  step(call: string, ...args: number[]): Step {
    return this.#of(this.r.pick(this.#processes), call, ...args);
  }

  page(): number {
    return this.#places.page(this.r) * PAGE;
  }

  pages(): number {
    return this.#places.pages(this.r);
  }

  /** A range of pages; once in a while one that isn't. */
  range(): [number, number] {
    const at = this.page();
    const bytes = this.pages() * PAGE;
    if (!this.r.oneIn(25)) return [at, bytes];
    return this.r.pick([
      [at + 0x10, bytes],
      [at, bytes - 0x10],
      [at, 0],
      [at + 0x800, 0],
    ]);
  }

  lock(): Step {
    const range = this.range();
    if (this.r.oneIn(3)) return this.step('munlock', ...range);
    if (this.r.oneIn(2)) return this.step('mlock', ...range);
    return this.step('mlock2', ...range, this.r.oneIn(15) ? 2 : this.r.below(2));
  }

  mremap(): Step {
    const [from, bytes] = this.range();
    const newBytes = this.r.oneIn(3) ? bytes : this.pages() * PAGE;
    const to = this.r.oneIn(25) ? this.page() + 0x10 : this.page();
    return this.step('mremap', from, bytes, newBytes, this.r.pick(MREMAP_FLAGS), to);
  }

  touch(): number {
    return this.page() + this.r.pick(OFFSETS);
  }

  /** One that nobody else writes; where pages are to be merged, often one that many do. */
  value(): number {
    return this.#alike && this.r.oneIn(2) ? 1 + this.r.below(2) : this.#value++;
  }

  /** Where a page is written at one place alone, another may come to equal it. */
  touchAlike(): number {
    return this.r.oneIn(3) ? this.touch() : this.page();
  }

  fork(): Step | undefined {
    if (this.#born === 5) return undefined;
    const step = this.step('fork', this.#born);
    this.#processes.push(this.#born++);
    return step;
  }

  exit(): Step | undefined {
    const process = this.r.pick(this.#processes);
    if (process === 0) return undefined;
    this.#processes = this.#processes.filter(p => p !== process);
    return this.#of(process, 'exit');
  }
}

const ENDINGS = ['log', 'maps', 'dump', 'log'];
const SHARED_FIXED = MAP.SHARED | MAP.ANONYMOUS | MAP.FIXED;
const MMAP_SHARED = [SHARED_FIXED, SHARED_FIXED, MAP.SHARED | MAP.ANONYMOUS, SHARED_FIXED | MAP.POPULATE];
const MMAP_FLAGS = [FIXED, FIXED, FIXED, FIXED, MAP.PRIVATE | MAP.ANONYMOUS];
const MMAP_RARE = [
  MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED_NOREPLACE,
  FIXED | MAP.POPULATE,
  FIXED | MAP.NORESERVE,
  MAP.ANONYMOUS | MAP.FIXED,
];

const MREMAP_FLAGS = [3, 3, 3, 3, 3, 7, 7, 0, 0, 1, 5, 2, 4, 8];

const Feature = UffdFeature;
const EVENTS = [
  Feature.EventFork,
  Feature.EventRemap,
  Feature.EventRemove,
  Feature.EventUnmap,
  Feature.ExactAddress,
];

const UFFD_CALLS: Weighted = [
  [12, g => g.uffd('register', ...g.range(), g.modes())],
  [5, g => g.uffd('unregister', ...g.range())],
  [2, g => g.uffd('wake', ...g.range())],
  [14, g => g.uffd('copy', ...g.range(), g.mode(1, 2), g.value())],
  [3, g => g.uffd('copyfrom', ...g.range(), g.mode(1, 2), g.page())],
  [7, g => g.uffd('zeropage', ...g.range(), g.mode(1))],
  [10, g => g.uffd('writeprotect', ...g.range(), g.r.pick([1, 1, 1, 0, 0, 2, 3]))],
  [12, g => g.uffd('move', g.page(), ...g.range(), g.r.pick([0, 0, 1, 2, 2]))],
  [5, g => g.uffd('poison', ...g.range(), g.mode(1))],
  [3, g => g.uffd('continue', ...g.range(), g.mode(1))],
  [1, g => g.uffd('uread')],
  [1, g => g.uffd('poll')],
  [4, g => g.uffd('log')],
  [1, g => g.uffd('close')],
  [1, g => g.reopen()],
];

const CALLS: Weighted = [
  [30, g => g.step('write', g.touch(), g.value())],
  [14, g => g.step('read', g.touch())],
  [12, g => g.step('mmap', ...g.range(), g.r.pick(PROTS), g.r.pick(g.r.oneIn(4) ? MMAP_RARE : MMAP_FLAGS))],
  [6, g => g.step('munmap', ...g.range())],
  [8, g => g.mremap()],
  [10, g => g.step('mprotect', ...g.range(), g.r.oneIn(30) ? 0x40 : g.r.pick(PROTS))],
  [18, g => g.step('madvise', ...g.range(), g.r.oneIn(30) ? 99 : g.r.pick(ADVICE))],
  [6, g => g.lock()],
  [5, g => g.fork()],
  [3, g => g.exit()],
  [4, g => g.step('mincore', ...g.range())],
  [2, g => g.step('maps')],
];

/** No calls that need a handler: nobody answers between the steps of a race. */
const RACE_CALLS: Weighted = [
  ...CALLS,
  [30, g => g.step('write', g.touchAlike(), g.value())],
  [8, g => g.step('madvise', ...g.range(), MERGEABLE)],
  [2, g => g.step('race')],
];

/** Beside private memory, objects that are mapped more than once, by a fork or by mremap. */
const SHARED_CALLS: Weighted = [
  ...CALLS,
  [14, g => g.step('mmap', ...g.range(), g.r.pick(PROTS), g.r.pick(MMAP_SHARED))],
  [6, g => g.step('madvise', ...g.range(), REMOVE)],
  [4, g => g.step('mremap', g.page(), 0, g.pages() * PAGE, g.r.pick([1, 3, 3]), g.page())],
  [5, g => g.fork()],
];

const HUGE_ADVICE = [14, 14, 15, 4, 4, 8, 20, 21, 22, 23, 23, COLLAPSE, COLLAPSE, COLLAPSE, COLLAPSE];
const HUGE_CALLS: Weighted = [
  ...CALLS,
  [30, g => g.step('madvise', ...g.range(), g.r.pick(HUGE_ADVICE))],
  [4, g => g.step('maps')],
];
