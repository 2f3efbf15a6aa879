import type { Code } from '../wasm/code.ts';
import { immediateAt, RECORD, RM_MASK, RS2_MASK, RS3_SHIFT } from './decoded.ts';
import type { Format } from './instruction.ts';
import { CPU } from './interpreter-locals.ts';
import { AT } from './vcpu.ts';

/** Pushes what the decoded record at local `dp` says, for an instruction of one format. */
export class Operands {
  readonly #c: Code;
  readonly #dp: number;
  readonly #format: Format;

  constructor(c: Code, dp: number, format: Format) {
    this.#c = c;
    this.#dp = dp;
    this.#format = format;
  }

  /** The address of the destination. */
  rd(): void {
    this.#c.get(this.#dp).mem('i32_load16_u', RECORD.rd).get(CPU).op('i32_add');
  }

  rs1(): void {
    this.#c.get(this.#dp).mem('i32_load16_u', RECORD.rs1).get(CPU).op('i32_add').mem('i64_load');
  }

  /** The number that a CSR instruction has in the place of rs1. */
  number(): void {
    this.#c.get(this.#dp).mem('i64_load16_u', RECORD.rs1);
  }

  /** The place that rs2 shares with others. */
  #last(): Code {
    return this.#c.get(this.#dp).mem('i32_load16_u', RECORD.rs2);
  }

  rs2(): void {
    this.#last();
    if (this.#format.imm === 'rm') this.#c.i32(RS2_MASK).op('i32_and');
    this.#c.get(CPU).op('i32_add').mem('i64_load');
  }

  rs3(): void {
    const f = AT.f * 4;
    this.#last()
      .i32(RS3_SHIFT)
      .op('i32_shr_u')
      .i32(3)
      .op('i32_shl')
      .get(CPU)
      .op('i32_add')
      .mem('i64_load', f);
  }

  /** The rounding mode, as an i32. */
  rm(): void {
    this.#last().i32(RM_MASK).op('i32_and');
  }

  imm(type: 'i32' | 'i64'): void {
    const at = immediateAt(this.#format.imm);
    const wide = type === 'i32' ? 'i32_load' : 'i64_load32_s';
    this.#c.get(this.#dp).mem(at === RECORD.rs1 ? wide : `${type}_load16_s`, at);
  }
}
