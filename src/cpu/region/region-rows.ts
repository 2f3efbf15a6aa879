import { Errno } from '../../base/errno.ts';
import type { Arena } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import type { CodePtr } from '../vcpu.ts';
import { ENTRY_SIZE, entryStruct, LIMITS, REGION_WORDS, type RegionLimits, regionStruct } from './layout.ts';
import type { KeptEntry } from './translation.ts';

export type RowsParts = {
  arena: Arena;
  cache: CodeCache;
  alloc(words: number): number;
  limits?: RegionLimits | undefined;
};

/** Of a decoded page. */
type Page = { readonly slot: number; readonly stamp: number };

/** A VM's modules, regions and entries in the arena. Requires: the caller holds `translating`, or it was asked to. */
export class RegionRows {
  readonly #parts: RowsParts;
  readonly #entry;
  readonly #region;

  constructor(parts: RowsParts) {
    this.#parts = parts;
    this.#entry = entryStruct(parts.arena.words);
    this.#region = regionStruct(parts.arena.words);
  }

  #row(code: CodePtr, region: number): never {
    return (this.#parts.cache.code.regions.get(code) + region * REGION_WORDS) as never;
  }

  /** Whether all that the VM then has is within its limits, or a share of them. */
  hasRoom(code: CodePtr, regions: number, entries: number, bytes: number, share = 1): boolean {
    const { nextEntry, nextRegion, wasmBytes } = this.#parts.cache.code;
    const limits = this.#parts.limits ?? LIMITS;
    return (
      nextEntry.get(code) + entries <= share * limits.entries &&
      nextRegion.get(code) + regions <= share * limits.regions &&
      wasmBytes.get(code) + bytes <= share * limits.wasmBytes
    );
  }

  /**
   * Puts a module of `count` regions where every thread finds it; the number of the first, or -1 when the heap, which other
   * guests use too, has no more room.
   */
  addModule(code: CodePtr, wasm: Uint8Array, count: number): number {
    const module = this.#allocate(wasm.length);
    if (module === 0) return -1;
    const { nextRegion, wasmBytes } = this.#parts.cache.code;
    const first = nextRegion.get(code);
    this.#parts.arena.bytes.set(wasm, module * 4);
    wasmBytes.set(code, wasmBytes.get(code) + wasm.length);
    for (let i = 0; i < count; i++) {
      const row = this.#row(code, first + i);
      this.#region.module.set(row, module);
      this.#region.bytes.set(row, wasm.length);
      this.#region.first.set(row, first);
      this.#region.count.set(row, count);
    }
    nextRegion.set(code, first + count);
    return first;
  }

  #allocate(bytes: number): number {
    try {
      return this.#parts.alloc(Math.ceil(bytes / 4));
    } catch (error) {
      if (error instanceof Errno && error.code === 'ENOMEM') return 0;
      throw error;
    }
  }

  /** Fills in the entries of region `fn` for a page; their ids follow each other. Nothing leads to them yet. */
  addEntries(
    code: CodePtr,
    fn: number,
    { slot, stamp }: Page,
    need: number,
    entries: readonly KeptEntry[],
  ): void {
    const { code: fields } = this.#parts.cache;
    const base = fields.nextEntry.get(code);
    fields.nextEntry.set(code, base + entries.length);
    entries.forEach(({ offset, isOwn }, i) => {
      const row = (fields.entries.get(code) + ((base + i) * ENTRY_SIZE) / 4) as never;
      this.#entry.fn.set(row, fn);
      this.#entry.base.set(row, base);
      this.#entry.need.set(row, need);
      this.#entry.place.set(row, (slot << 12) | offset);
      // One that is entered by its own jumps alone has a stamp that no page has.
      this.#entry.stamp.set(row, isOwn ? ~stamp : stamp);
    });
  }

  /** Instructions that the region of entry `id` needs. */
  needOf(code: CodePtr, id: number): number {
    return this.#entry.need.get((this.#parts.cache.code.entries.get(code) + (id * ENTRY_SIZE) / 4) as never);
  }
}
