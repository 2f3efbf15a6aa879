import { assemble } from '../assemble.ts';
import { type CpuPorts, Exit, Request } from '../interface.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from '../testing.ts';
import { AT, Privilege } from '../vcpu.ts';
import { Lockstep } from './lockstep.ts';
import { DATA_PAGES, randomCode } from './random-code-testing.ts';

// Random programs of which every place that a jump leads to becomes a region, each of whose runs is compared.

const { V, R, W, X, U, A, D } = PTE;
const CODE = 0x4000_0000n;
const DATA = 0x5000_0000n;
const ENTRIES = 0x6000_0000n;
const STACK = 0x7000_0000n;
const CODE_PAGES = 8;
const FLAGS = V | R | W | A | D;
/** The pages of the data by turns: most may be written, some fault at some access or other. */
const DATA_FLAGS = [FLAGS, FLAGS, FLAGS, V | R | A | D, FLAGS, FLAGS | U, FLAGS, FLAGS & ~D];

export type LockstepOptions = { module: WebAssembly.Module; ports?(inner: CpuPorts): CpuPorts };

export function lockstepMachine(
  seed: number,
  options: LockstepOptions,
): { m: FlatMachine; lockstep: Lockstep } {
  const lockstep = new Lockstep();
  const m = new FlatMachine({ ...options, slots: 16, batch: 1, lockstep });
  const tables = new TestTables(m);
  m.poke(RAM_BASE, assemble(randomCode(seed), Number(CODE)));
  for (let page = 0; page < CODE_PAGES; page++) {
    tables.map(CODE + BigInt(page * 4096), RAM_BASE + page * 4096, V | R | X | A);
  }
  for (let page = 0; page < DATA_PAGES; page++) {
    const frame = 16 + ((page * 5) % DATA_PAGES);
    tables.map(DATA + BigInt(page * 4096), RAM_BASE + frame * 4096, DATA_FLAGS[page % DATA_FLAGS.length]!);
  }
  tables.map(ENTRIES, Math.floor(tables.entry(DATA) / 4096) * 4096, FLAGS);
  tables.map(STACK, RAM_BASE + 15 * 4096, FLAGS);
  start(m, tables);
  return { m, lockstep };
}

function start(m: FlatMachine, tables: TestTables): void {
  m.setField(AT.satp, tables.satp);
  m.setField(AT.pc, CODE);
  m.setField(AT.stvec, CODE + 4n);
  m.setX(2, STACK + 4096n);
  m.setX(8, DATA + 2048n);
  m.setX(9, DATA + 8n);
  for (let n = 10; n < 18; n++) m.setX(n, BigInt(n) * 0x9e37_79b9_7f4a_7c15n);
  m.setX(18, DATA);
  m.setX(19, ENTRIES + BigInt(tables.entry(DATA) % 4096));
  m.arena.words[m.vcpu + AT.privilege] = Privilege.Supervisor;
  m.arena.words[m.vcpu + AT.sstatus] = 0x2000;
}

/** Runs to `count` instructions, `slice` at a time, putting up with every exit. */
export function runSome(m: FlatMachine, count: number, slice: () => number): void {
  for (let idle = 0; m.cpu.instret(m.vcpu) < count; idle++) {
    const before = m.cpu.instret(m.vcpu);
    const exit = m.cpu.run(m.vcpu, Math.min(slice(), count - before));
    if (exit === Exit.Request) m.cpu.vcpu.requests.and(m.vcpu, Request.FlushTlb);
    else if (exit === Exit.Mmio) m.cpu.completeMmio(m.vcpu, 7, 7);
    if (m.cpu.instret(m.vcpu) > before) idle = 0;
    if (idle > 1000) throw new Error(`no progress at pc ${m.field(AT.pc).toString(16)}`);
  }
}
