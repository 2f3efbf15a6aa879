import type { Code } from '../../wasm/code.ts';
import { F64, I64, type ValType } from '../../wasm/encoder.ts';
import { DOUBLE, type Format, Rm, SINGLE } from './format.ts';
import { FUSED, ROUNDED } from './inline-arithmetic.ts';
import { EXACT } from './inline-compare.ts';
import { fromInteger, type Integer, narrow, toInteger, widen } from './inline-convert.ts';
import { type Form, guarded, type InlineContext } from './inline-site.ts';

// Native instructions in place of calls, for translated code. Each form says what it needs to be exact in
// value and flags, and calls the function otherwise; only the function raises flags.

/** The wasm type of what `emitInline` leaves for the function `name`. */
export const resultType = (name: string): ValType => (/^(eq|lt|le|class|cvt_w|cvt_l)/.test(name) ? I64 : F64);

/** Whether an instruction of this name leaves a boxed single in its f register. */
export const isSingle = (instruction: string): boolean =>
  /^(flw|fmv\.w\.x|fcvt\.s\..*|f(?!cvt).*\.s)$/.test(instruction);

/**
 * Emits cpu/float's function `name` with native instructions, the exact function behind them, and leaves
 * the result, of `resultType(name)`. False, and nothing emitted, when there is no such form.
 */
export const emitInline = (c: Code, name: string, o: InlineContext): boolean => {
  const write = formOf(name, o);
  if (write === undefined) return false;
  guarded(c, o, { format: formatOf(name), type: resultType(name), write });
  return true;
};

/** What F and D call `rm` when frm decides. */
const DYNAMIC = 7;

const formOf = (name: string, o: InlineContext): Form | undefined => {
  const [operation, to, from] = name.split('_') as [string, string, string];
  const mayBeNearest = o.rm === Rm.Rne || o.rm === DYNAMIC;
  if (operation === 'cvt') return conversion(to, from, o.rm, mayBeNearest);
  if (operation in EXACT) return EXACT[operation];
  if (!mayBeNearest) return undefined;
  return ROUNDED[operation] ?? (o.fused ? FUSED[operation] : undefined);
};

const conversion = (to: string, from: string, rm: number, mayBeNearest: boolean): Form | undefined => {
  if (to !== 's' && to !== 'd') return toInteger(to as Integer, rm);
  if (to === 'd' && from === 's') return widen;
  const isExact = to === 'd' && (from === 'w' || from === 'wu');
  if (!isExact && !mayBeNearest) return undefined;
  return from === 'd' ? narrow : fromInteger(from as Integer);
};

/** The format of the floating-point operands, or, when those are integers, of the result. */
const formatOf = (name: string): Format => {
  const letters = name.split('_').slice(1).reverse();
  return letters.find(letter => letter === 's' || letter === 'd') === 'd' ? DOUBLE : SINGLE;
};
