import { Random } from '../base/random.ts';
import { PAGE_WORDS } from '../base/units.ts';
import { FLUSH_NAMES } from '../cpu/flush-list.ts';
import { Access, Miss, Mode, Request } from '../cpu/interface.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { GUP_SIGBUS } from '../mm/index.ts';
import type { Ptr } from '../sync/struct.ts';
import { COUNTERS, counterWord, FIRST_GFN, type StressLayout, type StressShape } from './stress-layout.ts';
import type { SigbusResolver } from './stress-sigbus.ts';
import type { StressTrail } from './stress-trail.ts';

const TLB_ENTRIES = 128;
/** Accesses between two stop-points. */
const SLICE = 128;
/** Pages in use at a time; one is exchanged every `BURST` accesses. */
const RECENT = 24;
const BURST = 512;
/** How long it waits for a page before it looks for requests, and one in so many that it gives up then. */
const WAIT_MS = 5;
const GIVE_UP_ONE_IN = 8;

export type StressVcpuOptions = {
  kvm: Kvm;
  vm: Ptr<'vm'>;
  vcpu: Ptr<'vcpu'>;
  index: number;
  shape: StressShape;
  layout: StressLayout;
  control: Ptr<'stressControl'>;
  report: Ptr<'stressReport'>;
  /** A broken variant: the address found by a miss is used though a flush was asked for meanwhile. */
  noRetranslate: boolean;
  /** With `--everything`. */
  sigbus?: SigbusResolver | undefined;
  trail: StressTrail;
};

/**
 * A vCPU reduced to what the mm sees of one: a software TLB over the secondary MMU, kept by the protocol of
 * J-7, and a program that adds one to counters of its own and knows what it wrote last.
 */
export class StressVcpu {
  readonly #o: StressVcpuOptions;
  readonly #words: Int32Array;
  readonly #random: Random;
  readonly #mode: number;
  readonly #requests: number;
  readonly #tlbRead = new Int32Array(TLB_ENTRIES * 2);
  readonly #tlbWrite = new Int32Array(TLB_ENTRIES * 2);
  readonly #expected: Int32Array;
  readonly #names = new Int32Array(FLUSH_NAMES);
  readonly #recent = new Int32Array(RECENT);
  readonly #epochs: Int32Array;
  readonly #scratch: Int32Array;
  /** Scratch pages whose content can't be told, as an unmap ran beside the last access. */
  readonly #unknown: Uint8Array;
  readonly #epochsAt: number;
  #stopped = false;
  #burst = 0;

  constructor(options: StressVcpuOptions) {
    const { kvm, vcpu, shape, layout, control } = options;
    this.#o = options;
    this.#words = kvm.words;
    this.#random = new Random(shape.seed * 31 + options.index + 1);
    this.#mode = vcpu + kvm.vcpuFields.mode;
    this.#requests = vcpu + kvm.vcpuFields.requests;
    this.#expected = new Int32Array(shape.pages * COUNTERS);
    this.#epochs = new Int32Array(shape.scratch);
    this.#scratch = new Int32Array(shape.scratch);
    this.#unknown = new Uint8Array(shape.scratch).fill(1);
    this.#epochsAt = layout.control.epochs.load(control);
    for (let i = 0; i < RECENT; i++) this.#recent[i] = this.#random.below(shape.pages);
    this.#flush();
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** A round: some slices of counting, a visit to a scratch page. Outside guest mode before and after. */
  round(): void {
    if (!this.#enter()) return;
    let checked = 0;
    for (let slice = 0; slice < 16 && !this.#stopped; slice++) {
      for (let i = 0; i < SLICE && !this.#stopped; i++) this.#step();
      if (!this.#stopped) this.#visitContended();
      checked += SLICE;
      this.#stopPoint();
    }
    if (!this.#stopped) this.#visitScratch();
    this.#leave();
    this.#o.layout.report.checked.add(this.#o.report, checked);
  }

  /** Reads every counter once more. */
  sweep(): void {
    if (!this.#enter()) return;
    for (let page = 0; page < this.#o.shape.pages && !this.#stopped; page++) {
      for (let c = 0; c < COUNTERS; c++) this.#check(page, c, Access.Read);
      this.#stopPoint();
    }
    this.#leave();
    this.#o.layout.report.checked.add(this.#o.report, this.#o.shape.pages * COUNTERS);
  }

  #step(): void {
    const random = this.#random;
    if (--this.#burst <= 0) {
      this.#burst = BURST;
      this.#recent[random.below(RECENT)] = random.below(this.#o.shape.pages);
    }
    const r = random.u32();
    const page = this.#recent[r % RECENT] as number;
    const counter = (r >>> 8) & (COUNTERS - 1);
    if ((r & 0x3000) === 0) this.#check(page, counter, Access.Read);
    else this.#increment(page, counter);
  }

  /** The page that is being taken away right now, at intervals that let this succeed at times. */
  #visitContended(): void {
    if (!this.#random.oneIn(3)) return;
    const { layout, control } = this.#o;
    const page = layout.control.contended.load(control);
    const counter = this.#random.below(COUNTERS);
    // Read first, its leaf is clean, and the write has a dirty bit to set.
    if (!this.#random.oneIn(4)) this.#check(page, counter, Access.Read);
    if (!this.#random.oneIn(4)) this.#increment(page, counter);
  }

  #check(page: number, counter: number, access: 0 | 1): number {
    const base = this.#translate(FIRST_GFN + page, access);
    if (base === 0) return 0;
    const at = base + counterWord(this.#o.index, counter);
    const wanted = this.#expected[page * COUNTERS + counter] as number;
    const got = this.#words[at] as number;
    if (got !== wanted) this.#lostWrite(page, counter, wanted, got);
    return at;
  }

  #increment(page: number, counter: number): void {
    const at = this.#check(page, counter, Access.Write);
    if (at === 0) return;
    const next = ((this.#expected[page * COUNTERS + counter] as number) + 1) | 0;
    this.#words[at] = next;
    this.#expected[page * COUNTERS + counter] = next;
  }

  /** Reported once, then what is there is taken for right, so that one loss counts once. */
  #lostWrite(page: number, counter: number, wanted: number, got: number): void {
    const { layout, report, index, trail } = this.#o;
    layout.report.lost.add(report, 1);
    trail.witness(`vCPU ${index} lost a write`, page, counterWord(index, counter), wanted, got);
    this.#expected[page * COUNTERS + counter] = got;
  }

  /**
   * A scratch page of its own is zero after an unmap, else as it was left. The epoch tells which, unless it
   * moved during the access.
   */
  #visitScratch(): void {
    const { shape, index, layout, report } = this.#o;
    const mine = Math.floor(shape.scratch / shape.vcpus);
    const n = index * mine + this.#random.below(mine);
    const before = Atomics.load(this.#words, this.#epochsAt + n);
    const base = this.#translate(FIRST_GFN + shape.pages + n, Access.Write);
    if (base === 0) return;
    const at = base + counterWord(index, 0);
    const got = this.#words[at] as number;
    const settled = (before & 1) === 0 && Atomics.load(this.#words, this.#epochsAt + n) === before;
    if (settled && this.#unknown[n] === 0) {
      const wanted = this.#epochs[n] === before ? (this.#scratch[n] as number) : 0;
      if (got !== wanted) this.#staleScratch(n, wanted, got);
      layout.report.scratchChecked.add(report, 1);
    }
    this.#words[at] = got + 1;
    this.#scratch[n] = got + 1;
    const after = Atomics.load(this.#words, this.#epochsAt + n);
    this.#unknown[n] = settled && after === before ? 0 : 1;
    this.#epochs[n] = after;
  }

  #staleScratch(n: number, wanted: number, got: number): void {
    const { layout, report, index, shape, trail } = this.#o;
    layout.report.staleScratch.add(report, 1);
    trail.witness('stale after an unmap', shape.pages + n, counterWord(index, 0), wanted, got);
  }

  /** Word index of the frame behind a guest frame; 0 when there is none, or the test is over. */
  #translate(gfn: number, access: 0 | 1): number {
    const tlb = access === Access.Write ? this.#tlbWrite : this.#tlbRead;
    const entry = (gfn % TLB_ENTRIES) * 2;
    if (tlb[entry] === gfn) return tlb[entry + 1] as number;
    const base = this.#miss(gfn, access);
    if (base === 0) return 0;
    tlb[entry] = gfn;
    tlb[entry + 1] = base;
    return base;
  }

  #miss(gfn: number, access: 0 | 1): number {
    const { kvm, vm, layout, report, noRetranslate } = this.#o;
    layout.report.misses.add(report, 1);
    this.#o.trail.did('fault', gfn - FIRST_GFN);
    for (;;) {
      this.#leave();
      const pfn = kvm.fault.resolve(vm, 0, gfn, access);
      if (pfn < 0 && !this.#mayTryAgain(pfn, gfn)) {
        layout.report.code.store(report, kvm.fault.lastGup);
        layout.report.failed.add(report, 1);
        this.#stopped = true;
        return 0;
      }
      Atomics.store(this.#words, this.#mode, Mode.InGuest);
      const asked = Atomics.load(this.#words, this.#requests);
      if (asked === 0 && pfn >= 0) return pfn * PAGE_WORDS;
      // What was found may be stale by now: serve, and translate again (J-7).
      this.#leave();
      this.#serve();
      if (this.#stopped) return 0;
      if (noRetranslate && pfn >= 0) {
        Atomics.store(this.#words, this.#mode, Mode.InGuest);
        return pfn * PAGE_WORDS;
      }
    }
  }

  /** After a fault that found no frame: is there a reason to make it again? Outside guest mode. */
  #mayTryAgain(miss: number, gfn: number): boolean {
    if (miss === Miss.Again) return true;
    if (miss === Miss.Blocked) {
      this.#wait();
      return true;
    }
    if (miss !== Miss.Fault || this.#o.kvm.fault.lastGup !== GUP_SIGBUS) return false;
    return this.#o.sigbus?.resolve(gfn - FIRST_GFN) ?? false;
  }

  /** For the answer to a user fault; the ticket is ours, and finished on every way out (K-31). */
  #wait(): void {
    const { kvm, layout, report } = this.#o;
    const { uffdWaits } = kvm.mm;
    const { ticket } = kvm.fault;
    layout.report.blocked.add(report, 1);
    try {
      while (!this.#stopped && !uffdWaits.waitFor(ticket, WAIT_MS)) {
        this.#serve();
        if (this.#random.oneIn(GIVE_UP_ONE_IN)) return;
      }
    } finally {
      uffdWaits.finish(ticket);
    }
  }

  /** Into guest mode with no request pending; false when the test is over. */
  #enter(): boolean {
    for (;;) {
      Atomics.store(this.#words, this.#mode, Mode.InGuest);
      if (Atomics.load(this.#words, this.#requests) === 0) return true;
      this.#leave();
      this.#serve();
      if (this.#stopped) return false;
    }
  }

  #leave(): void {
    Atomics.store(this.#words, this.#mode, Mode.Outside);
    this.#o.kvm.sync.waiter.notify(this.#requests, Number.POSITIVE_INFINITY);
  }

  #stopPoint(): void {
    if (Atomics.load(this.#words, this.#requests) === 0) return;
    this.#leave();
    this.#serve();
    if (!this.#stopped) this.#enter();
  }

  /** Outside guest mode. Names are read after their bit is cleared: later ones bring a request of their own. */
  #serve(): void {
    const asked = Atomics.and(this.#words, this.#requests, Request.FlushTlb);
    if ((asked & Request.Stop) !== 0) this.#stopped = true;
    if ((asked & Request.FlushPages) !== 0) this.#dropNamed();
    if ((asked & Request.FlushTlb) !== 0) this.#flush();
    Atomics.and(this.#words, this.#requests, ~(asked & Request.FlushTlb));
    this.#o.kvm.sync.waiter.notify(this.#requests, Number.POSITIVE_INFINITY);
  }

  #dropNamed(): void {
    const count = this.#o.kvm.requests.named(this.#o.vcpu, this.#names);
    if (count < 0) this.#flush();
    for (let i = 0; i < count; i++) {
      this.#dropFrame(this.#tlbRead, this.#names[i] as number);
      this.#dropFrame(this.#tlbWrite, this.#names[i] as number);
    }
  }

  #dropFrame(tlb: Int32Array, pfn: number): void {
    for (let at = 0; at < tlb.length; at += 2) if (tlb[at + 1] === pfn * PAGE_WORDS) tlb[at] = -1;
  }

  #flush(): void {
    this.#tlbRead.fill(-1);
    this.#tlbWrite.fill(-1);
  }
}
