import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { assemble } from '../assemble.ts';
import type { Cpu } from '../cpu.ts';
import { Exit, type VcpuPtr } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine, RAM_BASE } from '../testing.ts';
import { LIMITS } from './layout.ts';
import { Linker } from './linker.ts';

// Room for regions that is used up, and regions that another thread's processor made.

const module = compileInterpreter(false, true, 2);
const PROGRAMS = 12;
const ROUNDS = 30;
/** One in each page: adds 10 * (i + 1), 30 times, and calls the host. */
const loop = (i: number): string =>
  `again: addi a0, a0, ${10 * (i + 1)}\naddi s0, s0, -1\nbnez s0, again\necall`;
const EXPECTED = (i: number): bigint => BigInt(ROUNDS * 10 * (i + 1));

function load(m: FlatMachine): void {
  for (let i = 0; i < PROGRAMS; i++) m.poke(RAM_BASE + i * 4096, assemble(loop(i)));
}

/** What the program in page `i` adds. */
function call(cpu: Cpu, vcpu: VcpuPtr, i: number): bigint {
  cpu.setPc(vcpu, RAM_BASE + i * 4096);
  cpu.setX(vcpu, 8, ROUNDS, 0);
  cpu.setX(vcpu, 10, 0, 0);
  expect(cpu.run(vcpu, 1000)).toBe(Exit.Sbi);
  return BigInt(cpu.xLo(vcpu, 10));
}

describe('when the room for regions is used up', () => {
  test.each([
    ['regions', { ...LIMITS, regions: 4 }],
    ['entries', { ...LIMITS, entries: 10 }],
    ['bytes of wasm', { ...LIMITS, wasmBytes: 3000 }],
  ])('by %s, all are dropped, and what is hot is translated again', (_what, limits) => {
    const m = new FlatMachine({ module, batch: 1, limits });
    load(m);
    for (let turn = 0; turn < 4; turn++) {
      for (let i = 0; i < PROGRAMS; i++)
        expect(call(m.cpu, m.vcpu, i), `turn ${turn}, ${i}`).toBe(EXPECTED(i));
    }
    const { regions, region_drops } = m.cpu.translated(m.code);
    expect(region_drops).toBeGreaterThan(4);
    expect(regions).toBeGreaterThan(PROGRAMS);
  });

  test('in the heap, by others, code goes on without regions until there is some', () => {
    let full = false;
    const m = new FlatMachine({ module, batch: 1, isFull: () => full });
    load(m);
    expect(call(m.cpu, m.vcpu, 0)).toBe(EXPECTED(0));
    full = true;
    for (let i = 0; i < PROGRAMS; i++) expect(call(m.cpu, m.vcpu, i)).toBe(EXPECTED(i));
    expect(m.cpu.translated(m.code).regions).toBe(1);
    full = false;
    for (let i = 0; i < PROGRAMS; i++) expect(call(m.cpu, m.vcpu, i)).toBe(EXPECTED(i));
    expect(m.cpu.translated(m.code).regions).toBeGreaterThanOrEqual(PROGRAMS);
  });

  test('nothing is dropped before', () => {
    const m = new FlatMachine({ module, batch: 1 });
    load(m);
    for (let i = 0; i < PROGRAMS; i++) expect(call(m.cpu, m.vcpu, i)).toBe(EXPECTED(i));
    expect(m.cpu.translated(m.code).region_drops).toBe(0);
  });
});

describe('a region that another thread made', () => {
  let m: FlatMachine;
  let other: Cpu;
  let vcpu: VcpuPtr;
  const link = Linker.prototype.link;
  const linked: Linker[] = [];
  beforeEach(() => {
    linked.length = 0;
    vi.spyOn(Linker.prototype, 'link').mockImplementation(function (this: Linker, code, id) {
      linked.push(this);
      link.call(this, code, id);
    });
    m = new FlatMachine({ module, batch: 1, limits: { ...LIMITS, regions: 4 } });
    // It translates nothing itself.
    other = m.secondCpu({ module, batch: 0 });
    vcpu = other.createVcpu(m.code);
    other.reset(vcpu, { hartId: 1, pc: RAM_BASE, a1: 0 });
    load(m);
  });
  afterEach(() => {
    vi.restoreAllMocks();
  });

  test('is linked where it is first called, once, and does the same', () => {
    expect(call(m.cpu, m.vcpu, 0)).toBe(EXPECTED(0));
    const { regions } = m.cpu.translated(m.code);
    expect(regions).toBeGreaterThan(0);
    const mine = linked.splice(0);
    expect(mine.length).toBe(regions);
    for (let turn = 0; turn < 3; turn++) expect(call(other, vcpu, 0)).toBe(EXPECTED(0));
    expect(linked.length).toBe(regions);
    expect(linked).not.toContain(mine[0]);
    expect(m.cpu.translated(m.code).regions).toBe(regions);
  });

  test('is unlinked when all were dropped, so that its number may be another', () => {
    for (let i = 0; i < PROGRAMS; i++) {
      expect(call(m.cpu, m.vcpu, i)).toBe(EXPECTED(i));
      expect(call(other, vcpu, i), `program ${i}`).toBe(EXPECTED(i));
    }
    expect(m.cpu.translated(m.code).region_drops).toBeGreaterThan(1);
    expect(linked.length).toBeGreaterThan(PROGRAMS / 2);
    for (let i = 0; i < PROGRAMS; i++) expect(call(other, vcpu, i), `again ${i}`).toBe(EXPECTED(i));
  });
});

describe('a VM that boots', () => {
  let clock = 0;
  beforeEach(() => {
    clock = 1000;
    vi.spyOn(performance, 'now').mockImplementation(() => clock);
  });
  afterEach(() => vi.restoreAllMocks());

  test('has regions that start soon, and links them anew once it has run for a while', () => {
    const soon: number[] = [];
    const compile = (wasm: Uint8Array<ArrayBuffer>) => {
      soon.push(wasm.length);
      return new WebAssembly.Module(wasm);
    };
    const m = new FlatMachine({ module, batch: 1, compile });
    load(m);
    const links = vi.spyOn(Linker.prototype, 'link');
    const all = () => Array.from({ length: PROGRAMS }, (_, i) => call(m.cpu, m.vcpu, i));
    const expected = Array.from({ length: PROGRAMS }, (_, i) => EXPECTED(i));
    for (let round = 0; round < 4; round++) expect(all()).toEqual(expected);
    expect([soon.length, links.mock.calls.length]).toEqual([PROGRAMS, PROGRAMS]);
    clock += 5000;
    // It looks at the clock now and then.
    for (let round = 0; round < 10; round++) expect(all()).toEqual(expected);
    expect([soon.length, links.mock.calls.length]).toEqual([PROGRAMS, 2 * PROGRAMS]);
    expect(m.cpu.translated(m.code).regions).toBe(PROGRAMS);
  });
});
