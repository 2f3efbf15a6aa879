import type { Code } from '../../wasm/code.ts';
import { STATUS_WRITABLE } from '../csr.ts';
import type { CsrHow } from '../emit.ts';
import { combine, ifLetsIn, selectSum, wholeStatus } from '../emit-csr.ts';
import { AT, Status } from '../vcpu.ts';
import type { RegionParts } from './parts.ts';
import { PARAM, type RegionLocals } from './signature.ts';

const { cpu } = PARAM;

/** What an instruction on a CSR needs of whoever emits it. */
export type CsrSite = {
  rs1(): void;
  rd(value: () => void): void;
  /** Leaves the region before the instruction when the i32 on the stack is not zero. */
  interpretIf(): void;
};

/** CSRs that a region accesses itself. A source of a constant is given as that, one in rs1 as undefined. */
export class CsrEmit {
  readonly #c: Code;
  readonly #l: RegionLocals;

  constructor({ c, l }: RegionParts) {
    this.#c = c;
    this.#l = l;
  }

  /** `imm`: see `Emit.csrStorage`. */
  storage(site: CsrSite, how: CsrHow, imm: number, constant: number | undefined): void {
    const c = this.#c;
    const { a, b } = this.#l;
    const at = imm & ~1;
    this.#requireSupervisor(site);
    c.get(cpu).mem('i64_load', at).set(a);
    this.#source(site, constant);
    c.set(b).get(cpu);
    combine(c, how, 'i64', a, b);
    if ((imm & 1) !== 0) c.i64(-2).op('i64_and');
    c.mem('i64_store', at);
    site.rd(() => void c.get(a));
  }

  status(site: CsrSite, how: CsrHow, constant: number | undefined): void {
    const c = this.#c;
    const { a32, b32 } = this.#l;
    this.#requireSupervisor(site);
    c.get(cpu)
      .mem('i32_load', AT.sstatus * 4)
      .set(a32);
    this.#source(site, constant);
    c.op('i32_wrap_i64').set(b32);
    combine(c, how, 'i32', a32, b32);
    c.i32(STATUS_WRITABLE).op('i32_and').set(b32);
    c.get(a32).get(b32).op('i32_xor').i32(Status.MXR).op('i32_and');
    site.interpretIf();
    ifLetsIn(c, b32, () => site.interpretIf());
    c.get(cpu)
      .get(b32)
      .mem('i32_store', AT.sstatus * 4);
    site.rd(() => wholeStatus(c, a32));
    this.#selectSum();
  }

  #requireSupervisor(site: CsrSite): void {
    this.#c
      .get(cpu)
      .mem('i32_load', AT.privilege * 4)
      .op('i32_eqz');
    site.interpretIf();
  }

  #source(site: CsrSite, constant: number | undefined): void {
    if (constant !== undefined) this.#c.i64(constant);
    else site.rs1();
  }

  /** The set of translations is another where SUM has changed. */
  #selectSum(): void {
    const c = this.#c;
    const { a32, b32, k, tlb } = this.#l;
    c.get(a32).get(b32).op('i32_xor').i32(Status.SUM).op('i32_and');
    c.if(() => {
      selectSum(c, tlb, b32, k);
      c.get(cpu)
        .mem('i32_load', AT.tlbBase * 4)
        .set(tlb);
    });
  }
}
