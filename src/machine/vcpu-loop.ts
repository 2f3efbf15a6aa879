import type { Cpu } from '../cpu/cpu.ts';
import { Exit, Request, type VcpuPtr } from '../cpu/interface.ts';
import { AT, Interrupt, mmioExit } from '../cpu/vcpu.ts';
import type { Ptr } from '../sync/struct.ts';
import { type Board, HOLE } from './board.ts';
import type { MachineClock } from './clock.ts';
import { handleSbi, type SbiPorts } from './sbi.ts';

/** What a step came to. */
export type Step =
  | 'ran'
  /** `wfi` with nothing to do: sleep until input, or `sleepMs()`. */
  | 'idle'
  /** A page is on its way: sleep until it came, then step again. */
  | 'blocked'
  /** The memory behind the guest can't be had; `failure` tells why. */
  | 'out-of-memory'
  | 'stopped'
  | 'shutdown'
  | 'guest-failed'
  | 'reboot';

export type LoopOptions = {
  cpu: Cpu;
  vcpu: VcpuPtr;
  board: Board;
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
const SLICE_MAX = 50_000;
const LOAD_FAULT = 5;
const STORE_FAULT = 7;
const NEVER = Number.MAX_SAFE_INTEGER;

/**
 * Drives one vCPU: gives it slices and serves its exits. Holds no guest state, only the length of the next
 * slice, so any runner can take the vCPU up (design 4). Runs on the thread that owns the devices.
 */
export class VcpuLoop {
  readonly #o: LoopOptions;
  readonly #pair = new Int32Array(2);
  #slice = SLICE_MIN;

  constructor(options: LoopOptions) {
    this.#o = options;
  }

  /** One slice, or one exit. */
  step(): Step {
    const { cpu, vcpu, board, clock } = this.#o;
    if (board.blocked || board.nextDeadline() <= clock.now()) board.poll();
    if (this.#isWaiting()) return this.#waiting();
    this.#fireTimer();
    const exit = cpu.run(vcpu, clock.budgetUntil(this.#timecmp(), this.#slice));
    switch (exit) {
      case Exit.Budget:
        this.#slice = Math.min(SLICE_MAX, this.#slice * 2);
        return 'ran';
      case Exit.Request:
        return this.#request();
      case Exit.Wfi:
        return this.#wait();
      case Exit.Mmio:
        this.#mmio();
        return 'ran';
      case Exit.Sbi:
        return this.#sbi();
      case Exit.Blocked:
        return 'blocked';
      case Exit.MemoryFault:
        return this.#o.faults.resolve() ? 'ran' : 'out-of-memory';
      default:
        return exit satisfies never;
    }
  }

  /** What the vCPU waits for, or 0. */
  get ticket(): Ptr<'uffdWait'> {
    return this.#o.cpu.vcpu.ticket.get(this.#o.vcpu);
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
  #waiting(): Step {
    const { words, vcpu } = this.#o;
    const requests = Atomics.and(words, vcpu + AT.requests, ~Request.Kick);
    return (requests & (Request.Stop | Request.Pause)) !== 0 ? 'stopped' : 'blocked';
  }

  /** Gives up its user fault, answered or not. */
  leaveFault(): void {
    const { cpu, vcpu, faults } = this.#o;
    if (this.ticket === 0) return;
    faults.finish(this.ticket);
    cpu.vcpu.ticket.set(vcpu, 0 as Ptr<'uffdWait'>);
  }

  /** How long an idle guest may sleep; Infinity when only input can wake it. */
  sleepMs(): number {
    const { clock, board } = this.#o;
    const timer = this.#timecmp();
    const device = board.nextDeadline();
    const untilTimer = timer === NEVER ? Number.POSITIVE_INFINITY : clock.millisecondsUntil(timer);
    const untilDevice =
      device === Number.POSITIVE_INFINITY ? device : Math.max(0, (device - clock.now()) / 1e6);
    return Math.min(untilTimer, untilDevice);
  }

  /** True if an interrupt is pending and enabled: `wfi` would not sleep. */
  get runnable(): boolean {
    const { words, vcpu } = this.#o;
    this.#fireTimer();
    return (Atomics.load(words, vcpu + AT.pending) & (words[vcpu + AT.sie] as number)) !== 0;
  }

  /** The timer's deadline in ticks; NEVER beyond 2^53. */
  #timecmp(): number {
    const { words, vcpu } = this.#o;
    const high = words[vcpu + AT.timecmp + 1]! >>> 0;
    return high >= 0x20_0000 ? NEVER : high * 2 ** 32 + (words[vcpu + AT.timecmp]! >>> 0);
  }

  #fireTimer(): void {
    const { words, vcpu, clock } = this.#o;
    if (clock.ticks() >= this.#timecmp()) Atomics.or(words, vcpu + AT.pending, Interrupt.Timer);
  }

  #request(): Step {
    const { words, vcpu } = this.#o;
    this.#slice = SLICE_MIN;
    const requests = Atomics.and(words, vcpu + AT.requests, ~Request.Kick);
    return (requests & (Request.Stop | Request.Pause)) !== 0 ? 'stopped' : 'ran';
  }

  /** `wfi`: sleep, unless the clock can jump to what comes next. */
  #wait(): Step {
    if (this.runnable) return 'ran';
    const { clock, board } = this.#o;
    // What a device waits for may be what the guest waits for.
    if (board.blocked) return 'blocked';
    const device = board.nextDeadline();
    const next = Math.min(
      this.#timecmp(),
      device === Number.POSITIVE_INFINITY ? NEVER : Math.ceil(device / 100),
    );
    if (next === NEVER) return 'idle';
    return clock.skipTo(next) ? 'ran' : 'idle';
  }

  #mmio(): void {
    const { cpu, vcpu, words } = this.#o;
    const exit = mmioExit(words, vcpu);
    const done = exit.isWrite ? this.#mmioWrite(exit) : this.#mmioRead(exit);
    if (done) return;
    cpu.raise(vcpu, exit.isWrite ? STORE_FAULT : LOAD_FAULT, words[vcpu + AT.ea]!, words[vcpu + AT.ea + 1]!);
  }

  #mmioRead(exit: { gpa: number; bytes: number }): boolean {
    const { cpu, vcpu, board } = this.#o;
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

  #mmioWrite(exit: { gpa: number; bytes: number; lo: number; hi: number }): boolean {
    const { cpu, vcpu, board } = this.#o;
    const done =
      exit.bytes === 8
        ? board.write64(exit.gpa, exit.lo, exit.hi)
        : board.write(exit.gpa, exit.bytes, exit.lo);
    if (done) cpu.completeMmio(vcpu, 0, 0);
    return done;
  }

  #sbi(): Step {
    const { vcpu, words, sbi } = this.#o;
    const x = (n: number) => vcpu + AT.x + 2 * n;
    const outcome = handleSbi(
      {
        hart: words[vcpu + AT.hartId]!,
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
        return 'stopped';
      case 'suspend':
        this.#return(0, 0);
        return this.#wait();
      default:
        return outcome satisfies never;
    }
  }

  #return(error: number, value: number): void {
    const { cpu, vcpu } = this.#o;
    cpu.setX(vcpu, 10, error, error >> 31);
    cpu.setX(vcpu, 11, value | 0, Math.floor(value / 2 ** 32) | 0);
  }

  /** The call is made again from the start: `ecall` is four bytes long. */
  #backToEcall(): void {
    const { vcpu, words } = this.#o;
    const low = words[vcpu + AT.pc]! >>> 0;
    if (low < 4) words[vcpu + AT.pc + 1]!--;
    words[vcpu + AT.pc] = (low - 4) | 0;
  }
}
