import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { CODE_AT } from './code-cache.ts';
import { immediateOf, isLong, NO_ROW, rowOf, wordOf } from './decode.ts';
import { FIRST_VARIANT, opOf, VARIANTS } from './decoded.ts';
import { INSTRUCTIONS, numberOf } from './instructions.ts';
import { compileInterpreter } from './interpreter.ts';
import { FIRST_PAIR, PAIRS } from './pairs.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';
import { AT } from './vcpu.ts';

// Two instructions as one case of the interpreter do what they do one by one.

const module = compileInterpreter(false);
const DATA = RAM_BASE + 8 * 4096;

const HALVES = Array.from({ length: 0x10000 }, (_, half) => half).filter(half => !isLong(half));

/** The case of a 2-byte instruction wherever it stands; 0 if that depends. */
function shortOp(half: number): number {
  const row = rowOf(wordOf(half));
  if (row === NO_ROW) return 0;
  const { imm } = INSTRUCTIONS[row]!.format;
  const isNear = (imm !== 'b' && imm !== 'j') || immediateOf(wordOf(half), imm) >= 0;
  return isNear ? opOf(row, 2, false) : 0;
}
const SHORT_OPS = HALVES.map(shortOp);

/** The halfwords of an instruction that has the case `op`. */
function instruction(r: Random, op: number): number[] {
  const { row, length } = VARIANTS[op - FIRST_VARIANT]!;
  if (length === 2) return [r.pick(HALVES.filter((_, i) => SHORT_OPS[i] === op))];
  const { match, mask, format } = INSTRUCTIONS[row]!;
  let word = match | (r.u32() & ~mask);
  // Forwards, in the page.
  if (format.imm === 'b') word &= 0x7fff_ffff & ~0x80;
  return [word & 0xffff, word >>> 16];
}

function machine(seed: number, halves: readonly number[]): FlatMachine {
  const r = new Random(seed);
  const m = new FlatMachine({ module, batch: 0, pages: 16, slots: 2 });
  const data = Array.from({ length: 4096 }, () => r.u32());
  m.poke(DATA - 2 * 4096, data);
  const code = [...halves, 0, 0, 0, 0];
  m.poke(
    RAM_BASE,
    [0, 2].map(i => code[i]! | (code[i + 1]! << 16)),
  );
  for (let n = 1; n < 32; n++) m.setX(n, r.oneIn(4) ? BigInt(r.u32()) : BigInt(DATA + r.below(256) * 8));
  return m;
}

/** The case of the record at the start of the code. */
const firstOp = (m: FlatMachine): number =>
  m.arena.words[m.arena.words[m.code + CODE_AT.base]! >>> 2]! & 0xffff;

test.each(PAIRS.map((pair, i) => [`${pair}`, i] as const))('the pair %s', (_name, i) => {
  const r = new Random(i + 1);
  for (let round = 0; round < 4; round++) {
    const first = instruction(r, PAIRS[i]![0]);
    const halves = [...first, ...instruction(r, PAIRS[i]![1])];
    const seed = r.u32();
    const [joined, apart] = [machine(seed, halves), machine(seed, halves)];
    joined.cpu.run(joined.vcpu, 2);
    expect(firstOp(joined)).toBe(FIRST_PAIR + i);
    apart.cpu.run(apart.vcpu, 1);
    apart.cpu.run(apart.vcpu, 1);
    expect(joined.state()).toEqual(apart.state());
    expect(joined.field(AT.instret)).toBe(apart.field(AT.instret));
  }
});

test('a pair whose slice ends between the two stops there', () => {
  const m = new FlatMachine({ module, batch: 0 }).program('addi a0, zero, 1\naddi a0, a0, 1\nend: j end');
  m.cpu.run(m.vcpu, 1);
  expect(firstOp(m)).toBeGreaterThanOrEqual(FIRST_PAIR);
  expect([m.x(10), m.field(AT.pc), m.field(AT.instret)]).toEqual([1n, BigInt(RAM_BASE + 4), 1n]);
});

test('no pair leads past the beginning of a region', () => {
  // Only the second `addi` is come to often.
  const source = 'addi a0, zero, 100\nloop: addi a1, a1, 1\naddi a0, a0, -1\nbnez a0, loop\nend: j end';
  const m = new FlatMachine({ module: compileInterpreter(false, true, 2), batch: 1 }).program(source);
  m.cpu.run(m.vcpu, 1);
  expect(firstOp(m)).toBeGreaterThanOrEqual(FIRST_PAIR);
  m.cpu.run(m.vcpu, 200);
  expect(m.cpu.translated(m.code).regions).toBeGreaterThan(0);
  expect(firstOp(m)).toBe(opOf(numberOf('addi'), 4, false));
});
