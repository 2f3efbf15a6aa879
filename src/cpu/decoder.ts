import { type Arena, frameByte } from '../sync/arena.ts';
import type { CodeCache } from './code-cache.ts';
import { isLong } from './decode.ts';
import { AHEAD, INFO, Op, PAGE_RECORDS, PC_SHIFT, RECORD_BYTES } from './decoded.ts';
import { KNOWN_WORDS, placeOf, writeKnown } from './known.ts';
import { firstOf, pairOf } from './pairs.ts';
import type { CodePtr } from './vcpu.ts';

// Each vCPU knows some instructions (`Cpu`, behind its counts of heat), by which generated code decodes:
// interpreter-decode.ts does what `decodeAt` does, and asks for what is not known.

const RECORD_WORDS = RECORD_BYTES / 4;
/** An offset from which nothing is in the same page. */
const NOWHERE = -(2 ** 30);

/** Turns instructions in frames into the records that the interpreter executes. */
export class Decoder {
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #cache: CodeCache;
  /** What is known of the instruction at hand. */
  readonly #known = new Int32Array(KNOWN_WORDS);

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
    return this.#write(word, raw, record * 2);
  }

  /** Puts what is known of an instruction into the table at byte address `known`. */
  tell(known: number, raw: number): void {
    writeKnown(this.#words, placeOf(known >>> 2, raw), raw);
  }

  /** The record at word index `at`, which is in no slot, for an instruction, which is put before it. */
  writeAlone(at: number, raw: number): void {
    this.#words[at - 1] = raw;
    this.#write(at, raw, NOWHERE);
  }

  /** Writes the record of an instruction that stands at `offset` in its page. Returns its halfwords, 0 after a jump. */
  #write(at: number, raw: number, offset: number): number {
    writeKnown(this.#known, 0, raw);
    const info = this.#known[2]!;
    let [first, second] = [this.#known[0]!, this.#known[1]!];
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
}
