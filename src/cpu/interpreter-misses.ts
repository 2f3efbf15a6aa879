import type { Code } from '../wasm/code.ts';
import { type FunctionIndex, I32, I64, type ModuleBuilder, type ValType } from '../wasm/encoder.ts';
import { PC_SHIFT, RECORD } from './decoded.ts';
import type { Bytes } from './emit.ts';
import { Extend } from './instruction.ts';
import { Access } from './interface.ts';
import type { Imports } from './interpreter-locals.ts';
import { AT } from './vcpu.ts';

// What the interpreter calls when an access isn't a hit: what `translate` can do is settled here, misaligned
// accesses within a page included, and the rest by the callbacks.

// Parameters that all three share.
const P = { cpu: 0, ea: 1, about: 2, dp: 3, pcBase: 4, left: 5, last: 6 } as const;

/** An access in one number: its bytes, those of its instruction, and how a load fills its register. */
export const aboutAccess = (bytes: Bytes, length: 2 | 4, extend: Extend = Extend.Sign): number =>
  bytes | (length << 4) | (extend << 8);

function pushBytes(c: Code): Code {
  return c.get(P.about).i32(15).op('i32_and');
}

export function defineMisses(m: ModuleBuilder, imports: Imports, translate: FunctionIndex) {
  const common = [I32, I64, I32, I32, I64, I32] as const;
  const define = (last: readonly ValType[], write: typeof writeLoad) =>
    m.define(undefined, { params: [...common, ...last], results: [I32] }, c => write(c, imports, translate));
  return {
    loadMiss: define([], writeLoad),
    storeMiss: define([I64], writeStore),
    amoMiss: define([I32], writeAmo),
  };
}

/** Tells the record which instruction makes which access, and what to do when a device has made it. */
function describeAccess(c: Code): void {
  c.get(P.cpu).get(P.pcBase).get(P.dp).i32(PC_SHIFT).op('i32_shr_u', 'i64_extend_i32_u', 'i64_add');
  c.mem('i64_store', AT.pc * 4);
  c.get(P.cpu)
    .get(P.left)
    .mem('i32_store', AT.left * 4);
  c.get(P.cpu)
    .get(P.ea)
    .mem('i64_store', AT.ea * 4);
  c.get(P.cpu).get(P.dp).mem('i32_load16_u', RECORD.rd);
  c.mem('i32_store', AT.mmioRd * 4);
  c.get(P.cpu).get(P.about).i32(8).op('i32_shr_u');
  c.mem('i32_store', AT.mmioExtend * 4);
  c.get(P.cpu).get(P.about).i32(4).op('i32_shr_u').i32(15).op('i32_and');
  c.mem('i32_store', AT.mmioLength * 4);
}

/** Runs `hit` when `entry` translates the page and the access does not leave it. */
function ifTranslated(c: Code, translate: FunctionIndex, access: Access, hit: (entry: number) => void): void {
  const entry = c.local(I32);
  c.get(P.ea).op('i32_wrap_i64').i32(0xfff).op('i32_and');
  pushBytes(c).op('i32_add').i32(4096).op('i32_le_u');
  c.if(() => {
    c.get(P.cpu).get(P.ea).i32(access).call(translate).tee(entry);
    c.if(() => hit(entry));
  });
}

function hostOf(c: Code, entry: number): Code {
  return c.get(P.ea).op('i32_wrap_i64').get(entry).mem('i32_load', 8).op('i32_add');
}

function writeLoad(c: Code, imports: Imports, translate: FunctionIndex): void {
  ifTranslated(c, translate, Access.Read, entry => hostOf(c, entry).op('return_'));
  describeAccess(c);
  c.get(P.cpu);
  pushBytes(c).call(imports.load);
}

function writeStore(c: Code, imports: Imports, translate: FunctionIndex): void {
  ifTranslated(c, translate, Access.Write, entry => {
    if (imports.willWrite !== undefined) {
      hostOf(c, entry);
      pushBytes(c).call(imports.willWrite);
    }
    for (const [bytes, op] of [
      [8, 'i64_store'],
      [4, 'i64_store32'],
      [2, 'i64_store16'],
    ] as const) {
      pushBytes(c)
        .i32(bytes)
        .op('i32_eq')
        .if(() => {
          hostOf(c, entry).get(P.last).mem(op);
          c.i32(1).op('return_');
        });
    }
    hostOf(c, entry).get(P.last).mem('i64_store8');
    c.i32(1).op('return_');
  });
  describeAccess(c);
  c.get(P.cpu)
    .get(P.last)
    .mem('i64_store', AT.data * 4);
  c.get(P.cpu);
  pushBytes(c).call(imports.store);
}

/** A misaligned one traps, whatever the page. */
function writeAmo(c: Code, imports: Imports, translate: FunctionIndex): void {
  const entry = c.local(I32);
  c.get(P.ea).op('i32_wrap_i64');
  pushBytes(c).i32(1).op('i32_sub', 'i32_and', 'i32_eqz');
  c.if(() => {
    c.get(P.cpu).get(P.ea).get(P.last).call(translate).tee(entry);
    c.if(() => hostOf(c, entry).op('return_'));
  });
  describeAccess(c);
  c.get(P.cpu);
  pushBytes(c).get(P.last).call(imports.amo);
}

/** Exports `copy64` of access.ts. */
export function defineCopy64(m: ModuleBuilder): void {
  m.define('copy64', { params: [I32, I32], results: [] }, c => {
    c.get(0).get(1).mem('i64_load').mem('i64_store');
  });
}
