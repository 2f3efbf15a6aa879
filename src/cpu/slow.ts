import { assert } from '../base/assert.ts';
import type { SlowAccess } from './access.ts';
import type { CodeCache } from './code-cache.ts';
import type { Csrs } from './csr.ts';
import { NO_ROW, rdOf, rowOf, rs1Of, rs2Of, wordOf } from './decode.ts';
import { Op, RECORD } from './decoded.ts';
import type { Decoder } from './decoder.ts';
import type { FlushRequests } from './flush-requests.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { Exit, type VcpuPtr } from './interface.ts';
import type { Mmu } from './mmu.ts';
import type { Tlb } from './tlb.ts';
import { Cause, type Traps } from './trap.ts';
import { AT, type CodePtr, Privilege, Status } from './vcpu.ts';

export type SlowParts = {
  words: Int32Array;
  csrs: Csrs;
  traps: Traps;
  tlb: Tlb;
  mmu: Mmu;
  access: SlowAccess;
  cache: CodeCache;
  decoder: Decoder;
  flushes: FlushRequests;
};
type Handler = (vcpu: VcpuPtr, word: number, raw: number) => void;

/** Instructions without generated semantics, and those that generated code gave up on. */
export class SlowInstructions {
  readonly #words: Int32Array;
  readonly #parts: SlowParts;
  /** By row number; undefined where the row has generated semantics. */
  readonly #handlers: readonly (Handler | undefined)[];

  constructor(parts: SlowParts) {
    this.#words = parts.words;
    this.#parts = parts;
    this.#handlers = this.#bind();
  }

  #bind(): (Handler | undefined)[] {
    const byName: Record<string, Handler> = {
      ecall: vcpu => this.#ecall(vcpu),
      ebreak: (vcpu, _word, raw) => this.#ebreak(vcpu, raw),
      sret: (vcpu, _word, raw) => this.#sret(vcpu, raw),
      wfi: (vcpu, _word, raw) => this.#wfi(vcpu, raw),
      'sfence.vma': (vcpu, word, raw) => this.#sfence(vcpu, word, raw),
      'fence.i': (vcpu, _word, raw) => this.#fenceI(vcpu, raw),
    };
    const csr: Handler = (vcpu, word, raw) => this.#csr(vcpu, word, raw);
    return INSTRUCTIONS.map(row => {
      if (row.emit !== undefined) return undefined;
      const handler = row.name.startsWith('csr') ? csr : byName[row.name];
      assert(handler !== undefined, 'every instruction without semantics has a handler');
      return handler;
    });
  }

  /** Executes the instruction at pc, whose decoded record is at byte address `dp`. */
  execute(vcpu: VcpuPtr, dp: number): void {
    const isSlow = (this.#words[dp >>> 2]! & 0xffff) === Op.Slow;
    const raw = isSlow ? this.#words[(dp + RECORD.raw) >>> 2]! : this.#rawOf(vcpu, dp);
    if (raw === undefined) return;
    const word = wordOf(raw);
    const row = rowOf(word);
    if (row === NO_ROW) {
      this.#illegal(vcpu, raw);
      return;
    }
    const handler = this.#handlers[row];
    if (handler !== undefined) handler(vcpu, word, raw);
    else this.#enableFloat(vcpu, word, raw);
  }

  /**
   * The instruction that the record at `dp` was made from. Undefined when it may be another by now, and is to be begun
   * again: a page is dropped before a store to it, so what stood there while none was dropped is what was decoded.
   */
  #rawOf(vcpu: VcpuPtr, dp: number): number | undefined {
    const { cache, decoder, flushes } = this.#parts;
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const raw = decoder.rawOf(code, dp);
    if (cache.generation(code) === this.#words[vcpu + AT.codeSeen]) return raw;
    flushes.noticeDrops(vcpu);
    this.#words[vcpu + AT.left]!++;
    return undefined;
  }

  #illegal(vcpu: VcpuPtr, raw: number): void {
    this.#parts.traps.exception(vcpu, Cause.Illegal, raw, 0);
  }

  #advance(vcpu: VcpuPtr, bytes: number): void {
    const lo = (this.#words[vcpu + AT.pc]! >>> 0) + bytes;
    this.#words[vcpu + AT.pc] = lo;
    if (lo > 0xffffffff) this.#words[vcpu + AT.pc + 1]!++;
  }

  #isUser(vcpu: VcpuPtr): boolean {
    return this.#words[vcpu + AT.privilege] === Privilege.User;
  }

  /** Floating point came here because FS was not Dirty, or because of its rounding mode. */
  #enableFloat(vcpu: VcpuPtr, word: number, raw: number): void {
    const status = this.#words[vcpu + AT.sstatus]!;
    const format = INSTRUCTIONS[rowOf(word)]!.format;
    const dynamic = format.imm === 'rm' && ((word >>> 12) & 7) === 7;
    if ((status & Status.FS) === 0 || (dynamic && this.#words[vcpu + AT.frm]! > 4)) {
      this.#illegal(vcpu, raw);
      return;
    }
    this.#words[vcpu + AT.sstatus] = status | Status.FS;
    this.#words[vcpu + AT.left]!++;
  }

  #csr(vcpu: VcpuPtr, word: number, raw: number): void {
    const csrs = this.#parts.csrs;
    const csr = word >>> 20;
    const funct3 = (word >>> 12) & 7;
    const source = rs1Of(word);
    const writes = (funct3 & 3) === 1 || source !== 0;
    if (!csrs.permits(vcpu, csr, writes)) {
      this.#illegal(vcpu, raw);
      return;
    }
    const immediate = funct3 >= 4;
    const lo = immediate ? source : this.#words[vcpu + AT.x + 2 * source]!;
    const hi = immediate ? 0 : this.#words[vcpu + AT.x + 2 * source + 1]!;
    csrs.read(vcpu, csr);
    const oldLo = csrs.lo;
    const oldHi = csrs.hi;
    if (writes) this.#writeCsr(vcpu, csr, funct3 & 3, lo, hi);
    const rd = rdOf(word);
    if (rd !== 0) {
      this.#words[vcpu + AT.x + 2 * rd] = oldLo;
      this.#words[vcpu + AT.x + 2 * rd + 1] = oldHi;
    }
    this.#advance(vcpu, 4);
    if (writes) this.#parts.traps.interrupt(vcpu);
  }

  /** `how`: 1 writes, 2 sets, 3 clears bits of what `read` left. */
  #writeCsr(vcpu: VcpuPtr, csr: number, how: number, lo: number, hi: number): void {
    const { csrs } = this.#parts;
    if (how === 1) csrs.write(vcpu, csr, lo, hi);
    else if (how === 2) csrs.write(vcpu, csr, csrs.lo | lo, csrs.hi | hi);
    else csrs.write(vcpu, csr, csrs.lo & ~lo, csrs.hi & ~hi);
  }

  /** From S-mode it is a call of the host, which continues after it. */
  #ecall(vcpu: VcpuPtr): void {
    if (this.#isUser(vcpu)) {
      this.#parts.traps.exception(vcpu, Cause.UserEcall, 0, 0);
      return;
    }
    this.#words[vcpu + AT.unretired]!++;
    this.#advance(vcpu, 4);
    this.#parts.traps.leave(vcpu, Exit.Sbi);
  }

  #ebreak(vcpu: VcpuPtr, _raw: number): void {
    const lo = this.#words[vcpu + AT.pc]!;
    this.#parts.traps.exception(vcpu, Cause.Breakpoint, lo, this.#words[vcpu + AT.pc + 1]!);
  }

  #sret(vcpu: VcpuPtr, raw: number): void {
    if (this.#isUser(vcpu)) {
      this.#illegal(vcpu, raw);
      return;
    }
    this.#parts.traps.sret(vcpu);
    this.#parts.traps.interrupt(vcpu);
  }

  #wfi(vcpu: VcpuPtr, raw: number): void {
    if (this.#isUser(vcpu)) {
      this.#illegal(vcpu, raw);
      return;
    }
    this.#advance(vcpu, 4);
    if (this.#parts.traps.waiting(vcpu) === 0) this.#parts.traps.leave(vcpu, Exit.Wfi);
  }

  #fenceI(vcpu: VcpuPtr, _raw: number): void {
    this.#advance(vcpu, 4);
    this.#parts.flushes.noticeDrops(vcpu);
    this.#parts.mmu.serve(vcpu);
  }

  #sfence(vcpu: VcpuPtr, word: number, raw: number): void {
    if (this.#isUser(vcpu)) {
      this.#illegal(vcpu, raw);
      return;
    }
    this.#advance(vcpu, 4);
    const { tlb } = this.#parts;
    const x = (n: number) => this.#words[vcpu + AT.x + n]!;
    const [rs1, rs2] = [2 * rs1Of(word), 2 * rs2Of(word)];
    const asid = rs2 === 0 ? -1 : x(rs2) & 0xffff;
    if (rs1 === 0) tlb.fence(vcpu, asid);
    else tlb.fencePage(vcpu, asid, x(rs1), x(rs1 + 1));
  }
}
