import { rdOf, rs1Of, rs2Of, rs3Of } from '../decode.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import type { Discovery, Step } from './discover.ts';
import { Flow } from './discover.ts';
import { hasIndirect, successors } from './graph.ts';

// Which guest registers a region holds in locals where: read at an entry when they may be needed, written
// back at an exit when they may have changed.

/** A set of guest registers: bit n of `x` is xn, of `f` fn. */
export type RegisterSet = { readonly x: number; readonly f: number };
export const NONE: RegisterSet = { x: 0, f: 0 };

export const union = (a: RegisterSet, b: RegisterSet): RegisterSet => ({ x: a.x | b.x, f: a.f | b.f });
export const minus = (a: RegisterSet, b: RegisterSet): RegisterSet => ({ x: a.x & ~b.x, f: a.f & ~b.f });
export const equal = (a: RegisterSet, b: RegisterSet): boolean => a.x === b.x && a.f === b.f;
export const includes = (a: RegisterSet, b: RegisterSet): boolean => equal(union(a, b), a);
export const size = (a: RegisterSet): number => bits(a.x) + bits(a.f);

function bits(word: number): number {
  let n = 0;
  for (let w = word; w !== 0; w &= w - 1) n++;
  return n;
}

function member(file: 'x' | 'f' | undefined, n: number): RegisterSet {
  if (file === undefined || (file === 'x' && n === 0)) return NONE;
  return file === 'x' ? { x: 1 << n, f: 0 } : { x: 0, f: 1 << n };
}

export function written(step: Step): RegisterSet {
  return member(INSTRUCTIONS[step.row]!.format.rd, rdOf(step.word));
}

export function read(step: Step): RegisterSet {
  const { format } = INSTRUCTIONS[step.row]!;
  // FAST_CSR rows and the csr format name rs1 where it is a register; `csri` has none.
  const rs1 = isCsrImmediate(step.row) ? undefined : format.rs1;
  let set = union(member(rs1, rs1Of(step.word)), member(format.rs2, rs2Of(step.word)));
  if (format.rs3 !== undefined) set = union(set, member(format.rs3, rs3Of(step.word)));
  return set;
}

const isCsrImmediate = (row: number): boolean => /^csrr.i\./.test(INSTRUCTIONS[row]!.name);

/** True where a step may leave the region before it has done anything. */
export function mayLeave(step: Step): boolean {
  if (step.flow === Flow.Slow) return true;
  const { name, format } = INSTRUCTIONS[step.row]!;
  if (format.rd === 'f' || format.rs1 === 'f' || format.rs2 === 'f') return true;
  return format.syntax.some(o => o === 'mem' || o === 'addr' || o === 'csr') && name !== 'jalr';
}

export type Registers = {
  /** By block: what may have changed since the entry, where the block begins. */
  readonly dirtyIn: readonly RegisterSet[];
  /** By block: whose locals must be right where it begins. */
  readonly need: readonly RegisterSet[];
};

type Summary = { defs: RegisterSet; uses: RegisterSet; beforeExit: RegisterSet };

export function analyze(d: Discovery, isHeader: (block: number) => boolean): Registers {
  const succ = d.blocks.map(b => flowOf(d, b.index));
  const summaries = d.blocks.map((_, i) => summarize(d, i, isHeader(i)));
  const dirtyIn = forward(summaries, succ);
  return { dirtyIn, need: backward(summaries, succ, dirtyIn) };
}

/** Where control goes within the region, jumps through registers included. */
function flowOf(d: Discovery, block: number): readonly number[] {
  const isIndirect = d.blocks[block]!.steps.at(-1)!.flow === Flow.JumpRegister;
  return isIndirect && hasIndirect(d) ? d.entries : successors(d, block);
}

function summarize(d: Discovery, block: number, isHeader: boolean): Summary {
  let defs = NONE;
  let uses = NONE;
  // A loop's header may leave for the budget before its first instruction.
  let beforeExit = isHeader ? NONE : undefined;
  for (const step of d.blocks[block]!.steps) {
    uses = union(uses, minus(read(step), defs));
    if (beforeExit === undefined && mayLeave(step)) beforeExit = defs;
    if (step.flow !== Flow.Slow) defs = union(defs, written(step));
  }
  return { defs, uses, beforeExit: beforeExit ?? defs };
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
