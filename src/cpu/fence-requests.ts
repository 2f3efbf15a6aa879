import { Request, type VcpuPtr } from './interface.ts';
import type { Tlb } from './tlb.ts';
import { AT } from './vcpu.ts';

// One hart's `sfence.vma` at another (SBI RFENCE). What it is about stands in five words of the target's record:
//
//   state   free -> written by the one requester that took it -> ready -> free again, by the target's runner
//   lo hi   where it starts; hi alone tells a range from a whole address space
//   pages   how many; 0 is the whole address space
//   asid    whose, or -1 for everybody's
//
// A requester that finds the words taken asks for a fence of everything instead, which needs none.

const State = { Free: 0, Written: 1, Ready: 2 } as const;
const FENCE = { state: 0, lo: 1, hi: 2, pages: 3, asid: 4 } as const;
/** A range longer than this costs more than to begin anew. */
const PAGES_MAX = 64;

export type Fence = {
  startLo: number;
  startHi: number;
  /** Bytes; Infinity is the whole address space. */
  length: number;
  /** Undefined is every address space. */
  asid: number | undefined;
};

/** One thread's view of the fences that harts ask of each other. */
export class FenceRequests {
  readonly #words: Int32Array;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  /** Asks for a fence; the bit of `requests` to set. From any thread. */
  post(vcpu: VcpuPtr, fence: Fence): number {
    const w = this.#words;
    const at = vcpu + AT.fence;
    const pages = pagesOf(fence);
    if (pages === 0 && fence.asid === undefined) return Request.FenceVma;
    if (Atomics.compareExchange(w, at, State.Free, State.Written) !== State.Free) return Request.FenceVma;
    Atomics.store(w, at + FENCE.lo, fence.startLo | 0);
    Atomics.store(w, at + FENCE.hi, fence.startHi | 0);
    Atomics.store(w, at + FENCE.pages, pages);
    Atomics.store(w, at + FENCE.asid, fence.asid === undefined ? -1 : fence.asid & 0xffff);
    Atomics.store(w, at, State.Ready);
    return Request.FencePages;
  }

  /** Does what was asked for. For the vCPU's runner, which has cleared the request before. */
  serve(vcpu: VcpuPtr, tlb: Tlb): void {
    const w = this.#words;
    const at = vcpu + AT.fence;
    // Not ready: this request has been served with an earlier one, or its words are about to be asked for.
    if (Atomics.load(w, at) !== State.Ready) return;
    const [lo, hi] = [Atomics.load(w, at + FENCE.lo), Atomics.load(w, at + FENCE.hi)];
    const [pages, asid] = [Atomics.load(w, at + FENCE.pages), Atomics.load(w, at + FENCE.asid)];
    Atomics.store(w, at, State.Free);
    if (pages === 0) tlb.fence(vcpu, asid);
    else for (let i = 0; i < pages; i++) tlb.fencePage(vcpu, asid, ...pageAfter(lo, hi, i));
  }
}

/** Pages that a fence names; 0 when it is to be of everything. */
function pagesOf(fence: Fence): number {
  const pages = Math.ceil(((fence.startLo & 0xfff) + fence.length) / 4096);
  return pages > PAGES_MAX ? 0 : Math.max(pages, 1);
}

/** The address `i` pages on. */
function pageAfter(lo: number, hi: number, i: number): [lo: number, hi: number] {
  const low = (lo >>> 0) + i * 4096;
  return [low | 0, low > 0xffffffff ? (hi + 1) | 0 : hi];
}
