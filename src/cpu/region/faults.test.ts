import { describe, expect, test } from 'vitest';
import { Exit } from '../interface.ts';
import { type FlatMachine, PTE, RAM_BASE, TestTables } from '../testing.ts';
import { Cause } from '../trap.ts';
import { AT, Privilege } from '../vcpu.ts';
import { MODES, type Mode, runIn } from './modes-testing.ts';

// Each kind of instruction that can trap does so in a loop that is a region: precisely, with nothing lost of what came
// before and nothing done of what comes after.

const { V, R, W, X, U, A, D } = PTE;
const CODE = 0x4000_0000n;
const HANDLER = 0x4001_0000n;
const GOOD = 0x5000_0000n;
const READ_ONLY = 0x5000_1000n;
const NOTHING = 0x5000_2000n;
const DEVICE = 0x5000_3000n;
const FLOAT_ON = 0x2000;
const ROUNDS = 60;

type Case = { instruction: string; at?: bigint; cause: number; tval?: bigint; float?: number; frm?: number };

const USER_CASES: Case[] = [
  ...['lb', 'lhu', 'lw', 'ld'].map(op => ({
    ...{ instruction: `${op} a1, 8(a0)`, at: NOTHING, cause: Cause.LoadPage, tval: NOTHING + 8n },
  })),
  { instruction: 'ld a1, -4(a0)', at: NOTHING, cause: Cause.LoadPage, tval: NOTHING },
  { instruction: 'lw a1, 1(a0)', at: DEVICE, cause: Cause.LoadAccess, tval: DEVICE + 1n },
  ...['sb', 'sh', 'sw', 'sd'].map(op => ({
    ...{ instruction: `${op} a2, 8(a0)`, at: READ_ONLY, cause: Cause.StorePage, tval: READ_ONLY + 8n },
  })),
  { instruction: 'sd a2, -4(a0)', at: READ_ONLY, cause: Cause.StorePage, tval: READ_ONLY },
  { instruction: 'fld f1, 0(a0)', at: NOTHING, cause: Cause.LoadPage, tval: NOTHING },
  { instruction: 'fsw f1, 0(a0)', at: READ_ONLY, cause: Cause.StorePage, tval: READ_ONLY },
  { instruction: 'lr.w a1, (a0)', at: GOOD + 2n, cause: Cause.LoadMisaligned, tval: GOOD + 2n },
  { instruction: 'lr.d a1, (a0)', at: NOTHING, cause: Cause.LoadPage, tval: NOTHING },
  { instruction: 'sc.d a1, a2, (a0)', at: READ_ONLY, cause: Cause.StorePage, tval: READ_ONLY },
  { instruction: 'amoadd.d a1, a2, (a0)', at: GOOD + 4n, cause: Cause.StoreMisaligned, tval: GOOD + 4n },
  { instruction: 'amomax.w a1, a2, (a0)', at: READ_ONLY, cause: Cause.StorePage, tval: READ_ONLY },
  { instruction: 'amoswap.w a1, a2, (a0)', at: DEVICE, cause: Cause.StoreAccess, tval: DEVICE },
  { instruction: 'fadd.d f1, f2, f3', cause: Cause.Illegal, float: 0 },
  { instruction: 'fld f1, 0(a0)', at: GOOD, cause: Cause.Illegal, float: 0 },
  { instruction: 'fmv.x.d a1, f1', cause: Cause.Illegal, float: 0 },
  ...['fmul.s f1, f2, f3', 'fcvt.wu.d a1, f1', 'fcvt.s.l f1, a2', 'fcvt.d.s f1, f2'].map(instruction => ({
    ...{ instruction, cause: Cause.Illegal, frm: 5 },
  })),
  { instruction: 'csrr a1, sscratch', cause: Cause.Illegal },
  { instruction: 'csrrsi a1, sstatus, 2', cause: Cause.Illegal },
  { instruction: 'csrrw a1, instret, a2', cause: Cause.Illegal },
  { instruction: '.word 0xffffffff', cause: Cause.Illegal },
  { instruction: 'sret', cause: Cause.Illegal },
  { instruction: 'wfi', cause: Cause.Illegal },
  { instruction: 'sfence.vma', cause: Cause.Illegal },
  { instruction: 'ebreak', cause: Cause.Breakpoint },
  { instruction: 'ecall', cause: Cause.UserEcall, tval: 0n },
  { instruction: 'jalr x0, 0(a0)', at: NOTHING, cause: Cause.FetchPage, tval: NOTHING },
  { instruction: 'jalr x0, 4(a0)', at: DEVICE, cause: Cause.FetchPage, tval: DEVICE + 4n },
];

/** What is counted before and after the instruction; a trap goes on at `resume`. */
const source = (instruction: string): string => `
  auipc s11, 0
  addi s11, s11, resume
  addi s11, s11, 4
  again: addi a2, a2, 1
  ${instruction}
  addi a3, a3, 1000
  resume: addi a4, a4, 1
  addi s0, s0, -1
  bnez s0, again
  done: j done
  handler: csrr t0, scause
  csrr t1, sepc
  csrr t2, stval
  add a6, a6, t0
  csrw sepc, s11
  sret`;
/** In instructions from the start. */
const HANDLER_AT = 10;
const TRAPS_AT = 4;

function start(mode: Mode, { instruction, at = 0n, float = FLOAT_ON, frm = 0 }: Case) {
  const run = runIn(mode);
  const { m } = run;
  const tables = new TestTables(m);
  m.program(source(instruction));
  tables.map(CODE, RAM_BASE, V | X | A | U);
  tables.map(HANDLER, RAM_BASE, V | X | A);
  tables.map(GOOD, RAM_BASE + 0x8000, V | R | W | A | D | U);
  tables.map(READ_ONLY, RAM_BASE + 0x9000, V | R | A | D | U);
  tables.map(DEVICE, 0x1000_0000, V | R | W | A | D | U);
  m.setField(AT.satp, tables.satp);
  m.setField(AT.stvec, HANDLER + BigInt(4 * HANDLER_AT));
  m.setField(AT.pc, CODE);
  m.setX(8, BigInt(ROUNDS));
  m.setX(10, at);
  m.arena.words[m.vcpu + AT.privilege] = Privilege.User;
  m.arena.words[m.vcpu + AT.sstatus] = float;
  m.arena.words[m.vcpu + AT.frm] = frm;
  return run;
}

/** In slices, so that some end amid the loop. */
function finish(m: FlatMachine): void {
  for (const slice of [700, 13, 1, 600, 1000]) expect(m.run(slice)).toBe(Exit.Budget);
}

describe.each(MODES)('by %s, of each kind of instruction a trap is precise:', mode => {
  test.each(USER_CASES)('$instruction, cause $cause', c => {
    const { m, check } = start(mode, c);
    finish(m);
    const [rounds, at] = [BigInt(ROUNDS), c.at ?? 0n];
    expect({ before: m.x(12), after: m.x(13), resumed: m.x(14), causes: m.x(16) }).toEqual({
      ...{ before: rounds, after: 0n, resumed: rounds, causes: rounds * BigInt(c.cause) },
    });
    const isFetch = c.cause === Cause.FetchPage;
    expect(m.x(6)).toBe(isFetch ? (c.tval ?? at) : CODE + BigInt(4 * TRAPS_AT));
    if (c.tval !== undefined) expect(m.x(7)).toBe(c.tval);
    check();
    const plain = start('interpreter', c);
    finish(plain.m);
    expect(m.state()).toEqual(plain.m.state());
  });

  test('a load of a device leaves each time, with pc at it, and its value arrives', () => {
    const { m, check } = start(mode, { instruction: 'lhu a1, 0(a0)\nadd a5, a5, a1', at: DEVICE, cause: 0 });
    for (let n = 1n; n <= BigInt(ROUNDS); n++) {
      expect(m.run(1000)).toBe(Exit.Mmio);
      expect([m.x(12), m.field(AT.pc)]).toEqual([n, CODE + BigInt(4 * TRAPS_AT)]);
      m.cpu.completeMmio(m.vcpu, Number(n) | 0x7fff_0000, -1);
    }
    expect(m.run(1000)).toBe(Exit.Budget);
    expect(m.x(15)).toBe((BigInt(ROUNDS) * BigInt(ROUNDS + 1)) / 2n);
    check();
  });
});
