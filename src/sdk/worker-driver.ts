import type { Worker } from 'node:worker_threads';
import { PAGE_SIZE } from '../base/units.ts';
import { spawnWorker } from '../host/node/spawn.ts';
import { monotonicMs } from '../host/world.ts';
import type { Channel } from '../machine/board.ts';
import type { RunnerShare } from '../machine/hart-runner.ts';
import type { Guest, Host, HostShare } from '../machine/host.ts';
import { Pauser, Pauses } from '../machine/pause.ts';
import type { MachineEnd } from '../machine/run-loop.ts';
import { Ring } from '../sync/ring.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Driver, DriverEvents, Launch } from './driver.ts';
import { machineWorker } from './standby.ts';

/** Bytes of input that may wait in the arena for each channel. */
export const INPUT_RING_BYTES = 1 << 16;
/**
 * Words of the control block. The guest's pieces are told by the worker that made it: the page number of its
 * RAM, its pages, and last, when the others stand, its mm, which is 0 again before it goes.
 */
export const CONTROL = {
  ...{ wake: 0, stop: 1, mm: 2, vm: 3, vpn: 5, pages: 6 },
  /** Pages that the balloon shall have, and those that it has, by the guest's account. */
  ...{ balloonTarget: 7, balloonActual: 8 },
  /** 1 when a machine that waits may begin. */
  go: 9,
  /** 1 when the machine is over, and its other runners shall leave. */
  over: 10,
  /** Runners beside the machine's own thread: how many have not left, or CLOSED when none may come any more. */
  runners: 11,
  /** What runner n sleeps on, n from 1 on; runner 0 is the machine's thread. */
  runnerWake: 16,
  /** The record by which it is paused. */
  pause: 24,
  words: 32,
} as const;
export const CLOSED = -1;
export const pauseAt = (control: number): Ptr<'pause'> => (control + CONTROL.pause) as Ptr<'pause'>;
export const wakeWord = (control: number, runner: number): number =>
  control + (runner === 0 ? CONTROL.wake : CONTROL.runnerWake + runner);
/** How long a worker that was told to stop may take; it looks between two rounds of slices. */
const LEAVE_MS = 2000;
export const CHANNELS: readonly Channel[] = ['console', 'agent'];

/** What the machine worker is given. */
export type MachineWorkerData = { share: HostShare; launch: Launch; control: number; rings: number[] };
export type MachineMessage =
  | { kind: 'output'; channel: Channel; bytes: Uint8Array }
  | { kind: 'made'; share: RunnerShare }
  | { kind: 'end'; end: MachineEnd }
  | {
      kind: 'failed';
      name: string;
      code: string | undefined;
      message: string;
      stack: string | undefined;
      hint: string | undefined;
    };

/** What a runner's worker is given. */
export type RunnerWorkerData = {
  share: HostShare;
  machine: RunnerShare;
  control: number;
  runner: number;
};

/**
 * The machine and its devices on a worker; one for each guest, until runners are pooled (design 4), and beside
 * it those that run the guest's other harts. This thread talks to them by rings and a wake
 * word in the arena, because a runner inside wasm hears no messages (design 14).
 */
export class WorkerDriver implements Driver {
  readonly ended: Promise<MachineEnd>;
  readonly made: Promise<Guest>;
  readonly #host: Host;
  readonly #hasBalloon: boolean;
  readonly #machine: Worker;
  readonly #runners: Worker[] = [];
  readonly #control: number;
  readonly #rings: Map<Channel, Ring>;
  /** Input that its channel's ring has no room for yet. */
  readonly #overflow = new Map<Channel, Uint8Array[]>(CHANNELS.map(c => [c, []]));
  readonly #left: Promise<void>;
  readonly #pauser: Pauser;
  #over = false;
  #lastGuest: Guest | undefined;
  #pump: NodeJS.Timeout | undefined;
  #failWith!: (error: Error) => void;

  constructor(host: Host, launch: Launch, events: DriverEvents) {
    this.#host = host;
    this.#hasBalloon = launch.machine.balloon === true;
    this.#control = host.mm.heap.alloc(CONTROL.words);
    const places = CHANNELS.map(() => host.allocRing(INPUT_RING_BYTES));
    this.#rings = new Map(CHANNELS.map((c, i) => [c, new Ring(host.sync, places[i]!, INPUT_RING_BYTES)]));
    const data: MachineWorkerData = { share: host.share(), launch, control: this.#control, rings: places };
    this.#machine = machineWorker(data);
    this.#left = new Promise(resolve => this.#machine.on('exit', () => resolve()));
    this.made = new Promise((resolve, reject) => {
      this.#machine.on('message', (m: MachineMessage) => {
        if (m.kind === 'made') {
          this.#startRunners(m.share);
          resolve(this.guest()!);
        } else if (m.kind !== 'output') reject(Object.assign(new Error('the machine was not made'), m));
      });
      this.#machine.on('exit', () => reject(new Error('the machine was not made')));
    });
    this.made.catch(() => {});
    this.#pauser = new Pauser(new Pauses(host.kvm), pauseAt(this.#control), {
      vcpus: () => this.guest()?.vcpus ?? [],
      isGone: () => this.#over,
      wake: () => this.#wakeAll(),
      monotonicMs,
    });
    this.ended = this.#watch(events).finally(() => this.#tearDown(places));
  }

  /** Not when the machine is over already: it does not wait for those that it does not see. */
  #startRunners(machine: RunnerShare): void {
    const count = machine.runners - 1;
    const { words } = this.#host;
    const control = this.#control;
    if (count < 1) return;
    if (Atomics.compareExchange(words, control + CONTROL.runners, 0, count) !== 0) return;
    for (let runner = 1; runner <= count; runner++) {
      const data: RunnerWorkerData = { share: this.#host.share(), machine, control, runner };
      const worker = spawnWorker(new URL('./runner-worker.ts', import.meta.url), data);
      worker.on('error', error => this.#failWith(error));
      this.#runners.push(worker);
    }
  }

  guest(): Guest | undefined {
    if (this.#over) return this.#lastGuest;
    const word = (at: number) => Atomics.load(this.#host.words, this.#control + at);
    const mm = word(CONTROL.mm) as Guest['mm'];
    if (mm === 0) return undefined;
    const vm = word(CONTROL.vm) as Guest['vm'];
    const vcpus = this.#host.vcpus(vm);
    return { mm, vm, vcpus, hva: word(CONTROL.vpn) * PAGE_SIZE, bytes: word(CONTROL.pages) * PAGE_SIZE };
  }

  go(): void {
    if (this.#over) return;
    Atomics.store(this.#host.words, this.#control + CONTROL.go, 1);
    Atomics.notify(this.#host.words, this.#control + CONTROL.go);
  }

  balloonBytes(): number {
    if (this.#over) return 0;
    return (Atomics.load(this.#host.words, this.#control + CONTROL.balloonActual) >>> 0) * PAGE_SIZE;
  }

  setBalloon(bytes: number): boolean {
    if (this.#over || !this.#hasBalloon) return false;
    Atomics.store(this.#host.words, this.#control + CONTROL.balloonTarget, Math.floor(bytes / PAGE_SIZE));
    this.#wakeUp();
    return true;
  }

  send(channel: Channel, bytes: Uint8Array): void {
    if (this.#over) return;
    this.#overflow.get(channel)!.push(bytes);
    this.#flush();
  }

  stop(): void {
    Atomics.store(this.#host.words, this.#control + CONTROL.stop, 1);
    this.go();
    this.#wakeUp();
  }

  fail(error: Error): void {
    this.#failWith(error);
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

  pause(): Promise<void> {
    return this.#pauser.pause();
  }

  resume(): Promise<void> {
    return this.#pauser.resume();
  }

  #wakeUp(runner = 0): void {
    const word = wakeWord(this.#control, runner);
    Atomics.add(this.#host.words, word, 1);
    Atomics.notify(this.#host.words, word);
  }

  #wakeAll(): void {
    for (let runner = 0; runner <= this.#runners.length; runner++) this.#wakeUp(runner);
  }

  #watch(events: DriverEvents): Promise<MachineEnd> {
    return new Promise((resolve, reject) => {
      this.#failWith = reject;
      this.#machine.on('message', (message: MachineMessage) => {
        if (message.kind === 'output')
          events[message.channel === 'console' ? 'console' : 'agent'](message.bytes);
        else if (message.kind === 'made') return;
        else if (message.kind === 'end') resolve(message.end);
        else reject(Object.assign(new Error(message.message), message));
      });
      this.#machine.on('error', reject);
      this.#machine.on('exit', code => reject(new Error(`the machine's worker ended with ${code}`)));
    });
  }

  /** The worker is asked to leave first: ended from outside it may hold a lock of memory that others use. */
  async #tearDown(places: readonly number[]): Promise<void> {
    clearInterval(this.#pump);
    this.stop();
    await Promise.race([this.#left, sleep(LEAVE_MS)]);
    await this.#machine.terminate();
    // Gone by now, unless something failed: the machine waits for them.
    await Promise.all(this.#runners.map(worker => worker.terminate()));
    this.#lastGuest = this.guest();
    this.#over = true;
    if (this.#lastGuest !== undefined) return;
    for (const at of [...places, this.#control]) this.#host.mm.heap.free(at);
  }
}

const sleep = (ms: number): Promise<void> =>
  new Promise(resolve => {
    setTimeout(resolve, ms).unref();
  });
