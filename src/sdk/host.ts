import { FaultlineError } from '../base/error.ts';
import { formatSize } from '../base/size.ts';
import { alignDown, MIB, PAGE_SIZE, pagesOf } from '../base/units.ts';
import { setEngineFlags } from '../host/node/engine-flags.ts';
import { overcommit } from '../inspect/mem-stat.ts';
import { HEAP_BYTES, type HostConfig, type HostPorts, Host as MachineHost } from '../machine/host.ts';
import { HostWorker } from './host-worker.ts';
import { nodePorts } from './node-ports.ts';
import { parseSwap } from './options.ts';
import { bytes, type Size } from './size.ts';

export type HostOptions = {
  /** All the frames there are, for guests, their tables and compressed swap together; '1G' unless told. */
  memory?: Size;
  /** 'none', 'zram', 'zram:SIZE' or 'file:PATH'; shared by the guests. 'zram' unless told. */
  swap?: string;
  /** 0 runs every guest on this thread, over memory nobody shares. */
  runners?: number;
  /** Test: rules of the memory core to switch off. */
  breaks?: readonly string[];
};

export type HostStat = {
  /** Frames there are, and free ones, in bytes. */
  memoryBytes: number;
  freeBytes: number;
  /** What its guests have in frames, each page counted in every guest that maps it, and in swap. */
  residentBytes: number;
  swappedBytes: number;
  guests: number;
  /** Bytes that guests have touched, for each byte of frames in use (O-9). */
  overcommit: number;
};

/** The arena may be 4 GiB; a little is left to its header. */
const ARENA_MAX = 4e9;
/** Decode caches, tables and records of some thirty guests. Untouched parts are free. */
const SHARED_HEAP_MAX = 1280 * MIB;
const MEMORY_MIN = 64 * MIB;
/** Most guests have booted by then, and want the cores for that. */
const LATER_MS = 1500;

/**
 * Memory that several guests share: one arena of frames, one swap, one housekeeper.
 *
 *     const host = await Host.create({ memory: '1G' });
 *     const [a, b] = [await Sandbox.create('tiny', { host }), await Sandbox.create('tiny', { host })];
 *     await host.close();
 */
export class Host implements AsyncDisposable {
  /** The low level, as this thread sees it. */
  readonly machineHost: MachineHost;
  /** Reclaim and what else goes on behind the guests. */
  #housekeeper: HostWorker | undefined;
  #translator: HostWorker | undefined;
  /** True if guests run on this thread, over memory that no other sees. */
  readonly inline: boolean;
  /** Its guests may have less memory than they ask for. */
  readonly #isTight: boolean;
  readonly #closeSwap: () => void;
  readonly #guests = new Set<HostGuest>();
  #closed: Promise<void> | undefined;

  private constructor(
    config: HostConfig,
    closeSwap: () => void,
    isTight: boolean,
    ports: HostPorts = nodePorts,
  ) {
    setEngineFlags();
    this.machineHost = MachineHost.create(config, ports);
    this.#closeSwap = closeSwap;
    this.inline = !config.shared;
    this.#isTight = isTight || config.swap.kind !== 'none';
  }

  /** Throws E_USAGE and E_SWAP for what can't be. */
  static async create(options: HostOptions = {}): Promise<Host> {
    const memoryBytes = bytes(options.memory ?? 1024 * MIB);
    const heapBytes = Math.min(SHARED_HEAP_MAX, alignDown(ARENA_MAX - memoryBytes, MIB));
    if (memoryBytes < MEMORY_MIN || heapBytes < HEAP_BYTES) {
      throw new FaultlineError('E_USAGE', `a Host of ${formatSize(memoryBytes)} cannot be`, {
        hint: "memory: '1G', from 64M to 3G",
      });
    }
    const { swap, closeSwap } = parseSwap(options.swap ?? 'zram', memoryBytes);
    const config: HostConfig = {
      ...{ frames: pagesOf(memoryBytes), heapBytes, swap },
      ...{ shared: options.runners !== 0, breaks: options.breaks ?? [] },
    };
    try {
      return new Host(config, closeSwap, true);
    } catch (error) {
      closeSwap();
      throw error;
    }
  }

  /** By Sandbox: a Host of given size. Throws ENOMEM. */
  static of(config: HostConfig, closeSwap: () => void, ports?: HostPorts): Host {
    return new Host(config, closeSwap, false, ports);
  }

  #keepHouse(): HostWorker {
    const { words, housekeepWord } = this.machineHost;
    const module = new URL('./housekeeper-worker.ts', import.meta.url);
    this.#housekeeper ??= new HostWorker(this.machineHost, module, () =>
      Atomics.notify(words, housekeepWord),
    );
    return this.#housekeeper;
  }

  /** Its worker comes with the first guest, once that runs: until then it would only be in the way. */
  #translate(): HostWorker {
    const module = new URL('./translator-worker.ts', import.meta.url);
    const { post } = this.machineHost;
    if (this.#translator !== undefined) return this.#translator;
    this.#translator = new HostWorker(this.machineHost, module, () => post.ring());
    this.#translator.failed.then(() => post.abandon());
    return this.#translator;
  }

  assertOpen(): void {
    if (this.#closed !== undefined) throw new FaultlineError('E_USAGE', 'the Host is closed');
  }

  /** By Sandbox: a guest that `close` ends. `merges`: the housekeeper has work from the start. */
  enter(guest: HostGuest, merges = false): void {
    this.#guests.add(guest);
    // A guest that is not made says so itself.
    if (!this.inline)
      guest.made.then(
        () => this.#serveGuest(guest, merges),
        () => {},
      );
    guest.ended.catch(() => {}).finally(() => this.#guests.delete(guest));
  }

  /** Before a guest is made there is nothing to serve, and its own threads want the cores to start on. */
  #serveGuest(guest: HostGuest, merges: boolean): void {
    this.#start(guest, () => this.#translate());
    const keepHouse = () => this.#start(guest, () => this.#keepHouse());
    // A guest that has all its memory and merges nothing can do without: huge pages have time.
    if (merges || this.#isTight) keepHouse();
    else {
      const timer = setTimeout(keepHouse, LATER_MS);
      guest.ended.catch(() => {}).finally(() => clearTimeout(timer));
    }
  }

  #start(guest: HostGuest, start: () => HostWorker): void {
    if (this.#closed !== undefined) return;
    try {
      start().failed.then(error => guest.fail(error));
    } catch (error) {
      guest.fail(error as Error);
    }
  }

  stat(): HostStat {
    const { mm, sync } = this.machineHost;
    const memoryBytes = sync.arena.frames * PAGE_SIZE;
    const freeBytes = mm.pageAlloc.freeFrames * PAGE_SIZE;
    const { residentBytes, swappedBytes, ratio } = overcommit(mm);
    return {
      ...{ memoryBytes, freeBytes, residentBytes, swappedBytes },
      ...{ guests: this.#guests.size, overcommit: ratio },
    };
  }

  /** Events of all guests since the start, by the names of /proc/vmstat. */
  vmstat(): Record<string, number> {
    return this.machineHost.mm.vmstat.all();
  }

  /** Ends the guests, then what served them, and gives the swap file back. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    for (const guest of this.#guests) guest.stop();
    await Promise.all([...this.#guests].map(guest => guest.ended.catch(() => {})));
    await Promise.all([this.#housekeeper?.stop(), this.#translator?.stop()]);
    this.#closeSwap();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** What a Host must know of a guest in it. */
export type HostGuest = {
  readonly made: Promise<unknown>;
  readonly ended: Promise<unknown>;
  stop(): void;
  fail(error: Error): void;
};
