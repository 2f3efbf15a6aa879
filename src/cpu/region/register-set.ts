import { rdOf, rs1Of, rs2Of, rs3Of } from '../decode.ts';
import type { Instruction } from '../instruction.ts';
import { INSTRUCTIONS } from '../instructions.ts';

// Sets of guest registers, and what instructions read and write of them. By row, since a translator asks often.

/** A set of guest registers: bit n of `x` is xn, of `f` fn. */
export type RegisterSet = { readonly x: number; readonly f: number };
export const NONE: RegisterSet = { x: 0, f: 0 };

export const union = (a: RegisterSet, b: RegisterSet): RegisterSet => ({ x: a.x | b.x, f: a.f | b.f });
export const minus = (a: RegisterSet, b: RegisterSet): RegisterSet => ({ x: a.x & ~b.x, f: a.f & ~b.f });
export const both = (a: RegisterSet, b: RegisterSet): RegisterSet => ({ x: a.x & b.x, f: a.f & b.f });
export const equal = (a: RegisterSet, b: RegisterSet): boolean => a.x === b.x && a.f === b.f;
export const includes = (a: RegisterSet, b: RegisterSet): boolean => equal(union(a, b), a);
export const size = (a: RegisterSet): number => bits(a.x) + bits(a.f);

function bits(word: number): number {
  let n = 0;
  for (let w = word; w !== 0; w &= w - 1) n++;
  return n;
}

type File = 'x' | 'f' | undefined;

function member(file: File, n: number): RegisterSet {
  if (file === undefined || (file === 'x' && n === 0)) return NONE;
  return file === 'x' ? { x: 1 << n, f: 0 } : { x: 0, f: 1 << n };
}

const isCsrImmediate = ({ name }: Instruction): boolean => /^csrr.i\./.test(name);

/** FAST_CSR rows and the csr format name rs1 where it is a register; `csri` has none. */
const SOURCES: readonly (readonly [File, File, File])[] = INSTRUCTIONS.map(row => {
  const { rs1, rs2, rs3 } = row.format;
  return [isCsrImmediate(row) ? undefined : rs1, rs2, rs3];
});
const LEAVES: readonly boolean[] = INSTRUCTIONS.map(({ name, format, emit }) => {
  if (emit === undefined || format.rd === 'f' || format.rs1 === 'f' || format.rs2 === 'f') return true;
  return format.syntax.some(o => o === 'mem' || o === 'addr' || o === 'csr') && name !== 'jalr';
});

/** What the instruction of this row and word writes. */
export const writesOf = (row: number, word: number): RegisterSet =>
  member(INSTRUCTIONS[row]!.format.rd, rdOf(word));

export function readsOf(row: number, word: number): RegisterSet {
  const [rs1, rs2, rs3] = SOURCES[row]!;
  const set = union(member(rs1, rs1Of(word)), member(rs2, rs2Of(word)));
  return rs3 === undefined ? set : union(set, member(rs3, rs3Of(word)));
}

/** True where an instruction may leave the region before it has done anything. */
export const mayLeave = (row: number): boolean => LEAVES[row]!;
