import { expect } from 'vitest';
import { Random } from '../base/random.ts';
import { type CpuPorts, Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT, Privilege } from './vcpu.ts';

// Random programs in user mode under a handler that steps over every trap. They end in the same state, whatever
// holds them up.

const { V, R, W, X, U, A, D } = PTE;
/** Interpreted alone, and with every place to which a jump leads translated the second time. */
const MODES = {
  interpreter: { module: compileInterpreter(false), batch: 0 },
  regions: { module: compileInterpreter(false, true, 2), batch: 1 },
} as const;
export type Mode = keyof typeof MODES;
const CODE = 0x4000_0000n;
const DATA = 0x5000_0000n;
const DATA_PAGES = 12;

const ALU = ['add', 'sub', 'xor', 'mul', 'mulhu', 'div', 'sltu', 'sraw', 'addw', 'srl'];
const LOADS = ['lb', 'lhu', 'lw', 'ld', 'lwu'];
const STORES = ['sb', 'sh', 'sw', 'sd'];

/** A line that may do anything but loop: x8 is the data window, x20..x23 belong to the frame. */
function randomLine(r: Random, label: number): string {
  const x = () => `x${10 + r.below(8)}`;
  const offset = () => r.below(4096) - 2048;
  switch (r.below(12)) {
    case 0:
    case 1:
      return `${r.pick(LOADS)} ${x()}, ${offset()}(x8)`;
    case 2:
    case 3:
      return `${r.pick(STORES)} ${x()}, ${offset()}(x8)`;
    case 4:
      return `amoadd.d ${x()}, ${x()}, (x9)`;
    case 5:
      return `beq ${x()}, ${x()}, skip${label}\naddi x10, x10, 13\nskip${label}: nop`;
    case 6:
      return 'ecall';
    case 7:
      return r.oneIn(2) ? 'ebreak' : '.word 0xffffffff';
    case 8:
      return `fcvt.d.l f1, ${x()}\nfadd.d f2, f2, f1\nfmv.x.d ${x()}, f2`;
    case 9:
      return `bltu ${x()}, ${x()}, skip${label}\nld ${x()}, ${offset()}(x8)\nskip${label}: nop`;
    default:
      return `${r.pick(ALU)} ${x()}, ${x()}, ${x()}`;
  }
}

/** User code in a loop that walks the data pages, and a supervisor that steps over every trap. */
function source(seed: number): string {
  const r = new Random(seed);
  const body = Array.from({ length: 60 }, (_, i) => randomLine(r, i)).join('\n');
  return `
    j handler
    user: li x8, ${DATA + 0x800n}
      li x9, ${DATA}
      li x20, ${DATA_PAGES - 1}
    again: ${body}
      li x21, 4096
      add x8, x8, x21
      add x9, x9, x21
      addi x20, x20, -1
      bnez x20, again
    done: j done
    handler: csrrw x30, sscratch, x30
      csrr x30, sepc
      csrr x31, scause
      add x29, x29, x31
      addi x30, x30, 4
      csrw sepc, x30
      rdcount: csrr x28, instret
      csrr x27, time
      csrr x30, sscratch
      sret`;
}

export type Hooks = { ports?: (inner: CpuPorts) => CpuPorts; pages?: number; mode?: Mode };

export function machine(seed: number, hooks: Hooks = {}): FlatMachine {
  const { mode = 'interpreter', ...ports } = hooks;
  const m = new FlatMachine({ ...MODES[mode], slots: 16, ...ports });
  const tables = new TestTables(m);
  m.program(source(seed));
  // A frame seen by both privileges, at two addresses.
  for (let page = 0; page < 2; page++) {
    tables.map(CODE + BigInt(page * 4096), RAM_BASE + page * 4096, V | X | A | U);
    tables.map(CODE + BigInt(0x10000 + page * 4096), RAM_BASE + page * 4096, V | X | A);
  }
  for (let page = 0; page < DATA_PAGES; page++) {
    // Every fifth page faults; the pages are in no order.
    const flags = page % 5 === 4 ? V | R | A | U : V | R | W | A | D | U;
    tables.map(DATA + BigInt(page * 4096), RAM_BASE + (8 + ((page * 5) % DATA_PAGES)) * 4096, flags);
  }
  m.setField(AT.satp, tables.satp);
  m.setField(AT.stvec, CODE + 0x10000n);
  m.setField(AT.pc, CODE + 4n);
  m.arena.words[m.vcpu + AT.privilege] = Privilege.User;
  m.arena.words[m.vcpu + AT.sstatus] = 0x2000;
  return m;
}

const LENGTH = 6000;

/** Runs to LENGTH instructions, `slice` at a time, putting up with every exit. */
export function runToEnd(m: FlatMachine, slice: () => number): void {
  for (let guard = 0; m.cpu.instret(m.vcpu) < LENGTH; guard++) {
    if (guard > 40 * LENGTH) throw new Error('no progress');
    const exit = m.cpu.run(m.vcpu, Math.min(slice(), LENGTH - m.cpu.instret(m.vcpu)));
    if (exit === Exit.Request) m.cpu.vcpu.requests.and(m.vcpu, Request.FlushTlb);
    else expect([Exit.Budget, Exit.Blocked]).toContain(exit);
  }
}

/** The same, and the state at the end. */
export function finish(m: FlatMachine, slice: () => number): { record: string; memory: string } {
  runToEnd(m, slice);
  return m.state();
}
