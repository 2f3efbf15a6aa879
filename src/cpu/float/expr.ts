import type { Code, MemoryOp, PlainOp } from '../../wasm/code.ts';
import type { FunctionIndex, ValType } from '../../wasm/encoder.ts';

// Arithmetic reads as expressions here, not as stack code: an `Expr` leaves one value on the stack each
// time it is emitted, so anything used twice belongs in a `Var`.

export type Expr = (c: Code) => void;
export type Var = Expr & { readonly index: number };

export const variable = (index: number): Var => Object.assign((c: Code) => void c.get(index), { index });

const unary =
  (op: PlainOp) =>
  (a: Expr): Expr =>
  c => {
    a(c);
    c.op(op);
  };

const binary =
  (op: PlainOp) =>
  (a: Expr, b: Expr): Expr =>
  c => {
    a(c);
    b(c);
    c.op(op);
  };

/** 32-bit words and truth values. */
export const i32 = {
  of:
    (value: number): Expr =>
    c =>
      void c.i32(value),
  add: binary('i32_add'),
  sub: binary('i32_sub'),
  and: binary('i32_and'),
  or: binary('i32_or'),
  xor: binary('i32_xor'),
  shl: binary('i32_shl'),
  shrs: binary('i32_shr_s'),
  shru: binary('i32_shr_u'),
  eq: binary('i32_eq'),
  ne: binary('i32_ne'),
  lt: binary('i32_lt_s'),
  ltu: binary('i32_lt_u'),
  gt: binary('i32_gt_s'),
  ge: binary('i32_ge_s'),
  eqz: unary('i32_eqz'),
  wrap: unary('i32_wrap_i64'),
};

export const i64 = {
  of:
    (value: number): Expr =>
    c =>
      void c.i64(value),
  /** From its two words, the high one first. */
  words:
    (high: number, low: number): Expr =>
    c =>
      void c.i64w(low, high),
  add: binary('i64_add'),
  sub: binary('i64_sub'),
  mul: binary('i64_mul'),
  and: binary('i64_and'),
  or: binary('i64_or'),
  xor: binary('i64_xor'),
  shl: binary('i64_shl'),
  shru: binary('i64_shr_u'),
  shrs: binary('i64_shr_s'),
  eq: binary('i64_eq'),
  ne: binary('i64_ne'),
  lt: binary('i64_lt_s'),
  ltu: binary('i64_lt_u'),
  gt: binary('i64_gt_s'),
  gtu: binary('i64_gt_u'),
  divu: binary('i64_div_u'),
  ge: binary('i64_ge_s'),
  geu: binary('i64_ge_u'),
  eqz: unary('i64_eqz'),
  clz: unary('i64_clz'),
  extendSigned: unary('i64_extend_i32_s'),
  extend: unary('i64_extend_i32_u'),
  extend32: unary('i64_extend32_s'),
};

const native = (type: 'f32' | 'f64') => ({
  add: binary(`${type}_add`),
  sub: binary(`${type}_sub`),
  mul: binary(`${type}_mul`),
  div: binary(`${type}_div`),
  min: binary(`${type}_min`),
  max: binary(`${type}_max`),
  sqrt: unary(`${type}_sqrt`),
  neg: unary(`${type}_neg`),
  abs: unary(`${type}_abs`),
  copysign: binary(`${type}_copysign`),
  eq: binary(`${type}_eq`),
  ne: binary(`${type}_ne`),
  lt: binary(`${type}_lt`),
  le: binary(`${type}_le`),
  gt: binary(`${type}_gt`),
  ge: binary(`${type}_ge`),
});
export type Native = ReturnType<typeof native>;

export const f32 = {
  ...native('f32'),
  ofBits: unary('f32_reinterpret_i32'),
  bits: unary('i32_reinterpret_f32'),
  demote: unary('f32_demote_f64'),
  ofI32: unary('f32_convert_i32_s'),
  ofU32: unary('f32_convert_i32_u'),
  ofI64: unary('f32_convert_i64_s'),
  ofU64: unary('f32_convert_i64_u'),
};

export const f64 = {
  ...native('f64'),
  of:
    (value: number): Expr =>
    c =>
      void c.f64(value),
  ofBits: unary('f64_reinterpret_i64'),
  bits: unary('i64_reinterpret_f64'),
  promote: unary('f64_promote_f32'),
  ofI32: unary('f64_convert_i32_s'),
  ofU32: unary('f64_convert_i32_u'),
  ofI64: unary('f64_convert_i64_s'),
  ofU64: unary('f64_convert_i64_u'),
  trunc: unary('f64_trunc'),
  nearest: unary('f64_nearest'),
  floor: unary('f64_floor'),
  ceil: unary('f64_ceil'),
  toI64: unary('i64_trunc_sat_f64_s'),
  toU64: unary('i64_trunc_sat_f64_u'),
};

/** `yes` or `no`, both evaluated. */
export const select =
  (condition: Expr, yes: Expr, no: Expr): Expr =>
  c => {
    yes(c);
    no(c);
    condition(c);
    c.op('select');
  };

export const call =
  (f: FunctionIndex, ...args: Expr[]): Expr =>
  c => {
    for (const arg of args) arg(c);
    c.call(f);
  };

/** Statements over a function body. */
export class Body {
  readonly #code: Code;

  constructor(code: Code) {
    this.#code = code;
  }

  let(type: ValType, value: Expr): Var {
    const v = variable(this.#code.local(type));
    this.set(v, value);
    return v;
  }

  set(v: Var, value: Expr): this {
    value(this.#code);
    this.#code.set(v.index);
    return this;
  }

  /** Two results of a call into two variables. */
  set2(first: Var, second: Var, value: Expr): this {
    value(this.#code);
    this.#code.set(second.index).set(first.index);
    return this;
  }

  load(op: MemoryOp, address: Expr, offset: number): Expr {
    return c => {
      address(c);
      c.mem(op, offset);
    };
  }

  store(op: MemoryOp, address: Expr, offset: number, value: Expr): this {
    address(this.#code);
    value(this.#code);
    this.#code.mem(op, offset);
    return this;
  }

  if(condition: Expr, then: () => void, o: { else?: () => void; likely?: boolean } = {}): this {
    condition(this.#code);
    this.#code.if(then, o.else, o.likely === undefined ? {} : { likely: o.likely });
    return this;
  }

  return(...values: Expr[]): this {
    for (const value of values) value(this.#code);
    this.#code.op('return_');
    return this;
  }

  /** The end of a body whose every path has returned. */
  unreachable(): this {
    this.#code.op('unreachable');
    return this;
  }
}
