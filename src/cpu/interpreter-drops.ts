import type { Code } from '../wasm/code.ts';
import { I32, I64, type ModuleBuilder } from '../wasm/encoder.ts';
import { ENTRY_BYTES, FILTER_BYTES, INDEX_MASK, KIND_BYTES, MICRO_BYTES, MICRO_READ } from './tlb-layout.ts';

// Exports that tlb.ts drops entries with: each goes over the entries from byte address `first` up to `end`.

export function defineDrops(m: ModuleBuilder): void {
  defineDropMatching(m);
  defineDropFrames(m);
  defineDropRegion(m);
  defineDropPage(m);
}

const AT = 0;
const END = 1;

/** Does `body` for each entry, at local 0. */
function eachEntry(c: Code, body: () => void): void {
  c.loop(again => {
    body();
    c.get(AT).i32(ENTRY_BYTES).op('i32_add').tee(AT).get(END).op('i32_ne').brIf(again);
  });
}

/** Empties the entry, if the condition on the stack says so. */
function emptyIf(c: Code): void {
  c.if(() => void c.get(AT).i64(-1).mem('i64_store').get(AT).i64(-1).mem('i64_store', 8), undefined, {
    likely: false,
  });
}

/** See DropMatching. */
function defineDropMatching(m: ModuleBuilder): void {
  const [mask, sum] = [2, 3];
  m.define('dropMatching', { params: [I32, I32, I32, I32], results: [] }, c => {
    eachEntry(c, () => {
      c.get(AT).mem('i32_load').get(mask).op('i32_and').get(AT).mem('i32_load', 8).op('i32_add');
      c.get(sum).op('i32_eq');
      emptyIf(c);
    });
  });
}

/** See DropFrames. The frame of an entry is its tag plus host - va, in pages. */
function defineDropFrames(m: ModuleBuilder): void {
  const filter = 2;
  m.define('dropFrames', { params: [I32, I32, I32], results: [] }, c => {
    eachEntry(c, () => {
      c.get(AT).mem('i32_load').get(AT).mem('i32_load', 8).op('i32_add').i32(12).op('i32_shr_u');
      c.i32(FILTER_BYTES - 1)
        .op('i32_and')
        .get(filter)
        .op('i32_add')
        .mem('i32_load8_u');
      emptyIf(c);
    });
  });
}

/** See DropRegion. */
function defineDropRegion(m: ModuleBuilder): void {
  const [lo, hi, shift] = [2, 3, 4];
  m.define('dropRegion', { params: [I32, I32, I32, I32, I32], results: [] }, c => {
    const by = c.local(I64);
    const region = c.local(I64);
    c.get(shift).op('i64_extend_i32_u').set(by);
    c.get(hi).op('i64_extend_i32_u').i64(32).op('i64_shl').get(lo).op('i64_extend_i32_u', 'i64_or');
    c.get(by).op('i64_shr_u').set(region);
    eachEntry(c, () => {
      c.get(AT).mem('i64_load').get(by).op('i64_shr_u').get(region).op('i64_eq');
      emptyIf(c);
    });
  });
}

/** See DropPage. */
function defineDropPage(m: ModuleBuilder): void {
  const [lo, hi] = [1, 2];
  m.define('dropPage', { params: [I32, I32, I32], results: [] }, c => {
    const page = c.local(I64);
    c.get(AT)
      .i32(MICRO_READ)
      .op('i32_add')
      .i32(0xff)
      .i32(2 * MICRO_BYTES)
      .memoryFill();
    c.get(hi).op('i64_extend_i32_u').i64(32).op('i64_shl').get(lo).op('i64_extend_i32_u', 'i64_or').set(page);
    c.get(AT).get(lo).i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and', 'i32_add').set(AT);
    for (let kind = 0; kind < 3; kind++) {
      c.get(AT).mem('i64_load').get(page).op('i64_eq');
      emptyIf(c);
      c.get(AT).i32(KIND_BYTES).op('i32_add').set(AT);
    }
  });
}
