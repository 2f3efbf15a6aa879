import type { CpuPorts, VcpuPtr } from './interface.ts';
import { OwedFences } from './owed-fences.ts';
import type { Tlb } from './tlb.ts';
import { asidOf } from './tlb-contexts.ts';
import { AT, Interrupt, Privilege, Status } from './vcpu.ts';

/** CSR addresses. Those of M-mode do not exist here: the host is M-mode. */
export const Csr = {
  fflags: 0x001,
  frm: 0x002,
  fcsr: 0x003,
  sstatus: 0x100,
  sie: 0x104,
  stvec: 0x105,
  scounteren: 0x106,
  senvcfg: 0x10a,
  sscratch: 0x140,
  sepc: 0x141,
  scause: 0x142,
  stval: 0x143,
  sip: 0x144,
  satp: 0x180,
  cycle: 0xc00,
  time: 0xc01,
  instret: 0xc02,
} as const;

const KNOWN: ReadonlySet<number> = new Set(Object.values(Csr));
export const STATUS_WRITABLE = Status.SIE | Status.SPIE | Status.SPP | Status.FS | Status.SUM | Status.MXR;
const INTERRUPTS = Interrupt.Software | Interrupt.Timer | Interrupt.External;
/** sstatus.UXL = 64, read-only; in the high word. */
export const UXL = 2;
export const SD = 1 << 31;
const SATP_BARE = 0;
const SATP_SV39 = 8;

/** The CSRs by address. `read` leaves its result in `lo` and `hi`. */
export class Csrs {
  readonly #words: Int32Array;
  readonly #ports: CpuPorts;
  readonly #tlb: Tlb;
  readonly #owed: OwedFences;
  lo = 0;
  hi = 0;

  constructor(words: Int32Array, ports: CpuPorts, tlb: Tlb) {
    this.#words = words;
    this.#ports = ports;
    this.#tlb = tlb;
    this.#owed = new OwedFences(words);
  }

  /** Whether the current privilege may make this access; what it may not is an illegal instruction. */
  permits(vcpu: VcpuPtr, csr: number, writes: boolean): boolean {
    if (!KNOWN.has(csr)) return false;
    const privilege = this.#words[vcpu + AT.privilege]!;
    if (((csr >>> 8) & 3) > privilege) return false;
    if (csr >>> 10 === 3) return !writes && this.#permitsCounter(vcpu, csr, privilege);
    if (csr <= Csr.fcsr) return (this.#words[vcpu + AT.sstatus]! & Status.FS) !== 0;
    return true;
  }

  #permitsCounter(vcpu: VcpuPtr, csr: number, privilege: number): boolean {
    if (privilege === Privilege.Supervisor) return true;
    return (this.#words[vcpu + AT.scounteren]! & (1 << (csr - Csr.cycle))) !== 0;
  }

  read(vcpu: VcpuPtr, csr: number): void {
    const w = this.#words;
    this.hi = 0;
    switch (csr) {
      case Csr.fflags:
        this.lo = w[vcpu + AT.fflags]!;
        return;
      case Csr.frm:
        this.lo = w[vcpu + AT.frm]!;
        return;
      case Csr.fcsr:
        this.lo = (w[vcpu + AT.frm]! << 5) | w[vcpu + AT.fflags]!;
        return;
      case Csr.sstatus:
        this.lo = w[vcpu + AT.sstatus]!;
        this.hi = (this.lo & Status.FS) === Status.FS ? UXL | SD : UXL;
        return;
      case Csr.sie:
        this.lo = w[vcpu + AT.sie]!;
        return;
      case Csr.sip:
        this.lo = Atomics.load(w, vcpu + AT.pending) & INTERRUPTS;
        return;
      case Csr.scounteren:
        this.lo = w[vcpu + AT.scounteren]!;
        return;
      case Csr.senvcfg:
        this.lo = w[vcpu + AT.senvcfg]!;
        return;
      case Csr.cycle:
      case Csr.time:
      case Csr.instret:
        this.#readCounter(vcpu, csr);
        return;
      default:
        this.lo = w[vcpu + wide(csr)]!;
        this.hi = w[vcpu + wide(csr) + 1]!;
    }
  }

  /** Counts instructions for `cycle` too. The one that reads is begun but not retired. */
  #readCounter(vcpu: VcpuPtr, csr: number): void {
    const value = csr === Csr.time ? this.#ports.time(vcpu) : instret(this.#words, vcpu) - 1;
    this.lo = value | 0;
    this.hi = Math.floor(value / 2 ** 32);
  }

  /** WARL fields take what they can. */
  write(vcpu: VcpuPtr, csr: number, lo: number, hi: number): void {
    const w = this.#words;
    switch (csr) {
      case Csr.fflags:
        this.#writeFcsr(vcpu, w[vcpu + AT.frm]!, lo & 31);
        return;
      case Csr.frm:
        this.#writeFcsr(vcpu, lo & 7, w[vcpu + AT.fflags]!);
        return;
      case Csr.fcsr:
        this.#writeFcsr(vcpu, (lo >>> 5) & 7, lo & 31);
        return;
      case Csr.sstatus:
        this.#writeStatus(vcpu, lo);
        return;
      case Csr.sie:
        w[vcpu + AT.sie] = lo & INTERRUPTS;
        return;
      case Csr.sip:
        this.#writePending(vcpu, lo);
        return;
      case Csr.stvec:
        if ((lo & 2) === 0) this.#writeWide(vcpu, csr, lo, hi);
        return;
      case Csr.scounteren:
        w[vcpu + AT.scounteren] = lo & 7;
        return;
      case Csr.senvcfg:
        w[vcpu + AT.senvcfg] = lo & 1;
        return;
      case Csr.sepc:
        this.#writeWide(vcpu, csr, lo & ~1, hi);
        return;
      case Csr.satp:
        this.#writeSatp(vcpu, lo, hi);
        return;
      default:
        this.#writeWide(vcpu, csr, lo, hi);
    }
  }

  #writeWide(vcpu: VcpuPtr, csr: number, lo: number, hi: number): void {
    this.#words[vcpu + wide(csr)] = lo;
    this.#words[vcpu + wide(csr) + 1] = hi;
  }

  #writeFcsr(vcpu: VcpuPtr, frm: number, fflags: number): void {
    this.#words[vcpu + AT.frm] = frm;
    this.#words[vcpu + AT.fflags] = fflags;
    this.#words[vcpu + AT.sstatus]! |= Status.FS;
  }

  #writeStatus(vcpu: VcpuPtr, lo: number): void {
    const before = this.#words[vcpu + AT.sstatus]!;
    this.#words[vcpu + AT.sstatus] = lo & STATUS_WRITABLE;
    // Entries were made under the old MXR; nobody toggles it often.
    if (((before ^ lo) & Status.MXR) !== 0) this.#tlb.flush(vcpu);
    this.#tlb.select(vcpu);
  }

  /** Software can set and clear its own interrupt only. */
  #writePending(vcpu: VcpuPtr, lo: number): void {
    const at = vcpu + AT.pending;
    if ((lo & Interrupt.Software) !== 0) Atomics.or(this.#words, at, Interrupt.Software);
    else Atomics.and(this.#words, at, ~Interrupt.Software);
  }

  /** Writes of modes other than Bare and Sv39 have no effect. */
  #writeSatp(vcpu: VcpuPtr, lo: number, hi: number): void {
    const mode = hi >>> 28;
    if (mode !== SATP_BARE && mode !== SATP_SV39) return;
    const before = this.#words[vcpu + AT.satp + 1]!;
    const same = before === hi && this.#words[vcpu + AT.satp] === lo;
    this.#owed.enter(vcpu, asidOf(hi), this.#tlb);
    this.#writeWide(vcpu, Csr.satp, lo, hi);
    if (before >>> 28 !== mode) this.#tlb.flush(vcpu);
    else if (!same) this.#tlb.enterSpace(vcpu);
  }
}

/**
 * The `imm` of a decoded record for a CSR that generated code may access as storage (see Emit.csrStorage);
 * -1 for others.
 */
export function storageImm(csr: number): number {
  const stored = csr === Csr.sscratch || csr === Csr.sepc || csr === Csr.scause || csr === Csr.stval;
  return stored ? wide(csr) * 4 + (csr === Csr.sepc ? 1 : 0) : -1;
}

/** Where a 64-bit CSR that is plain storage has its words. */
function wide(csr: number): number {
  switch (csr) {
    case Csr.stvec:
      return AT.stvec;
    case Csr.sscratch:
      return AT.sscratch;
    case Csr.sepc:
      return AT.sepc;
    case Csr.scause:
      return AT.scause;
    case Csr.stval:
      return AT.stval;
    default:
      return AT.satp;
  }
}

/** Instructions retired, and the one in progress if there is one. */
export function instret(words: Int32Array, vcpu: VcpuPtr): number {
  const slice = words[vcpu + AT.budget]! - words[vcpu + AT.left]! - words[vcpu + AT.unretired]!;
  return (words[vcpu + AT.instret]! >>> 0) + words[vcpu + AT.instret + 1]! * 2 ** 32 + slice;
}
