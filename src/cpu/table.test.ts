import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { assemble } from './assemble.ts';
import { NO_ROW, rowOf, wordOf } from './decode.ts';
import { disassemble } from './disassemble.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { expand } from './rvc.ts';

const REAL = INSTRUCTIONS.filter(row => (row.match & 3) === 3);

test('no word matches two rows', () => {
  const overlapping = REAL.flatMap((a, i) =>
    REAL.slice(i + 1)
      .filter(b => ((a.match ^ b.match) & a.mask & b.mask) === 0)
      .map(b => `${a.name} ${b.name}`),
  );
  expect(overlapping).toEqual([]);
});

test('a random word decodes to the row whose bits it has, or to none', () => {
  const r = new Random(3);
  const wrong: string[] = [];
  for (let i = 0; i < 20_000; i++) {
    // Half of them near a row, so that hits are common.
    const row = r.pick(REAL);
    const word = (r.oneIn(2) ? row.match | (r.u32() & ~row.mask) : r.u32() | 3) >>> 0;
    const found = rowOf(word);
    const want = INSTRUCTIONS.findIndex(x => (x.match & 3) === 3 && (word & x.mask) >>> 0 === x.match);
    const reserved =
      want >= 0 && INSTRUCTIONS[want]!.format.imm === 'rm' && [5, 6].includes((word >>> 12) & 7);
    if (found !== (reserved ? NO_ROW : want)) wrong.push(word.toString(16));
  }
  expect(wrong).toEqual([]);
});

test('what the disassembler writes the assembler reads', () => {
  const r = new Random(4);
  for (const row of REAL) {
    for (let i = 0; i < 20; i++) {
      // Bits of aq, rl and fence's fields have no place in the text.
      let word = (row.match | (r.u32() & ~row.mask)) >>> 0;
      if ((row.match & 0x7f) === 0x2f) word = (word & ~0x06000000) >>> 0;
      if ((row.match & 0x7f) === 0x0f || rowOf(word) === NO_ROW) continue;
      expect(assemble(disassemble(word))[0], disassemble(word)).toBe(word);
    }
  }
});

test('text that is no program is refused with its line', () => {
  for (const line of [
    'frob a0',
    'addi a0, a1',
    'addi a0, a1, 4096',
    'addi a0, f1, 1',
    'lw a0, 4[a1]',
    'ecall 1',
  ]) {
    expect(() => assemble(`nop\n${line}`)).toThrow(line);
  }
});

test('compressed instructions stand for what the manual says', () => {
  const listing = `
    0001 addi zero, zero, 0 | 1141 addi sp, sp, -16 | 7139 addi sp, sp, -64 | 0808 addi a0, sp, 16
    6105 addi sp, sp, 32 | 4501 addi a0, zero, 0 | 852e add a0, zero, a1 | 952e add a0, a0, a1
    2501 addiw a0, a0, 0 | 9d2d addw a0, a0, a1 | 9d0d subw a0, a0, a1 | 8d0d sub a0, a0, a1
    8d2d xor a0, a0, a1 | 8d4d or a0, a0, a1 | 8d6d and a0, a0, a1 | 8951 andi a0, a0, 20
    8151 srli a0, a0, 20 | 8551 srai a0, a0, 20 | 0512 slli a0, a0, 4 | 65a1 lui a1, 0x8
    c111 beq a0, zero, 4 | fd75 bne a0, zero, -4 | a001 jal zero, 0 | 8082 jalr zero, 0(ra)
    9502 jalr ra, 0(a0) | 9002 ebreak | 60a2 ld ra, 8(sp) | e406 sd ra, 8(sp) | 4108 lw a0, 0(a0)
    c10c sw a1, 0(a0) | 2108 fld fa0, 0(a0) | a10c fsd fa1, 0(a0) | 2502 fld fa0, 0(sp)
    ac2a fsd fa0, 24(sp) | 4502 lw a0, 0(sp) | c22e sw a1, 4(sp) | 0000 .half 0x0000
    8002 .half 0x8002 | 6001 .half 0x6001 | 9c41 .half 0x9c41 | 2001 .half 0x2001 | 4002 .half 0x4002`;
  for (const line of listing
    .split(/[|\n]/)
    .map(s => s.trim())
    .filter(s => s !== '')) {
    expect(`${line.slice(0, 4)} ${disassemble(Number.parseInt(line.slice(0, 4), 16))}`).toBe(line);
  }
});

test('all 49152 halfwords expand as when they were compared with binutils', () => {
  let hash = 0;
  for (let h = 0; h < 65536; h++) if ((h & 3) !== 3) hash = (Math.imul(hash, 31) + expand(h)) | 0;
  expect(hash).toBe(-617921089);
  expect(rowOf(wordOf(0))).toBe(NO_ROW);
});
