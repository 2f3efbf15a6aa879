import type { Channel } from '../machine/board.ts';
import type { BootFiles } from '../machine/boot.ts';
import type { Host, HostConfig } from '../machine/host.ts';
import type { MachineConfig } from '../machine/machine.ts';
import type { MachineEnd } from '../machine/run-loop.ts';

/** All that a machine is started from; sent to the worker as it is. */
export type Launch = {
  host: HostConfig;
  machine: MachineConfig;
  /** A kernel and its initrd, or one ELF to run bare. */
  files: BootFiles | { elf: Uint8Array };
  /** Image directories' disks, opened by whoever owns the devices. */
  disks: readonly string[];
  agent: boolean;
};

export type DriverEvents = {
  console(bytes: Uint8Array): void;
  agent(bytes: Uint8Array): void;
};

/** Where a machine runs: on this thread, or on a worker with the same code (design 4). */
export interface Driver {
  /** Resolves when the machine has ended and its threads have; rejects when our own code failed. */
  readonly ended: Promise<MachineEnd>;
  /** The Host as this thread sees it, for counters. */
  readonly host: Host;
  send(channel: Channel, bytes: Uint8Array): void;
  /** Ends the machine from outside; `ended` resolves with 'stopped'. */
  stop(): void;
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
