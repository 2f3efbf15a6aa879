import { describe, expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { decodeTranslation, encodeTranslation, type KeptRegion, type Translation } from './translation.ts';
import { TranslationStore } from './translation-store.ts';

const page = (random: Random): Int32Array => Int32Array.from({ length: 1024 }, () => random.u32() | 0);

function some(random: Random): Translation {
  const pages = Array.from({ length: 1 + random.below(3) }, () => page(random));
  const region = (): KeptRegion => ({
    page: random.below(pages.length),
    need: random.below(300),
    entries: Array.from({ length: random.below(5) }, () => ({
      offset: 2 * random.below(2048),
      isOwn: random.below(2) === 0,
    })),
  });
  const regions = Array.from({ length: 1 + random.below(4) }, region);
  const wasm = Uint8Array.from({ length: random.below(100) }, () => random.below(256));
  return { kind: random.below(4), pages, regions, wasm };
}

describe('a translation as bytes', () => {
  test('comes back as it was, wherever in a buffer it lies', () => {
    for (let seed = 1; seed <= 50; seed++) {
      const random = new Random(seed);
      const translation = some(random);
      const bytes = encodeTranslation(translation);
      const shifted = new Uint8Array(bytes.length + 7);
      shifted.set(bytes, 3);
      expect(decodeTranslation(shifted.subarray(3, 3 + bytes.length)), `seed ${seed}`).toEqual(translation);
    }
  });

  test('is nothing when cut, with a byte more, or with any count changed', () => {
    for (let seed = 1; seed <= 200; seed++) {
      const random = new Random(seed);
      const bytes = encodeTranslation(some(random));
      expect(decodeTranslation(bytes.subarray(0, random.below(bytes.length))), `seed ${seed}`).toBe(
        undefined,
      );
      expect(decodeTranslation(Uint8Array.of(...bytes, 0)), `seed ${seed}`).toBe(undefined);
      const word = new DataView(bytes.buffer);
      const at = 4 * (1 + random.below(3));
      word.setInt32(at, word.getInt32(at, true) ^ (1 << random.below(32)), true);
      expect(decodeTranslation(bytes), `seed ${seed}`).toBe(undefined);
    }
  });

  test('whatever the bytes, is one that can be written again, or nothing', () => {
    let whole = 0;
    for (let seed = 1; seed <= 300; seed++) {
      const random = new Random(seed);
      const bytes = encodeTranslation(some(random));
      const rows = bytes.length - random.below(120);
      for (let i = 0; i < 3; i++)
        bytes[random.below(2) === 0 ? random.below(16) : rows - random.below(60)] = random.below(256);
      const decoded = decodeTranslation(bytes);
      if (decoded === undefined) continue;
      whole++;
      expect(encodeTranslation(decoded), `seed ${seed}`).toEqual(bytes);
    }
    expect(whole).toBeGreaterThan(20);
  });
});

describe('the store of translations', () => {
  const random = new Random(7);
  const [a, b] = [page(random), page(random)];
  const of = (pages: Int32Array[], wasm: number[], kind = 0): Translation => ({
    kind,
    pages,
    regions: pages.map((_, i) => ({ page: i, need: 3, entries: [{ offset: 0, isOwn: false }] })),
    wasm: Uint8Array.from(wasm),
  });

  test('finds what was made of a page, by each of its pages, and for its kind alone', () => {
    const store = new TranslationStore();
    const [both, second] = [of([a, b], [1]), of([b], [2], 1)];
    expect([store.add(both), store.add(second)]).toEqual([true, true]);
    expect(store.find(a.slice(), 0)).toEqual([{ translation: both, page: 0 }]);
    expect(store.find(b.slice(), 0)).toEqual([{ translation: both, page: 1 }]);
    expect(store.find(b, 1)).toEqual([{ translation: second, page: 0 }]);
    expect(store.find(a, 1)).toEqual([]);
    expect(store.find(page(random), 0)).toEqual([]);
  });

  test('takes an equal one once', () => {
    const store = new TranslationStore();
    expect([store.add(of([a], [1])), store.add(of([a.slice()], [1]))]).toEqual([true, false]);
    expect([store.add(of([a], [2])), store.add(of([a], [1], 1))]).toEqual([true, true]);
    expect(store.find(a, 0)).toHaveLength(2);
  });

  test('compares pages that have the same hash', () => {
    // FNV-1a of words: x ^ y where the first two words undo each other.
    const store = new TranslationStore();
    const [first, other] = [new Int32Array(1024), new Int32Array(1024)];
    const basis = 0x811c9dc5 | 0;
    other[0] = 1;
    other[1] = Math.imul(basis, 0x01000193) ^ Math.imul(basis ^ 1, 0x01000193);
    store.add(of([first], [1]));
    expect(store.find(other, 0)).toEqual([]);
    store.add(of([other], [2]));
    expect(store.find(first, 0).map(({ translation }) => translation.wasm)).toEqual([Uint8Array.of(1)]);
  });

  test('forgets first what was not used for longest, and all of it', () => {
    const store = new TranslationStore(3 * 4096 + 20);
    store.add(of([a], [1]));
    store.add(of([b], [2]));
    store.find(a, 0);
    store.add(of([page(random), page(random)], [3]));
    expect([store.find(a, 0).length, store.find(b, 0).length]).toEqual([1, 0]);
    expect(store.add(of([b], [2]))).toBe(true);
    expect(store.find(b, 0)).toHaveLength(1);
  });
});
