import { beforeEach, describe, expect, test } from 'vitest';
import { type Events, readEvents } from './counters.ts';
import { Exit } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT } from './vcpu.ts';

const { V, R, W, X, G, A, D } = PTE;
const MODULES = { interpreter: compileInterpreter(false), regions: compileInterpreter(false, true, 2) };
const CODE = 0x4000_0000n;
const HANDLER = 0x4000_1000n;
const DATA = 0x4000_2000n;
/** Has its own place in the TLB, beside DATA's. */
const BESIDE = 0x4000_3000n;
/** Has DATA's place in the TLB. */
const RIVAL = DATA + 0x40_0000n;
const RW = V | R | W | A | D;
const NONE: Events = {
  region_exits_lookup: 0,
  region_exits_interpret: 0,
  interpreter_calls: 0,
  tlb_fills: 0,
  tlb_misses: 0,
  tlb_asked: 0,
};

let m: FlatMachine;

/** A supervisor in an address space where traps end at an ecall. */
function start(mode: keyof typeof MODULES, source: string): void {
  m = new FlatMachine({ module: MODULES[mode], batch: mode === 'regions' ? 1 : 0 });
  const tables = new TestTables(m);
  m.program(source);
  m.poke(RAM_BASE + 0x1000, [0x73]);
  tables.map(CODE, RAM_BASE, V | X | A | G);
  tables.map(HANDLER, RAM_BASE + 0x1000, V | X | A | G);
  tables.map(DATA, RAM_BASE + 0x8000, RW);
  tables.map(BESIDE, RAM_BASE + 0x9000, RW);
  tables.map(RIVAL, RAM_BASE + 0xa000, RW);
  m.setField(AT.pc, CODE);
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, tables.satp);
}

/** What is counted during `work`. */
function counted(work: () => void): Events {
  const before = m.cpu.events(m.vcpu);
  work();
  const after = m.cpu.events(m.vcpu);
  for (const name of Object.keys(after) as (keyof Events)[]) after[name] -= before[name];
  return after;
}

/** Executes the instruction at CODE, in memory and TLB already, with `ea` in a0. */
const step = (ea: bigint) =>
  counted(() => {
    m.setX(10, ea);
    m.setField(AT.pc, CODE);
    m.run(1);
  });

describe('the interpreter', () => {
  const CALL = { ...NONE, interpreter_calls: 1 };
  beforeEach(() => start('interpreter', 'ld a1, 0(a0)\nl: j l'));

  test('counts the fetch from a page that it had not, and nothing where it has the page', () => {
    const run = (instructions: number) => counted(() => m.run(instructions));
    m.setField(AT.pc, CODE + 4n);
    expect(run(1)).toEqual({ ...CALL, tlb_misses: 1, tlb_asked: 1 });
    expect(run(1000)).toEqual(CALL);
  });

  test('counts a page that it had not, and asks only for what no table or host entry tells', () => {
    step(BESIDE);
    expect(step(DATA)).toEqual({ ...CALL, tlb_misses: 1, tlb_asked: 1 });
    expect(step(DATA + 8n)).toEqual(CALL);
    expect(step(RIVAL)).toEqual({ ...CALL, tlb_misses: 1, tlb_asked: 1 });
    expect(step(DATA)).toEqual({ ...CALL, tlb_misses: 1 });
    expect(step(RIVAL)).toEqual({ ...CALL, tlb_misses: 1 });
    expect(step(BESIDE)).toEqual(CALL);
  });

  test('counts no misaligned access to a page that it has', () => {
    step(DATA);
    expect(step(DATA + 1n)).toEqual(CALL);
  });

  test('counts a page fault as a page that was missed and asked for', () => {
    step(DATA);
    expect(step(DATA + 0x10_0000n)).toEqual({ ...CALL, tlb_misses: 1, tlb_asked: 1 });
    expect(m.field(AT.scause)).toBe(13n);
  });
});

describe('a region', () => {
  const LOOPS = 100;
  /** By one base register to a0 and, a3 being other than 0, in turn to a0 ^ a3; then out. */
  const LOOP = `
    l: ld a1, 0(a0)
       xor a0, a0, a3
       addi a2, a2, -1
       bnez a2, l
       ecall`;
  const loop = (ea: bigint, other: bigint) => {
    m.setX(10, ea);
    m.setX(12, BigInt(LOOPS));
    m.setX(13, ea ^ other);
    m.setField(AT.pc, CODE);
    expect(m.run()).toBe(Exit.Sbi);
  };
  /** One call of the interpreter, for the ecall. */
  const LEFT = { ...NONE, region_exits_interpret: 1, interpreter_calls: 1 };

  beforeEach(() => {
    start('regions', LOOP);
    for (const other of [BESIDE, RIVAL, DATA]) loop(DATA, other);
    expect(m.cpu.translated(m.code).regions).toBe(1);
  });

  test('counts nothing while its register stays in a page', () => {
    expect(counted(() => loop(DATA, DATA))).toEqual(LEFT);
  });

  test('counts a fill each time that its register goes to another page, though the TLB has both', () => {
    loop(DATA, BESIDE);
    expect(counted(() => loop(DATA, BESIDE))).toEqual({ ...LEFT, tlb_fills: LOOPS });
  });

  test('counts a miss with the fill where the TLB has only one of both, and asks for neither', () => {
    loop(DATA, RIVAL);
    expect(counted(() => loop(DATA, RIVAL))).toEqual({ ...LEFT, tlb_fills: LOOPS, tlb_misses: LOOPS });
  });
});

test('a count goes on beyond 32 bits, and is read whole', () => {
  start('interpreter', 'l: j l');
  m.setField(AT.interpreted, (3n << 32n) - 1n);
  expect(m.cpu.events(m.vcpu).interpreter_calls).toBe(3 * 2 ** 32 - 1);
  m.run(1);
  expect(readEvents(m.arena.words, m.vcpu).interpreter_calls).toBe(3 * 2 ** 32);
});
