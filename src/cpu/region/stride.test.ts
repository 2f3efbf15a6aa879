import { expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { Exit } from '../interface.ts';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from '../testing.ts';
import { AT } from '../vcpu.ts';

// Loops over memory by constant steps mean the same with and without translation, wherever pages end.

const module = compileInterpreter(false);
const eager = compileInterpreter(false, true, 2);
const DATA_PAGES = 9;
const PAGES = 2 + DATA_PAGES + 8;
const HANDLER = RAM_BASE + 4096;
const DATA = RAM_BASE + 2 * 4096;
const ECALL = 0x73;

const LOADS = { lb: 1, lbu: 1, lh: 2, lhu: 2, lw: 4, lwu: 4, ld: 8 } as const;
const STORES = { sb: 1, sh: 2, sw: 4, sd: 8 } as const;

/** Registers that hold where the base registers begin. */
const STARTS = 20;

/** A loop of a few accesses by up to four base registers, which each move somewhere in it. */
const loopOf = (r: Random): string => {
  const bases = [5, 6, 7, 28].slice(0, 1 + r.below(4));
  const body: string[] = [];
  for (let i = 0; i < 2 + r.below(4); i++) {
    const [table, x] = r.oneIn(2) ? [STORES, 10 + r.below(3)] : [LOADS, 10 + r.below(3)];
    const [name, bytes] = r.pick(Object.entries(table));
    // Rarely misaligned.
    const offset = (r.below(64) - 32) * bytes + (r.oneIn(8) ? 1 : 0);
    body.push(`${name} x${x}, ${offset}(x${r.pick(bases)})`, `add x${10 + r.below(3)}, x10, x11`);
  }
  for (const base of bases) {
    const step = r.pick([0, 1, 2, 4, 8, 8, 16, 24, 96, 512, -8, -4, -1, -40]);
    if (step !== 0) body.splice(r.below(body.length + 1), 0, `addi x${base}, x${base}, ${step}`);
  }
  const starts = bases.map((base, i) => `add x${base}, x${STARTS + i}, x0`);
  return `
      li x9, 3
    outer:
      ${starts.join('\n')}
      li x8, ${1 + r.below(600)}
    loop:
      ${body.join('\n')}
      addi x8, x8, -1
      bne x8, x0, loop
      addi x9, x9, -1
      bne x9, x0, outer
      ecall`;
};

/** Pages that follow each other lie apart, so that what goes beyond a page goes wrong. */
const machine = (seed: number, mode: { module: WebAssembly.Module; batch: number }) => {
  const m = new FlatMachine({ ...mode, pages: PAGES, slots: 4 });
  const r = new Random(seed);
  m.poke(
    DATA,
    Array.from({ length: DATA_PAGES * 1024 }, () => r.u32()),
  );
  m.program(loopOf(r));
  // What traps ends as well.
  m.poke(HANDLER, [ECALL]);
  const tables = new TestTables(m);
  const { V, R, W, X, A, D } = PTE;
  for (const at of [RAM_BASE, HANDLER]) tables.map(BigInt(at), at, V | R | X | A);
  for (let page = 0; page < DATA_PAGES; page++)
    tables.map(BigInt(DATA + page * 4096), DATA + ((page * 5) % DATA_PAGES) * 4096, V | R | W | A | D);
  m.setField(AT.satp, tables.satp);
  m.setField(AT.stvec, BigInt(HANDLER));
  for (let i = 0; i < 4; i++) {
    const start = BigInt(DATA + 4096 + r.below((DATA_PAGES - 3) * 4096));
    m.setX(STARTS + i, r.oneIn(6) ? start : start & -8n);
  }
  return m;
};

const toEnd = (m: FlatMachine, slice: number): Exit => {
  for (let i = 0; i < 500; i++) {
    const exit = m.run(slice);
    if (exit !== Exit.Budget) return exit;
  }
  return Exit.Budget;
};

test('loops with constant steps do what the interpreter does, in slices of any size', () => {
  let regions = 0;
  for (let seed = 1; seed <= 60; seed++) {
    const slice = [100_000, 1000, 333][seed % 3]!;
    const [plain, translated] = [
      machine(seed, { module, batch: 0 }),
      machine(seed, { module: eager, batch: 1 }),
    ];
    const exits = [toEnd(plain, 100_000), toEnd(translated, slice)];
    expect(exits[1], `seed ${seed}`).toBe(exits[0]);
    expect(translated.state(), `seed ${seed}`).toEqual(plain.state());
    expect(translated.cpu.instret(translated.vcpu)).toBe(plain.cpu.instret(plain.vcpu));
    regions += translated.cpu.translated(translated.code).regions;
  }
  expect(regions).toBeGreaterThan(60);
});
