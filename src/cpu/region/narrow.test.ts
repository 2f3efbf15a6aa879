import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { assemble } from '../assemble.ts';
import { Exit } from '../interface.ts';
import { RAM_BASE } from '../testing.ts';
import { AT, Status } from '../vcpu.ts';
import { decodeStep } from './discover.ts';
import { type Mode, runIn } from './modes-testing.ts';
import { Narrow } from './narrow.ts';

// What is computed from low words alone, where registers are known to be their sign extension.

/** Where signs, carries and high words make a difference. */
const VALUES = [0n, 1n, -1n, 0x7fffffffn, 0x80000000n, -0x80000000n, 0xffffffffn, 1n << 32n, -1n << 32n];
const NARROWING = [
  'sext.w',
  'slliw5',
  'sraiw3',
  'lui',
  'li',
  'mv',
  'none',
  'andi',
  'andi-',
  'addi',
  'srli1',
] as const;

/** Leaves something in `rd`, narrow or not, of `rs`. */
function prepare(how: (typeof NARROWING)[number], rd: string, rs: string): string {
  switch (how) {
    case 'sext.w':
      return `addiw ${rd}, ${rs}, 0`;
    case 'slliw5':
      return `slliw ${rd}, ${rs}, 5`;
    case 'sraiw3':
      return `sraiw ${rd}, ${rs}, 3`;
    case 'lui':
      return `lui ${rd}, 0x80000`;
    case 'li':
      return `li ${rd}, -3`;
    case 'mv':
      return `addiw ${rd}, ${rs}, 1\nadd ${rd}, ${rd}, zero`;
    case 'andi':
      return `andi ${rd}, ${rs}, 0x7f`;
    case 'andi-':
      return `andi ${rd}, ${rs}, -16`;
    case 'addi':
      return `addi ${rd}, ${rs}, 1`;
    case 'srli1':
      return `addiw ${rd}, ${rs}, 0\nsrli ${rd}, ${rd}, 1`;
    default:
      return `add ${rd}, ${rs}, zero`;
  }
}

/** Mixes what each instruction makes of two operands, prepared in some way, into a0, and counts branches in a1. */
function program(random: Random): string {
  const lines = ['again:'];
  for (let i = 0; i < 12; i++) {
    lines.push(prepare(random.pick(NARROWING), 't0', 's2'), prepare(random.pick(NARROWING), 't1', 's3'));
    lines.push(`${random.pick(['and', 'or', 'xor', 'slt', 'sltu', 'sra'])} t2, t0, t1`);
    lines.push(
      `${random.pick(['andi', 'ori', 'xori', 'slti', 'sltiu'])} t0, t0, ${random.below(4096) - 2048}`,
    );
    // A rotation, as a compiler writes it.
    lines.push('slliw t3, t2, 7', 'srliw t4, t2, 25', 'or t3, t3, t4', 'slli a0, a0, 1', 'add a0, a0, t3');
    lines.push('xor t2, t2, t0', 'add a0, a0, t2');
    lines.push(`${random.pick(['beq', 'bne', 'blt', 'bge', 'bltu', 'bgeu'])} t2, t1, l${i}`);
    lines.push('addi a1, a1, 1', `l${i}: add a0, a0, t1`);
  }
  return [...lines, 'addi s0, s0, -1', 'bnez s0, again', 'ecall'].join('\n');
}

function results(mode: Mode, seed: number): bigint[] {
  const { m, check } = runIn(mode);
  m.program(program(new Random(seed)));
  const out: bigint[] = [];
  for (const first of VALUES) {
    for (const second of VALUES) {
      for (const [n, value] of [
        [18, first],
        [19, second],
        [8, 3n],
        [10, 0n],
        [11, 0n],
      ] as const)
        m.setX(n, value);
      m.cpu.setPc(m.vcpu, RAM_BASE);
      expect(m.run(1_000_000)).toBe(Exit.Sbi);
      out.push(m.x(10), m.x(11));
    }
  }
  check();
  return out;
}

test.each([1, 2, 3, 4, 5, 6])('low words are taken for the whole only where they are, seed %i', seed => {
  const expected = results('interpreter', seed);
  expect(results('regions', seed)).toEqual(expected);
  expect(results('lockstep', seed)).toEqual(expected);
});

const MEMORY = RAM_BASE + 0x8000;
/** Leave in t0, which was narrow, what need not be: of s2, s3, a doubleword of memory at s4, sscratch and ft0. */
const WIDENING = {
  ld: 'ld t0, 0(s4)',
  lwu: 'lwu t0, 0(s4)',
  'amoadd.d': 'amoadd.d t0, zero, (s4)',
  'fmv.x.d': 'fmv.x.d t0, ft0',
  'csrr of storage': 'csrr t0, sscratch',
  'csrr of sstatus': 'csrr t0, sstatus',
  auipc: 'auipc t0, 0',
  'a copy by addi': 'addi t0, s2, 0',
  'a copy by add': 'add t0, s2, zero',
  'a copy by add, the other way': 'add t0, zero, s2',
  'addi of a narrow one': 'addi t0, t0, 1',
  'add of narrow ones': 'add t0, t0, t0',
  sub: 'sub t0, zero, t0',
  mul: 'mul t0, t0, t0',
  mulhu: 'mulhu t0, t0, t0',
  divu: 'divu t0, t0, s3',
  slli: 'slli t0, t0, 3',
  srli: 'srli t0, t0, 1',
  sll: 'sll t0, t0, s3',
  srl: 'srl t0, t0, s3',
  'srai of a wide one': 'srai t0, s2, 2',
  'sra of a wide one': 'sra t0, s2, s3',
  'andi of a wide one': 'andi t0, s2, -16',
  'ori of a wide one': 'ori t0, s2, 5',
  'and of one wide one': 'and t0, s2, t0',
  'or of one wide one': 'or t0, t0, s2',
  'xor of one wide one': 'xor t0, t0, s2',
} as const;

/** Each use of t0 and of t1, which is narrow; each after t0 was made and widened anew, as a branch ends a block. */
function uses(): string[] {
  const lines: string[] = [];
  for (const op of ['and', 'or', 'xor', 'slt', 'sltu']) {
    lines.push(`${op} t2, t0, t1`, `${op} t2, t1, t0`);
    lines.push(`${op === 'sltu' ? 'sltiu' : `${op}i`} t2, t0, -5`);
  }
  for (const op of ['beq', 'bne', 'blt', 'bge', 'bltu', 'bgeu']) {
    for (const pair of ['t0, t1', 't1, t0']) {
      const label = `l${lines.length}`;
      lines.push(`li t2, 0\n${op} ${pair}, ${label}\nli t2, 1\n${label}:`);
    }
  }
  return lines;
}

/** Mixes into a0 what each use makes; s5 is odd, so that no bit is lost. */
function wideningProgram(widen: string): string {
  const lines = ['again:'];
  for (const use of uses()) {
    lines.push('addiw t0, s2, 0', 'addiw t1, s3, 0', widen, use, 'mul a0, a0, s5', 'add a0, a0, t2');
  }
  return [...lines, 'addi s0, s0, -1', 'bnez s0, again', 'ecall'].join('\n');
}

function wideningResults(mode: Mode, widen: string): bigint[] {
  const { m, check } = runIn(mode);
  m.program(wideningProgram(widen));
  m.arena.words[m.vcpu + AT.sstatus] = Status.FS;
  const out: bigint[] = [];
  for (const first of VALUES) {
    for (const second of [1n, -1n, 0x7fffffffn, -0x80000000n]) {
      m.poke(MEMORY, [Number(first & 0xffff_ffffn), Number((first >> 32n) & 0xffff_ffffn)]);
      m.setField(AT.sscratch, first);
      m.setField(AT.f, first);
      for (const [n, value] of [
        [18, first],
        [19, second],
        [20, BigInt(MEMORY)],
        [21, 0x9e37_79b9_7f4a_7c15n],
        [8, 3n],
        [10, 0n],
      ] as const)
        m.setX(n, value);
      m.cpu.setPc(m.vcpu, RAM_BASE);
      expect(m.run(1_000_000)).toBe(Exit.Sbi);
      out.push(m.x(10));
    }
  }
  check();
  return out;
}

test.each(Object.entries(WIDENING))(
  'a register that was narrow is taken for the whole after %s',
  (_, widen) => {
    expect(wideningResults('regions', widen)).toEqual(wideningResults('interpreter', widen));
  },
);

// A jump ends its block, and what is known with it: no program can tell.
test.each(['jal t0, 8', 'jalr t0, 0(t1)'])('the link register of %s is not narrow', jump => {
  const narrow = new Narrow();
  const halves = new Uint16Array(assemble(`addiw t0, t0, 0\n${jump}`).buffer);
  const note = (offset: number) => narrow.note(decodeStep(at => halves[at / 2]!, offset)!);
  note(0);
  expect(narrow.has(5)).toBe(true);
  note(4);
  expect(narrow.has(5)).toBe(false);
});
