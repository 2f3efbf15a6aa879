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

/** Functions of the core module that regions import. */
export type RegionImport = 'fillRead' | 'fillWrite' | 'mulhu' | 'mulh' | 'mulhsu';

export function declareLocals(c: Code) {
  return {
    left: c.local(I32),
    tlb: c.local(I32),
    reason: c.local(I32),
    host: c.local(I32),
    k: c.local(I32),
    a32: c.local(I32),
    b32: c.local(I32),
    native: c.local(I32),
    rounds: c.local(I32),
    bound: c.local(I32),
    out: c.local(I64),
    target: c.local(I64),
    ea: c.local(I64),
    a: c.local(I64),
    b: c.local(I64),
    fa: c.local(F64),
  };
}
export type RegionLocals = ReturnType<typeof declareLocals>;
