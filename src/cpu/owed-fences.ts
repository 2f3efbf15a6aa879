import type { VcpuPtr } from './interface.ts';
import { asidOf } from './tlb-contexts.ts';
import { AT } from './vcpu.ts';

// A remote fence of one address space need not be waited for where the hart runs another: what it has cached of the space
// it can't use before it writes satp. So the fence is left for it in the word `owed`, and it pays before it enters any space.
// The hart stores in `space` which one it is in, then takes what is owed; who fences stores what is owed, then reads
// `space`. So either the hart finds the debt, or who fences finds the hart in that space, and asks it as usual.

/** In `owed`: nothing, one address space as its ASID + 1, or that there were several. */
const Owed = { Nothing: 0, Several: -1 } as const;

/** How a hart pays. */
export type LocalFences = {
  /** As `sfence.vma x0, asid`. */
  fence(vcpu: VcpuPtr, asid: number): void;
  /** The same, of all address spaces but the current one. */
  fenceOthers(vcpu: VcpuPtr): void;
};

/** One thread's view of the fences that harts owe. */
export class OwedFences {
  readonly #words: Int32Array;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  /** Leaves a fence of an address space to the hart; false if it is to be asked, as it may be in there. From any thread. */
  leave(vcpu: VcpuPtr, asid: number, breaks?: { owesBlindly?: boolean }): boolean {
    if (this.#isIn(vcpu, asid)) return false;
    this.#owe(vcpu, asid + 1);
    return breaks?.owesBlindly === true || !this.#isIn(vcpu, asid);
  }

  /** By a write in any case, so that who takes what was owed before finds this thread's page tables, too. */
  #owe(vcpu: VcpuPtr, debt: number): void {
    const at = vcpu + AT.owed;
    if (Atomics.compareExchange(this.#words, at, Owed.Nothing, debt) === Owed.Nothing) return;
    if (Atomics.compareExchange(this.#words, at, debt, debt) === debt) return;
    Atomics.store(this.#words, at, Owed.Several);
  }

  #isIn(vcpu: VcpuPtr, asid: number): boolean {
    return Atomics.load(this.#words, vcpu + AT.space) === asid;
  }

  /**
   * The hart's runner is about to write satp, and makes no access by the old one any more. From when `space` says so, the
   * space that it leaves may be owed for like any other.
   */
  enter(vcpu: VcpuPtr, asid: number, fences: LocalFences): void {
    Atomics.store(this.#words, vcpu + AT.space, asid);
    // Mostly nothing: that takes no line from others.
    if (Atomics.load(this.#words, vcpu + AT.owed) === Owed.Nothing) return;
    const owed = Atomics.exchange(this.#words, vcpu + AT.owed, Owed.Nothing);
    if (owed === Owed.Several) this.#payAll(vcpu, asid, fences);
    else if (owed !== Owed.Nothing) fences.fence(vcpu, owed - 1);
  }

  #payAll(vcpu: VcpuPtr, asid: number, fences: LocalFences): void {
    fences.fenceOthers(vcpu);
    const left = asidOf(this.#words[vcpu + AT.satp + 1]!);
    if (left !== asid) fences.fence(vcpu, left);
  }

  /** Nothing is cached, whatever satp is. Outside. */
  reset(vcpu: VcpuPtr): void {
    Atomics.store(this.#words, vcpu + AT.space, asidOf(this.#words[vcpu + AT.satp + 1]!));
    Atomics.store(this.#words, vcpu + AT.owed, Owed.Nothing);
  }
}
