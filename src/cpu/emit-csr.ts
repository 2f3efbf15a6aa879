import type { Code } from '../wasm/code.ts';
import { SD, UXL } from './csr.ts';
import type { CsrHow } from './emit.ts';
import { AT, Status } from './vcpu.ts';

// What the interpreter and the regions both emit for CSR instructions. Parameter 0 is the vCPU record.

const CPU = 0;

/** Pushes what an instruction makes of `old` and `source`. */
export function combine(c: Code, how: CsrHow, type: 'i32' | 'i64', old: number, source: number): void {
  if (how === 'write') {
    c.get(source);
  } else if (how === 'set') {
    c.get(old).get(source).op(`${type}_or`);
  } else {
    c.get(old).get(source);
    if (type === 'i32') c.i32(-1);
    else c.i64(-1);
    c.op(`${type}_xor`, `${type}_and`);
  }
}

/** Pushes sstatus with the fields that are made on reading. */
export function wholeStatus(c: Code, low: number): void {
  c.get(low)
    .op('i64_extend_i32_u')
    .i64w(0, UXL | SD)
    .i64w(0, UXL);
  c.get(low).i32(Status.FS).op('i32_and').i32(Status.FS).op('i32_eq', 'select', 'i64_or');
}

/** Does `then` with an i32 on the stack: not zero when sstatus, as it is to be, lets an interrupt in that is pending. */
export function ifLetsIn(c: Code, status: number, then: () => void): void {
  c.get(status).i32(Status.SIE).op('i32_and');
  c.if(() => {
    c.get(CPU).mem('i32_atomic_load', AT.pending * 4);
    c.get(CPU).mem('i32_load', AT.sie * 4);
    c.op('i32_and');
    then();
  });
}

/** Does what Tlb.select does for a supervisor whose SUM changed to that of `status`; `scratch` is an i32. */
export function selectSum(c: Code, tlb: number, status: number, scratch: number): void {
  c.get(CPU)
    .mem('i32_load', AT.tlbSum * 4)
    .i32(0)
    .get(status)
    .i32(Status.SUM)
    .op('i32_and', 'select')
    .set(scratch);
  c.get(CPU).get(tlb).get(CPU);
  c.mem('i32_load', AT.tlbBorrow * 4)
    .op('i32_sub')
    .get(scratch)
    .op('i32_add');
  c.mem('i32_store', AT.tlbBase * 4);
  c.get(CPU).get(scratch);
  c.mem('i32_store', AT.tlbBorrow * 4);
}
