import { parentPort } from 'node:worker_threads';

/** What a thread of the test was about when it noted it. */
const DEEDS = [
  ...['nothing', 'age', 'reclaim', 'pageout', 'discard', 'count', 'fork', 'child goes', 'twin', 'merge'],
  ...['split', 'collapse', 'khugepaged', 'scrap', 'fault', 'scratch', 'unshare', 'fill', 'giveBack'],
  ...['copyBack', 'takeAway', 'takeSigbus', 'protect', 'unprotect', 'adopt', 'pin', 'unpin'],
] as const;
export type Deed = (typeof DEEDS)[number];

const KEPT = 24;
const ENTRY = 3;
/** Words of one thread's trail: how many deeds there were, then the last of them: what, page, when. */
export const TRAIL_WORDS = 1 + KEPT * ENTRY;
/** Wrong values of one thread that are told in full. */
const MOST_WITNESSED = 4;

/** A page that no deed is about. */
const NO_PAGE = -1;

/**
 * The last deeds of each thread, in the arena, so that whoever finds a wrong value can tell what the others were
 * doing. Times are of one clock, in microseconds. Each trail is written by its own thread.
 */
export class StressTrail {
  readonly #words: Int32Array;
  readonly #first: number;
  readonly #mine: number;
  readonly #names: readonly string[];
  #witnessed = 0;

  constructor(words: Int32Array, first: number, index: number, names: readonly string[]) {
    this.#words = words;
    this.#first = first;
    this.#mine = first + index * TRAIL_WORDS;
    this.#names = names;
  }

  /** Before it is done. `page`: from the memslot's first, or of the region that it is about. */
  did(deed: Deed, page = NO_PAGE): void {
    const count = this.#words[this.#mine] as number;
    const at = this.#mine + 1 + (count % KEPT) * ENTRY;
    Atomics.store(this.#words, at, DEEDS.indexOf(deed));
    Atomics.store(this.#words, at + 1, page);
    Atomics.store(this.#words, at + 2, now());
    Atomics.store(this.#words, this.#mine, count + 1);
  }

  /** Tells the supervisor of a wrong value, with what every thread was doing. */
  witness(check: string, page: number, word: number, wanted: number, got: number): void {
    if (++this.#witnessed > MOST_WITNESSED) return;
    const head = `${check}: page ${page} word ${word} holds ${got}, not ${wanted}`;
    const threads = this.#names.map((name, i) => `${name}: ${this.#deedsOf(i)}`);
    parentPort?.postMessage({ note: [head, ...threads].join('\n     ') });
  }

  #deedsOf(index: number): string {
    const trail = this.#first + index * TRAIL_WORDS;
    const count = Atomics.load(this.#words, trail);
    const lines: string[] = [];
    for (let n = Math.max(0, count - KEPT); n < count; n++)
      lines.push(this.#deed(trail + 1 + (n % KEPT) * ENTRY));
    return lines.join(', ') || 'nothing yet';
  }

  #deed(at: number): string {
    const [deed, page, when] = [0, 1, 2].map(i => Atomics.load(this.#words, at + i)) as [
      number,
      number,
      number,
    ];
    const where = page === NO_PAGE ? '' : ` ${page}`;
    return `${DEEDS[deed]}${where} ${(now() - when) | 0} us ago`;
  }
}

const now = (): number => ((performance.timeOrigin + performance.now()) * 1000) | 0;
