import type { Random } from '../base/random.ts';

/** Kinds of page content for tests and benchmarks, from nothing to noise. */
export const PAGE_SAMPLES: Record<string, (page: Uint8Array, random: Random) => void> = {
  zero: page => page.fill(0),
  oneByte: (page, random) => {
    page.fill(0);
    page[random.below(page.length)] = 1 + random.below(255);
  },
  sameWord: (page, random) => repeat(page, random, 8),
  /** A pattern of 1 to 24 bytes: matches that overlap themselves at each small offset. */
  period: (page, random) => repeat(page, random, 1 + random.below(24)),
  noise: (page, random) => {
    for (let i = 0; i < page.length; i++) page[i] = random.u32();
  },
  halfNoise: (page, random) => {
    page.fill(0);
    for (let i = 0; i < page.length / 2; i++) page[i] = random.u32();
  },
  /** Like tables of pointers: the high bytes repeat. */
  pointers: (page, random) => {
    for (let i = 0; i < page.length; i += 8)
      page.set([random.u32(), random.u32(), 0x40, 0x7f, 0xd5, 0xff, 0, 0], i);
  },
  /** Words of a small vocabulary. */
  text: (page, random) => {
    const words = ['page', 'frame', 'fault', 'the', 'swap', 'notifier', 'a', 'of', 'guest', 'memory', '\n'];
    for (let at = 0; at < page.length; ) {
      for (const char of `${random.pick(words)} `) if (at < page.length) page[at++] = char.charCodeAt(0);
    }
  },
  /** Copies of earlier stretches between literals of all lengths. */
  stretches: (page, random) => {
    for (let at = 0; at < page.length; ) {
      const length = Math.min(1 + random.below(random.pick([4, 20, 300, 700])), page.length - at);
      const back = at === 0 || random.oneIn(2) ? 0 : 1 + random.below(at);
      for (let i = 0; i < length; i++, at++) page[at] = back ? (page[at - back] as number) : random.u32();
    }
  },
};

function repeat(page: Uint8Array, random: Random, period: number): void {
  for (let i = 0; i < page.length; i++) page[i] = i < period ? random.u32() : (page[i - period] as number);
}
