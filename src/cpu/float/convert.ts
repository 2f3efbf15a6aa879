import { type FunctionIndex, I32, I64 } from '../../wasm/encoder.ts';
import { nativeMayRun, unpack } from './arithmetic.ts';
import { type Body, call, type Expr, f32, f64, i32, i64, select, type Var } from './expr.ts';
import {
  box,
  canonicalNan,
  DOUBLE,
  Flag,
  type Format,
  fromNative,
  infinity,
  isInfinite,
  isNan,
  isSafe,
  isZero,
  Rm,
  SINGLE,
  sign,
  signOf,
  toNative,
  unboxed,
} from './format.ts';
import { define, raise, type Soft, type SoftFormat } from './soft.ts';

// fcvt between the formats, and to and from integers.

const UNARY = [I32, I64, I32] as const;

/** fcvt.s.d and fcvt.d.s. */
export const emitBetween = (
  single: SoftFormat,
  double: SoftFormat,
): Record<'cvt_s_d' | 'cvt_d_s', FunctionIndex> => ({
  cvt_s_d: define(single.m, undefined, UNARY, [I64], (b, ...p) => writeNarrow(single, double, b, p)),
  cvt_d_s: define(single.m, undefined, UNARY, [I64], (b, cpu, x) => {
    b.set(x, unboxed(SINGLE, single.unbox, x));
    b.if(isNan(SINGLE, x), () => b.return(call(double.nan, cpu, canonicalNan(DOUBLE), widenNan(x))));
    b.return(fromNative(DOUBLE, f64.promote(toNative(SINGLE, x))));
  }),
});

/** A double NaN that is signalling when the single NaN is. */
const widenNan = (x: Expr): Expr =>
  i64.or(i64.words(0x7ff00000, 1), i64.shl(i64.and(x, i64.of(1 << 22)), i64.of(29)));

const writeNarrow = (single: SoftFormat, double: SoftFormat, b: Body, p: Var[]): void => {
  const [cpu, x, rm] = p as [Var, Var, Var];
  const number = toNative(DOUBLE, x);
  b.if(i32.eqz(rm), () => {
    const result = b.let(I64, fromNative(SINGLE, f32.demote(number)));
    b.if(isSafe(SINGLE, result), () => {
      const back = f64.promote(toNative(SINGLE, result));
      b.if(f64.ne(back, number), () => raise(single, b, cpu, i32.of(Flag.Nx)));
      b.return(box(SINGLE, result));
    });
  });
  const negative = b.let(I32, sign(DOUBLE, x));
  b.if(isNan(DOUBLE, x), () => {
    b.set(x, call(double.nan, cpu, x, x));
    b.return(box(SINGLE, canonicalNan(SINGLE)));
  });
  const withSign = (bits: Expr) => box(SINGLE, i64.or(signOf(SINGLE, negative), bits));
  b.if(isInfinite(DOUBLE, x), () => b.return(withSign(infinity(SINGLE))));
  b.if(isZero(DOUBLE, x), () => b.return(withSign(i64.of(0))));
  const [exponent, significand] = unpack(double, b, x);
  b.return(box(SINGLE, call(single.roundPack, cpu, negative, exponent, significand, rm)));
};

type Integer = {
  readonly name: 'w' | 'wu' | 'l' | 'lu';
  readonly min: number;
  /** The first integer too large. */
  readonly limit: number;
  /** Register images of the results out of range. */
  readonly lowest: Expr;
  readonly highest: Expr;
};

const INTEGERS: readonly Integer[] = [
  { name: 'w', min: -(2 ** 31), limit: 2 ** 31, lowest: i64.of(-(2 ** 31)), highest: i64.of(2 ** 31 - 1) },
  { name: 'wu', min: 0, limit: 2 ** 32, lowest: i64.of(0), highest: i64.of(-1) },
  {
    name: 'l',
    min: -(2 ** 63),
    limit: 2 ** 63,
    lowest: i64.words(1 << 31, 0),
    highest: i64.words(0x7fffffff, -1),
  },
  { name: 'lu', min: 0, limit: 2 ** 64, lowest: i64.of(0), highest: i64.of(-1) },
];

const isUnsigned = (t: Integer): boolean => t.min === 0;
const isWord = (t: Integer): boolean => t.name === 'w' || t.name === 'wu';

export const emitIntegers = (single: SoftFormat, double: SoftFormat): Record<string, FunctionIndex> => {
  const functions: Record<string, FunctionIndex> = {};
  const { m } = single;
  for (const t of INTEGERS) {
    const toInteger = define(m, undefined, UNARY, [I64], (b, ...p) => writeToInteger(double, t, b, p));
    functions[`cvt_${t.name}_d`] = toInteger;
    // A single is a double; its NaNs stay NaNs, and each is as invalid as another here.
    functions[`cvt_${t.name}_s`] = define(m, undefined, UNARY, [I64], (b, cpu, x, rm) => {
      b.set(x, unboxed(SINGLE, single.unbox, x));
      b.return(call(toInteger, cpu, f64.bits(f64.promote(toNative(SINGLE, x))), rm));
    });
    for (const s of [single, double]) {
      functions[`cvt_${s.f.letter}_${t.name}`] = define(m, undefined, UNARY, [I64], (b, ...p) =>
        writeFromInteger(s, t, b, p),
      );
    }
  }
  return functions;
};

const writeToInteger = (s: Soft, t: Integer, b: Body, p: Var[]): void => {
  const [cpu, x, rm] = p as [Var, Var, Var];
  const number = f64.ofBits(x);
  const rounded = b.let(I64, f64.bits(f64.trunc(number)));
  const whole = f64.ofBits(rounded);
  b.if(i32.ne(rm, i32.of(Rm.Rtz)), () => roundToWhole(b, number, rounded, rm));
  const isInRange = i32.and(f64.ge(whole, f64.of(t.min)), f64.lt(whole, f64.of(t.limit)));
  b.if(isInRange, () => {
    b.if(f64.ne(whole, number), () => raise(s, b, cpu, i32.of(Flag.Nx)));
    const value = isUnsigned(t) ? f64.toU64(whole) : f64.toI64(whole);
    b.return(isWord(t) ? i64.extend32(value) : value);
  });
  raise(s, b, cpu, i32.of(Flag.Nv));
  b.return(select(i32.and(sign(DOUBLE, x), i32.eqz(isNan(DOUBLE, x))), t.lowest, t.highest));
};

/** `rounded` holds the number truncated; replaces it as the other modes ask. */
const roundToWhole = (b: Body, number: Expr, rounded: Var, rm: Expr): void => {
  const mode = (value: number, result: Expr) =>
    b.if(i32.eq(rm, i32.of(value)), () => b.set(rounded, f64.bits(result)));
  mode(Rm.Rne, f64.nearest(number));
  mode(Rm.Rdn, f64.floor(number));
  mode(Rm.Rup, f64.ceil(number));
  // The fraction part is exact, and numbers that have one are far below 2^53.
  const truncated = f64.ofBits(rounded);
  const away = f64.add(truncated, f64.copysign(f64.of(1), number));
  const atLeastHalf = f64.ge(f64.abs(f64.sub(number, truncated)), f64.of(0.5));
  mode(Rm.Rmm, select(atLeastHalf, away, truncated));
};

const writeFromInteger = (s: SoftFormat, t: Integer, b: Body, p: Var[]): void => {
  const { f } = s;
  const [cpu, x, rm] = p as [Var, Var, Var];
  if (t.name === 'w') b.set(x, i64.extend32(x));
  if (t.name === 'wu') b.set(x, i64.and(x, i64.of(0xffffffff)));
  const converted = box(f, fromNative(f, convert(f, t, x)));
  if (isWord(t) && f === DOUBLE) {
    b.return(converted);
    return;
  }
  const negative = b.let(I32, isUnsigned(t) ? i32.of(0) : i64.lt(x, i64.of(0)));
  const size = b.let(I64, select(negative, i64.sub(i64.of(0), x), x));
  const isExact = i64.eqz(i64.shru(size, i64.of(f.fractionBits + 1)));
  b.if(i32.or(isExact, nativeMayRun(s, b, cpu, rm)), () => b.return(converted));
  b.return(box(f, call(s.roundPack, cpu, negative, i32.of(62), size, rm)));
};

const convert = (f: Format, t: Integer, x: Expr): Expr => {
  const to = f === DOUBLE ? f64 : f32;
  return isUnsigned(t) ? to.ofU64(x) : to.ofI64(x);
};
