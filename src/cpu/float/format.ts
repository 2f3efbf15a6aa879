import { call, type Expr, f32, f64, i32, i64, type Native } from './expr.ts';

// The two formats as data, and the questions asked of an unboxed image (an i64 whose bits above the
// format's width are zero).

export type Format = {
  readonly letter: 's' | 'd';
  readonly native: Native;
  readonly fractionBits: number;
  readonly bias: number;
  /** The biased exponent of infinities and NaNs. */
  readonly maxBiased: number;
};

export const SINGLE: Format = { letter: 's', native: f32, fractionBits: 23, bias: 127, maxBiased: 255 };
export const DOUBLE: Format = { letter: 'd', native: f64, fractionBits: 52, bias: 1023, maxBiased: 2047 };

/** Rounding modes as in frm. */
export const Rm = { Rne: 0, Rtz: 1, Rdn: 2, Rup: 3, Rmm: 4 } as const;
/** Exception flags as in fflags. */
export const Flag = { Nx: 1, Uf: 2, Of: 4, Dz: 8, Nv: 16 } as const;

/** A constant with `value` starting at bit `shift`. */
const at = (value: number, shift: number): Expr =>
  shift >= 32 ? i64.words(value << (shift - 32), 0) : i64.of(value * 2 ** shift);

const isDouble = (f: Format): boolean => f.letter === 'd';
const width = (f: Format): number => (isDouble(f) ? 64 : 32);

export const infinity = (f: Format): Expr => at(f.maxBiased, f.fractionBits);
export const quietBit = (f: Format): Expr => at(1, f.fractionBits - 1);
export const canonicalNan = (f: Format): Expr => at(f.maxBiased * 2 + 1, f.fractionBits - 1);
/** The implicit leading bit of a normal number's significand. */
export const hiddenBit = (f: Format): Expr => at(1, f.fractionBits);
export const signBit = (f: Format): Expr => at(1, width(f) - 1);

/** The register image of an unboxed image. */
export const box = (f: Format, bits: Expr): Expr => (isDouble(f) ? bits : i64.or(bits, i64.words(-1, 0)));

/** Everything but the sign. */
export const magnitude = (f: Format, bits: Expr): Expr =>
  isDouble(f) ? i64.and(bits, i64.words(0x7fffffff, -1)) : i64.and(bits, i64.of(0x7fffffff));

/** The sign as an i32, 0 or 1. */
export const sign = (f: Format, bits: Expr): Expr => i32.wrap(i64.shru(bits, i64.of(width(f) - 1)));

/** The biased exponent as an i32. */
export const biased = (f: Format, bits: Expr): Expr =>
  i32.and(i32.wrap(i64.shru(bits, i64.of(f.fractionBits))), i32.of(f.maxBiased));

export const fraction = (f: Format, bits: Expr): Expr => i64.and(bits, i64.sub(hiddenBit(f), i64.of(1)));

export const isNan = (f: Format, bits: Expr): Expr => i64.gtu(magnitude(f, bits), infinity(f));

/** Of something known to be a NaN. */
export const isQuiet = (f: Format, bits: Expr): Expr => i64.ne(i64.and(bits, quietBit(f)), i64.of(0));

export const isInfinite = (f: Format, bits: Expr): Expr => i64.eq(magnitude(f, bits), infinity(f));

export const isFiniteNumber = (f: Format, bits: Expr): Expr => i64.ltu(magnitude(f, bits), infinity(f));

export const isZero = (f: Format, bits: Expr): Expr => i64.eqz(magnitude(f, bits));

/** An i32 truth value as the format's sign bit. */
export const signOf = (f: Format, negative: Expr): Expr =>
  i64.shl(i64.extend(negative), i64.of(width(f) - 1));

/** The native number of an unboxed image. */
export const toNative = (f: Format, bits: Expr): Expr =>
  isDouble(f) ? f64.ofBits(bits) : f32.ofBits(i32.wrap(bits));

/** The unboxed image of a native number. */
export const fromNative = (f: Format, number: Expr): Expr =>
  isDouble(f) ? f64.bits(number) : i64.extend(f32.bits(number));

/** Whether the native result's biased exponent is in [2, maxBiased - 1]: no NaN, overflow, underflow. */
export const isSafe = (f: Format, bits: Expr): Expr =>
  i32.ltu(i32.sub(biased(f, bits), i32.of(2)), i32.of(f.maxBiased - 2));

/** The unboxed image of a register, by the function of `emitUnbox`. */
export const unboxed = (f: Format, unbox: number, image: Expr): Expr =>
  isDouble(f) ? image : call(unbox, image);
