import type { Code } from '../wasm/code.ts';
import { I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { Access } from './interface.ts';
import type { Imports } from './interpreter-locals.ts';
import { ENTRY_BYTES, FILTER_BYTES, INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

// What generated code calls when an access isn't a hit: misaligned accesses within a page and entries that
// another set has are settled here, the rest by the callbacks.

// Parameters that all three share.
const P = { cpu: 0, ea: 1, bytes: 2, dp: 3, pcBase: 4, left: 5, last: 6 } as const;

export function defineMisses(m: ModuleBuilder, imports: Imports) {
  const common = [I32, I64, I32, I32, I64, I32] as const;
  return {
    loadMiss: m.define(undefined, { params: common, results: [I32] }, c => writeLoad(c, imports)),
    storeMiss: m.define(undefined, { params: [...common, I64], results: [I32] }, c => writeStore(c, imports)),
    amoMiss: m.define(undefined, { params: [...common, I32], results: [I32] }, c => {
      describeAccess(c);
      c.get(P.cpu).get(P.bytes).get(P.last).call(imports.amo);
    }),
  };
}

/** Tells the record which instruction makes which access. */
function describeAccess(c: Code): void {
  c.get(P.cpu).get(P.pcBase).get(P.dp).i32(3).op('i32_shr_u', 'i64_extend_i32_u', 'i64_add');
  c.mem('i64_store', AT.pc * 4);
  c.get(P.cpu)
    .get(P.left)
    .mem('i32_store', AT.left * 4);
  c.get(P.cpu)
    .get(P.ea)
    .mem('i64_store', AT.ea * 4);
  c.get(P.cpu)
    .get(P.dp)
    .mem('i32_store', AT.mmioDecoded * 4);
}

/**
 * Runs `hit` when this set, or the one it may borrow from, translates the page and the access does not
 * leave it; `entry` is then the valid entry, which is also copied to this set.
 */
function ifTranslated(c: Code, kind: number, hit: (entry: number) => void): void {
  const mine = c.local(I32);
  const entry = c.local(I32);
  c.get(P.ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
  c.get(P.cpu)
    .mem('i32_load', AT.tlbBase * 4)
    .op('i32_add')
    .tee(mine);
  c.get(P.cpu)
    .mem('i32_load', AT.tlbBorrow * 4)
    .op('i32_sub')
    .tee(entry)
    .mem('i64_load', kind);
  c.get(P.ea).i64(-4096).op('i64_and', 'i64_eq');
  c.get(P.ea).op('i32_wrap_i64').i32(0xfff).op('i32_and').get(P.bytes).op('i32_add').i32(4096).op('i32_le_u');
  c.op('i32_and').if(() => {
    c.get(mine).get(entry).mem('i64_load', kind).mem('i64_store', kind);
    c.get(mine)
      .get(entry)
      .mem('i32_load', kind + 8)
      .mem('i32_store', kind + 8);
    hit(entry);
  });
}

const READ = Access.Read * KIND_BYTES;
const WRITE = Access.Write * KIND_BYTES;

function hostOf(c: Code, entry: number, kind: number): Code {
  return c
    .get(P.ea)
    .op('i32_wrap_i64')
    .get(entry)
    .mem('i32_load', kind + 8)
    .op('i32_add');
}

function writeLoad(c: Code, imports: Imports): void {
  ifTranslated(c, READ, entry => hostOf(c, entry, READ).op('return_'));
  describeAccess(c);
  c.get(P.cpu).get(P.bytes).call(imports.load);
}

function writeStore(c: Code, imports: Imports): void {
  ifTranslated(c, WRITE, entry => {
    for (const [bytes, op] of [
      [8, 'i64_store'],
      [4, 'i64_store32'],
      [2, 'i64_store16'],
    ] as const) {
      c.get(P.bytes)
        .i32(bytes)
        .op('i32_eq')
        .if(() => {
          hostOf(c, entry, WRITE).get(P.last).mem(op);
          c.i32(1).op('return_');
        });
    }
    hostOf(c, entry, WRITE).get(P.last).mem('i64_store8');
    c.i32(1).op('return_');
  });
  describeAccess(c);
  c.get(P.cpu)
    .get(P.last)
    .mem('i64_store', AT.data * 4);
  c.get(P.cpu).get(P.bytes).call(imports.store);
}

/** Exports `dropMatching` of tlb.ts. */
export function defineDropMatching(m: ModuleBuilder): void {
  m.define('dropMatching', { params: [I32, I32, I32, I32], results: [] }, c => {
    const [at, end, mask, sum] = [0, 1, 2, 3];
    c.loop(again => {
      c.get(at).mem('i32_load').get(mask).op('i32_and').get(at).mem('i32_load', 8).op('i32_add');
      c.get(sum)
        .op('i32_eq')
        .if(
          () => {
            c.get(at).i64(-1).mem('i64_store').get(at).i64(-1).mem('i64_store', 8);
          },
          undefined,
          { likely: false },
        );
      c.get(at).i32(ENTRY_BYTES).op('i32_add').tee(at).get(end).op('i32_ne').brIf(again);
    });
  });
}

/** Exports `dropFrames` of tlb.ts. The frame of an entry is its tag plus host - va, in pages. */
export function defineDropFrames(m: ModuleBuilder): void {
  m.define('dropFrames', { params: [I32, I32, I32], results: [] }, c => {
    const [at, end, filter] = [0, 1, 2];
    c.loop(again => {
      c.get(at).mem('i32_load').get(at).mem('i32_load', 8).op('i32_add').i32(12).op('i32_shr_u');
      c.i32(FILTER_BYTES - 1)
        .op('i32_and')
        .get(filter)
        .op('i32_add')
        .mem('i32_load8_u')
        .if(
          () => {
            c.get(at).i64(-1).mem('i64_store').get(at).i64(-1).mem('i64_store', 8);
          },
          undefined,
          { likely: false },
        );
      c.get(at).i32(ENTRY_BYTES).op('i32_add').tee(at).get(end).op('i32_ne').brIf(again);
    });
  });
}
