import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { ModuleBuilder } from '../../wasm/encoder.ts';
import { emitFloat, type FloatFunctions } from './emit-float.ts';
import { floatImage, integerImage, type Letter } from './operands-testing.ts';
import { floatOracle } from './oracle-testing.ts';

const CPU = 64;
const FFLAGS = 12;

type Run = (name: string, operands: bigint[], rm: number, flags: number) => { value: bigint; flags: number };

/** How many operands each shape has and whether it takes a rounding mode; see README.md. */
const shapeOf = (name: string): { operands: number; rounds: boolean } => {
  const [operation] = name.split('_');
  if (/^n?m(add|sub)$/.test(operation!)) return { operands: 3, rounds: true };
  if (operation === 'class') return { operands: 1, rounds: false };
  if (operation === 'cvt' || operation === 'sqrt') return { operands: 1, rounds: true };
  return { operands: 2, rounds: /^(add|sub|mul|div)$/.test(operation!) };
};

const build = (): { functions: FloatFunctions; run: Run } => {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared: false, maximum: 1 });
  const functions = emitFloat(m, { fflags: FFLAGS });
  for (const [name, index] of Object.entries(functions)) m.exportFunction(name, index);
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const flagsWord = new Int32Array(memory.buffer, CPU + FFLAGS, 1);
  const module = new WebAssembly.Module(m.finish());
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports;
  const run: Run = (name, operands, rm, flags) => {
    flagsWord[0] = flags;
    const { operands: count, rounds } = shapeOf(name);
    const f = exports[name] as (...a: (number | bigint)[]) => bigint;
    const value = f(CPU, ...operands.slice(0, count), ...(rounds ? [rm] : []));
    return { value: BigInt.asUintN(64, value), flags: flagsWord[0]! };
  };
  return { functions, run };
};

const { functions, run } = build();

const sourceOf = (name: string): Letter | 'integer' => {
  const last = name.split('_').at(-1)!;
  return last === 's' || last === 'd' ? last : 'integer';
};

const hex = (n: bigint): string => n.toString(16).padStart(16, '0');

type Case = { name: string; operands: [bigint, bigint, bigint]; rm: number; before: number };

/** A line when ours differs from the oracle's, the wanted beside the got. */
const differenceOf = ({ name, operands, rm, before }: Case): string[] => {
  const want = floatOracle(name, operands, rm);
  const got = run(name, operands, rm, before);
  if (got.value === want.value && got.flags === (want.flags | before)) return [];
  const inputs = `${name} rm=${rm} ${operands.map(hex).join(' ')}`;
  return [`${inputs}: want ${hex(want.value)} ${want.flags | before}, got ${hex(got.value)} ${got.flags}`];
};

const randomCase = (name: string, r: Random): Case => {
  const source = sourceOf(name);
  const operand = (near?: bigint) => (source === 'integer' ? integerImage(r) : floatImage(source, r, near));
  const a = operand();
  const b = operand(a);
  const c = operand(source === 'integer' || r.oneIn(2) ? a : run(`mul_${source}`, [a, b], 0, 0).value);
  return { name, operands: [a, b, c], rm: r.below(5), before: r.oneIn(2) ? 1 : r.below(32) };
};

for (const [at, name] of Object.keys(functions).entries()) {
  test(`${name} gives the exact value and flags in each rounding mode`, () => {
    const r = new Random(at + 1);
    const cases = Array.from({ length: 3000 }, () => randomCase(name, r));
    expect(cases.flatMap(differenceOf).slice(0, 5)).toEqual([]);
  });
}

const everyMode = (name: string, operands: [bigint, bigint, bigint]): Case[] =>
  [0, 1, 2, 3, 4].flatMap(rm => [0, 1].map(before => ({ name, operands, rm, before })));

const boxed = (bits: number): bigint => 0xffffffff_00000000n | BigInt(bits);

test('a product that rounds up to the smallest normal is still tiny', () => {
  const cases = [
    ...everyMode('mul_d', [0x0010000000000000n, 0x3fefffffffffffffn, 0n]),
    ...everyMode('mul_s', [boxed(0x00800000), boxed(0x3f7fffff), 0n]),
    ...everyMode('div_d', [0x000fffffffffffffn, 0x3feffffffffffffen, 0n]),
    ...everyMode('madd_s', [boxed(0x00800000), boxed(0x3f7fffff), boxed(0)]),
    ...everyMode('cvt_s_d', [0x380fffffffffffffn, 0n, 0n]),
    ...everyMode('cvt_s_d', [0x380fffffe0000000n, 0n, 0n]),
  ];
  expect(cases.flatMap(differenceOf)).toEqual([]);
  expect(run('mul_d', [0x0010000000000000n, 0x3fefffffffffffffn], 0, 1)).toEqual({
    value: 0x0010000000000000n,
    flags: 3,
  });
});

test('an addend far below a tie of the product decides it', () => {
  const cases: Case[] = [];
  const r = new Random(99);
  for (let i = 0; i < 200; i++) {
    // An odd significand times 3 or 5 ends half-way between two neighbours, or a quarter off.
    const factor = r.pick([3, 5]);
    const single = boxed(0x3f800001 | (r.below(1 << 22) << 1));
    const double = 0x3ff0000000000001n | (BigInt(r.u32()) << 19n);
    const sign = BigInt(r.below(2));
    const small = BigInt(r.below(60) + 10);
    const factorSingle = boxed(factor === 3 ? 0x40400000 : 0x40a00000);
    const factorDouble = factor === 3 ? 0x4008000000000000n : 0x4014000000000000n;
    const tinySingle = 0xffffffff_00000000n | (sign << 31n) | (small << 23n) | 1n;
    const tinyDouble = (sign << 63n) | ((small + 800n) << 52n);
    for (const name of ['madd_s', 'nmsub_s'])
      cases.push(...everyMode(name, [single, factorSingle, tinySingle]));
    for (const name of ['madd_d', 'nmsub_d'])
      cases.push(...everyMode(name, [double, factorDouble, tinyDouble]));
  }
  expect(cases.flatMap(differenceOf).slice(0, 5)).toEqual([]);
});

test('a fused double with native help survives heavy cancellation', () => {
  const r = new Random(77);
  const fractionMask = 0x800fffffffffffffn;
  const medium = () => (floatImage('d', r) & fractionMask) | (BigInt(1023 - 60 + r.below(120)) << 52n);
  const cases: Case[] = [];
  for (let i = 0; i < 8000; i++) {
    const [a, b] = [medium(), medium()];
    const product = floatOracle('mul_d', [a, b, 0n], r.below(5)).value;
    const c = r.oneIn(4) ? medium() : (product ^ (BigInt(r.below(2)) << 63n)) + BigInt(r.below(3) - 1);
    const name = r.pick(['madd_d', 'msub_d', 'nmsub_d', 'nmadd_d']);
    cases.push({ name, operands: [a, b, c], rm: 0, before: 1 });
  }
  expect(cases.flatMap(differenceOf).slice(0, 5)).toEqual([]);
});
