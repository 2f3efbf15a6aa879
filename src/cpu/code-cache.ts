import type { Pfn } from '../base/units.ts';
import type { Arena } from '../sync/arena.ts';
import { i32, type Struct, struct } from '../sync/struct.ts';
import { Op, PAGE_RECORDS, RECORD_BYTES, SLOT_BYTES } from './decoded.ts';
import { JOB_WORDS } from './region/job.ts';
import { ENTRY_SIZE, MAX_ENTRIES, MAX_REGIONS, REGION_WORDS } from './region/layout.ts';
import type { Fill } from './tlb.ts';
import type { CodePtr } from './vcpu.ts';

// Decoded pages of a VM, by frame. A slot is
//
//   free      frames[slot] is 0
//   live      frames[slot] is a frame whose map word is slot + 1
//   claimed   frames[slot] is a frame with CLAIMED set, and the map word is -(slot + 1): one vCPU makes the page, and
//             no other has it until all have been told that the frame is code. A drop takes the map word away
//   orphaned  frames[slot] is a frame whose map word says otherwise: dropped, maybe still being executed
//
// Only `reclaim` makes orphans free, after every vCPU of the VM has dropped its Exec entries. The map and
// `frames` are atomic throughout; `slot` state moves by compare-exchange, so it needs no lock. `hand`,
// `referenced` are hints, and plain.

const CLAIMED = 1 << 31;
/** `begin`: the page is another's. */
export const BUSY = -2;

const FIELDS = {
  slots: i32,
  /** Tells it from others that had its place before. */
  number: i32,
  /** What was allocated for the slots, and the byte address of slot 0 in it. */
  block: i32,
  base: i32,
  /** Word index: for each frame of the arena, slot + 1 or 0. */
  map: i32,
  /** Where the map would have the frame with number 0. */
  mapOrigin: i32,
  /** Word index: for each slot, its frame or 0. */
  frames: i32,
  /** Word index: for each slot, whether it was looked up since reclaim last passed. */
  referenced: i32,
  /** Word index: for each slot, the stamp of the page that was last looked up among known translations. */
  recallStamps: i32,
  /** Word index: for each slot, how often it was begun: one page's number among those that have been there. */
  stamps: i32,
  hand: i32,
  /** 1 while a vCPU makes room: one at a time. */
  evicting: i32,
  /** Counts drops; a vCPU whose `codeSeen` differs has Exec entries to drop. */
  generation: i32,
  /** Counts pages, and how many of them there were when the translator's thread was last asked. */
  pages: i32,
  pagesAsked: i32,
  /** `Translating` of region/job.ts: whose the words below are, and those that they lead to. */
  translating: i32,
  /** What the translator's thread is asked. */
  job: i32,
  /** Word index: region entries by id; regions by number. See region/layout.ts. */
  entries: i32,
  regions: i32,
  nextEntry: i32,
  nextRegion: i32,
  wasmBytes: i32,
  /** 1 once the VM has run for a while: its regions are compiled as the engine does by itself. */
  settled: i32,
  /** Counts how often all regions were dropped; a thread whose count differs forgets what it linked. */
  epoch: i32,
  /** What was translated, ever: for statistics. */
  translatedRegions: i32,
  translatedInstructions: i32,
  translatedBytes: i32,
  batches: i32,
  /** Regions that a page has from another with its content. */
  recalled: i32,
  translateMicroseconds: i32,
  entriesRefused: i32,
  /** How many vCPUs execute it. */
  vcpus: i32,
} as const;

/** Word offsets of the fields, for generated code. */
export const CODE_AT = struct(new Int32Array(0), 'code', FIELDS).offsets;
export type Code = Struct<'code', typeof FIELDS>;

export class CodeCache {
  /** The record; its last words are the translator's. */
  readonly code: Code;
  readonly #words: Int32Array;
  readonly #arena: Arena;
  readonly #fill: Fill;
  readonly #code: Code;
  /** Of the eviction under way on this thread. */
  readonly #orphans: number[] = [];

  constructor(arena: Arena, fill: Fill) {
    this.#words = arena.words;
    this.#arena = arena;
    this.#fill = fill;
    this.code = struct(arena.words, 'code', FIELDS);
    this.#code = this.code;
  }

  /** `number`: of which no other has had the same. */
  create(alloc: (words: number) => number, slots: number, number: number): CodePtr {
    const code = alloc(this.#code.words) as CodePtr;
    this.#code.slots.set(code, slots);
    this.#code.number.set(code, number);
    const block = alloc((slots * SLOT_BYTES) / 4 + 16);
    this.#code.block.set(code, block);
    this.#code.base.set(code, alignToLine(block) * 4);
    this.#code.map.set(code, alloc(this.#arena.frames));
    this.#code.mapOrigin.set(code, this.#code.map.get(code) - this.#arena.firstFrame);
    this.#code.frames.set(code, alloc(slots));
    this.#code.referenced.set(code, alloc(slots));
    this.#code.stamps.set(code, alloc(slots));
    this.#code.recallStamps.set(code, alloc(slots));
    this.#code.job.set(code, alloc(JOB_WORDS));
    this.#code.entries.set(code, alloc((MAX_ENTRIES * ENTRY_SIZE) / 4));
    this.#code.regions.set(code, alloc(MAX_REGIONS * REGION_WORDS));
    this.#code.nextEntry.set(code, 1);
    return code;
  }

  /** Gives all of it back. Requires: no vCPU of the VM runs. */
  destroy(code: CodePtr, free: (at: number) => void): void {
    const { block, map, frames, referenced, recallStamps, stamps, job, entries, regions } = this.#code;
    const parts = [block, map, frames, referenced, recallStamps, stamps, job, entries, regions];
    for (const part of parts) free(part.get(code));
    free(code);
  }

  generation(code: CodePtr): number {
    return this.#code.generation.load(code);
  }

  #mapWord(code: CodePtr, pfn: Pfn): number {
    return this.#code.mapOrigin.get(code) + pfn;
  }

  #slotByte(code: CodePtr, slot: number): number {
    return (this.#code.base.get(code) + slot * SLOT_BYTES) | 0;
  }

  /** Whether a frame has a decoded page. */
  holds(code: CodePtr, pfn: Pfn): boolean {
    return Atomics.load(this.#words, this.#mapWord(code, pfn)) !== 0;
  }

  /** Byte address of a frame's decoded page, or 0. */
  find(code: CodePtr, pfn: Pfn): number {
    const entry = Atomics.load(this.#words, this.#mapWord(code, pfn));
    if (entry <= 0) return 0;
    this.#words[this.#code.referenced.get(code) + entry - 1] = 1;
    return this.#slotByte(code, entry - 1);
  }

  /**
   * Claims a slot for a frame that is to become code: `holds` from here on. -1 when no slot is free, BUSY when
   * another vCPU makes the page, or has made it.
   */
  begin(code: CodePtr, pfn: Pfn): number {
    const slot = this.#claim(code, pfn);
    if (slot < 0) return -1;
    const at = this.#slotByte(code, slot);
    const pages = Atomics.add(this.#words, this.#code.stamps.get(code) + slot, 1);
    // Its words are zero as they were allocated. What is never decoded of a page is then never touched.
    if (pages !== 0) this.#fill(at, 0, SLOT_BYTES);
    this.#words[(at >>> 2) + (PAGE_RECORDS * RECORD_BYTES) / 4] = Op.PageEnd;
    if (Atomics.compareExchange(this.#words, this.#mapWord(code, pfn), 0, -(slot + 1)) === 0) return slot;
    this.#unclaim(code, slot);
    return BUSY;
  }

  /** Byte address of the page that was begun, with nothing decoded in it; 0 if the frame was dropped meanwhile. */
  publish(code: CodePtr, pfn: Pfn, slot: number): number {
    const word = this.#mapWord(code, pfn);
    if (Atomics.compareExchange(this.#words, word, -(slot + 1), slot + 1) !== -(slot + 1)) {
      this.#unclaim(code, slot);
      return 0;
    }
    // Claimed until here: a slot that is not, and whose map word says otherwise, is an orphan.
    Atomics.store(this.#words, this.#code.frames.get(code) + slot, pfn);
    this.#code.pages.add(code, 1);
    return this.#slotByte(code, slot);
  }

  /** Gives up a page that was begun. */
  abandon(code: CodePtr, pfn: Pfn, slot: number): void {
    Atomics.compareExchange(this.#words, this.#mapWord(code, pfn), -(slot + 1), 0);
    this.#unclaim(code, slot);
  }

  #unclaim(code: CodePtr, slot: number): void {
    Atomics.store(this.#words, this.#code.frames.get(code) + slot, 0);
    this.#code.hand.set(code, Math.min(this.#code.hand.get(code), slot));
  }

  #claim(code: CodePtr, pfn: Pfn): number {
    const frames = this.#code.frames.get(code);
    const slots = this.#code.slots.get(code);
    for (let hand = this.#code.hand.get(code); hand < slots; hand++) {
      if (Atomics.load(this.#words, frames + hand) !== 0) continue;
      if (Atomics.compareExchange(this.#words, frames + hand, 0, pfn | CLAIMED) !== 0) continue;
      this.#code.hand.set(code, hand + 1);
      return hand;
    }
    this.#code.hand.set(code, slots);
    return -1;
  }

  /** Orphans a frame's decoded page. Returns its byte address, or 0 if it has none. Any thread. */
  drop(code: CodePtr, pfn: Pfn): number {
    const word = this.#mapWord(code, pfn);
    if (Atomics.load(this.#words, word) === 0) return 0;
    const entry = Atomics.exchange(this.#words, word, 0);
    // Of a page that is being made nobody has an Exec entry.
    if (entry <= 0) return 0;
    this.#code.generation.add(code, 1);
    return this.#slotByte(code, entry - 1);
  }

  /** Orphans slots that were not used lately until an eighth of all are orphans. */
  #evict(code: CodePtr): void {
    const slots = this.#code.slots.get(code);
    let wanted = Math.max(slots >>> 3, 1);
    for (let slot = 0; slot < slots; slot++) if (!this.#isLive(code, slot)) wanted--;
    for (let turn = 0; turn < 2 && wanted > 0; turn++) {
      for (let slot = 0; slot < slots && wanted > 0; slot++) if (this.#evictOne(code, slot)) wanted--;
    }
  }

  /** Orphans all slots. */
  #dropAll(code: CodePtr): void {
    const slots = this.#code.slots.get(code);
    for (let slot = 0; slot < slots; slot++) {
      if (this.#isLive(code, slot)) this.drop(code, this.frameOf(code, slot));
    }
  }

  #evictOne(code: CodePtr, slot: number): boolean {
    if (!this.#isLive(code, slot)) return false;
    const referenced = this.#code.referenced.get(code) + slot;
    if (this.#words[referenced] !== 0) {
      this.#words[referenced] = 0;
      return false;
    }
    this.drop(code, this.frameOf(code, slot));
    return true;
  }

  #isLive(code: CodePtr, slot: number): boolean {
    const pfn = Atomics.load(this.#words, this.#code.frames.get(code) + slot);
    if (pfn < 0) return true;
    return pfn !== 0 && Atomics.load(this.#words, this.#mapWord(code, pfn)) === slot + 1;
  }

  /** Orphans some slots, or all. One vCPU at a time does so; false if another does. */
  tryEvict(code: CodePtr, all = false): boolean {
    if (this.#code.evicting.cas(code, 0, 1) !== 0) return false;
    if (all) this.#dropAll(code);
    else this.#evict(code);
    this.#orphans.length = 0;
    for (let slot = 0; slot < this.#code.slots.get(code); slot++) {
      const orphaned = Atomics.load(this.#words, this.#code.frames.get(code) + slot) !== 0;
      if (orphaned && !this.#isLive(code, slot)) this.#orphans.push(slot);
    }
    return true;
  }

  /**
   * After `tryEvict`: frees what were orphans then, and no other that came since. Requires: every vCPU of the VM
   * has dropped its Exec entries in between, or is outside and will before it executes.
   */
  reclaim(code: CodePtr): void {
    const frames = this.#code.frames.get(code);
    for (const slot of this.#orphans) Atomics.store(this.#words, frames + slot, 0);
    this.#code.hand.set(code, 0);
    this.#code.evicting.store(code, 0);
  }

  /** Byte address of a slot. */
  byteOf(code: CodePtr, slot: number): number {
    return this.#slotByte(code, slot);
  }

  /** The slot in which a byte address lies; -1 if it is in none. */
  slotOf(code: CodePtr, byte: number): number {
    const slot = Math.floor(((byte - this.#code.base.get(code)) >>> 0) / SLOT_BYTES);
    return slot < this.#code.slots.get(code) ? slot : -1;
  }

  /** The number of the decoded record at a byte address of a slot; twice that is its offset in the page. */
  recordOf(code: CodePtr, slot: number, byte: number): number {
    return ((byte - this.#slotByte(code, slot)) >>> 0) / RECORD_BYTES;
  }

  /** The number of the page that is in a slot, or was last. Above 0 once there was one. */
  stampOf(code: CodePtr, slot: number): number {
    return Atomics.load(this.#words, this.#code.stamps.get(code) + slot);
  }

  /**
   * Whether a slot has the page that it had under a stamp, not dropped in between. The page first: a slot that is claimed is
   * no page yet, and has its stamp only afterwards. Requires, for the answer to last: this vCPU is inside.
   */
  isSame(code: CodePtr, slot: number, stamp: number): boolean {
    const pfn = Atomics.load(this.#words, this.#code.frames.get(code) + slot);
    if (pfn <= 0 || Atomics.load(this.#words, this.#mapWord(code, pfn)) !== slot + 1) return false;
    return this.stampOf(code, slot) === stamp;
  }

  slotsOf(code: CodePtr): number {
    return this.#code.slots.get(code);
  }

  /** Requires, as `setRecalled` does: `translating` is held. */
  wasRecalled(code: CodePtr, slot: number, stamp: number): boolean {
    return this.#words[this.#code.recallStamps.get(code) + slot] === stamp;
  }

  setRecalled(code: CodePtr, slot: number, stamp: number): void {
    this.#words[this.#code.recallStamps.get(code) + slot] = stamp;
  }

  /** The frame that a slot was decoded from. */
  frameOf(code: CodePtr, slot: number): Pfn {
    return Atomics.load(this.#words, this.#code.frames.get(code) + slot) & ~CLAIMED;
  }
}

const alignToLine = (word: number): number => Math.ceil(word / 16) * 16;
