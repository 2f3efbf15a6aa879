import type { Code, Label } from '../../wasm/code.ts';
import { F32, F64, I64, type ValType } from '../../wasm/encoder.ts';
import { type Expr, f32, f64, i32, i64, type Var, variable } from './expr.ts';
import { DOUBLE, type Format, SINGLE } from './format.ts';

/**
 * What the local `native` holds while native results may stand; otherwise 0. A result stands when its
 * biased exponent, counted from the lowest allowed, is below it: singles count in eighths, so that one
 * number bounds both formats (2023 < (255 - 2) * 8). It is odd, so that its bit 0 is a truth value.
 */
export const NATIVE = 2023;

/** The instruction being emitted, as its surroundings see it. */
export type InlineContext = {
  /** Pushes operand `i`: an f64 with the 64-bit image of an f register, the i64 of an x register. */
  operand(i: number): void;
  /** Operands 0 and 1 are one register. */
  readonly same: boolean;
  /** Whether operand `i` is known to be a NaN-boxed single. */
  isBoxed(i: number): boolean;
  /** The instruction's rm field: 0 to 4, or 7 for frm's. */
  readonly rm: number;
  /** An i32 local: `NATIVE` if frm is RNE and NX has been raised, or 0. May be 0 out of caution. */
  readonly native: number;
  /** Calls the exact function and leaves its i64. */
  call(): void;
  /** A local that nothing else uses until this instruction is complete; another one each time. */
  scratch(type: ValType): number;
  /** Vectors' relaxed_madd rounds once: `isMaddFused`. */
  readonly fused: boolean;
  /** Test: takes results from this biased exponent up, where 2 is right. */
  readonly lowest?: number;
};

/** The inside of one inline form: expressions, and conditions without which the function is called. */
export class Site {
  readonly f: Format;
  readonly o: InlineContext;
  readonly #c: Code;
  readonly #slow: Label;

  constructor(c: Code, o: InlineContext, f: Format, slow: Label) {
    this.#c = c;
    this.o = o;
    this.f = f;
    this.#slow = slow;
  }

  let(type: ValType, value: Expr): Var {
    const v = variable(this.o.scratch(type));
    value(this.#c);
    this.#c.set(v.index);
    return v;
  }

  /** A variable of the format's native type. */
  letNumber(value: Expr): Var {
    return this.let(this.f === DOUBLE ? F64 : F32, value);
  }

  need(condition: Expr): void {
    condition(this.#c);
    this.#c.op('i32_eqz').brIf(this.#slow, false);
  }

  readonly native: Expr = c => void c.get(this.o.native);

  /** What the register holds. */
  operand(i: number): Expr {
    return () => this.o.operand(i);
  }

  bits(i: number): Expr {
    return f64.bits(this.operand(i));
  }

  /** The operand's number; of a single, that of its lower half: see `needBoxed`. */
  number(i: number): Expr {
    return this.f === DOUBLE ? this.operand(i) : lowerHalf(this.operand(i));
  }

  /** Each of these operands is a number of the format, not an image that stands for a NaN. */
  needBoxed(...operands: number[]): void {
    if (this.f === DOUBLE) return;
    const unknown = operands.filter(i => !this.o.isBoxed(i));
    const upper = (i: number) => i32.wrap(i64.shrs(this.bits(i), i64.of(32)));
    const [first, ...rest] = unknown.map(upper);
    if (first !== undefined) this.need(i32.eq(rest.reduce(i32.and, first), i32.of(-1)));
  }

  /** The result is finite, RNE is in force and its inexactness is known; `lowest` keeps off underflow. */
  needSafe(number: Expr, lowest: 0 | 2): void {
    const from = lowest === 0 ? 0 : (this.o.lowest ?? lowest);
    this.need(i32.ltu(exponentOf(this.f, number, from), this.native));
  }

  /** The same of a single, whatever the format of the operands is. */
  needSafeSingle(number: Expr): void {
    this.need(i32.ltu(exponentOf(SINGLE, number, this.o.lowest ?? 2), this.native));
  }

  /** The register image of a native number. */
  image(number: Expr): Expr {
    return this.f === DOUBLE ? number : boxed(number);
  }
}

/** The biased exponent of a native number less `from`, as an unsigned number; of a single, in eighths. */
export const exponentOf = (f: Format, number: Expr, from: number): Expr => {
  const [exponent, unit] =
    f === DOUBLE
      ? [i32.wrap(i64.shru(f64.bits(number), i64.of(52))), 1]
      : [i32.shru(f32.bits(number), i32.of(20)), 8];
  return i32.and(from === 0 ? exponent : i32.sub(exponent, i32.of(from * unit)), i32.of(0x7ff));
};

/** The single in the lower half of an image. Both stay in vector registers: no crossing to integer ones. */
export const lowerHalf =
  (image: Expr): Expr =>
  c => {
    image(c);
    c.op('f64x2_splat').lane('f32x4_extract_lane', 0);
  };

/** The image of a single. */
export const boxed =
  (number: Expr): Expr =>
  c => {
    c.v128([-1, -1, -1, -1]);
    number(c);
    c.lane('f32x4_replace_lane', 0).lane('f64x2_extract_lane', 0);
  };

/** x * y + z in lane 0 of vectors. */
export const relaxedMadd =
  (f: Format, ...numbers: [x: Expr, y: Expr, z: Expr]): Expr =>
  c => {
    for (const number of numbers) {
      number(c);
      c.op(f === DOUBLE ? 'f64x2_splat' : 'f32x4_splat');
    }
    if (f === DOUBLE) c.op('f64x2_relaxed_madd').lane('f64x2_extract_lane', 0);
    else c.op('f32x4_relaxed_madd').lane('f32x4_extract_lane', 0);
  };

/** Writes an operation and returns its result: an image or an integer. */
export type Form = (s: Site) => Expr;

/** Leaves what `write` returns, or calls the function where a `need` of it isn't met. */
export const guarded = (
  c: Code,
  o: InlineContext,
  form: { format: Format; type: ValType; write: Form },
): void => {
  c.block(done => {
    c.block(slow => {
      form.write(new Site(c, o, form.format, slow))(c);
      c.br(done);
    });
    o.call();
    if (form.type !== I64) c.op('f64_reinterpret_i64');
  }, form.type);
};
