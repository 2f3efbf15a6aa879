import type { Gpa } from '../base/units.ts';
import type {
  BlockBackend,
  CharBackend,
  Clock,
  Device,
  DeviceState,
  GuestMemory,
  MmioDevice,
} from '../devices/interface.ts';
import { Plic } from '../devices/plic.ts';
import { StateReader } from '../devices/state.ts';
import * as map from './memory-map.ts';

// The board: what answers at which guest physical address, and which wire goes where. One owner calls it
// (the device worker); only the PLIC's words are shared, and they have their lock.

export type BoardOptions = {
  readonly memory: GuestMemory;
  readonly clock: Clock;
  /** Fills `into` with random bytes, for virtio-rng. */
  readonly rng: (into: Uint8Array) => void;
  /** Output of the 16550, the guest's ttyS0. */
  readonly console: CharBackend;
  /** A virtio console as a terminal: hvc0. */
  readonly hvc?: CharBackend;
  /** A virtio console as the agent's channel: hvc1 after an `hvc`, hvc0 without. */
  readonly agent?: CharBackend;
  /** vda, vdb, ... in this order. */
  readonly disks?: readonly BlockBackend[];
  /** 1 unless told. */
  readonly harts?: number;
  /** The PLIC's state, `Plic.words(harts)` words, zero at first; its own unless given. */
  readonly irqchip?: Int32Array;
  /** Taken around PLIC operations when runners operate it too. */
  readonly irqchipLock?: { acquire(): void; release(): void };
  /** Drives SEIP of a hart; called with the irqchip lock held. */
  setExternal(hart: number, level: boolean): void;
  /** A full input buffer (`receive` took less than all) has room again. */
  readonly onRoom?: (channel: Channel) => void;
};

export type Channel = 'console' | 'hvc' | 'agent';

/** What `read` answers where nothing is: the vCPU takes an access fault. */
export const HOLE = -1;

type Mapping = { readonly base: Gpa; readonly device: MmioDevice };

const VERSION = 1;

export class Board {
  readonly plic: Plic;
  readonly #mappings: Mapping[] = [];
  readonly #devices: Device[] = [];

  constructor(options: BoardOptions) {
    const harts = options.harts ?? 1;
    this.plic = new Plic(options.irqchip ?? new Int32Array(Plic.words(harts)), {
      harts,
      setExternal: options.setExternal,
      ...(options.irqchipLock === undefined ? {} : { lock: options.irqchipLock }),
    });
    this.#map(map.PLIC_BASE, this.plic);
  }

  /** An unsigned value of 1, 2 or 4 bytes, or HOLE. */
  read(gpa: Gpa, bytes: number): number {
    const mapping = this.#find(gpa, bytes);
    return mapping === undefined ? HOLE : mapping.device.read(gpa - mapping.base, bytes);
  }

  /** Two reads of 4 bytes into `into`, low word first; false where nothing is. */
  read64(gpa: Gpa, into: { [index: number]: number }): boolean {
    const mapping = this.#find(gpa, 8);
    if (mapping === undefined) return false;
    into[0] = mapping.device.read(gpa - mapping.base, 4);
    into[1] = mapping.device.read(gpa - mapping.base + 4, 4);
    return true;
  }

  /** Takes the low 1, 2 or 4 bytes of `value`, signed or not; false where nothing is. */
  write(gpa: Gpa, bytes: number, value: number): boolean {
    const mapping = this.#find(gpa, bytes);
    if (mapping === undefined) return false;
    mapping.device.write(
      gpa - mapping.base,
      bytes,
      bytes === 4 ? value >>> 0 : value & (2 ** (bytes * 8) - 1),
    );
    return true;
  }

  /** Two writes of 4 bytes, low word first; false where nothing is. */
  write64(gpa: Gpa, low: number, high: number): boolean {
    const mapping = this.#find(gpa, 8);
    if (mapping === undefined) return false;
    mapping.device.write(gpa - mapping.base, 4, low >>> 0);
    mapping.device.write(gpa - mapping.base + 4, 4, high >>> 0);
    return true;
  }

  /** Hands input to a channel; returns how many of the bytes it took. 0 for a channel that isn't there. */
  receive(_channel: Channel, _bytes: Uint8Array): number {
    return 0;
  }

  /**
   * Goes on with what waited for a page, and rings alarms that are due. True if something still waits
   * for a page: call again when one has arrived.
   */
  poll(): boolean {
    return false;
  }

  /** True if a device request waits for a page: `poll` when one has arrived. */
  get blocked(): boolean {
    return false;
  }

  /** The clock's time at which `poll` has something to do; Infinity for never. */
  nextDeadline(): number {
    return Number.POSITIVE_INFINITY;
  }

  /** Everything the devices know; the guest must be stopped. */
  save(): DeviceState {
    return { version: VERSION, devices: this.#devices.map(device => device.save()) };
  }

  /** Into a board made with the same options. On EINVAL everything is as before. Poll afterwards. */
  load(state: DeviceState): void {
    const states = new StateReader('board', state, VERSION).records('devices', this.#devices.length);
    const before = this.#devices.map(device => device.save());
    try {
      this.#loadAll(states);
    } catch (error) {
      this.#loadAll(before);
      throw error;
    }
  }

  reset(): void {
    for (const device of this.#devices) device.reset();
  }

  /** The PLIC is first in and last loaded: it knows the levels of its lines itself. */
  #loadAll(states: readonly DeviceState[]): void {
    for (let index = this.#devices.length - 1; index >= 0; index--) {
      this.#devices[index]!.load(states[index]!);
    }
  }

  #map(base: Gpa, device: MmioDevice): void {
    this.#mappings.push({ base, device });
    this.#devices.push(device);
  }

  #find(gpa: Gpa, bytes: number): Mapping | undefined {
    for (const mapping of this.#mappings) {
      const offset = gpa - mapping.base;
      if (offset >= 0 && offset + bytes <= mapping.device.length) return mapping;
    }
    return undefined;
  }
}
