import { alignUp } from '../base/units.ts';

// Writes a flattened device tree, version 17 (Devicetree Specification 0.4, chapter 5). All big-endian:
//
//   header 40 | memory reservations, ended by a zero pair | structure block | strings block

export const FDT_MAGIC = 0xd00dfeed;
export const FDT_VERSION = 17;
/** The oldest version that readers of this one understand. */
export const FDT_LAST_COMPATIBLE = 16;
export const FDT_HEADER_BYTES = 40;
export const FdtToken = { BeginNode: 1, EndNode: 2, Property: 3, Nop: 4, End: 9 } as const;
const RESERVATIONS_END = 16;

/** A string, a list of them, 32-bit cells, raw bytes, or nothing. */
export type FdtValue = string | readonly string[] | readonly number[] | Uint8Array | undefined;

/** A node under construction; order is kept. */
export class DeviceTree {
  readonly name: string;
  readonly #properties = new Map<string, Uint8Array>();
  readonly #children: DeviceTree[] = [];

  /** The root has no name. */
  constructor(name = '') {
    this.name = name;
  }

  /** Sets a property; without a value it is empty, which is how flags are said. */
  set(name: string, value?: FdtValue): this {
    this.#properties.set(name, encode(value));
    return this;
  }

  /** Adds a child, named `name@unit-address` by convention, and returns it. */
  node(name: string): DeviceTree {
    const child = new DeviceTree(name);
    this.#children.push(child);
    return child;
  }

  /** The whole tree as a blob. */
  flatten(options: { bootHart?: number } = {}): Uint8Array {
    const writer = new FdtWriter();
    this.#write(writer);
    return writer.finish(options.bootHart ?? 0);
  }

  #write(writer: FdtWriter): void {
    writer.begin(this.name);
    for (const [name, value] of this.#properties) writer.property(name, value);
    for (const child of this.#children) child.#write(writer);
    writer.end();
  }
}

/** A number of 64 bits as two cells. Below 2^53. */
export function cells64(value: number): [number, number] {
  return [Math.floor(value / 2 ** 32), value >>> 0];
}

function encode(value: FdtValue): Uint8Array {
  if (value === undefined) return new Uint8Array(0);
  if (value instanceof Uint8Array) return value.slice();
  if (typeof value === 'string') return text(value);
  if (isTexts(value)) return concatenate(value.map(text));
  const bytes = new Uint8Array(value.length * 4);
  const view = new DataView(bytes.buffer);
  value.forEach((cell, index) => {
    view.setUint32(index * 4, cell);
  });
  return bytes;
}

function isTexts(value: readonly string[] | readonly number[]): value is readonly string[] {
  return typeof value[0] === 'string';
}

function text(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`);
}

function concatenate(parts: readonly Uint8Array[]): Uint8Array {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

class FdtWriter {
  readonly #structure: Uint8Array[] = [];
  readonly #strings: Uint8Array[] = [];
  readonly #offsets = new Map<string, number>();
  #stringsLength = 0;

  begin(name: string): void {
    this.#cells(FdtToken.BeginNode);
    this.#padded(text(name));
  }

  property(name: string, value: Uint8Array): void {
    this.#cells(FdtToken.Property, value.length, this.#string(name));
    this.#padded(value);
  }

  end(): void {
    this.#cells(FdtToken.EndNode);
  }

  finish(bootHart: number): Uint8Array {
    this.#cells(FdtToken.End);
    const structure = concatenate(this.#structure);
    const strings = concatenate(this.#strings);
    const structureAt = FDT_HEADER_BYTES + RESERVATIONS_END;
    const stringsAt = structureAt + structure.length;
    const blob = new Uint8Array(alignUp(stringsAt + strings.length, 8));
    const view = new DataView(blob.buffer);
    const header = [
      FDT_MAGIC,
      blob.length,
      structureAt,
      stringsAt,
      FDT_HEADER_BYTES,
      FDT_VERSION,
      FDT_LAST_COMPATIBLE,
      bootHart,
      strings.length,
      structure.length,
    ];
    header.forEach((word, index) => {
      view.setUint32(index * 4, word);
    });
    blob.set(structure, structureAt);
    blob.set(strings, stringsAt);
    return blob;
  }

  #cells(...values: number[]): void {
    this.#structure.push(encode(values));
  }

  #padded(bytes: Uint8Array): void {
    const padded = new Uint8Array(alignUp(bytes.length, 4));
    padded.set(bytes);
    this.#structure.push(padded);
  }

  #string(name: string): number {
    const known = this.#offsets.get(name);
    if (known !== undefined) return known;
    const at = this.#stringsLength;
    const bytes = text(name);
    this.#offsets.set(name, at);
    this.#strings.push(bytes);
    this.#stringsLength += bytes.length;
    return at;
  }
}
