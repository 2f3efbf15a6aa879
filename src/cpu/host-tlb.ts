import type { Gfn, Pfn } from '../base/units.ts';
import type { Access, VcpuPtr } from './interface.ts';
import { HELD_AT, HOST_AT, HOST_BYTES, HOST_ENTRIES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

// What `resolve` answered, by guest frame. It rests on nothing of the guest's: neither sfence.vma nor satp
// empties it, only the flush requests that name its frames, or all (J-7). An entry is two words:
//
//   gfn + 1, or 0 when empty
//   pfn << 3 | 1 << access, for each access that was resolved
//
// Generated code reads it (interpreter-translate.ts). `held` has a word for each frame of the arena: the guest
// frame, plus 1, that it was last answered for, or 0 if it was not since it was last dropped. So a frame stands in
// one entry at most, and is found at once. All other entries of the vCPU are made from answers: a flush that names
// frames which are not held has nothing to look for.

/** Guest frames from here on are never RAM. */
export const GFN_LIMIT = 0x7ffffffe;
/** In `held`, of a frame that has no entry. */
const NOWHERE = GFN_LIMIT;

export class HostTlb {
  readonly #words: Int32Array;

  constructor(words: Int32Array) {
    this.#words = words;
  }

  #entry(vcpu: VcpuPtr, gfn: Gfn): number {
    return this.#words[vcpu + AT.tlb]! + HOST_AT / 4 + (gfn & (HOST_ENTRIES - 1)) * 2;
  }

  /** The frame that was answered for an access of this kind, or -1. */
  find(vcpu: VcpuPtr, gfn: Gfn, access: Access): Pfn | number {
    if (gfn >= GFN_LIMIT) return -1;
    const at = this.#entry(vcpu, gfn);
    const word = this.#words[at + 1]!;
    return this.#words[at] === gfn + 1 && (word & (1 << access)) !== 0 ? word >>> 3 : -1;
  }

  /** Remembers an answer, after requests were tested and there were none. */
  insert(vcpu: VcpuPtr, gfn: Gfn, access: Access, pfn: Pfn): void {
    const w = this.#words;
    if (gfn >= GFN_LIMIT) gfn = NOWHERE;
    const held = this.#held(vcpu, pfn);
    if (w[held] !== gfn + 1) this.#clear(vcpu, pfn);
    w[held] = gfn + 1;
    if (gfn === NOWHERE) return;
    const at = this.#entry(vcpu, gfn);
    const same = w[at] === gfn + 1 && w[at + 1]! >>> 3 === pfn;
    const rights = same ? w[at + 1]! & 7 : 0;
    w[at] = gfn + 1;
    w[at + 1] = (pfn << 3) | rights | (1 << access);
  }

  #held(vcpu: VcpuPtr, pfn: Pfn): number {
    return this.#words[vcpu + AT.tlb]! + HELD_AT / 4 + pfn;
  }

  /** Whether anything that the vCPU has cached may be about a frame. */
  holds(vcpu: VcpuPtr, pfn: Pfn): boolean {
    return this.#words[this.#held(vcpu, pfn)] !== 0;
  }

  /** Drops what this has of a frame. Requires: nothing else is about it any more. */
  release(vcpu: VcpuPtr, pfn: Pfn): void {
    this.#clear(vcpu, pfn);
    this.#words[this.#held(vcpu, pfn)] = 0;
  }

  /** Empties the entry that has the frame, if there is one. */
  #clear(vcpu: VcpuPtr, pfn: Pfn): void {
    const gfn = this.#words[this.#held(vcpu, pfn)]! - 1;
    if (gfn < 0 || gfn === NOWHERE) return;
    const at = this.#entry(vcpu, gfn);
    if (this.#words[at] === gfn + 1 && this.#words[at + 1]! >>> 3 === pfn) this.#words[at] = 0;
  }
}

/** Bytes from HOST_AT on, when the arena's frames end at a number. */
export const hostBytes = (frames: number): number => HOST_BYTES + frames * 4;
