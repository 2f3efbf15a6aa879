import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { setEngineFlags } from '../../host/node/engine-flags.ts';
import type { Code } from '../../wasm/code.ts';
import { F64, I32, I64, ModuleBuilder } from '../../wasm/encoder.ts';
import { emitFloat, type FloatFunctions } from './emit-float.ts';
import { isMaddFused } from './fused-probe.ts';
import { emitInline, resultType } from './inline.ts';
import { NATIVE } from './inline-site.ts';
import { floatImage, integerImage, type Letter } from './operands-testing.ts';

// Both forms of each instruction run on the same operands, in wasm, and results and flags are compared.

setEngineFlags();

const CPU = 64;
const FFLAGS = 12;
const CASES = 100_000;
const BYTES = 24;
const AREA = { s: 4096, d: 4096 + CASES * BYTES, integer: 4096 + 2 * CASES * BYTES } as const;
const PAGES = Math.ceil((4096 + 3 * CASES * BYTES) / 65536);

type Source = keyof typeof AREA;
type Variant = { name: string; rm: number; same: boolean; boxed: boolean; native?: number; lowest?: number };

const sourceOf = (name: string): Source => {
  const last = name.split('_').at(-1)!;
  return last === 's' || last === 'd' ? last : 'integer';
};

const shapeOf = (name: string): { operands: number; rounds: boolean } => {
  const operation = name.split('_')[0]!;
  if (/^n?m(add|sub)$/.test(operation)) return { operands: 3, rounds: true };
  if (operation === 'class') return { operands: 1, rounds: false };
  if (operation === 'cvt' || operation === 'sqrt') return { operands: 1, rounds: true };
  return { operands: 2, rounds: /^(add|sub|mul|div)$/.test(operation) };
};

/** Pushes the exact function's result of the operands in locals. */
const callExact = (c: Code, functions: FloatFunctions, v: Variant, operands: number[]): void => {
  c.i32(CPU);
  for (const local of operands) c.get(local);
  if (shapeOf(v.name).rounds) c.i32(v.rm === 7 ? 0 : v.rm);
  c.call(functions[v.name as keyof FloatFunctions]);
};

/** `(a, b, c, native) -> i64`, inline. */
const defineInline = (m: ModuleBuilder, functions: FloatFunctions, v: Variant): number | undefined => {
  let isInline = false;
  const index = m.define(undefined, { params: [I64, I64, I64, I32], results: [I64] }, c => {
    const operands = [0, v.same ? 0 : 1, 2].slice(0, shapeOf(v.name).operands);
    isInline = emitInline(c, v.name, {
      operand: i => {
        c.get(operands[i]!);
        if (sourceOf(v.name) !== 'integer') c.op('f64_reinterpret_i64');
      },
      same: v.same,
      isBoxed: () => v.boxed,
      rm: v.rm,
      native: 3,
      call: () => callExact(c, functions, v, operands),
      scratch: type => c.local(type),
      fused: true,
      ...(v.lowest !== undefined && { lowest: v.lowest }),
    });
    if (!isInline) c.i64(0);
    else if (resultType(v.name) === F64) c.op('i64_reinterpret_f64');
  });
  return isInline ? index : undefined;
};

/** `(at, count, native) -> i32`: the first case whose results or flags differ, or -1. */
const defineComparison = (m: ModuleBuilder, functions: FloatFunctions, v: Variant, inline: number): number =>
  m.define(undefined, { params: [I32, I32, I32], results: [I32] }, c => {
    const [at, count, native] = [0, 1, 2];
    const operands = [c.local(I64), c.local(I64), c.local(I64)];
    const [exact, exactFlags, before, i] = [c.local(I64), c.local(I32), c.local(I32), c.local(I32)];
    const setFlags = () => c.i32(CPU).get(before).mem('i32_store', FFLAGS);
    const getFlags = () => c.i32(CPU).mem('i32_load', FFLAGS);
    c.loop(next => {
      operands.forEach((local, o) => {
        c.get(at).mem('i64_load', o * 8);
        if (v.boxed) c.i64w(0, -1).op('i64_or');
        c.set(local);
      });
      // Whatever was raised before; with NX where native results may stand.
      c.get(i).i32(31).op('i32_and').get(native).i32(1).op('i32_and', 'i32_or').set(before);
      setFlags();
      callExact(
        c,
        functions,
        v,
        [operands[0]!, operands[v.same ? 0 : 1]!, operands[2]!].slice(0, shapeOf(v.name).operands),
      );
      c.set(exact);
      getFlags().set(exactFlags);
      setFlags();
      for (const local of operands) c.get(local);
      c.get(native).call(inline).get(exact).op('i64_ne');
      getFlags().get(exactFlags).op('i32_ne', 'i32_or');
      c.if(() => c.get(i).op('return_'));
      c.get(at).i32(BYTES).op('i32_add').set(at);
      c.get(i).i32(1).op('i32_add').tee(i).get(count).op('i32_lt_u').brIf(next);
    });
    c.i32(-1);
  });

/** The operands of `first` differences are looked up in it. */
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES });

type Comparison = (at: number, count: number, native: number) => number;

const build = (variants: readonly Variant[]): { v: Variant; compare: Comparison }[] => {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared: false, maximum: PAGES });
  const functions = emitFloat(m, { fflags: FFLAGS });
  const inlined = variants.flatMap((v, at) => {
    const inline = defineInline(m, functions, v);
    if (inline === undefined) return [];
    m.exportFunction(`compare${at}`, defineComparison(m, functions, v, inline));
    return [{ v, at }];
  });
  const module = new WebAssembly.Module(m.finish());
  const exports = new WebAssembly.Instance(module, { env: { memory } }).exports;
  return inlined.map(({ v, at }) => ({ v, compare: exports[`compare${at}`] as Comparison }));
};

/** Products, and a double narrowed, that rounding makes normal: tiny all the same. */
const TINY = {
  s: [0xffffffff00800000n, 0xffffffff3f7fffffn, 0xffffffff00000000n],
  d: [0x0010000000000000n, 0x3fefffffffffffffn, 0n, 0x380fffffe0000000n, 0n, 0n],
  integer: [],
};

const fill = (source: Source, r: Random): void => {
  const words = new BigUint64Array(memory.buffer, AREA[source], CASES * 3);
  for (let i = 0; i < words.length; i += 3) {
    const operand = (near?: bigint) => (source === 'integer' ? integerImage(r) : floatImage(source, r, near));
    const a = (words[i] = operand());
    const b = (words[i + 1] = operand(a));
    words[i + 2] = operand(source === 'integer' || r.oneIn(2) ? a : productOf(source, a, b));
  }
  words.set(TINY[source]);
};

const view = new DataView(new ArrayBuffer(8));
const numberOf = (letter: Letter, image: bigint): number => {
  view.setBigUint64(0, image);
  return letter === 'd' ? view.getFloat64(0) : view.getFloat32(4);
};
const productOf = (letter: Letter, a: bigint, b: bigint): bigint => {
  const product = numberOf(letter, a) * numberOf(letter, b);
  if (letter === 'd') view.setFloat64(0, product);
  else view.setFloat32(4, product);
  return letter === 'd' ? view.getBigUint64(0) : BigInt(view.getUint32(4));
};

for (const [seed, source] of (['s', 'd', 'integer'] as const).entries()) fill(source, new Random(seed + 1));

const hex = (n: bigint): string => n.toString(16).padStart(16, '0');

/** The operands on which the forms differ, or nothing. */
const differenceOf = ({ v, compare }: { v: Variant; compare: Comparison }, native: number): string[] => {
  const area = AREA[sourceOf(v.name)];
  const at = compare(area, CASES, native);
  if (at < 0) return [];
  const operands = new BigUint64Array(memory.buffer, area + at * BYTES, 3);
  return [`${v.name} rm=${v.rm} native=${native}: ${[...operands].map(hex).join(' ')}`];
};

const NAMES = Object.keys(((): FloatFunctions => emitFloat(new ModuleBuilder(), { fflags: FFLAGS }))());

const variantsOf = (name: string): Variant[] => {
  const modes = shapeOf(name).rounds ? [0, 1, 2, 3, 4, 7] : [7];
  const samenesses = name.startsWith('sgnj') ? [false, true] : [false];
  const boxings = sourceOf(name) === 's' ? [false, true] : [false];
  return modes.flatMap(rm => samenesses.flatMap(same => boxings.map(boxed => ({ name, rm, same, boxed }))));
};

for (const name of NAMES) {
  test(`${name} inline has the function's value and flags, with and without native results`, () => {
    const forms = build(variantsOf(name));
    expect(forms.length).toBeGreaterThan(0);
    expect(forms.flatMap(form => [0, NATIVE].flatMap(native => differenceOf(form, native)))).toEqual([]);
  });
}

test('other rounding modes than the nearest have no form where the result may be rounded', () => {
  const forms = build(NAMES.flatMap(variantsOf)).map(form => form.v);
  const modesOf = (name: string) => new Set(forms.filter(v => v.name === name).map(v => v.rm));
  expect(modesOf('add_d')).toEqual(new Set([0, 7]));
  expect(modesOf('madd_s')).toEqual(new Set([0, 7]));
  expect(modesOf('cvt_w_d')).toEqual(new Set([0, 1, 2, 3, 7]));
  expect(modesOf('cvt_d_wu')).toEqual(new Set([0, 1, 2, 3, 4, 7]));
});

const mutants = (names: string[], lowest: number): { v: Variant; compare: Comparison }[] =>
  build(names.map(name => ({ name, rm: 7, same: false, boxed: false, lowest })));

test('a bound of exponents that is off differs', () => {
  // What rounding made normal underflows; no quotient comes that close to them.
  const low = [
    ...mutants(['mul_d', 'mul_s', 'madd_d', 'nmsub_s', 'cvt_s_d'], 1),
    ...mutants(['div_d', 'div_s'], 0),
  ];
  for (const form of low) expect(differenceOf(form, NATIVE), form.v.name).toHaveLength(1);
  // Infinities are the first that must not be taken at the other end: the least odd bounds that do.
  const high: [names: string[], bound: number][] = [
    [['mul_s', 'div_s', 'madd_s', 'cvt_s_d'], 2025],
    [['sub_s'], 2041],
    [['mul_d', 'div_d', 'msub_d'], 2047],
    [['add_d'], 2049],
  ];
  for (const [names, bound] of high)
    for (const form of mutants(names, 2)) expect(differenceOf(form, bound), form.v.name).toHaveLength(1);
});

test('vectors multiply and add with one rounding here', () => {
  expect(isMaddFused()).toBe(true);
});
