import type { Code } from './code.ts';
import { I32, type ModuleBuilder, V128 } from './encoder.ts';

const PAGE = 4096;
/** Bytes looked at between two tests: a cache line. */
const STEP = 64;

/** zero, copy, fill, move: the engine's own bulk instructions. */
export function defineBulk(m: ModuleBuilder): void {
  m.define('zero', { params: [I32], results: [] }, c => c.get(0).i32(0).i32(PAGE).memoryFill());
  m.define('copy', { params: [I32, I32], results: [] }, c => c.get(0).get(1).i32(PAGE).memoryCopy());
  m.define('fill', { params: [I32, I32, I32], results: [] }, c => c.get(0).get(1).get(2).memoryFill());
  m.define('move', { params: [I32, I32, I32], results: [] }, c => c.get(0).get(1).get(2).memoryCopy());
}

/** equal, isZero, sameFilled, fillWords: 16 bytes at a time. */
export function defineCompare(m: ModuleBuilder): void {
  m.define('equal', { params: [I32, I32], results: [I32] }, c =>
    everyLine(
      c,
      at => {
        c.get(0).mem('v128_load', at).get(1).mem('v128_load', at).op('v128_xor');
      },
      [0, 1],
    ),
  );
  m.define('isZero', { params: [I32], results: [I32] }, c =>
    everyLine(c, at => c.get(0).mem('v128_load', at), [0]),
  );
  m.define('sameFilled', { params: [I32], results: [I32] }, c => {
    const first = c.local(V128);
    c.get(0).mem('i64_load').op('i64x2_splat').set(first);
    everyLine(c, at => c.get(0).mem('v128_load', at).get(first).op('v128_xor'), [0]);
  });
  m.define('fillWords', { params: [I32, I32, I32], results: [] }, defineFillWords);
}

/**
 * Leaves 1 on the stack if `difference(at)` pushes zero for each 16 bytes of the page, else 0. Advances
 * the address parameters `pointers`.
 */
function everyLine(c: Code, difference: (at: number) => void, pointers: number[]): void {
  const left = c.local(I32);
  c.i32(PAGE / STEP).set(left);
  c.block(differs => {
    c.loop(again => {
      for (let at = 0; at < STEP; at += 16) {
        difference(at);
        if (at > 0) c.op('v128_or');
      }
      c.op('v128_any_true').brIf(differs, false);
      for (const p of pointers) c.get(p).i32(STEP).op('i32_add').set(p);
      c.get(left).i32(1).op('i32_sub').tee(left).brIf(again, true);
    });
    c.i32(1).op('return_');
  });
  c.i32(0);
}

function defineFillWords(c: Code): void {
  const [page, lo, hi] = [0, 1, 2];
  const value = c.local(V128);
  const left = c.local(I32);
  c.get(hi).op('i64_extend_i32_u').i64(32).op('i64_shl');
  c.get(lo).op('i64_extend_i32_u', 'i64_or', 'i64x2_splat').set(value);
  c.i32(PAGE / STEP).set(left);
  c.loop(again => {
    for (let at = 0; at < STEP; at += 16) c.get(page).get(value).mem('v128_store', at);
    c.get(page).i32(STEP).op('i32_add').set(page);
    c.get(left).i32(1).op('i32_sub').tee(left).brIf(again, true);
  });
}

/** Pushes `base + local`. */
export function address(c: Code, base: number, offset: number): Code {
  return c.get(base).get(offset).op('i32_add');
}

/** `local += constant`. */
export function bump(c: Code, local: number, by: number): void {
  c.get(local).i32(by).op('i32_add').set(local);
}
