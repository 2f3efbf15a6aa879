import { assert } from '../base/assert.ts';
import type { Gfn, Pfn } from '../base/units.ts';
import { FLUSH_NAMES } from '../cpu/flush-list.ts';
import { Access, FLUSHES, Miss, Mode, Request } from '../cpu/interface.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';

type Entry = { pfn: Pfn; access: Access };

/** What a vCPU does wrong, for mutants. */
export type VcpuBreaks = {
  /** A translation found by a miss is used though a flush was asked for meanwhile (mm-figures B.1). */
  useStaleMiss: boolean;
};

/** Thrown where the guest reaches for memory that no slot backs; ends `run`. */
export class MmioExit extends Error {
  override readonly name = 'MmioExit';
}

/** Thrown at the stop-point where the vCPU finds that it was stopped; ends `run`. */
export class StopExit extends Error {
  override readonly name = 'StopExit';
}

/** Says whether a frame may be accessed now: the canary of J-9. */
export type Canary = (pfn: Pfn) => void;

/**
 * A vCPU reduced to what memory sees of it: a software TLB over the secondary MMU and the protocol of J-7,
 * loads and stores of a page's first words. Throws when the memory fails.
 */
export class VcpuActor {
  readonly #kvm: Kvm;
  readonly #vm: Ptr<'vm'>;
  readonly #space: number;
  readonly #mode: number;
  readonly #requests: number;
  readonly #running: number;
  readonly #canary: Canary;
  readonly #breaks: Partial<VcpuBreaks>;
  readonly #vcpu: Ptr<'vcpu'>;
  readonly #names = new Int32Array(FLUSH_NAMES);
  readonly #tlb = new Map<Gfn, Entry>();

  constructor(
    kvm: Kvm,
    vm: Ptr<'vm'>,
    vcpu: Ptr<'vcpu'>,
    options: { space?: number; canary: Canary; breaks?: Partial<VcpuBreaks> },
  ) {
    this.#kvm = kvm;
    this.#vm = vm;
    this.#vcpu = vcpu;
    this.#space = options.space ?? 0;
    this.#mode = vcpu + kvm.vcpuFields.mode;
    this.#requests = vcpu + kvm.vcpuFields.requests;
    this.#running = vcpu + kvm.vcpuFields.running;
    this.#canary = options.canary;
    this.#breaks = options.breaks ?? {};
  }

  /**
   * Runs guest code; false if it came to an address that no slot backs, or was stopped. Requests are served
   * before and after, and at every miss.
   */
  run(code: (vcpu: VcpuActor) => void): boolean {
    Atomics.store(this.#kvm.words, this.#running, 1);
    const finished = this.#tryRun(code);
    this.#leave();
    Atomics.store(this.#kvm.words, this.#running, 0);
    this.#kvm.sync.waiter.notify(this.#running, Number.POSITIVE_INFINITY);
    return finished;
  }

  #tryRun(code: (vcpu: VcpuActor) => void): boolean {
    let finished = true;
    try {
      this.#enter();
      try {
        code(this);
      } catch (error) {
        if (!(error instanceof MmioExit)) throw error;
        finished = false;
      }
      this.stopPoint();
    } catch (error) {
      if (!(error instanceof StopExit)) throw error;
      finished = false;
    }
    return finished;
  }

  load(gfn: Gfn, word = 0): number {
    const pfn = this.#translate(gfn, Access.Read);
    this.#canary(pfn);
    const value = Atomics.load(this.#kvm.words, frameWord(pfn) + word);
    this.#kvm.sync.y('F.a');
    return value;
  }

  store(gfn: Gfn, value: number, word = 0): void {
    const pfn = this.#translate(gfn, Access.Write);
    this.#canary(pfn);
    Atomics.store(this.#kvm.words, frameWord(pfn) + word, value);
    this.#kvm.sync.y('F.a');
  }

  /** Adds to a word by two accesses that one translation serves, as a block of guest code does. */
  increment(gfn: Gfn, word = 0): void {
    const pfn = this.#translate(gfn, Access.Write);
    this.#canary(pfn);
    const value = Atomics.load(this.#kvm.words, frameWord(pfn) + word);
    this.#kvm.sync.y('F.m');
    this.#canary(pfn);
    Atomics.store(this.#kvm.words, frameWord(pfn) + word, value + 1);
    this.#kvm.sync.y('F.a');
  }

  /** Loads twice by one translation, with something in between, as a block of guest code may. */
  reload(gfn: Gfn, middle: () => void): number {
    const pfn = this.#translate(gfn, Access.Read);
    this.#canary(pfn);
    this.#kvm.sync.y('F.m');
    middle();
    this.#canary(pfn);
    const value = Atomics.load(this.#kvm.words, frameWord(pfn));
    this.#kvm.sync.y('F.a');
    return value;
  }

  /** Between two blocks: what was asked for is done (J-7). */
  stopPoint(): void {
    if (Atomics.load(this.#kvm.words, this.#requests) !== 0) this.#serve();
  }

  #translate(gfn: Gfn, access: Access): Pfn {
    for (;;) {
      const cached = this.#tlb.get(gfn);
      if (cached !== undefined && cached.access >= access) return cached.pfn;
      const pfn = this.#miss(gfn, access);
      if (pfn < 0) continue;
      this.#tlb.set(gfn, { pfn, access });
      this.#kvm.sync.y('F.t');
      return pfn;
    }
  }

  /** Outside guest mode: a frame, or a negative number when it must be looked up again. */
  #miss(gfn: Gfn, access: Access): number {
    this.#leave();
    const pfn = this.#kvm.fault.resolve(this.#vm, this.#space, gfn, access);
    if (pfn === Miss.Blocked) return this.#wait();
    assert(pfn !== Miss.Fault, 'vcpu: the memory behind the slot is gone');
    if (pfn === Miss.Mmio) throw new MmioExit('no memory there');
    Atomics.store(this.#kvm.words, this.#mode, Mode.InGuest);
    const asked = Atomics.load(this.#kvm.words, this.#requests) & (FLUSHES | Request.Stop);
    if (asked !== 0) this.#serve();
    return asked !== 0 && !this.#breaks.useStaleMiss ? Miss.Again : pfn;
  }

  /** For a page that somebody else brings: with nothing held (K-31). */
  #wait(): number {
    const { uffdWaits } = this.#kvm.mm;
    const { ticket } = this.#kvm.fault;
    this.#kvm.sync.y('U.k');
    if (ticket !== 0) uffdWaits.wait(ticket);
    if (ticket !== 0) uffdWaits.finish(ticket);
    return Miss.Again;
  }

  #enter(): void {
    Atomics.store(this.#kvm.words, this.#mode, Mode.InGuest);
    this.stopPoint();
  }

  #leave(): void {
    Atomics.store(this.#kvm.words, this.#mode, Mode.Outside);
  }

  /** As FlushRequests of the CPU: a cleared bit is the acknowledgement, after FlushTlb, before FlushPages. */
  #serve(): void {
    const { words } = this.#kvm;
    const asked = Atomics.and(words, this.#requests, Request.FlushTlb | Request.Stop);
    this.#kvm.sync.y('F.n');
    if ((asked & Request.FlushPages) !== 0) this.#dropNamed();
    if ((asked & Request.FlushTlb) !== 0) this.#tlb.clear();
    Atomics.and(words, this.#requests, ~(asked & Request.FlushTlb));
    this.#kvm.sync.waiter.notify(this.#requests, Number.POSITIVE_INFINITY);
    this.#kvm.sync.y('F.f');
    if ((asked & Request.Stop) !== 0) throw new StopExit('stopped');
  }

  #dropNamed(): void {
    const count = this.#kvm.requests.named(this.#vcpu, this.#names);
    if (count < 0) this.#tlb.clear();
    const named = this.#names.subarray(0, Math.max(count, 0));
    for (const [gfn, { pfn }] of this.#tlb) if (named.includes(pfn)) this.#tlb.delete(gfn);
  }
}
