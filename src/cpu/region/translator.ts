import type { CodeCache } from '../code-cache.ts';
import type { Decoder } from '../decoder.ts';
import type { VcpuPtr } from '../interface.ts';
import { HOT } from '../tlb-layout.ts';
import { AT, type CodePtr } from '../vcpu.ts';
import { HotPlaces } from './hot-places.ts';
import { type Head, Jobs, MAX_HEADS, Translating } from './job.ts';
import { REGION_WORDS, regionStruct } from './layout.ts';
import type { Linker } from './linker.ts';
import { type MakerParts, MIN_RETIRED, RegionMaker } from './maker.ts';
import type { Post } from './post.ts';
import { Publisher } from './publisher.ts';

export type TranslatorParts = Omit<MakerParts, 'isEager'> & {
  decoder: Decoder;
  linker: Linker;
  free: ((at: number) => void) | undefined;
  /** Most regions in one module. 1: a test, whose every hot place becomes a region at once. */
  batch: number;
  /** Leads to the thread that translates, where there is one. */
  post: Post | undefined;
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
  readonly #publisher: Publisher;
  /** A test's, for which every hot place is to become a region at once. */
  readonly #isEager: boolean;
  #began: number | undefined;
  /** Spent so far. */
  #milliseconds = 0;

  constructor(parts: TranslatorParts) {
    const { arena, cache, decoder } = parts;
    this.#parts = parts;
    this.#words = arena.words;
    this.#cache = cache;
    this.#isEager = parts.batch === 1;
    this.#region = regionStruct(arena.words);
    this.#jobs = new Jobs(arena.words, cache.code);
    this.#maker = new RegionMaker({ ...parts, isEager: this.#isEager });
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
    if (heat >= HEAT_ASKED) this.#ask(code, post);
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

  /** Leaves the hottest places to the translator's thread, unless it has some of this VM. */
  #ask(code: CodePtr, post: Post): void {
    const { translating } = this.#cache.code;
    if (translating.cas(code, Translating.Free, Translating.Held) !== Translating.Free) return;
    const heads = this.#take(code, MAX_HEADS, HEAT_ASKED / 2);
    this.#jobs.write(code, heads);
    translating.store(code, heads.length > 0 ? Translating.Asked : Translating.Free);
    if (heads.length > 0 && !post.leave(code)) translating.store(code, Translating.Free);
  }

  /** The translator's thread: does what was asked for a VM. */
  serve(code: CodePtr): void {
    const { translating, nextEntry } = this.#cache.code;
    if (translating.load(code) !== Translating.Asked) return;
    this.#jobs.setFirstEntry(code, nextEntry.get(code));
    let state: number = Translating.Made;
    try {
      const bytes = this.#timed(code, () => this.#maker.make(code, this.#jobs.read(code)));
      if (bytes === 'full') state = Translating.Full;
      else if (bytes !== undefined) this.#parts.linker.compileAhead(bytes);
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
    this.#publisher.review(code, MIN_RETIRED, head => this.#refuse(code, head));
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
      const heads = this.#take(code, 2 * this.#parts.batch, (this.#isEager ? 1 : HEAT) / 4);
      const first = nextEntry.get(code);
      const bytes = this.#timed(code, () => this.#maker.make(code, heads));
      if (bytes === 'full') this.#dropAll(vcpu, code);
      else this.#publish(code, first, heads);
    } finally {
      translating.store(code, Translating.Free);
    }
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
  review(code: CodePtr): void {
    const { translating } = this.#cache.code;
    if (translating.cas(code, Translating.Free, Translating.Held) !== Translating.Free) return;
    this.#publisher.review(code, MIN_RETIRED, head => this.#refuse(code, head));
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
