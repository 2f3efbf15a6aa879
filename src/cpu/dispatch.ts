import type { Code, Label } from '../wasm/code.ts';
import { type FunctionIndex, I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { count } from './counters.ts';
import { SLOT_ENTRIES } from './decoded.ts';
import { Access } from './interface.ts';
import type { Imports } from './interpreter-locals.ts';
import { ENTRY, ENTRY_SIZE, VISITS } from './region/layout.ts';
import { Leave, REGION_TYPE } from './region/signature.ts';
import { INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

// `run` goes from region to region by the Exec TLB and the ids of the decoded page, and calls the
// interpreter where there is none, where the slice's end is too near, and where a region asks for it.

const CPU = 0;
const EXEC = Access.Exec * KIND_BYTES;
/** A power of two. */
const SAMPLED = 16;

type Locals = {
  entry: number;
  slot: number;
  id: number;
  row: number;
  left: number;
  reason: number;
  pc: number;
};

export type Callees = { interpret: FunctionIndex; nextPortion: FunctionIndex };

export function defineDispatch(m: ModuleBuilder, imports: Imports, callees: Callees): void {
  m.define('run', { params: [I32], results: [] }, c => {
    const l: Locals = {
      entry: c.local(I32),
      slot: c.local(I32),
      id: c.local(I32),
      row: c.local(I32),
      left: c.local(I32),
      reason: c.local(I32),
      pc: c.local(I64),
    };
    c.loop(again => {
      c.block(cold => {
        findEntry(c, l, cold, () => void c.get(CPU).call(callees.nextPortion).br(again));
        callRegion(c, l, imports, again);
      });
      count(c, CPU, AT.interpreted);
      c.get(CPU)
        .get(CPU)
        .mem('i32_load', AT.left * 4)
        .mem('i32_store', AT.stint * 4);
      c.get(CPU).call(callees.interpret);
      // Only the interpreter decides to leave; a region that has to asks it to go on.
      c.get(CPU)
        .mem('i32_load', AT.leave * 4)
        .op('i32_eqz')
        .brIf(again, true);
    });
  });
}

/**
 * Sets `id` and `row` to the region entry at pc; goes to `cold` when there is none, or something is asked for. `goOn`: with
 * the next portion.
 */
function findEntry(c: Code, l: Locals, cold: Label, goOn: () => void): void {
  c.get(CPU)
    .mem('i32_atomic_load', AT.requests * 4)
    .brIf(cold, false);
  c.get(CPU)
    .mem('i64_load', AT.pc * 4)
    .tee(l.pc);
  c.op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
  c.get(CPU)
    .mem('i32_load', AT.tlbBase * 4)
    .op('i32_add')
    .tee(l.entry)
    .mem('i64_load', EXEC);
  c.get(l.pc).i64(-4096).op('i64_and', 'i64_ne').brIf(cold, false);
  c.get(l.entry)
    .mem('i32_load', EXEC + 8)
    .tee(l.slot);
  c.get(l.pc).op('i32_wrap_i64').i32(0xffe).op('i32_and', 'i32_add').mem('i32_load16_u', SLOT_ENTRIES);
  c.tee(l.id).op('i32_eqz').brIf(cold);
  c.get(CPU)
    .mem('i32_load', AT.entries * 4)
    .get(l.id)
    .i32(ENTRY_SIZE)
    .op('i32_mul', 'i32_add')
    .tee(l.row);
  c.mem('i32_load', ENTRY.need)
    .get(CPU)
    .mem('i32_load', AT.left * 4)
    .tee(l.left)
    .op('i32_gt_s');
  c.if(
    () => {
      c.get(CPU)
        .mem('i32_load', AT.rest * 4)
        .if(goOn);
      stepOnce(c);
      c.br(cold);
    },
    undefined,
    { likely: false },
  );
}

/** The interpreter shall execute the instruction at pc though a region begins there. */
function stepOnce(c: Code): void {
  c.get(CPU)
    .i32(1)
    .mem('i32_store', AT.step * 4);
}

function callRegion(c: Code, l: Locals, imports: Imports, again: Label): void {
  c.get(CPU).get(l.id).get(l.row).mem('i32_load', ENTRY.base).op('i32_sub');
  c.get(l.row).mem('i32_load', ENTRY.base).get(l.slot).get(l.pc).i64(-4096).op('i64_and');
  c.get(l.row)
    .mem('i32_load', ENTRY.fn)
    .get(CPU)
    .mem('i32_load', AT.firstRegion * 4)
    .op('i32_add')
    .callIndirect(REGION_TYPE);
  c.set(l.reason);
  countVisit(c, l);
  c.get(l.reason).op('i32_eqz');
  c.if(() => {
    count(c, CPU, AT.lookups);
    c.br(again);
  });
  c.get(l.reason).i32(Leave.Unlinked).op('i32_eq');
  c.if(() => void c.get(CPU).get(l.id).call(imports.link).br(again), undefined, { likely: false });
  count(c, CPU, AT.interprets);
  stepOnce(c);
}

/** Translator.review decides by these whether an entry pays. One visit in SAMPLED. */
function countVisit(c: Code, l: Locals): void {
  c.get(CPU)
    .mem('i32_load', AT.lookups * 4)
    .i32(SAMPLED - 1)
    .op('i32_and', 'i32_eqz');
  c.if(() => countOne(c, l), undefined, { likely: false });
}

function countOne(c: Code, l: Locals): void {
  c.get(CPU)
    .mem('i32_load', AT.visits * 4)
    .get(l.id)
    .i32(VISITS.log2)
    .op('i32_shl', 'i32_add')
    .tee(l.row);
  c.get(l.row).mem('i32_load', VISITS.visits).i32(1).op('i32_add').mem('i32_store', VISITS.visits);
  c.get(l.row).get(l.row).mem('i32_load', VISITS.retired).get(l.left).op('i32_add');
  c.get(CPU)
    .mem('i32_load', AT.left * 4)
    .op('i32_sub')
    .mem('i32_store', VISITS.retired);
}
