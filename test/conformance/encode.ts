import type { Instruction } from '../../src/cpu/instruction.ts';
import { INSTRUCTIONS } from '../../src/cpu/instructions.ts';

// Instruction words from the table's rows. The peer that runs the same words is what checks the rows.

export type Fields = {
  rd?: number;
  rs1?: number;
  rs2?: number;
  rs3?: number;
  /** Of `u`: the upper 20 bits as a signed number. Of branches and jumps: bytes from the instruction. */
  imm?: number;
  rm?: number;
  csr?: number;
  /** fence: pred and succ. */
  fence?: number;
  /** aq and rl of atomics. */
  order?: number;
};

const rows = new Map(INSTRUCTIONS.map(row => [row.name, row]));

export const rowOf = (name: string): Instruction => {
  const row = rows.get(name);
  if (row === undefined) throw new Error(`the instruction table has no ${name}`);
  return row;
};

/** Bits of `value`, named from the highest, packed downwards and placed so that the last is at `low`. */
export const pack = (value: number, from: readonly number[], low: number): number =>
  from.reduce((bits, bit) => (bits << 1) | ((value >> bit) & 1), 0) << low;

/** [high, high - 1, ... low] */
export const range = (high: number, low: number): number[] =>
  Array.from({ length: high - low + 1 }, (_, i) => high - i);

const immediate = (row: Instruction, f: Fields): number => {
  const imm = f.imm ?? 0;
  switch (row.format.imm) {
    case 'i':
      return imm << 20;
    case 'shift5':
    case 'shift6':
      return imm << 20;
    case 's':
      return pack(imm, range(11, 5), 25) | pack(imm, range(4, 0), 7);
    case 'b':
      return pack(imm, [12, ...range(10, 5)], 25) | pack(imm, [4, 3, 2, 1, 11], 7);
    case 'u':
      return imm << 12;
    case 'j':
      return pack(imm, [20, ...range(10, 1), 11, ...range(19, 12)], 12);
    case 'rm':
      return (f.rm ?? 0) << 12;
    case 'csr':
      return f.csr! << 20;
    case 'csri':
      return (f.csr! << 20) | (imm << 15);
    case 'fence':
      return (f.fence ?? 0) << 20;
    default:
      return 0;
  }
};

/** The word, unsigned. */
export const encode = (name: string, f: Fields): number => {
  const row = rowOf(name);
  const { format } = row;
  const place = (which: 'rd' | 'rs1' | 'rs2' | 'rs3', low: number) =>
    format[which] === undefined ? 0 : (f[which] ?? 0) << low;
  const registers =
    place('rd', 7) | place('rs1', 15) | place('rs2', 20) | place('rs3', 27) | ((f.order ?? 0) << 25);
  return (row.match | immediate(row, f) | registers) >>> 0;
};

const RM = ['rne', 'rtz', 'rdn', 'rup', 'rmm', '?', '?', 'dyn'];

/** As an assembler would read it, near enough to be pasted into one. */
export const disassemble = (name: string, f: Fields): string => {
  const { format } = rowOf(name);
  const register = (which: 'rd' | 'rs1' | 'rs2' | 'rs3') => `${format[which] ?? 'x'}${f[which] ?? 0}`;
  const operands = format.syntax.map(o => {
    switch (o) {
      case 'mem':
        return `${f.imm ?? 0}(x${f.rs1})`;
      case 'addr':
        return `(x${f.rs1})`;
      case 'csr':
        return `0x${f.csr!.toString(16)}`;
      case 'rm':
        return RM[f.rm ?? 0];
      case 'fence':
        return `0x${(f.fence ?? 0).toString(16)}`;
      case 'imm':
      case 'uimm':
        return `${f.imm ?? 0}`;
      default:
        return register(o);
    }
  });
  return `${name} ${operands.join(', ')}`.trim();
};
