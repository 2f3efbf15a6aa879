import type { Pfn } from '../base/units.ts';
import { Access, type VcpuPtr } from './interface.ts';
import {
  FILTER_BYTES,
  INDEX_MASK,
  KIND_BYTES,
  MICRO_BYTES,
  MICRO_READ,
  MICRO_WRITE,
  SET_BYTES,
  TLB_BYTES,
  TLB_SETS,
  TlbSet,
} from './tlb-layout.ts';
import { AT, CROSS_ENTRIES, CROSS_WORDS, Privilege, Status } from './vcpu.ts';

const KIND_WORDS = KIND_BYTES / 4;
const SET_WORDS = SET_BYTES / 4;
const SUPERPAGE_BITS = 64 * 32;

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

/** From generated code. */
export type TlbOps = { fill: Fill; dropMatching: DropMatching; dropFrames: DropFrames };

/** Writes and drops the entries of the vCPUs' TLBs; generated code reads them. */
export class Tlb {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #ops: TlbOps;

  constructor(words: Int32Array, ops: TlbOps) {
    this.#words = words;
    this.#bytes = new Uint8Array(words.buffer);
    this.#ops = ops;
  }

  /** Points the vCPU at the set that its privilege and SUM ask for. After any change of either. */
  select(vcpu: VcpuPtr): void {
    const w = this.#words;
    let set: number = TlbSet.User;
    if (w[vcpu + AT.privilege] === Privilege.Supervisor) {
      set = (w[vcpu + AT.sstatus]! & Status.SUM) === 0 ? TlbSet.Supervisor : TlbSet.SupervisorSum;
    }
    w[vcpu + AT.tlbBase] = w[vcpu + AT.tlb]! * 4 + set * SET_BYTES;
    // What a supervisor may do without SUM it may do with it.
    w[vcpu + AT.tlbBorrow] = set === TlbSet.SupervisorSum ? SET_BYTES : 0;
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
    const w = this.#words;
    if (w[vcpu + AT.tlb] !== 0) this.#ops.fill(w[vcpu + AT.tlb]! * 4, 0xff, TLB_BYTES);
    w[vcpu + AT.tlbLocal] = 0;
    w.fill(0, vcpu + AT.superpages, vcpu + AT.superpages + 64);
    this.dropCrossing(vcpu);
  }

  /** All that rests on frames: the TLBs, page-table frames, and the reservation (J-10). */
  flushHost(vcpu: VcpuPtr): void {
    this.flush(vcpu);
    this.#words[vcpu + AT.reservation] = 0;
    this.#words.fill(0, vcpu + AT.walkCache, vcpu + AT.walkCache + 128);
  }

  /**
   * What rests on some frames: data entries, page-table frames, the reservation (J-10), and now and then an
   * entry of another frame, as the filter is a hash. Exec entries go by the code cache's generation.
   */
  dropFrames(vcpu: VcpuPtr, pfns: Int32Array, count: number): void {
    const filter = this.#words[vcpu + AT.tlb]! * 4 + TLB_BYTES;
    for (let i = 0; i < count; i++) this.#bytes[filter + filterByte(pfns[i]!)] = 1;
    for (let set = 0; set < TLB_SETS; set++) {
      const first = filter - TLB_BYTES + set * SET_BYTES;
      this.#ops.dropFrames(first, first + 2 * KIND_BYTES, filter);
      this.#ops.dropFrames(first + MICRO_READ, first + SET_BYTES, filter);
    }
    this.#dropWalks(vcpu, filter);
    if (this.#bytes[filter + filterByte(this.#words[vcpu + AT.reservation]! >>> 12)] !== 0) {
      this.#words[vcpu + AT.reservation] = 0;
    }
    for (let i = 0; i < count; i++) this.#bytes[filter + filterByte(pfns[i]!)] = 0;
    this.dropCrossing(vcpu);
  }

  #dropWalks(vcpu: VcpuPtr, filter: number): void {
    const cache = vcpu + AT.walkCache;
    for (let at = cache; at < cache + 128; at += 2) {
      if (this.#bytes[filter + filterByte(this.#words[at + 1]!)] !== 0) this.#words[at] = 0;
    }
  }

  /** What another address space must not see. The supervisor's set mostly holds global pages only. */
  flushLocal(vcpu: VcpuPtr): void {
    const w = this.#words;
    if (w[vcpu + AT.tlbLocal] !== 0) {
      this.flush(vcpu);
      return;
    }
    const tlb = w[vcpu + AT.tlb]! * 4;
    this.#ops.fill(tlb + TlbSet.User * SET_BYTES, 0xff, SET_BYTES);
    this.#ops.fill(tlb + TlbSet.SupervisorSum * SET_BYTES, 0xff, SET_BYTES);
    this.dropCrossing(vcpu);
  }

  /** The leaf that translates one address: its page, or everything if that may be part of a superpage. */
  flushPage(vcpu: VcpuPtr, lo: number, hi: number): void {
    if (this.#maybeSuperpage(vcpu, lo, hi)) {
      this.flush(vcpu);
      return;
    }
    const first = this.#words[vcpu + AT.tlb]! + (((lo >>> 8) & INDEX_MASK) >>> 2);
    for (let set = 0; set < TLB_SETS; set++) {
      for (let kind = 0; kind < 3; kind++) {
        this.#dropPage(first + set * SET_WORDS + kind * KIND_WORDS, lo, hi);
      }
    }
    this.#dropMicro(vcpu);
    this.dropCrossing(vcpu);
  }

  #dropPage(at: number, lo: number, hi: number): void {
    const w = this.#words;
    if (w[at] === (lo & ~0xfff) && w[at + 1] === hi) w.fill(-1, at, at + 2);
  }

  /** All micro entries: to fill one anew is cheaper than to look at each. */
  #dropMicro(vcpu: VcpuPtr): void {
    const first = this.#words[vcpu + AT.tlb]! * 4 + MICRO_READ;
    for (let set = 0; set < TLB_SETS; set++) this.#ops.fill(first + set * SET_BYTES, 0xff, 2 * MICRO_BYTES);
  }

  /** `sfence.vma` without an address; an asid below 0 is everybody's. */
  fence(vcpu: VcpuPtr, asid: number): void {
    if (asid < 0) this.flush(vcpu);
    else if (this.#isCurrent(vcpu, asid)) this.flushLocal(vcpu);
  }

  /** `sfence.vma` of one address. */
  fencePage(vcpu: VcpuPtr, asid: number, lo: number, hi: number): void {
    if (asid < 0 || this.#isCurrent(vcpu, asid)) this.flushPage(vcpu, lo, hi);
  }

  /** Of an address space that is not the current one nothing is cached. */
  #isCurrent(vcpu: VcpuPtr, asid: number): boolean {
    return ((this.#words[vcpu + AT.satp + 1]! >>> 12) & 0xffff) === asid;
  }

  /** Remembers that pages of the superpage around an address may be cached. */
  noteSuperpage(vcpu: VcpuPtr, lo: number, hi: number, level: number): void {
    const bit = superpageBit(lo, hi, level);
    this.#words[vcpu + AT.superpages + (bit >>> 5)]! |= 1 << (bit & 31);
  }

  #maybeSuperpage(vcpu: VcpuPtr, lo: number, hi: number): boolean {
    const filter = vcpu + AT.superpages;
    for (let level = 1; level <= 2; level++) {
      const bit = superpageBit(lo, hi, level);
      if ((this.#words[filter + (bit >>> 5)]! & (1 << (bit & 31))) !== 0) return true;
    }
    return false;
  }

  dropCrossing(vcpu: VcpuPtr): void {
    for (let i = 0; i < CROSS_ENTRIES; i++) {
      this.#words[vcpu + AT.cross + i * CROSS_WORDS] = 0;
      this.#words[vcpu + AT.cross + i * CROSS_WORDS + 1] = 0;
    }
  }

  /** All Exec entries. */
  flushExec(vcpu: VcpuPtr): void {
    const tlb = this.#words[vcpu + AT.tlb]! * 4;
    for (let set = 0; set < TLB_SETS; set++) {
      this.#ops.fill(tlb + set * SET_BYTES + Access.Exec * KIND_BYTES, 0xff, KIND_BYTES);
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

  /** Matching entries of a part of every set; see DropMatching. */
  #drop(vcpu: VcpuPtr, part: number, bytes: number, mask: number, sum: number): void {
    const tlb = this.#words[vcpu + AT.tlb]! * 4 + part;
    for (let set = 0; set < TLB_SETS; set++) {
      const first = tlb + set * SET_BYTES;
      this.#ops.dropMatching(first, first + bytes, mask, sum);
    }
  }
}

const filterByte = (pfn: Pfn): number => pfn & (FILTER_BYTES - 1);

/** Where the filter has the 2 MiB (level 1) or 1 GiB (level 2) region around an address. */
function superpageBit(lo: number, hi: number, level: number): number {
  const gigabyte = (hi << 2) | (lo >>> 30);
  const region = level === 2 ? gigabyte * 7 + 3 : gigabyte * 512 + ((lo >>> 21) & 511);
  return (region >>> 0) % SUPERPAGE_BITS;
}
