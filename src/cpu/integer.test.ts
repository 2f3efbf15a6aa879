import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { encodeImmediate } from './assemble.ts';
import { immediateOf, rdOf, rowOf, rs1Of, rs2Of } from './decode.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';

// Every instruction on integer registers that does not touch memory, against arithmetic on BigInts.

const U = (x: bigint) => BigInt.asUintN(64, x);
const S = (x: bigint) => BigInt.asIntN(64, x);
const W = (x: bigint) => BigInt.asIntN(32, x);
const UW = (x: bigint) => BigInt.asUintN(32, x);
const truth = (b: boolean) => (b ? 1n : 0n);
const divide = (a: bigint, b: bigint) => (b === 0n ? -1n : a / b);
const remainder = (a: bigint, b: bigint) => (b === 0n ? a : a % b);

/** a and b are unsigned; b is rs2 or the immediate. */
const REFERENCE: Record<string, (a: bigint, b: bigint, pc: bigint) => bigint> = {
  lui: (_a, b) => b,
  auipc: (_a, b, pc) => pc + b,
  addi: (a, b) => a + b,
  slti: (a, b) => truth(S(a) < S(b)),
  sltiu: (a, b) => truth(a < b),
  xori: (a, b) => a ^ b,
  ori: (a, b) => a | b,
  andi: (a, b) => a & b,
  slli: (a, b) => a << (b & 63n),
  srli: (a, b) => a >> (b & 63n),
  srai: (a, b) => S(a) >> (b & 63n),
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  sll: (a, b) => a << (b & 63n),
  slt: (a, b) => truth(S(a) < S(b)),
  sltu: (a, b) => truth(a < b),
  xor: (a, b) => a ^ b,
  srl: (a, b) => a >> (b & 63n),
  sra: (a, b) => S(a) >> (b & 63n),
  or: (a, b) => a | b,
  and: (a, b) => a & b,
  addiw: (a, b) => W(a + b),
  slliw: (a, b) => W(a << (b & 31n)),
  srliw: (a, b) => W(UW(a) >> (b & 31n)),
  sraiw: (a, b) => W(a) >> (b & 31n),
  addw: (a, b) => W(a + b),
  subw: (a, b) => W(a - b),
  sllw: (a, b) => W(a << (b & 31n)),
  srlw: (a, b) => W(UW(a) >> (b & 31n)),
  sraw: (a, b) => W(a) >> (b & 31n),
  mul: (a, b) => a * b,
  mulh: (a, b) => (S(a) * S(b)) >> 64n,
  mulhsu: (a, b) => (S(a) * b) >> 64n,
  mulhu: (a, b) => (a * b) >> 64n,
  div: (a, b) => divide(S(a), S(b)),
  divu: (a, b) => divide(a, b),
  rem: (a, b) => remainder(S(a), S(b)),
  remu: (a, b) => remainder(a, b),
  mulw: (a, b) => W(a * b),
  divw: (a, b) => W(divide(W(a), W(b))),
  divuw: (a, b) => W(divide(UW(a), UW(b))),
  remw: (a, b) => W(remainder(W(a), W(b))),
  remuw: (a, b) => W(remainder(UW(a), UW(b))),
  fence: () => 0n,
};
const NAMES = Object.keys(REFERENCE);
const ROWS = new Map(INSTRUCTIONS.map(row => [row.name, row]));

const SPECIAL = [
  0n,
  1n,
  2n,
  63n,
  64n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  1n << 63n,
  (1n << 63n) - 1n,
  U(-1n),
  U(-2n),
];

const random64 = (r: Random): bigint =>
  r.oneIn(3) ? r.pick(SPECIAL) : U(S((BigInt(r.u32()) << 32n) | BigInt(r.u32())) >> BigInt(r.below(64)));

function randomWord(r: Random, name: string): number {
  const row = ROWS.get(name)!;
  let word = row.match | (r.below(32) << 7) | (r.below(32) << 15);
  const kind = row.format.imm;
  if (kind === 'i') word |= encodeImmediate('i', r.below(4096) - 2048);
  else if (kind === 'u') word |= encodeImmediate('u', r.below(0x100000));
  else if (kind === 'shift5') word |= r.below(32) << 20;
  else if (kind === 'shift6') word |= r.below(64) << 20;
  else if (kind === undefined) word |= r.below(32) << 20;
  else word = row.match | 0x0ff00000;
  return word >>> 0;
}

function step(x: bigint[], word: number, pc: bigint): void {
  const row = INSTRUCTIONS[rowOf(word)]!;
  if (row.name === 'fence') return;
  const b = row.format.imm === undefined ? x[rs2Of(word)]! : U(BigInt(immediateOf(word, row.format.imm)));
  const value = U(REFERENCE[row.name]!(x[rs1Of(word)]!, b, pc));
  if (rdOf(word) !== 0) x[rdOf(word)] = value;
}

const module = compileInterpreter(false);

function compareRun(seed: number, length: number): void {
  const r = new Random(seed);
  const m = new FlatMachine({ module });
  const words = Array.from({ length }, () => randomWord(r, r.pick(NAMES)));
  m.poke(RAM_BASE, words);
  const x = Array.from({ length: 32 }, (_, n) => (n === 0 ? 0n : random64(r)));
  for (let n = 1; n < 32; n++) m.setX(n, x[n]!);
  for (let i = 0; i < length; i++) {
    m.cpu.run(m.vcpu, 1);
    step(x, words[i]!, BigInt(RAM_BASE + 4 * i));
    if (x.some((value, n) => m.x(n) !== value)) {
      const got = x.map((_, n) => m.x(n));
      expect(got, `seed ${seed}, instruction ${i}: ${INSTRUCTIONS[rowOf(words[i]!)]!.name}`).toEqual(x);
    }
    // Fresh operands, or everything ends up as zeros and ones.
    const n = 1 + r.below(31);
    x[n] = random64(r);
    m.setX(n, x[n]!);
  }
}

test('every integer instruction computes what BigInts say, register file and all', () => {
  for (let seed = 1; seed <= 10; seed++) compareRun(seed, 1000);
});

test('each instruction is among those compared', () => {
  const covered = new Set<string>();
  const r = new Random(99);
  for (let i = 0; i < 4000; i++) covered.add(r.pick(NAMES));
  const memoryless = INSTRUCTIONS.filter(
    row =>
      row.emit !== undefined && ['r', 'i', 'shift5', 'shift6', 'u'].some(() => (row.match & 0x7f) !== 0x2f),
  ).filter(row => [0x33, 0x13, 0x3b, 0x1b, 0x37, 0x17].includes(row.match & 0x7f));
  expect(memoryless.map(row => row.name).filter(name => !covered.has(name))).toEqual([]);
});

test('special operands meet in every two-register instruction', () => {
  const m = new FlatMachine({ module });
  const rows = INSTRUCTIONS.filter(row => [0x33, 0x3b].includes(row.match & 0x7f));
  const words = rows.map(row => (row.match | (12 << 7) | (10 << 15) | (11 << 20)) >>> 0);
  m.poke(RAM_BASE, words);
  for (const a of SPECIAL) {
    for (const b of SPECIAL) {
      m.cpu.setPc(m.vcpu, RAM_BASE);
      m.setX(10, a);
      m.setX(11, b);
      for (const row of rows) {
        m.cpu.run(m.vcpu, 1);
        expect(m.x(12), `${row.name} ${a} ${b}`).toBe(U(REFERENCE[row.name]!(a, b, 0n)));
      }
    }
  }
});
