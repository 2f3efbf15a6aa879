import { monotonicMs, nextTurn } from '../host/world.ts';
import type { Channel } from '../machine/board.ts';
import type { Guest, Host } from '../machine/host.ts';
import type { Machine } from '../machine/machine.ts';
import { PAUSE_WORDS, PauseGate, Pauser, Pauses } from '../machine/pause.ts';
import { BLOCKED_MS, type MachineEnd, type Round, RunLoop } from '../machine/run-loop.ts';
import type { Ptr } from '../sync/struct.ts';
import { type Driver, type DriverEvents, type Launch, Queue } from './driver.ts';
import { type OpenDisk, startMachine } from './start-machine.ts';

/** How long the guest runs before the event loop gets a turn. */
const TURN_MS = 10;
/** The longest that a timer of the host takes. */
const LONGEST_MS = 2 ** 31 - 1;

/**
 * One-worker mode: the machine, its devices and reclaim on this thread. Names neither Node nor the DOM, so a
 * browser's worker runs it as it is.
 */
export class InlineDriver implements Driver {
  readonly ended: Promise<MachineEnd>;
  readonly made: Promise<Guest>;
  readonly #going: Promise<void>;
  readonly #queue = new Queue();
  readonly #loop: RunLoop;
  readonly #machine: Machine;
  readonly #keepMemory: boolean;
  readonly #host: Host;
  readonly #pause: Ptr<'pause'>;
  readonly #gate: PauseGate;
  readonly #pauser: Pauser;
  /** What the balloon shall have, told when the guest next runs. */
  #balloon: number | undefined;
  #gone = false;
  #failure: Error | undefined;
  /** The guest said something; whoever listens may answer before it goes on. */
  #spoke = false;
  #stopped = false;
  #wake: (() => void) | undefined;

  /** The housekeeping of `host` is done here too; several guests on a thread take turns. */
  constructor(host: Host, launch: Launch, events: DriverEvents, openDisk: OpenDisk) {
    const alone = { ...launch, machine: { ...launch.machine, runners: 1 } };
    this.#host = host;
    const pause = host.mm.heap.alloc(PAUSE_WORDS) as Ptr<'pause'>;
    this.#pause = pause;
    const machine = startMachine(host, alone, this.#noticing(events), openDisk, { pause });
    this.#machine = machine;
    const pauses = new Pauses(host.kvm);
    this.#gate = new PauseGate(pauses, pause);
    this.#pauser = new Pauser(pauses, pause, {
      vcpus: () => machine.harts.vcpus,
      isGone: () => this.#gone,
      wake: () => this.#wake?.(),
      monotonicMs,
    });
    this.#keepMemory = launch.keepMemory;
    this.#loop = new RunLoop({
      machine,
      inlet: this.#queue,
      channels: ['console', 'agent'],
      housekeep: () => host.housekeep(),
    });
    this.made = Promise.resolve(machine.guest);
    this.#going = new Promise(resolve => {
      this.go = resolve;
      if (launch.waits !== true) resolve();
    });
    this.ended = this.#run().finally(() => this.#leave());
  }

  /** Replaced by the constructor. */
  go: () => void = () => {};

  guest(): Guest | undefined {
    return this.#gone ? undefined : this.#machine.guest;
  }

  balloonBytes(): number {
    return this.#machine.board.balloon?.actualBytes ?? 0;
  }

  setBalloon(bytes: number): boolean {
    this.#balloon = bytes;
    this.#wake?.();
    return this.#machine.board.balloon !== undefined;
  }

  pause(): Promise<void> {
    return this.#pauser.pause();
  }

  resume(): Promise<void> {
    return this.#pauser.resume();
  }

  #leave(): void {
    if (this.#keepMemory || this.#failure !== undefined) return;
    this.#gone = true;
    this.#machine.destroy();
    this.#host.mm.heap.free(this.#pause);
  }

  send(channel: Channel, bytes: Uint8Array): void {
    this.#queue.push(channel, bytes);
    this.#wake?.();
  }

  stop(): void {
    this.#stopped = true;
    this.go();
    this.#wake?.();
  }

  fail(error: Error): void {
    this.#failure = error;
    this.stop();
  }

  async #run(): Promise<MachineEnd> {
    await this.#going;
    await nextTurn();
    while (!this.#stopped) {
      const round: Round = this.#gate.enter() ? this.#turn() : { kind: 'paused' };
      this.#gate.leave();
      if (round.kind === 'end') return round.end;
      // A listener may have stopped it while it ran, with nobody asleep to be woken.
      if (!this.#stopped) await this.#rest(round);
      this.#spoke = false;
      await nextTurn();
    }
    if (this.#failure !== undefined) throw this.#failure;
    return { kind: 'stopped' };
  }

  /** Rounds, until it is the event loop's turn. */
  #turn(): Round {
    const until = performance.now() + TURN_MS;
    if (this.#balloon !== undefined) this.#machine.setBalloon(this.#balloon);
    this.#balloon = undefined;
    for (;;) {
      const round = this.#loop.round();
      const goesOn = round.kind === 'on' || (round.kind === 'blocked' && this.#machine.waitForPage(0));
      if (!goesOn && !(round.kind === 'sleep' && round.ms <= 0)) return round;
      if (this.#stopped || this.#spoke || performance.now() >= until) return { kind: 'on' };
    }
  }

  async #rest(round: Round): Promise<void> {
    if (round.kind === 'sleep') await this.#sleep(round.ms);
    else if (round.kind === 'blocked') await this.#sleep(BLOCKED_MS);
    // Resumed by now, it has nobody to wake it.
    else if (round.kind === 'paused' && this.#pauser.isPaused) await this.#sleep(LONGEST_MS);
  }

  /**
   * Each output ends the turn, so that an answer to it enters the guest at the same instruction in every run,
   * however fast this host is (design 12).
   */
  #noticing(events: DriverEvents): DriverEvents {
    const noticing = (listen: (bytes: Uint8Array) => void) => (bytes: Uint8Array) => {
      this.#spoke = true;
      listen(bytes);
    };
    return { console: noticing(events.console), agent: noticing(events.agent) };
  }

  #sleep(ms: number): Promise<void> {
    return new Promise(resolve => {
      const timer = setTimeout(resolve, Math.min(ms, LONGEST_MS));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
