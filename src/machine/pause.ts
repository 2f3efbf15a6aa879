import { Request, type VcpuPtr } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { changed } from '../sync/changed.ts';
import { i32, type Ptr, type Struct, struct, u64 } from '../sync/struct.ts';
import type { MachineBreaks } from './breaks.ts';
import { TIMEBASE_HZ } from './memory-map.ts';

// A paused guest: no thread is inside one of its harts or its devices, until it is resumed.
//
// A runner counts itself in `active` before it looks at `asked`; who pauses stores `asked` before it reads `active`.
// So either the runner sees that it is asked and stays out, or it is waited for. Runners that sleep are not active,
// and need not be woken. `Request.Pause` in each vCPU ends the slices under way, and lets none begin.

type Pause = Ptr<'pause'>;

/** What `asked` says. All but `No` keeps runners out. */
const Asked = {
  No: 0,
  Yes: 1,
  /** Yes; and the requests of the guest's vCPUs are being written. */
  Telling: 2,
} as const;

const fields = {
  /** Whether the guest is to be paused. */
  asked: i32,
  /** Runners that may be in the guest. */
  active: i32,
  /** Ticks for which the guest's time stood still, so far. Changes only while no runner is active; plain. */
  lost: u64,
};

/** Words of a record. Zeroed, it is a guest that runs. */
export const PAUSE_WORDS = 4;
const TICKS_PER_MS = TIMEBASE_HZ / 1000;

/** The records by which guests are paused, as a runner of them sees them, and who pauses them. */
export class Pauses {
  readonly #kvm: Kvm;
  readonly #layout: Struct<'pause', typeof fields>;
  readonly #breaks: Partial<MachineBreaks>;

  constructor(kvm: Kvm, breaks: Partial<MachineBreaks> = {}) {
    this.#kvm = kvm;
    this.#layout = struct(kvm.words, 'pause', fields, PAUSE_WORDS);
    this.#breaks = breaks;
  }

  /** False: the guest is paused, and its runner sleeps until it is woken. True: it may run, and then calls `leave`. */
  enter(p: Pause): boolean {
    if (this.#breaks.lookBeforeActive) return this.#enterLate(p);
    this.#layout.active.add(p, 1);
    this.#kvm.sync.y('Z.e');
    if (!this.isAsked(p)) return true;
    this.leave(p);
    return false;
  }

  /** For the mutant only. */
  #enterLate(p: Pause): boolean {
    if (this.isAsked(p)) return false;
    this.#kvm.sync.y('Z.e');
    this.#layout.active.add(p, 1);
    return true;
  }

  /** The runner is in none of the guest's harts or devices any more. */
  leave(p: Pause): void {
    const before = this.#layout.active.add(p, -1);
    if (before > 1 || !this.isAsked(p)) return;
    this.#kvm.sync.waiter.notify(p + this.#layout.active.at, Number.POSITIVE_INFINITY);
  }

  /** Has the runners leave soon, and stay out. `vcpus`: none from when the guest is no longer shown. */
  ask(p: Pause, vcpus: () => readonly VcpuPtr[]): void {
    this.#layout.asked.store(p, Asked.Telling);
    for (const vcpu of vcpus()) this.#kvm.requests.make(vcpu, Request.Pause);
    this.#told(p, Asked.Yes);
  }

  #told(p: Pause, asked: number): void {
    this.#layout.asked.store(p, asked);
    this.#kvm.sync.waiter.notify(p + this.#layout.asked.at, 1);
  }

  /**
   * By the machine's thread, when it no longer shows the guest and before it frees the vCPUs: returns when nobody writes
   * to them, who has seen them.
   */
  awaitTold(p: Pause): void {
    const { asked } = this.#layout;
    if (this.#breaks.freeWhileTelling) return;
    while (asked.load(p) === Asked.Telling) this.#kvm.sync.waiter.wait(p + asked.at, Asked.Telling);
  }

  isAsked(p: Pause): boolean {
    return this.#layout.asked.load(p) !== Asked.No;
  }

  /** After `ask`: resolves when no runner is active. None will be before `release`. */
  async settled(p: Pause): Promise<void> {
    const { active } = this.#layout;
    for (let left = active.load(p); left !== 0; left = active.load(p)) {
      await changed(this.#kvm.words, p + active.at, left);
    }
  }

  /** As `settled`, on a thread that may sleep. */
  awaitSettled(p: Pause): void {
    const { active } = this.#layout;
    if (this.#breaks.pauseWithoutWait) return;
    for (let left = active.load(p); left !== 0; left = active.load(p)) {
      this.#kvm.sync.waiter.wait(p + active.at, left);
    }
  }

  /** The guest may run again, without `ticks` of its time. Requires: settled. The caller wakes the runners. */
  release(p: Pause, vcpus: () => readonly VcpuPtr[], ticks: number): void {
    const lost = this.lost(p) + ticks;
    const at = p + this.#layout.lost.at;
    this.#kvm.words[at] = lost | 0;
    this.#kvm.words[at + 1] = Math.floor(lost / 2 ** 32);
    this.#layout.asked.store(p, Asked.Telling);
    for (const vcpu of vcpus()) Atomics.and(this.#kvm.words, vcpu + AT.requests, ~Request.Pause);
    this.#told(p, Asked.No);
  }

  /** Ticks for which the guest's time stood still. Requires: active, or settled. */
  lost(p: Pause): number {
    const at = p + this.#layout.lost.at;
    return this.#kvm.words[at + 1]! * 2 ** 32 + (this.#kvm.words[at]! >>> 0);
  }
}

/** One runner's way in and out of a guest: it stays active from one slice to the next. */
export class PauseGate {
  readonly #pauses: Pauses;
  readonly #at: Pause;
  #active = false;

  constructor(pauses: Pauses, at: Pause) {
    this.#pauses = pauses;
    this.#at = at;
  }

  /** True if the runner may run the guest, until it calls `leave`. */
  enter(): boolean {
    this.#active ||= this.#pauses.enter(this.#at);
    return this.#active;
  }

  /** Before it sleeps, and before it looks again after a step that was 'paused'. */
  leave(): void {
    if (this.#active) this.#pauses.leave(this.#at);
    this.#active = false;
  }
}

export type PauserPorts = {
  vcpus(): readonly VcpuPtr[];
  isGone(): boolean;
  wake(): void;
  monotonicMs(): number;
};

/** Pauses one guest and resumes it, in the order of the calls. The only one to do so. */
export class Pauser {
  readonly #pauses: Pauses;
  readonly #at: Pause;
  readonly #vcpus: () => readonly VcpuPtr[];
  readonly #isGone: () => boolean;
  readonly #wake: () => void;
  readonly #monotonicMs: () => number;
  #last: Promise<void> = Promise.resolve();
  #since = 0;

  /** `vcpus`: see `Pauses.ask`. `isGone`: the record is no more. `wake`: ends the sleep of the runners. */
  constructor(pauses: Pauses, at: Pause, ports: PauserPorts) {
    this.#pauses = pauses;
    this.#at = at;
    this.#vcpus = ports.vcpus;
    this.#isGone = ports.isGone;
    this.#wake = ports.wake;
    this.#monotonicMs = ports.monotonicMs;
  }

  /** Resolves when no hart and no device of the guest runs; never if its thread has died. Twice is once. */
  pause(): Promise<void> {
    return this.#inTurn(async () => {
      if (this.#pauses.isAsked(this.#at)) return;
      this.#pauses.ask(this.#at, this.#vcpus);
      await this.#pauses.settled(this.#at);
      this.#since = this.#monotonicMs();
    });
  }

  /** True from the call of `pause` until that of `resume` takes effect. */
  get isPaused(): boolean {
    return this.#pauses.isAsked(this.#at);
  }

  /** Does nothing to a guest that runs. */
  resume(): Promise<void> {
    return this.#inTurn(async () => {
      if (!this.#pauses.isAsked(this.#at)) return;
      // A tick less than it was, as products are rounded and the guest's time must not go back.
      const ticks = Math.floor((this.#monotonicMs() - this.#since) * TICKS_PER_MS) - 1;
      this.#pauses.release(this.#at, this.#vcpus, Math.max(0, ticks));
      this.#wake();
    });
  }

  #inTurn(work: () => Promise<void>): Promise<void> {
    const turn = this.#last.then(async () => {
      if (!this.#isGone()) await work();
    });
    this.#last = turn.catch(() => {});
    return turn;
  }
}
