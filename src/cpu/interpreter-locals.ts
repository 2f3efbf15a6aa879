import type { Code, Label } from '../wasm/code.ts';
import { type FunctionIndex, I32, I64 } from '../wasm/encoder.ts';
import type { Helper } from './emit.ts';

/** The functions that the generated code calls; `willWrite` in a test alone. */
export type Imports = Readonly<
  Record<Exclude<ImportName, 'willWrite'>, FunctionIndex> & { willWrite?: FunctionIndex }
>;
export type ImportName =
  | 'fetch'
  | 'load'
  | 'store'
  | 'amo'
  | 'slow'
  | 'decode'
  | 'know'
  | 'cross'
  | 'hot'
  | 'refill'
  | 'link'
  | 'willWrite';

/** Functions defined beside `run`. */
export type Internals = Readonly<
  Record<
    Helper | 'loadMiss' | 'storeMiss' | 'amoMiss' | 'translate' | 'decode' | 'nextPortion',
    FunctionIndex
  >
> & {
  readonly float: Readonly<Record<string, FunctionIndex>>;
  /** Test: called before each store. */
  readonly willWrite: FunctionIndex | undefined;
};

export const CPU = 0;

/** Locals of `run`. `dp` is the only pc there is between stop-points: pc = pcBase + (dp >>> 2). */
export function declareLocals(c: Code) {
  return {
    dp: c.local(I32),
    left: c.local(I32),
    tlb: c.local(I32),
    pcBase: c.local(I64),
    pc: c.local(I64),
    ea: c.local(I64),
    entry: c.local(I32),
    host: c.local(I32),
    rm: c.local(I32),
    a: c.local(I64),
    b: c.local(I64),
    a32: c.local(I32),
    b32: c.local(I32),
  };
}
export type Locals = ReturnType<typeof declareLocals>;

/** Where `run` can go on. */
export type Places = {
  /** Everything is read from the record again. */
  resync: Label;
  /** At local `pc`. */
  lookup: Label;
  /** Hands the instruction at `dp` to slow.ts. */
  slow: Label;
  /** The instruction at `dp`. */
  next: Label;
  /** The same, after a jump backwards: counted. */
  back: Label;
};
