import type { VcpuPtr } from './interface.ts';
import { CONTEXTS, TlbSet } from './tlb-layout.ts';
import { AT, CONTEXT_WORDS } from './vcpu.ts';

// Which address spaces the sets of user pages belong to. A context is named by a whole value of satp, ASID and
// root: more than the ASID, which is all that the manual asks for, so that a guest that uses none is served
// as well. The supervisor's set is everybody's. A context that no space has is emptied when one gets it,
// not before; until then nothing looks at it.

/** Of the words of a context. */
const CONTEXT = { lo: 0, hi: 1, entered: 2 } as const;
/** In `hi`: no satp has this mode. */
const NOBODY = -1;

export class TlbContexts {
  readonly #words: Int32Array;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  #at(vcpu: VcpuPtr, context: number): number {
    return vcpu + AT.contexts + context * CONTEXT_WORDS;
  }

  /** Whether a set may have entries that count. */
  isLive(vcpu: VcpuPtr, set: number): boolean {
    return set === TlbSet.Supervisor || this.#words[this.#at(vcpu, contextOf(set)) + CONTEXT.hi] !== NOBODY;
  }

  /** Whether entries of a set may be of the address spaces with an ASID; of all when it is below 0. */
  concerns(vcpu: VcpuPtr, set: number, asid: number): boolean {
    if (asid < 0) return true;
    const hi = set === TlbSet.Supervisor ? vcpu + AT.satp + 1 : this.#at(vcpu, contextOf(set)) + CONTEXT.hi;
    return asidOf(this.#words[hi]!) === asid;
  }

  /** Enters the context of the address space in satp. False if it had none: the sets are to be emptied. */
  enter(vcpu: VcpuPtr): boolean {
    const w = this.#words;
    const now = (w[vcpu + AT.contextClock]! + 1) | 0;
    w[vcpu + AT.contextClock] = now;
    const found = this.#find(vcpu);
    const context = found < 0 ? this.#oldest(vcpu, now) : found;
    w[vcpu + AT.context] = context;
    this.#name(vcpu, context);
    w[this.#at(vcpu, context) + CONTEXT.entered] = now;
    return found >= 0;
  }

  #find(vcpu: VcpuPtr): number {
    const w = this.#words;
    for (let i = 0; i < CONTEXTS; i++) {
      const at = this.#at(vcpu, i);
      if (w[at + CONTEXT.lo] === w[vcpu + AT.satp] && w[at + CONTEXT.hi] === w[vcpu + AT.satp + 1]) return i;
    }
    return -1;
  }

  /** Nobody's, or else the one that was entered longest ago. */
  #oldest(vcpu: VcpuPtr, now: number): number {
    let oldest = 0;
    let age = -1;
    for (let i = 0; i < CONTEXTS; i++) {
      const at = this.#at(vcpu, i);
      if (this.#words[at + CONTEXT.hi] === NOBODY) return i;
      const its = (now - this.#words[at + CONTEXT.entered]!) >>> 0;
      if (its > age) {
        oldest = i;
        age = its;
      }
    }
    return oldest;
  }

  #name(vcpu: VcpuPtr, context: number): void {
    const at = this.#at(vcpu, context);
    this.#words[at + CONTEXT.lo] = this.#words[vcpu + AT.satp]!;
    this.#words[at + CONTEXT.hi] = this.#words[vcpu + AT.satp + 1]!;
  }

  /** Leaves one context, the current one, to the address space in satp. */
  keepCurrent(vcpu: VcpuPtr): void {
    for (let i = 0; i < CONTEXTS; i++) this.#words[this.#at(vcpu, i) + CONTEXT.hi] = NOBODY;
    this.#name(vcpu, this.#words[vcpu + AT.context]!);
  }

  /** Takes their contexts from the address spaces with an ASID. True if the current one has it, which keeps its. */
  forget(vcpu: VcpuPtr, asid: number): boolean {
    const w = this.#words;
    for (let i = 0; i < CONTEXTS; i++) {
      const hi = this.#at(vcpu, i) + CONTEXT.hi;
      if (i !== w[vcpu + AT.context] && w[hi] !== NOBODY && asidOf(w[hi]!) === asid) w[hi] = NOBODY;
    }
    return asidOf(w[vcpu + AT.satp + 1]!) === asid;
  }
}

const contextOf = (set: number): number => (set - 1) >> 1;
/** Of the high word of satp. */
export const asidOf = (hi: number): number => (hi >>> 12) & 0xffff;
