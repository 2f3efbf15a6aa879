import { ERRNO } from '../base/errno.ts';
import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { type UserfaultEvent, Userfaultfd } from '../mm/index.ts';
import { UffdFill } from '../mm/userfaultfd/mfill.ts';
import { UffdWriteProtect } from '../mm/userfaultfd/writeprotect.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressHost } from './stress-host.ts';
import {
  COUNTERS,
  counterWord,
  isIn,
  MAX_WRITERS,
  type StressLayout,
  type StressRegions,
  type StressShape,
} from './stress-layout.ts';
import type { StressTrail } from './stress-trail.ts';
import type { StressUffd } from './stress-uffd.ts';

export type ManagerOptions = {
  host: StressHost;
  layout: StressLayout;
  control: Ptr<'stressControl'>;
  report: Ptr<'stressReport'>;
  shape: StressShape;
  regions: StressRegions;
  uffd: StressUffd;
  mm: Ptr<'mm'>;
  hva: number;
  trail: StressTrail;
};

/** Where the content of a page of the region is. This thread alone moves it. */
const Where = { Nowhere: 0, Guest: 1, Staged: 2 } as const;
/** Pages taken away, or protected, at a time. */
const RUN = 8;
/** Messages read between two changes of this thread's own. */
const MESSAGES = 16;
/** Protections that nobody has written through end by themselves after so many rounds. */
const PROTECTED_ROUNDS = 64;
/** Rounds with this bit protect; in the others there is time for the area to become huge. */
const PROTECTS = 256;
/** Contexts of children that are served at a time; the others are closed at once. */
const CHILDREN = 2;
const SLEEP_MS = 1;

/**
 * Answers the user faults of the guest, and brings them about: moves pages to where it keeps them, and protects
 * pages. Their content is carried by the moved page, so a lost write is a wrong counter.
 */
export class StressManager {
  readonly #o: ManagerOptions;
  readonly #random: Random;
  readonly #fd: Userfaultfd;
  readonly #sigbus: Userfaultfd;
  readonly #told: Userfaultfd;
  readonly #where: Uint8Array;
  /** Round at which a page was protected; 0: it isn't. */
  readonly #protected: Int32Array;
  /** The counters of each protected page as they were once it was protected. */
  readonly #snapshots: Int32Array;
  readonly #bytes = new Uint8Array(PAGE_SIZE);
  readonly #words = new Int32Array(this.#bytes.buffer);
  readonly #zeros = new Uint8Array(PAGE_SIZE);
  readonly #children: Userfaultfd[] = [];
  readonly #counted: number;
  /** Pages whose answer must wait, as the gate is shut. */
  #later: number[] = [];
  #round = 0;

  constructor(options: ManagerOptions) {
    const { host, uffd, regions, shape } = options;
    this.#o = options;
    this.#random = new Random(shape.seed * 17 + 5);
    this.#fd = new Userfaultfd(host.mm, uffd.asked as Ptr<'uffd'>);
    this.#sigbus = new Userfaultfd(host.mm, uffd.sigbus as Ptr<'uffd'>);
    this.#told = new Userfaultfd(host.mm, uffd.told as Ptr<'uffd'>);
    this.#where = new Uint8Array(regions.asked.count);
    this.#protected = new Int32Array(regions.asked.count);
    this.#counted = MAX_WRITERS * COUNTERS;
    this.#snapshots = new Int32Array(regions.asked.count * this.#counted);
  }

  /** Answers what there is; while the test goes on it also takes away. */
  round(takes: boolean): void {
    const { host } = this.#o;
    this.#round++;
    const seen = host.mm.uffdRead.seen(this.#fd.ctx);
    const answered = this.#serve();
    this.#serveZeros(this.#told);
    this.#serveChildren();
    if (takes) {
      this.#takeAway();
      this.#takeSigbus();
      if ((this.#round & PROTECTS) !== 0 && this.#random.oneIn(2)) this.#protectRun();
      if (this.#random.oneIn(4)) this.#answerTwice();
    }
    this.#expire(takes ? PROTECTED_ROUNDS : 0);
    if (!answered && this.#later.length === 0) host.mm.uffdRead.wait(this.#fd.ctx, seen, SLEEP_MS);
  }

  /** The last close of each context; who still sleeps is woken. */
  end(): void {
    for (const child of this.#children.splice(0)) child.close();
    this.#fd.close();
    this.#sigbus.close();
    this.#told.close();
  }

  #count(field: 'asked' | 'protections' | 'moves' | 'events' | 'staleProtected', by = 1): void {
    this.#o.layout.report[field].add(this.#o.report, by);
  }

  #failed(code: number): void {
    const { layout, report } = this.#o;
    layout.report.code.store(report, code);
    layout.report.failed.add(report, 1);
  }

  /** Address in the guest of a page of the region, and the place where it is kept. */
  #guest = (i: number): number => this.#o.hva + (this.#o.regions.asked.first + i) * PAGE_SIZE;
  #staged = (i: number): number => this.#o.uffd.askedStaging + i * PAGE_SIZE;

  #serve(): boolean {
    const later = this.#later.splice(0);
    for (const i of later) this.#answerHole(i);
    for (let n = 0; n < MESSAGES; n++) {
      const event = this.#fd.tryRead();
      if (event === undefined) return n > 0;
      this.#handle(event);
    }
    return true;
  }

  #handle(event: UserfaultEvent): void {
    if (event.event !== 'pagefault') this.#count('events');
    if (event.event === 'fork') this.#adopt(event.child);
    if (event.event !== 'pagefault') return;
    const i = Math.floor(event.address / PAGE_SIZE) - this.#guest(0) / PAGE_SIZE;
    if (event.wp) this.#answerWrite(i);
    else this.#answerHole(i);
  }

  #answerWrite(i: number): void {
    this.#count('asked');
    this.#count('protections');
    this.#unprotect(i);
  }

  /** A second message about a page that has come meanwhile wants nothing but a wake. */
  #answerHole(i: number): void {
    const result = this.#fill(i);
    if (result === -ERRNO.EAGAIN) this.#later.push(i);
    else if (result !== 0) this.#failed(result);
    else this.#count('asked');
  }

  #fill(i: number): number {
    if (this.#where[i] === Where.Staged) return this.#giveBack(i);
    if (this.#where[i] === Where.Guest) {
      this.#fd.wake(this.#guest(i), PAGE_SIZE);
      return 0;
    }
    return this.#fillFirst(i);
  }

  #fillFirst(i: number): number {
    const { host, regions, trail } = this.#o;
    const { mfill } = host.mm;
    const [ctx, at] = [this.#fd.ctx, this.#guest(i)];
    trail.did('fill', regions.asked.first + i);
    const kind = this.#random.below(3);
    const result =
      kind === 0
        ? mfill.zeropage(ctx, at, PAGE_SIZE)
        : mfill.copy(ctx, at, this.#zeros, PAGE_SIZE, kind === 1 ? UffdFill.Wp | UffdFill.DontWake : 0);
    if (result !== 0) return result;
    this.#where[i] = Where.Guest;
    if (kind === 1) {
      this.#protected[i] = this.#round;
      this.#remember(i);
      this.#fd.wake(at, PAGE_SIZE);
    }
    return 0;
  }

  /** By MOVE, by the call of 2014, or by COPY of what is kept. */
  #giveBack(i: number): number {
    const { host, mm, regions, trail } = this.#o;
    const kind = this.#random.below(3);
    trail.did('giveBack', regions.asked.first + i);
    const [to, from] = [this.#guest(i), this.#staged(i)];
    let result: number = -ERRNO.EBUSY;
    if (kind === 0) result = host.mm.move.move(this.#fd.ctx, mm, to, from, PAGE_SIZE, 0);
    if (kind === 1) result = host.mm.move.remapAnonPages(mm, to, from, PAGE_SIZE, 0);
    // A page that a child has a share in does not move.
    if (result === -ERRNO.EBUSY) return this.#copyBack(i);
    if (result < 0) return result;
    this.#where[i] = Where.Guest;
    this.#count('moves');
    if (kind === 1) this.#fd.wake(to, PAGE_SIZE);
    return 0;
  }

  #copyBack(i: number): number {
    const { host, mm, regions, trail } = this.#o;
    trail.did('copyBack', regions.asked.first + i);
    const result = host.mm.mfill.copyFrom(this.#fd.ctx, this.#guest(i), mm, this.#staged(i), PAGE_SIZE);
    if (result !== 0) return result;
    this.#where[i] = Where.Guest;
    host.mm.madvise.advise(mm, this.#staged(i), PAGE_SIZE, 'dontneed');
    return 0;
  }

  /** The run of pages from a random one on that are in the guest and not protected. */
  #pickRun(): { first: number; count: number } {
    const { asked } = this.#o.regions;
    const first = this.#random.below(asked.count);
    const most = Math.min(1 + this.#random.below(RUN), asked.count - first);
    let count = 0;
    while (count < most && this.#where[first + count] === Where.Guest && this.#protected[first + count] === 0)
      count++;
    return { first, count };
  }

  /** Away with a run of pages. What can't move stays. */
  #takeAway(): void {
    const { host, mm, regions, trail } = this.#o;
    const { first, count } = this.#pickRun();
    if (count === 0) return;
    trail.did('takeAway', regions.asked.first + first);
    const { move } = host.mm;
    const [to, from, bytes] = [this.#staged(first), this.#guest(first), count * PAGE_SIZE];
    const modern = !this.#random.oneIn(3);
    const result = modern
      ? move.move(this.#fd.ctx, mm, to, from, bytes, 0)
      : move.remapAnonPages(mm, to, from, bytes, 0);
    const moved = Math.max(0, modern ? (move.result ?? 0) : result) / PAGE_SIZE;
    for (let i = first; i < first + moved; i++) this.#where[i] = Where.Staged;
    this.#count('moves', moved);
  }

  /** Pages of the SIGBUS region; who misses them brings them back. */
  #takeSigbus(): void {
    const { host, mm, regions, uffd, hva, trail } = this.#o;
    const first = this.#pickSigbus();
    trail.did('takeSigbus', regions.sigbus.first + first);
    const count = Math.min(1 + this.#random.below(RUN), regions.sigbus.count - first);
    const from = hva + (regions.sigbus.first + first) * PAGE_SIZE;
    const to = uffd.sigbusStaging + first * PAGE_SIZE;
    const { move } = host.mm;
    for (let i = 0; i < count; i++) {
      const at = i * PAGE_SIZE;
      if (move.move(this.#sigbus.ctx, mm, to + at, from + at, PAGE_SIZE, 0) === 0) this.#count('moves');
    }
  }

  /** Often the page that everybody visits, if it is of the region. */
  #pickSigbus(): number {
    const { control, layout, regions } = this.#o;
    const page = layout.control.contended.load(control);
    const near = isIn(regions.sigbus, page) && !this.#random.oneIn(4);
    return near ? page - regions.sigbus.first : this.#random.below(regions.sigbus.count);
  }

  /** Whatever was done to the page, it isn't a hole. */
  #answerTwice(): void {
    const { first, count } = this.#pickRun();
    if (count === 0) return;
    const result = this.#o.host.mm.mfill.copy(this.#fd.ctx, this.#guest(first), this.#zeros, PAGE_SIZE);
    if (result !== -ERRNO.EEXIST && result !== -ERRNO.EAGAIN) this.#failed(result);
  }

  #protectRun(): void {
    const { host, regions, trail } = this.#o;
    const { first, count } = this.#pickRun();
    if (count === 0) return;
    trail.did('protect', regions.asked.first + first);
    const { Wp } = UffdWriteProtect;
    if (host.mm.writeProtect.protect(this.#fd.ctx, this.#guest(first), count * PAGE_SIZE, Wp) !== 0) return;
    for (let i = first; i < first + count; i++) {
      this.#protected[i] = this.#round;
      this.#remember(i);
    }
  }

  #expire(rounds: number): void {
    for (let i = 0; i < this.#protected.length; i++) {
      const since = this.#protected[i] as number;
      if (since !== 0 && since + rounds <= this.#round) this.#unprotect(i);
    }
  }

  #counters(i: number): void {
    this.#o.host.mm.access.copyFromUser(this.#o.mm, this.#guest(i), this.#bytes);
  }

  #remember(i: number): void {
    this.#counters(i);
    for (let c = 0; c < this.#counted; c++)
      this.#snapshots[i * this.#counted + c] = this.#words[counterWord(0, c)] as number;
  }

  /** Nothing may have been written since the protection (V-36); then it ends, and who waits is woken. */
  #unprotect(i: number): void {
    const { regions, trail } = this.#o;
    trail.did('unprotect', regions.asked.first + i);
    if (this.#protected[i] !== 0) {
      this.#counters(i);
      for (let c = 0; c < this.#counted; c++) {
        const [was, is] = [this.#snapshots[i * this.#counted + c], this.#words[counterWord(0, c)]];
        if (was === is) continue;
        this.#count('staleProtected');
        const page = regions.asked.first + i;
        trail.witness('written while protected', page, counterWord(0, c), was as number, is as number);
        break;
      }
    }
    const { writeProtect } = this.#o.host.mm;
    // The gate is shut: once more when its event is read.
    if (writeProtect.protect(this.#fd.ctx, this.#guest(i), PAGE_SIZE, 0) === 0) this.#protected[i] = 0;
    else if (this.#protected[i] === 0) this.#later.push(i);
  }

  /** Some children have a manager for a while, the others none. */
  #adopt(child: Userfaultfd): void {
    this.#o.trail.did('adopt');
    if (this.#children.length < CHILDREN && this.#random.oneIn(2)) this.#children.push(child);
    else child.close();
  }

  /** What a child lacks is zero, as it is where nobody is asked. */
  #serveChildren(): void {
    for (const child of this.#children) this.#serveZeros(child);
    if (this.#children.length > 0 && this.#random.oneIn(64)) this.#children.shift()?.close();
  }

  #serveZeros(fd: Userfaultfd): void {
    const { mfill } = this.#o.host.mm;
    for (let event = fd.tryRead(); event !== undefined; event = fd.tryRead()) {
      if (event.event !== 'pagefault') {
        this.#count('events');
        continue;
      }
      const at = event.address - (event.address % PAGE_SIZE);
      if (!event.wp) mfill.zeropage(fd.ctx, at, PAGE_SIZE);
      fd.wake(at, PAGE_SIZE);
    }
  }
}
