import { type FunctionIndex, I32, I64 } from '../../wasm/encoder.ts';
import { type Body, call, type Expr, f64, i32, i64, select, type Var } from './expr.ts';
import {
  biased,
  box,
  canonicalNan,
  Flag,
  type Format,
  fromNative,
  infinity,
  isFiniteNumber,
  isInfinite,
  isNan,
  isSafe,
  isZero,
  magnitude,
  Rm,
  sign,
  signBit,
  signOf,
  toNative,
  unboxed,
} from './format.ts';
import { define, raise, raised, returnInvalid, type SoftFormat } from './soft.ts';

// Addition, multiplication, division and square root. Each public function tries the native operation
// and leaves the rest to a slow function on unboxed images.

const UNARY = [I32, I64, I32] as const;
const BINARY = [I32, I64, I64, I32] as const;

export const emitArithmetic = (
  s: SoftFormat,
): Record<'add' | 'sub' | 'mul' | 'div' | 'sqrt', FunctionIndex> => {
  const slow = (write: (s: SoftFormat, b: Body, ...p: Var[]) => void) =>
    define(s.m, undefined, BINARY, [I64], (b, ...p) => write(s, b, ...p));
  const add = slow(writeAdd);
  return {
    add: emitSum(s, add, 'add'),
    sub: emitSum(s, add, 'sub'),
    mul: emitScaled(s, slow(writeMultiply), 'mul'),
    div: emitScaled(s, slow(writeDivide), 'div'),
    sqrt: emitSquareRoot(s),
  };
};

/** rm = RNE and NX already raised: a native result needs only a range check. */
export const nativeMayRun = (s: SoftFormat, b: Body, cpu: Expr, rm: Expr): Expr =>
  i32.and(i32.eqz(rm), raised(s, b, cpu));

const emitSum = (s: SoftFormat, slow: FunctionIndex, name: 'add' | 'sub'): FunctionIndex =>
  define(s.m, undefined, BINARY, [I64], (b, cpu, a, c, rm) => {
    const { f } = s;
    b.set(a, unboxed(f, s.unbox, a));
    b.set(c, unboxed(f, s.unbox, c));
    if (name === 'sub') b.set(c, i64.xor(c, signBit(f)));
    b.if(
      i32.eqz(rm),
      () => {
        const x = toNative(f, a);
        const y = toNative(f, c);
        const sum = b.let(I64, fromNative(f, f.native.add(x, y)));
        // A sum never underflows inexactly. The margin below overflow keeps the error term exact.
        b.if(
          i32.lt(biased(f, sum), i32.of(f.maxBiased - 2)),
          () => {
            b.if(i32.eqz(i32.and(raised(s, b, cpu), i32.of(Flag.Nx))), () => {
              b.if(isInexactSum(f, x, y, toNative(f, sum)), () => raise(s, b, cpu, i32.of(Flag.Nx)));
            });
            b.return(box(f, sum));
          },
          { likely: true },
        );
      },
      { likely: true },
    );
    b.return(box(f, call(slow, cpu, a, c, rm)));
  });

/** Knuth's two-sum: whether x + y differs from their rounded sum. */
const isInexactSum = (f: Format, x: Expr, y: Expr, sum: Expr): Expr => {
  const n = f.native;
  const yPart = n.sub(sum, x);
  return n.ne(n.sub(x, n.sub(sum, yPart)), n.sub(yPart, y));
};

const emitScaled = (s: SoftFormat, slow: FunctionIndex, name: 'mul' | 'div'): FunctionIndex =>
  define(s.m, undefined, BINARY, [I64], (b, cpu, a, c, rm) => {
    const { f } = s;
    b.set(a, unboxed(f, s.unbox, a));
    b.set(c, unboxed(f, s.unbox, c));
    b.if(
      nativeMayRun(s, b, cpu, rm),
      () => {
        const result = b.let(I64, fromNative(f, f.native[name](toNative(f, a), toNative(f, c))));
        b.if(isSafe(f, result), () => b.return(box(f, result)), { likely: true });
      },
      { likely: true },
    );
    b.return(box(f, call(slow, cpu, a, c, rm)));
  });

const emitSquareRoot = (s: SoftFormat): FunctionIndex => {
  const slow = define(s.m, undefined, UNARY, [I64], (b, ...p) => writeSquareRoot(s, b, ...p));
  return define(s.m, undefined, UNARY, [I64], (b, cpu, a, rm) => {
    const { f } = s;
    b.set(a, unboxed(f, s.unbox, a));
    b.if(
      nativeMayRun(s, b, cpu, rm),
      () => {
        const result = b.let(I64, fromNative(f, f.native.sqrt(toNative(f, a))));
        b.if(isSafe(f, result), () => b.return(box(f, result)), { likely: true });
      },
      { likely: true },
    );
    b.return(box(f, call(slow, cpu, a, rm)));
  });
};

/** The sign of an exact zero sum: that of equal operands, else minus only when rounding down. */
export const zeroSum = (f: Format, x: Expr, y: Expr, rm: Expr): Expr =>
  signOf(f, select(i32.eq(x, y), x, i32.eq(rm, i32.of(Rm.Rdn))));

const writeAdd = (s: SoftFormat, b: Body, cpu: Var, a: Var, c: Var, rm: Var): void => {
  const { f } = s;
  b.if(i32.eqz(i32.and(isFiniteNumber(f, a), isFiniteNumber(f, c))), () => {
    b.if(i32.or(isNan(f, a), isNan(f, c)), () => b.return(call(s.nan, cpu, a, c)));
    b.if(i32.eqz(isInfinite(f, a)), () => b.return(c));
    b.if(i64.eq(i64.xor(a, c), signBit(f)), () => returnInvalid(s, b, cpu));
    b.return(a);
  });
  // The larger magnitude first, so that a difference has its sign.
  const swapped = b.let(I64, a);
  b.if(i64.ltu(magnitude(f, a), magnitude(f, c)), () => b.set(a, c).set(c, swapped));
  const [exponent, x] = unpack(s, b, a);
  const [smaller, y] = unpack(s, b, c);
  b.set(y, call(s.shiftRightJam, y, i32.sub(exponent, smaller)));
  const same = i32.eq(sign(f, a), sign(f, c));
  b.set(x, select(same, i64.add(x, y), i64.sub(x, y)));
  b.if(i64.eqz(x), () => b.return(zeroSum(f, sign(f, a), sign(f, c), rm)));
  b.return(call(s.roundPack, cpu, sign(f, a), exponent, x, rm));
};

/** Exponent and significand of a finite image. */
export const unpack = (s: SoftFormat, b: Body, bits: Expr): [exponent: Var, significand: Var] => {
  const exponent = b.let(I32, i32.of(0));
  const significand = b.let(I64, i64.of(0));
  b.set2(exponent, significand, call(s.unpack, bits));
  return [exponent, significand];
};

const writeMultiply = (s: SoftFormat, b: Body, cpu: Var, a: Var, c: Var, rm: Var): void => {
  const { f } = s;
  const negative = b.let(I32, sign(f, i64.xor(a, c)));
  b.if(i32.eqz(i32.and(isFiniteNumber(f, a), isFiniteNumber(f, c))), () => {
    b.if(i32.or(isNan(f, a), isNan(f, c)), () => b.return(call(s.nan, cpu, a, c)));
    b.if(i32.or(isZero(f, a), isZero(f, c)), () => returnInvalid(s, b, cpu));
    b.return(i64.or(signOf(f, negative), infinity(f)));
  });
  b.if(i32.or(isZero(f, a), isZero(f, c)), () => b.return(signOf(f, negative)));
  const [ea, x] = unpack(s, b, a);
  const [ec, y] = unpack(s, b, c);
  b.set2(x, y, call(s.multiplyWide, x, y));
  const jammed = i64.or(x, i64.extend(i64.ne(y, i64.of(0))));
  b.return(call(s.roundPack, cpu, negative, i32.add(i32.add(ea, ec), i32.of(2)), jammed, rm));
};

const writeDivide = (s: SoftFormat, b: Body, cpu: Var, a: Var, c: Var, rm: Var): void => {
  const { f } = s;
  const negative = b.let(I32, sign(f, i64.xor(a, c)));
  b.if(i32.or(isNan(f, a), isNan(f, c)), () => b.return(call(s.nan, cpu, a, c)));
  b.if(isInfinite(f, a), () => {
    b.if(isInfinite(f, c), () => returnInvalid(s, b, cpu));
    b.return(i64.or(signOf(f, negative), infinity(f)));
  });
  b.if(isZero(f, c), () => {
    b.if(isZero(f, a), () => returnInvalid(s, b, cpu));
    raise(s, b, cpu, i32.of(Flag.Dz));
    b.return(i64.or(signOf(f, negative), infinity(f)));
  });
  b.if(i32.or(isZero(f, a), isInfinite(f, c)), () => b.return(signOf(f, negative)));
  const [ea, x] = unpack(s, b, a);
  const [ec, y] = unpack(s, b, c);
  // 53-bit integers n and d. The native quotient is within 2 of n * 2^54 / d, which has 54 or 55 bits, so
  // two less and one small division give the floor; the products wrap, the remainders don't.
  const n = b.let(I64, i64.shru(x, i64.of(10)));
  const d = b.let(I64, i64.shru(y, i64.of(10)));
  const near = f64.mul(f64.div(f64.ofI64(n), f64.ofI64(d)), f64.of(2 ** 54));
  const quotient = b.let(I64, i64.sub(f64.toI64(near), i64.of(2)));
  const rest = b.let(I64, i64.sub(i64.shl(n, i64.of(54)), i64.mul(quotient, d)));
  const more = b.let(I64, i64.divu(rest, d));
  b.set(rest, i64.sub(rest, i64.mul(more, d)));
  b.set(quotient, i64.shl(i64.add(quotient, more), i64.of(1)));
  const jammed = i64.or(quotient, i64.extend(i64.ne(rest, i64.of(0))));
  b.return(call(s.roundPack, cpu, negative, i32.add(i32.sub(ea, ec), i32.of(7)), jammed, rm));
};

const writeSquareRoot = (s: SoftFormat, b: Body, ...[cpu, a, rm]: Var[]): void => {
  const { f } = s;
  b.if(isNan(f, a), () => b.return(call(s.nan, cpu, a, canonicalNan(f))));
  b.if(isZero(f, a), () => b.return(a));
  b.if(sign(f, a), () => returnInvalid(s, b, cpu));
  b.if(isInfinite(f, a), () => b.return(a));
  const [exponent, x] = unpack(s, b, a);
  // n * 2^52 with n of 53 or 54 bits has a root of 53 bits; the native root is within 1 of its floor.
  const odd = b.let(I32, i32.and(exponent, i32.of(1)));
  const n = b.let(I64, i64.shl(i64.shru(x, i64.of(10)), i64.extend(odd)));
  const root = b.let(I64, f64.toI64(f64.mul(f64.sqrt(f64.ofI64(n)), f64.of(2 ** 26))));
  const rest = b.let(I64, i64.sub(i64.shl(n, i64.of(52)), i64.mul(root, root)));
  b.if(i64.lt(rest, i64.of(0)), () => {
    b.set(root, i64.sub(root, i64.of(1)));
    b.set(rest, i64.add(rest, i64.add(i64.shl(root, i64.of(1)), i64.of(1))));
  });
  // (root + 1/2)^2 = root^2 + root + 1/4: never a tie.
  const half = i64.shl(i64.extend(i64.gt(rest, root)), i64.of(1));
  const jammed = i64.or(i64.or(i64.shl(root, i64.of(2)), half), i64.extend(i64.ne(rest, i64.of(0))));
  const halved = i32.shrs(i32.sub(exponent, odd), i32.of(1));
  b.return(call(s.roundPack, cpu, i32.of(0), i32.add(halved, i32.of(8)), jammed, rm));
};
