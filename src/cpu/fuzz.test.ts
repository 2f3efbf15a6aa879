import { expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { Exit } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, type FlatOptions, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT } from './vcpu.ts';

// Hostile input: code that is noise. It must not break us, and must mean the same however it is run: in one
// piece with warm caches, or one instruction at a time with every cache dropped in between.

const module = compileInterpreter(false);
const eager = compileInterpreter(false, true, 2);
const { V, R, W, X, U, A, D } = PTE;
const PAGES = 24;
const WINDOW = 0x4000_0000n;

/** Half noise, half instructions with noise for operands; branches and jumps mostly stay near. */
function noise(r: Random): number {
  if (r.oneIn(3)) return r.u32();
  const row = r.pick(INSTRUCTIONS);
  if (row.mask === 0) return r.u32();
  let word = row.match | (r.u32() & ~row.mask);
  if (row.format.imm === 'j') word = (word & 0xfff) | (r.below(64) << 21) | (r.below(2) << 31);
  if (row.format.imm === 'csr' && r.oneIn(2))
    word = (word & 0xfffff) | (r.pick([0x100, 0x140, 0x141, 0x105, 0x180, 2]) << 20);
  return word;
}

function machine(seed: number, mode: FlatOptions = { module, batch: 0 }): FlatMachine {
  const r = new Random(seed);
  const m = new FlatMachine({ ...mode, pages: 64, slots: 8 });
  const tables = new TestTables(m);
  for (let page = 0; page < PAGES; page++) {
    // Everything is reachable, so that most noise gets somewhere; a few pages lack something.
    const flags = r.oneIn(5) ? r.below(256) | V : V | R | W | X | A | D | (page % 2 === 0 ? U : 0);
    const frame = RAM_BASE + r.below(20) * 4096;
    tables.map(WINDOW + BigInt(page * 4096), frame, flags);
  }
  m.poke(
    RAM_BASE,
    Array.from({ length: 20 * 1024 }, () => noise(r)),
  );
  m.setField(AT.satp, r.oneIn(4) ? 0n : tables.satp);
  const pick = () =>
    (m.field(AT.satp) === 0n ? BigInt(RAM_BASE) : WINDOW) + BigInt(r.below(PAGES * 2048) * 2);
  for (let n = 1; n < 32; n++) m.setX(n, r.oneIn(6) ? BigInt(r.u32()) : pick());
  m.setField(AT.pc, pick());
  m.setField(AT.stvec, pick() & ~3n);
  m.arena.words[m.vcpu + AT.privilege] = r.below(2);
  m.arena.words[m.vcpu + AT.sstatus] = r.pick([0, 0x2000, 0x6000, 0x40000, 0x80000]);
  return m;
}

/** Runs to an exit or the end of the budget; devices answer 7. */
function segment(m: FlatMachine, budget: number, slice: number): Exit {
  let exit: Exit = Exit.Budget;
  for (let done = 0; done < budget && exit === Exit.Budget; done += slice) {
    if (slice < budget) m.cpu.flushTlb(m.vcpu);
    exit = m.cpu.run(m.vcpu, slice);
  }
  if (exit === Exit.Mmio) m.cpu.completeMmio(m.vcpu, 7, 7);
  return exit;
}

test('noise runs the same in one piece and piecewise, and breaks nothing', () => {
  let retired = 0;
  for (let seed = 1; seed <= 30; seed++) {
    const [whole, pieces] = [machine(seed), machine(seed)];
    for (let i = 0; i < 5; i++) {
      const exits = [segment(whole, 80, 80), segment(pieces, 80, 1)];
      expect(exits[1], `seed ${seed}, segment ${i}`).toBe(exits[0]);
      expect(pieces.state(), `seed ${seed}, segment ${i}`).toEqual(whole.state());
    }
    retired += whole.cpu.instret(whole.vcpu);
  }
  expect(retired).toBeGreaterThan(1500);
});

test('noise runs the same when every place to which a jump leads is translated', () => {
  let retired = 0;
  let regions = 0;
  for (let seed = 31; seed <= 70; seed++) {
    const [plain, translated] = [machine(seed), machine(seed, { module: eager, batch: 1 })];
    for (let i = 0; i < 8; i++) {
      const exits = [segment(plain, 3000, 3000), segment(translated, 3000, 3000)];
      expect(exits[1], `seed ${seed}, segment ${i}`).toBe(exits[0]);
      expect(translated.state(), `seed ${seed}, segment ${i}`).toEqual(plain.state());
    }
    retired += plain.cpu.instret(plain.vcpu);
    regions += translated.cpu.translated(translated.code).regions;
  }
  expect(retired).toBeGreaterThan(10_000);
  expect(regions).toBeGreaterThan(30);
});
