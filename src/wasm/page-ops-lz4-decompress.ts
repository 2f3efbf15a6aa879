import type { Code, Label } from './code.ts';
import { I32, type ModuleBuilder } from './encoder.ts';
import { address, bump } from './page-ops-simple.ts';

// The LZ4 block decoder, for input that may be hostile. `in` counts from src and never passes `length`;
// `out` counts from dst and never passes `capacity`; a length is compared with what is left before
// anything is copied. Counting from the bases keeps addresses near 2^32 from wrapping.

type Locals = Record<
  | 'src'
  | 'length'
  | 'dst'
  | 'capacity'
  | 'in'
  | 'out'
  | 'token'
  | 'n'
  | 'byte'
  | 'offset'
  | 'from'
  | 'end'
  | 'stop',
  number
>;

export function defineLz4Decompress(m: ModuleBuilder): void {
  m.define('lz4Decompress', { params: [I32, I32, I32, I32], results: [I32] }, c => {
    const local = () => c.local(I32);
    const l: Locals = {
      src: 0,
      length: 1,
      dst: 2,
      capacity: 3,
      in: local(),
      out: local(),
      token: local(),
      n: local(),
      byte: local(),
      offset: local(),
      from: local(),
      end: local(),
      stop: local(),
    };
    c.block(malformed => {
      c.loop(sequence => {
        readByte(c, l, malformed);
        c.get(l.byte).tee(l.token).i32(4).op('i32_shr_u').set(l.n);
        shortcut(c, l, sequence);
        extendLength(c, l, malformed);
        copyLiterals(c, l, malformed);
        // A block ends after literals, and nowhere else.
        c.get(l.in)
          .get(l.length)
          .op('i32_eq')
          .if(() => c.get(l.out).op('return_'), undefined, { likely: false });
        readOffset(c, l, malformed);
        c.get(l.token).i32(15).op('i32_and').set(l.n);
        extendLength(c, l, malformed);
        bump(c, l.n, 4);
        copyMatch(c, l, malformed);
        c.br(sequence);
      });
    });
    c.i32(-1);
  });
}

/**
 * Most sequences have fewer than 15 literals and a match of at most 18 bytes: where both sides have room for the
 * longest such, each part is copied whole, in pieces that no length decides. Leaves to `sequence` when the sequence
 * is done; else in, out, token and n are as they were.
 */
function shortcut(c: Code, l: Locals, sequence: Label): void {
  // in + 16 literals and out + 14 + 18 bytes stay inside; `in` is past the token.
  left(c, l.length, l.in).i32(18).op('i32_ge_s');
  left(c, l.capacity, l.out).i32(32).op('i32_ge_s', 'i32_and');
  c.get(l.n).i32(15).op('i32_ne', 'i32_and');
  c.if(() => {
    address(c, l.src, l.in).tee(l.from);
    c.get(l.n).op('i32_add').mem('i32_load16_u').set(l.offset);
    address(c, l.dst, l.out).tee(l.end).get(l.from).mem('v128_load').mem('v128_store');
    address(c, l.in, l.n).set(l.in);
    address(c, l.out, l.n).set(l.out);
    c.get(l.token).i32(15).op('i32_and').tee(l.stop).i32(15).op('i32_ne');
    c.get(l.offset).i32(8).op('i32_ge_u', 'i32_and');
    c.get(l.offset).get(l.out).op('i32_le_u', 'i32_and');
    c.if(() => {
      address(c, l.dst, l.out).tee(l.end).get(l.offset).op('i32_sub').set(l.from);
      for (const at of [0, 8]) c.get(l.end).get(l.from).mem('i64_load', at).mem('i64_store', at);
      c.get(l.end).get(l.from).mem('i32_load16_u', 16).mem('i32_store16', 16);
      bump(c, l.in, 2);
      address(c, l.out, l.stop).i32(4).op('i32_add').set(l.out);
      c.br(sequence);
    });
    c.i32(0).set(l.n);
  });
}

/** Pushes how much of `limit` is left after `used`; never negative. */
const left = (c: Code, limit: number, used: number): Code => c.get(limit).get(used).op('i32_sub');

/** byte = the next byte of the input. */
function readByte(c: Code, l: Locals, malformed: Label): void {
  c.get(l.in).get(l.length).op('i32_ge_s').brIf(malformed, false);
  address(c, l.src, l.in).mem('i32_load8_u').set(l.byte);
  bump(c, l.in, 1);
}

/** Adds the bytes that follow when the token's nibble is 15. `n` stops growing at the capacity. */
function extendLength(c: Code, l: Locals, malformed: Label): void {
  c.get(l.n)
    .i32(15)
    .op('i32_eq')
    .if(() => {
      c.loop(again => {
        readByte(c, l, malformed);
        address(c, l.n, l.byte).tee(l.n);
        c.get(l.capacity).op('i32_gt_u').brIf(malformed, false);
        c.get(l.byte).i32(255).op('i32_eq').brIf(again);
      });
    });
}

/** `n` literals: eight at a time where both sides have room to overrun, else exactly. */
function copyLiterals(c: Code, l: Locals, malformed: Label): void {
  c.get(l.n);
  left(c, l.length, l.in).op('i32_gt_u').brIf(malformed, false);
  c.get(l.n);
  left(c, l.capacity, l.out).op('i32_gt_u').brIf(malformed, false);
  const roomy = (limit: number, used: number) => {
    left(c, limit, used).i32(8).op('i32_sub').get(l.n).op('i32_ge_s');
  };
  roomy(l.length, l.in);
  roomy(l.capacity, l.out);
  c.op('i32_and').if(
    () => {
      address(c, l.src, l.in).set(l.from);
      copyEights(c, l);
      address(c, l.out, l.n).set(l.out);
    },
    () => {
      address(c, l.dst, l.out);
      address(c, l.src, l.in).get(l.n).memoryCopy();
      address(c, l.out, l.n).set(l.out);
    },
  );
  address(c, l.in, l.n).set(l.in);
}

/** Copies n bytes, rounded up to eights, from the address `from` to dst + out. Leaves out and n alone. */
function copyEights(c: Code, l: Locals): void {
  const to = l.byte;
  address(c, l.dst, l.out).set(to);
  c.i32(0).set(l.end);
  c.block(done => {
    c.loop(again => {
      c.get(l.end).get(l.n).op('i32_ge_s').brIf(done);
      address(c, to, l.end);
      address(c, l.from, l.end).mem('i64_load').mem('i64_store');
      bump(c, l.end, 8);
      c.br(again);
    });
  });
}

/** offset = the next two bytes; it must point into what came out already. */
function readOffset(c: Code, l: Locals, malformed: Label): void {
  left(c, l.length, l.in).i32(2).op('i32_lt_s').brIf(malformed, false);
  address(c, l.src, l.in).mem('i32_load16_u').tee(l.offset);
  c.op('i32_eqz').brIf(malformed, false);
  c.get(l.offset).get(l.out).op('i32_gt_u').brIf(malformed, false);
  bump(c, l.in, 2);
}

/**
 * `n` bytes from `offset` back; the ranges overlap when n exceeds offset, which repeats a pattern. All but
 * the last 16 bytes of the capacity are written eight at a time, the rest singly.
 */
function copyMatch(c: Code, l: Locals, malformed: Label): void {
  c.get(l.n);
  left(c, l.capacity, l.out).op('i32_gt_u').brIf(malformed, false);
  address(c, l.out, l.n).set(l.stop);
  left(c, l.capacity, l.out)
    .i32(24)
    .op('i32_ge_s')
    .if(() => {
      left(c, l.capacity, l.out).i32(16).op('i32_sub').tee(l.end);
      c.get(l.n).get(l.end).get(l.n).op('i32_lt_s', 'select').set(l.n);
      c.get(l.offset)
        .i32(8)
        .op('i32_lt_u')
        .if(() => widenPattern(c, l));
      address(c, l.dst, l.out).get(l.offset).op('i32_sub').set(l.from);
      copyEights(c, l);
      address(c, l.out, l.n).set(l.out);
    });
  copyBytes(c, l);
}

/**
 * For an offset below 8: writes eight bytes singly, after which the pattern also repeats at the multiple
 * of the offset that is 8 or more. `n` may become negative; then copyEights has nothing to do, and
 * out + n is still where the match ends.
 */
function widenPattern(c: Code, l: Locals): void {
  for (let i = 0; i < 8; i++) {
    address(c, l.dst, l.out);
    address(c, l.dst, l.out).get(l.offset).op('i32_sub').mem('i32_load8_u', i).mem('i32_store8', i);
  }
  bump(c, l.out, 8);
  bump(c, l.n, -8);
  c.get(l.offset).get(l.offset).i32(7).op('i32_add').get(l.offset).op('i32_div_u', 'i32_mul').set(l.offset);
}

/** One byte at a time, until `stop`. */
function copyBytes(c: Code, l: Locals): void {
  c.block(done => {
    c.loop(again => {
      c.get(l.out).get(l.stop).op('i32_ge_u').brIf(done);
      address(c, l.dst, l.out);
      address(c, l.dst, l.out).get(l.offset).op('i32_sub').mem('i32_load8_u').mem('i32_store8');
      bump(c, l.out, 1);
      c.br(again);
    });
  });
}
