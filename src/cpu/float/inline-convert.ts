import { F32, F64, I64 } from '../../wasm/encoder.ts';
import { type Expr, f32, f64, i32, i64 } from './expr.ts';
import { DOUBLE, Rm } from './format.ts';
import { boxed, type Form, lowerHalf, type Site } from './inline-site.ts';

export type Integer = 'w' | 'wu' | 'l' | 'lu';

/** fcvt.d.s is exact. */
export const widen: Form = s => {
  s.needBoxed(0);
  const result = s.let(F64, f64.promote(lowerHalf(s.operand(0))));
  s.need(f64.eq(result, result));
  return result;
};

/** fcvt.s.d, whose format here is the double's. */
export const narrow: Form = s => {
  const result = s.let(F32, f32.demote(s.operand(0)));
  s.needSafeSingle(result);
  return boxed(result);
};

/** fcvt from an integer: exact when that fits the significand, else to the nearest, which never overflows. */
export const fromInteger =
  (from: Integer): Form =>
  s => {
    const word = i32.wrap(s.operand(0));
    const x = s.operand(0);
    if (s.f === DOUBLE) {
      if (from === 'w') return f64.ofI32(word);
      if (from === 'wu') return f64.ofU32(word);
    }
    s.need(i32.or(fits(s, from), s.native));
    if (s.f === DOUBLE) return from === 'l' ? f64.ofI64(x) : f64.ofU64(x);
    return boxed({ w: f32.ofI32(word), wu: f32.ofU32(word), l: f32.ofI64(x), lu: f32.ofU64(x) }[from]);
  };

const fits = (s: Site, from: Integer): Expr => {
  const size = 2 ** (s.f.fractionBits + 1);
  const x = s.operand(0);
  const word = i32.wrap(x);
  if (from === 'w') return i32.ltu(i32.add(word, i32.of(size)), i32.of(2 * size));
  if (from === 'wu') return i32.ltu(word, i32.of(size));
  return from === 'l' ? i64.ltu(i64.add(x, i64.of(size)), i64.of(2 * size)) : i64.ltu(x, i64.of(size));
};

const LIMIT = { w: 2 ** 31, wu: 2 ** 32, l: 2 ** 63, lu: 2 ** 63 } as const;

const ROUND: Readonly<Record<number, (x: Expr) => Expr>> = {
  [Rm.Rne]: f64.nearest,
  [Rm.Rtz]: f64.trunc,
  [Rm.Rdn]: f64.floor,
  [Rm.Rup]: f64.ceil,
  7: f64.nearest,
};

/**
 * fcvt to an integer, in range and away from its ends. A whole number is exact in every mode; for others NX
 * is raised already. `native` stands for that, and with frm's mode for RNE as well.
 */
export const toInteger = (to: Integer, rm: number): Form | undefined => {
  const round = ROUND[rm];
  return (
    round &&
    (s => {
      s.needBoxed(0);
      const number = s.f === DOUBLE ? s.operand(0) : s.let(F64, f64.promote(s.number(0)));
      const whole = s.let(F64, round(number));
      s.need(f64.lt(f64.abs(whole), f64.of(LIMIT[to])));
      s.need(i32.or(f64.eq(whole, number), s.native));
      const value = s.let(I64, f64.toI64(whole));
      if (to === 'wu') s.need(i64.eqz(i64.shru(value, i64.of(32))));
      if (to === 'lu') s.need(i64.ge(value, i64.of(0)));
      return to === 'wu' ? i64.extend32(value) : value;
    })
  );
};
