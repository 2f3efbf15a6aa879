import { PAGE_SHIFT, type Vpn } from '../base/units.ts';
import { type Arena, PAGE_STRUCT_WORDS } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Code, Label } from '../wasm/code.ts';
import { I32, ModuleBuilder } from '../wasm/encoder.ts';
import { GUP_WRITABLE } from './fault-codes.ts';
import { type MmLayout, PTE_PFN_SHIFT, Pte } from './layout.ts';
import { type Pages, STORE_HOLD } from './page.ts';
import { VPN_MAX } from './page-table.ts';

// The walk of `Gup.fast` as one generated function: the same loads in the same order, without a call for each.
// `Gup` has it in TypeScript, too, which is what the explorer runs, and what this must equal.

/** Internal to the walk: not there, or not with these rights. */
export const MISS = -200;
/** A huge entry maps the page. */
export const FAST_HUGE = -201;
/** At or below: what was taken was in vain, of the frame this much above the answer; the caller drops it. */
export const FAST_DROP = -1000;

const READ_NEEDS = Pte.Present | Pte.Young;
export const readNeeds = READ_NEEDS;
export const writeNeeds = READ_NEEDS | Pte.Write | Pte.Dirty;

/** `need`: the bits that the entry must have. */
export type FastWalk = (mm: Ptr<'mm'>, vpn: Vpn, need: number) => number;
/** `hold` takes STORE_HOLD in place of one reference, `look` none. */
export type FastWalks = { readonly walk: FastWalk; readonly hold: FastWalk; readonly look: FastWalk };

export function createFastWalks(arena: Arena, layout: MmLayout, pages: Pages): FastWalks {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared: arena.shared, maximum: 65536 });
  for (const [name, refs] of [
    ['walk', 1],
    ['hold', STORE_HOLD],
    ['look', 0],
  ] as const)
    m.define(name, { params: [I32, I32, I32], results: [I32] }, c =>
      new Walk(c, arena, layout, pages, refs).write(),
    );
  const module = new WebAssembly.Module(m.finish());
  return new WebAssembly.Instance(module, { env: { memory: arena.memory } }).exports as FastWalks;
}

class Walk {
  readonly #c: Code;
  readonly #arena: Arena;
  readonly #layout: MmLayout;
  readonly #pages: Pages;
  readonly #refs: number;
  readonly #seq: number;
  readonly #at: number;
  readonly #entry: number;
  readonly #ref: number;
  readonly #seen: number;
  readonly #pfn: number;

  constructor(c: Code, arena: Arena, layout: MmLayout, pages: Pages, refs: number) {
    this.#c = c;
    this.#arena = arena;
    this.#layout = layout;
    this.#pages = pages;
    this.#refs = refs;
    const local = () => c.local(I32);
    [this.#seq, this.#at, this.#entry] = [local(), local(), local()];
    [this.#ref, this.#seen, this.#pfn] = [local(), local(), local()];
  }

  write(): void {
    const c = this.#c;
    c.block(miss => {
      this.#begin(miss);
      this.#below(18, miss);
      this.#below(9, miss);
      c.get(this.#at).get(1).i32(511).op('i32_and').i32(2).op('i32_shl', 'i32_add').tee(this.#at);
      c.mem('i32_atomic_load').tee(this.#entry);
      c.get(2).i32(Pte.ProtNone).op('i32_or', 'i32_and').get(2).op('i32_ne').brIf(miss, false);
      c.get(this.#entry).i32(PTE_PFN_SHIFT).op('i32_shr_u').set(this.#pfn);
      this.#unlessFrame(miss);
      if (this.#refs > 0) {
        c.get(this.#pfn).i32(this.#pages.zeroPage).op('i32_ne');
        c.if(() => this.#reference(miss));
      }
      this.#recheck();
      this.#answer();
    });
    c.i32(MISS);
  }

  /** seq = an even `wpSeq`; at = the top table. */
  #begin(miss: Label): void {
    const { wpSeq, pgd } = this.#layout.mm;
    const c = this.#c;
    c.get(1).i32(VPN_MAX).op('i32_ge_u').brIf(miss, false);
    c.get(0).i32(2).op('i32_shl').set(0);
    c.get(0)
      .mem('i32_atomic_load', wpSeq.at * 4)
      .tee(this.#seq);
    c.i32(1).op('i32_and').brIf(miss, false);
    c.get(0)
      .mem('i32_load', pgd.at * 4)
      .i32(PAGE_SHIFT)
      .op('i32_shl')
      .set(this.#at);
  }

  /** at = the table that the entry of the table at `at` names. */
  #below(shift: number, miss: Label): void {
    const c = this.#c;
    c.get(this.#at).get(1).i32(shift).op('i32_shr_u').i32(511).op('i32_and').i32(2).op('i32_shl', 'i32_add');
    c.mem('i32_atomic_load').tee(this.#entry);
    if (shift === 9) {
      c.i32(Pte.Huge).op('i32_and');
      c.if(() => c.i32(FAST_HUGE).op('return_'), undefined, { likely: false });
      c.get(this.#entry);
    }
    c.i32(PTE_PFN_SHIFT).op('i32_shr_u').tee(this.#pfn).i32(PAGE_SHIFT).op('i32_shl').set(this.#at);
    this.#unlessFrame(miss);
  }

  #unlessFrame(miss: Label): void {
    const { firstFrame, frames } = this.#arena;
    this.#c.get(this.#pfn).i32(firstFrame).op('i32_sub').i32(frames).op('i32_ge_u').brIf(miss, false);
  }

  /** One more, unless there is none (`Pages.tryGet`, `tryHold`). */
  #reference(miss: Label): void {
    const c = this.#c;
    const first = this.#arena.pageArray - this.#arena.firstFrame * PAGE_STRUCT_WORDS;
    const at = (first + this.#layout.page.refcount.at) * 4;
    c.get(this.#pfn)
      .i32(PAGE_STRUCT_WORDS * 4)
      .op('i32_mul')
      .i32(at)
      .op('i32_add')
      .tee(this.#ref);
    c.mem('i32_atomic_load').set(this.#seen);
    c.block(taken => {
      c.loop(again => {
        c.get(this.#seen).op('i32_eqz').brIf(miss, false);
        c.get(this.#ref).get(this.#seen).get(this.#seen).i32(this.#refs).op('i32_add');
        c.mem('i32_atomic_rmw_cmpxchg').get(this.#seen).op('i32_eq').brIf(taken, true);
        c.get(this.#ref).mem('i32_atomic_load').set(this.#seen);
        c.br(again);
      });
    });
  }

  /** Reference first, then is the pte still what we read? */
  #recheck(): void {
    const c = this.#c;
    c.get(this.#at).mem('i32_atomic_load').get(this.#entry).op('i32_ne');
    c.get(0)
      .mem('i32_atomic_load', this.#layout.mm.wpSeq.at * 4)
      .get(this.#seq)
      .op('i32_ne', 'i32_or');
    c.if(() => c.i32(FAST_DROP).get(this.#pfn).op('i32_sub', 'return_'), undefined, { likely: false });
  }

  #answer(): void {
    const c = this.#c;
    c.get(this.#pfn).get(this.#pfn).i32(GUP_WRITABLE).op('i32_or');
    c.get(this.#entry).i32(Pte.Write).op('i32_and', 'i32_eqz', 'select', 'return_');
  }
}
