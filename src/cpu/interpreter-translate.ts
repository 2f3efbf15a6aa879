import type { Code, Label } from '../wasm/code.ts';
import { type FunctionIndex, I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { CODE_AT } from './code-cache.ts';
import { count } from './counters.ts';
import { SLOT_BYTES } from './decoded.ts';
import { GFN_LIMIT } from './host-tlb.ts';
import { Access } from './interface.ts';
import { Pte } from './pte.ts';
import {
  HOST_AT,
  HOST_ENTRIES,
  INDEX_MASK,
  KIND_BYTES,
  SUPERPAGE_AT,
  SUPERPAGE_HASH,
  SUPERPAGE_HASH_BITS,
} from './tlb-layout.ts';
import { AT, Privilege, Status } from './vcpu.ts';

// `translate` makes entries without leaving generated code, where all that it needs is known: the guest's
// tables and the page by the host TLB, decoded code by the code cache. It is Mmu.probe and SlowAccess.refill in
// wasm, and must stay equal to them. Where it can't go on, or the answer is a fault, it returns 0 having
// changed nothing but the counts, and they are asked.

const P = { cpu: 0, ea: 1, access: 2 } as const;
const LEAF = Pte.R | Pte.X;
const LEVEL_0_SHIFT = 12;

type L = ReturnType<typeof locals>;
function locals(c: Code) {
  return {
    /** Byte address of the entry of the set in use. */
    mine: c.local(I32),
    from: c.local(I32),
    /** Byte address of the TLB block. */
    block: c.local(I32),
    ppn: c.local(I64),
    pte: c.local(I64),
    flags: c.local(I32),
    shift: c.local(I64),
    /** Of the last host entry: pfn << 3 | rights. */
    host: c.local(I32),
    gfn: c.local(I32),
    status: c.local(I32),
    code: c.local(I32),
    value: c.local(I32),
  };
}

/**
 * Byte address of the entry of the set in use that translates `ea`'s page, which may have been there, or 0. `cpu`:
 * byte address of the record.
 */
export type Translate = (cpu: number, ea: bigint, access: Access) => number;

/** Exports `translate`. */
export function defineTranslate(m: ModuleBuilder, walks: boolean): FunctionIndex {
  return m.define('translate', { params: [I32, I64, I32], results: [I32] }, c => {
    const l = locals(c);
    writeLookup(c, l);
    count(c, P.cpu, AT.tlbMisses);
    c.block(unknown => {
      if (!walks) c.br(unknown);
      writeGuestFrame(c, l, unknown);
      hostEntry(c, l, unknown, () => void c.i32(1).get(P.access).op('i32_shl'));
      writeValue(c, l, unknown);
      writeNotes(c, l);
      insert(c, l);
      c.get(l.mine).op('return_');
    });
    count(c, P.cpu, AT.tlbAsked);
    c.i32(0);
  });
}

/** Pushes an i32 field of the record. */
const field = (c: Code, at: number): Code => c.get(P.cpu).mem('i32_load', at * 4);

/** Returns when this set has the entry, or the one that it may borrow from, which is then copied. */
function writeLookup(c: Code, l: L): void {
  c.get(P.ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
  c.get(P.access).i32(KIND_BYTES).op('i32_mul', 'i32_add');
  field(c, AT.tlbBase).op('i32_add').set(l.mine);
  isOfPage(c, l.mine);
  c.if(() => void c.get(l.mine).op('return_'));
  c.get(l.mine);
  field(c, AT.tlbBorrow).op('i32_sub').set(l.from);
  isOfPage(c, l.from);
  c.if(() => {
    c.get(l.mine).get(l.from).mem('i64_load').mem('i64_store');
    c.get(l.mine).get(l.from).mem('i32_load', 8).mem('i32_store', 8);
    c.get(l.mine).op('return_');
  });
}

function isOfPage(c: Code, entry: number): void {
  c.get(entry).mem('i64_load').get(P.ea).i64(-4096).op('i64_and', 'i64_eq');
}

/** Sets `ppn` to the guest frame of the page, `flags` and `shift` to those of its leaf. */
function writeGuestFrame(c: Code, l: L, unknown: Label): void {
  field(c, AT.tlb).i32(2).op('i32_shl').set(l.block);
  c.get(P.cpu)
    .mem('i64_load', AT.satp * 4)
    .tee(l.ppn)
    .i64(60)
    .op('i64_shr_u', 'i64_eqz');
  c.if(
    () => {
      c.get(P.ea).i64(12).op('i64_shr_u').set(l.ppn);
      c.i32(Pte.G).set(l.flags).i64(LEVEL_0_SHIFT).set(l.shift);
    },
    () => {
      // Bits 63..39 must equal bit 38.
      c.get(P.ea).i64(25).op('i64_shl').i64(25).op('i64_shr_s').get(P.ea).op('i64_ne').brIf(unknown, false);
      c.get(l.ppn).i64w(-1, 0xfff).op('i64_and').set(l.ppn).i64(30).set(l.shift);
      writeWalk(c, l, unknown);
      writePermissions(c, l, unknown);
    },
  );
}

/** From the table at `ppn` down to the leaf. */
function writeWalk(c: Code, l: L, unknown: Label): void {
  c.block(leaf => {
    c.loop(next => {
      hostEntry(c, l, unknown, () => void c.i32(1 << Access.Read));
      c.get(l.host).i32(3).op('i32_shr_u').i32(12).op('i32_shl');
      c.get(P.ea).get(l.shift).op('i64_shr_u', 'i32_wrap_i64').i32(511).op('i32_and').i32(3).op('i32_shl');
      c.op('i32_or').mem('i64_atomic_load').tee(l.pte).op('i32_wrap_i64').set(l.flags);
      isInvalid(c, l);
      c.brIf(unknown, false);
      c.get(l.pte).i64(10).op('i64_shr_u').set(l.ppn);
      c.get(l.flags).i32(LEAF).op('i32_and').brIf(leaf);
      c.get(l.flags)
        .i32(Pte.D | Pte.A | Pte.U)
        .op('i32_and')
        .brIf(unknown, false);
      c.get(l.shift).i64(9).op('i64_sub').tee(l.shift).i64(LEVEL_0_SHIFT).op('i64_ge_u').brIf(next);
      c.br(unknown);
    });
  });
}

/** Not valid, writable but not readable, or with bits 54..63, which are reserved. */
function isInvalid(c: Code, l: L): void {
  c.get(l.flags).i32(Pte.V).op('i32_and', 'i32_eqz');
  c.get(l.flags)
    .i32(Pte.R | Pte.W)
    .op('i32_and')
    .i32(Pte.W)
    .op('i32_eq', 'i32_or');
  c.get(l.pte).i64(54).op('i64_shr_u').i64(0).op('i64_ne', 'i32_or');
}

/** Goes on with `ppn` of the page, if the leaf permits the access and is aligned. */
function writePermissions(c: Code, l: L, unknown: Label): void {
  field(c, AT.sstatus).set(l.status);
  c.get(l.flags).i32(Pte.U).op('i32_and');
  c.if(
    () => {
      // From supervisor mode by SUM alone, and never to execute.
      field(c, AT.privilege);
      c.get(l.status)
        .i32(Status.SUM)
        .op('i32_and', 'i32_eqz')
        .get(P.access)
        .i32(Access.Exec)
        .op('i32_eq', 'i32_or');
      c.op('i32_and').brIf(unknown, false);
    },
    () => void field(c, AT.privilege).op('i32_eqz').brIf(unknown, false),
  );
  c.get(l.flags);
  // With MXR what is executable is readable: X is two bits above R.
  c.get(l.flags).i32(Pte.X).op('i32_and').i32(2).op('i32_shr_u').i32(0);
  c.get(l.status).i32(Status.MXR).op('i32_and', 'select', 'i32_or');
  wanted(c);
  c.op('i32_and');
  wanted(c);
  c.op('i32_ne').brIf(unknown, false);
  withinSuperpage(c, l);
  c.get(l.ppn).op('i64_and', 'i64_eqz', 'i32_eqz').brIf(unknown, false);
  c.get(l.ppn).get(P.ea).i64(12).op('i64_shr_u');
  withinSuperpage(c, l);
  c.op('i64_and', 'i64_or').set(l.ppn);
}

/** Pushes the flags that a leaf must have for the access. */
function wanted(c: Code): void {
  c.i32(Pte.A | Pte.W | Pte.D)
    .i32(Pte.A | Pte.X)
    .i32(Pte.A | Pte.R);
  c.get(P.access).i32(Access.Exec).op('i32_eq', 'select');
  c.get(P.access).i32(Access.Write).op('i32_eq', 'select');
}

/** Pushes the bits of a page number that count pages within the leaf. */
function withinSuperpage(c: Code, l: L): void {
  c.i64(1).get(l.shift).i64(LEVEL_0_SHIFT).op('i64_sub', 'i64_shl').i64(1).op('i64_sub');
}

/** Sets `host` to what the host TLB has of the guest frame `ppn`, which must include the right that `right` pushes. */
function hostEntry(c: Code, l: L, unknown: Label, right: () => void): void {
  c.get(l.ppn).i64(GFN_LIMIT).op('i64_ge_u').brIf(unknown, false);
  c.get(l.ppn).op('i32_wrap_i64').tee(l.gfn);
  c.i32(HOST_ENTRIES - 1)
    .op('i32_and')
    .i32(3)
    .op('i32_shl')
    .get(l.block)
    .op('i32_add')
    .tee(l.from);
  c.mem('i32_load', HOST_AT).get(l.gfn).i32(1).op('i32_add', 'i32_ne').brIf(unknown, false);
  c.get(l.from)
    .mem('i32_load', HOST_AT + 4)
    .tee(l.host);
  right();
  c.op('i32_and', 'i32_eqz').brIf(unknown, false);
}

/**
 * Sets `value` to the entry's second word. A frame with decoded code is written, and one without is executed,
 * by the callbacks alone. A decoded page that is found here stood in the map when no flush of its frame was to be
 * served, so it is what the guest's memory says, up to its fence.i.
 */
function writeValue(c: Code, l: L, unknown: Label): void {
  field(c, AT.code).i32(2).op('i32_shl').set(l.code);
  c.get(l.host).i32(3).op('i32_shr_u').set(l.host);
  c.get(l.host)
    .i32(12)
    .op('i32_shl')
    .get(P.ea)
    .op('i32_wrap_i64')
    .i32(-4096)
    .op('i32_and', 'i32_sub')
    .set(l.value);
  c.get(P.access).if(() => {
    c.get(l.code)
      .mem('i32_load', CODE_AT.mapOrigin * 4)
      .get(l.host)
      .op('i32_add')
      .i32(2)
      .op('i32_shl');
    c.mem('i32_atomic_load').set(l.gfn);
    c.get(P.access).i32(Access.Write).op('i32_eq');
    c.if(
      () => void c.get(l.gfn).brIf(unknown, false),
      () => writeSlot(c, l, unknown),
    );
  });
}

/** Sets `value` to the decoded page whose number, counted from 1, is in `gfn`. */
function writeSlot(c: Code, l: L, unknown: Label): void {
  // 0, or negative while another vCPU makes the page.
  c.get(l.gfn).i32(1).op('i32_lt_s').brIf(unknown, false);
  c.get(l.code).mem('i32_atomic_load', CODE_AT.generation * 4);
  field(c, AT.codeSeen).op('i32_ne').brIf(unknown, false);
  c.get(l.gfn).i32(1).op('i32_sub').tee(l.gfn);
  c.get(l.code)
    .mem('i32_load', CODE_AT.referenced * 4)
    .op('i32_add')
    .i32(2)
    .op('i32_shl')
    .i32(1)
    .mem('i32_store');
  c.get(l.code)
    .mem('i32_load', CODE_AT.base * 4)
    .get(l.gfn)
    .i32(SLOT_BYTES)
    .op('i32_mul', 'i32_add')
    .set(l.value);
}

/** What Mmu notes of a translation. */
function writeNotes(c: Code, l: L): void {
  for (const { shift, factor, addend } of SUPERPAGE_HASH.slice(1)) {
    c.get(l.shift)
      .i64(shift)
      .op('i64_eq')
      .if(() => {
        c.get(P.ea)
          .i64(shift)
          .op('i64_shr_u', 'i32_wrap_i64')
          .i32(factor)
          .op('i32_mul')
          .i32(addend)
          .op('i32_add');
        c.i32(32 - SUPERPAGE_HASH_BITS)
          .op('i32_shr_u')
          .tee(l.gfn);
        c.i32(5).op('i32_shr_u').i32(2).op('i32_shl').get(l.block).op('i32_add').tee(l.from);
        c.get(l.from).mem('i32_load', SUPERPAGE_AT).i32(1).get(l.gfn).op('i32_shl', 'i32_or');
        c.mem('i32_store', SUPERPAGE_AT);
      });
  }
  field(c, AT.privilege).i32(Privilege.Supervisor).op('i32_eq');
  field(c, AT.tlbBorrow).op('i32_eqz', 'i32_and');
  c.get(l.flags).i32(Pte.G).op('i32_and', 'i32_eqz', 'i32_and');
  c.if(
    () =>
      void c
        .get(P.cpu)
        .i32(1)
        .mem('i32_store', AT.tlbLocal * 4),
  );
}

function insert(c: Code, l: L): void {
  c.get(l.mine).get(P.ea).i64(-4096).op('i64_and').mem('i64_store');
  c.get(l.mine).get(l.value).mem('i32_store', 8);
}
