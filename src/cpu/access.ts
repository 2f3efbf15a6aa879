import type { Pfn } from '../base/units.ts';
import { type Arena, frameByte } from '../sync/arena.ts';
import { BUSY, type CodeCache } from './code-cache.ts';
import { Op, RECORD_BYTES } from './decoded.ts';
import type { Decoder } from './decoder.ts';
import type { FlushRequests } from './flush-requests.ts';
import { Access, Exit, Miss, type VcpuPtr } from './interface.ts';
import type { Mmu } from './mmu.ts';
import type { Tlb } from './tlb.ts';
import { ACCESS_FAULT, Cause, type Traps } from './trap.ts';
import { AT, CROSS_ENTRIES, CROSS_RECORD, CROSS_WORDS } from './vcpu.ts';

/**
 * Returns when no other vCPU of the VM can use a Write entry for the frame, or, for frame 0, an Exec entry for a page
 * that was dropped, of those it had before the call. See CpuOptions.
 */
export type FlushOthers = ((vcpu: VcpuPtr, pfn: Pfn | 0) => void) | undefined;

export type AccessParts = {
  arena: Arena;
  mmu: Mmu;
  tlb: Tlb;
  traps: Traps;
  cache: CodeCache;
  decoder: Decoder;
  flushes: FlushRequests;
  flushOthers: FlushOthers;
  /** Eight aligned bytes by one store. */
  copy64(to: number, from: number): void;
  /** Test: before a store of `bytes` at an arena byte address. */
  willWrite?: ((at: number, bytes: number) => void) | undefined;
};

/**
 * The accesses that generated code could not make: it filled in `ea`, `data`, pc and `left`. Each returns
 * 0 when the record now says something else than to go on: a trap's pc, an exit, or a retry.
 */
export class SlowAccess {
  readonly #words: Int32Array;
  readonly #bytes: Uint8Array;
  readonly #halves: Uint16Array;
  readonly #parts: AccessParts;

  constructor(parts: AccessParts) {
    this.#parts = parts;
    this.#words = parts.arena.words;
    this.#bytes = parts.arena.bytes;
    this.#halves = new Uint16Array(parts.arena.memory.buffer);
  }

  /** Host byte address of what a load reads. */
  load(vcpu: VcpuPtr, bytes: number): number {
    const lo = this.#words[vcpu + AT.ea]!;
    const hi = this.#words[vcpu + AT.ea + 1]!;
    if ((lo & 0xfff) + bytes > 4096) return this.#loadAcross(vcpu, bytes, lo, hi);
    const pfn = this.#parts.mmu.page(vcpu, Access.Read, lo, hi);
    if (pfn === Miss.Mmio) return this.#deviceRead(vcpu, bytes, lo, hi);
    if (pfn < 0) return 0;
    this.#cacheData(vcpu, Access.Read, pfn, lo, hi);
    return frameByte(pfn) + (lo & 0xfff);
  }

  /**
   * Makes the entry for a data access at the record's `ea`, of which `left` is up to date; 1 if there is one now.
   * Else the instruction is the interpreter's, and so is a store to a frame with decoded code.
   */
  refill(vcpu: VcpuPtr, access: Access): number {
    const lo = this.#words[vcpu + AT.ea]!;
    const hi = this.#words[vcpu + AT.ea + 1]!;
    const pfn = this.#parts.mmu.probe(vcpu, access, lo, hi);
    if (pfn < 0) return 0;
    const code = this.#words[vcpu + AT.code]! as never;
    if (access === Access.Write && this.#parts.cache.holds(code, pfn)) return 0;
    this.#cacheData(vcpu, access, pfn, lo, hi);
    return 1;
  }

  #cacheData(vcpu: VcpuPtr, access: Access, pfn: Pfn, lo: number, hi: number): void {
    this.#parts.tlb.insert(vcpu, access, lo, hi, ((pfn << 12) - (lo & ~0xfff)) | 0);
  }

  /** Both pages before either byte; then the bytes side by side in `bounce`. */
  #loadAcross(vcpu: VcpuPtr, bytes: number, lo: number, hi: number): number {
    const first = this.#ram(vcpu, Access.Read, lo, hi);
    if (first < 0) return 0;
    const second = this.#ram(vcpu, Access.Read, nextPageLo(lo), nextPageHi(lo, hi));
    if (second < 0) return 0;
    const bounce = (vcpu + AT.bounce) * 4;
    const inFirst = 4096 - (lo & 0xfff);
    this.#bytes.copyWithin(bounce, frameByte(first) + (lo & 0xfff), frameByte(first) + 4096);
    this.#bytes.copyWithin(bounce + inFirst, frameByte(second), frameByte(second) + bytes - inFirst);
    return bounce;
  }

  /** A page that must be memory: a device can't answer half an access, or an atomic one. */
  #ram(vcpu: VcpuPtr, access: Access, lo: number, hi: number): Pfn | number {
    const pfn = this.#parts.mmu.page(vcpu, access, lo, hi);
    if (pfn === Miss.Mmio) this.#parts.traps.fault(vcpu, ACCESS_FAULT[access], access, lo, hi);
    return pfn;
  }

  /** 1 when stored. Frames with decoded code lose it. */
  store(vcpu: VcpuPtr, bytes: number): number {
    const lo = this.#words[vcpu + AT.ea]!;
    const hi = this.#words[vcpu + AT.ea + 1]!;
    if ((lo & 0xfff) + bytes > 4096) return this.#storeAcross(vcpu, bytes, lo, hi);
    const pfn = this.#parts.mmu.page(vcpu, Access.Write, lo, hi);
    if (pfn === Miss.Mmio) return this.#deviceWrite(vcpu, bytes, lo, hi);
    if (pfn < 0) return 0;
    this.#prepareWrite(vcpu, pfn, lo, hi);
    this.#put(vcpu, frameByte(pfn) + (lo & 0xfff), bytes);
    return 1;
  }

  #prepareWrite(vcpu: VcpuPtr, pfn: Pfn, lo: number, hi: number): void {
    this.#dropCode(vcpu, pfn);
    this.#cacheData(vcpu, Access.Write, pfn, lo, hi);
  }

  #dropCode(vcpu: VcpuPtr, pfn: Pfn): void {
    const { cache, tlb } = this.#parts;
    const code = this.#words[vcpu + AT.code]! as never;
    const before = cache.generation(code);
    const slot = cache.drop(code, pfn);
    if (slot === 0) return;
    tlb.dropSlot(vcpu, slot);
    // Nobody else dropped anything meanwhile: this vCPU is up to date.
    if (this.#words[vcpu + AT.codeSeen] === before && cache.generation(code) === before + 1) {
      this.#words[vcpu + AT.codeSeen] = before + 1;
    }
  }

  /** Aligned stores are single ones, as other harts may look. */
  #put(vcpu: VcpuPtr, at: number, bytes: number): void {
    this.#parts.willWrite?.(at, bytes);
    const data = vcpu + AT.data;
    if (bytes === 8 && at % 8 === 0) {
      this.#parts.copy64(at, data * 4);
    } else if (bytes === 4 && at % 4 === 0) {
      this.#words[at >>> 2] = this.#words[data]!;
    } else if (bytes === 2 && at % 2 === 0) {
      this.#halves[at / 2] = this.#words[data]!;
    } else {
      this.#bytes.copyWithin(at, data * 4, data * 4 + bytes);
    }
  }

  #storeAcross(vcpu: VcpuPtr, bytes: number, lo: number, hi: number): number {
    const first = this.#ram(vcpu, Access.Write, lo, hi);
    if (first < 0) return 0;
    const second = this.#ram(vcpu, Access.Write, nextPageLo(lo), nextPageHi(lo, hi));
    if (second < 0) return 0;
    this.#dropCode(vcpu, first);
    this.#dropCode(vcpu, second);
    const data = (vcpu + AT.data) * 4;
    const inFirst = 4096 - (lo & 0xfff);
    this.#parts.willWrite?.(frameByte(first) + (lo & 0xfff), inFirst);
    this.#parts.willWrite?.(frameByte(second), bytes - inFirst);
    this.#bytes.copyWithin(frameByte(first) + (lo & 0xfff), data, data + inFirst);
    this.#bytes.copyWithin(frameByte(second), data + inFirst, data + bytes);
    return 1;
  }

  /** Host byte address for an atomic instruction. */
  atomic(vcpu: VcpuPtr, bytes: number, access: Access): number {
    const lo = this.#words[vcpu + AT.ea]!;
    const hi = this.#words[vcpu + AT.ea + 1]!;
    if ((lo & (bytes - 1)) !== 0) {
      const cause = access === Access.Read ? Cause.LoadMisaligned : Cause.StoreMisaligned;
      this.#parts.traps.fault(vcpu, cause, access, lo, hi);
      return 0;
    }
    const pfn = this.#ram(vcpu, access, lo, hi);
    if (pfn < 0) return 0;
    if (access === Access.Write) this.#prepareWrite(vcpu, pfn, lo, hi);
    else this.#cacheData(vcpu, access, pfn, lo, hi);
    return frameByte(pfn) + (lo & 0xfff);
  }

  #deviceRead(vcpu: VcpuPtr, bytes: number, lo: number, hi: number): number {
    this.#deviceExit(vcpu, Access.Read, bytes, lo, hi);
    return 0;
  }

  #deviceWrite(vcpu: VcpuPtr, bytes: number, lo: number, hi: number): number {
    if (!this.#deviceExit(vcpu, Access.Write, bytes, lo, hi)) return 0;
    this.#words[vcpu + AT.exitData] = this.#words[vcpu + AT.data]!;
    this.#words[vcpu + AT.exitData + 1] = this.#words[vcpu + AT.data + 1]!;
    return 0;
  }

  /** Devices take aligned accesses only; anything else is an access fault. */
  #deviceExit(vcpu: VcpuPtr, access: Access, bytes: number, lo: number, hi: number): boolean {
    const { mmu, traps } = this.#parts;
    if ((lo & (bytes - 1)) !== 0) {
      traps.fault(vcpu, ACCESS_FAULT[access], access, lo, hi);
      return false;
    }
    mmu.setExitGpa(vcpu, lo & 0xfff);
    this.#words[vcpu + AT.exitBytes] = bytes;
    this.#words[vcpu + AT.exitIsWrite] = access;
    traps.retry(vcpu, access);
    traps.leave(vcpu, Exit.Mmio);
    return true;
  }

  /** Makes the Exec entry for the record's pc. */
  fetch(vcpu: VcpuPtr): void {
    const lo = this.#words[vcpu + AT.pc]!;
    const hi = this.#words[vcpu + AT.pc + 1]!;
    if (this.#parts.tlb.borrow(vcpu, Access.Exec, lo, hi)) return;
    const pfn = this.#ram(vcpu, Access.Exec, lo, hi);
    if (pfn < 0) return;
    const slot = this.#slot(vcpu, pfn);
    if (slot !== 0) this.#parts.tlb.insert(vcpu, Access.Exec, lo, hi, slot);
  }

  /**
   * The decoded page of a frame; from now on stores to the frame come here. 0 when the fetch is to be begun again,
   * as this vCPU was outside meanwhile and had requests to serve, or another makes the page.
   */
  #slot(vcpu: VcpuPtr, pfn: Pfn): number {
    this.#parts.flushes.noticeDrops(vcpu);
    const { cache, tlb } = this.#parts;
    const code = this.#words[vcpu + AT.code]! as never;
    const found = cache.find(code, pfn);
    if (found !== 0) return found;
    const slot = cache.begin(code, pfn);
    if (slot < 0) {
      if (slot !== BUSY) this.#makeRoom(vcpu);
      return 0;
    }
    tlb.dropWrites(vcpu, pfn);
    if (!this.#tellOthers(vcpu, pfn)) {
      cache.abandon(code, pfn, slot);
      return 0;
    }
    // Should the frame have been zapped since it was resolved, the drop came before the page was here; the
    // flush that goes with it makes good for that. See FlushRequests.
    this.#words[vcpu + AT.codeAdded + 1] = this.#words[vcpu + AT.codeAdded]!;
    this.#words[vcpu + AT.codeAdded] = pfn;
    return cache.publish(code, pfn, slot);
  }

  /**
   * Returns when no other vCPU can store to the frame without noticing that it is code, or, without one, execute
   * from a page that was dropped. Outside meanwhile, so that two that tell each other don't wait for ever; false
   * if this vCPU was asked for something, as what it has resolved may be gone.
   */
  #tellOthers(vcpu: VcpuPtr, pfn: Pfn | 0): boolean {
    const { flushOthers, mmu } = this.#parts;
    return flushOthers === undefined || mmu.outside(vcpu, () => flushOthers(vcpu, pfn));
  }

  #makeRoom(vcpu: VcpuPtr): void {
    const { cache, tlb } = this.#parts;
    const code = this.#words[vcpu + AT.code]! as never;
    if (!cache.tryEvict(code)) return;
    tlb.flushExec(vcpu);
    this.#tellOthers(vcpu, 0);
    cache.reclaim(code);
  }

  /** Decodes the instruction at the record's pc, of which the second half lies in the next page. */
  cross(vcpu: VcpuPtr): void {
    const lo = this.#words[vcpu + AT.pc]!;
    const hi = this.#words[vcpu + AT.pc + 1]!;
    const first = this.#ram(vcpu, Access.Exec, lo, hi);
    if (first < 0) return;
    const second = this.#ram(vcpu, Access.Exec, nextPageLo(lo), nextPageHi(lo, hi));
    if (second < 0) return;
    // Both frames are code now, so that no store to either goes unnoticed.
    if (this.#slot(vcpu, first) === 0 || this.#slot(vcpu, second) === 0) return;
    const low = this.#halves[frameByte(first) / 2 + 2047]!;
    const raw = low | (this.#halves[frameByte(second) / 2]! << 16);
    const at = vcpu + AT.cross + ((lo >>> 12) % CROSS_ENTRIES) * CROSS_WORDS;
    this.#words[vcpu + AT.crossed] = 1;
    this.#parts.decoder.writeAlone(at + CROSS_RECORD, raw);
    this.#words[at + CROSS_RECORD + (2 * RECORD_BYTES) / 4] = Op.PageEnd;
    this.#words[at] = lo | this.#words[vcpu + AT.privilege]!;
    this.#words[at + 1] = hi;
  }
}

const nextPageLo = (lo: number): number => ((lo & ~0xfff) + 4096) | 0;
const nextPageHi = (lo: number, hi: number): number => (lo >>> 12 === 0xfffff ? (hi + 1) | 0 : hi);
