import { type FunctionIndex, I32, I64, type ModuleBuilder, type ValType } from '../../wasm/encoder.ts';
import { Body, call, type Expr, i32, i64, select, type Var, variable } from './expr.ts';
import {
  biased,
  canonicalNan,
  Flag,
  type Format,
  fraction,
  hiddenBit,
  infinity,
  isNan,
  isQuiet,
  Rm,
  signOf,
} from './format.ts';

// The integer arithmetic that every slow path shares. A finite number here is a sign (i32), an exponent
// (i32) and a significand (i64, unsigned): (-1)^sign * significand * 2^(exponent - 62).

/** Zero's exponent: below every other, with room to add and subtract. */
const ZERO_EXPONENT = -0x8000;

/** What the emitters of one module share. */
export type Soft = {
  readonly m: ModuleBuilder;
  readonly fflags: number;
  /** (i64) -> i64: the unboxed single of a register image. */
  readonly unbox: FunctionIndex;
  /** (significand, count >= 0) -> significand shifted right; lost ones stay as the lowest bit. */
  readonly shiftRightJam: FunctionIndex;
  /** (i64, i64) -> high, low of the product. */
  readonly multiplyWide: FunctionIndex;
};

/** `Soft` for one format. Images are unboxed. */
export type SoftFormat = Soft & {
  readonly f: Format;
  /** (finite image) -> exponent, significand with its leading one at bit 62, or 0. */
  readonly unpack: FunctionIndex;
  /** (cpu, sign, exponent, significand != 0, rm) -> image, raising OF, UF, NX. */
  readonly roundPack: FunctionIndex;
  /** (cpu, a, b) of which one may be a NaN -> canonical NaN, raising NV for a signalling one. */
  readonly nan: FunctionIndex;
};

export const define = (
  m: ModuleBuilder,
  name: string | undefined,
  params: readonly ValType[],
  results: readonly ValType[],
  write: (b: Body, ...params: Var[]) => void,
): FunctionIndex =>
  m.define(name, { params, results }, c => write(new Body(c), ...params.map((_, i) => variable(i))));

export const raise = (s: { fflags: number }, b: Body, cpu: Expr, flags: Expr): void => {
  b.store('i32_store', cpu, s.fflags, i32.or(b.load('i32_load', cpu, s.fflags), flags));
};

export const raised = (s: { fflags: number }, b: Body, cpu: Expr): Expr => b.load('i32_load', cpu, s.fflags);

/** Raises NV and returns the canonical NaN. */
export const returnInvalid = (s: SoftFormat, b: Body, cpu: Expr): void => {
  raise(s, b, cpu, i32.of(Flag.Nv));
  b.return(canonicalNan(s.f));
};

export const isSignalling = (f: Format, bits: Expr): Expr =>
  i32.and(isNan(f, bits), i32.eqz(isQuiet(f, bits)));

export const emitSoft = (m: ModuleBuilder, fflags: number): Soft => ({
  m,
  fflags,
  unbox: define(m, undefined, [I64], [I64], (b, image) => {
    const boxed = i64.eq(i64.shru(image, i64.of(32)), i64.of(0xffffffff));
    b.return(select(boxed, i64.and(image, i64.of(0xffffffff)), i64.of(0x7fc00000)));
  }),
  shiftRightJam: define(m, undefined, [I64, I32], [I64], (b, value, count) => {
    b.if(i32.ge(count, i32.of(64)), () => b.return(i64.extend(i64.ne(value, i64.of(0)))));
    const by = i64.extend(count);
    const lost = i64.and(value, i64.sub(i64.shl(i64.of(1), by), i64.of(1)));
    b.return(i64.or(i64.shru(value, by), i64.extend(i64.ne(lost, i64.of(0)))));
  }),
  multiplyWide: define(m, undefined, [I64, I64], [I64, I64], writeMultiplyWide),
});

/** Schoolbook multiplication by 32-bit halves; the cross sum can't overflow. */
const writeMultiplyWide = (b: Body, x: Var, y: Var): void => {
  const low = (v: Expr) => i64.and(v, i64.of(0xffffffff));
  const high = (v: Expr) => i64.shru(v, i64.of(32));
  const lowLow = b.let(I64, i64.mul(low(x), low(y)));
  const highLow = b.let(I64, i64.mul(high(x), low(y)));
  const cross = b.let(I64, i64.add(i64.add(high(lowLow), low(highLow)), i64.mul(low(x), high(y))));
  b.return(
    i64.add(i64.mul(high(x), high(y)), i64.add(high(highLow), high(cross))),
    i64.or(i64.shl(cross, i64.of(32)), low(lowLow)),
  );
};

export const emitSoftFormat = (s: Soft, f: Format): SoftFormat => ({
  ...s,
  f,
  unpack: define(s.m, undefined, [I64], [I32, I64], (b, bits) => writeUnpack(f, b, bits)),
  roundPack: define(s.m, undefined, [I32, I32, I32, I64, I32], [I64], (b, ...params) =>
    writeRoundPack(s, f, b, params as [Var, Var, Var, Var, Var]),
  ),
  nan: define(s.m, undefined, [I32, I64, I64], [I64], (b, cpu, x, y) => {
    b.if(i32.or(isSignalling(f, x), isSignalling(f, y)), () => raise(s, b, cpu, i32.of(Flag.Nv)));
    b.return(canonicalNan(f));
  }),
});

const writeUnpack = (f: Format, b: Body, bits: Var): void => {
  const e = b.let(I32, biased(f, bits));
  const significand = b.let(I64, fraction(f, bits));
  b.if(e, () => {
    const leading = i64.shl(i64.or(significand, hiddenBit(f)), i64.of(62 - f.fractionBits));
    b.return(i32.sub(e, i32.of(f.bias)), leading);
  });
  b.if(i64.eqz(significand), () => b.return(i32.of(ZERO_EXPONENT), i64.of(0)));
  const shift = b.let(I64, i64.sub(i64.clz(significand), i64.of(1)));
  const exponent = i32.sub(i32.of(63 - f.bias - f.fractionBits), i32.wrap(shift));
  b.return(exponent, i64.shl(significand, shift));
};

const writeRoundPack = (
  s: Soft,
  f: Format,
  b: Body,
  [cpu, sign, exponent, significand, rm]: [Var, Var, Var, Var, Var],
): void => {
  // Leading one to bit 63; `e` becomes the biased exponent.
  const zeros = b.let(I64, i64.clz(significand));
  b.set(significand, i64.shl(significand, zeros));
  const e = b.let(I32, i32.sub(i32.add(exponent, i32.of(f.bias + 1)), i32.wrap(zeros)));
  const drop = 63 - f.fractionBits;
  const rounded = b.let(I64, i64.of(0));
  const rest = b.let(I64, i64.of(0));
  const round = () => {
    b.set(rounded, i64.shru(significand, i64.of(drop)));
    b.set(rest, i64.shl(significand, i64.of(64 - drop)));
    b.set(rounded, i64.add(rounded, i64.extend(roundsUp(sign, rounded, rest, rm))));
  };
  const tiny = b.let(I32, i32.lt(e, i32.of(1)));
  b.if(tiny, () => {
    // Tiny after rounding: not when rounding with an unbounded exponent reaches the smallest normal.
    b.if(i32.eqz(e), () => {
      round();
      b.set(tiny, i64.eqz(i64.shru(rounded, i64.of(f.fractionBits + 1))));
    });
    b.set(significand, call(s.shiftRightJam, significand, i32.sub(i32.of(1), e)));
    b.set(e, i32.of(1));
  });
  round();
  // The leading bit adds one to the exponent field, and so does a carry out of the significand.
  const bits = b.let(
    I64,
    i64.add(i64.shl(i64.extend(i32.sub(e, i32.of(1))), i64.of(f.fractionBits)), rounded),
  );
  const overflows = i32.or(i32.ge(e, i32.of(f.maxBiased)), i64.geu(bits, infinity(f)));
  b.if(overflows, () => {
    raise(s, b, cpu, i32.of(Flag.Of | Flag.Nx));
    b.return(i64.or(signOf(f, sign), i64.sub(infinity(f), i64.extend(overflowsToFinite(sign, rm)))));
  });
  b.if(i64.ne(rest, i64.of(0)), () => {
    raise(s, b, cpu, i32.or(i32.of(Flag.Nx), i32.shl(tiny, i32.of(1))));
  });
  b.return(i64.or(signOf(f, sign), bits));
};

/** Whether a magnitude whose dropped bits are `rest` (bit 63 = one half) grows by one. */
const roundsUp = (sign: Expr, kept: Expr, rest: Expr, rm: Expr): Expr => {
  const half = i64.words(0x80000000 | 0, 0);
  const nearest = i32.or(
    i64.gtu(rest, half),
    i32.and(i64.eq(rest, half), i32.or(i32.wrap(kept), i32.eq(rm, i32.of(Rm.Rmm)))),
  );
  const away = i32.eq(rm, i32.sub(i32.of(Rm.Rup), sign));
  const directed = i32.and(away, i64.ne(rest, i64.of(0)));
  return select(isNearestMode(rm), i32.and(nearest, i32.of(1)), directed);
};

/** RNE is 0 and RMM is 4: the modes with the low two bits clear. */
const isNearestMode = (rm: Expr): Expr => i32.eqz(i32.and(rm, i32.of(3)));

/** 1 when an overflow gives the largest finite number, 0 when infinity. */
const overflowsToFinite = (sign: Expr, rm: Expr): Expr =>
  i32.eqz(i32.or(isNearestMode(rm), i32.eq(rm, i32.sub(i32.of(Rm.Rup), sign))));
