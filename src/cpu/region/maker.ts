import { type Arena, frameByte } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import { SLOT_ENTRIES } from '../decoded.ts';
import { isMaddFused } from '../float/fused-probe.ts';
import type { CodePtr } from '../vcpu.ts';
import { planRegion, writeBatch } from './batch.ts';
import { type Block, Flow } from './discover.ts';
import { longestVisit } from './graph.ts';
import { type Head, MAX_HEADS } from './job.ts';
import type { RegionRows } from './region-rows.ts';
import { type KeptEntry, KIND, PAGE_WORDS, type Translation } from './translation.ts';
import type { RegionPlan } from './writer.ts';

/** Places of the same code, the hottest first, and what comes of that one. */
type Group = { readonly heads: Head[]; readonly plan: RegionPlan | undefined };
type Planned = { readonly heads: readonly Head[]; readonly plan: RegionPlan };

export type MakerParts = {
  arena: Arena;
  cache: CodeCache;
  rows: RegionRows;
  /** Told of each module, with the pages that it is of. */
  keep(code: CodePtr, translation: Translation): void;
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
  /** Copies of the pages at hand, by slot: a region is of these bytes, whatever becomes of the frame. */
  readonly #pages = new Map<number, Int32Array>();
  #fused: boolean | undefined;

  constructor(parts: MakerParts) {
    this.#parts = parts;
    this.#halves = new Uint16Array(parts.arena.memory.buffer);
  }

  /**
   * The batch's wasm; undefined if nothing pays, 'full' when there is no room for it. The entries are those from
   * `nextEntry` as it was. Requires: the caller holds `translating`, or it was asked to.
   */
  make(code: CodePtr, heads: readonly Head[]): Uint8Array<ArrayBuffer> | 'full' | undefined {
    this.#pages.clear();
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
    const halves = new Uint16Array(this.#pageOf(heads[0]!).buffer);
    const fetch = (offset: number) => halves[offset >>> 1]!;
    return planRegion(
      fetch,
      heads.map(h => h.offset),
      offset => this.#isLarge(code, heads[0]!, offset),
    );
  }

  #pageOf({ slot, pfn }: Head): Int32Array {
    const at = frameByte(pfn) >>> 2;
    const page = this.#pages.get(slot) ?? this.#parts.arena.words.slice(at, at + PAGE_WORDS);
    this.#pages.set(slot, page);
    return page;
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
    return this.#parts.rows.needOf(code, id) >= LARGE;
  }

  /** What a module depends on. */
  get kind(): number {
    this.#fused ??= isMaddFused();
    return (this.#parts.arena.shared ? KIND.shared : 0) | (this.#fused ? KIND.fused : 0);
  }

  #write(code: CodePtr, planned: readonly Planned[]): Uint8Array<ArrayBuffer> | 'full' {
    const { rows, watched = false, keep } = this.#parts;
    const { kind } = this;
    const plans = planned.map(p => p.plan);
    const wasm = writeBatch(plans, {
      ...{ shared: (kind & KIND.shared) !== 0, watched, fused: (kind & KIND.fused) !== 0 },
    });
    const entries = plans.reduce((n, { d }) => n + d.entries.length, 0);
    if (!rows.hasRoom(code, plans.length, entries, wasm.length)) return 'full';
    const first = rows.addModule(code, wasm, plans.length);
    if (first < 0) return 'full';
    const made = this.#translation(kind, planned, wasm);
    for (const [i, { need, entries }] of made.regions.entries()) {
      rows.addEntries(code, first + i, planned[i]!.heads[0]!, need, entries);
    }
    this.#countAll(code, plans, wasm);
    if (!watched) keep(code, made);
    return wasm;
  }

  #translation(kind: number, planned: readonly Planned[], wasm: Uint8Array<ArrayBuffer>): Translation {
    const slots = [...new Set(planned.map(({ heads }) => heads[0]!.slot))];
    const regions = planned.map(({ heads, plan: { d } }) => ({
      page: slots.indexOf(heads[0]!.slot),
      need: d.instructions,
      entries: d.entries.map(block => entryOf(d.blocks[block]!)),
    }));
    return { kind, pages: slots.map(slot => this.#pages.get(slot)!), regions, wasm };
  }

  #countAll(code: CodePtr, plans: readonly RegionPlan[], wasm: Uint8Array): void {
    for (const { d } of plans) this.#count('translatedInstructions', code, d.instructions);
    this.#count('batches', code, 1);
    this.#count('translatedRegions', code, plans.length);
    this.#count('translatedBytes', code, wasm.length);
  }

  #count(what: Counter, code: CodePtr, by: number): void {
    const counter = this.#parts.cache.code[what];
    counter.set(code, counter.get(code) + by);
  }
}

/** Where an instruction begins that a region can't do, it is entered by its own jumps alone. */
const entryOf = ({ start, steps }: Block): KeptEntry => ({
  offset: start,
  isOwn: steps[0]!.flow === Flow.Slow,
});
