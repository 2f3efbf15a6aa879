import { assert } from '../base/assert.ts';
import type { Code, Label } from '../wasm/code.ts';
import { I32, ModuleBuilder } from '../wasm/encoder.ts';
import { FIRST_VARIANT, IMM_SCALE, Op, PC_SHIFT, SLOT_ENTRIES, VARIANTS } from './decoded.ts';
import { defineDispatch } from './dispatch.ts';
import { emitFloat } from './float/emit-float.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { Access, Exit } from './interface.ts';
import { defineDecode } from './interpreter-decode.ts';
import { defineDrops } from './interpreter-drops.ts';
import { InterpreterEmit } from './interpreter-emit.ts';
import { defineFills } from './interpreter-fills.ts';
import {
  CPU,
  declareLocals,
  type ImportName,
  type Imports,
  type Internals,
  type Locals,
  type Places,
} from './interpreter-locals.ts';
import { defineCopy64, defineMisses } from './interpreter-misses.ts';
import { defineTranslate } from './interpreter-translate.ts';
import { defineMultiplyHigh } from './multiply-high.ts';
import { FIRST_PAIR, PAIRS } from './pairs.ts';
import { defineNextPortion } from './portions.ts';
import { MAX_INSTRUCTIONS } from './region/discover.ts';
import { ENTRY, ENTRY_SIZE } from './region/layout.ts';
import { Leave, REGION_TYPE } from './region/signature.ts';
import { HEAT_MASK, HOT, INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT, CROSS_ENTRIES, CROSS_RECORD, CROSS_WORDS } from './vcpu.ts';

// The interpreter is one function: `loop` around a `br_table` over the cases of decoded.ts.
//
//   resync   read pc, budget and TLB base from the record; return when the record says leave
//     lookup   pc -> decoded page, by the Exec TLB; counts the arrival
//       next     one instruction: count it, branch to its case
//
// It returns where a region begins, unless the record's `step` asks that one instruction be executed there.

const EXEC = Access.Exec * KIND_BYTES;

const IMPORTS: Record<ImportName, { params: readonly 0x7f[]; results: readonly 0x7f[] }> = {
  fetch: { params: [I32], results: [] },
  load: { params: [I32, I32], results: [I32] },
  store: { params: [I32, I32], results: [I32] },
  amo: { params: [I32, I32, I32], results: [I32] },
  refill: { params: [I32, I32], results: [I32] },
  slow: { params: [I32, I32], results: [] },
  decode: { params: [I32, I32], results: [] },
  know: { params: [I32, I32], results: [] },
  cross: { params: [I32], results: [] },
  hot: { params: [I32, I32], results: [] },
  link: { params: [I32, I32], results: [] },
  willWrite: { params: [I32, I32], results: [] },
};

/** What the interpreter calls; addresses are bytes in the arena, `cpu` that of the vCPU record. */
export type Callbacks = {
  /** The record's pc has no Exec entry: makes one, or traps, or leaves. */
  fetch(cpu: number): void;
  /** Host address of `bytes` at the record's `ea`, maybe a copy; 0 after a trap or when leaving. */
  load(cpu: number, bytes: number): number;
  /** Stores the low `bytes` of the record's `data` at `ea`; 0 after a trap or when leaving. */
  store(cpu: number, bytes: number): number;
  /** Host address for an atomic instruction's access. */
  amo(cpu: number, bytes: number, access: number): number;
  /** Makes the Read or Write entry for the record's `ea`; 0 when there is none, and nothing trapped. */
  refill(cpu: number, access: number): number;
  /** Executes the instruction whose decoded record is at `dp`. */
  slow(cpu: number, dp: number): void;
  /** Test: fills the decoded record at `dp`, and some that follow it. */
  decode(cpu: number, dp: number): void;
  /** Puts what is known of an instruction into the vCPU's table. */
  know(cpu: number, raw: number): void;
  /** Decodes the instruction at pc, which straddles two pages, into its private place; or traps. */
  cross(cpu: number): void;
  /** Execution comes often to the record at `dp`: may put a region there. All is looked up again after. */
  hot(cpu: number, dp: number): void;
  /** Puts the region of entry `id` in this thread's function table. */
  link(cpu: number, id: number): void;
  /** Test: `bytes` at a host address are about to be written. */
  willWrite?(at: number, bytes: number): void;
};

/**
 * The generated module. Depends on nothing but `shared`, so one serves every thread. `walks`: false, for tests, has
 * the callbacks make every entry and decode. A place is `hot` after so many arrivals, a power of two above 1. `watched`: for
 * Lockstep, calls `willWrite` and exports the interpreter alone.
 */
export function compileInterpreter(
  shared: boolean,
  walks = true,
  hot = HOT,
  watched = false,
): WebAssembly.Module {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared, maximum: 65536 });
  const names = (Object.keys(IMPORTS) as ImportName[]).filter(name => watched || name !== 'willWrite');
  const imports = Object.fromEntries(
    names.map(name => [name, m.importFunction('env', name, IMPORTS[name])]),
  ) as Imports;
  const translate = defineTranslate(m, walks);
  const f: Internals = {
    ...defineMultiplyHigh(m),
    ...defineMisses(m, imports, translate),
    translate,
    decode: defineDecode(m, imports, !walks),
    nextPortion: defineNextPortion(m),
    float: emitFloat(m, { fflags: AT.fflags * 4 }),
    willWrite: imports.willWrite,
  };
  m.importTable('env', 'regions', 1);
  const interpret = m.define(undefined, { params: [I32], results: [] }, c => writeRun(c, imports, f, hot));
  defineDispatch(m, imports, { interpret, nextPortion: f.nextPortion });
  if (watched) m.exportFunction('interpret', interpret);
  exportForRegions(m, f);
  m.define('fill', { params: [I32, I32, I32], results: [] }, c => c.get(0).get(1).get(2).memoryFill());
  defineDrops(m);
  defineCopy64(m);
  defineFills(m, imports, translate);
  return new WebAssembly.Module(m.finish());
}

/** Regions import what they call from here. */
function exportForRegions(m: ModuleBuilder, f: Internals): void {
  for (const [name, index] of Object.entries(f.float)) m.exportFunction(`float_${name}`, index);
  m.define('unlinked', REGION_TYPE, c => void c.i32(Leave.Unlinked));
}

function writeRun(c: Code, imports: Imports, f: Internals, hot: number): void {
  const l = declareLocals(c);
  const count = (resync: Label) => countArrival(c, l, imports, resync, hot);
  c.loop(resync => {
    reload(c, l);
    c.loop(lookup => {
      writeLookup(c, l, { imports, f, resync, lookup });
      // Where a portion of a slice begins says nothing, nor does what follows a step near its end.
      c.get(l.left)
        .get(CPU)
        .mem('i32_load', AT.portion * 4)
        .op('i32_ne');
      c.get(l.left).i32(Math.min(MAX_INSTRUCTIONS, hot)).op('i32_gt_u', 'i32_and');
      c.if(() => count(resync));
      c.block(slow => {
        c.block(done => {
          c.loop(next => {
            c.block(back => writeCases(c, l, imports, f, { resync, lookup, slow, next, back }, done));
            count(resync);
            c.br(next);
          });
        });
        pcOf(c, l);
        c.set(l.pc).i32(0).set(l.left).br(lookup);
      });
      pcOf(c, l);
      c.set(l.pc);
      save(c, l);
      c.get(CPU).get(l.dp).call(imports.slow).br(resync);
    });
  });
}

function reload(c: Code, l: Locals): void {
  c.get(CPU)
    .mem('i32_load', AT.leave * 4)
    .if(() => void c.op('return_'), undefined, { likely: false });
  c.get(CPU)
    .mem('i32_load', AT.tlbBase * 4)
    .set(l.tlb);
  c.get(CPU)
    .mem('i32_load', AT.left * 4)
    .set(l.left);
  c.get(CPU)
    .mem('i64_load', AT.pc * 4)
    .set(l.pc);
}

/** Stores `pc` and `left` where the callbacks look for them. */
function save(c: Code, l: Locals): void {
  c.get(CPU)
    .get(l.pc)
    .mem('i64_store', AT.pc * 4);
  c.get(CPU)
    .get(l.left)
    .mem('i32_store', AT.left * 4);
}

function pcOf(c: Code, l: Locals): void {
  c.get(l.pcBase).get(l.dp).i32(PC_SHIFT).op('i32_shr_u', 'i64_extend_i32_u', 'i64_add');
}

/** Nothing is left: goes on with the next portion, or leaves. */
function leaveForBudget(c: Code, l: Locals, f: Internals, resync: Label): void {
  save(c, l);
  c.get(CPU)
    .mem('i32_load', AT.rest * 4)
    .if(() => void c.get(CPU).call(f.nextPortion).br(resync), undefined, { likely: true });
  c.get(CPU)
    .i32(1 + Exit.Budget)
    .mem('i32_store', AT.leave * 4)
    .op('return_');
}

/** Not before every instruction, but soon. Nothing derived from what a flush will name is in use here. */
function leaveForRequest(c: Code, l: Locals): void {
  save(c, l);
  c.get(CPU)
    .i32(1 + Exit.Request)
    .mem('i32_store', AT.leave * 4)
    .op('return_');
}

type Lookup = { imports: Imports; f: Internals; resync: Label; lookup: Label };

function writeLookup(c: Code, l: Locals, { imports, f, resync, lookup }: Lookup): void {
  c.get(l.left)
    .op('i32_eqz')
    .if(() => leaveForBudget(c, l, f, resync), undefined, { likely: false });
  c.get(CPU)
    .mem('i32_atomic_load', AT.requests * 4)
    .if(() => leaveForRequest(c, l), undefined, { likely: false });
  c.get(l.pc).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
  c.get(l.tlb).op('i32_add').tee(l.entry).mem('i64_load', EXEC);
  c.get(l.pc)
    .i64(-4096)
    .op('i64_and')
    .tee(l.pcBase)
    .op('i64_ne')
    .if(
      () => {
        c.get(CPU).get(l.pc).i32(Access.Exec).call(f.translate).brIf(lookup);
        save(c, l);
        c.get(CPU).call(imports.fetch).br(resync);
      },
      undefined,
      { likely: false },
    );
  c.get(l.entry)
    .mem('i32_load', EXEC + 8)
    .tee(l.entry);
  c.get(l.pc).op('i32_wrap_i64').i32(0xffe).op('i32_and').i32(PC_SHIFT).op('i32_shl', 'i32_add').set(l.dp);
  c.get(l.pcBase).get(l.entry).i32(PC_SHIFT).op('i32_shr_u', 'i64_extend_i32_u', 'i64_sub').set(l.pcBase);
}

/** Counts that execution came to `dp` by a jump; calls `hot` each time that a place was reached often. */
function countArrival(c: Code, l: Locals, imports: Imports, resync: Label, hot: number): void {
  const { entry, a32 } = l;
  c.get(CPU)
    .mem('i32_load', AT.heat * 4)
    .get(l.dp)
    .i32(1)
    .op('i32_shr_u')
    .i32(HEAT_MASK)
    .op('i32_and', 'i32_add')
    .tee(entry);
  c.get(entry).mem('i32_load').i32(1).op('i32_add').tee(a32).mem('i32_store');
  c.get(a32)
    .i32(hot - 1)
    .op('i32_and', 'i32_eqz')
    .if(
      () => {
        pcOf(c, l);
        c.set(l.pc);
        save(c, l);
        c.get(CPU).get(l.dp).call(imports.hot).br(resync);
      },
      undefined,
      { likely: false },
    );
}

function writeCases(c: Code, l: Locals, imports: Imports, f: Internals, at: Places, done: Label): void {
  countOne(c, l, done);
  const labels = openCases(c, FIRST_PAIR + PAIRS.length);
  c.get(l.dp)
    .mem('i32_load16_u')
    .brTable(labels, labels[Op.Slow] as Label);
  c.close();
  writeUndecoded(c, l, f, at);
  c.close();
  writePageEnd(c, l, at);
  c.close();
  writeCross(c, l, imports, at);
  c.close();
  c.br(at.slow);
  c.close();
  writeRegionStart(c, l, at);
  const write = (op: number, then: () => void) => {
    const variant = VARIANTS[op - FIRST_VARIANT]!;
    const e = new InterpreterEmit(c, l, at, f, variant, then);
    const semantics = INSTRUCTIONS[variant.row]!.emit;
    assert(semantics !== undefined, 'a variant has semantics');
    semantics(e);
    e.advance();
  };
  const next = () => void c.br(at.next);
  for (const i of VARIANTS.keys()) {
    c.close();
    write(FIRST_VARIANT + i, next);
  }
  for (const [first, second] of PAIRS) {
    c.close();
    write(first, () => {
      countOne(c, l, done);
      write(second, next);
    });
  }
}

/** Begins one instruction, or goes to `done`. */
function countOne(c: Code, l: Locals, done: Label): void {
  c.get(l.left).i32(1).op('i32_sub').tee(l.left).i32(0).op('i32_lt_s').brIf(done, false);
}

/** Opens one block per case, so that `close` ends them in the order of their numbers. */
function openCases(c: Code, count: number): Label[] {
  const labels: Label[] = [];
  for (let i = count - 1; i >= 0; i--) labels[i] = c.open();
  return labels;
}

/** Returns to the dispatcher; or executes the instruction by the copy in the entry, where that is asked for. */
function writeRegionStart(c: Code, l: Locals, at: Places): void {
  uncount(c, l);
  pcOf(c, l);
  c.set(l.pc);
  c.get(CPU)
    .mem('i32_load', AT.step * 4)
    .if(
      () => {
        c.get(CPU)
          .i32(0)
          .mem('i32_store', AT.step * 4);
        entryId(c, l);
        c.tee(l.a32).op('i32_eqz');
        c.if(() => takeMark(c, l, at), undefined, { likely: false });
        entryRecord(c, l);
        c.tee(l.dp).i32(PC_SHIFT).op('i32_shr_u', 'i64_extend_i32_u').set(l.a);
        c.get(l.pc).get(l.a).op('i64_sub').set(l.pcBase).br(at.next);
      },
      undefined,
      { likely: false },
    );
  save(c, l);
  c.op('return_');
}

/**
 * Another vCPU takes the region away, and has come as far as its id: the instruction is decoded anew. By compare-exchange,
 * as it may have put the mark of a new one there meanwhile.
 */
function takeMark(c: Code, l: Locals, at: Places): void {
  c.get(l.dp).get(l.dp).mem('i32_load').i32(~0xffff).op('i32_and').tee(l.a32).i32(Op.Region).op('i32_or');
  c.get(l.a32).i32(Op.Undecoded).op('i32_or').mem('i32_atomic_rmw_cmpxchg').op('drop').br(at.next);
}

/** Pushes the id of the region entry at `dp`; 0 while it is taken away. */
function entryId(c: Code, l: Locals): void {
  // For each byte of code there are IMM_SCALE of records and one of an id.
  c.get(l.pc)
    .op('i32_wrap_i64')
    .i32(0xffe)
    .op('i32_and')
    .i32(1 - IMM_SCALE)
    .op('i32_mul')
    .get(l.dp)
    .op('i32_add');
  c.mem('i32_load16_u', SLOT_ENTRIES);
}

/** Pushes the address of the decoded record that the region entry with id `a32` keeps. */
function entryRecord(c: Code, l: Locals): void {
  c.get(l.a32).i32(ENTRY_SIZE).op('i32_mul');
  c.get(CPU)
    .mem('i32_load', AT.entries * 4)
    .op('i32_add')
    .i32(ENTRY.record)
    .op('i32_add');
}

/** Cases that execute nothing give back what the head of the loop counted. */
function uncount(c: Code, l: Locals): void {
  c.get(l.left).i32(1).op('i32_add').set(l.left);
}

function writeUndecoded(c: Code, l: Locals, f: Internals, at: Places): void {
  uncount(c, l);
  c.get(CPU).get(l.dp).call(f.decode).br(at.next);
}

function writePageEnd(c: Code, l: Locals, at: Places): void {
  uncount(c, l);
  pcOf(c, l);
  c.set(l.pc).br(at.lookup);
}

/** The private place is tagged with pc and, in the bit that a pc never has, the privilege. */
function writeCross(c: Code, l: Locals, imports: Imports, at: Places): void {
  uncount(c, l);
  pcOf(c, l);
  c.tee(l.pc)
    .op('i32_wrap_i64')
    .i32(12)
    .op('i32_shr_u')
    .i32(CROSS_ENTRIES - 1)
    .op('i32_and');
  c.i32(CROSS_WORDS * 4)
    .op('i32_mul')
    .get(CPU)
    .op('i32_add')
    .tee(l.entry)
    .mem('i64_load', AT.cross * 4);
  c.get(l.pc)
    .get(CPU)
    .mem('i64_load32_u', AT.privilege * 4)
    .op('i64_or', 'i64_ne')
    .if(
      () => {
        save(c, l);
        c.get(CPU).call(imports.cross).br(at.resync);
      },
      undefined,
      { likely: false },
    );
  c.get(l.entry)
    .i32((AT.cross + CROSS_RECORD) * 4)
    .op('i32_add')
    .tee(l.dp)
    .i32(PC_SHIFT)
    .op('i32_shr_u', 'i64_extend_i32_u')
    .set(l.a);
  c.get(l.pc).get(l.a).op('i64_sub').set(l.pcBase).br(at.next);
}
