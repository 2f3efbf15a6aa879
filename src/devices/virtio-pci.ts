import type { DeviceState, GuestMemory, IrqLine } from './interface.ts';
import { PCI_CONFIG_BYTES, PciConfig, type PciFunction } from './pci.ts';
import { StateReader } from './state.ts';
import {
  BLOCKED,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_VERSION_1_HIGH,
  type VirtioModel,
  VirtioStatus,
} from './virtio.ts';
import { CFG_DATA, VIRTIO_BAR, VirtioRegion, virtioIdentity } from './virtio-pci-layout.ts';
import { Virtqueue } from './virtqueue.ts';

// A virtio 1.x device as a PCI function (virtio 1.2, 4.1): modern interface, INTx, no MSI-X. It finds the
// requests, has them pinned, and lets the model do them. Guest errors end in DEVICE_NEEDS_RESET, never in
// a throw; a page on its way leaves the request in the ring until `poll`.

/** 4.1.4.3, offsets in the common configuration. */
const Common = {
  DeviceFeatureSelect: 0x00,
  DeviceFeature: 0x04,
  DriverFeatureSelect: 0x08,
  DriverFeature: 0x0c,
  ConfigMsixVector: 0x10,
  NumQueues: 0x12,
  DeviceStatus: 0x14,
  ConfigGeneration: 0x15,
  QueueSelect: 0x16,
  QueueSize: 0x18,
  QueueMsixVector: 0x1a,
  QueueEnable: 0x1c,
  QueueNotifyOff: 0x1e,
  QueueDescLo: 0x20,
  QueueDescHi: 0x24,
  QueueDriverLo: 0x28,
  QueueDriverHi: 0x2c,
  QueueDeviceLo: 0x30,
  QueueDeviceHi: 0x34,
} as const;

const NO_VECTOR = 0xffff;
const Isr = { Queue: 1, Config: 2 } as const;
/** Requests served in one go are at most this many times the ring; the rest waits for `poll`. */
const ROUNDS = 2;
const VERSION = 1;

export type VirtioPciOptions = {
  readonly name: string;
  readonly memory: GuestMemory;
  readonly irq: IrqLine;
};

export class VirtioPci implements PciFunction {
  readonly name: string;
  readonly config: PciConfig;
  readonly #model: VirtioModel;
  readonly #irq: IrqLine;
  readonly #queues: readonly Virtqueue[];
  readonly #cfgCapability: number;
  #deviceFeatureSelect = 0;
  #driverFeatureSelect = 0;
  #driverLo = 0;
  #driverHi = 0;
  #status = 0;
  #generation = 0;
  #queueSelect = 0;
  #isr = 0;
  /** Queues that wait for a page, and those that have more to do: a bit each. Not saved; load sets all. */
  #blocked = 0;
  #more = 0;
  /** Queues being served, as a model's callee may kick again. */
  #busy = 0;

  constructor(model: VirtioModel, options: VirtioPciOptions) {
    this.name = options.name;
    this.#model = model;
    this.#irq = options.irq;
    this.#queues = model.queueSizes.map(size => new Virtqueue(options.memory, size));
    this.config = new PciConfig(virtioIdentity(model));
    this.#cfgCapability = this.config.capabilityOffsets.at(-1)!;
    model.attach({ kick: queue => this.#process(queue), configChanged: () => this.#configChanged() });
  }

  /** True if a request waits for a page. */
  get blocked(): boolean {
    return this.#blocked !== 0;
  }

  /** True if `poll` has something to do that waits for nothing. */
  get runnable(): boolean {
    return this.#more !== 0;
  }

  /** Goes on with what was blocked or put off. */
  poll(): void {
    const queues = this.#blocked | this.#more;
    for (let index = 0; index < this.#queues.length; index++) {
      if (((queues >>> index) & 1) !== 0) this.#process(index);
    }
  }

  readConfig(offset: number, bytes: number): number {
    if (offset === this.#cfgCapability + CFG_DATA) this.#accessByConfig(false);
    return this.config.read(offset, bytes);
  }

  writeConfig(offset: number, bytes: number, value: number): void {
    const couldDma = this.config.busMaster;
    this.config.write(offset, bytes, value);
    if (offset === this.#cfgCapability + CFG_DATA) this.#accessByConfig(true);
    this.#updateIrq();
    if (!couldDma && this.config.busMaster) this.#processAll();
  }

  /** 4.1.4.9: a window into the BAR for those who can't map it. */
  #accessByConfig(write: boolean): void {
    const at = this.#cfgCapability;
    const [bar, offset, length] = [4, 8, 12].map(field => this.config.read(at + field, field === 4 ? 1 : 4));
    if (bar !== VIRTIO_BAR.index || ![1, 2, 4].includes(length!) || offset! % length! !== 0) return;
    if (write) this.writeBar(bar, offset!, length!, this.config.read(at + CFG_DATA, length!));
    else this.config.write(at + CFG_DATA, length!, this.readBar(bar, offset!, length!));
  }

  readBar(_bar: number, offset: number, bytes: number): number {
    const value = this.#readRegion(offset, bytes);
    return bytes === 4 ? value >>> 0 : (value & (2 ** (bytes * 8) - 1)) >>> 0;
  }

  #readRegion(offset: number, bytes: number): number {
    if (offset < VirtioRegion.Isr) return this.#readCommon(offset);
    if (offset < VirtioRegion.Device) return offset === VirtioRegion.Isr ? this.#readIsr() : 0;
    if (offset < VirtioRegion.Notify) return this.#readDeviceConfig(offset - VirtioRegion.Device, bytes);
    return 0;
  }

  writeBar(_bar: number, offset: number, bytes: number, value: number): void {
    const inConfig = offset >= VirtioRegion.Device && offset < VirtioRegion.Notify;
    if (offset < VirtioRegion.Isr) this.#writeCommon(offset, value);
    else if (inConfig) this.#model.writeConfig?.(offset - VirtioRegion.Device, bytes, value);
    else if (offset >= VirtioRegion.Notify) this.#notify((offset - VirtioRegion.Notify) / 4);
  }

  #readCommon(offset: number): number {
    const queue = this.#queues[this.#queueSelect];
    switch (offset) {
      case Common.DeviceFeatureSelect:
        return this.#deviceFeatureSelect;
      case Common.DeviceFeature:
        return this.#offered(this.#deviceFeatureSelect);
      case Common.DriverFeatureSelect:
        return this.#driverFeatureSelect;
      case Common.DriverFeature:
        return this.#driverFeatureSelect === 0
          ? this.#driverLo
          : this.#driverFeatureSelect === 1
            ? this.#driverHi
            : 0;
      case Common.ConfigMsixVector:
      case Common.QueueMsixVector:
        return NO_VECTOR;
      case Common.NumQueues:
        return this.#queues.length;
      case Common.DeviceStatus:
        return this.#status;
      case Common.ConfigGeneration:
        return this.#generation;
      case Common.QueueSelect:
        return this.#queueSelect;
      default:
        return queue === undefined ? 0 : this.#readQueue(queue, offset);
    }
  }

  #readQueue(queue: Virtqueue, offset: number): number {
    switch (offset) {
      case Common.QueueSize:
        return queue.size;
      case Common.QueueEnable:
        return queue.enabled ? 1 : 0;
      case Common.QueueNotifyOff:
        return this.#queueSelect;
      case Common.QueueDescLo:
        return queue.descLo;
      case Common.QueueDescHi:
        return queue.descHi;
      case Common.QueueDriverLo:
        return queue.driverLo;
      case Common.QueueDriverHi:
        return queue.driverHi;
      case Common.QueueDeviceLo:
        return queue.deviceLo;
      case Common.QueueDeviceHi:
        return queue.deviceHi;
      default:
        return 0;
    }
  }

  #writeCommon(offset: number, value: number): void {
    switch (offset) {
      case Common.DeviceFeatureSelect:
        this.#deviceFeatureSelect = value >>> 0;
        break;
      case Common.DriverFeatureSelect:
        this.#driverFeatureSelect = value >>> 0;
        break;
      case Common.DriverFeature:
        this.#acceptFeatures(value >>> 0);
        break;
      case Common.DeviceStatus:
        this.#writeStatus(value & 0xff);
        break;
      case Common.QueueSelect:
        this.#queueSelect = value & 0xffff;
        break;
      default: {
        const queue = this.#queues[this.#queueSelect];
        // 4.1.4.3.2: a queue is set up while it is disabled, and a write of 0 doesn't disable it.
        if (queue !== undefined && !queue.enabled) this.#writeQueue(queue, offset, value >>> 0);
      }
    }
  }

  #writeQueue(queue: Virtqueue, offset: number, value: number): void {
    switch (offset) {
      case Common.QueueSize:
        queue.size = value & 0xffff;
        break;
      case Common.QueueEnable:
        if ((value & 0xffff) === 1) this.#enable(queue);
        break;
      case Common.QueueDescLo:
        queue.descLo = value;
        break;
      case Common.QueueDescHi:
        queue.descHi = value;
        break;
      case Common.QueueDriverLo:
        queue.driverLo = value;
        break;
      case Common.QueueDriverHi:
        queue.driverHi = value;
        break;
      case Common.QueueDeviceLo:
        queue.deviceLo = value;
        break;
      case Common.QueueDeviceHi:
        queue.deviceHi = value;
        break;
    }
  }

  #enable(queue: Virtqueue): void {
    queue.enabled = queue.wellFormed;
    if (!queue.enabled) this.#needsReset();
  }

  #offered(select: number): number {
    if (select === 0) return (this.#model.features | VIRTIO_F_INDIRECT_DESC) >>> 0;
    return select === 1 ? VIRTIO_F_VERSION_1_HIGH : 0;
  }

  /** 3.1.1: features are settled once FEATURES_OK is. */
  #acceptFeatures(value: number): void {
    if ((this.#status & VirtioStatus.FeaturesOk) !== 0) return;
    if (this.#driverFeatureSelect === 0) this.#driverLo = value;
    else if (this.#driverFeatureSelect === 1) this.#driverHi = value;
  }

  /** A driver sets bits one after the other, and clears them all by writing 0. */
  #writeStatus(value: number): void {
    if (value === 0) {
      this.#resetDevice();
      return;
    }
    const settled = (this.#status & VirtioStatus.FeaturesOk) !== 0 || this.#featuresAcceptable();
    const added = value & ~VirtioStatus.NeedsReset & (settled ? 0xff : ~VirtioStatus.FeaturesOk);
    const live = this.#live;
    this.#status |= added;
    if (!live && this.#live) this.#processAll();
  }

  #featuresAcceptable(): boolean {
    const subset = (this.#driverLo & ~this.#offered(0)) === 0 && (this.#driverHi & ~this.#offered(1)) === 0;
    return subset && (this.#driverHi & VIRTIO_F_VERSION_1_HIGH) !== 0;
  }

  /** Whether requests are served: DRIVER_OK, features settled, not broken. */
  get #live(): boolean {
    const wanted = VirtioStatus.DriverOk | VirtioStatus.FeaturesOk;
    return (this.#status & (wanted | VirtioStatus.NeedsReset | VirtioStatus.Failed)) === wanted;
  }

  /** 4.1.4.5: reading the ISR byte acknowledges both causes. */
  #readIsr(): number {
    const isr = this.#isr;
    this.#isr = 0;
    this.#updateIrq();
    return isr;
  }

  #readDeviceConfig(offset: number, bytes: number): number {
    const config = this.#model.config();
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (config[offset + i] ?? 0);
    return value;
  }

  #notify(index: number): void {
    if (Number.isInteger(index) && index < this.#queues.length) this.#process(index);
  }

  #processAll(): void {
    for (let index = 0; index < this.#queues.length; index++) this.#process(index);
  }

  #process(index: number): void {
    const bit = 1 << index;
    if ((this.#busy & bit) !== 0) return;
    this.#blocked &= ~bit;
    this.#more &= ~bit;
    const queue = this.#queues[index]!;
    if (!this.#live || !this.config.busMaster || !queue.enabled || !this.#model.wants(index)) return;
    this.#busy |= bit;
    const outcome = this.#serveQueue(index, queue);
    this.#busy &= ~bit;
    if (outcome === 'blocked') this.#blocked |= bit;
    else if (outcome === 'more') this.#more |= bit;
    else if (outcome === 'broken') this.#needsReset();
  }

  #serveQueue(index: number, queue: Virtqueue): 'idle' | 'blocked' | 'more' | 'broken' {
    const begun = queue.begin();
    if (begun !== 'ready') return begun;
    const outcome = this.#serveRequests(index, queue);
    if (queue.end()) this.#raise(Isr.Queue);
    return outcome;
  }

  #serveRequests(index: number, queue: Virtqueue): 'idle' | 'blocked' | 'more' | 'broken' {
    const indirect = (this.#driverLo & VIRTIO_F_INDIRECT_DESC) !== 0;
    const unpinned = this.#model.unpinned?.(index) ?? false;
    for (let budget = ROUNDS * queue.size; budget > 0; budget--) {
      if (!this.#model.wants(index)) return 'idle';
      const request = queue.pop({ indirect, unpinned });
      if (request === 'empty') return 'idle';
      if (typeof request === 'string') return request;
      const written = this.#model.serve(index, request);
      if (written < 0) {
        queue.abandon(request);
        return written === BLOCKED ? 'blocked' : 'broken';
      }
      queue.push(request, written);
    }
    return 'more';
  }

  /** 2.1.2: says so, and does nothing more until the driver resets the device. */
  #needsReset(): void {
    const tell = (this.#status & VirtioStatus.DriverOk) !== 0;
    this.#status |= VirtioStatus.NeedsReset;
    this.#blocked = this.#more = 0;
    if (tell) this.#raise(Isr.Config);
  }

  #configChanged(): void {
    this.#generation = (this.#generation + 1) & 0xff;
    if (this.#live) this.#raise(Isr.Config);
  }

  #raise(cause: number): void {
    this.#isr |= cause;
    this.#updateIrq();
  }

  #updateIrq(): void {
    const level = this.#isr !== 0;
    this.config.setInterruptStatus(level);
    this.#irq.set(level && !this.config.intxDisabled);
  }

  /** What a status of 0 does; the configuration space stays. */
  #resetDevice(): void {
    this.#status = this.#isr = this.#driverLo = this.#driverHi = 0;
    this.#deviceFeatureSelect = this.#driverFeatureSelect = this.#queueSelect = 0;
    this.#blocked = this.#more = 0;
    for (const queue of this.#queues) queue.reset();
    this.#model.reset();
    this.#updateIrq();
  }

  reset(): void {
    this.config.reset();
    this.#resetDevice();
  }

  save(): DeviceState {
    return {
      version: VERSION,
      config: this.config.save(),
      deviceFeatureSelect: this.#deviceFeatureSelect,
      driverFeatureSelect: this.#driverFeatureSelect,
      driverLo: this.#driverLo,
      driverHi: this.#driverHi,
      status: this.#status,
      generation: this.#generation,
      queueSelect: this.#queueSelect,
      isr: this.#isr,
      queues: this.#queues.map(queue => queue.save()),
      model: this.#model.save(),
    };
  }

  /** Poll afterwards: what waited for a page, or for its notification, is taken up then. */
  load(state: DeviceState): void {
    const reader = new StateReader(this.name, state, VERSION);
    const config = reader.bytes('config', { exactly: PCI_CONFIG_BYTES });
    this.config.check(config);
    const selects = ['deviceFeatureSelect', 'driverFeatureSelect', 'driverLo', 'driverHi'].map(n =>
      reader.number(n),
    );
    const [status, generation] = [reader.number('status', 0xff), reader.number('generation', 0xff)];
    const [queueSelect, isr] = [reader.number('queueSelect', 0xffff), reader.number('isr', 3)];
    const records = reader.records('queues', this.#queues.length);
    const parts = this.#queues.map((queue, index) => queue.prepare(records[index]!));
    parts.push(this.#model.prepare(reader.record('model')));
    // Everything is checked; from here on nothing fails.
    this.config.load(config);
    for (const part of parts) part();
    [this.#deviceFeatureSelect, this.#driverFeatureSelect, this.#driverLo, this.#driverHi] = selects as [
      number,
      number,
      number,
      number,
    ];
    [this.#status, this.#generation, this.#queueSelect, this.#isr] = [status, generation, queueSelect, isr];
    this.#blocked = 0;
    this.#more = 2 ** this.#queues.length - 1;
    this.#updateIrq();
  }
}
