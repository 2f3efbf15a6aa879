import { immediateOf, isLong, NO_ROW, rdOf, rowOf, rs1Of, rs2Of, rs3Of, wordOf } from './decode.ts';
import type { Format, Instruction, Operand } from './instruction.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { csrName, ROUNDING, registerName } from './registers.ts';

const hex = (value: number, digits: number): string =>
  `0x${(value >>> 0).toString(16).padStart(digits, '0')}`;

/**
 * One instruction as text, compressed ones as what they stand for. `raw` is the halfword or word in
 * memory; jumps and branches show their distance in bytes.
 */
export function disassemble(raw: number): string {
  const word = wordOf(raw);
  const row = rowOf(word);
  if (row === NO_ROW) return isLong(raw) ? `.word ${hex(raw, 8)}` : `.half ${hex(raw & 0xffff, 4)}`;
  const { name, format } = INSTRUCTIONS[row] as Instruction;
  const operands = format.syntax
    .map(operand => operandText(operand, word, format))
    .filter(text => text !== '');
  return operands.length === 0 ? name : `${name} ${operands.join(', ')}`;
}

function operandText(operand: Operand, word: number, format: Format): string {
  switch (operand) {
    case 'rd':
      return registerName(format.rd ?? 'x', rdOf(word));
    case 'rs1':
      return registerName(format.rs1 ?? 'x', rs1Of(word));
    case 'rs2':
      return registerName(format.rs2 ?? 'x', rs2Of(word));
    case 'rs3':
      return registerName(format.rs3 ?? 'x', rs3Of(word));
    case 'imm':
      return immediateText(word, format);
    case 'mem':
      return `${immediateOf(word, format.imm)}(${registerName('x', rs1Of(word))})`;
    case 'addr':
      return `(${registerName('x', rs1Of(word))})`;
    case 'csr':
      return csrName(word >>> 20);
    case 'uimm':
      return String(rs1Of(word));
    case 'rm':
      return immediateOf(word, 'rm') === 7 ? '' : (ROUNDING[immediateOf(word, 'rm')] as string);
    case 'fence':
      return `${fenceSet(word >>> 24)}, ${fenceSet(word >>> 20)}`;
  }
}

function immediateText(word: number, format: Format): string {
  const imm = immediateOf(word, format.imm);
  return format.imm === 'u' ? hex(imm >>> 12, 1) : String(imm);
}

/** Of input, output, read, write. */
function fenceSet(bits: number): string {
  const letters = ['w', 'r', 'o', 'i'].filter((_, i) => (bits & (1 << i)) !== 0);
  return letters.reverse().join('') || '0';
}
