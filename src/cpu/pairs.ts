import { FIRST_VARIANT, opOf, VARIANTS } from './decoded.ts';
import { numberOf } from './instructions.ts';

// Pairs of instructions that are one case of the interpreter. Where code is new, what costs most is the jump from case
// to case, which the host seldom foresees; within a pair there is none.
//
// The record of the first has the pair's op. That of the second is as ever, for who jumps there; the pair uses its
// operands, whatever its op is. Where a region begins at the second, the pair is taken apart: Decoder.part.

/**
 * Instructions, by name and length, and those that often come next: more than half of all that follows each other while
 * a guest boots, lists files and runs perl. The first goes on by `advance`, the second does what it wants.
 */
const FOLLOWERS: Readonly<Record<string, string>> = {
  ld2: 'ld2 addi2 add2 ld4',
  ld4: 'ld4 ld2 addi2 add2 sd4 xor2',
  lw2: 'addi2',
  lw4: 'add2',
  lbu4: 'addi2 bne2 beq4 lbu4 andi2 addi4',
  sd2: 'sd2 addi2 add4',
  sd4: 'sd4 bne4 addi2 addi4 ld4',
  addi2: 'sd2 addi2 jalr2 add2 andi2 bne4 bne2 beq4 jal2 ld2 sd4 bltu4 bgeu4 beq2 auipc4 addi4',
  addi4: 'addi4 addi2 add2 auipc4 beq4 add4 sd4',
  add2: 'add2 ld2 addi2 auipc4 beq4 jalr2 ld4 addi4 bgeu4 sub2 beq2 jal2 lbu4 slli2 bne4',
  add4: 'beq4 lbu4 addi2',
  sub2: 'add2',
  andi2: 'bne2',
  or4: 'or4',
  xor2: 'addi2',
  xor4: 'xor4',
  slli2: 'add2',
  slli4: 'add2 srli2 srli4',
  auipc4: 'jalr4 addi4 ld4 lbu4',
  beq2: 'ld2 addi2 beq4',
  beq4: 'lbu4 addi2 add2 ld2 ld4 bne4',
  bne2: 'ld2 lbu4 add4',
  bne4: 'ld4 lbu4 ld2',
  bltu4: 'ld2',
};

const opNamed = (name: string): number => opOf(numberOf(name.slice(0, -1)), Number(name.at(-1)), false);

/** The cases of which each does two, in the order of op numbers from FIRST_PAIR on. */
export const PAIRS: readonly (readonly [number, number])[] = Object.entries(FOLLOWERS).flatMap(
  ([first, seconds]) => seconds.split(' ').map(second => [opNamed(first), opNamed(second)] as const),
);
export const FIRST_PAIR = FIRST_VARIANT + VARIANTS.length;

function indexPairs(): Uint16Array {
  const table = new Uint16Array(FIRST_PAIR * FIRST_PAIR);
  PAIRS.forEach(([first, second], i) => {
    table[first * FIRST_PAIR + second] = FIRST_PAIR + i;
  });
  return table;
}
const PAIR_INDEX = indexPairs();

/** The case that does what `first` and then `second` do, or 0. */
export const pairOf = (first: number, second: number): number =>
  first < FIRST_PAIR && second < FIRST_PAIR ? (PAIR_INDEX[first * FIRST_PAIR + second] as number) : 0;

/** The case that a pair does first, if that is an instruction of `length` bytes; or 0. */
export function firstOf(op: number, length: number): number {
  const first = PAIRS[op - FIRST_PAIR]?.[0] ?? 0;
  return VARIANTS[first - FIRST_VARIANT]?.length === length ? first : 0;
}
