import { type Block, type Discovery, Flow } from './discover.ts';
import { hasIndirect, successors } from './graph.ts';
import { both, equal, includes, minus, NONE, type RegisterSet, union } from './register-set.ts';

// Which guest registers a region holds in locals where: read at an entry when they may be needed, written
// back at an exit when they may have changed.

export type Registers = {
  /**
   * Kept in locals from block to block. All others are at home in the record: a block reads what it uses, and
   * writes back at its end what it changed.
   */
  readonly kept: RegisterSet;
  /** By block: which of the kept may have changed since the entry, where the block begins. */
  readonly dirtyIn: readonly RegisterSet[];
  /** By block: which of the kept must be right where it begins. */
  readonly need: readonly RegisterSet[];
};

type Summary = { defs: RegisterSet; uses: RegisterSet; beforeExit: RegisterSet };

/** How often a block is executed, in the graph's view: in how many loops it is. */
export type Depth = (block: number) => number;

export function analyze(d: Discovery, isHeader: (block: number) => boolean, depth: Depth): Registers {
  const kept = worthKeeping(d, depth);
  const succ = d.blocks.map(b => flowOf(d, b.index));
  const summaries = d.blocks.map((_, i) => summarize(d, i, isHeader(i), kept));
  const dirtyIn = forward(summaries, succ);
  return { kept, dirtyIn, need: backward(summaries, succ, dirtyIn) };
}

/**
 * As many as a processor of 16 registers has room for beside what a region needs itself. With more, the engine
 * moves them from place to place on its stack wherever ways meet, which costs more than the record.
 */
export const ROOM = { x: 8, f: 11 } as const;
/** How often a loop is likely to go round. */
const ROUNDS = 8;

/** By register. */
type Costs = { readonly x: Float64Array; readonly f: Float64Array };
const ALL: RegisterSet = { x: -1, f: -1 };

/** What a block of a loop does for a register at home: a load if it needs it from before, a store if it changes it. */
const ACCESS = 1;
/** If it does both, the next round waits for the way through memory, as long as for a few more. */
const GOES_ROUND = 2;

/**
 * Those that would cost most at home: in loops by what a round does for them; where blocks run once by how often they
 * are named, as system calls and pipes are 5 to 10 % slower by the former.
 */
function worthKeeping(d: Discovery, depth: Depth): RegisterSet {
  const costs: Costs = { x: new Float64Array(32), f: new Float64Array(32) };
  for (const { index, steps } of d.blocks) {
    const loops = depth(index);
    if (loops === 0) addNamed(costs, steps);
    else addRound(costs, summarize(d, index, false, ALL), ROUNDS ** loops);
  }
  return { x: most(costs.x, ROOM.x), f: most(costs.f, ROOM.f) };
}

function addNamed(costs: Costs, steps: Block['steps']): void {
  for (const { reads, writes } of steps) {
    add(costs, reads, 1);
    add(costs, writes, 1);
  }
}

function addRound(costs: Costs, { uses, defs }: Summary, rounds: number): void {
  add(costs, uses, rounds * ACCESS);
  add(costs, defs, rounds * ACCESS);
  add(costs, both(uses, defs), rounds * GOES_ROUND);
}

function add(costs: Costs, set: RegisterSet, cost: number): void {
  for (const file of ['x', 'f'] as const)
    for (let w = set[file]; w !== 0; w &= w - 1) costs[file][31 - Math.clz32(w & -w)]! += cost;
}

function most(costs: Float64Array, room: number): number {
  const used = [...costs.keys()].filter(n => costs[n]! > 0).sort((a, b) => costs[b]! - costs[a]!);
  return used.slice(0, room).reduce((set, n) => set | (1 << n), 0);
}

/** Where control goes within the region, jumps through registers included. */
function flowOf(d: Discovery, block: number): readonly number[] {
  const isIndirect = d.blocks[block]!.steps.at(-1)!.flow === Flow.JumpRegister;
  return isIndirect && hasIndirect(d) ? d.entries : successors(d, block);
}

/** Of the registers that are kept. */
function summarize(d: Discovery, block: number, isHeader: boolean, kept: RegisterSet): Summary {
  let defs = NONE;
  let uses = NONE;
  // A loop's header may leave for the budget before its first instruction.
  let beforeExit = isHeader ? NONE : undefined;
  for (const step of d.blocks[block]!.steps) {
    uses = union(uses, minus(step.reads, defs));
    if (beforeExit === undefined && step.mayLeave) beforeExit = defs;
    if (step.flow !== Flow.Slow) defs = union(defs, step.writes);
  }
  const of = (set: RegisterSet): RegisterSet => both(set, kept);
  return { defs: of(defs), uses: of(uses), beforeExit: of(beforeExit ?? defs) };
}

function forward(summaries: readonly Summary[], succ: readonly (readonly number[])[]): RegisterSet[] {
  const dirtyIn: RegisterSet[] = summaries.map(() => NONE);
  for (let changed = true; changed; ) {
    changed = false;
    summaries.forEach((s, i) => {
      const out = union(dirtyIn[i]!, s.defs);
      for (const to of succ[i]!) {
        if (includes(dirtyIn[to]!, out)) continue;
        dirtyIn[to] = union(dirtyIn[to]!, out);
        changed = true;
      }
    });
  }
  return dirtyIn;
}

function backward(
  summaries: readonly Summary[],
  succ: readonly (readonly number[])[],
  dirtyIn: readonly RegisterSet[],
): RegisterSet[] {
  // What an exit writes back must be right, whether this path changed it or not.
  const need = summaries.map((s, i) => union(s.uses, minus(dirtyIn[i]!, s.beforeExit)));
  for (let changed = true; changed; ) {
    changed = false;
    for (let i = summaries.length - 1; i >= 0; i--) {
      const s = summaries[i]!;
      for (const to of succ[i]!) {
        const more = union(need[i]!, minus(need[to]!, s.defs));
        if (equal(more, need[i]!)) continue;
        need[i] = more;
        changed = true;
      }
    }
  }
  return need;
}
