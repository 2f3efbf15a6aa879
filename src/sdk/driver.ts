import type { Channel } from '../machine/board.ts';
import type { BootFiles } from '../machine/boot.ts';
import type { Guest } from '../machine/host.ts';
import type { MachineConfig } from '../machine/machine.ts';
import type { MachineEnd } from '../machine/run-loop.ts';

/** All that a machine is started from; sent to the worker as it is. */
export type Launch = {
  machine: MachineConfig;
  /**
   * A kernel and its initrd, the driver's from now on; one ELF to run bare; or where to begin in RAM that somebody else
   * supplies.
   */
  files: BootFiles | { elf: Uint8Array } | { entry: { pc: number; a1: number } };
  /** Begins only at `Driver.go`. */
  waits?: boolean;
  /** Image directories' disks, opened by whoever owns the devices. */
  disks: readonly string[];
  agent: boolean;
  /** Its memory stays for a last look when it has ended, as the Host goes with it. */
  keepMemory: boolean;
};

export type DriverEvents = {
  console(bytes: Uint8Array): void;
  agent(bytes: Uint8Array): void;
  /** The guest says how large its balloon is, in bytes. */
  balloon?(bytes: number): void;
};

/** Where a machine runs: on this thread, or on a worker with the same code (design 4). */
export interface Driver {
  /** Resolves when the machine has ended and its threads have; rejects when our own code failed. */
  readonly ended: Promise<MachineEnd>;
  /** The guest's pieces in the arena; undefined before it is made and after it was given back. */
  guest(): Guest | undefined;
  /** Resolves when the guest is made; a Launch that `waits` then needs `go`. Rejects if it can't be. */
  readonly made: Promise<Guest>;
  go(): void;
  /** How large the guest's balloon is, by its own account, in bytes. */
  balloonBytes(): number;
  /** How large it shall be. False if the guest has none. */
  setBalloon(bytes: number): boolean;
  send(channel: Channel, bytes: Uint8Array): void;
  /**
   * Resolves when no hart of the guest and no device runs; they do not until `resume`. Once it is made. May never resolve
   * when the machine ends meanwhile.
   */
  pause(): Promise<void>;
  resume(): Promise<void>;
  /** Ends the machine from outside; `ended` resolves with 'stopped'. */
  stop(): void;
  /** Ends it because our own code failed elsewhere; `ended` rejects. */
  fail(error: Error): void;
}

/** Bytes waiting for each channel, on the machine's own thread. */
export class Queue {
  readonly #waiting = new Map<Channel, Uint8Array>();

  push(channel: Channel, bytes: Uint8Array): void {
    const before = this.#waiting.get(channel) ?? new Uint8Array(0);
    const all = new Uint8Array(before.length + bytes.length);
    all.set(before);
    all.set(bytes, before.length);
    this.#waiting.set(channel, all);
  }

  peek(channel: Channel): Uint8Array {
    return this.#waiting.get(channel) ?? new Uint8Array(0);
  }

  skip(channel: Channel, count: number): void {
    this.#waiting.set(channel, this.peek(channel).subarray(count));
  }
}
