import type { FunctionIndex, ModuleBuilder } from '../../wasm/encoder.ts';
import { emitArithmetic } from './arithmetic.ts';
import { emitCompare } from './compare.ts';
import { emitBetween, emitIntegers } from './convert.ts';
import { DOUBLE, SINGLE } from './format.ts';
import { emitFused } from './fused.ts';
import { emitSoft, emitSoftFormat, type SoftFormat } from './soft.ts';

type Operation =
  | 'add'
  | 'sub'
  | 'mul'
  | 'div'
  | 'sqrt'
  | 'madd'
  | 'msub'
  | 'nmsub'
  | 'nmadd'
  | 'min'
  | 'max'
  | 'eq'
  | 'lt'
  | 'le'
  | 'sgnj'
  | 'sgnjn'
  | 'sgnjx'
  | 'class';
type Letter = 's' | 'd';
type Integer = 'w' | 'wu' | 'l' | 'lu';

/** Function indices by name; README.md has the shapes. */
export type FloatFunctions = Readonly<
  Record<
    | `${Operation}_${Letter}`
    | 'cvt_s_d'
    | 'cvt_d_s'
    | `cvt_${Integer}_${Letter}`
    | `cvt_${Letter}_${Integer}`,
    FunctionIndex
  >
>;

/**
 * Defines F and D in the module. `fflags` is the offset from `cpu`, in bytes, of the i32 that collects the
 * exception flags. The functions touch no other memory and trap never.
 */
export const emitFloat = (m: ModuleBuilder, o: { fflags: number }): FloatFunctions => {
  const soft = emitSoft(m, o.fflags);
  const single = emitSoftFormat(soft, SINGLE);
  const double = emitSoftFormat(soft, DOUBLE);
  return {
    ...emitFormat(single),
    ...emitFormat(double),
    ...emitBetween(single, double),
    ...emitIntegers(single, double),
  } as FloatFunctions;
};

const emitFormat = (s: SoftFormat): Record<string, FunctionIndex> => {
  const functions = { ...emitArithmetic(s), ...emitFused(s), ...emitCompare(s) };
  return Object.fromEntries(Object.entries(functions).map(([name, f]) => [`${name}_${s.f.letter}`, f]));
};
