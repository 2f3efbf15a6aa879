import type { Code, Label } from '../wasm/code.ts';
import { type FunctionIndex, I32, type ModuleBuilder } from '../wasm/encoder.ts';
import { CODE_AT } from './code-cache.ts';
import { AHEAD, INFO, KNOWN, KNOWN_BYTES, Op, PC_SHIFT, RECORD_BYTES, SLOT_BYTES } from './decoded.ts';
import type { Imports } from './interpreter-locals.ts';
import { FIRST_PAIR, PAIRS } from './pairs.ts';
import { HEAT_BYTES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

// `Decoder.decodeAt`, by what the vCPU knows of instructions that it has met before, wherever they stood: a few nanoseconds
// each.

const P = { cpu: 0, dp: 1 } as const;

const LOCALS = [
  'offset',
  'frame',
  'left',
  'raw',
  'at',
  'info',
  'distance',
  'first',
  'second',
  'before',
  'word',
] as const;
type Locals = Record<(typeof LOCALS)[number], number>;

/**
 * Defines `decode(cpu, dp)`: fills the record at byte address `dp` of a slot, and some that follow it. `asks`: by the
 * callback alone.
 */
export function defineDecode(m: ModuleBuilder, imports: Imports, asks: boolean): FunctionIndex {
  const pairOf = definePairOf(m);
  return m.define(undefined, { params: [I32, I32], results: [] }, c => {
    if (asks) return void c.get(P.cpu).get(P.dp).call(imports.decode);
    const l = Object.fromEntries(LOCALS.map(name => [name, c.local(I32)])) as Locals;
    findFrame(c, l);
    c.i32(AHEAD).set(l.left);
    c.block(done => {
      c.loop(again => {
        c.get(l.offset).i32(4096).op('i32_ge_u').brIf(done, false);
        c.get(P.dp).mem('i32_load16_u').brIf(done);
        readInstruction(c, l, done);
        find(c, l, imports);
        writeRecord(c, l);
        join(c, l, pairOf);
        moveOn(c, l, again);
      });
    });
  });
}

/** By the record's address: which slot it is in, where in the page, and the frame that the page is of. */
function findFrame(c: Code, l: Locals): void {
  const [code, slot] = [l.info, l.at];
  c.get(P.cpu).mem('i32_load', AT.code * 4);
  c.i32(2).op('i32_shl').set(code);
  c.get(P.dp)
    .get(code)
    .mem('i32_load', CODE_AT.base * 4);
  c.op('i32_sub').tee(l.offset).i32(SLOT_BYTES).op('i32_div_u').set(slot);
  c.get(l.offset)
    .get(slot)
    .i32(SLOT_BYTES)
    .op('i32_mul', 'i32_sub')
    .i32(PC_SHIFT)
    .op('i32_shr_u')
    .set(l.offset);
  c.get(code).mem('i32_load', CODE_AT.frames * 4);
  c.get(slot).op('i32_add').i32(2).op('i32_shl').mem('i32_atomic_load');
  // Shifted out with it: the mark of a page that is being made.
  c.i32(12).op('i32_shl').set(l.frame);
}

/** Sets `raw`; an instruction that goes on in the next page is Op.Cross, and the last. */
function readInstruction(c: Code, l: Locals, done: Label): void {
  c.get(l.frame).get(l.offset).op('i32_add').tee(l.at).mem('i32_load16_u').tee(l.raw);
  c.i32(3).op('i32_and').i32(3).op('i32_eq');
  c.if(() => {
    c.get(l.offset).i32(4094).op('i32_eq');
    c.if(() => c.get(P.dp).i32(Op.Cross).mem('i32_store').br(done), undefined, { likely: false });
    c.get(l.raw).get(l.at).mem('i32_load16_u', 2).i32(16).op('i32_shl', 'i32_or').set(l.raw);
  });
}

/** Sets `at` to what is known of `raw`, which the callback says where it is not. */
function find(c: Code, l: Locals, imports: Imports): void {
  c.get(l.raw)
    .get(l.raw)
    .i32(13)
    .op('i32_shr_u', 'i32_xor')
    .i32(KNOWN - 1)
    .op('i32_and');
  c.i32(KNOWN_BYTES).op('i32_mul').get(P.cpu);
  c.mem('i32_load', AT.heat * 4)
    .op('i32_add')
    .i32(HEAT_BYTES)
    .op('i32_add')
    .tee(l.at);
  // A place where nothing is known yet looks as if it were about 0.
  c.mem('i32_load', 12).get(l.raw).op('i32_ne').get(l.raw).op('i32_eqz', 'i32_or');
  c.if(() => void c.get(P.cpu).get(l.raw).call(imports.know), undefined, { likely: false });
}

/** Decoder's `#write`. */
function writeRecord(c: Code, l: Locals): void {
  const { first, second, info, distance } = l;
  c.get(l.at).mem('i32_load').set(first);
  c.get(l.at).mem('i32_load', 4).set(second);
  c.get(l.at).mem('i32_load', 8).tee(info).i32(INFO.isRelative).op('i32_and');
  c.if(() => {
    c.get(second)
      .i32(PC_SHIFT)
      .op('i32_shr_s')
      .get(first)
      .i32(16 + PC_SHIFT)
      .op('i32_shr_s');
    c.get(info).i32(INFO.isJump).op('i32_and', 'select').tee(distance);
    c.get(l.offset).op('i32_add').i32(4096).op('i32_ge_u');
    c.if(() => leadFar(c, l));
  });
  c.get(P.dp).get(second).mem('i32_store', 4);
  c.get(P.dp).get(first).mem('i32_store');
}

/** The jump leads to another page. */
function leadFar(c: Code, { first, second, info, distance }: Locals): void {
  c.get(info).i32(INFO.isJump).op('i32_and');
  c.if(
    () => {
      c.get(distance).set(second);
      c.get(first)
        .i32(-65536)
        .op('i32_and')
        .get(info)
        .i32(INFO.farShift)
        .op('i32_shr_u', 'i32_or')
        .set(first);
    },
    () =>
      void c
        .get(distance)
        .i32(16)
        .op('i32_shl')
        .get(info)
        .i32(INFO.farShift)
        .op('i32_shr_u', 'i32_or')
        .set(first),
  );
}

/** Decoder's `#join`. */
function join(c: Code, l: Locals, pairOf: FunctionIndex): void {
  const [word, pair] = [l.word, l.distance];
  c.get(l.before);
  c.if(() => {
    c.get(l.before).mem('i32_load').tee(word).get(l.first).call(pairOf).tee(pair);
    c.if(() => {
      c.get(l.before).get(word).get(word).i32(-65536).op('i32_and').get(pair).op('i32_or');
      c.mem('i32_atomic_rmw_cmpxchg').op('drop');
    });
  });
  c.get(P.dp).set(l.before);
}

/** `pairOf` of pairs.ts, of the ops in two records' first words. */
function definePairOf(m: ModuleBuilder): FunctionIndex {
  return m.define(undefined, { params: [I32, I32], results: [I32] }, c => {
    const [first, second] = [0, 1];
    c.get(second).i32(0xffff).op('i32_and').set(second);
    const none = c.open();
    const labels: Label[] = new Array(FIRST_PAIR).fill(none);
    const firsts = [...new Set(PAIRS.map(([op]) => op))];
    for (const op of firsts) labels[op] = c.open();
    c.get(first).i32(0xffff).op('i32_and').brTable(labels, none);
    for (const op of firsts.reverse()) {
      c.close();
      PAIRS.forEach(([a, b], i) => {
        if (a !== op) return;
        c.get(second).i32(b).op('i32_eq');
        c.if(() => void c.i32(FIRST_PAIR + i).op('return_'));
      });
      c.br(none);
    }
    c.close();
    c.i32(0);
  });
}

/** To the next instruction, if this one is followed by one and there is no end of it. */
function moveOn(c: Code, l: Locals, again: Label): void {
  const halfwords = l.info;
  c.get(l.info).i32(INFO.halfwords).op('i32_and').set(halfwords);
  c.get(l.offset).get(halfwords).i32(1).op('i32_shl', 'i32_add').set(l.offset);
  c.get(P.dp).get(halfwords).i32(RECORD_BYTES).op('i32_mul', 'i32_add').set(P.dp);
  c.get(l.left)
    .i32(1)
    .op('i32_sub')
    .tee(l.left)
    .i32(0)
    .op('i32_ne')
    .get(halfwords)
    .i32(0)
    .op('i32_ne', 'i32_and');
  c.brIf(again);
}
