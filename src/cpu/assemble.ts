import type { Format, Immediate, Instruction, Operand } from './instruction.ts';
import { INSTRUCTIONS, numberOf } from './instructions.ts';
import { csrNumber, ROUNDING, registerNumber } from './registers.ts';

// A small assembler over the same table, for tests and small programs. One statement a line:
//
//     loop:  addi a0, a0, -1      # registers by either name; immediates in any JavaScript notation
//            bnez a0, loop        # labels are distances; `li`, `mv`, `j`, `ret`, `nop`, `call`... see PSEUDO
//            .word 0x1234, 2      # words as they are

type Line = { readonly mnemonic: string; readonly operands: readonly string[]; readonly text: string };

/** Instruction words for a program that starts at address `at`. Throws with the line that is wrong. */
export function assemble(source: string, at = 0): Uint32Array<ArrayBuffer> {
  const labels = new Map<string, number>();
  const lines: Line[] = [];
  let size = 0;
  for (const text of source.split('\n')) {
    const line = parseLine(text, name => labels.set(name, at + 4 * size));
    if (line === undefined) continue;
    for (const real of expandPseudo(line)) {
      lines.push(real);
      size += real.mnemonic === '.word' ? real.operands.length : 1;
    }
  }
  const words: number[] = [];
  for (const line of lines) words.push(...encodeLine(line, at + 4 * words.length, labels));
  return Uint32Array.from(words);
}

function parseLine(text: string, label: (name: string) => void): Line | undefined {
  let rest = text.replace(/#.*/, '').trim();
  for (let match = /^([\w.]+):\s*/.exec(rest); match !== null; match = /^([\w.]+):\s*/.exec(rest)) {
    label(match[1] as string);
    rest = rest.slice(match[0].length);
  }
  if (rest === '') return undefined;
  const [mnemonic, ...tail] = rest.split(/\s+/);
  const operands = tail
    .join(' ')
    .split(',')
    .map(s => s.trim())
    .filter(s => s !== '');
  return { mnemonic: mnemonic as string, operands, text: text.trim() };
}

/** What stands for one or more real instructions; `$n` is the n-th operand. */
const PSEUDO: Record<string, string> = {
  nop: 'addi x0, x0, 0',
  mv: 'addi $0, $1, 0',
  not: 'xori $0, $1, -1',
  neg: 'sub $0, x0, $1',
  j: 'jal x0, $0',
  call: 'jal ra, $0',
  jr: 'jalr x0, 0($0)',
  ret: 'jalr x0, 0(ra)',
  beqz: 'beq $0, x0, $1',
  bnez: 'bne $0, x0, $1',
  csrr: 'csrrs $0, $1, x0',
  csrw: 'csrrw x0, $0, $1',
  csrs: 'csrrs x0, $0, $1',
  csrc: 'csrrc x0, $0, $1',
  csrwi: 'csrrwi x0, $0, $1',
  csrsi: 'csrrsi x0, $0, $1',
  csrci: 'csrrci x0, $0, $1',
};

function expandPseudo(line: Line): Line[] {
  if (line.mnemonic === 'li') return loadImmediate(line);
  const template = PSEUDO[line.mnemonic];
  if (template === undefined) return [line];
  const text = template.replace(/\$(\d)/g, (_, n) => line.operands[Number(n)] ?? '?');
  return [{ ...(parseLine(text, () => {}) as Line), text: line.text }];
}

/** Any 64-bit constant, always by the shortest of these: addi; lui, addiw; or 11 bits at a time. */
function loadImmediate(line: Line): Line[] {
  const rd = line.operands[0] as string;
  const value = BigInt.asIntN(64, parseBig(line.operands[1] ?? ''));
  const make = (text: string): Line => ({ ...(parseLine(text, () => {}) as Line), text: line.text });
  if (BigInt.asIntN(12, value) === value) return [make(`addi ${rd}, x0, ${value}`)];
  if (BigInt.asIntN(32, value) === value) {
    const low = Number(BigInt.asIntN(12, value));
    const high = (Number(BigInt.asUintN(32, value - BigInt(low))) >>> 12) & 0xfffff;
    return [make(`lui ${rd}, ${high}`), make(`addiw ${rd}, ${rd}, ${low}`)];
  }
  const out = [make(`addi ${rd}, x0, ${value >> 55n}`)];
  for (let shift = 44n; shift >= 0n; shift -= 11n) {
    out.push(make(`slli ${rd}, ${rd}, 11`), make(`ori ${rd}, ${rd}, ${(value >> shift) & 0x7ffn}`));
  }
  return out;
}

const parseBig = (text: string): bigint => (text.startsWith('-') ? -BigInt(text.slice(1)) : BigInt(text));

function encodeLine(line: Line, at: number, labels: ReadonlyMap<string, number>): number[] {
  try {
    if (line.mnemonic === '.word')
      return line.operands.map(text => Number(BigInt.asUintN(32, parseBig(text))));
    return [encodeInstruction(line, at, labels)];
  } catch (cause) {
    throw new Error(`cannot assemble '${line.text}': ${(cause as Error).message}`, { cause });
  }
}

/** The bits of an atomic instruction that order what is around it. */
const ORDER: Record<string, number> = { aq: 1 << 26, rl: 1 << 25, aqrl: 3 << 25 };

function encodeInstruction(line: Line, at: number, labels: ReadonlyMap<string, number>): number {
  const [, name = '', order = ''] = /^(.*?)(?:\.(aq|rl|aqrl))?$/.exec(line.mnemonic) ?? [];
  const row = INSTRUCTIONS[numberOf(name)] as Instruction;
  const fields = { word: row.match | (ORDER[order] ?? 0), rest: [...line.operands] };
  if (row.format.imm === 'rm') fields.word |= 7 << 12;
  for (const operand of row.format.syntax) {
    const text = fields.rest.shift();
    if (text === undefined) {
      if (operand === 'rm' || operand === 'fence' || row.name === 'sfence.vma') continue;
      throw new Error(`${operand} is missing`);
    }
    fields.word |= operandBits(operand, text, row.format, at, labels);
    if (operand === 'rm') fields.word &= (ROUNDING.indexOf(text) << 12) | ~(7 << 12);
  }
  if (fields.rest.length > 0) throw new Error(`${fields.rest[0]} is too much`);
  return fields.word >>> 0;
}

function operandBits(
  operand: Operand,
  text: string,
  format: Format,
  at: number,
  labels: ReadonlyMap<string, number>,
): number {
  switch (operand) {
    case 'rd':
      return register(format.rd ?? 'x', text) << 7;
    case 'rs1':
      return register(format.rs1 ?? 'x', text) << 15;
    case 'rs2':
      return register(format.rs2 ?? 'x', text) << 20;
    case 'rs3':
      return register(format.rs3 ?? 'x', text) << 27;
    case 'imm':
      return encodeImmediate(format.imm, number(text, at, labels));
    case 'mem':
    case 'addr': {
      const match = /^(.*)\((\w+)\)$/.exec(text);
      if (match === null) throw new Error(`'${text}' is not imm(register)`);
      const imm = operand === 'mem' ? encodeImmediate(format.imm, Number(match[1] || 0)) : 0;
      return imm | (register('x', match[2] as string) << 15);
    }
    case 'csr':
      return csrNumber(text) << 20;
    case 'uimm':
      return (Number(text) & 31) << 15;
    case 'rm':
      return 0;
    case 'fence':
      // Predecessors and successors, four bits each; `pause` and fence.tso are numbers too.
      return Number(text) << 20;
  }
}

function register(file: 'x' | 'f', name: string): number {
  const n = registerNumber(file, name);
  if (n < 0) throw new Error(`'${name}' is not a register of ${file}`);
  return n;
}

/** A number, or a label's distance. */
function number(text: string, at: number, labels: ReadonlyMap<string, number>): number {
  const label = labels.get(text);
  if (label !== undefined) return label - at;
  const value = Number(parseBig(text));
  return value;
}

/** An immediate in its place; the reverse of `immediateOf`. */
export function encodeImmediate(kind: Immediate | undefined, value: number): number {
  const check = (ok: boolean) => {
    if (!ok) throw new Error(`${value} does not fit`);
  };
  switch (kind) {
    case 'i':
      check(value >= -2048 && value < 2048);
      return value << 20;
    case 's':
      check(value >= -2048 && value < 2048);
      return ((value >> 5) << 25) | ((value & 31) << 7);
    case 'b':
      check(value >= -4096 && value < 4096 && value % 2 === 0);
      return (
        (((value >> 12) & 1) << 31) |
        (((value >> 5) & 63) << 25) |
        (((value >> 1) & 15) << 8) |
        (((value >> 11) & 1) << 7)
      );
    case 'u':
      check(value >= -0x80000 && value <= 0xfffff);
      return value << 12;
    case 'j':
      check(value >= -0x100000 && value < 0x100000 && value % 2 === 0);
      return (
        (((value >> 20) & 1) << 31) |
        (((value >> 1) & 0x3ff) << 21) |
        (((value >> 11) & 1) << 20) |
        (value & 0xff000)
      );
    case 'shift5':
    case 'shift6':
      check(value >= 0 && value < (kind === 'shift5' ? 32 : 64));
      return value << 20;
    default:
      throw new Error('no immediate here');
  }
}
