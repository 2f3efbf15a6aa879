import type { Code } from '../../wasm/code.ts';
import { I32 } from '../../wasm/encoder.ts';
import type { Bytes } from '../emit.ts';
import { Access } from '../interface.ts';
import { ENTRY_BYTES, INDEX_MASK, KIND_BYTES, MICRO_READ } from '../tlb-layout.ts';
import type { RegionParts } from './parts.ts';
import { PARAM, type RegionLocals } from './signature.ts';
import type { Addends } from './stride.ts';

// How a region comes from a guest address to the host's. By the base register's micro entry, whose place and contents
// don't depend on the address, so that a processor goes ahead with the access while it compares. A pointer that
// was itself loaded is of another page each time: for it, by the TLB's own entry, or each such access would be a call.

/** One access to memory, at the guest address in local `ea`. */
export type AccessSite = {
  /** MICRO_READ or MICRO_WRITE. */
  readonly kind: number;
  /** Number of the base register, and whether the access replaces it. */
  readonly base: number;
  readonly replacesBase: boolean;
  readonly bytes: Bytes;
  /** Must be aligned. */
  readonly isAtomic: boolean;
  /** Instructions from behind this one to the block's end, which `left` counts as done. */
  readonly inProgress: number;
  /** Leaves for the interpreter when the i32 on the stack is not zero. */
  interpretIf(): void;
};

/** Where a set has the entries that micro entries of a kind are copies of. */
const mainOf = (kind: number): number => (kind === MICRO_READ ? Access.Read : Access.Write) * KIND_BYTES;

export class Accesses {
  readonly #c: Code;
  readonly #l: RegionLocals;
  readonly #imported: RegionParts['imported'];
  #addends: Addends | undefined;
  /** Bit n: xn was loaded in this block, or computed in it. */
  #loaded = 0;
  #computed = 0;

  constructor({ c, l, imported }: RegionParts) {
    this.#c = c;
    this.#l = l;
    this.#imported = imported;
  }

  beginBlock(addends: Addends | undefined): void {
    this.#addends = addends;
    this.#loaded = 0;
    this.#computed = 0;
  }

  noteWrite(x: number, isLoad: boolean): void {
    const bit = 1 << x;
    this.#loaded = isLoad ? this.#loaded | bit : this.#loaded & ~bit;
    this.#computed = isLoad ? this.#computed & ~bit : this.#computed | bit;
  }

  /** Whether a pointer is likely to be of another page each time: loaded before, or by the round before of a chase. */
  #wanders({ base, replacesBase }: AccessSite): boolean {
    const bit = 1 << base;
    return (this.#loaded & bit) !== 0 || (replacesBase && (this.#computed & bit) === 0);
  }

  /** Pushes the host byte address. */
  lookUp(site: AccessSite): void {
    const c = this.#c;
    const { ea, tlb } = this.#l;
    const { kind, base, bytes } = site;
    const micro = kind + base * ENTRY_BYTES;
    const addend = this.#addends?.get(micro);
    if (addend !== undefined) {
      c.get(ea).op('i32_wrap_i64').get(addend).op('i32_add');
      return;
    }
    const [entry, at] = this.#wanders(site) ? [this.#mainEntry(), mainOf(kind)] : [tlb, micro];
    // The low bits stay in the comparison, so a misaligned access misses.
    c.get(entry).mem('i64_load', at);
    c.get(ea)
      .i64(-4096 + bytes - 1)
      .op('i64_and', 'i64_eq');
    c.if(
      () =>
        void c
          .get(ea)
          .op('i32_wrap_i64')
          .get(entry)
          .mem('i32_load', at + 8)
          .op('i32_add'),
      () => this.#fill(site, micro),
      { type: I32, likely: true },
    );
  }

  /** Sets `k` to the place of the page of `ea` in the TLB, to which its kind is to be added. */
  #mainEntry(): number {
    const { ea, k, tlb } = this.#l;
    this.#c.get(ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
    this.#c.get(tlb).op('i32_add').set(k);
    return k;
  }

  #fill({ kind, bytes, isAtomic, inProgress, interpretIf }: AccessSite, micro: number): void {
    const c = this.#c;
    const { ea, host, left } = this.#l;
    c.get(PARAM.cpu).i32(micro).get(ea).i32(bytes).get(left).i32(inProgress).op('i32_add');
    c.call(this.#imported(kind === MICRO_READ ? 'fillRead' : 'fillWrite'));
    c.tee(host).op('i32_eqz');
    if (isAtomic) {
      c.get(host)
        .i32(bytes - 1)
        .op('i32_and', 'i32_or');
    }
    interpretIf();
    c.get(host);
  }
}
