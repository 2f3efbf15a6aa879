import { describe, expect, test } from 'vitest';
import { assemble } from './assemble.ts';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT } from './vcpu.ts';

const module = compileInterpreter(false);
const word = (source: string) => assemble(source)[0]! | 0;

describe('self-modifying code', () => {
  test('a store to the next instruction is what executes next', () => {
    const m = new FlatMachine({ module });
    // t1 = addi a0, a0, 100; written over each of three instructions in turn, each just ahead of pc.
    m.program(`
      loop: addi a0, a0, 1
            sw t1, 12(t0)
            nop
            addi a0, a0, 2
            addi t2, t2, 1
            bne t2, t3, loop
            ecall`);
    m.setX(5, BigInt(RAM_BASE));
    m.setX(6, BigInt(word('addi a0, a0, 100')));
    m.setX(28, 3n);
    expect(m.run()).toBe(Exit.Sbi);
    expect(m.x(10)).toBe(303n);
  });

  test('a page that was written, then executed, is watched from then on', () => {
    const m = new FlatMachine({ module });
    // Writes t1 and t2 in turn to a function in another page and calls it after each.
    m.program('sw t1, 0(t0)\njalr ra, 0(t0)\nsw t2, 0(t0)\njalr ra, 0(t0)\necall');
    m.poke(RAM_BASE + 0x3000, [0, word('ret')]);
    m.setX(5, BigInt(RAM_BASE + 0x3000));
    m.setX(6, BigInt(word('addi a0, a0, 3')));
    m.setX(7, BigInt(word('addi a0, a0, 400')));
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 403n]);
  });

  test('an instruction may overwrite the one that follows it at once, of any width', () => {
    const m = new FlatMachine({ module });
    m.program('nop\nsd t1, 8(t0)\nebreak\nebreak');
    m.setX(5, BigInt(RAM_BASE));
    const two = assemble('addi a0, a0, 7\necall');
    m.setX(6, (BigInt(two[1]!) << 32n) | BigInt(two[0]!));
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 7n]);
  });

  test('an atomic that changes code counts too', () => {
    const m = new FlatMachine({ module });
    m.program('amoswap.w a1, t1, (t0)\nnop\nebreak\necall');
    m.setX(5, BigInt(RAM_BASE + 8));
    m.setX(6, BigInt(word('addi a0, a0, 9')));
    expect([m.run(), m.x(10), m.x(11)]).toEqual([Exit.Sbi, 9n, BigInt(word('ebreak'))]);
  });

  test('writing through another address of the same frame is noticed', () => {
    const m = new FlatMachine({ module });
    const tables = new TestTables(m);
    const { V, R, W, X, A, D } = PTE;
    m.program(
      'sw t1, 12(t0)\naddi t2, t2, 1\nnop\naddi a0, a0, 1\nbne t2, t3, again\necall\nagain: jal x0, -24',
    );
    tables.map(0x10000n, RAM_BASE, V | R | X | A);
    tables.map(0x7f_f000n, RAM_BASE, V | R | W | A | D);
    m.setField(AT.satp, tables.satp);
    m.setField(AT.pc, 0x10000n);
    m.setX(5, 0x7f_f000n);
    m.setX(6, BigInt(word('addi a0, a0, 50')));
    m.setX(28, 2n);
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 100n]);
  });

  test('a page that became code while its frame was zapped does not outlive the flush', () => {
    // Between resolve and the decoded page's appearance: the drop finds nothing, the request comes after.
    const m = new FlatMachine({ module });
    m.program('addi a0, a0, 1\necall');
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 1n]);
    m.cpu.vcpu.requests.or(m.vcpu, Request.FlushTlb);
    // The frame has another owner now, without a drop, and is executed again.
    m.poke(RAM_BASE, [word('addi a0, a0, 40')]);
    m.cpu.setPc(m.vcpu, RAM_BASE);
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 41n]);
  });

  test('what is dropped by others is noticed at fence.i', () => {
    const m = new FlatMachine({ module });
    // The handler of the second load stands for a device: it writes code behind the CPU's back.
    m.program('call f\nlw a1, 0(a2)\nfence.i\ncall f\necall\nf: addi a0, a0, 1\nret');
    m.setX(12, 0x1000_0000n);
    expect(m.run()).toBe(Exit.Mmio);
    m.poke(RAM_BASE + 20, [word('addi a0, a0, 40')]);
    m.cpu.dropCode(m.code, m.arena.firstFrame);
    m.cpu.completeMmio(m.vcpu, 0, 0);
    expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 41n]);
  });
});

describe('instructions across pages', () => {
  const EDGE = RAM_BASE + 0xffe;

  function crossing(source: string): FlatMachine {
    const m = new FlatMachine({ module });
    const raw = assemble(source)[0]!;
    m.program('nop');
    const half = new Uint16Array(m.arena.memory.buffer);
    half[m.byte(EDGE) / 2] = raw & 0xffff;
    half[m.byte(EDGE) / 2 + 1] = raw >>> 16;
    half[m.byte(EDGE) / 2 + 2] = 0x0073; // ecall
    half[m.byte(EDGE) / 2 + 3] = 0;
    m.cpu.setPc(m.vcpu, EDGE);
    return m;
  }

  test('execute, branch, link and count as any other', () => {
    const m = crossing('addi a0, a0, 5');
    expect([m.run(), m.x(10), m.cpu.instret(m.vcpu)]).toEqual([Exit.Sbi, 5n, 1]);
    const b = crossing('beq x0, x0, -4094');
    expect([b.run(1), b.field(AT.pc)]).toEqual([Exit.Budget, BigInt(RAM_BASE)]);
    const j = crossing('jal a0, 0x800');
    expect([j.run(1), j.field(AT.pc), j.x(10)]).toEqual([
      Exit.Budget,
      BigInt(EDGE + 0x800),
      BigInt(EDGE + 4),
    ]);
  });

  test('follow a store to either half', () => {
    // addi a0, a0, 5 is 0x00550513; with the low half 0x8593 it is addi a1, a1, 5, with the high half
    // 0x0095 addi a0, a0, 9.
    for (const [half, value, a0, a1] of [
      [0, 0x8593n, 5n, 5n],
      [1, 0x0095n, 14n, 0n],
    ] as const) {
      const m = crossing('addi a0, a0, 5');
      m.poke(RAM_BASE, assemble('sh t1, 0(t0)\njr t2'));
      expect([m.run(), m.x(10)]).toEqual([Exit.Sbi, 5n]);
      m.setX(5, BigInt(EDGE + 2 * half));
      m.setX(6, value);
      m.setX(7, BigInt(EDGE));
      m.cpu.setPc(m.vcpu, RAM_BASE);
      expect([m.run(), m.x(10), m.x(11)]).toEqual([Exit.Sbi, a0, a1]);
    }
  });

  test('fault at the second page with its address, the first unchanged', () => {
    const m = crossing('addi a0, a0, 5');
    const tables = new TestTables(m);
    const { V, R, W, X, A, D } = PTE;
    tables.map(0x10000n, RAM_BASE, V | R | X | A);
    tables.map(0x11000n, RAM_BASE + 0x1000, V | R | W | A | D);
    tables.map(0x20000n, RAM_BASE + 0x2000, V | X | A);
    m.poke(RAM_BASE + 0x2000, [0x73]);
    m.setField(AT.satp, tables.satp);
    m.setField(AT.stvec, 0x20000n);
    m.setField(AT.pc, 0x10ffen);
    expect(m.run()).toBe(Exit.Sbi);
    expect([m.field(AT.scause), m.field(AT.sepc), m.field(AT.stval)]).toEqual([12n, 0x10ffen, 0x11000n]);
  });
});

test('a program over more pages than there are slots runs through eviction', () => {
  const m = new FlatMachine({ module, slots: 8, pages: 64 });
  // Each page adds one and jumps to the next; the last begins again.
  for (let page = 0; page < 40; page++) {
    const last = page === 39;
    m.poke(
      RAM_BASE + page * 4096,
      assemble(last ? 'addi a0, a0, 1\nbeq a0, a1, 8\njr a2\necall' : 'addi a0, a0, 1\njal x0, 4092'),
    );
  }
  m.setX(11, 4000n);
  m.setX(12, BigInt(RAM_BASE));
  expect([m.run(100_000), m.x(10)]).toEqual([Exit.Sbi, 4000n]);
});
