import type { Channel } from './board.ts';
import type { Machine } from './machine.ts';
import type { Step } from './vcpu-loop.ts';

/** How a machine ended. `code` is a bare program's. */
export type MachineEnd = {
  kind: 'shutdown' | 'guest-failed' | 'reboot' | 'stopped' | 'out-of-memory' | 'exit';
  code?: number;
  detail?: string;
};

/** Input that waits to enter the machine. */
export type Inlet = {
  /** Bytes that wait, left in place. */
  peek(channel: Channel): Uint8Array;
  /** So many of them were taken. */
  skip(channel: Channel, count: number): void;
};

export type RunLoopOptions = {
  machine: Machine;
  inlet: Inlet;
  channels: readonly Channel[];
  /** One bounded step of background reclaim, when no housekeeping worker does it. */
  housekeep?(): void;
};

/** Slices between two looks at the input and at housekeeping. */
const SLICES_PER_ROUND = 8;

/** A round's outcome: go on at once, sleep so many milliseconds, or the end. */
export type Round =
  | { kind: 'on' }
  | { kind: 'sleep'; ms: number }
  /** A page is on its way: `Machine.waitForPage`, or ask again after `BLOCKED_MS`. */
  | { kind: 'blocked' }
  /** Sleep until woken. */
  | { kind: 'paused' }
  | { kind: 'end'; end: MachineEnd };

const ON: Round = { kind: 'on' };
/** A page that is on its way is asked for again after this long. */
export const BLOCKED_MS = 1;

/** What every driver does between two looks at the world outside; synchronous, never sleeps itself. */
export class RunLoop {
  readonly #o: RunLoopOptions;

  constructor(options: RunLoopOptions) {
    this.#o = options;
  }

  round(): Round {
    this.#o.machine.setRunning(true);
    const round = this.#round();
    if (round.kind !== 'on') this.#o.machine.setRunning(false);
    return round;
  }

  #round(): Round {
    const { machine } = this.#o;
    this.#feed();
    this.#o.housekeep?.();
    for (let i = 0; i < SLICES_PER_ROUND; i++) {
      const step = machine.step();
      if (machine.memory.failed) return this.#outcome('out-of-memory');
      if (step === 'ran') continue;
      return this.#outcome(step);
    }
    return this.#bareEnd() ?? ON;
  }

  #outcome(step: Exclude<Step, 'ran' | 'away'>): Round {
    const { machine } = this.#o;
    switch (step) {
      case 'idle':
        if (this.#feed() && machine.runnable) return ON;
        return this.#bareEnd() ?? { kind: 'sleep', ms: machine.sleepMs() };
      case 'blocked':
        return machine.blocksAtRandom ? ON : { kind: 'blocked' };
      case 'paused':
        return { kind: step };
      case 'out-of-memory':
        return { kind: 'end', end: { kind: step, detail: machine.host.lastFailure() } };
      default:
        return { kind: 'end', end: { kind: step } };
    }
  }

  /** Hands over what waits; true if anything was taken. */
  #feed(): boolean {
    const { machine, inlet, channels } = this.#o;
    let fed = false;
    for (const channel of channels) {
      const bytes = inlet.peek(channel);
      if (bytes.length === 0) continue;
      const taken = machine.receive(channel, bytes);
      inlet.skip(channel, taken);
      fed ||= taken > 0;
    }
    return fed;
  }

  /** A bare program has stored to `tohost`: its code is the value without the lowest bit (HTIF). */
  #bareEnd(): Round | undefined {
    const value = this.#o.machine.tohost();
    return value === undefined ? undefined : { kind: 'end', end: { kind: 'exit', code: value >>> 1 } };
  }
}
