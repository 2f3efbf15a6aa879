import type { Worker } from 'node:worker_threads';
import { spawnWorker } from '../host/node/spawn.ts';
import type { Channel } from '../machine/board.ts';
import { Host, type HostShare } from '../machine/host.ts';
import type { MachineEnd } from '../machine/run-loop.ts';
import { Ring } from '../sync/ring.ts';
import type { Driver, DriverEvents, Launch } from './driver.ts';
import { nodePorts } from './node-ports.ts';

/** Bytes of input that may wait in the arena for each channel. */
export const INPUT_RING_BYTES = 1 << 16;
/** Words of the control block: [0] wake counter, [1] stop. Then the rings. */
export const CONTROL = { wake: 0, stop: 1, words: 16 } as const;
export const CHANNELS: readonly Channel[] = ['console', 'agent'];

/** What the machine worker is given. */
export type MachineWorkerData = { share: HostShare; launch: Launch; control: number; rings: number[] };
export type MachineMessage =
  | { kind: 'output'; channel: Channel; bytes: Uint8Array }
  | { kind: 'end'; end: MachineEnd }
  | {
      kind: 'failed';
      name: string;
      code: string | undefined;
      message: string;
      stack: string | undefined;
      hint: string | undefined;
    };

/**
 * The machine and its devices on a worker, reclaim on another. This thread talks to them by rings and a wake
 * word in the arena, because a runner inside wasm hears no messages (design 14).
 */
export class WorkerDriver implements Driver {
  readonly host: Host;
  readonly ended: Promise<MachineEnd>;
  readonly #machine: Worker;
  readonly #housekeeper: Worker;
  readonly #control: number;
  readonly #rings: Map<Channel, Ring>;
  /** Input that its channel's ring has no room for yet. */
  readonly #overflow = new Map<Channel, Uint8Array[]>(CHANNELS.map(c => [c, []]));
  #over = false;
  #pump: NodeJS.Timeout | undefined;

  constructor(launch: Launch, events: DriverEvents) {
    this.host = Host.create({ ...launch.host, shared: true }, nodePorts);
    this.#control = this.host.mm.heap.alloc(CONTROL.words);
    const places = CHANNELS.map(() => this.host.allocRing(INPUT_RING_BYTES));
    this.#rings = new Map(
      CHANNELS.map((c, i) => [c, new Ring(this.host.sync, places[i]!, INPUT_RING_BYTES)]),
    );
    const share = this.host.share();
    const data: MachineWorkerData = { share, launch, control: this.#control, rings: places };
    this.#machine = spawnWorker(new URL('./machine-worker.ts', import.meta.url), data);
    this.#housekeeper = spawnWorker(new URL('./housekeeper-worker.ts', import.meta.url), {
      share,
      control: this.#control,
    });
    this.ended = this.#watch(events).finally(() => this.#tearDown());
  }

  send(channel: Channel, bytes: Uint8Array): void {
    if (this.#over) return;
    this.#overflow.get(channel)!.push(bytes);
    this.#flush();
  }

  stop(): void {
    Atomics.store(this.host.words, this.#control + CONTROL.stop, 1);
    this.#wakeUp();
  }

  /** Moves what fits into the rings; the rest follows when there is room. No channel waits for another. */
  #flush(): void {
    const waiting = CHANNELS.filter(channel => !this.#moveOn(channel));
    if (waiting.length > 0) {
      this.#pump ??= setInterval(() => this.#flush(), 5);
      return;
    }
    clearInterval(this.#pump);
    this.#pump = undefined;
  }

  /** True if nothing of the channel waits any more. */
  #moveOn(channel: Channel): boolean {
    const waiting = this.#overflow.get(channel)!;
    for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
      const taken = this.#rings.get(channel)!.write(first);
      if (taken > 0) this.#wakeUp();
      if (taken < first.length) {
        waiting[0] = first.subarray(taken);
        return false;
      }
      waiting.shift();
    }
    return true;
  }

  #wakeUp(): void {
    Atomics.add(this.host.words, this.#control + CONTROL.wake, 1);
    Atomics.notify(this.host.words, this.#control + CONTROL.wake);
  }

  #watch(events: DriverEvents): Promise<MachineEnd> {
    return new Promise((resolve, reject) => {
      this.#machine.on('message', (message: MachineMessage) => {
        if (message.kind === 'output')
          events[message.channel === 'console' ? 'console' : 'agent'](message.bytes);
        else if (message.kind === 'end') resolve(message.end);
        else reject(Object.assign(new Error(message.message), message));
      });
      this.#machine.on('error', reject);
      this.#housekeeper.on('error', reject);
      this.#machine.on('exit', code => reject(new Error(`the machine's worker ended with ${code}`)));
    });
  }

  async #tearDown(): Promise<void> {
    this.#over = true;
    clearInterval(this.#pump);
    Atomics.store(this.host.words, this.#control + CONTROL.stop, 1);
    this.#wakeUp();
    await Promise.all([this.#machine.terminate(), this.#housekeeper.terminate()]);
  }
}
