import type { Code } from '../../wasm/code.ts';
import { F64, type FuncType, I32, I64 } from '../../wasm/encoder.ts';

/**
 * A region as a wasm function. `label` says where to come in, `base` is the id of the region's first entry,
 * `slot` the byte address of the decoded page, `page` the address at which the guest has it.
 */
export const REGION_TYPE: FuncType = { params: [I32, I32, I32, I32, I64], results: [I32] };
export const PARAM = { cpu: 0, label: 1, base: 2, slot: 3, page: 4 } as const;

/** What a region returns; pc and `left` are in the record. */
export const Leave = {
  /** Look pc up. */
  Lookup: 0,
  /** The instruction at pc is for the interpreter. */
  Interpret: 1,
  /** This thread has not linked the region yet: nothing was executed. */
  Unlinked: 2,
} as const;

const LOCALS = {
  left: I32,
  tlb: I32,
  reason: I32,
  host: I32,
  k: I32,
  a32: I32,
  b32: I32,
  native: I32,
  rounds: I32,
  bound: I32,
  out: I64,
  target: I64,
  ea: I64,
  a: I64,
  b: I64,
  fa: F64,
} as const;
type LocalName = keyof typeof LOCALS;
export type RegionLocals = Readonly<Record<LocalName, number>>;

export function declareLocals(c: Code): RegionLocals {
  const names = Object.keys(LOCALS) as LocalName[];
  return Object.fromEntries(names.map(name => [name, c.local(LOCALS[name])])) as RegionLocals;
}
