import type { CodeCache } from '../code-cache.ts';
import type { Decoder } from '../decoder.ts';
import type { VcpuPtr } from '../interface.ts';
import { HOT } from '../tlb-layout.ts';
import { AT, type CodePtr } from '../vcpu.ts';
import { HotPlaces } from './hot-places.ts';
import { type Head, Jobs, MAX_HEADS, Translating } from './job.ts';
import { REGION_WORDS, regionStruct } from './layout.ts';
import type { Linker } from './linker.ts';
import { MIN_RETIRED, RegionMaker } from './maker.ts';
import type { Post } from './post.ts';
import { Publisher } from './publisher.ts';
import { Recall } from './recall.ts';
import { RegionRows, type RowsParts } from './region-rows.ts';
import { decodeTranslation, encodeTranslation, type Translation } from './translation.ts';
import { TranslationStore } from './translation-store.ts';

export type TranslatorParts = RowsParts & {
  decoder: Decoder;
  linker: Linker;
  free: ((at: number) => void) | undefined;
  /** Most regions in one module. 1: a test, whose every hot place becomes a region at once. */
  batch: number;
  /** Leads to the thread that translates, where there is one. */
  post: Post | undefined;
  /** Told of what was translated, for `know`. */
  keepTranslation: ((bytes: Uint8Array) => void) | undefined;
  /** Test: the regions tell of their stores. */
  watched?: boolean;
  /** Drops the vCPU's Exec entries and waits until no other uses what was dropped. */
  quiesce(vcpu: VcpuPtr): void;
};

export const BATCH = 8;
/**
 * Times that a place must have been hot. By this thread itself: then the interpreter has spent there about what a region
 * costs. A boot, most of whose code never comes that far, is as fast as without regions.
 */
const HEAT = 96;
/** Instructions from one arrival to the next, by and large. */
const USUAL_LINE = 6;
/** By another thread, which costs this one little. */
const HEAT_ASKED = 48;
/**
 * The same, once a guest has booted, as far as the linker's clock knows: what it does now it mostly goes on with. With 48
 * what a pipe does between two harts was translated after ten seconds of it, with 8 after one and a half.
 */
const HEAT_SETTLED = 8;
/**
 * Most of a thread's time that may go to translating, beside a head start in milliseconds: a boot is long over
 * before most of what it runs would have paid.
 */
const SHARE = 0.1;
const HEAD_START = 10;

/**
 * Has regions made of hot places: by the translator's thread, or by the thread that runs into them. What was made is
 * published by a runner, from inside its vCPU, as only that keeps the pages where they are.
 */
export class Translator {
  readonly #parts: TranslatorParts;
  readonly #words: Int32Array;
  readonly #cache: CodeCache;
  readonly #region;
  readonly #places = new HotPlaces();
  readonly #jobs: Jobs;
  readonly #maker: RegionMaker;
  readonly #recall: Recall;
  readonly #store = new TranslationStore();
  readonly #publisher: Publisher;
  /** A test's, for which every hot place is to become a region at once. */
  readonly #isEager: boolean;
  #began: number | undefined;
  /** Spent so far. */
  #milliseconds = 0;

  constructor(parts: TranslatorParts) {
    const { arena, cache, decoder, linker, watched = false } = parts;
    this.#parts = parts;
    this.#words = arena.words;
    this.#cache = cache;
    this.#isEager = parts.batch === 1;
    this.#region = regionStruct(arena.words);
    this.#jobs = new Jobs(arena.words, cache.code);
    const rows = new RegionRows(parts);
    const keep = (code: CodePtr, translation: Translation) => this.#keep(code, translation);
    this.#maker = new RegionMaker({ arena, cache, rows, keep, watched, isEager: this.#isEager });
    const compileAhead = (code: CodePtr, wasm: Uint8Array<ArrayBuffer>) => linker.compileAhead(code, wasm);
    this.#recall = new Recall({ arena, cache, rows, store: this.#store, compileAhead });
    this.#publisher = new Publisher(arena, cache, decoder);
  }

  /** The interpreter came often to the record at byte address `dp`. */
  hot(vcpu: VcpuPtr, dp: number): void {
    this.#heat(vcpu, dp, 1);
  }

  /**
   * A slice is over. Arrivals do not tell how long the line is that begins there, so where the interpreter has been for
   * long, the line that it is in is as hot as if it had been come to by lines of usual length.
   */
  sample(vcpu: VcpuPtr): void {
    const heat = Math.floor(this.#words[vcpu + AT.stint]! / (HOT * USUAL_LINE));
    if (heat === 0) return;
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const dp = this.#publisher.lineOf(vcpu, (slot, offset) => this.#places.has(code, slot, offset));
    if (dp !== 0) this.#heat(vcpu, dp, heat);
  }

  #heat(vcpu: VcpuPtr, dp: number, by: number): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const head = this.#headAt(code, dp);
    const heat = head === undefined ? 0 : this.#places.heat(code, head, by);
    const { post } = this.#parts;
    if (post === undefined) {
      if (heat >= (this.#isEager ? 1 : HEAT) && this.#mayWork()) this.#translate(vcpu, code);
      return;
    }
    // Until the thread serves, what is hot stays so: to begin here, with a cold translator, would hold the guest up longer.
    if (!post.isServed) return;
    this.collect(vcpu);
    if (heat >= this.#heatAsked(code)) this.#ask(code, post);
  }

  #heatAsked(code: CodePtr): number {
    return this.#cache.code.settled.load(code) === 0 ? HEAT_ASKED : HEAT_SETTLED;
  }

  #headAt(code: CodePtr, dp: number): Head | undefined {
    const cache = this.#cache;
    const slot = cache.slotOf(code, dp);
    const offset = cache.recordOf(code, slot, dp) * 2;
    // Records that straddle two pages have a place of their own, in no slot.
    if (slot < 0 || offset >= 4096) return undefined;
    return { slot, pfn: cache.frameOf(code, slot), offset, stamp: cache.stampOf(code, slot) };
  }

  /** A VM is gone, and its number may be another's. */
  forget(code: CodePtr): void {
    this.#parts.post?.withdraw(code);
    this.#places.forget(code);
  }

  /** Whether translation has taken no more than its share of the time so far. */
  #mayWork(): boolean {
    if (this.#isEager) return true;
    this.#began ??= performance.now();
    return this.#milliseconds < HEAD_START + SHARE * (performance.now() - this.#began);
  }

  #take(code: CodePtr, most: number, heat: number): Head[] {
    return this.#places.take(code, most, heat, head => this.#publisher.isWanted(code, head));
  }

  /** Whether pages were decoded for which the translator's thread was not asked yet. */
  #hasNewPages(code: CodePtr): boolean {
    const { pages, pagesAsked } = this.#cache.code;
    return pages.load(code) !== pagesAsked.load(code);
  }

  /** Leaves the hottest places, and all new pages, to the translator's thread, unless it has some of this VM. */
  #ask(code: CodePtr, post: Post, most = MAX_HEADS): void {
    const { translating, pages, pagesAsked } = this.#cache.code;
    if (translating.cas(code, Translating.Free, Translating.Held) !== Translating.Free) return;
    const heads = most === 0 ? [] : this.#take(code, most, this.#heatAsked(code) / 2);
    const seen = pages.load(code);
    const before = pagesAsked.load(code);
    this.#jobs.write(code, heads);
    pagesAsked.store(code, seen);
    const asks = heads.length > 0 || seen !== before;
    translating.store(code, asks ? Translating.Asked : Translating.Free);
    if (!asks || post.leave(code)) return;
    pagesAsked.store(code, before);
    translating.store(code, Translating.Free);
  }

  /** Where a slice begins: publishes what was made, and asks what is known of new pages. From inside. */
  attend(vcpu: VcpuPtr): void {
    this.collect(vcpu);
    const { post } = this.#parts;
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    if (post?.isServed === true && this.#hasNewPages(code)) this.#ask(code, post, 0);
  }

  /** The translator's thread: does what was asked for a VM. */
  serve(code: CodePtr): void {
    const { translating, nextEntry } = this.#cache.code;
    if (translating.load(code) !== Translating.Asked) return;
    this.#jobs.setFirstEntry(code, nextEntry.get(code));
    let state: number = Translating.Made;
    try {
      const bytes = this.#timed(code, () => this.#serve(code));
      if (bytes === 'full') state = Translating.Full;
      else if (bytes !== undefined) this.#parts.linker.compileAhead(code, bytes);
    } catch (error) {
      // The engine has no room for code: then there is none. All else is our own failure.
      if (!(error instanceof RangeError)) throw error;
      this.#jobs.setFirstEntry(code, nextEntry.get(code));
    }
    translating.store(code, state);
  }

  /** Publishes what the translator's thread has made for the vCPU's VM. From inside. */
  collect(vcpu: VcpuPtr): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const { translating } = this.#cache.code;
    const state = translating.load(code);
    if (state !== Translating.Made && state !== Translating.Full) return;
    if (translating.cas(code, state, Translating.Held) !== state) return;
    if (state === Translating.Full) this.#dropAll(vcpu, code);
    else this.#publish(code, this.#jobs.firstEntry(code), this.#jobs.read(code));
    this.#publisher.review(vcpu, MIN_RETIRED, head => this.#refuse(code, head));
    translating.store(code, Translating.Free);
  }

  #publish(code: CodePtr, first: number, heads: readonly Head[]): void {
    this.#publisher.publish(code, first);
    for (const head of heads) if (this.#publisher.isWanted(code, head)) this.#refuse(code, head);
  }

  #translate(vcpu: VcpuPtr, code: CodePtr): void {
    const { translating, nextEntry } = this.#cache.code;
    if (translating.cas(code, Translating.Free, Translating.Held) !== Translating.Free) return;
    try {
      const first = nextEntry.get(code);
      const taken = this.#take(code, 2 * this.#parts.batch, (this.#isEager ? 1 : HEAT) / 4);
      const heads = this.#unknown(code, taken);
      const bytes = this.#timed(code, () => this.#maker.make(code, heads));
      if (bytes === 'full') this.#dropAll(vcpu, code);
      else this.#publish(code, first, heads);
    } finally {
      translating.store(code, Translating.Free);
    }
  }

  #serve(code: CodePtr): Uint8Array<ArrayBuffer> | 'full' | undefined {
    const heads = this.#unknown(code, this.#jobs.read(code));
    this.#jobs.write(code, heads);
    return this.#maker.make(code, heads);
  }

  /** The heads of pages that do not get known regions just now. The others may be hot again. */
  #unknown(code: CodePtr, heads: readonly Head[]): Head[] {
    if (this.#parts.watched === true) return [...heads];
    const given = this.#recall.pages(code, this.#maker.kind);
    return heads.filter(({ slot }) => !given.has(slot));
  }

  /** For other processes what boots need: of all else too much is cold in them, and costs more than it gives. */
  #keep(code: CodePtr, translation: Translation): void {
    const isNew = this.#store.add(translation);
    const boots = this.#cache.code.settled.load(code) === 0;
    if (isNew && boots) this.#parts.keepTranslation?.(encodeTranslation(translation));
  }

  /** Takes what `keepTranslation` was told, by a process with the same code; what it was not does nothing. */
  know(bytes: Uint8Array): void {
    const translation = decodeTranslation(bytes);
    if (translation !== undefined) this.#store.add(translation);
  }

  #timed<T>(code: CodePtr, work: () => T): T {
    const { translateMicroseconds } = this.#cache.code;
    const start = performance.now();
    const made = work();
    const took = performance.now() - start;
    this.#milliseconds += took;
    translateMicroseconds.set(code, translateMicroseconds.get(code) + Math.round(1000 * took));
    return made;
  }

  #refuse(code: CodePtr, head: Head): void {
    this.#places.refuse(code, head);
    const { entriesRefused } = this.#cache.code;
    entriesRefused.set(code, entriesRefused.get(code) + 1);
  }

  /**
   * Takes away entries that are left again too soon: going from region to region costs as much as interpreting
   * some instructions. Looks at some entries each time.
   */
  review(vcpu: VcpuPtr): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const { translating } = this.#cache.code;
    if (translating.cas(code, Translating.Free, Translating.Held) !== Translating.Free) return;
    this.#publisher.review(vcpu, MIN_RETIRED, head => this.#refuse(code, head));
    translating.store(code, Translating.Free);
  }

  /** Gives back the bytes of all modules, of which nobody will link any again. */
  freeModules(code: CodePtr, free: (at: number) => void): void {
    const { regions, nextRegion } = this.#cache.code;
    for (let i = 0; i < nextRegion.get(code); ) {
      const row = (regions.get(code) + i * REGION_WORDS) as never;
      free(this.#region.module.get(row));
      i += this.#region.count.get(row);
    }
  }

  /** Makes room by forgetting everything; what is hot will be so again. */
  #dropAll(vcpu: VcpuPtr, code: CodePtr): void {
    const { linker, free, quiesce } = this.#parts;
    const cache = this.#cache;
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
