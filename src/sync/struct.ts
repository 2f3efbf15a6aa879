import { atomicsOf } from './atomics.ts';

/** A word index that is known to point at an `N` record. Costs nothing at run time. */
declare const tag: unique symbol;
export type Ptr<N extends string> = number & { readonly [tag]: N };
export const NULL = 0 as Ptr<never>;

type Field = { readonly words: number; readonly to?: string };
type Value<F> = F extends { readonly to: infer S extends string } ? Ptr<S> : number;

/** One 32-bit word. */
export const i32 = { words: 1 } as const;
/** Two words, low first; the accessors reach the low one, `.at + 1` is the high one. */
export const u64 = { words: 2 } as const;
/** `n` words in a row; the accessors reach the first. */
export const array = (n: number) => ({ words: n }) as const;
export const ptr = <S extends string>(to: S) => ({ words: 1, to }) as const;

/**
 * How a field is reached. `get`/`set` are plain and need the lock that the field's table names;
 * everything else is atomic. A field is one or the other throughout (J-4).
 */
export type Accessor<N extends string, F> = {
  /** Words from the record's start. */
  readonly at: number;
  get(p: Ptr<N>): Value<F>;
  set(p: Ptr<N>, value: Value<F>): void;
  load(p: Ptr<N>): Value<F>;
  store(p: Ptr<N>, value: Value<F>): void;
  /** Each of these returns the value from before. */
  add(p: Ptr<N>, value: number): number;
  or(p: Ptr<N>, bits: number): number;
  and(p: Ptr<N>, bits: number): number;
  exchange(p: Ptr<N>, value: number): number;
  cas(p: Ptr<N>, from: number, to: number): number;
};
export type Struct<N extends string, D> = { readonly [K in keyof D]: Accessor<N, D[K]> } & {
  /** Size of a record in words. */
  readonly words: number;
  /** Word offset of each field, for code that is generated. */
  readonly offsets: { readonly [K in keyof D]: number };
};

/**
 * Declares a record's layout over the arena's words, fields in order. `size` pads the record.
 * Call it once per core and keep the result: the engine folds `words` into the accessors.
 */
export function struct<N extends string, D extends Record<string, Field>>(
  words: Int32Array,
  _name: N,
  fields: D,
  size?: number,
): Struct<N, D> {
  let next = 0;
  const out: Record<string, unknown> = {};
  const offsets: Record<string, number> = {};
  for (const [name, field] of Object.entries(fields)) {
    out[name] = accessor(words, next);
    offsets[name] = next;
    next += field.words;
  }
  if (size !== undefined && next > size)
    throw new Error(`struct ${_name}: ${next} words do not fit in ${size}`);
  return { ...out, words: size ?? next, offsets } as unknown as Struct<N, D>;
}

function accessor(words: Int32Array, at: number) {
  const { load, store, add, or, and, exchange, cas } = atomicsOf(words);
  return {
    at,
    get: (p: number) => words[p + at] as number,
    set: (p: number, v: number) => {
      words[p + at] = v;
    },
    load: (p: number) => load(p + at),
    store: (p: number, v: number) => {
      store(p + at, v);
    },
    add: (p: number, v: number) => add(p + at, v),
    or: (p: number, v: number) => or(p + at, v),
    and: (p: number, v: number) => and(p + at, v),
    exchange: (p: number, v: number) => exchange(p + at, v),
    cas: (p: number, from: number, to: number) => cas(p + at, from, to),
  };
}
