import { expect, test } from 'vitest';
import { floatOracle } from '../../../test/conformance/float-oracle.ts';
import { floatImage, integerImage, type Letter } from '../../../test/conformance/operands.ts';
import { Random } from '../../base/random.ts';
import { ModuleBuilder } from '../../wasm/encoder.ts';
import { emitFloat, type FloatFunctions } from './emit-float.ts';

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

/** Lines that differ, the wanted beside the got. */
const differences = (name: string, cases: number, seed: number): string[] => {
  const r = new Random(seed);
  const lines: string[] = [];
  const source = sourceOf(name);
  for (let i = 0; i < cases; i++) {
    const operand = (near?: bigint) => (source === 'integer' ? integerImage(r) : floatImage(source, r, near));
    const a = operand();
    const b = operand(a);
    const c = operand(r.oneIn(2) ? a : run('mul_d', [a, b], 0, 0).value);
    const rm = r.below(5);
    const before = r.oneIn(2) ? 1 : r.below(32);
    const want = floatOracle(name, [a, b, c], rm);
    const got = run(name, [a, b, c], rm, before);
    if (got.value === want.value && got.flags === (want.flags | before)) continue;
    lines.push(
      `${name} rm=${rm} ${[a, b, c].map(hex).join(' ')}: want ${hex(want.value)} ${want.flags | before}, ` +
        `got ${hex(got.value)} ${got.flags}`,
    );
  }
  return lines;
};

for (const [at, name] of Object.keys(functions).entries()) {
  test(`${name} gives the exact value and flags in each rounding mode`, () => {
    expect(differences(name, 3000, at + 1).slice(0, 5)).toEqual([]);
  });
}
