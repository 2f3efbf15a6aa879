import type { Code } from '../wasm/code.ts';
import { I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { Access } from './interface.ts';
import type { Imports } from './interpreter-locals.ts';
import { INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT } from './vcpu.ts';

/**
 * What translated code calls when its micro entry is of another page. `cpu`: byte address of the record;
 * `micro`: the entry's offset in a set, MICRO_READ + 16 * register, say; `left`: instructions not begun yet.
 * Host byte address of `bytes` at `ea`, or 0: the interpreter makes that access, and all that may come of it.
 */
export type Fill = (cpu: number, micro: number, ea: bigint, bytes: number, left: number) => number;
export type Fills = { fillRead: Fill; fillWrite: Fill };

const P = { cpu: 0, micro: 1, ea: 2, bytes: 3, left: 4 } as const;

/** Exports `fillRead` and `fillWrite`. */
export function defineFills(m: ModuleBuilder, imports: Imports): void {
  const type = { params: [I32, I32, I64, I32, I32], results: [I32] } as const;
  m.define('fillRead', type, c => writeFill(c, Access.Read, imports));
  m.define('fillWrite', type, c => writeFill(c, Access.Write, imports));
}

function writeFill(c: Code, access: Access, imports: Imports): void {
  const mine = c.local(I32);
  const tlb = c.local(I32);
  const kind = access * KIND_BYTES;
  c.get(P.ea).op('i32_wrap_i64').i32(0xfff).op('i32_and').get(P.bytes).op('i32_add').i32(4096).op('i32_gt_u');
  c.if(() => void c.i32(0).op('return_'), undefined, { likely: false });
  c.get(P.cpu)
    .mem('i32_load', AT.tlbBase * 4)
    .tee(tlb);
  c.get(P.ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and', 'i32_add').set(mine);
  c.block(found => {
    c.get(mine).mem('i64_load', kind).get(P.ea).i64(-4096).op('i64_and', 'i64_eq').brIf(found, true);
    borrow(c, mine, kind);
    c.brIf(found);
    c.get(P.cpu)
      .get(P.left)
      .mem('i32_store', AT.left * 4);
    c.get(P.cpu)
      .get(P.ea)
      .mem('i64_store', AT.ea * 4);
    c.get(P.cpu).i32(access).call(imports.refill).brIf(found, true);
    c.i32(0).op('return_');
  });
  copyToMicro(c, mine, tlb, kind);
  c.get(P.ea)
    .op('i32_wrap_i64')
    .get(mine)
    .mem('i32_load', kind + 8)
    .op('i32_add');
}

/** Pushes 1 when the set that this one may borrow from has the entry, which is then here too. */
function borrow(c: Code, mine: number, kind: number): void {
  const from = c.local(I32);
  c.get(mine)
    .get(P.cpu)
    .mem('i32_load', AT.tlbBorrow * 4)
    .op('i32_sub')
    .tee(from)
    .mem('i64_load', kind)
    .get(P.ea)
    .i64(-4096)
    .op('i64_and', 'i64_eq')
    .if(
      () => {
        c.get(mine).get(from).mem('i64_load', kind).mem('i64_store', kind);
        c.get(mine)
          .get(from)
          .mem('i32_load', kind + 8)
          .mem('i32_store', kind + 8);
        c.i32(1);
      },
      () => void c.i32(0),
      { type: I32 },
    );
}

/** A site that found the access misaligned would find it so again: its entry stays what it is. */
function copyToMicro(c: Code, mine: number, tlb: number, kind: number): void {
  c.get(P.ea).op('i32_wrap_i64').get(P.bytes).i32(1).op('i32_sub', 'i32_and', 'i32_eqz');
  c.if(
    () => {
      c.get(tlb).get(P.micro).op('i32_add').tee(tlb).get(mine).mem('i64_load', kind).mem('i64_store');
      c.get(tlb)
        .get(mine)
        .mem('i32_load', kind + 8)
        .mem('i32_store', 8);
    },
    undefined,
    { likely: true },
  );
}
