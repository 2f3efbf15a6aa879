import type { Immediate } from './instruction.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { expand } from './rvc.ts';

// From an instruction word to the number of its row, by opcode and funct3 first.

/** No row matches: an illegal instruction. */
export const NO_ROW = -1;

function buckets(): readonly (readonly number[])[] {
  const all: number[][] = Array.from({ length: 256 }, () => []);
  INSTRUCTIONS.forEach((row, number) => {
    if ((row.match & 3) !== 3) return;
    for (let funct3 = 0; funct3 < 8; funct3++) {
      const fits = (((row.match >>> 12) ^ funct3) & (row.mask >>> 12) & 7) === 0;
      if (fits) all[((row.match >>> 2) & 31) * 8 + funct3]!.push(number);
    }
  });
  return all;
}
const BUCKETS = buckets();
const MATCH = INSTRUCTIONS.map(row => row.match | 0);
const MASK = INSTRUCTIONS.map(row => row.mask | 0);
const ROUNDS = INSTRUCTIONS.map(row => row.format.imm === 'rm');

/** The row of a 32-bit instruction word, or NO_ROW. Static rounding modes 5 and 6 are reserved. */
export function rowOf(word: number): number {
  const funct3 = (word >>> 12) & 7;
  const bucket = BUCKETS[((word >>> 2) & 31) * 8 + funct3] as readonly number[];
  for (let i = 0; i < bucket.length; i++) {
    const row = bucket[i] as number;
    if ((word & (MASK[row] as number)) === MATCH[row]) {
      return ROUNDS[row] && (funct3 === 5 || funct3 === 6) ? NO_ROW : row;
    }
  }
  return NO_ROW;
}

/** True for the first halfword of a 32-bit instruction. */
export const isLong = (halfword: number): boolean => (halfword & 3) === 3;

/** The 32-bit form of what is at an address: `raw` is the halfword or the word that stands there. */
export const wordOf = (raw: number): number => (isLong(raw) ? raw : expand(raw & 0xffff));

const I_BITS = (word: number): number => word >> 20;

/** A word's immediate as an i32; branch and jump offsets in bytes. */
export function immediateOf(word: number, kind: Immediate | undefined): number {
  switch (kind) {
    case 'i':
      return I_BITS(word);
    case 's':
      return (I_BITS(word) & ~31) | ((word >>> 7) & 31);
    case 'b':
      return (
        ((word >> 31) << 12) |
        (((word >>> 7) & 1) << 11) |
        (((word >>> 25) & 63) << 5) |
        (((word >>> 8) & 15) << 1)
      );
    case 'u':
      return word & ~0xfff;
    case 'j':
      return (
        ((word >> 31) << 20) | (word & 0xff000) | (((word >>> 20) & 1) << 11) | (((word >>> 21) & 0x3ff) << 1)
      );
    case 'shift5':
      return (word >>> 20) & 31;
    case 'shift6':
      return (word >>> 20) & 63;
    case 'rm':
      return (word >>> 12) & 7;
    case 'csr':
    case 'csri':
      return word >>> 20;
    case 'fence':
      return (word >>> 20) & 0xfff;
    case undefined:
      return 0;
  }
}

export const rdOf = (word: number): number => (word >>> 7) & 31;
export const rs1Of = (word: number): number => (word >>> 15) & 31;
export const rs2Of = (word: number): number => (word >>> 20) & 31;
export const rs3Of = (word: number): number => word >>> 27;
