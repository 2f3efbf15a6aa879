import type { Code } from '../wasm/code.ts';
import { I64, type ModuleBuilder } from '../wasm/encoder.ts';
import type { Helper } from './emit.ts';

// The high 64 bits of 64 x 64 products, from four 32 x 32 products.

const BINARY = { params: [I64, I64], results: [I64] } as const;

/** Two operands, and two locals for what is between. */
export type HighLocals = { a: number; b: number; middle: number; other: number };

/** The functions that the interpreter calls. */
export function defineMultiplyHigh(m: ModuleBuilder) {
  const define = (name: Helper) =>
    m.define(undefined, BINARY, c =>
      pushHigh(c, name, { a: 0, b: 1, middle: c.local(I64), other: c.local(I64) }),
    );
  return { mulhu: define('mulhu'), mulhsu: define('mulhsu'), mulh: define('mulh') };
}

/** Pushes it. Read as signed, an operand with its top bit set is 2^64 less. */
export function pushHigh(c: Code, name: Helper, l: HighLocals): void {
  pushUnsigned(c, l);
  if (name !== 'mulhu') subtractIfNegative(c, l.a, l.b);
  if (name === 'mulh') subtractIfNegative(c, l.b, l.a);
}

/** Takes `what` from the value on the stack when `sign` is negative. */
function subtractIfNegative(c: Code, sign: number, what: number): void {
  c.get(sign).i64(63).op('i64_shr_s').get(what).op('i64_and', 'i64_sub');
}

function pushUnsigned(c: Code, { a, b, middle, other }: HighLocals): void {
  const low = (x: number) => c.get(x).i64w(-1, 0).op('i64_and');
  const high = (x: number) => c.get(x).i64(32).op('i64_shr_u');
  // middle = a.high * b.low + high(a.low * b.low); other = a.low * b.high + low(middle)
  high(a);
  low(b);
  c.op('i64_mul');
  low(a);
  low(b);
  c.op('i64_mul').i64(32).op('i64_shr_u', 'i64_add').set(middle);
  low(a);
  high(b);
  c.op('i64_mul');
  low(middle);
  c.op('i64_add').set(other);
  high(a);
  high(b);
  c.op('i64_mul');
  high(middle);
  c.op('i64_add');
  high(other);
  c.op('i64_add');
}
