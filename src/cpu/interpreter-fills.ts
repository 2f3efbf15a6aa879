import type { Code } from '../wasm/code.ts';
import { type FunctionIndex, I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { count } from './counters.ts';
import { Access } from './interface.ts';
import type { Imports } from './interpreter-locals.ts';
import type { Translate } from './interpreter-translate.ts';
import { INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

/**
 * What translated code calls when its micro entry is of another page. `cpu`: byte address of the record;
 * `micro`: the entry's offset in a set, MICRO_READ + 16 * register, say; `left`: instructions not begun yet.
 * Host byte address of `bytes` at `ea`, or 0: the interpreter makes that access, and all that may come of it.
 */
export type Fill = (cpu: number, micro: number, ea: bigint, bytes: number, left: number) => number;
export type Fills = { fillRead: Fill; fillWrite: Fill; translate: Translate };

const P = { cpu: 0, micro: 1, ea: 2, bytes: 3, left: 4 } as const;

/** Exports `fillRead` and `fillWrite`. */
export function defineFills(m: ModuleBuilder, imports: Imports, translate: FunctionIndex): void {
  const type = { params: [I32, I32, I64, I32, I32], results: [I32] } as const;
  m.define('fillRead', type, c => writeFill(c, Access.Read, imports, translate));
  m.define('fillWrite', type, c => writeFill(c, Access.Write, imports, translate));
}

function writeFill(c: Code, access: Access, imports: Imports, translate: FunctionIndex): void {
  const entry = c.local(I32);
  count(c, P.cpu, AT.tlbFills);
  c.get(P.ea).op('i32_wrap_i64').i32(0xfff).op('i32_and').get(P.bytes).op('i32_add').i32(4096).op('i32_gt_u');
  c.if(() => void c.i32(0).op('return_'), undefined, { likely: false });
  c.get(P.ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
  c.get(P.cpu)
    .mem('i32_load', AT.tlbBase * 4)
    .op('i32_add')
    .i32(access * KIND_BYTES)
    .op('i32_add')
    .tee(entry);
  c.mem('i64_load').get(P.ea).i64(-4096).op('i64_and', 'i64_ne');
  c.if(() => writeMiss(c, access, imports, translate), undefined, { likely: false });
  copyToMicro(c, entry);
  c.get(P.ea).op('i32_wrap_i64').get(entry).mem('i32_load', 8).op('i32_add');
}

/** Makes the entry the page's, or returns 0. */
function writeMiss(c: Code, access: Access, imports: Imports, translate: FunctionIndex): void {
  c.get(P.cpu).get(P.ea).i32(access).call(translate).op('i32_eqz');
  c.if(() => {
    c.get(P.cpu)
      .get(P.left)
      .mem('i32_store', AT.left * 4);
    c.get(P.cpu)
      .get(P.ea)
      .mem('i64_store', AT.ea * 4);
    c.get(P.cpu).i32(access).call(imports.refill).op('i32_eqz');
    c.if(() => void c.i32(0).op('return_'));
  });
}

/** A site that found the access misaligned would find it so again: its entry stays what it is. */
function copyToMicro(c: Code, entry: number): void {
  const to = c.local(I32);
  c.get(P.ea).op('i32_wrap_i64').get(P.bytes).i32(1).op('i32_sub', 'i32_and', 'i32_eqz');
  c.if(
    () => {
      c.get(P.cpu)
        .mem('i32_load', AT.tlbBase * 4)
        .get(P.micro)
        .op('i32_add')
        .tee(to);
      c.get(entry).mem('i64_load').mem('i64_store');
      c.get(to).get(entry).mem('i32_load', 8).mem('i32_store', 8);
    },
    undefined,
    { likely: true },
  );
}
