import { Access, type Exit, type VcpuPtr } from './interface.ts';
import type { Tlb } from './tlb.ts';
import { AT, Interrupt, Privilege, Status } from './vcpu.ts';

/** Exception codes of `scause`. */
export const Cause = {
  FetchAccess: 1,
  Illegal: 2,
  Breakpoint: 3,
  LoadMisaligned: 4,
  LoadAccess: 5,
  StoreMisaligned: 6,
  StoreAccess: 7,
  UserEcall: 8,
  FetchPage: 12,
  LoadPage: 13,
  StorePage: 15,
} as const;

/** By `Access`. */
export const PAGE_FAULT = [Cause.LoadPage, Cause.StorePage, Cause.FetchPage] as const;
export const ACCESS_FAULT = [Cause.LoadAccess, Cause.StoreAccess, Cause.FetchAccess] as const;

/** Ways out of an instruction: traps, and exits that leave it undone. All delegated to S-mode (medeleg). */
export class Traps {
  readonly #words: Int32Array;
  readonly #tlb: Tlb;

  constructor(words: Int32Array, tlb: Tlb) {
    this.#words = words;
    this.#tlb = tlb;
  }

  /** An exception of the instruction in progress, which does not retire. */
  exception(vcpu: VcpuPtr, cause: number, tvalLo: number, tvalHi: number): void {
    this.#words[vcpu + AT.unretired]!++;
    this.enter(vcpu, cause, false, tvalLo, tvalHi);
  }

  /** An exception of the access that an instruction, or the fetch of one, makes. */
  fault(vcpu: VcpuPtr, cause: number, access: Access, lo: number, hi: number): void {
    // A fetch was not counted; it costs one all the same, so that a handler that can't be fetched ends.
    if (access === Access.Exec) this.#words[vcpu + AT.left]!--;
    this.exception(vcpu, cause, lo, hi);
  }

  /** Takes back that an instruction was begun: it will be begun again. */
  retry(vcpu: VcpuPtr, access: Access): void {
    if (access !== Access.Exec) this.#words[vcpu + AT.left]!++;
  }

  leave(vcpu: VcpuPtr, exit: Exit): void {
    this.#words[vcpu + AT.leave] = 1 + exit;
  }

  /** The privileged manual, "Supervisor Trap Handling": what hardware does on a trap into S-mode. */
  enter(vcpu: VcpuPtr, cause: number, interrupt: boolean, tvalLo: number, tvalHi: number): void {
    const w = this.#words;
    w[vcpu + AT.sepc] = w[vcpu + AT.pc]!;
    w[vcpu + AT.sepc + 1] = w[vcpu + AT.pc + 1]!;
    w[vcpu + AT.scause] = cause;
    w[vcpu + AT.scause + 1] = interrupt ? 1 << 31 : 0;
    w[vcpu + AT.stval] = tvalLo;
    w[vcpu + AT.stval + 1] = tvalHi;
    this.#pushPrivilege(vcpu);
    const stvec = w[vcpu + AT.stvec]!;
    this.#jump(vcpu, stvec & ~3, w[vcpu + AT.stvec + 1]!, interrupt && (stvec & 1) !== 0 ? 4 * cause : 0);
  }

  #jump(vcpu: VcpuPtr, lo: number, hi: number, offset: number): void {
    const low = (lo >>> 0) + offset;
    this.#words[vcpu + AT.pc] = low;
    this.#words[vcpu + AT.pc + 1] = low > 0xffffffff ? hi + 1 : hi;
  }

  #pushPrivilege(vcpu: VcpuPtr): void {
    const w = this.#words;
    let status = w[vcpu + AT.sstatus]! & ~(Status.SPP | Status.SPIE | Status.SIE);
    if (w[vcpu + AT.privilege] === Privilege.Supervisor) status |= Status.SPP;
    if ((w[vcpu + AT.sstatus]! & Status.SIE) !== 0) status |= Status.SPIE;
    w[vcpu + AT.sstatus] = status;
    w[vcpu + AT.privilege] = Privilege.Supervisor;
    this.#tlb.select(vcpu);
  }

  sret(vcpu: VcpuPtr): void {
    const w = this.#words;
    const before = w[vcpu + AT.sstatus]!;
    let status = (before & ~(Status.SPP | Status.SIE)) | Status.SPIE;
    if ((before & Status.SPIE) !== 0) status |= Status.SIE;
    w[vcpu + AT.sstatus] = status;
    w[vcpu + AT.privilege] = (before & Status.SPP) === 0 ? Privilege.User : Privilege.Supervisor;
    w[vcpu + AT.pc] = w[vcpu + AT.sepc]!;
    w[vcpu + AT.pc + 1] = w[vcpu + AT.sepc + 1]!;
    this.#tlb.select(vcpu);
  }

  /** Interrupts that are pending and enabled one by one, whatever the privilege; what ends a `wfi`. */
  waiting(vcpu: VcpuPtr): number {
    return Atomics.load(this.#words, vcpu + AT.pending) & this.#words[vcpu + AT.sie]!;
  }

  /** Takes the first interrupt that may be taken now, in the order external, software, timer. */
  interrupt(vcpu: VcpuPtr): void {
    const waiting = this.waiting(vcpu);
    if (waiting === 0) return;
    const user = this.#words[vcpu + AT.privilege] === Privilege.User;
    if (!user && (this.#words[vcpu + AT.sstatus]! & Status.SIE) === 0) return;
    let code = 5;
    if ((waiting & Interrupt.External) !== 0) code = 9;
    else if ((waiting & Interrupt.Software) !== 0) code = 1;
    this.enter(vcpu, code, true, 0, 0);
  }
}
