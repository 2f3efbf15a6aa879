import { type Arena, frameByte } from '../sync/arena.ts';
import type { CodeCache } from './code-cache.ts';
import { Csr, storageImm } from './csr.ts';
import { immediateOf, isLong, NO_ROW, rdOf, rowOf, rs1Of, rs2Of, rs3Of, wordOf } from './decode.ts';
import {
  AHEAD,
  IMM_SCALE,
  INFO,
  immediateAt,
  KNOWN,
  KNOWN_BYTES,
  Op,
  opOf,
  PAGE_RECORDS,
  PC_SHIFT,
  RECORD,
  RECORD_BYTES,
  RS3_SHIFT,
} from './decoded.ts';
import type { Format, Instruction, RegisterFile } from './instruction.ts';
import { INSTRUCTIONS, numberOf } from './instructions.ts';
import { firstOf, pairOf } from './pairs.ts';
import { AT, type CodePtr } from './vcpu.ts';

// What is known of an instruction, wherever it stands, is four words: its record's two, INFO, and it, as it stands in
// memory. A kernel has few different ones. This thread knows some by a hash, and so does each vCPU (`Cpu`, behind its
// counts of heat), by which generated code decodes: interpreter-decode.ts does what `decodeAt` does, and asks for what is
// not known.

const RECORD_WORDS = RECORD_BYTES / 4;
const KNOWN_WORDS = KNOWN_BYTES / 4;
/** An offset from which nothing is in the same page. */
const NOWHERE = -(2 ** 30);
const FENCE = numberOf('fence');
const FENCE_LIGHT = numberOf('fence.light');
/** After these the next bytes need not be instructions. */
const ENDS: ReadonlySet<number> = new Set(['jal', 'jalr', 'ecall', 'ebreak', 'sret'].map(numberOf));

const registerByte = (file: RegisterFile | undefined, n: number): number =>
  ((file === 'f' ? AT.f : AT.x) + 2 * n) * 4;

/** Turns instructions in frames into the records that the interpreter executes. */
export class Decoder {
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #cache: CodeCache;
  /** Private: the records in the arena are written by others, too. */
  readonly #known = new Int32Array(KNOWN * KNOWN_WORDS);
  readonly #knownHalves = new Uint16Array(this.#known.buffer);

  constructor(arena: Arena, cache: CodeCache) {
    this.#words = arena.words;
    this.#halves = new Uint16Array(arena.memory.buffer);
    this.#cache = cache;
  }

  /** Fills the record at byte address `at` of a slot, and some that follow it in straight line. */
  decodeAt(code: CodePtr, at: number): void {
    const slot = this.#cache.slotOf(code, at);
    let record = this.#cache.recordOf(code, slot, at);
    const half = frameByte(this.#cache.frameOf(code, slot)) / 2;
    let word = at >>> 2;
    let before = 0;
    for (let i = 0; i < AHEAD && record < PAGE_RECORDS && (this.#words[word]! & 0xffff) === 0; i++) {
      const step = this.#decodeOne(half, record, word);
      if (before !== 0) this.#join(before, word);
      if (step === 0) return;
      before = word;
      record += step;
      word += step * RECORD_WORDS;
    }
  }

  /** Has the first of two instructions lead on to the second, if there is such a case and nobody changed it meanwhile. */
  #join(first: number, second: number): void {
    const word = this.#words[first]!;
    const pair = pairOf(word & 0xffff, this.#words[second]! & 0xffff);
    if (pair !== 0) Atomics.compareExchange(this.#words, first, word, (word & ~0xffff) | pair);
  }

  /**
   * Takes apart the pairs whose second is the record at word index `second`, which is that of `offset` in its page: who
   * comes there from the first is to find its op.
   */
  part(second: number, offset: number): void {
    for (let length = 2; length <= Math.min(offset, 4); length += 2) {
      const first = second - (length / 2) * RECORD_WORDS;
      const word = this.#words[first]!;
      const op = firstOf(word & 0xffff, length);
      if (op !== 0) Atomics.compareExchange(this.#words, first, word, (word & ~0xffff) | op);
    }
  }

  /** Returns the instruction's halfwords, or 0 when nothing is known to follow it. */
  #decodeOne(half: number, record: number, word: number): number {
    const low = this.#halves[half + record] as number;
    if (isLong(low) && record === PAGE_RECORDS - 1) {
      this.#words[word] = Op.Cross;
      return 0;
    }
    const raw = isLong(low) ? low | ((this.#halves[half + record + 1] as number) << 16) : low;
    return this.#write(word, this.#find(raw), record * 2);
  }

  /** Puts what is known of an instruction into the table at byte address `known`. */
  tell(known: number, raw: number): void {
    const at = this.#find(raw);
    // A loop, as a view would have to be made for each.
    for (let i = 0; i < KNOWN_WORDS; i++) this.#words[(known >>> 2) + at + i] = this.#known[at + i] as number;
  }

  /** The record at word index `at`, which is in no slot, for an instruction, which is put before it. */
  writeAlone(at: number, raw: number): void {
    this.#words[at - 1] = raw;
    this.#write(at, this.#find(raw), NOWHERE);
  }

  /** Writes the record of a known instruction that stands at `offset` in its page. Returns its halfwords, 0 after a jump. */
  #write(at: number, known: number, offset: number): number {
    const info = this.#known[known + 2] as number;
    let [first, second] = [this.#known[known] as number, this.#known[known + 1] as number];
    const distance = (info & INFO.isJump) !== 0 ? second >> PC_SHIFT : first >> (16 + PC_SHIFT);
    if ((info & INFO.isRelative) !== 0 && (offset + distance) >>> 0 >= 4096) {
      const op = info >>> INFO.farShift;
      if ((info & INFO.isJump) !== 0) [first, second] = [(first & ~0xffff) | op, distance];
      else first = op | (distance << 16);
    }
    this.#words[at + 1] = second;
    // The op last: another vCPU that sees it sees the rest.
    this.#words[at] = first;
    return info & INFO.halfwords;
  }

  /**
   * The instruction whose record is at byte address `at`: the halfword or word that stands in the frame now, or before
   * the record. It is what the record was made from if the page has not been dropped.
   */
  rawOf(code: CodePtr, at: number): number {
    const slot = this.#cache.slotOf(code, at);
    if (slot < 0) return this.#words[(at >>> 2) - 1]!;
    const half = frameByte(this.#cache.frameOf(code, slot)) / 2 + this.#cache.recordOf(code, slot, at);
    const low = this.#halves[half]!;
    return isLong(low) ? low | (this.#halves[half + 1]! << 16) : low;
  }

  /** Where in `#known` the instruction is. */
  #find(raw: number): number {
    const known = ((raw ^ (raw >>> 13)) & (KNOWN - 1)) * KNOWN_WORDS;
    if (this.#known[known + 3] === raw && raw !== 0) return known;
    this.#decode(known, raw);
    this.#known[known + 3] = raw;
    return known;
  }

  #decode(at: number, raw: number): void {
    const row = rowOf(wordOf(raw));
    if (row === NO_ROW) {
      this.#known.set([Op.Slow, raw, 0], at);
      return;
    }
    this.#known[at + 2] = (ENDS.has(row) ? 0 : isLong(raw) ? 2 : 1) | relation(row, isLong(raw) ? 4 : 2);
    this.#writeRow(at, raw, row);
  }

  #writeRow(at: number, raw: number, row: number): void {
    const word = wordOf(raw);
    const format: Format = (INSTRUCTIONS[row] as Instruction).format;
    let imm = immediateOf(word, format.imm);
    if (format.imm === 'b' || format.imm === 'j') imm *= IMM_SCALE;
    else if (row === FENCE) row = lightFence(row, word);
    else if (format.imm === 'csr' || format.imm === 'csri') {
      row = fastCsr(row, imm);
      imm = storageImm(imm);
    }
    const op = opOf(row, isLong(raw) ? 4 : 2, false);
    this.#writeOperands(at * 2, word, format);
    this.#knownHalves[at * 2] = op;
    const place = immediateAt(format.imm);
    if (op === Op.Slow) this.#known[at + RECORD.raw / 4] = raw;
    else if (place === RECORD.rs1) this.#known[at + RECORD.rs1 / 4] = imm;
    else if (place !== 0) this.#knownHalves[at * 2 + place / 2] = imm;
  }

  #writeOperands(half: number, word: number, format: Format): void {
    const rd = rdOf(word);
    const rdByte = format.rd !== 'f' && rd === 0 ? AT.dummy * 4 : registerByte(format.rd, rd);
    const rs1 = format.imm === 'csri' ? rs1Of(word) : registerByte(format.rs1, rs1Of(word));
    let rs2 = registerByte(format.rs2, rs2Of(word));
    if (format.imm === 'rm') rs2 |= immediateOf(word, 'rm') | (rs3Of(word) << RS3_SHIFT);
    this.#knownHalves[half + RECORD.rd / 2] = rdByte;
    this.#knownHalves[half + RECORD.rs1 / 2] = rs1;
    this.#knownHalves[half + RECORD.rs2 / 2] = rs2;
  }
}

/** Of a branch or jump: that it is one, and its case where it leads to another page. */
function relation(row: number, length: 2 | 4): number {
  const { imm } = (INSTRUCTIONS[row] as Instruction).format;
  if (imm !== 'b' && imm !== 'j') return 0;
  const kind = imm === 'j' ? INFO.isRelative | INFO.isJump : INFO.isRelative;
  return kind | (opOf(row, length, true) << INFO.farShift);
}

/** The row that does the same to a frequent CSR without leaving generated code, or the row itself. */
export function fastCsr(row: number, csr: number): number {
  const name = (INSTRUCTIONS[row] as Instruction).name;
  if (csr === Csr.sstatus) return numberOf(`${name}.status`);
  return storageImm(csr) < 0 ? row : numberOf(`${name}.storage`);
}

/** The row for a fence that keeps no earlier write from a later read, or the row itself. */
export const lightFence = (row: number, word: number): number =>
  row === FENCE && !orders(immediateOf(word, 'fence')) ? FENCE_LIGHT : row;

/** Whether a fence keeps an earlier write from a later read; FENCE.TSO (fm 8) does not. */
const orders = (fence: number): boolean => (fence & 0x10) !== 0 && (fence & 0x2) !== 0 && fence >>> 8 !== 8;
