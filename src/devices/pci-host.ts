import { assert } from '../base/assert.ts';
import type { Gpa } from '../base/units.ts';
import type { IrqLine } from './interface.ts';
import type { PciFunction } from './pci.ts';

// A generic ECAM host bridge with one bus, as Linux's pci-host-ecam-generic drives it. It keeps no state
// of its own: levels of interrupt pins come from the functions, which set them again when loaded.
//
//   ECAM offset     bus 27..20 | device 19..15 | function 14..12 | register 11..0
//   INTx            pin p of device d drives line (p - 1 + d) mod 4, shared by wired-or

const DEVICES = 32;
const LINES = 4;

/** A window of bus addresses that BARs may be placed in. Nothing there reads all ones, as a master abort does. */
export type PciWindow = {
  readonly length: number;
  read(offset: number, bytes: number): number;
  write(offset: number, bytes: number, value: number): void;
};

export class PciHost {
  readonly #functions: (PciFunction | undefined)[] = new Array(DEVICES).fill(undefined);
  readonly #asserted: boolean[] = new Array(DEVICES).fill(false);
  readonly #lines: readonly IrqLine[];
  readonly ecam: PciWindow;

  /** `lines` are the four that the interrupt map names. */
  constructor(options: { lines: readonly IrqLine[]; ecamLength: number }) {
    assert(options.lines.length === LINES, 'pci: a bridge has four interrupt lines');
    this.#lines = options.lines;
    this.ecam = {
      length: options.ecamLength,
      read: (offset, bytes) => this.#readConfig(offset, bytes),
      write: (offset, bytes, value) => this.#writeConfig(offset, bytes, value),
    };
  }

  /** A window at `base`, where bus addresses equal physical ones. */
  window(base: Gpa, length: number): PciWindow {
    return {
      length,
      read: (offset, bytes) => this.#readMemory(base + offset, bytes),
      write: (offset, bytes, value) => this.#writeMemory(base + offset, bytes, value),
    };
  }

  /** A window that no BAR lies in, such as the one of I/O ports: no function has any. */
  emptyWindow(length: number): PciWindow {
    return { length, read: (_offset, bytes) => allOnes(bytes), write: () => {} };
  }

  /** The INTA pin of the device in a slot. */
  pin(slot: number): IrqLine {
    return {
      set: level => {
        this.#asserted[slot] = level;
        this.#drive(slot % LINES);
      },
    };
  }

  attach(slot: number, device: PciFunction): void {
    assert(slot >= 0 && slot < DEVICES && this.#functions[slot] === undefined, 'pci: the slot is free');
    this.#functions[slot] = device;
  }

  #drive(line: number): void {
    let level = false;
    for (let slot = line; slot < DEVICES; slot += LINES) level ||= this.#asserted[slot]!;
    this.#lines[line]!.set(level);
  }

  #function(offset: number): PciFunction | undefined {
    const bus = Math.floor(offset / 0x10_0000);
    const number = (offset >>> 12) & 7;
    return bus === 0 && number === 0 ? this.#functions[(offset >>> 15) & 31] : undefined;
  }

  #readConfig(offset: number, bytes: number): number {
    const device = this.#function(offset);
    return device === undefined ? allOnes(bytes) : device.readConfig(offset & 0xfff, bytes);
  }

  #writeConfig(offset: number, bytes: number, value: number): void {
    this.#function(offset)?.writeConfig(offset & 0xfff, bytes, value);
  }

  #readMemory(gpa: Gpa, bytes: number): number {
    for (const device of this.#functions) {
      const bar = device?.config.barAt(gpa, bytes);
      if (bar !== undefined) return device!.readBar(bar.index, gpa - device!.config.barBase(bar), bytes);
    }
    return allOnes(bytes);
  }

  #writeMemory(gpa: Gpa, bytes: number, value: number): void {
    for (const device of this.#functions) {
      const bar = device?.config.barAt(gpa, bytes);
      if (bar === undefined) continue;
      device!.writeBar(bar.index, gpa - device!.config.barBase(bar), bytes, value);
      return;
    }
  }
}

function allOnes(bytes: number): number {
  return 2 ** (bytes * 8) - 1;
}
