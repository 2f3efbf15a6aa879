import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { Exit } from '../interface.ts';
import { RAM_BASE } from '../testing.ts';
import { type Mode, runIn } from './modes-testing.ts';

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
