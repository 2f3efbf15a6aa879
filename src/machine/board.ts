import type { Gpa } from '../base/units.ts';
import { GoldfishRtc } from '../devices/goldfish-rtc.ts';
import type {
  BlockBackend,
  CharBackend,
  Clock,
  Device,
  DeviceState,
  GuestMemory,
} from '../devices/interface.ts';
import { Ns16550 } from '../devices/ns16550.ts';
import { PciHost, type PciWindow } from '../devices/pci-host.ts';
import { Plic } from '../devices/plic.ts';
import { StateReader } from '../devices/state.ts';
import type { VirtioModel } from '../devices/virtio.ts';
import { type BalloonPorts, VirtioBalloon } from '../devices/virtio-balloon.ts';
import { VirtioBlk } from '../devices/virtio-blk.ts';
import { VirtioConsole } from '../devices/virtio-console.ts';
import { VirtioPci } from '../devices/virtio-pci.ts';
import { VirtioRng } from '../devices/virtio-rng.ts';
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
  /** The guest has a balloon, and reports what is free. */
  readonly balloon?: BalloonPorts;
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

/** Anything that answers in a range; not all of it has state. */
type Mapping = { readonly base: Gpa; readonly device: PciWindow };

/** PCI slots; disks take the rest in order. Slot 0 is left to the bridge, which needs no function. */
const Slot = { Hvc: 1, Agent: 2, Rng: 3, FirstDisk: 4, Balloon: 31 } as const;

const VERSION = 1;

export class Board {
  readonly plic: Plic;
  readonly uart: Ns16550;
  readonly rtc: GoldfishRtc;
  readonly hvc: VirtioConsole | undefined;
  readonly agent: VirtioConsole | undefined;
  readonly balloon: VirtioBalloon | undefined;
  readonly #options: BoardOptions;
  readonly #pci: PciHost;
  readonly #mappings: Mapping[] = [];
  readonly #devices: Device[] = [];
  readonly #functions: VirtioPci[] = [];

  constructor(options: BoardOptions) {
    this.#options = options;
    this.plic = this.#makePlic();
    const { clock, console: output } = options;
    this.uart = new Ns16550({ irq: this.plic.line(map.UART_IRQ), output, onRoom: this.#room('console') });
    this.rtc = new GoldfishRtc({ irq: this.plic.line(map.RTC_IRQ), clock });
    this.#devices.push(this.plic, this.uart, this.rtc);
    this.#pci = this.#makePci();
    this.hvc = this.#makeConsole('hvc', Slot.Hvc, options.hvc);
    this.agent = this.#makeConsole('agent', Slot.Agent, options.agent);
    this.#addFunction('rng', Slot.Rng, new VirtioRng(options.rng));
    options.disks?.forEach((disk, index) => {
      const name = `disk${index}`;
      this.#addFunction(name, Slot.FirstDisk + index, new VirtioBlk(disk, name));
    });
    this.balloon = this.#makeBalloon(options.balloon);
    this.#mapAll();
  }

  #makeBalloon(ports: BalloonPorts | undefined): VirtioBalloon | undefined {
    if (ports === undefined) return undefined;
    const model = new VirtioBalloon(ports);
    this.#addFunction('balloon', Slot.Balloon, model);
    return model;
  }

  #makePlic(): Plic {
    const options = this.#options;
    const harts = options.harts ?? 1;
    return new Plic(options.irqchip ?? new Int32Array(Plic.words(harts)), {
      harts,
      setExternal: (hart, level) => options.setExternal(hart, level),
      ...(options.irqchipLock === undefined ? {} : { lock: options.irqchipLock }),
    });
  }

  #makePci(): PciHost {
    const lines = Array.from({ length: map.PCI_IRQ_LINES }, (_, i) => this.plic.line(map.PCI_IRQ_BASE + i));
    return new PciHost({ lines, ecamLength: map.PCI_ECAM_LENGTH });
  }

  #makeConsole(name: 'hvc' | 'agent', slot: number, output: CharBackend | undefined) {
    if (output === undefined) return undefined;
    const model = new VirtioConsole({ output, onRoom: this.#room(name) });
    this.#addFunction(name, slot, model);
    return model;
  }

  #addFunction(name: string, slot: number, model: VirtioModel): void {
    const irq = this.#pci.pin(slot);
    const device = new VirtioPci(model, { name, memory: this.#options.memory, irq });
    this.#pci.attach(slot, device);
    this.#functions.push(device);
    this.#devices.push(device);
  }

  #room(channel: Channel): () => void {
    return () => this.#options.onRoom?.(channel);
  }

  /** Most used first: a search goes down the list. */
  #mapAll(): void {
    const add = (base: Gpa, device: PciWindow) => this.#mappings.push({ base, device });
    add(map.PCI_MEM32_BASE, this.#pci.window(map.PCI_MEM32_BASE, map.PCI_MEM32_LENGTH));
    add(map.PLIC_BASE, this.plic);
    add(map.UART_BASE, this.uart);
    add(map.PCI_ECAM_BASE, this.#pci.ecam);
    add(map.RTC_BASE, this.rtc);
    add(map.PCI_MEM64_BASE, this.#pci.window(map.PCI_MEM64_BASE, map.PCI_MEM64_LENGTH));
    add(map.PCI_IO_BASE, this.#pci.emptyWindow(map.PCI_IO_LENGTH));
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
  receive(channel: Channel, bytes: Uint8Array): number {
    const device = channel === 'console' ? this.uart : this[channel];
    return device?.receive(bytes) ?? 0;
  }

  /**
   * Goes on with what waited for a page or was put off, and rings alarms that are due. True if something
   * still waits for a page: call again when one has arrived.
   */
  poll(): boolean {
    this.rtc.poll();
    for (const device of this.#functions) device.poll();
    return this.blocked;
  }

  /** True if a device request waits for a page: `poll` when one has arrived. */
  get blocked(): boolean {
    return this.#functions.some(device => device.blocked);
  }

  /** The clock's time at which `poll` has something to do that waits for no page; Infinity for never. */
  nextDeadline(): number {
    if (this.#functions.some(device => device.runnable)) return 0;
    return this.rtc.nextDeadline();
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

  /** Power-on. The PLIC comes last, when the devices have let go of their lines. */
  reset(): void {
    for (const device of this.#devices.toReversed()) device.reset();
  }

  /** The PLIC is first in and last loaded: it knows the levels of its lines itself. */
  #loadAll(states: readonly DeviceState[]): void {
    for (let index = this.#devices.length - 1; index >= 0; index--) {
      this.#devices[index]!.load(states[index]!);
    }
  }

  #find(gpa: Gpa, bytes: number): Mapping | undefined {
    for (const mapping of this.#mappings) {
      const offset = gpa - mapping.base;
      if (offset >= 0 && offset + bytes <= mapping.device.length) return mapping;
    }
    return undefined;
  }
}
