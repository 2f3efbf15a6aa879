import type { Pfn } from '../base/units.ts';
import { type HostTlb, hostBytes } from './host-tlb.ts';
import { Access, type VcpuPtr } from './interface.ts';
import { TlbContexts } from './tlb-contexts.ts';
import {
  FILTER_AT,
  FILTER_BYTES,
  HOST_AT,
  INDEX_MASK,
  KIND_BYTES,
  MICRO_BYTES,
  MICRO_READ,
  MICRO_WRITE,
  SET_BYTES,
  SUPERPAGE_AT,
  SUPERPAGE_BYTES,
  SUPERPAGE_HASH,
  SUPERPAGE_HASH_BITS,
  TLB_SETS,
  TlbSet,
} from './tlb-layout.ts';
import { AT, CROSS_ENTRIES, CROSS_WORDS, Privilege, Status } from './vcpu.ts';

const KIND_WORDS = KIND_BYTES / 4;

/** Fills bytes of the arena; wasm's memory.fill. */
export type Fill = (byteAddress: number, value: number, bytes: number) => void;

/**
 * Empties the entries from byte address `first` up to `end` of which the sum of the tag's low word, as far
 * as `mask` lets it through, and the second word is `sum`.
 */
export type DropMatching = (first: number, end: number, mask: number, sum: number) => void;

/**
 * Empties the entries of Read or Write from byte address `first` up to `end` that translate to a frame of
 * which the byte in the filter at `filter` is not zero.
 */
export type DropFrames = (first: number, end: number, filter: number) => void;

/** Empties the entries of which the page's address `>>> shift` is that of `hi:lo`. */
export type DropRegion = (first: number, end: number, lo: number, hi: number, shift: number) => void;

/**
 * Empties a set's entries for the page at `hi:lo`, and all of its micro entries: to fill one anew is cheaper than to look at
 * each.
 */
export type DropPage = (set: number, lo: number, hi: number) => void;

/** From generated code. */
export type TlbOps = {
  fill: Fill;
  dropMatching: DropMatching;
  dropFrames: DropFrames;
  dropRegion: DropRegion;
  dropPage: DropPage;
};

/** Writes and drops the entries of the vCPUs' TLBs; generated code reads them. */
export class Tlb {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #ops: TlbOps;
  readonly #host: HostTlb;
  readonly #contexts: TlbContexts;
  /** Of the arena, those before the first included. */
  readonly #frames: number;

  constructor(words: Int32Array, ops: TlbOps, host: HostTlb, frames: number) {
    this.#words = words;
    this.#bytes = new Uint8Array(words.buffer);
    this.#ops = ops;
    this.#host = host;
    this.#contexts = new TlbContexts(words);
    this.#frames = frames;
  }

  /** Points the vCPU at the set that its privilege and SUM ask for. After any change of either, or of the context. */
  select(vcpu: VcpuPtr): void {
    const w = this.#words;
    const context = 2 * w[vcpu + AT.context]! * SET_BYTES;
    const sum = TlbSet.SupervisorSum * SET_BYTES + context;
    let base = TlbSet.User * SET_BYTES + context;
    if (w[vcpu + AT.privilege] === Privilege.Supervisor) {
      base = (w[vcpu + AT.sstatus]! & Status.SUM) === 0 ? TlbSet.Supervisor * SET_BYTES : sum;
    }
    w[vcpu + AT.tlbBase] = w[vcpu + AT.tlb]! * 4 + base;
    w[vcpu + AT.tlbSum] = sum;
    // What a supervisor may do without SUM it may do with it.
    w[vcpu + AT.tlbBorrow] = base === sum ? sum : 0;
  }

  /** Word index of the entry for a page in the set in use; `lo` is the low word of its address. */
  #entry(vcpu: VcpuPtr, access: Access, lo: number): number {
    const base = this.#words[vcpu + AT.tlbBase]! >>> 2;
    return base + access * KIND_WORDS + (((lo >>> 8) & INDEX_MASK) >>> 2);
  }

  /** `value`: host - va of Read and Write, the decoded page's byte address of Exec. */
  insert(vcpu: VcpuPtr, access: Access, lo: number, hi: number, value: number): void {
    const at = this.#entry(vcpu, access, lo);
    const w = this.#words;
    w[at] = lo & ~0xfff;
    w[at + 1] = hi;
    w[at + 2] = value;
  }

  /** Copies the supervisor's entry into its SUM set, if there is one; true if so. */
  borrow(vcpu: VcpuPtr, access: Access, lo: number, hi: number): boolean {
    const w = this.#words;
    const at = this.#entry(vcpu, access, lo);
    const from = at - (w[vcpu + AT.tlbBorrow]! >>> 2);
    if (from === at || w[from] !== (lo & ~0xfff) || w[from + 1] !== hi) return false;
    w.copyWithin(at, from, from + 3);
    return true;
  }

  /** All that rests on the guest's page tables. */
  flush(vcpu: VcpuPtr): void {
    const block = this.#words[vcpu + AT.tlb]! * 4;
    this.#contexts.keepCurrent(vcpu);
    if (block !== 0) {
      this.#emptySupervisor(vcpu);
      this.#emptyContext(vcpu);
      this.#ops.fill(block + SUPERPAGE_AT, 0, SUPERPAGE_BYTES);
    }
    this.dropCrossing(vcpu);
  }

  #emptySupervisor(vcpu: VcpuPtr): void {
    this.#ops.fill(this.#setByte(vcpu, TlbSet.Supervisor), 0xff, SET_BYTES);
    this.#words[vcpu + AT.tlbLocal] = 0;
  }

  /** Both sets of the current context: they are neighbours. */
  #emptyContext(vcpu: VcpuPtr): void {
    const first = TlbSet.User + 2 * this.#words[vcpu + AT.context]!;
    this.#ops.fill(this.#setByte(vcpu, first), 0xff, 2 * SET_BYTES);
  }

  #setByte(vcpu: VcpuPtr, set: number): number {
    return this.#words[vcpu + AT.tlb]! * 4 + set * SET_BYTES;
  }

  /** All that rests on frames: the TLBs, the host's too, and the reservation (J-10). */
  flushHost(vcpu: VcpuPtr): void {
    this.flush(vcpu);
    const block = this.#words[vcpu + AT.tlb]! * 4;
    if (block !== 0) this.#ops.fill(block + HOST_AT, 0, hostBytes(this.#frames));
    this.#words[vcpu + AT.reservation] = 0;
  }

  /**
   * What rests on some frames: data entries, what the host TLB has, the reservation (J-10), and now and then an
   * entry of another frame, as the filter is a hash. Exec entries go by the code cache's generation. Costs
   * next to nothing for frames that the vCPU has not used since a flush of everything: those that reclaim finds.
   */
  dropFrames(vcpu: VcpuPtr, pfns: Int32Array, count: number): void {
    const block = this.#words[vcpu + AT.tlb]! * 4;
    const filter = block + FILTER_AT;
    if (!this.#markHeld(vcpu, filter, pfns, count)) return;
    for (let set = 0; set < TLB_SETS; set++) {
      if (!this.#contexts.isLive(vcpu, set)) continue;
      const first = block + set * SET_BYTES;
      this.#ops.dropFrames(first, first + 2 * KIND_BYTES, filter);
      this.#ops.dropFrames(first + MICRO_READ, first + SET_BYTES, filter);
    }
    if (this.#bytes[filter + filterByte(this.#words[vcpu + AT.reservation]! >>> 12)] !== 0) {
      this.#words[vcpu + AT.reservation] = 0;
    }
    for (let i = 0; i < count; i++) {
      this.#bytes[filter + filterByte(pfns[i]!)] = 0;
      this.#host.release(vcpu, pfns[i]!);
    }
    this.dropCrossing(vcpu);
  }

  /** Puts into the filter which of the frames are held; true if any is. */
  #markHeld(vcpu: VcpuPtr, filter: number, pfns: Int32Array, count: number): boolean {
    let some = false;
    for (let i = 0; i < count; i++) {
      if (!this.#host.holds(vcpu, pfns[i]!)) continue;
      this.#bytes[filter + filterByte(pfns[i]!)] = 1;
      some = true;
    }
    return some;
  }

  /** After a change of satp. The supervisor's set mostly holds global pages only, which all spaces have. */
  enterSpace(vcpu: VcpuPtr): void {
    if (this.#words[vcpu + AT.tlbLocal] !== 0) this.#emptySupervisor(vcpu);
    if (!this.#contexts.enter(vcpu)) this.#emptyContext(vcpu);
    this.dropCrossing(vcpu);
    this.select(vcpu);
  }

  /** `sfence.vma` without an address; an asid below 0 is everybody's, and global pages too. */
  fence(vcpu: VcpuPtr, asid: number): void {
    if (asid < 0) {
      this.flush(vcpu);
      return;
    }
    if (!this.#contexts.forget(vcpu, asid)) return;
    if (this.#words[vcpu + AT.tlbLocal] !== 0) this.#emptySupervisor(vcpu);
    this.#emptyContext(vcpu);
    this.dropCrossing(vcpu);
  }

  /** `sfence.vma` of all address spaces but the current one. */
  fenceOthers(vcpu: VcpuPtr): void {
    this.#contexts.keepCurrent(vcpu);
  }

  /** `sfence.vma` of one address: the leaf that translates it, a page or the superpage that it may be part of. */
  fencePage(vcpu: VcpuPtr, asid: number, lo: number, hi: number): void {
    const large = [1, 2].filter(level => this.#hasSuperpage(vcpu, lo, hi, level));
    for (let set = 0; set < TLB_SETS; set++) {
      if (!this.#contexts.isLive(vcpu, set) || !this.#contexts.concerns(vcpu, set, asid)) continue;
      const first = this.#setByte(vcpu, set);
      this.#ops.dropPage(first, lo & ~0xfff, hi);
      for (const level of large) this.#dropRegion(first, lo, hi, level);
    }
    this.dropCrossing(vcpu);
  }

  /** Of a 2 MiB region, the entries that can be of it are half of each kind: neighbours. */
  #dropRegion(set: number, lo: number, hi: number, level: number): void {
    const half = level === 1 ? KIND_BYTES / 2 : KIND_BYTES;
    const offset = level === 1 ? ((lo >>> 21) & 1) * half : 0;
    for (let kind = 0; kind < 3; kind++) {
      const first = set + kind * KIND_BYTES + offset;
      this.#ops.dropRegion(first, first + half, lo, hi, SUPERPAGE_HASH[level]!.shift);
    }
  }

  /** Remembers that pages of the superpage around an address may be cached. */
  noteSuperpage(vcpu: VcpuPtr, lo: number, hi: number, level: number): void {
    const bit = superpageBit(lo, hi, level);
    this.#words[this.#superpageWord(vcpu, bit)]! |= 1 << (bit & 31);
  }

  #superpageWord(vcpu: VcpuPtr, bit: number): number {
    return this.#words[vcpu + AT.tlb]! + SUPERPAGE_AT / 4 + (bit >>> 5);
  }

  #hasSuperpage(vcpu: VcpuPtr, lo: number, hi: number, level: number): boolean {
    const bit = superpageBit(lo, hi, level);
    return (this.#words[this.#superpageWord(vcpu, bit)]! & (1 << (bit & 31))) !== 0;
  }

  dropCrossing(vcpu: VcpuPtr): void {
    if (this.#words[vcpu + AT.crossed] === 0) return;
    this.#words[vcpu + AT.crossed] = 0;
    for (let i = 0; i < CROSS_ENTRIES; i++) {
      this.#words[vcpu + AT.cross + i * CROSS_WORDS] = 0;
      this.#words[vcpu + AT.cross + i * CROSS_WORDS + 1] = 0;
    }
  }

  /** All Exec entries. */
  flushExec(vcpu: VcpuPtr): void {
    for (let set = 0; set < TLB_SETS; set++) {
      if (!this.#contexts.isLive(vcpu, set)) continue;
      this.#ops.fill(this.#setByte(vcpu, set) + Access.Exec * KIND_BYTES, 0xff, KIND_BYTES);
    }
    this.dropCrossing(vcpu);
  }

  /** Exec entries that lead to a decoded page. */
  dropSlot(vcpu: VcpuPtr, slotByte: number): void {
    this.#drop(vcpu, Access.Exec * KIND_BYTES, KIND_BYTES, 0, slotByte);
    this.dropCrossing(vcpu);
  }

  /** Write entries through which a frame can be changed. */
  dropWrites(vcpu: VcpuPtr, pfn: Pfn): void {
    this.#drop(vcpu, Access.Write * KIND_BYTES, KIND_BYTES, -1, pfn << 12);
    this.#drop(vcpu, MICRO_WRITE, MICRO_BYTES, -1, pfn << 12);
  }

  /** All Write entries. */
  dropAllWrites(vcpu: VcpuPtr): void {
    const tlb = this.#words[vcpu + AT.tlb]! * 4;
    for (let set = 0; set < TLB_SETS; set++) {
      this.#ops.fill(tlb + set * SET_BYTES + Access.Write * KIND_BYTES, 0xff, KIND_BYTES);
      this.#ops.fill(tlb + set * SET_BYTES + MICRO_WRITE, 0xff, MICRO_BYTES);
    }
  }

  /** Matching entries of a part of every set; see DropMatching. */
  #drop(vcpu: VcpuPtr, part: number, bytes: number, mask: number, sum: number): void {
    for (let set = 0; set < TLB_SETS; set++) {
      if (!this.#contexts.isLive(vcpu, set)) continue;
      const first = this.#setByte(vcpu, set) + part;
      this.#ops.dropMatching(first, first + bytes, mask, sum);
    }
  }
}

const filterByte = (pfn: Pfn): number => pfn & (FILTER_BYTES - 1);

/** Where the filter has the 2 MiB (level 1) or 1 GiB (level 2) region around an address. */
function superpageBit(lo: number, hi: number, level: number): number {
  const { shift, factor, addend } = SUPERPAGE_HASH[level]!;
  const region = (hi << (32 - shift)) | (lo >>> shift);
  return ((Math.imul(region, factor) + addend) | 0) >>> (32 - SUPERPAGE_HASH_BITS);
}
