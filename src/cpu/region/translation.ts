// A module of regions with the pages that it was made from: all that another VM, or another process, needs to use it.
// Regions are of a page's bytes and of nothing else, so whoever has these bytes may have the region.
//
// As bytes, all little-endian:
//
//   u32 kind   u32 pages   u32 regions   u32 bytes of wasm
//   pages      4096 bytes each
//   regions    u32 page   u32 instructions   u32 entries, then for each entry u32: offset, or its complement
//   wasm

/** What a module depends on beside the pages: KIND's bits. */
export const KIND = { shared: 1, fused: 2 } as const;

/** A place at which a region is entered. `isOwn`: by the region's own jumps alone. */
export type KeptEntry = { readonly offset: number; readonly isOwn: boolean };

export type KeptRegion = {
  /** Which of the pages it is of. */
  readonly page: number;
  /** Instructions that have to be left in the slice. */
  readonly need: number;
  readonly entries: readonly KeptEntry[];
};

export type Translation = {
  readonly kind: number;
  /** Each 1024 words. */
  readonly pages: readonly Int32Array[];
  readonly regions: readonly KeptRegion[];
  readonly wasm: Uint8Array<ArrayBuffer>;
};

export const PAGE_WORDS = 1024;
const PAGE_BYTES = PAGE_WORDS * 4;
const HEADER_WORDS = 4;
/** More than any batch has. */
const MAX_COUNT = 4096;
const MAX_WASM = 2 ** 24;

/** How many bytes of memory a translation takes, about. */
export const sizeOf = (t: Translation): number => t.pages.length * PAGE_BYTES + t.wasm.length;

export function encodeTranslation({ kind, pages, regions, wasm }: Translation): Uint8Array<ArrayBuffer> {
  const rows = regions.flatMap(r => [
    ...[r.page, r.need, r.entries.length],
    ...r.entries.map(({ offset, isOwn }) => (isOwn ? ~offset : offset)),
  ]);
  const head = Int32Array.from([kind, pages.length, regions.length, wasm.length]);
  const out = new Uint8Array(head.byteLength + pages.length * PAGE_BYTES + rows.length * 4 + wasm.length);
  let at = 0;
  for (const part of [head, ...pages, Int32Array.from(rows)]) {
    out.set(new Uint8Array(part.buffer, part.byteOffset, part.byteLength), at);
    at += part.byteLength;
  }
  out.set(wasm, at);
  return out;
}

/** Undefined for what is not a translation, whatever the bytes. The wasm is not looked into. */
export function decodeTranslation(bytes: Uint8Array): Translation | undefined {
  try {
    return new Reader(bytes).read();
  } catch (error) {
    if (error instanceof Corrupt) return undefined;
    throw error;
  }
}

class Corrupt extends Error {}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  read(): Translation {
    this.#need(HEADER_WORDS * 4);
    const kind = this.#number(KIND.shared | KIND.fused);
    const [pageCount, regionCount] = [this.#number(MAX_COUNT), this.#number(MAX_COUNT)];
    const wasmBytes = this.#number(MAX_WASM);
    const pages = Array.from({ length: pageCount }, () => this.#page());
    const regions = Array.from({ length: regionCount }, () => this.#region(pageCount));
    const wasm = new Uint8Array(this.#take(wasmBytes));
    if (this.#at !== this.#bytes.length) throw new Corrupt('bytes behind the end');
    return { kind, pages, regions, wasm };
  }

  #need(bytes: number): void {
    if (this.#at + bytes > this.#bytes.length) throw new Corrupt('the end is missing');
  }

  #take(bytes: number): Uint8Array {
    this.#need(bytes);
    const at = this.#at;
    this.#at += bytes;
    return this.#bytes.subarray(at, at + bytes);
  }

  #int(): number {
    this.#need(4);
    const value = this.#view.getInt32(this.#at, true);
    this.#at += 4;
    return value;
  }

  #number(most: number): number {
    const value = this.#int();
    if (value < 0 || value > most) throw new Corrupt(`${value} where at most ${most} can be`);
    return value;
  }

  #page(): Int32Array {
    // A copy: these need not be aligned.
    return new Int32Array(new Uint8Array(this.#take(PAGE_BYTES)).buffer);
  }

  #region(pages: number): KeptRegion {
    const page = this.#number(pages - 1);
    const need = this.#number(MAX_COUNT);
    const entries = Array.from({ length: this.#number(MAX_COUNT) }, () => this.#entry());
    return { page, need, entries };
  }

  #entry(): KeptEntry {
    const value = this.#int();
    const offset = value < 0 ? ~value : value;
    if (offset >= PAGE_BYTES || (offset & 1) !== 0) throw new Corrupt(`an entry at ${offset}`);
    return { offset, isOwn: value < 0 };
  }
}
