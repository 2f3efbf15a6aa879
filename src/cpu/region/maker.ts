import { Errno } from '../../base/errno.ts';
import { type Arena, frameByte } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import { SLOT_ENTRIES } from '../decoded.ts';
import { isMaddFused } from '../float/fused-probe.ts';
import type { CodePtr } from '../vcpu.ts';
import { planRegion, writeBatch } from './batch.ts';
import { Flow } from './discover.ts';
import { longestVisit } from './graph.ts';
import { type Head, MAX_HEADS } from './job.ts';
import { ENTRY_SIZE, entryStruct, LIMITS, REGION_WORDS, type RegionLimits, regionStruct } from './layout.ts';
import type { RegionPlan } from './writer.ts';

/** Places of the same code, the hottest first, and what comes of that one. */
type Group = { readonly heads: Head[]; readonly plan: RegionPlan | undefined };
type Planned = { readonly heads: readonly Head[]; readonly plan: RegionPlan };

export type MakerParts = {
  arena: Arena;
  cache: CodeCache;
  alloc(words: number): number;
  limits?: RegionLimits | undefined;
  /** Test: the regions tell of their stores. */
  watched?: boolean;
  /** Test: whatever is hot becomes a region. */
  isEager: boolean;
};

type Counter = 'batches' | 'translatedRegions' | 'translatedInstructions' | 'translatedBytes';

/** Instructions that a visit has to retire on average for a region to be worth its while. */
export const MIN_RETIRED = 12;
/** In one batch. */
const MAX_REGIONS_MADE = 2 * MAX_HEADS;
/** Instructions of a region from which on others leave for it rather than repeat it. */
const LARGE = 16;

const contains = (plan: RegionPlan | undefined, offset: number): boolean =>
  plan?.d.blocks.some(b => b.steps.some(s => s.offset === offset)) ?? false;

/**
 * Makes regions of hot places: plans, writes the wasm, fills the rows of entries and regions in. Nothing leads there
 * until they are published. It reads frames whose pages may be dropped meanwhile: what it makes then is of no use, and the
 * publisher sees that.
 */
export class RegionMaker {
  readonly #parts: MakerParts;
  readonly #halves: Uint16Array;
  readonly #entry;
  readonly #region;
  #fused: boolean | undefined;

  constructor(parts: MakerParts) {
    this.#parts = parts;
    this.#halves = new Uint16Array(parts.arena.memory.buffer);
    this.#entry = entryStruct(parts.arena.words);
    this.#region = regionStruct(parts.arena.words);
  }

  /**
   * The batch's wasm; undefined if nothing pays, 'full' when there is no room for it. The entries are those from
   * `nextEntry` as it was. Requires: the caller holds `translating`, or it was asked to.
   */
  make(code: CodePtr, heads: readonly Head[]): Uint8Array<ArrayBuffer> | 'full' | undefined {
    const planned = this.#group(code, heads).flatMap(group => this.#plan(code, group));
    return planned.length === 0 ? undefined : this.#write(code, planned);
  }

  /**
   * Heads that lie in the code of a hotter one come into its region, rather than have that code again. Where a straight
   * line has no room in one region, the next begins.
   */
  #group(code: CodePtr, heads: readonly Head[]): Group[] {
    const groups: Group[] = [];
    const all = [...heads];
    for (let i = 0; i < all.length && groups.length < MAX_REGIONS_MADE; i++) {
      const head = all[i]!;
      const host = groups.find(g => g.heads[0]!.slot === head.slot && contains(g.plan, head.offset));
      if (host !== undefined) {
        host.heads.push(head);
        continue;
      }
      const plan = this.#discover(code, [head]);
      groups.push({ heads: [head], plan });
      if (plan !== undefined && plan.d.goesOnAt >= 0) all.push({ ...head, offset: plan.d.goesOnAt });
    }
    return groups;
  }

  #discover(code: CodePtr, heads: readonly Head[]): RegionPlan | undefined {
    const half = frameByte(heads[0]!.pfn) / 2;
    const fetch = (offset: number) => this.#halves[half + (offset >>> 1)]!;
    return planRegion(
      fetch,
      heads.map(h => h.offset),
      offset => this.#isLarge(code, heads[0]!, offset),
    );
  }

  #plan(code: CodePtr, { heads, plan: first }: Group): Planned[] {
    const plan = heads.length === 1 ? first : this.#discover(code, heads);
    return plan !== undefined && this.#pays(heads[0]!, plan) ? [{ heads, plan }] : [];
  }

  #pays(head: Head, { d, g }: RegionPlan): boolean {
    // Another vCPU may have changed the bytes since the head was found in them.
    const first = d.blocks[d.blockAt.get(head.offset) ?? -1]?.steps[0];
    return (
      first !== undefined &&
      first.flow !== Flow.Slow &&
      (this.#parts.isEager || longestVisit(d, g) >= MIN_RETIRED)
    );
  }

  /** Whether a region of its own begins at an offset, too large to have its code twice. */
  #isLarge(code: CodePtr, { slot }: Head, offset: number): boolean {
    const { cache } = this.#parts;
    const id = this.#halves[((cache.byteOf(code, slot) + SLOT_ENTRIES) >>> 1) + (offset >>> 1)]!;
    if (id === 0) return false;
    const row = cache.code.entries.get(code) + (id * ENTRY_SIZE) / 4;
    return this.#entry.need.get(row as never) >= LARGE;
  }

  #write(code: CodePtr, planned: readonly Planned[]): Uint8Array<ArrayBuffer> | 'full' {
    const { arena, cache } = this.#parts;
    this.#fused ??= isMaddFused();
    const bytes = writeBatch(
      planned.map(p => p.plan),
      {
        shared: arena.shared,
        watched: this.#parts.watched === true,
        fused: this.#fused,
        polls: cache.code.vcpus.load(code) > 1,
      },
    );
    const entries = planned.reduce((n, p) => n + p.plan.d.entries.length, 0);
    const isFull = this.#isFull(code, planned.length, entries, bytes.length);
    const module = isFull ? 0 : this.#roomFor(bytes);
    if (module === 0) return 'full';
    this.#keep(code, module, planned, bytes);
    return bytes;
  }

  #isFull(code: CodePtr, regions: number, entries: number, bytes: number): boolean {
    const { nextEntry, nextRegion, wasmBytes } = this.#parts.cache.code;
    const limits = this.#parts.limits ?? LIMITS;
    return (
      nextEntry.get(code) + entries > limits.entries ||
      nextRegion.get(code) + regions > limits.regions ||
      wasmBytes.get(code) + bytes > limits.wasmBytes
    );
  }

  /** Words for a module's bytes; 0 when the heap, which other guests use too, has no more. */
  #roomFor(bytes: Uint8Array): number {
    try {
      return this.#parts.alloc(Math.ceil(bytes.length / 4));
    } catch (error) {
      if (error instanceof Errno && error.code === 'ENOMEM') return 0;
      throw error;
    }
  }

  /** Puts the module and its rows where every thread finds them. */
  #keep(code: CodePtr, module: number, planned: readonly Planned[], bytes: Uint8Array): void {
    const { arena, cache } = this.#parts;
    const first = cache.code.nextRegion.get(code);
    arena.bytes.set(bytes, module * 4);
    cache.code.wasmBytes.set(code, cache.code.wasmBytes.get(code) + bytes.length);
    planned.forEach((p, i) => {
      const row = (cache.code.regions.get(code) + (first + i) * REGION_WORDS) as never;
      this.#region.module.set(row, module);
      this.#region.bytes.set(row, bytes.length);
      this.#region.first.set(row, first);
      this.#region.count.set(row, planned.length);
      this.#enter(code, first + i, p);
      this.#count('translatedInstructions', code, p.plan.d.instructions);
    });
    cache.code.nextRegion.set(code, first + planned.length);
    this.#count('batches', code, 1);
    this.#count('translatedRegions', code, planned.length);
    this.#count('translatedBytes', code, bytes.length);
  }

  /** Fills the rows of the region's entries in. */
  #enter(code: CodePtr, fn: number, { heads, plan }: Planned): void {
    const { code: fields } = this.#parts.cache;
    const base = fields.nextEntry.get(code);
    fields.nextEntry.set(code, base + plan.d.entries.length);
    const { slot, stamp } = heads[0]!;
    plan.d.entries.forEach((block, i) => {
      const { start, steps } = plan.d.blocks[block]!;
      const row = (fields.entries.get(code) + ((base + i) * ENTRY_SIZE) / 4) as never;
      this.#entry.fn.set(row, fn);
      this.#entry.base.set(row, base);
      this.#entry.need.set(row, plan.d.instructions);
      this.#entry.place.set(row, (slot << 12) | start);
      // Where an instruction begins that a region can't do, it is entered by its own jumps alone.
      this.#entry.stamp.set(row, steps[0]!.flow === Flow.Slow ? ~stamp : stamp);
      this.#entry.visits.set(row, 0);
      this.#entry.retired.set(row, 0);
    });
  }

  #count(what: Counter, code: CodePtr, by: number): void {
    const counter = this.#parts.cache.code[what];
    counter.set(code, counter.get(code) + by);
  }
}
