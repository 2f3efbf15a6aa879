import { type FunctionIndex, I32, I64 } from '../../wasm/encoder.ts';
import { type Body, type Expr, i32, i64, select, type Var } from './expr.ts';
import {
  biased,
  box,
  canonicalNan,
  Flag,
  fromNative,
  isInfinite,
  isNan,
  isQuiet,
  isZero,
  magnitude,
  sign,
  signBit,
  toNative,
  unboxed,
} from './format.ts';
import { define, isSignalling, raise, type SoftFormat } from './soft.ts';

// What never rounds: minimum, maximum, comparisons, sign injection, classification.

type Name = 'min' | 'max' | 'eq' | 'lt' | 'le' | 'sgnj' | 'sgnjn' | 'sgnjx' | 'class';

export const emitCompare = (s: SoftFormat): Record<Name, FunctionIndex> => {
  const { f } = s;
  const binary = (write: (b: Body, cpu: Var, x: Var, y: Var) => void) =>
    define(s.m, undefined, [I32, I64, I64], [I64], (b, cpu, x, y) => {
      b.set(x, unboxed(f, s.unbox, x));
      b.set(y, unboxed(f, s.unbox, y));
      write(b, cpu, x, y);
    });
  const inject = (signOf: (x: Expr, y: Expr) => Expr) =>
    binary((b, _cpu, x, y) => {
      b.return(box(f, i64.or(magnitude(f, x), i64.and(signOf(x, y), signBit(f)))));
    });
  return {
    min: binary((b, cpu, x, y) => writeExtreme(s, b, [cpu, x, y], 'min')),
    max: binary((b, cpu, x, y) => writeExtreme(s, b, [cpu, x, y], 'max')),
    eq: binary((b, cpu, x, y) => writeOrder(s, b, [cpu, x, y], 'eq')),
    lt: binary((b, cpu, x, y) => writeOrder(s, b, [cpu, x, y], 'lt')),
    le: binary((b, cpu, x, y) => writeOrder(s, b, [cpu, x, y], 'le')),
    sgnj: inject((_, y) => y),
    sgnjn: inject((_, y) => i64.xor(y, signBit(f))),
    sgnjx: inject((x, y) => i64.xor(x, y)),
    class: emitClass(s),
  };
};

/** IEEE 754-2019 minimumNumber and maximumNumber, which order -0 before +0 as wasm does. */
const writeExtreme = (s: SoftFormat, b: Body, [cpu, x, y]: [Var, Var, Var], name: 'min' | 'max'): void => {
  const { f } = s;
  b.if(
    i32.or(isNan(f, x), isNan(f, y)),
    () => {
      b.if(i32.or(isSignalling(f, x), isSignalling(f, y)), () => raise(s, b, cpu, i32.of(Flag.Nv)));
      const other = select(isNan(f, y), canonicalNan(f), y);
      b.return(box(f, select(isNan(f, x), other, x)));
    },
    { likely: false },
  );
  b.return(box(f, fromNative(f, f.native[name](toNative(f, x), toNative(f, y)))));
};

/** Equality is quiet: only a signalling NaN is invalid. The orders are invalid for any NaN. */
const writeOrder = (s: SoftFormat, b: Body, [cpu, x, y]: [Var, Var, Var], name: 'eq' | 'lt' | 'le'): void => {
  const { f } = s;
  const isInvalid = name === 'eq' ? isSignalling : isNan;
  b.if(
    i32.or(isNan(f, x), isNan(f, y)),
    () => {
      b.if(i32.or(isInvalid(f, x), isInvalid(f, y)), () => raise(s, b, cpu, i32.of(Flag.Nv)));
    },
    { likely: false },
  );
  b.return(i64.extend(f.native[name](toNative(f, x), toNative(f, y))));
};

/** fclass: bits 0-3 are -inf, -normal, -subnormal, -0; 4-7 the same mirrored; 8 sNaN; 9 qNaN. */
const emitClass = (s: SoftFormat): FunctionIndex =>
  define(s.m, undefined, [I32, I64], [I64], (b, _cpu, x) => {
    const { f } = s;
    b.set(x, unboxed(f, s.unbox, x));
    b.if(isNan(f, x), () => b.return(select(isQuiet(f, x), i64.of(1 << 9), i64.of(1 << 8))));
    const small = i32.add(i32.of(2), isZero(f, x));
    const kind = b.let(I32, select(biased(f, x), i32.eqz(isInfinite(f, x)), small));
    const bit = select(sign(f, x), kind, i32.sub(i32.of(7), kind));
    b.return(i64.shl(i64.of(1), i64.extend(bit)));
  });
