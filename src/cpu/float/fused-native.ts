import { F64, I32, I64 } from '../../wasm/encoder.ts';
import { nativeMayRun } from './arithmetic.ts';
import { type Body, type Expr, f32, f64, i32, i64, type Var } from './expr.ts';
import { biased, box, DOUBLE, Flag, fromNative, isSafe, toNative } from './format.ts';
import { raise, type SoftFormat } from './soft.ts';

// Fused multiply-adds from native instructions by error-free transforms: the rounding error of a sum or
// product is a number too, and computable. Each returns from the function when it has the answer.

type Operands = [cpu: Var, x: Var, y: Var, z: Var, rm: Var];
type Pair = { sum: Var; error: Var };

/** Knuth's two-sum: x + y = sum + error. */
const twoSum = (b: Body, x: Expr, y: Expr): Pair => {
  const sum = b.let(F64, f64.add(x, y));
  const part = b.let(F64, f64.sub(sum, x));
  const error = b.let(F64, f64.add(f64.sub(x, f64.sub(sum, part)), f64.sub(y, part)));
  return { sum, error };
};

/** x + y rounded to odd: when inexact, the neighbour whose last bit is one. */
const sumToOdd = (b: Body, x: Expr, y: Expr): { sum: Var; isExact: Expr } => {
  const { sum, error } = twoSum(b, x, y);
  const isExact = f64.eq(error, f64.of(0));
  const bits = b.let(I64, f64.bits(sum));
  b.if(i32.eqz(i32.or(isExact, i32.wrap(i64.and(bits, i64.of(1))))), () => {
    // +1 when the error points away from zero, -1 when towards it.
    const opposite = i64.shrs(i64.xor(bits, f64.bits(error)), i64.of(63));
    b.set(sum, f64.ofBits(i64.add(bits, i64.or(opposite, i64.of(1)))));
  });
  return { sum, isExact };
};

/** The product is exact in f64; its sum, rounded to odd, rounds again to the right single. */
export const tryNativeSingle = (s: SoftFormat, b: Body, [cpu, x, y, z, rm]: Operands): void => {
  const { f } = s;
  const wide = (v: Expr) => f64.promote(toNative(f, v));
  b.if(i32.eqz(rm), () => {
    const { sum, isExact } = sumToOdd(b, f64.mul(wide(x), wide(y)), wide(z));
    const result = b.let(I64, fromNative(f, f32.demote(sum)));
    b.if(isSafe(f, result), () => {
      b.if(i32.or(i32.eqz(isExact), f64.ne(wide(result), sum)), () => raise(s, b, cpu, i32.of(Flag.Nx)));
      b.return(box(f, result));
    });
  });
};

/** Biased exponents of the numbers whose products' errors neither overflow nor underflow. */
const FACTOR = { from: 1023 - 440, count: 881 } as const;
const ADDEND = { from: 1023 - 900, count: 1801 } as const;

const isWithin = (v: Var, range: { from: number; count: number }): Expr =>
  i32.ltu(i32.sub(biased(DOUBLE, v), i32.of(range.from)), i32.of(range.count));

/** Veltkamp's split: the upper 26 bits of a number; the rest is the difference. */
const upperHalf = (b: Body, x: Expr): Var => {
  const scaled = b.let(F64, f64.mul(x, f64.of(2 ** 27 + 1)));
  return b.let(F64, f64.sub(scaled, f64.sub(scaled, x)));
};

/** Dekker's product: x * y = sum + error. */
const twoProduct = (b: Body, x: Expr, y: Expr): Pair => {
  const sum = b.let(F64, f64.mul(x, y));
  const [xHigh, yHigh] = [upperHalf(b, x), upperHalf(b, y)];
  const xLow = b.let(F64, f64.sub(x, xHigh));
  const yLow = b.let(F64, f64.sub(y, yHigh));
  const high = f64.sub(f64.mul(xHigh, yHigh), sum);
  const cross = f64.add(f64.add(high, f64.mul(xHigh, yLow)), f64.mul(xLow, yHigh));
  return { sum, error: b.let(F64, f64.add(cross, f64.mul(xLow, yLow))) };
};

/**
 * Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to
 * odd" (2008), figure 3. Exact when nothing underflows, which the ranges see to.
 */
export const tryNativeDouble = (s: SoftFormat, b: Body, [cpu, x, y, z, rm]: Operands): void => {
  const inRange = b.let(I32, i32.and(isWithin(x, FACTOR), i32.and(isWithin(y, FACTOR), isWithin(z, ADDEND))));
  b.if(i32.and(inRange, nativeMayRun(s, b, cpu, rm)), () => {
    const product = twoProduct(b, f64.ofBits(x), f64.ofBits(y));
    const low = twoSum(b, f64.ofBits(z), product.error);
    const high = twoSum(b, product.sum, low.sum);
    const rest = sumToOdd(b, low.error, high.error);
    b.return(f64.bits(f64.add(high.sum, rest.sum)));
  });
};
