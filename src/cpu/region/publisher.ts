import type { Arena } from '../../sync/arena.ts';
import type { CodeCache } from '../code-cache.ts';
import { FIRST_VARIANT, Op, RECORD_BYTES, SLOT_ENTRIES, VARIANTS } from '../decoded.ts';
import type { Decoder } from '../decoder.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { Access, type VcpuPtr } from '../interface.ts';
import { PAIRS } from '../pairs.ts';
import { INDEX_MASK, KIND_BYTES } from '../tlb-layout.ts';
import { AT, type CodePtr } from '../vcpu.ts';
import type { Head } from './job.ts';
import { ENTRY, ENTRY_SIZE, entryStruct, VISITS, VISITS_BYTES } from './layout.ts';

const EXEC = Access.Exec * KIND_BYTES;
/** Entries that `review` looks at in one go. */
const REVIEWED = 512;
/** Visits, of those that are counted, after which an entry is judged. */
const JUDGED = 64;

/**
 * By case of the interpreter, from FIRST_VARIANT on: the length of an instruction that is always or often followed by the
 * next, else 0.
 */
const FOLLOWED: readonly number[] = [
  ...VARIANTS,
  ...PAIRS.map(([first]) => VARIANTS[first - FIRST_VARIANT]!),
].map(({ row, length }) => {
  const { name } = INSTRUCTIONS[row]!;
  return name === 'jal' || name === 'jalr' ? 0 : length;
});
const goesOn = (op: number, length: 2 | 4): boolean => FOLLOWED[op - FIRST_VARIANT] === length;

/** Leads from decoded pages to regions, and no longer. All of it by a vCPU's runner that holds `translating`. */
export class Publisher {
  readonly #words: Int32Array;
  readonly #halves: Uint16Array;
  readonly #cache: CodeCache;
  readonly #decoder: Decoder;
  readonly #entry;
  /** The id that was last looked at. */
  #reviewed = 0;

  constructor(arena: Arena, cache: CodeCache, decoder: Decoder) {
    this.#words = arena.words;
    this.#halves = new Uint16Array(arena.memory.buffer);
    this.#cache = cache;
    this.#decoder = decoder;
    this.#entry = entryStruct(arena.words);
  }

  /** The page is still decoded there as it was, and no region begins at the place. */
  isWanted(code: CodePtr, head: Head): boolean {
    return this.#cache.isSame(code, head.slot, head.stamp) && this.#idAt(code, head.slot, head.offset) === 0;
  }

  #idWord(code: CodePtr, slot: number, offset: number): number {
    return ((this.#cache.byteOf(code, slot) + SLOT_ENTRIES) >>> 1) + (offset >>> 1);
  }

  #idAt(code: CodePtr, slot: number, offset: number): number {
    return this.#halves[this.#idWord(code, slot, offset)]!;
  }

  #row(code: CodePtr, id: number): never {
    return (this.#cache.code.entries.get(code) + (id * ENTRY_SIZE) / 4) as never;
  }

  /**
   * Makes the entries from `first` on known to their decoded pages, where these are as they were when the regions
   * were asked for. A page that is dropped from here on is an orphan as long as this vCPU is inside.
   */
  publish(code: CodePtr, first: number): void {
    const end = this.#cache.code.nextEntry.get(code);
    for (let id = first; id < end; id++) {
      const row = this.#row(code, id);
      const place = this.#entry.place.get(row);
      const slot = place >>> 12;
      if (!this.#cache.isSame(code, slot, this.#entry.stamp.get(row))) continue;
      this.#publishOne(code, slot, place & 0xfff, id, row);
    }
  }

  #publishOne(code: CodePtr, slot: number, offset: number, id: number, row: number): void {
    if (this.#idAt(code, slot, offset) !== 0) return;
    const record = (this.#cache.byteOf(code, slot) + (offset / 2) * RECORD_BYTES) >>> 0;
    if ((this.#words[record >>> 2]! & 0xffff) === Op.Undecoded) this.#decoder.decodeAt(code, record);
    const word = this.#words[record >>> 2]!;
    this.#decoder.writeAlone(row + ENTRY.record / 4, this.#decoder.rawOf(code, record));
    this.#words[row + this.#entry.afterShort.at] = Op.PageEnd;
    this.#words[row + this.#entry.afterLong.at] = Op.PageEnd;
    // Atomic, so that other threads find the rows complete.
    Atomics.store(this.#halves, this.#idWord(code, slot, offset), id);
    Atomics.store(this.#words, record >>> 2, (word & ~0xffff) | Op.Region);
    this.#decoder.part(record >>> 2, offset);
  }

  /**
   * Byte address of the decoded record with which the straight line begins that pc is in, as far as it lies in this page, or from
   * the last place in it that `isHead`; 0 where a region begins in it, or nothing is known.
   */
  lineOf(vcpu: VcpuPtr, isHead: (slot: number, offset: number) => boolean): number {
    const w = this.#words;
    const pc = w[vcpu + AT.pc]!;
    const entry = (w[vcpu + AT.tlbBase]! + EXEC + ((pc >>> 8) & INDEX_MASK)) >>> 2;
    if (w[entry] !== (pc & -4096) || w[entry + 1] !== w[vcpu + AT.pc + 1]) return 0;
    const slotByte = w[entry + 2]!;
    const slot = this.#cache.slotOf(w[vcpu + AT.code]! as CodePtr, slotByte);
    let offset = pc & 0xffe;
    for (let length = -1; length !== 0; offset -= length) {
      if (this.#opAt(slotByte, offset) === Op.Region) return 0;
      length = isHead(slot, offset) ? 0 : this.#lengthBefore(slotByte, offset);
    }
    return slotByte + (offset / 2) * RECORD_BYTES;
  }

  #opAt(slotByte: number, offset: number): number {
    return offset < 0 ? Op.Undecoded : this.#words[(slotByte + (offset / 2) * RECORD_BYTES) >>> 2]! & 0xffff;
  }

  /** Bytes of the instruction before an offset, if it goes on there; 0 if it does not, or is not decoded. */
  #lengthBefore(slotByte: number, offset: number): 0 | 2 | 4 {
    if (goesOn(this.#opAt(slotByte, offset - 2), 2)) return 2;
    return goesOn(this.#opAt(slotByte, offset - 4), 4) ? 4 : 0;
  }

  /** Takes away entries whose visits by this vCPU retire less than `least` on average, of some. Those are told to `refuse`. */
  review(vcpu: VcpuPtr, least: number, refuse: (head: Head) => void): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const end = this.#cache.code.nextEntry.get(code);
    if (!this.#hasCounts(vcpu, code)) return;
    const table = this.#words[vcpu + AT.visits]! >>> 2;
    for (let i = 0; i < REVIEWED && i < end; i++) {
      this.#reviewed = this.#reviewed + 1 < end ? this.#reviewed + 1 : 1;
      const at = table + ((this.#reviewed << VISITS.log2) >>> 2);
      const visits = this.#words[at + VISITS.visits / 4]!;
      if (this.#reviewed >= end || visits < JUDGED) continue;
      const mean = this.#words[at + VISITS.retired / 4]! / visits;
      this.#words.fill(0, at, at + 2);
      if (mean < least) this.#takeAway(code, this.#reviewed, this.#row(code, this.#reviewed), refuse);
    }
  }

  /** False where its counts may be of regions that were dropped: then it begins anew. */
  #hasCounts(vcpu: VcpuPtr, code: CodePtr): boolean {
    const epoch = this.#cache.code.epoch.load(code);
    if (this.#words[vcpu + AT.visitsEpoch] === epoch) return true;
    const table = this.#words[vcpu + AT.visits]! >>> 2;
    this.#words.fill(0, table, table + VISITS_BYTES / 4);
    this.#words[vcpu + AT.visitsEpoch] = epoch;
    return false;
  }

  #takeAway(code: CodePtr, id: number, row: number, refuse: (head: Head) => void): void {
    const place = this.#entry.place.get(row as never);
    const [slot, offset] = [place >>> 12, place & 0xfff];
    if (this.#idAt(code, slot, offset) !== id) return;
    if (!this.#cache.isSame(code, slot, this.#entry.stamp.get(row as never))) return;
    const pfn = this.#cache.frameOf(code, slot);
    refuse({ slot, pfn, offset, stamp: this.#cache.stampOf(code, slot) });
    const record = (this.#cache.byteOf(code, slot) + (offset / 2) * RECORD_BYTES) >>> 2;
    // In this order, so that who finds no id finds no mark of a region either. Who saw the mark before may find no id.
    Atomics.store(this.#words, record, (this.#words[record]! & ~0xffff) | Op.Undecoded);
    Atomics.store(this.#halves, this.#idWord(code, slot, offset), 0);
  }
}
