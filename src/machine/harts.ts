import type { Cpu } from '../cpu/cpu.ts';
import { FenceRequests } from '../cpu/fence-requests.ts';
import { FENCES, Request, type VcpuPtr } from '../cpu/interface.ts';
import { OwedFences } from '../cpu/owed-fences.ts';
import { AT, Interrupt } from '../cpu/vcpu.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { type HartStart, HartState, type SbiFence } from './sbi.ts';

/** scounteren.TM: user mode may read `time` (privileged manual, "Supervisor Counter-Enable"). */
const SCOUNTEREN_TM = 1 << 1;
export const NEVER = Number.MAX_SAFE_INTEGER;

/**
 * The harts of a machine as any thread sees them: what one does to another. All state is in their records; a
 * record's hart id is its place in the list.
 */
export class Harts {
  readonly vcpus: readonly VcpuPtr[];
  readonly all: readonly number[];
  readonly #words: Int32Array;
  readonly #kvm: Kvm;
  readonly #cpu: Cpu;
  readonly #fences: FenceRequests;
  readonly #owed: OwedFences;

  constructor(kvm: Kvm, cpu: Cpu, vcpus: readonly VcpuPtr[]) {
    this.vcpus = vcpus;
    this.all = vcpus.map((_, hart) => hart);
    this.#words = kvm.words;
    this.#kvm = kvm;
    this.#cpu = cpu;
    this.#fences = new FenceRequests(kvm.words);
    this.#owed = new OwedFences(kvm.words);
  }

  /** When a hart's timer fires, in ticks; NEVER beyond 2^53. */
  timecmp(hart: number): number {
    const at = this.vcpus[hart]! + AT.timecmp;
    const high = this.#words[at + 1]! >>> 0;
    return high >= 0x20_0000 ? NEVER : high * 2 ** 32 + (this.#words[at]! >>> 0);
  }

  setTimer(hart: number, ticks: number): void {
    const at = this.vcpus[hart]! + AT.timecmp;
    const never = ticks === Number.POSITIVE_INFINITY;
    this.#words[at] = never ? -1 : ticks | 0;
    this.#words[at + 1] = never ? -1 : Math.floor(ticks / 2 ** 32);
    this.clearInterrupt(hart, Interrupt.Timer);
  }

  /** The first of the timers that have not fired; `of` says whose count. */
  nextTimer(of: readonly number[] = this.all): number {
    let next = NEVER;
    for (const hart of of) if (!this.#fired(hart)) next = Math.min(next, this.timecmp(hart));
    return next;
  }

  #fired(hart: number): boolean {
    return (Atomics.load(this.#words, this.vcpus[hart]! + AT.pending) & Interrupt.Timer) !== 0;
  }

  /** Instructions that all of them have retired. */
  instret(): number {
    return this.vcpus.reduce((sum, vcpu) => sum + this.#cpu.instret(vcpu), 0);
  }

  /** HSM's state of a hart. */
  state(hart: number): HartState {
    return Atomics.load(this.#words, this.vcpus[hart]! + AT.hartState) as HartState;
  }

  /** All harts but the first wait to be started. Before any runs. */
  powerOn(pc: number, a1: number): void {
    this.vcpus.forEach((vcpu, hart) => {
      this.#reset(vcpu, { hartId: hart, pc, a1 });
      Atomics.store(this.#words, vcpu + AT.hartState, hart === 0 ? HartState.Started : HartState.Stopped);
    });
  }

  /** As firmware leaves it: the vDSO reads `time` in user mode, and without an SBI PMU nobody else allows it. */
  #reset(vcpu: VcpuPtr, state: { hartId: number; pc: number; a1: number }): void {
    this.#cpu.reset(vcpu, state);
    this.#words[vcpu + AT.scounteren] = SCOUNTEREN_TM;
  }

  /** Starts a stopped hart: false if another hart was first. */
  start(hart: number, start: HartStart): boolean {
    const vcpu = this.vcpus[hart]!;
    const state = vcpu + AT.hartState;
    // Between these two the record is this thread's.
    const before = Atomics.compareExchange(this.#words, state, HartState.Stopped, HartState.StartPending);
    if (before !== HartState.Stopped) return false;
    this.#reset(vcpu, { hartId: hart, pc: 0, a1: 0 });
    this.#words[vcpu + AT.pc] = start.addressLo | 0;
    this.#words[vcpu + AT.pc + 1] = start.addressHi | 0;
    this.#cpu.setX(vcpu, 11, start.opaqueLo | 0, start.opaqueHi | 0);
    Atomics.store(this.#words, vcpu + AT.waiting, 0);
    Atomics.store(this.#words, state, HartState.Started);
    this.wake(vcpu);
    return true;
  }

  /** Says which words their runners sleep on. Before any runs. */
  assign(wake: (hart: number) => number): void {
    for (const hart of this.all) Atomics.store(this.#words, this.vcpus[hart]! + AT.wake, wake(hart));
  }

  /** The hart that calls stops, until `start`. True if it was the last. */
  stop(hart: number): boolean {
    this.setTimer(hart, Number.POSITIVE_INFINITY);
    Atomics.store(this.#words, this.vcpus[hart]! + AT.hartState, HartState.Stopped);
    return this.all.every(other => this.state(other) === HartState.Stopped);
  }

  /** For good: they leave `run` soon, and don't come back. */
  stopAll(): void {
    for (const vcpu of this.vcpus) this.#kvm.requests.make(vcpu, Request.Stop);
  }

  sendIpi(hart: number): void {
    this.interrupt(hart, Interrupt.Software);
  }

  /** Makes interrupts pending; the hart takes them soon, and is woken for them. */
  interrupt(hart: number, bits: number): void {
    const vcpu = this.vcpus[hart]!;
    const before = Atomics.or(this.#words, vcpu + AT.pending, bits);
    if ((before & bits) !== bits) this.kick(vcpu);
  }

  clearInterrupt(hart: number, bits: number): void {
    Atomics.and(this.#words, this.vcpus[hart]! + AT.pending, ~bits);
  }

  /**
   * Has the hart's runner look at it soon. One inside `run` leaves; one that is not looks at what is pending, and
   * at the requests, once it has said that it runs, and before it sleeps.
   */
  kick(vcpu: VcpuPtr): void {
    if (Atomics.load(this.#words, vcpu + AT.running) === 0) this.wake(vcpu);
    else this.#kvm.requests.make(vcpu, Request.Kick);
  }

  /** Ends its runner's sleep. Pairs with who sleeps: it samples the word, looks whether there is something to do, sleeps if unchanged. */
  wake(vcpu: VcpuPtr): void {
    const word = Atomics.load(this.#words, vcpu + AT.wake);
    if (word === 0) return;
    Atomics.add(this.#words, word, 1);
    this.#kvm.sync.waiter.notify(word, Number.POSITIVE_INFINITY);
  }

  /**
   * SBI's remote fences. Returns when no other hart can make an access by what it cached before: it has fenced,
   * or is outside, and fences before it comes back, or is in another address space, and fences before it enters the next.
   * The calling vCPU is outside, and fences as it returns.
   */
  fence(harts: readonly number[], fence: SbiFence): void {
    const { requests, breaks } = this.#kvm;
    const asked = harts.map(hart => this.vcpus[hart]!).filter(vcpu => !this.#isLeft(vcpu, fence));
    for (const vcpu of asked) requests.make(vcpu, this.#bits(vcpu, fence));
    if (breaks.fenceWithoutAck) return;
    for (const vcpu of asked) requests.awaitServed(vcpu, FENCES);
  }

  /** Whether the hart will fence by itself, before it could use what it has cached. */
  #isLeft(vcpu: VcpuPtr, fence: SbiFence): boolean {
    if (fence.kind !== 'address' || fence.asid === undefined) return false;
    return this.#owed.leave(vcpu, fence.asid & 0xffff, this.#kvm.breaks);
  }

  #bits(vcpu: VcpuPtr, fence: SbiFence): number {
    return fence.kind === 'instruction' ? Request.FenceI : this.#fences.post(vcpu, fence);
  }
}
