import { Csr, storageImm } from './csr.ts';
import { immediateOf, isLong, NO_ROW, rdOf, rowOf, rs1Of, rs2Of, rs3Of, wordOf } from './decode.ts';
import { IMM_SCALE, INFO, immediateAt, KNOWN, KNOWN_BYTES, Op, opOf, RECORD, RS3_SHIFT } from './decoded.ts';
import type { Immediate, Instruction, RegisterFile } from './instruction.ts';
import { INSTRUCTIONS, numberOf } from './instructions.ts';
import { AT } from './vcpu.ts';

// What is known of an instruction, wherever it stands, is four words: its record's two, INFO, and it, as it stands in
// memory.

export const KNOWN_WORDS = KNOWN_BYTES / 4;

const FENCE = numberOf('fence');
const FENCE_LIGHT = numberOf('fence.light');
/** After these the next bytes need not be instructions. */
const ENDS: ReadonlySet<number> = new Set(['jal', 'jalr', 'ecall', 'ebreak', 'sret'].map(numberOf));

const fileByte = (file: RegisterFile | undefined): number => (file === 'f' ? AT.f : AT.x) * 4;

/** By row, what does not depend on the word. A kernel has some 60 000 instructions that differ, so this is to be quick. */
const SHAPES = INSTRUCTIONS.map(shapeOf);
type Shape = ReturnType<typeof shapeOf>;

function shapeOf({ format }: Instruction, row: number) {
  const place = immediateAt(format.imm);
  return {
    row,
    shortOp: opOf(row, 2, false),
    longOp: opOf(row, 4, false),
    shortInfo: infoOf(format.imm, row, 2),
    longInfo: infoOf(format.imm, row, 4),
    imm: format.imm,
    isScaled: format.imm === 'b' || format.imm === 'j',
    isCsr: format.imm === 'csr' || format.imm === 'csri',
    takesNumber: format.imm === 'csri',
    rounds: format.imm === 'rm',
    inFirst: place === RECORD.rd,
    inSecond: place === RECORD.rs2,
    isSecond: place === RECORD.rs1,
    isFloat: format.rd === 'f',
    rd: fileByte(format.rd),
    rs1: fileByte(format.rs1),
    rs2: fileByte(format.rs2),
  };
}

function infoOf(imm: Immediate | undefined, row: number, length: 2 | 4): number {
  const halfwords = ENDS.has(row) ? 0 : length / 2;
  if (imm !== 'b' && imm !== 'j') return halfwords;
  const kind = imm === 'j' ? INFO.isRelative | INFO.isJump : INFO.isRelative;
  return halfwords | kind | (opOf(row, length, true) << INFO.farShift);
}

/** In a table at word index `table`, where an instruction belongs. */
export const placeOf = (table: number, raw: number): number =>
  table + ((raw ^ (raw >>> 13)) & (KNOWN - 1)) * KNOWN_WORDS;

/** Writes the four words. `raw` is the halfword or the word that stands in memory. */
export function writeKnown(words: Int32Array, at: number, raw: number): void {
  const word = wordOf(raw);
  const row = rowOf(word);
  words[at + 3] = raw;
  if (row === NO_ROW) {
    words[at] = Op.Slow;
    words[at + 1] = raw;
    words[at + 2] = 0;
    return;
  }
  const shape = SHAPES[row]!;
  const isShort = !isLong(raw);
  words[at + 2] = isShort ? shape.shortInfo : shape.longInfo;
  // What is as quick as storage is, or no fence, has a row of its own with the same operands.
  const op = isShort ? shape.shortOp : shape.isCsr || row === FENCE ? longOp(shape, word) : shape.longOp;
  const imm = immOf(shape, word);
  const rd = rdOf(word);
  const first = shape.inFirst ? imm : rd === 0 && !shape.isFloat ? AT.dummy * 4 : shape.rd + 8 * rd;
  words[at] = op | (first << 16);
  words[at + 1] = op === Op.Slow ? raw : shape.isSecond ? imm : secondOf(shape, word, imm);
}

function longOp(shape: Shape, word: number): number {
  if (!shape.isCsr) return opOf(lightFence(shape.row, word), 4, false);
  return opOf(fastCsr(shape.row, word >>> 20), 4, false);
}

function immOf({ imm, isScaled, isCsr }: Shape, word: number): number {
  const value = immediateOf(word, imm);
  if (isCsr) return storageImm(value);
  return isScaled ? value * IMM_SCALE : value;
}

function secondOf({ takesNumber, rounds, inSecond, rs1, rs2 }: Shape, word: number, imm: number): number {
  const low = takesNumber ? rs1Of(word) : rs1 + 8 * rs1Of(word);
  if (inSecond) return (low & 0xffff) | (imm << 16);
  const high = rs2 + 8 * rs2Of(word);
  return low | ((rounds ? high | imm | (rs3Of(word) << RS3_SHIFT) : high) << 16);
}

/** The row that does the same to a frequent CSR without leaving generated code, or the row itself. */
export function fastCsr(row: number, csr: number): number {
  const name = INSTRUCTIONS[row]!.name;
  if (csr === Csr.sstatus) return numberOf(`${name}.status`);
  return storageImm(csr) < 0 ? row : numberOf(`${name}.storage`);
}

/** The row for a fence that keeps no earlier write from a later read, or the row itself. */
export const lightFence = (row: number, word: number): number =>
  row === FENCE && !orders(immediateOf(word, 'fence')) ? FENCE_LIGHT : row;

/** Whether a fence keeps an earlier write from a later read; FENCE.TSO (fm 8) does not. */
const orders = (fence: number): boolean => (fence & 0x10) !== 0 && (fence & 0x2) !== 0 && fence >>> 8 !== 8;
