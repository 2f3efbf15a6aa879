import { Errno } from '../../base/errno.ts';
import type { Pfn } from '../../base/units.ts';
import { type Arena, frameByte } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import { Op, RECORD, RECORD_BYTES, SLOT_ENTRIES } from '../decoded.ts';
import type { Decoder } from '../decoder.ts';
import { isMaddFused } from '../float/fused-probe.ts';
import type { VcpuPtr } from '../interface.ts';
import { AT, type CodePtr } from '../vcpu.ts';
import { planRegion, writeBatch } from './batch.ts';
import { Flow } from './discover.ts';
import { longestVisit } from './graph.ts';
import {
  ENTRY,
  ENTRY_SIZE,
  entryStruct,
  LIMITS,
  REGION_WORDS,
  type RegionLimits,
  regionStruct,
} from './layout.ts';
import type { Linker } from './linker.ts';
import type { RegionPlan } from './writer.ts';

/** A place that execution comes to often. */
type Head = { code: CodePtr; slot: number; pfn: Pfn; offset: number; heat: number };
/** Places of the same code, the hottest first, and what comes of that one. */
type Group = { readonly heads: Head[]; readonly plan: RegionPlan | undefined };
type Planned = { heads: readonly Head[]; plan: RegionPlan };

export type TranslatorParts = {
  arena: Arena;
  cache: CodeCache;
  decoder: Decoder;
  linker: Linker;
  alloc(words: number): number;
  free: ((at: number) => void) | undefined;
  /** Most regions in one module. 1: a test, whose every hot place becomes a region at once. */
  batch: number;
  limits?: RegionLimits | undefined;
  /** Test: the regions tell of their stores. */
  watched?: boolean;
  /** Drops the vCPU's Exec entries and waits until no other uses what was dropped. */
  quiesce(vcpu: VcpuPtr): void;
};

type Counter =
  | 'batches'
  | 'translatedRegions'
  | 'translatedInstructions'
  | 'translatedBytes'
  | 'translateMicroseconds'
  | 'entriesRefused';

export const BATCH = 8;
/** Places that are counted, of all VMs; what is hot will be so again. */
const MAX_QUEUE = 1024;
/**
 * Times that a place must have been hot: then the interpreter has spent there about what a region costs. A boot, most
 * of whose code never comes that far, is as fast as without regions.
 */
const HEAT = 96;
/**
 * Most of a thread's time that may go to translating, beside a head start in milliseconds: a boot is long over
 * before most of what it runs would have paid.
 */
const SHARE = 0.1;
const HEAD_START = 10;
/** Entries that `review` looks at in one go. */
const REVIEWED = 512;
/** Visits, of those that are counted, after which an entry is judged, and the instructions that each has to retire on average. */
const VISITS = 64;
const MIN_RETIRED = 12;
const MAX_REFUSED = 65536;
/** Instructions of a region from which on others leave for it rather than repeat it. */
const LARGE = 16;

const refusal = (code: CodePtr, slot: number, pfn: Pfn, offset: number): string =>
  `${code} ${slot} ${pfn} ${offset}`;

const contains = (plan: RegionPlan | undefined, offset: number): boolean =>
  plan?.d.blocks.some(b => b.steps.some(s => s.offset === offset)) ?? false;

/** Makes regions of hot places, for the thread that runs into them. */
export class Translator {
  readonly #parts: TranslatorParts;
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #entry;
  readonly #region;
  #queue: Head[] = [];
  #fused: boolean | undefined;
  /** Places whose entries did not pay. */
  readonly #refused = new Set<string>();
  /** The id that was last looked at. */
  #reviewed = 0;
  #began: number | undefined;
  /** Spent so far. */
  #milliseconds = 0;

  constructor(parts: TranslatorParts) {
    this.#parts = parts;
    this.#words = parts.arena.words;
    this.#halves = new Uint16Array(parts.arena.memory.buffer);
    this.#entry = entryStruct(parts.arena.words);
    this.#region = regionStruct(parts.arena.words);
  }

  /** The interpreter came often to the record at byte address `dp`. */
  hot(vcpu: VcpuPtr, dp: number): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const { cache } = this.#parts;
    const slot = cache.slotOf(code, dp);
    const offset = cache.recordOf(code, slot, dp) * 2;
    // Records that straddle two pages have a place of their own, in no slot.
    if (!(slot >= 0 && slot < cache.code.slots.get(code)) || offset >= 4096) return;
    const pfn = cache.frameOf(code, slot);
    if (this.#refused.has(refusal(code, slot, pfn, offset))) return;
    const known = this.#queue.find(h => h.slot === slot && h.offset === offset && h.code === code);
    if (known !== undefined) known.heat++;
    else this.#beginCounting({ code, slot, pfn, offset, heat: 1 });
    if ((known?.heat ?? 1) >= this.#neededHeat && this.#mayWork()) this.#translate(vcpu, code);
  }

  /** Where all room is taken, all cool down, so that what is hot now comes up. */
  #beginCounting(head: Head): void {
    if (this.#queue.length >= MAX_QUEUE) {
      for (const h of this.#queue) h.heat >>= 1;
      this.#queue = this.#queue.filter(h => h.heat > 0);
    }
    this.#queue.push(head);
  }

  /** A VM is gone, and its number may be another's. */
  forget(code: CodePtr): void {
    this.#queue = this.#queue.filter(h => h.code !== code);
    for (const refused of this.#refused) if (refused.startsWith(`${code} `)) this.#refused.delete(refused);
  }

  /** A test's, for which every hot place is to become a region at once. */
  get #isEager(): boolean {
    return this.#parts.batch === 1;
  }

  get #neededHeat(): number {
    return this.#isEager ? 1 : HEAT;
  }

  /** Whether translation has taken no more than its share of the time so far. */
  #mayWork(): boolean {
    if (this.#isEager) return true;
    this.#began ??= performance.now();
    return this.#milliseconds < HEAD_START + SHARE * (performance.now() - this.#began);
  }

  #translate(vcpu: VcpuPtr, code: CodePtr): void {
    const { translating } = this.#parts.cache.code;
    if (translating.cas(code, 0, 1) !== 0) return;
    const start = performance.now();
    try {
      const planned = this.#group(this.#take(code)).flatMap(group => this.#plan(group));
      if (planned.length > 0) this.#write(vcpu, code, planned);
    } finally {
      const took = performance.now() - start;
      this.#milliseconds += took;
      this.#count('translateMicroseconds', code, 1000 * took);
      translating.store(code, 0);
    }
  }

  /** The hottest places of a VM, no more than a batch should have. What is none any more is forgotten. */
  #take(code: CodePtr): Head[] {
    this.#queue = this.#queue.filter(h => h.code !== code || this.#isWanted(h));
    const wanted = this.#queue.filter(h => h.code === code && h.heat >= this.#neededHeat / 4);
    wanted.sort((a, b) => b.heat - a.heat);
    const heads = wanted.slice(0, 2 * this.#parts.batch);
    const taken = new Set(heads);
    this.#queue = this.#queue.filter(h => !taken.has(h));
    return heads;
  }

  /** The page is still decoded there, and no region begins at the place yet. */
  #isWanted({ code, slot, pfn, offset }: Head): boolean {
    const { cache } = this.#parts;
    const byte = cache.byteOf(code, slot);
    return cache.find(code, pfn) === byte && this.#idAt(byte, offset) === 0;
  }

  #idAt(slotByte: number, offset: number): number {
    return this.#halves[((slotByte + SLOT_ENTRIES) >>> 1) + (offset >>> 1)]!;
  }

  /** Heads that lie in the code of a hotter one come into its region, rather than have that code again. */
  #group(heads: readonly Head[]): Group[] {
    const groups: Group[] = [];
    for (const head of heads) {
      const host = groups.find(g => g.heads[0]!.slot === head.slot && contains(g.plan, head.offset));
      if (host === undefined) groups.push({ heads: [head], plan: this.#discover([head]) });
      else host.heads.push(head);
    }
    return groups;
  }

  #discover(heads: readonly Head[]): RegionPlan | undefined {
    const half = frameByte(heads[0]!.pfn) / 2;
    const fetch = (offset: number) => this.#halves[half + (offset >>> 1)]!;
    return planRegion(
      fetch,
      heads.map(h => h.offset),
      offset => this.#isLarge(heads[0]!, offset),
    );
  }

  #plan({ heads, plan: first }: Group): Planned[] {
    const plan = heads.length === 1 ? first : this.#discover(heads);
    if (plan !== undefined && this.#pays(heads[0]!, plan)) return [{ heads, plan }];
    for (const head of heads) this.#refuse(head);
    return [];
  }

  #pays(head: Head, { d, g }: RegionPlan): boolean {
    // Another vCPU may have changed the bytes since the head was found in them.
    const first = d.blocks[d.blockAt.get(head.offset) ?? -1]?.steps[0];
    return (
      first !== undefined && first.flow !== Flow.Slow && (this.#isEager || longestVisit(d, g) >= MIN_RETIRED)
    );
  }

  #refuse({ code, slot, pfn, offset }: Omit<Head, 'heat'>): void {
    if (this.#refused.size >= MAX_REFUSED) this.#refused.clear();
    this.#refused.add(refusal(code, slot, pfn, offset));
    this.#count('entriesRefused', code, 1);
  }

  /** Whether a region of its own begins at an offset, too large to have its code twice. */
  #isLarge({ code, slot }: Head, offset: number): boolean {
    const { cache } = this.#parts;
    const id = this.#idAt(cache.byteOf(code, slot), offset);
    if (id === 0) return false;
    const row = cache.code.entries.get(code) + (id * ENTRY_SIZE) / 4;
    return this.#entry.need.get(row as never) >= LARGE;
  }

  #write(vcpu: VcpuPtr, code: CodePtr, planned: readonly Planned[]): void {
    const { arena, cache, linker } = this.#parts;
    const bytes = writeBatch(
      planned.map(p => p.plan),
      {
        shared: arena.shared,
        watched: this.#parts.watched === true,
        fused: this.#isFused(),
        polls: cache.code.vcpus.load(code) > 1,
      },
    );
    const entries = planned.reduce((n, p) => n + p.plan.d.entries.length, 0);
    const isFull = this.#isFull(code, planned.length, entries, bytes.length);
    const module = isFull ? 0 : this.#roomFor(bytes);
    if (module === 0) {
      this.#dropAll(vcpu, code);
      return;
    }
    const first = cache.code.nextRegion.get(code);
    this.#keep(code, module, first, planned.length, bytes);
    cache.code.nextRegion.set(code, first + planned.length);
    linker.install(code, first, planned.length, bytes);
    for (const [i, p] of planned.entries()) this.#enter(code, first + i, p);
    this.#count('batches', code, 1);
    this.#count('translatedRegions', code, planned.length);
    this.#count('translatedBytes', code, bytes.length);
    for (const { plan } of planned) this.#count('translatedInstructions', code, plan.d.instructions);
  }

  #isFused(): boolean {
    this.#fused ??= isMaddFused();
    return this.#fused;
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

  #count(what: Counter, code: CodePtr, by: number): void {
    const counter = this.#parts.cache.code[what];
    counter.set(code, counter.get(code) + Math.round(by));
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

  /** Puts the module where other threads find it. */
  #keep(code: CodePtr, module: number, first: number, count: number, bytes: Uint8Array): void {
    const { arena, cache } = this.#parts;
    arena.bytes.set(bytes, module * 4);
    cache.code.wasmBytes.set(code, cache.code.wasmBytes.get(code) + bytes.length);
    for (let i = first; i < first + count; i++) {
      const row = (cache.code.regions.get(code) + i * REGION_WORDS) as never;
      this.#region.module.set(row, module);
      this.#region.bytes.set(row, bytes.length);
      this.#region.first.set(row, first);
      this.#region.count.set(row, count);
    }
  }

  /** Makes the region's entries known to the decoded page. */
  #enter(code: CodePtr, fn: number, { heads, plan }: Planned): void {
    const { cache } = this.#parts;
    const base = cache.code.nextEntry.get(code);
    cache.code.nextEntry.set(code, base + plan.d.entries.length);
    const { slot } = heads[0]!;
    const slotByte = cache.byteOf(code, slot);
    plan.d.entries.forEach((block, i) => {
      const { start, steps } = plan.d.blocks[block]!;
      const row = (cache.code.entries.get(code) + ((base + i) * ENTRY_SIZE) / 4) as never;
      this.#entry.fn.set(row, fn);
      this.#entry.base.set(row, base);
      this.#entry.need.set(row, plan.d.instructions);
      this.#entry.place.set(row, (slot << 12) | start);
      this.#entry.visits.set(row, 0);
      this.#entry.retired.set(row, 0);
      if (steps[0]!.flow !== Flow.Slow) this.#publish(code, slotByte, start, base + i, row);
    });
  }

  #publish(code: CodePtr, slotByte: number, offset: number, id: number, row: number): void {
    if (this.#idAt(slotByte, offset) !== 0) return;
    const record = (slotByte + (offset / 2) * RECORD_BYTES) >>> 0;
    if ((this.#words[record >>> 2]! & 0xffff) === Op.Undecoded) this.#parts.decoder.decodeAt(code, record);
    const word = this.#words[record >>> 2]!;
    const copy = row + ENTRY.record / 4;
    this.#parts.decoder.write(copy, this.#words[(record >>> 2) + RECORD.raw / 4]!, -1);
    this.#entry.afterShort.set(row as never, Op.PageEnd);
    this.#words[row + this.#entry.afterLong.at] = Op.PageEnd;
    // Atomic, so that other threads find the rows complete.
    Atomics.store(this.#halves, ((slotByte + SLOT_ENTRIES) >>> 1) + (offset >>> 1), id);
    Atomics.store(this.#words, record >>> 2, (word & ~0xffff) | Op.Region);
  }

  /**
   * Takes away entries that are left again too soon: going from region to region costs as much as interpreting
   * a few dozen instructions. Looks at some entries each time.
   */
  review(code: CodePtr): void {
    const { translating, nextEntry, entries } = this.#parts.cache.code;
    if (translating.cas(code, 0, 1) !== 0) return;
    const end = nextEntry.get(code);
    for (let i = 0; i < REVIEWED && i < end; i++) {
      this.#reviewed = this.#reviewed + 1 < end ? this.#reviewed + 1 : 1;
      const id = this.#reviewed;
      const row = (entries.get(code) + (id * ENTRY_SIZE) / 4) as never;
      if (id < end && this.#entry.visits.get(row) >= VISITS) this.#judge(code, id, row);
    }
    translating.store(code, 0);
  }

  #judge(code: CodePtr, id: number, row: number): void {
    const { visits, retired, place } = this.#entry;
    const mean = retired.get(row as never) / visits.get(row as never);
    visits.set(row as never, 0);
    retired.set(row as never, 0);
    if (mean >= MIN_RETIRED) return;
    const slot = place.get(row as never) >>> 12;
    const offset = place.get(row as never) & 0xfff;
    const { cache } = this.#parts;
    const slotByte = cache.byteOf(code, slot);
    if (this.#idAt(slotByte, offset) !== id) return;
    this.#refuse({ code, slot, pfn: cache.frameOf(code, slot), offset });
    this.#halves[((slotByte + SLOT_ENTRIES) >>> 1) + (offset >>> 1)] = 0;
    const record = (slotByte + (offset / 2) * RECORD_BYTES) >>> 2;
    this.#words[record] = (this.#words[record]! & ~0xffff) | Op.Undecoded;
  }

  /** Gives back the bytes of all modules, of which nobody will link any again. */
  freeModules(code: CodePtr, free: (at: number) => void): void {
    const { regions, nextRegion } = this.#parts.cache.code;
    for (let i = 0; i < nextRegion.get(code); ) {
      const row = (regions.get(code) + i * REGION_WORDS) as never;
      free(this.#region.module.get(row));
      i += this.#region.count.get(row);
    }
  }

  /** Makes room by forgetting everything; what is hot will be so again. */
  #dropAll(vcpu: VcpuPtr, code: CodePtr): void {
    const { cache, linker, free, quiesce } = this.#parts;
    if (!cache.tryEvict(code, true)) return;
    cache.code.epoch.add(code, 1);
    quiesce(vcpu);
    cache.reclaim(code);
    linker.firstRegion(code);
    if (free !== undefined) this.freeModules(code, free);
    cache.code.nextRegion.set(code, 0);
    cache.code.nextEntry.set(code, 1);
    cache.code.wasmBytes.set(code, 0);
  }
}
