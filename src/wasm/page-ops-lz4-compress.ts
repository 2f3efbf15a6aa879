import type { Code, Label } from './code.ts';
import { I32, I64, type ModuleBuilder } from './encoder.ts';
import { address, bump } from './page-ops-simple.ts';

// An LZ4 block (lz4_Block_format): sequences of {token, literal length, literals, offset, match length};
// the last has literals only. The format's end conditions: the last match starts at least 12 bytes before
// the end, the last 5 bytes are literals.
//
// One hash table of 4096 u16 positions, greedy. A zeroed table says "position 0" for each hash, which is
// as good a candidate as any since every candidate's four bytes are compared, and the search starts at 1.
// All positions are offsets from `src`, so that a page may end at 2^32.

const PAGE = 4096;
/** The last position a match may start at. */
export const LZ4_MATCH_START_LAST = PAGE - 12;
/** The first byte a match may not cover. */
export const LZ4_MATCH_END = PAGE - 5;
/**
 * A multiplicative hash of six bytes, a prime of 48 bits; the top 12 of the low 48 bits of the product are kept. Of
 * four bytes, as the format allows, half the matches save a byte each and cost a wrong guess of the branch that finds
 * them, here and in the decoder: 291 sequences a page of machine code become 155, and its block grows by 3 %.
 */
export const LZ4_HASH = { low: 0xbcdcbf9b, high: 0xcf1b } as const;
export const LZ4_HASH_BITS = 12;
/** After 2^SKIP misses in a row the search takes longer steps. */
export const LZ4_SKIP = 6;
const TABLE_BYTES = 8192;

type Locals = Record<
  | 'src'
  | 'dst'
  | 'capacity'
  | 'table'
  | 'in'
  | 'anchor'
  | 'out'
  | 'candidate'
  | 'length'
  | 'literals'
  | 'slot'
  | 'misses'
  | 'rest'
  | 'word',
  number
>;

export function defineLz4Compress(m: ModuleBuilder): void {
  m.define('lz4Compress', { params: [I32, I32, I32, I32], results: [I32] }, c => {
    const local = () => c.local(I32);
    const l: Locals = {
      src: 0,
      dst: 1,
      capacity: 2,
      table: 3,
      in: local(),
      anchor: local(),
      out: local(),
      candidate: local(),
      length: local(),
      literals: local(),
      slot: local(),
      misses: local(),
      rest: local(),
      word: c.local(I64),
    };
    c.get(l.table).i32(0).i32(TABLE_BYTES).memoryFill();
    c.i32(1).set(l.in);
    c.block(tail => {
      c.loop(sequence => {
        findMatch(c, l, tail);
        extendBack(c, l);
        extendForward(c, l);
        emitSequence(c, l);
        afterMatch(c, l, tail);
        c.br(sequence);
      });
    });
    emitTail(c, l);
    c.get(l.out);
  });
}

/** Leaves 0 as the function's result if the value on the stack exceeds the capacity (signed). */
function failUnlessFits(c: Code, l: Locals): void {
  c.get(l.capacity)
    .op('i32_gt_s')
    .if(() => c.i32(0).op('return_'), undefined, { likely: false });
}

/** slot = address of the table entry of the six bytes at `in`, of which four stay on the stack. Reads eight. */
function hashSlot(c: Code, l: Locals): void {
  address(c, l.src, l.in).mem('i64_load').tee(l.word).op('i32_wrap_i64');
  c.get(l.word).i64(16).op('i64_shl').i64w(LZ4_HASH.low, LZ4_HASH.high).op('i64_mul');
  c.i64(64 - LZ4_HASH_BITS)
    .op('i64_shr_u', 'i32_wrap_i64')
    .i32(1)
    .op('i32_shl');
  c.get(l.table).op('i32_add').set(l.slot);
}

/** Moves `in` on until `candidate` is an earlier position with the same four bytes, or leaves to `tail`. */
function findMatch(c: Code, l: Locals, tail: Label): void {
  c.i32(1 << LZ4_SKIP).set(l.misses);
  c.block(found => {
    c.loop(again => {
      c.get(l.in).i32(LZ4_MATCH_START_LAST).op('i32_gt_u').brIf(tail, false);
      hashSlot(c, l);
      c.get(l.slot).mem('i32_load16_u').set(l.candidate);
      c.get(l.slot).get(l.in).mem('i32_store16');
      address(c, l.src, l.candidate).mem('i32_load').op('i32_eq').brIf(found);
      c.get(l.in).get(l.misses).i32(LZ4_SKIP).op('i32_shr_u', 'i32_add').set(l.in);
      bump(c, l.misses, 1);
      c.br(again);
    });
  });
}

/** Starts the match earlier while the bytes before it agree too. */
function extendBack(c: Code, l: Locals): void {
  c.block(done => {
    c.loop(again => {
      // One test for all three reasons to stop, as each alone is hard to foresee. Nothing before the page is read.
      address(c, l.src, l.in).i32(1).op('i32_sub').mem('i32_load8_u');
      address(c, l.src, l.candidate).get(l.candidate).i32(0).op('i32_ne', 'i32_sub').mem('i32_load8_u');
      c.op('i32_ne');
      c.get(l.in).get(l.anchor).op('i32_le_u', 'i32_or');
      c.get(l.candidate).op('i32_eqz', 'i32_or').brIf(done);
      bump(c, l.in, -1);
      bump(c, l.candidate, -1);
      c.br(again);
    });
  });
}

/** length = bytes that agree, at least 4, not reaching LZ4_MATCH_END. Eight at a time, then one. */
function extendForward(c: Code, l: Locals): void {
  const at = (base: number) => address(c, l.src, base).get(l.length).op('i32_add');
  c.i32(4).set(l.length);
  c.block(done => {
    c.block(bytewise => {
      c.loop(again => {
        c.get(l.in)
          .get(l.length)
          .op('i32_add')
          .i32(LZ4_MATCH_END - 8)
          .op('i32_gt_u')
          .brIf(bytewise, false);
        at(l.in).mem('i64_load');
        at(l.candidate).mem('i64_load').op('i64_xor').tee(l.word);
        c.op('i64_eqz').if(() => {
          bump(c, l.length, 8);
          c.br(again);
        });
        c.get(l.word)
          .op('i64_ctz', 'i32_wrap_i64')
          .i32(3)
          .op('i32_shr_u')
          .get(l.length)
          .op('i32_add')
          .set(l.length);
        c.br(done);
      });
    });
    c.loop(again => {
      c.get(l.in).get(l.length).op('i32_add').i32(LZ4_MATCH_END).op('i32_ge_u').brIf(done);
      at(l.in).mem('i32_load8_u');
      at(l.candidate).mem('i32_load8_u').op('i32_ne').brIf(done);
      bump(c, l.length, 1);
      c.br(again);
    });
  });
}

/** Token, lengths, literals and offset at `out`. */
function emitSequence(c: Code, l: Locals): void {
  c.get(l.in).get(l.anchor).op('i32_sub').set(l.literals);
  bump(c, l.length, -4);
  // Both below 15, and room on either side for more than can be written.
  c.get(l.literals).i32(1).op('i32_add').get(l.length).i32(1).op('i32_add', 'i32_or').i32(16).op('i32_lt_u');
  c.get(l.capacity).get(l.out).op('i32_sub').i32(SHORT_ROOM).op('i32_ge_s', 'i32_and');
  c.get(l.anchor)
    .i32(PAGE - 16)
    .op('i32_le_u', 'i32_and');
  c.if(
    () => emitShort(c, l),
    () => emitLong(c, l),
  );
}

/** Of the short form: token, 14 literals and an offset, with the 6 bytes that follow at least, and what is copied too much. */
const SHORT_ROOM = 32;

/** Literals are copied as 16 bytes, whatever their number. */
function emitShort(c: Code, l: Locals): void {
  address(c, l.dst, l.out).tee(l.rest);
  c.get(l.literals).i32(4).op('i32_shl').get(l.length).op('i32_or').mem('i32_store8');
  c.get(l.rest);
  address(c, l.src, l.anchor).mem('v128_load').mem('v128_store', 1);
  address(c, l.rest, l.literals).get(l.in).get(l.candidate).op('i32_sub').mem('i32_store16', 1);
  address(c, l.out, l.literals).i32(3).op('i32_add').set(l.out);
}

function emitLong(c: Code, l: Locals): void {
  // The rest of the block takes at least 6 bytes more (token and 5 literals), so this refuses no block
  // that would fit, and leaves room for copying literals eight at a time.
  lengthBytes(c, l.literals);
  lengthBytes(c, l.length);
  c.op('i32_add')
    .get(l.literals)
    .op('i32_add')
    .get(l.out)
    .op('i32_add')
    .i32(1 + 2 + 6)
    .op('i32_add');
  failUnlessFits(c, l);
  emitToken(c, l, true);
  emitLength(c, l, l.literals);
  copyLiterals(c, l);
  address(c, l.dst, l.out).get(l.in).get(l.candidate).op('i32_sub').mem('i32_store16');
  bump(c, l.out, 2);
  emitLength(c, l, l.length);
}

/** Pushes how many bytes beyond the token the length takes: (n + 240) / 255, as n is below 15 or not. */
function lengthBytes(c: Code, n: number): void {
  c.get(n).i32(240).op('i32_add').i32(255).op('i32_div_u');
}

/** Writes min(literals, 15) << 4 | min(length, 15). */
function emitToken(c: Code, l: Locals, withMatch: boolean): void {
  const nibble = (n: number) => c.get(n).i32(15).get(n).i32(15).op('i32_lt_u', 'select');
  address(c, l.dst, l.out);
  nibble(l.literals).i32(4).op('i32_shl');
  if (withMatch) nibble(l.length).op('i32_or');
  c.mem('i32_store8');
  bump(c, l.out, 1);
}

/** The bytes of a length of 15 or more: 255 as often as it goes, then the rest. */
function emitLength(c: Code, l: Locals, n: number): void {
  c.get(n)
    .i32(15)
    .op('i32_ge_u')
    .if(() => {
      c.get(n).i32(15).op('i32_sub').set(l.rest);
      c.block(done => {
        c.loop(again => {
          c.get(l.rest).i32(255).op('i32_lt_u').brIf(done);
          address(c, l.dst, l.out).i32(255).mem('i32_store8');
          bump(c, l.out, 1);
          bump(c, l.rest, -255);
          c.br(again);
        });
      });
      address(c, l.dst, l.out).get(l.rest).mem('i32_store8');
      bump(c, l.out, 1);
    });
}

/**
 * Copies the literals before a match, eight at a time. Reads at most 7 bytes past `in`, which is 12 from
 * the page's end; writes at most 7 past the literals, where emitSequence has seen to 8 bytes of room.
 */
function copyLiterals(c: Code, l: Locals): void {
  c.i32(0).set(l.rest);
  c.block(done => {
    c.loop(again => {
      c.get(l.rest).get(l.literals).op('i32_ge_u').brIf(done);
      address(c, l.dst, l.out).get(l.rest).op('i32_add');
      address(c, l.src, l.anchor).get(l.rest).op('i32_add').mem('i64_load').mem('i64_store');
      bump(c, l.rest, 8);
      c.br(again);
    });
  });
  address(c, l.out, l.literals).set(l.out);
}

/** Steps over the match and enters the position two before its end in the table, if the search goes on. */
function afterMatch(c: Code, l: Locals, tail: Label): void {
  address(c, l.in, l.length).i32(4).op('i32_add').tee(l.anchor).set(l.in);
  c.get(l.in).i32(LZ4_MATCH_START_LAST).op('i32_gt_u').brIf(tail, false);
  bump(c, l.in, -2);
  hashSlot(c, l);
  c.op('drop');
  c.get(l.slot).get(l.in).mem('i32_store16');
  bump(c, l.in, 2);
}

/** The last sequence: whatever is left, as literals. */
function emitTail(c: Code, l: Locals): void {
  c.i32(PAGE).get(l.anchor).op('i32_sub').set(l.literals);
  lengthBytes(c, l.literals);
  c.get(l.literals).op('i32_add').get(l.out).op('i32_add').i32(1).op('i32_add');
  failUnlessFits(c, l);
  emitToken(c, l, false);
  emitLength(c, l, l.literals);
  address(c, l.dst, l.out);
  address(c, l.src, l.anchor).get(l.literals).memoryCopy();
  address(c, l.out, l.literals).set(l.out);
}
