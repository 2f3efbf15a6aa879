import { PAGE_WORDS, sizeOf, type Translation } from './translation.ts';

/** Bytes of translations that are kept: some guests' worth. */
export const MAX_KEPT_BYTES = 32 * 2 ** 20;

type Use = { readonly translation: Translation; readonly page: number };

/**
 * Translations by the content of the pages that they were made from, for all guests of a Host. One thread's own, and what it
 * loses costs speed alone. Pages are compared whole, so that a guest can't make others execute what it likes.
 */
export class TranslationStore {
  readonly #most: number;
  /** By hash of a page. */
  readonly #uses = new Map<number, Use[]>();
  /** Those that were used last come last. */
  readonly #kept = new Set<Translation>();
  #bytes = 0;

  constructor(mostBytes = MAX_KEPT_BYTES) {
    this.#most = mostBytes;
  }

  /** False if there is an equal one. */
  add(translation: Translation): boolean {
    if (this.#has(translation)) return false;
    translation.pages.forEach((words, page) => {
      const hash = hashOf(words);
      const uses = this.#uses.get(hash) ?? [];
      if (uses.length === 0) this.#uses.set(hash, uses);
      uses.push({ translation, page });
    });
    this.#kept.add(translation);
    this.#bytes += sizeOf(translation);
    for (const oldest of this.#kept) {
      if (this.#bytes <= this.#most) break;
      this.#forget(oldest);
    }
    return true;
  }

  #has({ kind, pages, wasm }: Translation): boolean {
    const [first] = pages;
    return (
      first !== undefined && this.find(first, kind).some(({ translation }) => isEqual(translation.wasm, wasm))
    );
  }

  #forget(translation: Translation): void {
    this.#kept.delete(translation);
    this.#bytes -= sizeOf(translation);
    for (const words of translation.pages) {
      const hash = hashOf(words);
      const left = this.#uses.get(hash)?.filter(use => use.translation !== translation) ?? [];
      if (left.length > 0) this.#uses.set(hash, left);
      else this.#uses.delete(hash);
    }
  }

  /** The translations that have regions of a page with these 1024 words, and which of their pages it is. */
  find(words: Int32Array, kind: number): readonly Use[] {
    const found = this.#uses.get(hashOf(words))?.filter(({ translation, page }) => {
      return translation.kind === kind && isEqual(translation.pages[page]!, words);
    });
    if (found === undefined) return [];
    for (const { translation } of found) {
      this.#kept.delete(translation);
      this.#kept.add(translation);
    }
    return found;
  }
}

function isEqual(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** A place in a table, no more: whoever looks there compares. FNV-1a's step, by words. */
function hashOf(words: Int32Array): number {
  let hash = 0x811c9dc5 | 0;
  for (let i = 0; i < PAGE_WORDS; i++) hash = Math.imul(hash ^ words[i]!, 0x01000193);
  return hash;
}
