import { type FunctionIndex, I32, I64 } from '../../wasm/encoder.ts';
import { unpack, zeroSum } from './arithmetic.ts';
import { type Body, call, type Expr, i32, i64, type Var } from './expr.ts';
import {
  box,
  infinity,
  isFiniteNumber,
  isInfinite,
  isNan,
  isZero,
  sign,
  signBit,
  signOf,
  unboxed,
} from './format.ts';
import { tryNativeDouble, tryNativeSingle } from './fused-native.ts';
import { define, returnInvalid, type SoftFormat } from './soft.ts';

// The fused multiply-adds: one rounding of a * b + c. The slow path adds 128-bit integers, where a number
// is high:low * 2^(exponent - 124).

const TERNARY = [I32, I64, I64, I64, I32] as const;

export const emitFused = (s: SoftFormat): Record<'madd' | 'msub' | 'nmsub' | 'nmadd', FunctionIndex> => {
  const shiftWide = define(s.m, undefined, [I64, I64, I32], [I64, I64], (b, ...p) => writeShiftWide(s, b, p));
  const pack = define(s.m, undefined, [I32, I32, I32, I64, I64, I32], [I64], (b, ...p) =>
    writePackWide(s, b, p),
  );
  const slow = define(s.m, undefined, TERNARY, [I64], (b, ...p) => writeFused(s, b, p, shiftWide, pack));
  const variant = (o: { product: boolean; addend: boolean }) => emitVariant(s, slow, o);
  return {
    madd: variant({ product: false, addend: false }),
    msub: variant({ product: false, addend: true }),
    nmsub: variant({ product: true, addend: false }),
    nmadd: variant({ product: true, addend: true }),
  };
};

/** `negated` tells which of product and addend change sign. */
const emitVariant = (
  s: SoftFormat,
  slow: FunctionIndex,
  negated: { product: boolean; addend: boolean },
): FunctionIndex =>
  define(s.m, undefined, TERNARY, [I64], (b, cpu, x, y, z, rm) => {
    const { f } = s;
    for (const v of [x, y, z]) b.set(v, unboxed(f, s.unbox, v));
    if (negated.product) b.set(x, i64.xor(x, signBit(f)));
    if (negated.addend) b.set(z, i64.xor(z, signBit(f)));
    const native = f.letter === 's' ? tryNativeSingle : tryNativeDouble;
    native(s, b, [cpu, x, y, z, rm]);
    b.return(box(f, call(slow, cpu, x, y, z, rm)));
  });

const writeFused = (
  s: SoftFormat,
  b: Body,
  p: Var[],
  shiftWide: FunctionIndex,
  pack: FunctionIndex,
): void => {
  const { f } = s;
  const [cpu, x, y, z, rm] = p as [Var, Var, Var, Var, Var];
  const negative = b.let(I32, sign(f, i64.xor(x, y)));
  b.if(i32.eqz(i32.and(i32.and(isFiniteNumber(f, x), isFiniteNumber(f, y)), isFiniteNumber(f, z))), () =>
    writeFusedSpecial(s, b, p as [Var, Var, Var, Var, Var], negative),
  );
  b.if(i32.or(isZero(f, x), isZero(f, y)), () => {
    b.if(isZero(f, z), () => b.return(zeroSum(f, negative, sign(f, z), rm)));
    b.return(z);
  });
  const [ex, high] = unpack(s, b, x);
  const [ey, low] = unpack(s, b, y);
  const exponent = b.let(I32, i32.add(ex, ey));
  b.set2(high, low, call(s.multiplyWide, high, low));
  const [ez, significand] = unpack(s, b, z);
  const zLow = b.let(I64, i64.shl(significand, i64.of(62)));
  const zHigh = b.let(I64, i64.shru(significand, i64.of(2)));
  b.if(
    i32.lt(exponent, ez),
    () => {
      b.set2(high, low, call(shiftWide, high, low, i32.sub(ez, exponent)));
      b.set(exponent, ez);
    },
    { else: () => b.set2(zHigh, zLow, call(shiftWide, zHigh, zLow, i32.sub(exponent, ez))) },
  );
  addWide(b, { negative, high, low }, { negative: sign(f, z), high: zHigh, low: zLow });
  b.if(i64.eqz(i64.or(high, low)), () => b.return(zeroSum(f, sign(f, i64.xor(x, y)), sign(f, z), rm)));
  b.return(call(pack, cpu, negative, exponent, high, low, rm));
};

/** Inf * 0 is invalid even beside a quiet NaN addend. */
const writeFusedSpecial = (s: SoftFormat, b: Body, p: [Var, Var, Var, Var, Var], negative: Var): void => {
  const { f } = s;
  const [cpu, x, y, z] = p;
  const infinityTimesZero = i32.or(
    i32.and(isInfinite(f, x), isZero(f, y)),
    i32.and(isZero(f, x), isInfinite(f, y)),
  );
  b.if(infinityTimesZero, () => returnInvalid(s, b, cpu));
  b.if(i32.or(i32.or(isNan(f, x), isNan(f, y)), isNan(f, z)), () => {
    // The first answer is a quiet NaN, so the second asks about z alone.
    b.return(call(s.nan, cpu, z, call(s.nan, cpu, x, y)));
  });
  b.if(i32.or(isInfinite(f, x), isInfinite(f, y)), () => {
    b.if(i32.and(isInfinite(f, z), i32.ne(sign(f, z), negative)), () => returnInvalid(s, b, cpu));
    b.return(i64.or(signOf(f, negative), infinity(f)));
  });
  b.return(z);
};

type Wide = { high: Var; low: Var };

/** x += z as signed magnitudes; x's sign follows. */
const addWide = (b: Body, x: Wide & { negative: Var }, z: Wide & { negative: Expr }): void => {
  const same = i32.eq(x.negative, z.negative);
  b.if(
    same,
    () => {
      b.set(x.low, i64.add(x.low, z.low));
      b.set(x.high, i64.add(i64.add(x.high, z.high), i64.extend(i64.ltu(x.low, z.low))));
    },
    {
      else: () => {
        const borrow = b.let(I64, i64.extend(i64.ltu(x.low, z.low)));
        b.set(x.low, i64.sub(x.low, z.low));
        b.set(x.high, i64.sub(i64.sub(x.high, z.high), borrow));
        b.if(i64.lt(x.high, i64.of(0)), () => {
          b.set(x.negative, i32.xor(x.negative, i32.of(1)));
          b.set(x.low, i64.sub(i64.of(0), x.low));
          b.set(x.high, i64.sub(i64.sub(i64.of(0), x.high), i64.extend(i64.ne(x.low, i64.of(0)))));
        });
      },
    },
  );
};

/** high:low shifted right by count >= 0; lost ones stay as the lowest bit. */
const writeShiftWide = (s: SoftFormat, b: Body, p: Var[]): void => {
  const [high, low, count] = p as [Var, Var, Var];
  b.if(i32.ge(count, i32.of(64)), () => {
    const rest = call(s.shiftRightJam, high, i32.sub(count, i32.of(64)));
    b.return(i64.of(0), i64.or(rest, i64.extend(i64.ne(low, i64.of(0)))));
  });
  // high << (64 - count), also for count 0.
  const carried = i64.shl(i64.shl(high, i64.of(1)), i64.extend(i32.sub(i32.of(63), count)));
  b.return(i64.shru(high, i64.extend(count)), i64.or(call(s.shiftRightJam, low, count), carried));
};

/** (cpu, sign, exponent, high, low, rm): squeezes 128 bits, not all zero, into a jammed 64. */
const writePackWide = (s: SoftFormat, b: Body, p: Var[]): void => {
  const [cpu, negative, exponent, high, low, rm] = p as [Var, Var, Var, Var, Var, Var];
  b.if(i64.eqz(high), () => {
    b.return(call(s.roundPack, cpu, negative, i32.sub(exponent, i32.of(62)), low, rm));
  });
  const zeros = b.let(I64, i64.clz(high));
  const carried = i64.shru(i64.shru(low, i64.of(1)), i64.sub(i64.of(63), zeros));
  const lost = i64.extend(i64.ne(i64.shl(low, zeros), i64.of(0)));
  b.set(high, i64.or(i64.or(i64.shl(high, zeros), carried), lost));
  b.set(exponent, i32.sub(i32.add(exponent, i32.of(2)), i32.wrap(zeros)));
  b.return(call(s.roundPack, cpu, negative, exponent, high, rm));
};
