import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import type { Gpa } from '../base/units.ts';
import type { Device } from './interface.ts';

// The configuration space of one conventional PCI function, header type 0 (PCI Local Bus 3.0, chapter 6).
// A byte of it is what was built in, except for the bits its mask lets the guest write.

/** Offsets of the header. */
export const PciReg = {
  Vendor: 0x00,
  Device: 0x02,
  Command: 0x04,
  Status: 0x06,
  Revision: 0x08,
  ClassCode: 0x09,
  Bar0: 0x10,
  SubsystemVendor: 0x2c,
  Subsystem: 0x2e,
  Capabilities: 0x34,
  InterruptLine: 0x3c,
  InterruptPin: 0x3d,
} as const;

export const PciCommand = { Memory: 0x002, BusMaster: 0x004, IntxDisable: 0x400 } as const;
/** Memory, bus master, parity response, SERR, INTx disable. */
const COMMAND_WRITABLE = 0x546;
const STATUS_INTERRUPT = 0x08;
const STATUS_CAPABILITIES = 0x10;
const FIRST_CAPABILITY = 0x40;
export const PCI_CONFIG_BYTES = 256;

export type BarSpec = {
  /** 0 to 5; a 64-bit BAR takes the next as well. */
  readonly index: number;
  /** Bytes; a power of two from 16 to 2 GiB. */
  readonly length: number;
  readonly width: 32 | 64;
  readonly prefetchable: boolean;
};

export type Capability = {
  /** From the id on; the second byte, the link, is filled in. */
  readonly bytes: Uint8Array;
  /** Bits the guest may write, from the id on; none unless given. */
  readonly writable?: Uint8Array;
};

export type PciIdentity = {
  readonly vendor: number;
  readonly device: number;
  readonly revision: number;
  /** 24 bits: class, subclass, interface. */
  readonly classCode: number;
  readonly subsystemVendor: number;
  readonly subsystem: number;
  /** 1 is INTA; 0 is none. */
  readonly interruptPin: number;
  readonly bars: readonly BarSpec[];
  readonly capabilities: readonly Capability[];
};

/** What the host bridge reaches: a function's configuration space and what its BARs map. */
export interface PciFunction extends Device {
  readonly config: PciConfig;
  /** `offset` is below 4096; what lies past the function's space reads 0. */
  readConfig(offset: number, bytes: number): number;
  writeConfig(offset: number, bytes: number, value: number): void;
  readBar(bar: number, offset: number, bytes: number): number;
  writeBar(bar: number, offset: number, bytes: number, value: number): void;
}

export class PciConfig {
  readonly #bytes = new Uint8Array(PCI_CONFIG_BYTES);
  readonly #writable = new Uint8Array(PCI_CONFIG_BYTES);
  readonly #initial: Uint8Array;
  readonly #bars: readonly BarSpec[];
  /** Where each capability landed, in the order given. */
  readonly capabilityOffsets: readonly number[];

  constructor(identity: PciIdentity) {
    this.#bars = identity.bars;
    this.#identify(identity);
    for (const bar of identity.bars) this.#buildBar(bar);
    this.capabilityOffsets = this.#linkCapabilities(identity.capabilities);
    this.#initial = this.#bytes.slice();
  }

  #identify(identity: PciIdentity): void {
    this.#put(PciReg.Vendor, 2, identity.vendor);
    this.#put(PciReg.Device, 2, identity.device);
    this.#put(PciReg.Revision, 1, identity.revision);
    this.#put(PciReg.ClassCode, 3, identity.classCode);
    this.#put(PciReg.SubsystemVendor, 2, identity.subsystemVendor);
    this.#put(PciReg.Subsystem, 2, identity.subsystem);
    this.#put(PciReg.InterruptPin, 1, identity.interruptPin);
    this.#writable[PciReg.InterruptLine] = 0xff;
    this.#writable[PciReg.Command] = COMMAND_WRITABLE & 0xff;
    this.#writable[PciReg.Command + 1] = COMMAND_WRITABLE >>> 8;
  }

  /** Address bits below the size read as zero, which is how a guest learns the size (6.2.5.1). */
  #buildBar(bar: BarSpec): void {
    assert(bar.length >= 16 && Number.isInteger(Math.log2(bar.length)), 'pci: a BAR is a power of two');
    const at = PciReg.Bar0 + bar.index * 4;
    this.#put(at, 1, (bar.width === 64 ? 0x4 : 0) | (bar.prefetchable ? 0x8 : 0));
    const mask = ~(bar.length - 1);
    for (let i = 0; i < 4; i++) this.#writable[at + i] = mask >>> (i * 8);
    if (bar.width === 64) this.#writable.fill(0xff, at + 4, at + 8);
  }

  #linkCapabilities(capabilities: readonly Capability[]): number[] {
    const offsets: number[] = [];
    let link: number = PciReg.Capabilities;
    let at = FIRST_CAPABILITY;
    for (const { bytes, writable } of capabilities) {
      assert(at + bytes.length <= PCI_CONFIG_BYTES, 'pci: capabilities fit the configuration space');
      this.#bytes[link] = at;
      this.#bytes.set(bytes, at);
      if (writable !== undefined) this.#writable.set(writable, at);
      offsets.push(at);
      link = at + 1;
      this.#bytes[link] = 0;
      at = (at + bytes.length + 3) & ~3;
    }
    if (offsets.length > 0) this.#bytes[PciReg.Status] = STATUS_CAPABILITIES;
    return offsets;
  }

  #put(offset: number, bytes: number, value: number): void {
    for (let i = 0; i < bytes; i++) this.#bytes[offset + i] = value >>> (i * 8);
  }

  read(offset: number, bytes: number): number {
    let value = 0;
    for (let i = bytes - 1; i >= 0; i--) value = value * 256 + (this.#bytes[offset + i] ?? 0);
    return value;
  }

  write(offset: number, bytes: number, value: number): void {
    for (let i = 0; i < bytes && offset + i < PCI_CONFIG_BYTES; i++) {
      const at = offset + i;
      const mask = this.#writable[at]!;
      this.#bytes[at] = (this.#bytes[at]! & ~mask) | ((value >>> (i * 8)) & mask);
    }
  }

  /** Whether the guest let the function do DMA. */
  get busMaster(): boolean {
    return (this.#bytes[PciReg.Command]! & PciCommand.BusMaster) !== 0;
  }

  get intxDisabled(): boolean {
    return (this.read(PciReg.Command, 2) & PciCommand.IntxDisable) !== 0;
  }

  /** The status bit that mirrors INTx, whether or not it is disabled (6.2.3). */
  setInterruptStatus(level: boolean): void {
    if (level) this.#bytes[PciReg.Status]! |= STATUS_INTERRUPT;
    else this.#bytes[PciReg.Status]! &= ~STATUS_INTERRUPT;
  }

  /** The BAR that decodes the whole of [gpa, gpa + bytes), or undefined. */
  barAt(gpa: Gpa, bytes: number): BarSpec | undefined {
    if ((this.#bytes[PciReg.Command]! & PciCommand.Memory) === 0) return undefined;
    for (const bar of this.#bars) {
      const offset = gpa - this.barBase(bar);
      if (offset >= 0 && offset + bytes <= bar.length) return bar;
    }
    return undefined;
  }

  barBase(bar: BarSpec): Gpa {
    const at = PciReg.Bar0 + bar.index * 4;
    const low = (this.read(at, 4) & ~0xf) >>> 0;
    return bar.width === 64 ? this.read(at + 4, 4) * 2 ** 32 + low : low;
  }

  save(): Uint8Array {
    return this.#bytes.slice();
  }

  /** Takes the bits a guest may write; throws EINVAL if the rest names another function. */
  load(saved: Uint8Array): void {
    this.check(saved);
    for (let at = 0; at < PCI_CONFIG_BYTES; at++) {
      const mask = this.#writable[at]!;
      this.#bytes[at] = (this.#initial[at]! & ~mask) | (saved[at]! & mask);
    }
  }

  /** Throws EINVAL unless `saved` is of a function like this one. */
  check(saved: Uint8Array): void {
    for (let at = 0; at < PCI_CONFIG_BYTES; at++) {
      const fixed = ~this.#writable[at]! & (at === PciReg.Status ? ~STATUS_INTERRUPT : 0xff);
      if (((saved[at]! ^ this.#initial[at]!) & fixed) !== 0) {
        throw new Errno('EINVAL', 'load', 'pci: the state is of another function');
      }
    }
  }

  reset(): void {
    this.#bytes.set(this.#initial);
  }
}
