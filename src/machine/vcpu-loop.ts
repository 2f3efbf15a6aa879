import type { Cpu } from '../cpu/cpu.ts';
import { Exit, Request, type VcpuPtr } from '../cpu/interface.ts';
import { AT, Interrupt, type MmioExit, mmioExit } from '../cpu/vcpu.ts';
import type { Plic } from '../devices/plic.ts';
import type { Ptr } from '../sync/struct.ts';
import { type Board, HOLE } from './board.ts';
import type { MachineClock } from './clock.ts';
import type { Harts } from './harts.ts';
import { PLIC_BASE } from './memory-map.ts';
import { HartState, handleSbi, SbiExtension, type SbiPorts } from './sbi.ts';

/** What a step came to. */
export type Step =
  | 'ran'
  /** Stopped, or in a `wfi` with nothing to do: until something is pending, or `timecmp`. */
  | 'idle'
  /** A page is on its way: sleep until it came, then step again. */
  | 'blocked'
  /** An exit is for the thread that owns the devices; step again when that has served it. */
  | 'away'
  /** The memory behind the guest can't be had; `failure` tells why. */
  | 'out-of-memory'
  | 'stopped'
  /** The guest is to be paused: leave it, and come back when it is resumed. */
  | 'paused'
  | 'shutdown'
  | 'guest-failed'
  | 'reboot';

export type LoopOptions = {
  cpu: Cpu;
  harts: Harts;
  hart: number;
  /** Absent on threads that do not own the devices. */
  board?: Board;
  /** There: the interrupt controller, which any thread operates. */
  plic?: Plic;
  clock: MachineClock;
  sbi: SbiPorts;
  words: Int32Array;
  faults: FaultPorts;
};

/** What the loop does about user faults of its vCPU. */
export type FaultPorts = {
  isOver(ticket: Ptr<'uffdWait'>): boolean;
  finish(ticket: Ptr<'uffdWait'>): void;
  /** The page that was just missed: fills it on this thread and says true, or can't (U-24). */
  resolve(): boolean;
};

const SLICE_MIN = 2_000;
const SLICE_MAX = 100_000;
const LOAD_FAULT = 5;
const STORE_FAULT = 7;
/** Extensions that any runner answers: what they touch is in the arena. */
const SHARED_EXTENSIONS: ReadonlySet<number> = new Set([
  SbiExtension.Base,
  SbiExtension.Time,
  SbiExtension.Ipi,
  SbiExtension.Rfence,
  SbiExtension.Hsm,
]);

/**
 * Drives one vCPU: gives it slices and serves its exits. Holds no guest state, only the length of the next
 * slice, so any runner can take the vCPU up (design 4). Exits that need a device are served where those are:
 * the runner hands the record over and has it back.
 */
export class VcpuLoop {
  readonly vcpu: VcpuPtr;
  readonly #o: LoopOptions;
  readonly #pair = new Int32Array(2);
  #slice = SLICE_MIN;

  constructor(options: LoopOptions) {
    this.#o = options;
    this.vcpu = options.harts.vcpus[options.hart]!;
  }

  /** One slice, or one exit. */
  step(): Step {
    const { words, harts, hart } = this.#o;
    if (this.isAway) return this.#unless('away');
    const state = harts.state(hart);
    if (state === HartState.Stopped || state === HartState.StartPending) return this.#unless('idle');
    if (this.#isWaiting()) return this.#unless('blocked');
    this.#fireTimer();
    if (Atomics.load(words, this.vcpu + AT.waiting) !== 0 && !this.#awake(state)) return this.#unless('idle');
    return this.#serve(this.#run());
  }

  #run(): Exit {
    const { cpu, clock, harts } = this.#o;
    return cpu.run(this.vcpu, clock.budgetUntil(harts.nextTimer(), this.#slice));
  }

  /** True if the hart's runner has handed the record over. */
  get isAway(): boolean {
    return Atomics.load(this.#o.words, this.vcpu + AT.handoff) !== 0;
  }

  /** Serves the exit that the hart's runner came back with, and gives the record back. */
  serveHandoff(): Step {
    const exit = (Atomics.load(this.#o.words, this.vcpu + AT.handoff) - 1) as Exit;
    // A page that can't be had: whoever can say why, or supply it, is on this thread, so it asks by itself.
    const step = this.#serve(exit === Exit.MemoryFault ? this.#run() : exit);
    // A device's page is on its way, and its waiter is here: so it is from here that the hart begins again.
    const stays = step === 'blocked' && this.ticket === 0;
    Atomics.store(this.#o.words, this.vcpu + AT.handoff, stays ? 1 + Exit.MemoryFault : 0);
    if (!stays) this.#o.harts.wake(this.vcpu);
    return step;
  }

  #serve(exit: Exit): Step {
    switch (exit) {
      case Exit.Budget:
        this.#slice = Math.min(SLICE_MAX, this.#slice * 2);
        return 'ran';
      case Exit.Request:
        this.#slice = SLICE_MIN;
        return this.#unless('ran');
      case Exit.Wfi:
        return this.#wait();
      case Exit.Mmio:
        return this.#mmio();
      case Exit.Sbi:
        return this.#sbi();
      case Exit.Blocked:
        return 'blocked';
      case Exit.MemoryFault:
        if (this.#o.board === undefined) return this.#handOff(exit);
        return this.#o.faults.resolve() ? 'ran' : 'out-of-memory';
      default:
        return exit satisfies never;
    }
  }

  #handOff(exit: Exit): Step {
    const { words, harts } = this.#o;
    Atomics.store(words, this.vcpu + AT.handoff, 1 + exit);
    // The first hart is run where the devices are.
    harts.kick(harts.vcpus[0]!);
    return 'away';
  }

  /** What the vCPU waits for, or 0. */
  get ticket(): Ptr<'uffdWait'> {
    return this.#o.cpu.vcpu.ticket.get(this.vcpu);
  }

  /** Until its page is there, or nobody is left to bring it, a vCPU does not run (K-31). */
  #isWaiting(): boolean {
    const { ticket } = this;
    if (ticket === 0) return false;
    if (!this.#o.faults.isOver(ticket)) return true;
    this.leaveFault();
    return false;
  }

  /** What is asked of a vCPU that waits is done all the same (K-31). */
  #unless(step: Step): Step {
    const requests = Atomics.and(this.#o.words, this.vcpu + AT.requests, ~Request.Kick);
    if ((requests & Request.Stop) !== 0) return 'stopped';
    return (requests & Request.Pause) !== 0 ? 'paused' : step;
  }

  /** True, and no longer waiting, when something ends the hart's `wfi`. */
  #awake(state: HartState): boolean {
    const { words } = this.#o;
    if (!this.#isPending) return false;
    Atomics.store(words, this.vcpu + AT.waiting, 0);
    if (state === HartState.Suspended) Atomics.store(words, this.vcpu + AT.hartState, HartState.Started);
    return true;
  }

  /** Gives up its user fault, answered or not. */
  leaveFault(): void {
    const { cpu, faults } = this.#o;
    if (this.ticket === 0) return;
    faults.finish(this.ticket);
    cpu.vcpu.ticket.set(this.vcpu, 0 as Ptr<'uffdWait'>);
  }

  /** True if an interrupt is pending and enabled: `wfi` would not sleep. */
  get runnable(): boolean {
    this.#fireTimer();
    return this.#isPending;
  }

  get #isPending(): boolean {
    const { words } = this.#o;
    return (Atomics.load(words, this.vcpu + AT.pending) & (words[this.vcpu + AT.sie] as number)) !== 0;
  }

  #fireTimer(): void {
    const { words, clock, harts, hart } = this.#o;
    if (clock.ticks() >= harts.timecmp(hart)) Atomics.or(words, this.vcpu + AT.pending, Interrupt.Timer);
  }

  /** `wfi`: until something is pending. */
  #wait(): Step {
    if (this.runnable) return 'ran';
    Atomics.store(this.#o.words, this.vcpu + AT.waiting, 1);
    return 'idle';
  }

  #mmio(): Step {
    const { board, cpu, words } = this.#o;
    const { vcpu } = this;
    const exit = mmioExit(words, vcpu);
    if (board === undefined) return this.#plic(exit) ? 'ran' : this.#handOff(Exit.Mmio);
    const done = exit.isWrite ? this.#mmioWrite(board, exit) : this.#mmioRead(board, exit);
    const cause = exit.isWrite ? STORE_FAULT : LOAD_FAULT;
    if (!done) cpu.raise(vcpu, cause, words[vcpu + AT.ea]!, words[vcpu + AT.ea + 1]!);
    return 'ran';
  }

  /** An access to the interrupt controller, where the devices are not. */
  #plic(exit: MmioExit): boolean {
    const { plic, cpu } = this.#o;
    const offset = exit.gpa - PLIC_BASE;
    if (plic === undefined || offset < 0 || offset >= plic.length || exit.bytes !== 4) return false;
    if (exit.isWrite) plic.write(offset, 4, exit.lo >>> 0);
    cpu.completeMmio(this.vcpu, exit.isWrite ? 0 : plic.read(offset, 4) | 0, 0);
    return true;
  }

  #mmioRead(board: Board, exit: { gpa: number; bytes: number }): boolean {
    const { vcpu } = this;
    const { cpu } = this.#o;
    if (exit.bytes === 8) {
      if (!board.read64(exit.gpa, this.#pair)) return false;
      cpu.completeMmio(vcpu, this.#pair[0]!, this.#pair[1]!);
      return true;
    }
    const value = board.read(exit.gpa, exit.bytes);
    if (value === HOLE) return false;
    cpu.completeMmio(vcpu, value | 0, 0);
    return true;
  }

  #mmioWrite(board: Board, exit: { gpa: number; bytes: number; lo: number; hi: number }): boolean {
    const { vcpu } = this;
    const { cpu } = this.#o;
    const done =
      exit.bytes === 8
        ? board.write64(exit.gpa, exit.lo, exit.hi)
        : board.write(exit.gpa, exit.bytes, exit.lo);
    if (done) cpu.completeMmio(vcpu, 0, 0);
    return done;
  }

  #sbi(): Step {
    const { vcpu } = this;
    const { board, words, sbi, hart } = this.#o;
    const x = (n: number) => vcpu + AT.x + 2 * n;
    if (board === undefined && !SHARED_EXTENSIONS.has(words[x(17)]!)) return this.#handOff(Exit.Sbi);
    const outcome = handleSbi(
      {
        hart,
        ext: words[x(17)]!,
        fid: words[x(16)]!,
        args: words.subarray(x(10), x(16)),
      },
      sbi,
    );
    switch (outcome.kind) {
      case 'return':
        this.#return(outcome.error, outcome.value);
        return 'ran';
      case 'blocked':
        this.#backToEcall();
        return 'blocked';
      case 'reset':
        if (outcome.type !== 'shutdown') return 'reboot';
        return outcome.failed ? 'guest-failed' : 'shutdown';
      case 'hart-stop':
        return this.#o.harts.stop(hart) ? 'stopped' : 'idle';
      case 'suspend':
        this.#return(0, 0);
        return this.#suspend();
      default:
        return outcome satisfies never;
    }
  }

  /** Retentive, hence a `wfi` that HSM knows of. */
  #suspend(): Step {
    const step = this.#wait();
    if (step === 'idle') Atomics.store(this.#o.words, this.vcpu + AT.hartState, HartState.Suspended);
    return step;
  }

  #return(error: number, value: number): void {
    const { vcpu } = this;
    const { cpu } = this.#o;
    cpu.setX(vcpu, 10, error, error >> 31);
    cpu.setX(vcpu, 11, value | 0, Math.floor(value / 2 ** 32) | 0);
  }

  /** The call is made again from the start: `ecall` is four bytes long. */
  #backToEcall(): void {
    const { vcpu } = this;
    const { words } = this.#o;
    const low = words[vcpu + AT.pc]! >>> 0;
    if (low < 4) words[vcpu + AT.pc + 1]!--;
    words[vcpu + AT.pc] = (low - 4) | 0;
  }
}
