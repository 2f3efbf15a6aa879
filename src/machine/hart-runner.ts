import { HaltPoll } from '../sync/halt-poll.ts';
import type { Ptr } from '../sync/struct.ts';
import { type MachineClock, realClock } from './clock.ts';
import { Harts, NEVER } from './harts.ts';
import type { Host } from './host.ts';
import { sharedPlic } from './irqchip.ts';
import { PauseGate, Pauses } from './pause.ts';
import type { SbiPorts } from './sbi.ts';
import { sbiPorts } from './sbi-ports.ts';
import { type Step, VcpuLoop } from './vcpu-loop.ts';

/** What a machine tells the threads that run its other harts; plain data. */
export type RunnerShare = {
  vm: Ptr<'vm'>;
  mm: Ptr<'mm'>;
  irqchip: number;
  /** Hart n belongs to runner n modulo this; runner 0 is the machine's own thread. */
  runners: number;
  /** When the machine started, by this process's monotonic clock. */
  startMs: number;
  epochSeconds: number;
};

export type RunnerOptions = {
  host: Host;
  share: RunnerShare;
  /** Which one this is, from 1 on. */
  runner: number;
  monotonicMs(): number;
  /** Words: what this thread sleeps on, and what is not 0 when the machine is over. */
  wake: number;
  over: number;
  pause: Ptr<'pause'>;
};

/** A hart that waits for a page looks this often whether the machine is over. The page itself wakes it. */
const ANSWER_MS = 5;
/** A page without a ticket is asked for again after this long. */
const BLOCKED_MS = 1;

/**
 * Runs some of a machine's harts by turns, on a thread that owns no devices. What needs those is handed over,
 * record and all; SBI's calls between harts, the PLIC and memory are anybody's.
 */
export class HartRunner {
  readonly #o: RunnerOptions;
  readonly #harts: Harts;
  readonly #own: readonly number[];
  readonly #clock: MachineClock;
  readonly #loops: readonly VcpuLoop[];
  /** A hart that waits in `wfi` is often woken by the next hart at once. */
  readonly #poll: HaltPoll;
  readonly #gate: PauseGate;
  #turn = 0;
  #running = false;

  constructor(options: RunnerOptions) {
    this.#o = options;
    const { host, share, runner, monotonicMs, pause } = options;
    const pauses = new Pauses(host.kvm);
    this.#gate = new PauseGate(pauses, pause);
    this.#harts = new Harts(host.kvm, host.cpu, host.vcpus(share.vm));
    this.#own = this.#harts.all.filter(hart => hart % share.runners === runner);
    this.#clock = realClock(monotonicMs, share.epochSeconds, share.startMs, () => pauses.lost(pause));
    host.setClock(share.vm, this.#clock);
    this.#poll = new HaltPoll(host.words, host.sync.waiter);
    this.#loops = this.#own.map(hart => this.#makeLoop(hart));
  }

  #makeLoop(hart: number): VcpuLoop {
    const { host, share } = this.#o;
    const { uffdWaits } = host.mm;
    return new VcpuLoop({
      ...{ cpu: host.cpu, words: host.words, harts: this.#harts, hart, clock: this.#clock },
      plic: sharedPlic(host, this.#harts, share.irqchip),
      sbi: sbiPorts(this.#harts, NO_DEVICES),
      faults: {
        isOver: ticket => uffdWaits.isOver(ticket),
        finish: ticket => uffdWaits.finish(ticket),
        resolve: () => false,
      },
    });
  }

  /** Returns when the machine is over. */
  run(): void {
    const { words } = this.#o.host;
    for (;;) {
      const seen = Atomics.load(words, this.#o.wake);
      if (Atomics.load(words, this.#o.over) !== 0) break;
      const step = this.#gate.enter() ? this.#step() : 'paused';
      if (step !== 'ran') this.#sleep(seen, step);
    }
    this.#setRunning(false);
    for (const loop of this.#loops) loop.leaveFault();
    this.#gate.leave();
  }

  /** A slice, or an exit, of the next hart that can run. */
  #step(): 'ran' | 'idle' | 'blocked' | 'paused' {
    let outcome: 'idle' | 'blocked' = 'idle';
    for (let tried = 0; tried < this.#loops.length; tried++) {
      const step: Step = this.#loops[this.#turn]!.step();
      this.#turn = (this.#turn + 1) % this.#loops.length;
      if (step === 'paused') return step;
      if (step === 'ran') {
        this.#setRunning(true);
        return step;
      }
      if (step === 'blocked') outcome = step;
    }
    return outcome;
  }

  #msUntilTimer(): number {
    const timer = this.#harts.nextTimer(this.#own);
    return timer === NEVER ? Number.POSITIVE_INFINITY : this.#clock.millisecondsUntil(timer);
  }

  /** All ends of a sleep, but the timers, come with a change of the word: the end of a pause as well. */
  #sleep(seen: number, why: 'idle' | 'blocked' | 'paused'): void {
    const { host, wake } = this.#o;
    const ms = why === 'paused' ? 0 : this.#msUntilTimer();
    this.#setRunning(false);
    this.#gate.leave();
    const ticket = this.#loops.find(loop => loop.ticket !== 0)?.ticket;
    if (why === 'paused') host.sync.waiter.wait(wake, seen);
    else if (why === 'blocked' && ticket !== undefined)
      host.mm.uffdWaits.waitFor(ticket, Math.min(ms, ANSWER_MS));
    else if (ms > 0) this.#poll.wait(wake, seen, why === 'blocked' ? Math.min(ms, BLOCKED_MS) : ms);
  }

  /** For memory pressure: each runner that has something to do is a task of the guest's group (psi.ts). */
  #setRunning(running: boolean): void {
    if (running === this.#running) return;
    this.#running = running;
    const { psi, layout } = this.#o.host.mm;
    psi.running(layout.mm.memcg.get(this.#o.share.mm), running ? 1 : -1);
  }
}

/** Calls that need these are handed over before they are made. */
const NO_DEVICES: Pick<SbiPorts, 'memory' | 'console'> = {
  memory: { pin: () => 'fault', unpin() {} },
  console: { write() {}, read: () => new Uint8Array(0) },
};
