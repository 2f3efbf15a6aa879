import { describe, expect, test } from 'vitest';
import { assemble } from '../assemble.ts';
import { Exit, Request } from '../interface.ts';
import { type FlatMachine, PTE, RAM_BASE, TestTables } from '../testing.ts';
import { AT, Interrupt } from '../vcpu.ts';
import { MODES, runIn } from './modes-testing.ts';

// Code that changes under the regions made of it, by every way that there is.

const { V, R, W, X, A, D } = PTE;
const wordOf = (line: string): number => assemble(line)[0]!;
const ONE = wordOf('addi a0, a0, 1');
const HUNDRED = wordOf('addi a0, a0, 100');

/** Registers of the loops below: s2 and s3 are what is there by turns, s4 is where; s0 counts. */
const swap = 'mv t0, s2\nmv s2, s3\nmv s3, t0';

function setUp(m: FlatMachine, words: [number, number], count: number): void {
  m.setX(18, BigInt(words[0]));
  m.setX(19, BigInt(words[1]));
  m.setX(8, BigInt(count));
}

describe.each(MODES)('by %s,', mode => {
  test('code that rewrites its own page executes what it wrote, at once after its fence.i', () => {
    const { m, check } = runIn(mode);
    m.program(`auipc s4, 0
      again: addi a1, a1, 1
      addi a0, a0, 1
      sw s3, 8(s4)
      fence.i
      ${swap}
      addi s0, s0, -1
      bnez s0, again
      ecall`);
    setUp(m, [ONE, HUNDRED], 300);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(10)).toBe(150n * 1n + 150n * 100n);
    expect(m.x(11)).toBe(300n);
    check();
  });

  test('an instruction that its predecessor rewrites is the new one', () => {
    const { m, check } = runIn(mode);
    m.program(`auipc s4, 0
      again: addi a1, a1, 1
      sw s3, 12(s4)
      addi a0, a0, 1
      ${swap}
      addi s0, s0, -1
      bnez s0, again
      ecall`);
    setUp(m, [ONE, HUNDRED], 300);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(10)).toBe(150n * 1n + 150n * 100n);
    check();
  });

  test('a pair of short instructions of which the first rewrites both goes on with the new second', () => {
    const { m, check } = runIn(mode);
    // c.sw a1, 0(a0); c.addi a2, n
    const pair = (n: number) => (0xc10c | (0x0601 << 16) | (n << 18)) >>> 0;
    m.program(`auipc a0, 0
      addi a0, a0, 12
      again: addi a3, a3, 1
      .word ${pair(1)}
      mv t0, s2\nmv s2, a1\nmv a1, t0
      addi s0, s0, -1
      bnez s0, again
      ecall`);
    m.setX(8, 300n);
    m.setX(11, BigInt(pair(2)));
    m.setX(18, BigInt(pair(1)));
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(12)).toBe(150n * 2n + 150n * 1n);
    check();
  });

  test('what another hart wrote is executed after its fence', () => {
    const told: number[] = [];
    let other: FlatMachine['vcpu'];
    const { m, check } = runIn(mode, {
      flushOthers: vcpu => {
        told.push(vcpu);
        // It is not running: one thread has both.
        m.cpu.flushTlb(vcpu === m.vcpu ? other : m.vcpu);
      },
    });
    other = m.cpu.createVcpu(m.code);
    m.cpu.reset(other, { hartId: 1, pc: RAM_BASE + 0x1000, a1: 0 });
    m.poke(RAM_BASE + 0x1000, assemble('sw a1, 0(a0)\necall'));
    m.program('again: addi a1, a1, 1\naddi a0, a0, 1\naddi s0, s0, -1\nbnez s0, again\necall\nj again');
    const write = (word: number) => {
      m.cpu.setPc(other, RAM_BASE + 0x1000);
      m.cpu.setX(other, 10, (RAM_BASE + 4) | 0, 0);
      m.cpu.setX(other, 11, word, 0);
      expect(m.cpu.run(other, 100)).toBe(Exit.Sbi);
      m.cpu.vcpu.requests.or(m.vcpu, Request.FenceI);
    };
    // Before the frame is code, so that the other hart may write to it unasked from then on.
    write(ONE);
    let sum = 0n;
    for (let round = 0; round < 6; round++) {
      setUp(m, [0, 0], 20);
      expect(m.run()).toBe(Exit.Sbi);
      sum += round % 2 === 0 ? 20n : 2000n;
      expect(m.x(10), `round ${round}`).toBe(sum);
      write(round % 2 === 0 ? HUNDRED : ONE);
    }
    expect(told).toContain(m.vcpu);
    check();
  });

  test('what DMA brought is executed once the code was dropped', () => {
    const { m, check } = runIn(mode);
    m.program('again: addi a1, a1, 1\naddi a0, a0, 1\naddi s0, s0, -1\nbnez s0, again\necall\nj again');
    let sum = 0n;
    for (let round = 0; round < 6; round++) {
      m.poke(RAM_BASE + 4, [round % 2 === 0 ? ONE : HUNDRED]);
      m.cpu.dropCode(m.code, m.arena.firstFrame);
      setUp(m, [0, 0], 20);
      expect(m.run()).toBe(Exit.Sbi);
      sum += round % 2 === 0 ? 20n : 2000n;
      expect(m.x(10), `round ${round}`).toBe(sum);
    }
    check();
  });

  test('a jump into the middle of an instruction executes what stands there', () => {
    const { m, check } = runIn(mode);
    // lui a3, 0x6050, of which the upper half is c.addi a2, 1.
    m.program(`auipc s4, 0
      again: andi t0, s0, 1
      slli t0, t0, 1
      add t0, t0, s4
      jalr x0, 20(t0)
      .word 0x060506b7
      addi s0, s0, -1
      bnez s0, again
      ecall`);
    setUp(m, [0, 0], 300);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(12)).toBe(150n);
    expect(m.x(13)).toBe(0x6050000n);
    check();
  });

  test('a guest that storms fence.i gets on, and is not translated again for it', () => {
    const { m, check } = runIn(mode);
    m.program('again: fence.i\naddi a0, a0, 1\nfence.i\naddi s0, s0, -1\nbnez s0, again\necall');
    setUp(m, [0, 0], 3000);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(10)).toBe(3000n);
    expect(m.cpu.translated(m.code).regions).toBeLessThan(10);
    check();
  });

  test('wfi with no timer leaves each time, and goes on where it stood', () => {
    const { m, check } = runIn(mode);
    m.program('again: addi a0, a0, 1\nwfi\naddi a1, a1, 1\nj again');
    for (let n = 1n; n <= 20n; n++) {
      expect(m.run(1000)).toBe(Exit.Wfi);
      expect([m.x(10), m.x(11), m.field(AT.pc)]).toEqual([n, n - 1n, BigInt(RAM_BASE + 8)]);
    }
    // An interrupt that waits ends it, taken or not.
    m.arena.words[m.vcpu + AT.sie] = Interrupt.Timer;
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Timer);
    expect(m.run(4000)).toBe(Exit.Budget);
    expect(m.x(10)).toBe(1020n);
    check();
  });
});

const CODE = 0x4000_0000n;
const DATA = 0x5000_0000n;
const ENTRIES = 0x6000_0000n;

/** Under Sv39: the program in one page, a page of data, and the entries that map both. */
function mapped(m: FlatMachine, source: string): TestTables {
  const tables = new TestTables(m);
  m.program(source);
  tables.map(CODE, RAM_BASE, V | R | X | A);
  tables.map(DATA, RAM_BASE + 0x8000, V | R | W | A | D);
  for (const [n, of] of [CODE, DATA].entries()) {
    tables.map(ENTRIES + BigInt(n * 4096), Math.floor(tables.entry(of) / 4096) * 4096, V | R | W | A | D);
  }
  m.setField(AT.satp, tables.satp);
  m.setField(AT.pc, CODE);
  m.setX(10, DATA);
  m.setX(9, ENTRIES + BigInt(tables.entry(CODE) % 4096));
  m.setX(20, ENTRIES + 4096n + BigInt(tables.entry(DATA) % 4096));
  return tables;
}

/** The low word of a leaf. */
const leaf = (gpa: number, flags: number): number => ((gpa / 4096) << 10) | flags;

describe.each(MODES)('page tables that change under a loop, by %s:', mode => {
  test('loads and stores go to the new frame after the fence', () => {
    const { m, check } = runIn(mode);
    const [here, there] = [RAM_BASE + 0x8000, RAM_BASE + 0x9000];
    mapped(
      m,
      `again: ld a1, 0(a0)
      addi a1, a1, 1
      sd a1, 0(a0)
      sw s3, 0(s4)
      sfence.vma
      ld a2, 0(a0)
      add a3, a3, a2
      ${swap}
      addi s0, s0, -1
      bnez s0, again
      ecall`,
    );
    m.poke(there, [5000]);
    const flags = V | R | W | A | D;
    setUp(m, [leaf(here, flags) >>> 0, leaf(there, flags) >>> 0], 100);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect([m.peek(here), m.peek(there)]).toEqual([50n, 5050n]);
    // What it found after each change: 5000, 1, 5001, 2 ...
    expect(m.x(13)).toBe((50n * (5000n + 5049n)) / 2n + (50n * 51n) / 2n);
    check();
  });

  test('a page whose code is mapped to another frame is that frame after the fence', () => {
    const { m, check } = runIn(mode);
    const source = (add: number) => `again: addi a1, a1, ${add}
      addi a2, a2, 1
      sw s3, 0(s1)
      sfence.vma
      ${swap}
      addi s0, s0, -1
      bnez s0, again
      ecall`;
    mapped(m, source(1));
    const other = RAM_BASE + 0x9000;
    m.poke(other, assemble(source(100), Number(CODE)));
    const flags = V | R | X | A;
    setUp(m, [leaf(RAM_BASE, flags) >>> 0, leaf(other, flags) >>> 0], 100);
    expect(m.run(100_000)).toBe(Exit.Sbi);
    expect(m.x(11)).toBe(50n * 101n);
    expect(m.x(12)).toBe(100n);
    check();
  });

  test('a page that may be written no longer faults at the store, and nothing of the loop is lost', () => {
    const { m, check } = runIn(mode);
    mapped(
      m,
      `again: addi a2, a2, 1
      sd a2, 0(a0)
      addi a3, a3, 1
      addi s0, s0, -1
      bnez s0, again
      ecall
      handler: csrr a4, scause
      sw s2, 0(s4)
      sfence.vma
      sret`,
    );
    const flags = V | R | A | D;
    const frame = RAM_BASE + 0x8000;
    m.setField(AT.stvec, CODE + 24n);
    for (let round = 1n; round <= 5n; round++) {
      setUp(m, [leaf(frame, flags | W) >>> 0, 0], 40);
      m.setField(AT.pc, CODE);
      expect(m.run()).toBe(Exit.Sbi);
      expect([m.x(12), m.x(13), m.peek(frame)]).toEqual([40n * round, 40n * round, 40n * round]);
      expect(m.x(14)).toBe(round === 1n ? 0n : 15n);
      // Taken away by the host, as another hart would.
      m.poke(Math.floor(Number(m.x(20) % 4096n)) + entriesPage(m), [leaf(frame, flags)]);
      m.cpu.vcpu.requests.or(m.vcpu, Request.FenceVma);
    }
    check();
  });
});

/** Guest physical address of the table that maps DATA. */
function entriesPage(m: FlatMachine): number {
  const root = Number(m.field(AT.satp) & 0xfff_ffff_ffffn) * 4096;
  const next = (entry: number) => (m.arena.words[m.byte(entry) / 4]! >>> 10) * 4096;
  return next(next(root + 8 * Number(DATA >> 30n)) + 8 * Number((DATA >> 21n) & 511n));
}
