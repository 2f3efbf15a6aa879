import { expect, test } from 'vitest';
import { I32, I64, ModuleBuilder } from './encoder.ts';

const instantiate = (m: ModuleBuilder, imports: WebAssembly.Imports = {}) =>
  new WebAssembly.Instance(new WebAssembly.Module(m.finish()), imports).exports as Record<
    string,
    (...a: never[]) => unknown
  >;

test('a function with a loop, a local and a branch computes a sum', () => {
  const m = new ModuleBuilder();
  m.define('sum', { params: [I32], results: [I32] }, c => {
    const total = c.local(I32);
    c.block(done => {
      c.loop(again => {
        c.get(0).op('i32_eqz').brIf(done, false);
        c.get(total).get(0).op('i32_add').set(total);
        c.get(0).i32(1).op('i32_sub').set(0).br(again);
      });
    });
    c.get(total);
  });
  expect((instantiate(m).sum as (n: number) => number)(100)).toBe(5050);
});

test('64-bit constants keep all their bits', () => {
  const m = new ModuleBuilder();
  const values: [number, number, bigint][] = [
    [0, 0, 0n],
    [-1, -1, -1n],
    [0, -0x80000000, -(1n << 63n)],
    [-1, 0x7fffffff, (1n << 63n) - 1n],
    [0x89abcdef, 0x01234567, 0x0123456789abcdefn],
  ];
  values.forEach(([lo, hi], i) => {
    m.define(`v${i}`, { params: [], results: [I64] }, c => c.i64w(lo, hi));
  });
  const e = instantiate(m);
  values.forEach(([, , want], i) => {
    expect((e[`v${i}`] as () => bigint)()).toBe(want);
  });
});

test('a module imports shared and private memory alike', () => {
  for (const shared of [false, true]) {
    const m = new ModuleBuilder();
    m.importMemory('env', 'memory', { shared, maximum: 2 });
    m.define('peek', { params: [I32], results: [I32] }, c => c.get(0).mem('i32_load', 4));
    const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared });
    new Int32Array(memory.buffer)[2] = 77;
    expect((instantiate(m, { env: { memory } }).peek as (n: number) => number)(4)).toBe(77);
  }
});

test('call_indirect reaches the functions of the table', () => {
  const m = new ModuleBuilder();
  const type = { params: [I32], results: [I32] } as const;
  const twice = m.define(undefined, type, c => c.get(0).i32(2).op('i32_mul'));
  const next = m.define(undefined, type, c => c.get(0).i32(1).op('i32_add'));
  m.table([twice, next]);
  m.define('apply', { params: [I32, I32], results: [I32] }, c => c.get(0).get(1).callIndirect(type));
  const apply = instantiate(m).apply as (x: number, f: number) => number;
  expect([apply(20, 0), apply(20, 1)]).toEqual([40, 21]);
});
