import type { Gfn, Pfn } from '../base/units.ts';
import type { CpuBreaks } from './breaks.ts';
import type { FlushRequests } from './flush-requests.ts';
import { GFN_LIMIT, type HostTlb } from './host-tlb.ts';
import type { CpuPorts, VcpuPtr } from './interface.ts';
import { Access, Exit, Miss, Mode, SERVED, WRITES } from './interface.ts';
import { Pte } from './pte.ts';
import type { Tlb } from './tlb.ts';
import { ACCESS_FAULT, PAGE_FAULT, type Traps } from './trap.ts';
import { AT, Privilege, Status } from './vcpu.ts';

// Sv39: chapter "Supervisor-Level ISA", section "Sv39: Page-Based 39-bit Virtual-Memory System", with the
// behaviour of Svade: a leaf whose A, or for a store D, is clear faults; PTEs are never written.

/** Bits 54..63: reserved, Svpbmt and Svnapot, none of which this hart has. */
const RESERVED_HIGH = 0xffc00000;
const LEVELS = 3;

/** Outcomes below zero beside `Miss`. */
const PAGE_FAULTS = -5;
const ACCESS_FAULTS = -6;
/** The exit is recorded. */
const LEFT = -7;

export type MmuParts = {
  tlb: Tlb;
  host: HostTlb;
  traps: Traps;
  flushes: FlushRequests;
  breaks?: Partial<CpuBreaks> | undefined;
};

/** What interpreter-translate.ts does in wasm, and all that it leaves. */
export class Mmu {
  readonly #words: Int32Array;
  readonly #ports: CpuPorts;
  readonly #tlb: Tlb;
  readonly #host: HostTlb;
  readonly #traps: Traps;
  readonly #flushes: FlushRequests;
  readonly #breaks: Partial<CpuBreaks>;
  /** Of the last walk: the guest frame, and the leaf's level and G bit. */
  #gfn: Gfn = 0;
  #level = 0;
  #global = false;

  constructor(words: Int32Array, ports: CpuPorts, parts: MmuParts) {
    this.#words = words;
    this.#breaks = parts.breaks ?? {};
    this.#ports = ports;
    this.#flushes = parts.flushes;
    this.#tlb = parts.tlb;
    this.#host = parts.host;
    this.#traps = parts.traps;
  }

  /** The guest frame of the last `page` that missed. */
  get gfn(): Gfn {
    return this.#gfn;
  }

  /**
   * The frame behind a virtual address, for the instruction in progress. Below zero: Miss.Mmio is for the
   * caller to judge (`gfn` says where); everything else has become a trap, an exit or a retry already.
   */
  page(vcpu: VcpuPtr, access: Access, lo: number, hi: number): Pfn | number {
    const pfn = this.#translate(vcpu, access, lo, hi);
    if (pfn >= 0) {
      this.#note(vcpu, lo, hi);
      return pfn;
    }
    this.#refuse(vcpu, pfn, access, lo, hi);
    return pfn;
  }

  /**
   * As `page`, for who lets the interpreter begin the instruction again when there is no frame: nothing traps,
   * and no instruction is taken back. Exits are recorded all the same for what was promised to somebody: a
   * request to leave, and Blocked, of which the port has handed out a ticket.
   */
  probe(vcpu: VcpuPtr, access: Access, lo: number, hi: number): Pfn | number {
    const pfn = this.#translate(vcpu, access, lo, hi);
    if (pfn >= 0) this.#note(vcpu, lo, hi);
    else if (pfn === Miss.Blocked) this.#leaveForPage(vcpu, Exit.Blocked);
    return pfn;
  }

  #refuse(vcpu: VcpuPtr, outcome: number, access: Access, lo: number, hi: number): void {
    switch (outcome) {
      case PAGE_FAULTS:
        this.#traps.fault(vcpu, PAGE_FAULT[access], access, lo, hi);
        return;
      case ACCESS_FAULTS:
        this.#traps.fault(vcpu, ACCESS_FAULT[access], access, lo, hi);
        return;
      case Miss.Blocked:
        this.#leaveForPage(vcpu, Exit.Blocked);
        this.#traps.retry(vcpu, access);
        return;
      case Miss.Fault:
        this.setExitGpa(vcpu, 0);
        this.#leaveForPage(vcpu, Exit.MemoryFault);
        this.#traps.retry(vcpu, access);
        return;
      case Miss.Again:
      case LEFT:
        this.#traps.retry(vcpu, access);
        return;
    }
  }

  /**
   * Whoever brings the page may do anything to others meanwhile, and undo it: a SC that goes by the value alone would
   * not see it. So the reservation ends (T-UF-22).
   */
  #leaveForPage(vcpu: VcpuPtr, exit: Exit): void {
    if (!this.#breaks.keepReservation) this.#words[vcpu + AT.reservation] = 0;
    this.#traps.leave(vcpu, exit);
  }

  /** Records the guest physical address `offset` bytes into the last walk's page. */
  setExitGpa(vcpu: VcpuPtr, offset: number): void {
    const gpa = this.#gfn * 4096 + offset;
    this.#words[vcpu + AT.exitGpa] = gpa | 0;
    this.#words[vcpu + AT.exitGpa + 1] = Math.floor(gpa / 2 ** 32);
  }

  #note(vcpu: VcpuPtr, lo: number, hi: number): void {
    if (this.#level > 0) this.#tlb.noteSuperpage(vcpu, lo, hi, this.#level);
    // The supervisor's own set is the one that outlives a change of address space.
    const own =
      this.#words[vcpu + AT.privilege] === Privilege.Supervisor && this.#words[vcpu + AT.tlbBorrow] === 0;
    if (own && !this.#global) this.#words[vcpu + AT.tlbLocal] = 1;
  }

  #translate(vcpu: VcpuPtr, access: Access, lo: number, hi: number): number {
    const mode = this.#words[vcpu + AT.satp + 1]! >>> 28;
    return mode === 0 ? this.#bare(vcpu, access, lo, hi) : this.#walk(vcpu, access, lo, hi);
  }

  #bare(vcpu: VcpuPtr, access: Access, lo: number, hi: number): number {
    this.#level = 0;
    this.#global = true;
    // 56 bits of physical address.
    if (hi >>> 24 !== 0) return ACCESS_FAULTS;
    this.#gfn = (hi >>> 0) * 2 ** 20 + (lo >>> 12);
    return this.#resolve(vcpu, this.#gfn, access);
  }

  #walk(vcpu: VcpuPtr, access: Access, lo: number, hi: number): number {
    // Bits 63..39 must equal bit 38.
    if (hi >> 6 !== 0 && hi >> 6 !== -1) return PAGE_FAULTS;
    const satp = vcpu + AT.satp;
    let table = (this.#words[satp + 1]! & 0xfff) * 2 ** 32 + (this.#words[satp]! >>> 0);
    for (let level = LEVELS - 1; level >= 0; level--) {
      const pfn = this.#tableFrame(vcpu, table);
      if (pfn < 0) return pfn === Miss.Mmio ? ACCESS_FAULTS : pfn;
      const at = pfn * 1024 + 2 * vpn(lo, hi, level);
      const low = Atomics.load(this.#words, at);
      const high = Atomics.load(this.#words, at + 1);
      // Another hart stores both halves at once; what changes between the looks is looked at again.
      if (Atomics.load(this.#words, at) !== low) return Miss.Again;
      if (isInvalid(low, high)) return PAGE_FAULTS;
      const ppn = (high & 0x3fffff) * 2 ** 22 + (low >>> 10);
      if ((low & (Pte.R | Pte.X)) !== 0) return this.#leaf(vcpu, access, low, ppn, level, lo);
      if ((low & (Pte.D | Pte.A | Pte.U)) !== 0) return PAGE_FAULTS;
      table = ppn;
    }
    return PAGE_FAULTS;
  }

  #leaf(vcpu: VcpuPtr, access: Access, pte: number, ppn: number, level: number, lo: number): number {
    const span = 512 ** level;
    if (!this.#permits(vcpu, access, pte) || ppn % span !== 0) return PAGE_FAULTS;
    this.#level = level;
    this.#global = (pte & Pte.G) !== 0;
    this.#gfn = ppn + (((lo >>> 12) & 0x3ffff) % span);
    return this.#resolve(vcpu, this.#gfn, access);
  }

  #permits(vcpu: VcpuPtr, access: Access, pte: number): boolean {
    const status = this.#words[vcpu + AT.sstatus]!;
    if ((pte & Pte.A) === 0) return false;
    if (this.#words[vcpu + AT.privilege] === Privilege.User) {
      if ((pte & Pte.U) === 0) return false;
    } else if ((pte & Pte.U) !== 0 && (access === Access.Exec || (status & Status.SUM) === 0)) {
      return false;
    }
    if (access === Access.Exec) return (pte & Pte.X) !== 0;
    if (access === Access.Write) return (pte & (Pte.W | Pte.D)) === (Pte.W | Pte.D);
    return (pte & Pte.R) !== 0 || ((status & Status.MXR) !== 0 && (pte & Pte.X) !== 0);
  }

  /** The frame of a page table. */
  #tableFrame(vcpu: VcpuPtr, gfn: Gfn): number {
    this.#gfn = gfn;
    return gfn >= GFN_LIMIT ? Miss.Mmio : this.#resolve(vcpu, gfn, Access.Read);
  }

  /** What the host TLB has; see there. Frames to execute are asked for, as what becomes code must be mapped. */
  #resolve(vcpu: VcpuPtr, gfn: Gfn, access: Access): number {
    const known = access === Access.Exec ? -1 : this.#host.find(vcpu, gfn, access);
    return known >= 0 ? known : this.#ask(vcpu, gfn, access);
  }

  /**
   * Does something outside guest mode. False if what was resolved or translated before may be gone: two vCPUs that
   * tell each other of code go on, both.
   */
  outside(vcpu: VcpuPtr, work: () => void): boolean {
    Atomics.store(this.#words, vcpu + AT.mode, Mode.Outside);
    work();
    Atomics.store(this.#words, vcpu + AT.mode, Mode.InGuest);
    const requests = Atomics.load(this.#words, vcpu + AT.requests);
    if (requests === 0) return true;
    return this.serve(vcpu, requests) && (requests & ~WRITES) === 0;
  }

  /** Asks outside guest mode, and serves what was requested meanwhile (J-7). */
  #ask(vcpu: VcpuPtr, gfn: Gfn, access: Access): number {
    Atomics.store(this.#words, vcpu + AT.mode, Mode.Outside);
    const pfn = this.#ports.resolve(vcpu, gfn, access);
    Atomics.store(this.#words, vcpu + AT.mode, Mode.InGuest);
    if (Atomics.load(this.#words, vcpu + AT.requests) === 0) {
      this.#flushes.forgetAdded(vcpu);
      if (pfn >= 0) this.#host.insert(vcpu, gfn, access, pfn);
      return pfn;
    }
    const served = this.serve(vcpu);
    // Without a frame nothing can be stale; and looking for memory asks for a flush itself, so that to try
    // again would never end.
    if (pfn === Miss.Fault || pfn === Miss.Blocked) return pfn;
    return served ? Miss.Again : LEFT;
  }

  /** Serves the requests there are. False, and an exit, when one asks to leave. */
  serve(vcpu: VcpuPtr, requests = Atomics.load(this.#words, vcpu + AT.requests)): boolean {
    if ((requests & SERVED) !== 0) this.#flushes.serve(vcpu, requests);
    if ((requests & ~SERVED) === 0) return true;
    this.#traps.leave(vcpu, Exit.Request);
    return false;
  }
}

/** The nine bits of a virtual address that index the table of a level. */
function vpn(lo: number, hi: number, level: number): number {
  if (level === 2) return ((hi & 0x7f) << 2) | (lo >>> 30);
  return (lo >>> (level === 1 ? 21 : 12)) & 511;
}

const isInvalid = (low: number, high: number): boolean =>
  (low & Pte.V) === 0 || (low & (Pte.R | Pte.W)) === Pte.W || (high & RESERVED_HIGH) !== 0;
