import { type Arena, frameByte } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import type { CodePtr } from '../vcpu.ts';
import type { RegionRows } from './region-rows.ts';
import { PAGE_WORDS, type Translation } from './translation.ts';
import type { TranslationStore } from './translation-store.ts';

export type RecallParts = {
  arena: Arena;
  cache: CodeCache;
  rows: RegionRows;
  store: TranslationStore;
  /** Told of a module that a runner will link. */
  compileAhead(code: CodePtr, wasm: Uint8Array<ArrayBuffer>): void;
};

/** Of a VM's room for regions. */
const SHARE = 0.5;

/** A VM between two times that all its regions are dropped, and the first region that each translation has in it. */
type Life = {
  readonly number: number;
  readonly epoch: number;
  readonly firsts: WeakMap<Translation, number>;
};

/**
 * Gives decoded pages the regions that pages of the same content had before: in this guest, in another of the Host, or in
 * another process. Requires throughout: the caller holds `translating`, or it was asked to.
 */
export class Recall {
  readonly #parts: RecallParts;
  readonly #words = new Int32Array(PAGE_WORDS);
  /** By VM, where it has its translations. */
  readonly #lives = new Map<CodePtr, Life>();

  constructor(parts: RecallParts) {
    this.#parts = parts;
  }

  /** Looks at the pages that were decoded since the last call; the slots of those that now have regions. */
  pages(code: CodePtr, kind: number): Set<number> {
    const { cache } = this.#parts;
    const given = new Set<number>();
    for (let slot = 0; slot < cache.slotsOf(code); slot++) {
      const stamp = cache.stampOf(code, slot);
      if (cache.wasRecalled(code, slot, stamp) || !cache.isSame(code, slot, stamp)) continue;
      cache.setRecalled(code, slot, stamp);
      if (this.#page(code, kind, slot, stamp)) given.add(slot);
    }
    return given;
  }

  /** The bytes may change meanwhile: then the page is dropped before, and the publisher sees that. */
  #page(code: CodePtr, kind: number, slot: number, stamp: number): boolean {
    const { arena, cache, store } = this.#parts;
    const at = frameByte(cache.frameOf(code, slot)) >>> 2;
    this.#words.set(arena.words.subarray(at, at + PAGE_WORDS));
    let isGiven = false;
    for (const { translation, page } of store.find(this.#words, kind)) {
      if (this.#give(code, { slot, stamp }, translation, page)) isGiven = true;
    }
    return isGiven;
  }

  #give(code: CodePtr, at: { slot: number; stamp: number }, translation: Translation, page: number): boolean {
    const { rows } = this.#parts;
    const regions = [...translation.regions.entries()].filter(([, region]) => region.page === page);
    const entries = regions.reduce((n, [, region]) => n + region.entries.length, 0);
    const { length } = translation.regions;
    // The rest is for what gets hot, as a page with known content need not be. That may also drop what is of no use any more.
    if (!rows.hasRoom(code, length, entries, translation.wasm.length, SHARE)) return false;
    const first = this.#firstOf(code, translation);
    if (first < 0) return false;
    for (const [i, { need, entries }] of regions) rows.addEntries(code, first + i, at, need, entries);
    const { recalled } = this.#parts.cache.code;
    recalled.set(code, recalled.get(code) + regions.length);
    return true;
  }

  #firstOf(code: CodePtr, translation: Translation): number {
    const { rows, compileAhead } = this.#parts;
    const { firsts } = this.#lifeOf(code);
    const known = firsts.get(translation);
    if (known !== undefined) return known;
    const first = rows.addModule(code, translation.wasm, translation.regions.length);
    if (first < 0) return first;
    firsts.set(translation, first);
    compileAhead(code, translation.wasm);
    return first;
  }

  /** As it is now: without what it had before its regions were dropped, or what another had in its place. */
  #lifeOf(code: CodePtr): Life {
    const fields = this.#parts.cache.code;
    const [number, epoch] = [fields.number.get(code), fields.epoch.load(code)];
    const kept = this.#lives.get(code);
    if (kept?.number === number && kept.epoch === epoch) return kept;
    const fresh = { number, epoch, firsts: new WeakMap() };
    this.#lives.set(code, fresh);
    return fresh;
  }
}
