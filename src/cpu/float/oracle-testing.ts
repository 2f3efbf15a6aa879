// F and D of RISC-V by exact rational arithmetic on BigInt, written from the manual and IEEE 754 alone, so
// that it shares nothing with what it checks.

export type Answer = { readonly value: bigint; readonly flags: number };

type Format = {
  readonly width: bigint;
  readonly precision: number;
  readonly bias: number;
  readonly max: number;
};

export const S: Format = { width: 32n, precision: 24, bias: 127, max: 255 };
export const D: Format = { width: 64n, precision: 53, bias: 1023, max: 2047 };

const NX = 1;
const UF = 2;
const OF = 4;
const DZ = 8;
const NV = 16;

type Kind = 'zero' | 'finite' | 'infinite' | 'quiet' | 'signalling';
/** A finite value is (-1)^negative * n * 2^e. */
type Value = { kind: Kind; negative: boolean; n: bigint; e: number };

const ones = (bits: bigint): bigint => (1n << bits) - 1n;
const box = (f: Format, bits: bigint): bigint => (f === S ? bits | (ones(32n) << 32n) : bits);
const unbox = (f: Format, image: bigint): bigint => {
  if (f === D) return image;
  return image >> 32n === ones(32n) ? image & ones(32n) : 0x7fc00000n;
};
const fractionBits = (f: Format): bigint => BigInt(f.precision - 1);
const infinityBits = (f: Format): bigint => BigInt(f.max) << fractionBits(f);
const nanBits = (f: Format): bigint => infinityBits(f) | (1n << (fractionBits(f) - 1n));
const signBits = (f: Format, negative: boolean): bigint => (negative ? 1n << (f.width - 1n) : 0n);

const decode = (f: Format, image: bigint): Value => {
  const bits = unbox(f, image);
  const negative = bits >> (f.width - 1n) === 1n;
  const exponent = Number((bits >> fractionBits(f)) & BigInt(f.max));
  const fraction = bits & ones(fractionBits(f));
  const e = Math.max(exponent, 1) - f.bias - (f.precision - 1);
  const make = (kind: Kind, n = 0n): Value => ({ kind, negative, n, e });
  if (exponent === f.max) {
    if (fraction === 0n) return make('infinite');
    return make(fraction >> (fractionBits(f) - 1n) ? 'quiet' : 'signalling');
  }
  const n = exponent === 0 ? fraction : fraction | (1n << fractionBits(f));
  return n === 0n ? make('zero') : make('finite', n);
};

const isNan = (v: Value): boolean => v.kind === 'quiet' || v.kind === 'signalling';
const nanOf = (f: Format, ...values: Value[]): Answer => ({
  value: box(f, nanBits(f)),
  flags: values.some(v => v.kind === 'signalling') ? NV : 0,
});
const invalid = (f: Format): Answer => ({ value: box(f, nanBits(f)), flags: NV });
const infinite = (f: Format, negative: boolean, flags = 0): Answer => ({
  value: box(f, infinityBits(f) | signBits(f, negative)),
  flags,
});
const zero = (f: Format, negative: boolean): Answer => ({ value: box(f, signBits(f, negative)), flags: 0 });

/** n/d to an integer. */
const roundRatio = (n: bigint, d: bigint, negative: boolean, rm: number): { n: bigint; exact: boolean } => {
  const q = n / d;
  const twice = (n % d) * 2n;
  const exact = twice === 0n;
  const up = [
    twice > d || (twice === d && q % 2n === 1n),
    false,
    negative && !exact,
    !negative && !exact,
    twice >= d,
  ][rm]!;
  return { n: up ? q + 1n : q, exact };
};

const scale = (n: bigint, d: bigint, power: number): [bigint, bigint] =>
  power >= 0 ? [n << BigInt(power), d] : [n, d << BigInt(-power)];

const bitLength = (n: bigint): number => n.toString(2).length;

/** (-1)^negative * n/d * 2^e, n and d positive, rounded into the format. */
const round = (f: Format, negative: boolean, n: bigint, d: bigint, e: number, rm: number): Answer => {
  let top = bitLength(n) - bitLength(d);
  const [tn, td] = scale(n, d, -top);
  if (tn < td) top--;
  const exponent = top + e;
  const smallest = 1 - f.bias;
  const at = (lead: number) => roundRatio(...scale(n, d, e - (lead - (f.precision - 1))), negative, rm);
  const lead = Math.max(exponent, smallest);
  const { n: rounded, exact } = at(lead);
  const unbounded = at(exponent).n;
  const isTiny =
    exponent < smallest && !(exponent === smallest - 1 && unbounded === 1n << BigInt(f.precision));
  const bits = (BigInt(lead + f.bias - 1) << fractionBits(f)) + rounded;
  if (bits >= infinityBits(f)) {
    const toInfinity = rm === 0 || rm === 4 || (rm === 2 && negative) || (rm === 3 && !negative);
    const value = toInfinity ? infinityBits(f) : infinityBits(f) - 1n;
    return { value: box(f, value | signBits(f, negative)), flags: OF | NX };
  }
  const flags = exact ? 0 : NX | (isTiny ? UF : 0);
  return { value: box(f, bits | signBits(f, negative)), flags };
};

const negated = (v: Value): Value => ({ ...v, negative: !v.negative });
const signed = (v: Value): bigint => (v.negative ? -v.n : v.n);

/** The exact sum of finite or zero values. */
const sum = (f: Format, x: Value, y: Value, rm: number): Answer => {
  const e = Math.min(x.e, y.e);
  const total = (signed(x) << BigInt(x.e - e)) + (signed(y) << BigInt(y.e - e));
  if (total === 0n) return zero(f, x.negative === y.negative ? x.negative : rm === 2);
  return round(f, total < 0n, total < 0n ? -total : total, 1n, e, rm);
};

const add = (f: Format, x: Value, y: Value, rm: number): Answer => {
  if (isNan(x) || isNan(y)) return nanOf(f, x, y);
  if (x.kind === 'infinite' && y.kind === 'infinite') {
    return x.negative === y.negative ? infinite(f, x.negative) : invalid(f);
  }
  if (x.kind === 'infinite') return infinite(f, x.negative);
  if (y.kind === 'infinite') return infinite(f, y.negative);
  return sum(f, x, y, rm);
};

const product = (x: Value, y: Value): Value => ({
  kind: x.n * y.n === 0n ? 'zero' : 'finite',
  negative: x.negative !== y.negative,
  n: x.n * y.n,
  e: x.e + y.e,
});

const mul = (f: Format, x: Value, y: Value, rm: number): Answer => {
  const negative = x.negative !== y.negative;
  if (isNan(x) || isNan(y)) return nanOf(f, x, y);
  if (x.kind === 'infinite' || y.kind === 'infinite') {
    return x.kind === 'zero' || y.kind === 'zero' ? invalid(f) : infinite(f, negative);
  }
  if (x.kind === 'zero' || y.kind === 'zero') return zero(f, negative);
  const p = product(x, y);
  return round(f, negative, p.n, 1n, p.e, rm);
};

const div = (f: Format, x: Value, y: Value, rm: number): Answer => {
  const negative = x.negative !== y.negative;
  if (isNan(x) || isNan(y)) return nanOf(f, x, y);
  if (x.kind === y.kind && x.kind !== 'finite') return invalid(f);
  if (x.kind === 'infinite') return infinite(f, negative);
  if (y.kind === 'zero') return infinite(f, negative, DZ);
  if (x.kind === 'zero' || y.kind === 'infinite') return zero(f, negative);
  return round(f, negative, x.n, y.n, x.e - y.e, rm);
};

const integerRoot = (n: bigint): bigint => {
  let x = 1n << BigInt((bitLength(n) + 1) >> 1);
  for (;;) {
    const next = (x + n / x) >> 1n;
    if (next >= x) return x;
    x = next;
  }
};

const sqrt = (f: Format, x: Value, rm: number): Answer => {
  if (isNan(x)) return nanOf(f, x);
  if (x.kind === 'zero') return zero(f, x.negative);
  if (x.negative) return invalid(f);
  if (x.kind === 'infinite') return infinite(f, false);
  // 160 more bits than needed, then one that tells whether there are others.
  const odd = ((x.e % 2) + 2) % 2;
  const n = x.n << BigInt(320 + odd);
  const root = integerRoot(n);
  return round(f, false, root * 2n + (root * root === n ? 0n : 1n), 1n, (x.e - odd - 320) / 2 - 1, rm);
};

const fma = (f: Format, x: Value, y: Value, z: Value, rm: number): Answer => {
  const kinds = [x.kind, y.kind];
  if (kinds.includes('infinite') && kinds.includes('zero')) return invalid(f);
  if (isNan(x) || isNan(y) || isNan(z)) return nanOf(f, x, y, z);
  const negative = x.negative !== y.negative;
  if (kinds.includes('infinite')) {
    return z.kind === 'infinite' && z.negative !== negative ? invalid(f) : infinite(f, negative);
  }
  if (z.kind === 'infinite') return infinite(f, z.negative);
  return sum(f, product(x, y), z, rm);
};

const order = (x: Value, y: Value): number => {
  const place = (v: Value): bigint => {
    if (v.kind === 'infinite') return (v.negative ? -1n : 1n) << 4000n;
    return signed(v) << BigInt(v.e + 1200);
  };
  const [a, b] = [place(x), place(y)];
  return a < b ? -1 : a > b ? 1 : 0;
};

const compare =
  (quiet: boolean, holds: (o: number) => boolean) =>
  (x: Value, y: Value): Answer => {
    if (isNan(x) || isNan(y)) {
      return { value: 0n, flags: quiet && x.kind !== 'signalling' && y.kind !== 'signalling' ? 0 : NV };
    }
    return { value: holds(order(x, y)) ? 1n : 0n, flags: 0 };
  };

const extreme = (f: Format, a: bigint, b: bigint, wanted: -1 | 1): Answer => {
  const [x, y] = [decode(f, a), decode(f, b)];
  const flags = x.kind === 'signalling' || y.kind === 'signalling' ? NV : 0;
  const pick = (image: bigint): Answer => ({ value: box(f, unbox(f, image)), flags });
  if (isNan(x) && isNan(y)) return { value: box(f, nanBits(f)), flags };
  if (isNan(x)) return pick(b);
  if (isNan(y)) return pick(a);
  const o = order(x, y) || (x.negative === y.negative ? 0 : x.negative ? -1 : 1);
  return pick(o === wanted ? a : b);
};

const classify = (f: Format, image: bigint): Answer => {
  const v = decode(f, image);
  const isSubnormal = v.kind === 'finite' && v.n >> fractionBits(f) === 0n;
  const kind = v.kind === 'finite' && isSubnormal ? 'subnormal' : v.kind;
  const bit = {
    infinite: v.negative ? 0 : 7,
    finite: v.negative ? 1 : 6,
    subnormal: v.negative ? 2 : 5,
    zero: v.negative ? 3 : 4,
    signalling: 8,
    quiet: 9,
  }[kind];
  return { value: 1n << BigInt(bit), flags: 0 };
};

const inject = (f: Format, a: bigint, negative: boolean): Answer => ({
  value: box(f, (unbox(f, a) & ones(f.width - 1n)) | signBits(f, negative)),
  flags: 0,
});

const RANGES: Record<string, [bigint, bigint]> = {
  w: [-(1n << 31n), ones(31n)],
  wu: [0n, ones(32n)],
  l: [-(1n << 63n), ones(63n)],
  lu: [0n, ones(64n)],
};

/** As an integer register holds it: 32-bit results sign-extended. */
const register = (type: string, n: bigint): bigint =>
  BigInt.asUintN(64, type.startsWith('w') ? BigInt.asIntN(32, n) : n);

const toInteger = (type: string, v: Value, rm: number): Answer => {
  const [lowest, highest] = RANGES[type]!;
  if (isNan(v)) return { value: register(type, highest), flags: NV };
  if (v.kind === 'infinite') return { value: register(type, v.negative ? lowest : highest), flags: NV };
  const { n, exact } = roundRatio(...scale(v.n, 1n, v.e), v.negative, rm);
  const result = v.negative ? -n : n;
  if (result < lowest) return { value: register(type, lowest), flags: NV };
  if (result > highest) return { value: register(type, highest), flags: NV };
  return { value: register(type, result), flags: exact ? 0 : NX };
};

const fromInteger = (f: Format, type: string, image: bigint, rm: number): Answer => {
  const bits = type.startsWith('w') ? 32 : 64;
  const n = type.endsWith('u') ? BigInt.asUintN(bits, image) : BigInt.asIntN(bits, image);
  if (n === 0n) return zero(f, false);
  return round(f, n < 0n, n < 0n ? -n : n, 1n, 0, rm);
};

const between = (to: Format, v: Value, rm: number): Answer => {
  if (isNan(v)) return nanOf(to, v);
  if (v.kind === 'infinite') return infinite(to, v.negative);
  if (v.kind === 'zero') return zero(to, v.negative);
  return round(to, v.negative, v.n, 1n, v.e, rm);
};

/** The answer to `name` (as in FloatFunctions) on register images, unsigned 64-bit. */
export const floatOracle = (name: string, [a, b, c]: [bigint, bigint, bigint], rm: number): Answer => {
  const parts = name.split('_');
  if (parts[0] === 'cvt') return convert(parts[1]!, parts[2]!, a, rm);
  const f = parts[1] === 's' ? S : D;
  const [x, y, z] = [decode(f, a), decode(f, b), decode(f, c)];
  const negativeOf = (image: bigint) => decode(f, image).negative;
  const answers: Record<string, () => Answer> = {
    add: () => add(f, x, y, rm),
    sub: () => add(f, x, negated(y), rm),
    mul: () => mul(f, x, y, rm),
    div: () => div(f, x, y, rm),
    sqrt: () => sqrt(f, x, rm),
    madd: () => fma(f, x, y, z, rm),
    msub: () => fma(f, x, y, negated(z), rm),
    nmsub: () => fma(f, negated(x), y, z, rm),
    nmadd: () => fma(f, negated(x), y, negated(z), rm),
    min: () => extreme(f, a, b, -1),
    max: () => extreme(f, a, b, 1),
    eq: () => compare(true, o => o === 0)(x, y),
    lt: () => compare(false, o => o < 0)(x, y),
    le: () => compare(false, o => o <= 0)(x, y),
    sgnj: () => inject(f, a, negativeOf(b)),
    sgnjn: () => inject(f, a, !negativeOf(b)),
    sgnjx: () => inject(f, a, negativeOf(a) !== negativeOf(b)),
    class: () => classify(f, a),
  };
  return answers[parts[0]!]!();
};

const convert = (to: string, from: string, a: bigint, rm: number): Answer => {
  const formats: Record<string, Format> = { s: S, d: D };
  const [target, source] = [formats[to], formats[from]];
  if (target !== undefined && source !== undefined) return between(target, decode(source, a), rm);
  if (target !== undefined) return fromInteger(target, from, a, rm);
  return toInteger(to, decode(source!, a), rm);
};
