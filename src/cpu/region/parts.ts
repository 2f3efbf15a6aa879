import type { Code, Label } from '../../wasm/code.ts';
import type { RegisterLocals } from './exits.ts';
import type { RegionLocals } from './signature.ts';

// What the writer of a region and its instructions' emitter have in common.

/** Where a step's jumps go; the writer of the region knows. */
export type Jumps = {
  branch(): void;
  otherwise(): void;
  jump(): void;
  /** To the address in local `target`. */
  register(): void;
};

export type RegionParts = {
  readonly c: Code;
  readonly l: RegionLocals;
  readonly registers: RegisterLocals;
  /** Index of an imported function by its name in the core module. */
  readonly imported: (name: string) => number;
  /** Vectors' relaxed_madd rounds once. */
  readonly fused: boolean;
  /** Test: called before each store. */
  readonly willWrite: number | undefined;
};

/** Where a step stands in its region. */
export type Place = {
  /** Instructions of the block from this one on, which `left` counts as done already. */
  undone: number;
  /** Writes back what changed before this step, and leaves. */
  exit: Label;
  jumps: Jumps;
};
