import { nextTurn } from '../host/world.ts';
import type { Channel } from '../machine/board.ts';
import type { Guest, Host } from '../machine/host.ts';
import type { Machine } from '../machine/machine.ts';
import type { MachineEnd } from '../machine/run-loop.ts';
import { BLOCKED_MS, RunLoop } from '../machine/run-loop.ts';
import { type Driver, type DriverEvents, type Launch, Queue } from './driver.ts';
import { type OpenDisk, startMachine } from './start-machine.ts';

/** How long the guest runs before the event loop gets a turn. */
const TURN_MS = 10;

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
  #gone = false;
  #failure: Error | undefined;
  /** The guest said something; whoever listens may answer before it goes on. */
  #spoke = false;
  #stopped = false;
  #wake: (() => void) | undefined;

  /** The housekeeping of `host` is done here too; several guests on a thread take turns. */
  constructor(host: Host, launch: Launch, events: DriverEvents, openDisk: OpenDisk) {
    const alone = { ...launch, machine: { ...launch.machine, runners: 1 } };
    const machine = startMachine(host, alone, this.#noticing(events), openDisk);
    this.#machine = machine;
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
    this.#wake?.();
    return this.#machine.setBalloon(bytes);
  }

  #leave(): void {
    if (this.#keepMemory || this.#failure !== undefined) return;
    this.#gone = true;
    this.#machine.destroy();
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
      const until = performance.now() + TURN_MS;
      do {
        const round = this.#loop.round();
        if (round.kind === 'end') return round.end;
        // A listener may have stopped it while it ran, with nobody asleep to be woken.
        if (this.#stopped) break;
        if (round.kind === 'blocked' && !this.#machine.waitForPage(0)) {
          await this.#sleep(BLOCKED_MS);
          break;
        }
        if (round.kind === 'sleep' && round.ms > 0) {
          await this.#sleep(round.ms);
          break;
        }
      } while (performance.now() < until && !this.#spoke);
      this.#spoke = false;
      await nextTurn();
    }
    if (this.#failure !== undefined) throw this.#failure;
    return { kind: 'stopped' };
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
      const timer = setTimeout(resolve, Math.min(ms, 2 ** 31 - 1));
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
