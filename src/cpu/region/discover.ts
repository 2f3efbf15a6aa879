import { immediateOf, isLong, NO_ROW, rdOf, rowOf, wordOf } from '../decode.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { fastCsr, lightFence } from '../known.ts';
import { mayLeave, type RegisterSet, readsOf, writesOf } from './register-set.ts';

// From hot addresses in a page to the basic blocks that a region consists of. Everything is an offset in
// the page, so a region works wherever the frame is mapped.

/** How an instruction leaves the straight line. */
export const Flow = { Next: 0, Branch: 1, Jump: 2, JumpRegister: 3, Slow: 4 } as const;
export type Flow = (typeof Flow)[keyof typeof Flow];

/** A decoded instruction. `row` is that of its semantics: fast CSRs and light fences have their own. */
export type Step = {
  readonly offset: number;
  readonly length: 2 | 4;
  readonly word: number;
  readonly row: number;
  readonly flow: Flow;
  readonly reads: RegisterSet;
  readonly writes: RegisterSet;
  /** It may leave the region before it has done anything. */
  readonly mayLeave: boolean;
};

/** Instructions that are executed one after the other; only the last may jump. */
export type Block = {
  readonly index: number;
  readonly start: number;
  readonly steps: readonly Step[];
  /** Instructions that the block retires when it runs to its end. */
  readonly count: number;
  /** Offset in the page that follows when nothing jumps; -1 after an unconditional jump. */
  readonly next: number;
  /** Offset of a direct jump's target, maybe outside the page. */
  readonly target: number;
  /** The blocks of the region that `next` and `target` are; -1 where they are none. */
  readonly nextBlock: number;
  readonly targetBlock: number;
};

export type Discovery = {
  readonly blocks: readonly Block[];
  /** Block index by offset in the page, for starts of blocks; of copies the original. */
  readonly blockAt: ReadonlyMap<number, number>;
  /** Blocks at which execution may come in: hot addresses, returns, what follows slow instructions. */
  readonly entries: readonly number[];
  readonly instructions: number;
  /** Where the straight line from a head goes on for which there was no room; -1 if there was. */
  readonly goesOnAt: number;
};

/** The halfword at an offset in the page. */
export type Fetch = (offset: number) => number;
/** Whether to leave the region for what is at an offset: it has a large region already. */
export type IsElsewhere = (offset: number) => boolean;

/** See cpu-design 3: TurboFan's time grows faster than the region. */
export const MAX_INSTRUCTIONS = 300;
const PAGE = 4096;

const FLOW = INSTRUCTIONS.map((i): Flow => {
  if (i.emit === undefined) return Flow.Slow;
  if (i.format.imm === 'b') return Flow.Branch;
  if (i.name === 'jal') return Flow.Jump;
  return i.name === 'jalr' ? Flow.JumpRegister : Flow.Next;
});
/** Slow instructions that don't go on to the next one. */
const ENDS: ReadonlySet<string> = new Set(['sret', 'ebreak']);

/** The instruction at an offset; undefined when it is illegal or goes on in the next page. */
export function decodeStep(fetch: Fetch, offset: number): Step | undefined {
  const low = fetch(offset);
  const long = isLong(low);
  if (long && offset === PAGE - 2) return undefined;
  const word = wordOf(long ? low | (fetch(offset + 2) << 16) : low);
  let row = rowOf(word);
  if (row === NO_ROW) return undefined;
  const imm = INSTRUCTIONS[row]!.format.imm;
  if (imm === 'csr' || imm === 'csri') row = fastCsr(row, word >>> 20);
  else if (imm === 'fence') row = lightFence(row, word);
  const [reads, writes] = [readsOf(row, word), writesOf(row, word)];
  const flow = FLOW[row] as Flow;
  return { offset, length: long ? 4 : 2, word, row, flow, reads, writes, mayLeave: mayLeave(row) };
}

/** Follows the code from `heads`; at most MAX_INSTRUCTIONS. */
export function discover(
  fetch: Fetch,
  heads: readonly number[],
  isElsewhere: IsElsewhere = () => false,
): Discovery {
  return new Walk(fetch, isElsewhere).run(heads);
}

class Walk {
  readonly #fetch: Fetch;
  readonly #isElsewhere: IsElsewhere;
  readonly #steps = new Map<number, Step>();
  readonly #leaders = new Set<number>();
  readonly #entries = new Set<number>();
  readonly #queue: number[] = [];
  #goesOnAt = -1;

  constructor(fetch: Fetch, isElsewhere: IsElsewhere) {
    this.#fetch = fetch;
    this.#isElsewhere = isElsewhere;
  }

  run(heads: readonly number[]): Discovery {
    for (const head of heads) this.#enter(head);
    const isHead = new Set(heads);
    for (let at = this.#queue.shift(); at !== undefined; at = this.#queue.shift()) {
      const end = this.#follow(at);
      if (end >= 0 && isHead.has(at)) this.#goesOnAt = end;
    }
    return this.#cut();
  }

  #lead(offset: number): void {
    if (offset < 0 || offset >= PAGE || this.#leaders.has(offset) || this.#isElsewhere(offset)) return;
    this.#leaders.add(offset);
    this.#queue.push(offset);
  }

  #enter(offset: number): void {
    if (offset >= PAGE) return;
    this.#entries.add(offset);
    this.#lead(offset);
  }

  /** Returns where the line goes on for want of room, or -1. */
  #follow(from: number): number {
    let at = from;
    while (at < PAGE && !this.#steps.has(at) && this.#steps.size < MAX_INSTRUCTIONS) {
      if (at !== from && this.#isElsewhere(at)) return -1;
      const step = decodeStep(this.#fetch, at);
      if (step === undefined) return -1;
      this.#steps.set(at, step);
      at += step.length;
      if (step.flow !== Flow.Next && !this.#turn(step, at)) return -1;
    }
    // Where two lines meet a block begins.
    if (this.#steps.has(at)) this.#leaders.add(at);
    else if (at < PAGE && at !== from && !this.#isElsewhere(at)) return at;
    return -1;
  }

  /** What comes of a jump; true when the line goes on behind it. */
  #turn(step: Step, next: number): boolean {
    switch (step.flow) {
      case Flow.Branch:
        this.#lead(step.offset + immediateOf(step.word, 'b'));
        this.#lead(next);
        return true;
      case Flow.Jump:
        if (rdOf(step.word) !== 0) this.#enter(next);
        this.#lead(step.offset + immediateOf(step.word, 'j'));
        return false;
      case Flow.JumpRegister:
        if (rdOf(step.word) !== 0) this.#enter(next);
        return false;
      default:
        if (!ENDS.has(INSTRUCTIONS[step.row]!.name)) this.#enter(next);
        return false;
    }
  }

  #cut(): Discovery {
    const starts = [...this.#leaders].filter(at => this.#steps.has(at)).sort((a, b) => a - b);
    const blockAt = new Map(starts.map((at, i) => [at, i]));
    const blocks = starts.map((start, index) => this.#block(start, index, blockAt));
    const entries = [...this.#entries].filter(at => blockAt.has(at)).map(at => blockAt.get(at)!);
    const instructions = blocks.reduce((n, b) => n + b.count, 0);
    return { blocks, blockAt, entries, instructions, goesOnAt: this.#goesOnAt };
  }

  #block(start: number, index: number, blockAt: ReadonlyMap<number, number>): Block {
    const steps: Step[] = [];
    let at = start;
    let step = this.#steps.get(at);
    while (step !== undefined && (at === start || !blockAt.has(at))) {
      steps.push(step);
      at += step.length;
      if (step.flow !== Flow.Next) break;
      step = this.#steps.get(at);
    }
    const last = steps.at(-1)!;
    const isSlow = last.flow === Flow.Slow;
    const goesOn = last.flow === Flow.Next || last.flow === Flow.Branch;
    const count = steps.length - (isSlow ? 1 : 0);
    const next = goesOn ? at : -1;
    const target = targetOf(last);
    const [nextBlock, targetBlock] = [blockAt.get(next) ?? -1, blockAt.get(target) ?? -1];
    return { index, start, steps, count, next, target, nextBlock, targetBlock };
  }
}

function targetOf(step: Step): number {
  if (step.flow === Flow.Branch) return step.offset + immediateOf(step.word, 'b');
  return step.flow === Flow.Jump ? step.offset + immediateOf(step.word, 'j') : -1;
}
