import { type Arena, frameByte } from '../sync/arena.ts';
import type { CodeCache } from './code-cache.ts';
import { Csr, storageImm } from './csr.ts';
import { immediateOf, isLong, NO_ROW, rdOf, rowOf, rs1Of, rs2Of, rs3Of, wordOf } from './decode.ts';
import {
  IMM_SCALE,
  immediateAt,
  Op,
  opOf,
  PAGE_RECORDS,
  RECORD,
  RECORD_BYTES,
  RS3_SHIFT,
} from './decoded.ts';
import type { Format, Instruction, RegisterFile } from './instruction.ts';
import { INSTRUCTIONS, numberOf } from './instructions.ts';
import { AT, type CodePtr } from './vcpu.ts';

const RECORD_WORDS = RECORD_BYTES / 4;
/** How many instructions to decode ahead of the one that is asked for. */
const AHEAD = 16;
/** Instructions whose records are remembered: a kernel has few different ones. */
const KNOWN = 8192;
const KNOWN_WORDS = 4;
const FENCE = numberOf('fence');
const FENCE_LIGHT = numberOf('fence.light');
/** After these the next bytes need not be instructions. */
const ENDS: ReadonlySet<number> = new Set(['jal', 'jalr', 'ecall', 'ebreak', 'sret'].map(numberOf));

/** Whether the record has a distance that depends on where in its page the instruction stands. */
function isRelative(raw: number): boolean {
  const row = rowOf(wordOf(raw));
  const imm = row === NO_ROW ? undefined : (INSTRUCTIONS[row] as Instruction).format.imm;
  return imm === 'b' || imm === 'j';
}

const registerByte = (file: RegisterFile | undefined, n: number): number =>
  ((file === 'f' ? AT.f : AT.x) + 2 * n) * 4;

/** Turns instructions in frames into the records that the interpreter executes. */
export class Decoder {
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #cache: CodeCache;
  /**
   * By a hash of the instruction: its record's two words, what `write` returns, and it. Then a place for one that is
   * not kept. This thread's own: the records in the arena are written by others, too.
   */
  readonly #known = new Int32Array((KNOWN + 1) * KNOWN_WORDS);
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
    for (let i = 0; i < AHEAD && record < PAGE_RECORDS && (this.#words[word]! & 0xffff) === 0; i++) {
      const step = this.#decodeOne(half, record, word);
      if (step === 0) return;
      record += step;
      word += step * RECORD_WORDS;
    }
  }

  /** Returns the instruction's halfwords, or 0 when nothing is known to follow it. */
  #decodeOne(half: number, record: number, word: number): number {
    const low = this.#halves[half + record] as number;
    if (!isLong(low)) return this.write(word, low, record * 2);
    if (record === PAGE_RECORDS - 1) {
      this.#words[word] = Op.Cross;
      return 0;
    }
    return this.write(word, low | ((this.#halves[half + record + 1] as number) << 16), record * 2);
  }

  /**
   * Writes the record at word index `at` for the instruction `raw`, which stands at `offset` in its page,
   * or at -1 when jumps must not assume to stay in the page. Returns its halfwords, 0 after a jump.
   */
  write(at: number, raw: number, offset: number): number {
    const known = this.#find(raw, offset);
    this.#words[at + 1] = this.#known[known + 1] as number;
    // The op last: another vCPU that sees it sees the rest.
    this.#words[at] = this.#known[known] as number;
    return this.#known[known + 2] as number;
  }

  /** The same for a record that is in no slot: `raw` stands before it. */
  writeAlone(at: number, raw: number): void {
    this.#words[at - 1] = raw;
    this.write(at, raw, -1);
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

  /** Where in `#known` the instruction is. What is relative to pc depends on where it stands, and is not kept. */
  #find(raw: number, offset: number): number {
    const known = ((raw ^ (raw >>> 13)) & (KNOWN - 1)) * KNOWN_WORDS;
    if (this.#known[known + 3] === raw && raw !== 0) return known;
    const at = isRelative(raw) ? KNOWN * KNOWN_WORDS : known;
    this.#decode(at, raw, offset);
    this.#known[at + 3] = raw;
    return at;
  }

  #decode(at: number, raw: number, offset: number): void {
    const row = rowOf(wordOf(raw));
    if (row === NO_ROW) {
      this.#known.set([Op.Slow, raw, 0], at);
      return;
    }
    this.#writeRow(at, raw, row, offset);
    this.#known[at + 2] = ENDS.has(row) ? 0 : isLong(raw) ? 2 : 1;
  }

  #writeRow(at: number, raw: number, row: number, offset: number): void {
    const word = wordOf(raw);
    const length = isLong(raw) ? 4 : 2;
    const format: Format = (INSTRUCTIONS[row] as Instruction).format;
    let imm = immediateOf(word, format.imm);
    let far = false;
    if (format.imm === 'b' || format.imm === 'j') {
      far = offset < 0 || offset + imm < 0 || offset + imm >= 4096;
      if (!far) imm *= IMM_SCALE;
    } else if (row === FENCE) {
      row = lightFence(row, word);
    } else if (format.imm === 'csr' || format.imm === 'csri') {
      row = fastCsr(row, imm);
      imm = storageImm(imm);
    }
    const op = opOf(row, length, far);
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
