import type { Vpn } from '../base/units.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { MmBreaks } from './breaks.ts';
import { type MmLayout, VmFlag } from './layout.ts';
import { VPN_MAX } from './page-table.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** A frame of pointers holds them all. */
export const MAX_VMAS = 1024;

/** 64 bits of vm_flags (J-2). */
export type VmFlags = { lo: number; hi: number };

/**
 * An mm's VMAs, in a sorted array of pointers. All of it under mmap; changes need it for writing, and the
 * bounds of a VMA with an anon_vma change under that one's lock as well, as reclaim reads them there.
 */
export class Vmas {
  readonly #words: Int32Array;
  readonly #mm: MmLayout['mm'];
  readonly #vma: MmLayout['vma'];
  readonly #breaks: MmBreaks;
  /** Where this thread found its last VMA: a hint, tested before use. */
  #last = 0;

  constructor(sync: Sync, layout: MmLayout, breaks: MmBreaks) {
    this.#words = sync.words;
    this.#mm = layout.mm;
    this.#vma = layout.vma;
    this.#breaks = breaks;
  }

  count(mm: Mm): number {
    return this.#mm.vmaCount.get(mm);
  }

  at(mm: Mm, index: number): Vma {
    return this.#words[frameWord(this.#mm.vmas.get(mm)) + index] as Vma;
  }

  /** Index of the first VMA that ends above `vpn`; `count` when there is none. Linux: find_vma. */
  indexOf(mm: Mm, vpn: Vpn): number {
    const array = frameWord(this.#mm.vmas.get(mm));
    const count = this.#mm.vmaCount.get(mm);
    let low = 0;
    let high = count;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#vma.end.get(this.#words[array + middle] as Vma) > vpn) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** The VMA that contains `vpn`, or 0. */
  find(mm: Mm, vpn: Vpn): Vma {
    const array = frameWord(this.#mm.vmas.get(mm));
    if (this.#last < this.#mm.vmaCount.get(mm)) {
      const hint = this.#words[array + this.#last] as Vma;
      if (this.#vma.start.get(hint) <= vpn && vpn < this.#vma.end.get(hint)) return hint;
    }
    const index = this.indexOf(mm, vpn);
    if (index === this.#mm.vmaCount.get(mm)) return 0 as Vma;
    const vma = this.#words[array + index] as Vma;
    if (this.#vma.start.get(vma) > vpn) return 0 as Vma;
    this.#last = index;
    return vma;
  }

  insert(mm: Mm, index: number, vma: Vma): void {
    const array = frameWord(this.#mm.vmas.get(mm));
    const count = this.#mm.vmaCount.get(mm);
    this.#words.copyWithin(array + index + 1, array + index, array + count);
    this.#words[array + index] = vma;
    this.#mm.vmaCount.set(mm, count + 1);
  }

  remove(mm: Mm, index: number): void {
    const array = frameWord(this.#mm.vmas.get(mm));
    const count = this.#mm.vmaCount.get(mm);
    this.#words.copyWithin(array + index, array + index + 1, array + count);
    this.#words[array + count - 1] = 0;
    this.#mm.vmaCount.set(mm, count - 1);
  }

  /** First free run of `pages` at or above `from`, its start a multiple of `align`; -1 when there is none. */
  findGap(mm: Mm, pages: number, from: Vpn, align: number): Vpn | -1 {
    let start = alignTo(from, align);
    for (let i = this.indexOf(mm, start); i < this.count(mm); i++) {
      const vma = this.at(mm, i);
      if (start + pages <= this.#vma.start.get(vma)) break;
      start = Math.max(start, alignTo(this.#vma.end.get(vma), align));
    }
    return start + pages <= VPN_MAX ? start : -1;
  }

  flags(vma: Vma): VmFlags {
    return { lo: this.#vma.flags.get(vma), hi: this.flagsHigh(vma) };
  }

  flagsHigh(vma: Vma): number {
    return this.#words[vma + this.#vma.flags.at + 1] as number;
  }

  setFlags(vma: Vma, lo: number, hi: number): void {
    this.#vma.flags.set(vma, lo);
    this.#words[vma + this.#vma.flags.at + 1] = hi;
  }

  /** They differ at most in bounds, anon_vma, context and what may be done with them. */
  sameButRights(a: Vma, b: Vma): boolean {
    const { flags, ops, policy } = this.#vma;
    const rights = VmFlag.Read | VmFlag.Write | VmFlag.Exec;
    const sameFlags =
      ((flags.get(a) ^ flags.get(b)) & ~rights) === 0 && this.flagsHigh(a) === this.flagsHigh(b);
    return sameFlags && ops.get(a) === ops.get(b) && policy.get(a) === policy.get(b);
  }

  /** Everything but the bounds and the anon_vma is equal (M-2). */
  sameKind(a: Vma, b: Vma): boolean {
    const { flags, ops, uffd, policy } = this.#vma;
    return (
      flags.get(a) === flags.get(b) &&
      (this.flagsHigh(a) === this.flagsHigh(b) || this.#breaks.mergeIgnoresHigh) &&
      ops.get(a) === ops.get(b) &&
      uffd.get(a) === uffd.get(b) &&
      policy.get(a) === policy.get(b)
    );
  }
}

const alignTo = (vpn: Vpn, align: number): Vpn => Math.ceil(vpn / align) * align;
