import type { Random } from '../../base/random.ts';

// Operands where floating point and integers go wrong: each from a generator, all as unsigned 64-bit.

export type Letter = 's' | 'd';

const SHAPE = {
  s: { fraction: 23n, exponent: 8n, bias: 127 },
  d: { fraction: 52n, exponent: 11n, bias: 1023 },
} as const;

export const random64 = (r: Random): bigint => (BigInt(r.u32()) << 32n) | BigInt(r.u32());

const ones = (n: bigint): bigint => (1n << n) - 1n;

/** Few runs of ones: carries, ties and exact results come from such numbers. */
const runs = (r: Random, width: bigint): bigint => {
  const w = Number(width);
  const run = () => (ones(BigInt(r.below(w) + 1)) << BigInt(r.below(w))) & ones(width);
  return [() => run(), () => run() ^ run(), () => run() ^ 1n, () => 1n << BigInt(r.below(w)), () => 0n][
    r.below(5)
  ]!();
};

/** Any exponent, with those near the ends, one and the other operand's chosen often. */
const exponentOf = (letter: Letter, r: Random, near: number): number => {
  const { bias, exponent } = SHAPE[letter];
  const max = Number(ones(exponent));
  const around = (center: number, spread: number) => center + r.below(2 * spread + 1) - spread;
  const e = [
    () => r.below(max + 1),
    () => around(near, 2),
    () => around(near, 60),
    () => around(bias, 60),
    () => around(bias / 2, 30),
    () => r.pick([0, 0, 1, 2, max - 2, max - 1, max - 1, max]),
    () => around(2 * bias - near, 60),
  ][r.below(7)]!();
  return Math.max(0, Math.min(max, Math.floor(e)));
};

/** Zero, the subnormals' and normals' ends, one, small integers and the integer types' ends. */
const landmarks = (letter: Letter): bigint[] => {
  const { fraction, exponent, bias } = SHAPE[letter];
  const power = (e: number, f = 0n) => (BigInt(bias + e) << fraction) | f;
  const half = 1n << (fraction - 1n);
  const infinity = ones(exponent) << fraction;
  const integers = [7, 8, 15, 16, 31, 32, 52, 63, 64].map(e => power(e));
  return [
    0n,
    1n << fraction,
    infinity,
    power(0),
    power(-1),
    power(1, half),
    power(2, half >> 1n),
    ...integers,
  ];
};

/** An unboxed image. `near` is an image to be related to. */
export const floatBits = (letter: Letter, r: Random, near = 0n): bigint => {
  const { fraction, exponent } = SHAPE[letter];
  const width = fraction + exponent + 1n;
  if (r.oneIn(8)) return BigInt.asUintN(Number(width), near + BigInt(r.below(5) - 2));
  if (r.oneIn(8)) {
    const beside = r.pick(landmarks(letter)) + BigInt(r.below(5) - 2);
    return BigInt.asUintN(Number(width), beside ^ (BigInt(r.below(2)) << (width - 1n)));
  }
  if (r.oneIn(8)) return ((near ^ (1n << (width - 1n))) + BigInt(r.below(3) - 1)) & ones(width);
  const nearExponent = Number((near >> fraction) & ones(exponent));
  const significand = r.oneIn(2) ? random64(r) & ones(fraction) : runs(r, fraction);
  const e = BigInt(exponentOf(letter, r, nearExponent));
  return (BigInt(r.below(2)) << (width - 1n)) | (e << fraction) | significand;
};

/** A register image: singles are boxed, and now and then they aren't. */
export const floatImage = (letter: Letter, r: Random, near = 0n): bigint => {
  if (letter === 'd') return floatBits('d', r, near);
  const bits = floatBits('s', r, near & ones(32n));
  if (r.oneIn(32)) return (random64(r) & ~ones(32n)) | bits;
  return (ones(32n) << 32n) | bits;
};

export const integerImage = (r: Random): bigint =>
  [
    () => random64(r),
    () => runs(r, 64n),
    () => BigInt.asUintN(64, BigInt.asIntN(32, random64(r))),
    () => BigInt.asUintN(64, BigInt(r.below(200) - 100)),
    () => BigInt.asUintN(64, (1n << BigInt(r.below(64))) + BigInt(r.below(5) - 2)),
    () => random64(r) >> BigInt(r.below(64)),
  ][r.below(6)]!();
