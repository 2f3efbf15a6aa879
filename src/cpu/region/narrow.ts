import { immediateOf, rdOf, rs1Of, rs2Of } from '../decode.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import type { Step } from './discover.ts';

// Which registers hold the sign extension of their low words: what `int` is kept as. What is done bit by bit to two of
// them, and how they compare, can be had from the low words alone. The engine then drops the extensions between, and
// knows a rotation when it sees one.

/** When what an instruction writes is narrow. */
const When = { Never: 0, Always: 1, First: 2, Both: 3, Move: 4 } as const;
type When = (typeof When)[keyof typeof When];

const ALWAYS =
  /^((add|sub|sll|srl|sra|mul|div|divu|rem|remu)w|(addi|slli|srli|srai)w|lui|l[bhw]|l[bh]u|slt.*)$/;

const WHEN: readonly When[] = INSTRUCTIONS.map(({ name }) => {
  if (ALWAYS.test(name)) return When.Always;
  if (/^(and|or|xor)$/.test(name)) return When.Both;
  if (/^(andi|ori|xori|sra|srai)$/.test(name)) return When.First;
  return name === 'addi' || name === 'add' ? When.Move : When.Never;
});

/** In a block, from its beginning on. */
export class Narrow {
  /** Bit n: xn is narrow. x0 always is. */
  #set = 1;

  beginBlock(): void {
    this.#set = 1;
  }

  has(register: number): boolean {
    return (this.#set & (1 << register)) !== 0;
  }

  /** An instruction was executed. */
  note(step: Step): void {
    const rd = rdOf(step.word);
    if (INSTRUCTIONS[step.row]!.format.rd !== 'x' || rd === 0) return;
    this.#set = this.#isNarrow(step) ? this.#set | (1 << rd) : this.#set & ~(1 << rd);
  }

  #isNarrow({ row, word }: Step): boolean {
    const [first, second] = [rs1Of(word), rs2Of(word)];
    const { name, format } = INSTRUCTIONS[row]!;
    switch (WHEN[row]!) {
      case When.Always:
        return true;
      case When.First:
        return this.has(first) || (name === 'andi' && immediateOf(word, format.imm) >= 0);
      case When.Both:
        return this.has(first) && this.has(second);
      case When.Move:
        return this.#isNarrowSum(first, format.imm === undefined ? second : undefined, word);
      default:
        return false;
    }
  }

  /** A sum is, where it is a copy or a small number. */
  #isNarrowSum(first: number, second: number | undefined, word: number): boolean {
    if (second === undefined) return first === 0 || (this.has(first) && immediateOf(word, 'i') === 0);
    return (first === 0 && this.has(second)) || (second === 0 && this.has(first));
  }
}
