import { I32 } from '../../wasm/encoder.ts';
import { type Expr, f32, f64, i32, i64, type Native, select } from './expr.ts';
import { DOUBLE } from './format.ts';
import { exponentOf, type Form, type Site } from './inline-site.ts';

// What never rounds needs nothing but the absence of NaNs.

const extreme =
  (op: 'min' | 'max'): Form =>
  s => {
    s.needBoxed(0, 1);
    const result = s.letNumber(s.f.native[op](s.number(0), s.number(1)));
    s.need(s.f.native.eq(result, result));
    return s.image(result);
  };

type Relation = (n: Native, x: Expr, y: Expr) => Expr;

/** Either holds, unless an operand is a NaN. */
const order =
  (holds: Relation, orElse: Relation): Form =>
  s => {
    s.needBoxed(0, 1);
    const [n, x, y] = [s.f.native, s.number(0), s.number(1)];
    const result = s.let(I32, holds(n, x, y));
    s.need(i32.or(result, orElse(n, x, y)));
    return i64.extend(result);
  };

type Injected = (s: Site, x: Expr, y: Expr) => Expr;

/** Of one register twice the sign is copied, flipped or cleared without looking at it. */
const inject =
  (same: (s: Site, x: Expr) => Expr, other: Injected): Form =>
  s => {
    s.needBoxed(0, 1);
    return s.image(s.o.same ? same(s, s.number(0)) : other(s, s.number(0), s.number(1)));
  };

const copySign: Injected = (s, x, y) => s.f.native.copysign(x, y);

const flipSign: Injected = (s, x, y) =>
  s.f === DOUBLE
    ? f64.ofBits(i64.xor(f64.bits(x), i64.and(f64.bits(y), i64.words(1 << 31, 0))))
    : f32.ofBits(i32.xor(f32.bits(x), i32.and(f32.bits(y), i32.of(1 << 31))));

/** Of normal numbers: bit 1 when negative, else bit 6. */
const classify: Form = s => {
  s.needBoxed(0);
  const exponent = s.let(I32, exponentOf(s.f, s.number(0), 1));
  s.need(i32.ltu(exponent, i32.of(s.f === DOUBLE ? 2046 : 254 * 8)));
  const sign = s.f === DOUBLE ? i64.lt(s.bits(0), i64.of(0)) : i32.lt(f32.bits(s.number(0)), i32.of(0));
  return select(sign, i64.of(1 << 1), i64.of(1 << 6));
};

export const EXACT: Readonly<Record<string, Form>> = {
  min: extreme('min'),
  max: extreme('max'),
  eq: order(
    (n, x, y) => n.eq(x, y),
    (n, x, y) => i32.or(n.lt(x, y), n.gt(x, y)),
  ),
  lt: order(
    (n, x, y) => n.lt(x, y),
    (n, x, y) => n.ge(x, y),
  ),
  le: order(
    (n, x, y) => n.le(x, y),
    (n, x, y) => n.gt(x, y),
  ),
  sgnj: inject((_, x) => x, copySign),
  sgnjn: inject(
    (s, x) => s.f.native.neg(x),
    (s, x, y) => copySign(s, x, s.f.native.neg(y)),
  ),
  sgnjx: inject((s, x) => s.f.native.abs(x), flipSign),
  class: classify,
};
