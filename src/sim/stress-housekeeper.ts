import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { pteIsPresent, ptePfn } from '../mm/layout.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressHost } from './stress-host.ts';
import { StressHuge } from './stress-huge.ts';
import { counterWord, isIn, type StressLayout, type StressShape } from './stress-layout.ts';
import { StressScrap } from './stress-scrap.ts';
import type { SigbusResolver } from './stress-sigbus.ts';
import type { StressTrail } from './stress-trail.ts';
import type { StressUffd } from './stress-uffd.ts';

export type HousekeeperOptions = {
  host: StressHost;
  layout: StressLayout;
  control: Ptr<'stressControl'>;
  report: Ptr<'stressReport'>;
  shape: StressShape;
  mm: Ptr<'mm'>;
  /** Host virtual address of the memslot's first page. */
  hva: number;
  /** With `--everything`: who fills the holes that it meets. */
  sigbus?: SigbusResolver | undefined;
  trail: StressTrail;
  uffd?: StressUffd | undefined;
};

/** A word that a child saw; it may never see another there. */
type Sample = { page: number; writer: number; value: number };

/** Pages that an address space of the test is asked to give back at a time. */
const RECLAIM = 32;
const AGE = 64;
const REST_MS = 1;
const BOUNCES = 24;
/** Some 50 us. */
const LINGER_LOADS = 8192;
/** Pages that are taken away together with it, every other time: their flush comes later. */
const BOUNCED_WITH = 12;
/** Rounds between two forks, and how many of them a child lives. */
const FORK_EVERY = 64;
const CHILD_LIVES = 24;
const SAMPLES = 32;
/** Pages that have twins in an address space of their own, so that there is something to merge; rounds between. */
const TWINS = 48;
const TWIN_EVERY = 16;
const SCRAP_EVERY = 4;

/** What takes the vCPUs' memory away: reclaim, ageing, DONTNEED, fork, merging. And it counts itself, as a VMM does. */
export class Housekeeper {
  readonly #o: HousekeeperOptions;
  readonly #random: Random;
  readonly #expected: Int32Array;
  readonly #epochsAt: number;
  #child: Ptr<'mm'> | 0 = 0;
  #samples: Sample[] = [];
  #round = 0;
  readonly #huge: StressHuge | undefined;
  readonly #scrap: StressScrap | undefined;
  readonly #twins: Ptr<'mm'>;
  readonly #twinsAt: number;
  readonly #bytes = new Uint8Array(PAGE_SIZE);
  /** What the twins held when they were made; nobody writes them. */
  readonly #made = new Uint8Array(TWINS * PAGE_SIZE);

  constructor(options: HousekeeperOptions) {
    this.#o = options;
    this.#random = new Random(options.shape.seed);
    this.#expected = new Int32Array(options.shape.pages);
    this.#epochsAt = options.layout.control.epochs.load(options.control);
    const { mm } = options.host;
    const { regions } = options.shape;
    this.#huge = regions && new StressHuge({ ...options, ...regions });
    const { sigbus, uffd } = options;
    this.#scrap = uffd && new StressScrap({ ...options, uffd });
    if (sigbus !== undefined)
      mm.access.onSigbus((space, address) => {
        return space === options.mm && sigbus.resolve(Math.floor((address - options.hva) / PAGE_SIZE));
      });
    this.#twins = mm.createMm();
    this.#twinsAt = mm.mmap.map(this.#twins, TWINS * PAGE_SIZE);
    mm.madvise.advise(this.#twins, this.#twinsAt, TWINS * PAGE_SIZE, 'mergeable');
    mm.madvise.advise(options.mm, options.hva, TWINS * PAGE_SIZE, 'mergeable');
  }

  /** Copies what the guest's first pages hold now, and merges those that no vCPU has written since. */
  #merge(): void {
    const { trail, host } = this.#o;
    const { access, ksm } = host.mm;
    for (let page = 0; page < TWINS; page++) {
      trail.did('twin', page);
      this.#checkTwin(page);
      access.copyFromUser(this.#o.mm, this.#address(page), this.#bytes);
      this.#made.set(this.#bytes, page * PAGE_SIZE);
      access.copyToUser(this.#twins, this.#twinsAt + page * PAGE_SIZE, this.#bytes);
    }
    trail.did('merge');
    ksm.fullScans(2);
  }

  /** A twin has not changed, whatever the vCPUs wrote to the page that it was merged with (C-5, C-6). */
  #checkTwin(page: number): void {
    const { host, layout, report, trail } = this.#o;
    host.mm.access.copyFromUser(this.#twins, this.#twinsAt + page * PAGE_SIZE, this.#bytes);
    const [now, made] = [new Int32Array(this.#bytes.buffer), new Int32Array(this.#made.buffer)];
    for (let i = 0; i < now.length; i++) {
      const wanted = made[(page * PAGE_SIZE) / 4 + i] as number;
      if (now[i] === wanted) continue;
      layout.report.staleTwin.add(report, 1);
      trail.witness('a twin changed', page, i, wanted, now[i] as number);
      return;
    }
  }

  /** Nothing of the test's own is left in the arena. */
  end(): void {
    this.endChild();
    this.#scrap?.end();
    this.#o.host.mm.exit(this.#twins);
  }

  round(): void {
    const { host, mm, trail } = this.#o;
    const { memcg: m } = host.mm.layout;
    const memcg = host.mm.layout.mm.memcg.get(mm);
    this.#round++;
    trail.did('age');
    host.mm.vmscan.age(memcg, AGE);
    trail.did('reclaim');
    // With less than half left there would be nothing but pages in use to take.
    if (m.usage.load(memcg) * 2 > m.max.load(memcg)) host.mm.vmscan.reclaim(memcg, RECLAIM);
    this.#pageOut();
    this.#bounce();
    for (let i = 0; i < 4; i++) {
      this.#discard();
      this.#count();
    }
    this.#huge?.round();
    if (this.#round % SCRAP_EVERY === 0) this.#scrap?.round();
    if (this.#round % TWIN_EVERY === 0) this.#merge();
    if (this.#round % FORK_EVERY === 0) this.#fork();
    if (this.#round % FORK_EVERY === CHILD_LIVES) this.endChild();
    // Mostly the vCPUs shall run; at times everything happens at once.
    if (this.#round % 256 < 192) this.#rest();
  }

  #rest(): void {
    const { host, control, layout } = this.#o;
    host.sync.waiter.wait(control + layout.control.stop.at, 0, REST_MS);
  }

  #address(page: number): number {
    return this.#o.hva + page * PAGE_SIZE;
  }

  /** MADV_PAGEOUT of a few neighbours, young or not. */
  #pageOut(): void {
    const { host, mm, shape } = this.#o;
    const count = 1 + this.#random.below(16);
    const page = this.#random.below(shape.pages - count + 1);
    this.#o.trail.did('pageout', page);
    host.mm.madvise.advise(mm, this.#address(page), count * PAGE_SIZE, 'pageout');
  }

  /** A page that every vCPU visits, again and again, so that the two meet at every step of either. */
  #bounce(): void {
    const { host, mm, shape, layout, control } = this.#o;
    const count = this.#random.oneIn(2) ? 1 : BOUNCED_WITH;
    const page = this.#random.below(shape.pages - count + 1);
    layout.control.contended.store(control, page);
    this.#o.trail.did('pageout', page);
    for (let i = 0; i < BOUNCES; i++) {
      if (i % 3 === 0) this.#linger();
      if (i % 3 !== 1) this.#age(page);
      this.#pageOutStaged(page);
      host.mm.madvise.advise(mm, this.#address(page), count * PAGE_SIZE, 'pageout');
    }
  }

  /** The page may be kept elsewhere right now, or be on its way. */
  #pageOutStaged(page: number): void {
    const { host, mm, uffd, shape } = this.#o;
    const region = shape.regions?.sigbus;
    if (uffd === undefined || region === undefined || !isIn(region, page)) return;
    host.mm.madvise.advise(mm, uffd.sigbusStaging + (page - region.first) * PAGE_SIZE, PAGE_SIZE, 'pageout');
  }

  /** Time for a vCPU to find that the page is gone. */
  #linger(): void {
    const { words } = this.#o.host.sync;
    for (let i = this.#random.below(LINGER_LOADS); i > 0; i--) Atomics.load(words, 0);
  }

  /** Reclaim's reference check of one page (M-34). */
  #age(page: number): void {
    const { pageTable, pages, rmap } = this.#o.host.mm;
    const entry = pageTable.entryOf(this.#o.mm, this.#address(page) / PAGE_SIZE);
    if (!pteIsPresent(entry) || !pages.tryGet(ptePfn(entry))) return;
    // The page may have left by now; its reverse map then has nothing to say.
    if (pages.tryLock(ptePfn(entry))) {
      rmap.pageReferenced(ptePfn(entry));
      pages.unlock(ptePfn(entry));
    }
    pages.put(ptePfn(entry));
  }

  /** MADV_DONTNEED of scratch pages; their epochs are odd meanwhile. */
  #discard(): void {
    const { host, mm, shape, layout, report } = this.#o;
    const count = 1 + this.#random.below(4);
    const first = this.#random.below(shape.scratch - count);
    this.#o.trail.did('discard', shape.pages + first);
    for (let i = first; i < first + count; i++) Atomics.add(host.sync.words, this.#epochsAt + i, 1);
    host.mm.madvise.advise(mm, this.#address(shape.pages + first), count * PAGE_SIZE, 'dontneed');
    for (let i = first; i < first + count; i++) Atomics.add(host.sync.words, this.#epochsAt + i, 1);
    layout.report.unmaps.add(report, 1);
  }

  /** A counter of the VMM's own, through the primary page tables. */
  #count(): void {
    const { host, mm, shape, layout, report, trail } = this.#o;
    const page = this.#counted();
    const word = counterWord(shape.vcpus, 0);
    const address = this.#address(page) + word * 4;
    trail.did('count', page);
    const got = host.mm.access.read32(mm, address);
    if (got !== this.#expected[page]) {
      layout.report.lost.add(report, 1);
      trail.witness('the VMM lost a write', page, word, this.#expected[page] as number, got);
    }
    this.#expected[page] = (got + 1) | 0;
    host.mm.access.write32(mm, address, (got + 1) | 0);
    layout.report.checked.add(report, 1);
  }

  /** Any page, and one time in two one that may be protected meanwhile, where there are such. */
  #counted(): number {
    const { pages, regions } = this.#o.shape;
    if (regions === undefined || this.#random.oneIn(2)) return this.#random.below(pages);
    return regions.asked.first + this.#random.below(regions.asked.count);
  }

  /** A child sees the memory of one moment; vCPUs go on writing, each page's first write copying it. */
  #fork(): void {
    this.endChild();
    const { host, mm, shape, layout, report, trail } = this.#o;
    trail.did('fork');
    this.#child = host.mm.fork(mm);
    layout.report.forks.add(report, 1);
    this.#samples = [];
    for (let i = 0; i < SAMPLES; i++) {
      const page = this.#random.below(shape.pages);
      const writer = this.#random.below(shape.vcpus);
      this.#samples.push({ page, writer, value: this.#childWord(page, writer) });
    }
  }

  #childWord(page: number, writer: number): number {
    return this.#o.host.mm.access.read32(
      this.#child as Ptr<'mm'>,
      this.#address(page) + counterWord(writer, 0) * 4,
    );
  }

  /** What the child saw it must see still (T-FRK-03, T-COW-02). */
  endChild(): void {
    if (this.#child === 0) return;
    const { host, layout, report, trail } = this.#o;
    trail.did('child goes');
    for (const { page, writer, value } of this.#samples) {
      const got = this.#childWord(page, writer);
      if (got === value) continue;
      layout.report.staleChild.add(report, 1);
      trail.witness('a child saw a change', page, counterWord(writer, 0), value, got);
    }
    host.mm.exit(this.#child);
    this.#child = 0;
  }
}
