import type { Code } from '../wasm/code.ts';
import { I64, type ModuleBuilder } from '../wasm/encoder.ts';

const BINARY = { params: [I64, I64], results: [I64] } as const;
const A = 0;
const B = 1;

/** The high 64 bits of 64 x 64 products, from four 32 x 32 products. */
export function defineMultiplyHigh(m: ModuleBuilder) {
  const mulhu = m.define(undefined, BINARY, writeUnsigned);
  const mulhsu = m.define(undefined, BINARY, c => {
    c.get(A).get(B).call(mulhu);
    subtractIfNegative(c, A, B);
  });
  // Read as signed, an operand with its top bit set is 2^64 less.
  const mulh = m.define(undefined, BINARY, c => {
    c.get(A).get(B).call(mulhsu);
    subtractIfNegative(c, B, A);
  });
  return { mulhu, mulhsu, mulh };
}

/** Takes `what` from the value on the stack when `sign` is negative. */
function subtractIfNegative(c: Code, sign: number, what: number): void {
  c.get(sign).i64(63).op('i64_shr_s').get(what).op('i64_and', 'i64_sub');
}

function writeUnsigned(c: Code): void {
  const middle = c.local(I64);
  const other = c.local(I64);
  const low = (x: number) => c.get(x).i64w(-1, 0).op('i64_and');
  const high = (x: number) => c.get(x).i64(32).op('i64_shr_u');
  // middle = a.high * b.low + high(a.low * b.low); other = a.low * b.high + low(middle)
  high(A);
  low(B);
  c.op('i64_mul');
  low(A);
  low(B);
  c.op('i64_mul').i64(32).op('i64_shr_u', 'i64_add').set(middle);
  low(A);
  high(B);
  c.op('i64_mul');
  low(middle);
  c.op('i64_add').set(other);
  high(A);
  high(B);
  c.op('i64_mul');
  high(middle);
  c.op('i64_add');
  high(other);
  c.op('i64_add');
}
