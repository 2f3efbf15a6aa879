import { describe, expect, test } from 'vitest';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';
import { AT, Interrupt, mmioExit, Privilege, Status } from './vcpu.ts';

const module = compileInterpreter(false);
const UART = 0x1000_0000;
const HANDLER = BigInt(RAM_BASE + 0x1000);

/** A program whose traps land on an ecall at HANDLER. */
function machine(source: string): FlatMachine {
  const m = new FlatMachine({ module }).program(source);
  m.poke(Number(HANDLER), [0x73]);
  m.setField(AT.stvec, HANDLER);
  return m;
}

const user = (m: FlatMachine): FlatMachine => {
  m.arena.words[m.vcpu + AT.privilege] = Privilege.User;
  return m;
};

/** scause, stval and sepc less RAM_BASE, after running into the handler. */
function trapOf(m: FlatMachine): string {
  expect(m.run()).toBe(Exit.Sbi);
  expect(m.field(AT.pc)).toBe(HANDLER + 4n);
  const sepc = m.field(AT.sepc) - BigInt(RAM_BASE);
  return `${m.field(AT.scause)} tval ${m.field(AT.stval).toString(16)} at ${sepc.toString(16)}`;
}

describe('exceptions', () => {
  test('an illegal word or halfword, with its bits in stval', () => {
    expect(trapOf(machine('nop\n.word 0xffffffff'))).toBe('2 tval ffffffff at 4');
    expect(trapOf(machine('nop\n.word 0'))).toBe('2 tval 0 at 4');
    expect(trapOf(machine('.word 0x9c41'))).toBe('2 tval 9c41 at 0');
  });

  test('machine-mode CSRs and instructions do not exist', () => {
    for (const source of ['csrr a0, 0x300', 'csrr a0, 0xf14', 'csrw 0x302, a0', '.word 0x30200073']) {
      expect(trapOf(machine(source))).toMatch(/^2 tval \w+ at 0$/);
    }
  });

  test('supervisor instructions from user mode are illegal', () => {
    for (const source of [
      'sret',
      'wfi',
      'sfence.vma',
      'csrr a0, sstatus',
      'csrr a0, satp',
      'csrr a0, time',
    ]) {
      expect(trapOf(user(machine(source)))).toMatch(/^2 tval \w+ at 0$/);
    }
  });

  test('counters are readable from user mode where scounteren says so, and never writable', () => {
    const m = machine('li a0, 2\ncsrw scounteren, a0\ncsrr a2, time\ncsrw time, a0');
    m.ticks = 2 ** 40 + 5;
    expect(trapOf(m)).toMatch(/^2 tval c0151073 at c$/);
    expect(m.x(12)).toBe(2n ** 40n + 5n);
    const u = user(machine('csrr a0, time\ncsrr a1, cycle'));
    u.arena.words[u.vcpu + AT.scounteren] = 2;
    u.ticks = 7;
    expect([trapOf(u), u.x(10)]).toEqual(['2 tval c00025f3 at 4', 7n]);
  });

  test('ebreak, user ecall and their causes', () => {
    expect(trapOf(machine('nop\nebreak'))).toBe(`3 tval ${(RAM_BASE + 4).toString(16)} at 4`);
    expect(trapOf(machine('.word 0x9002'))).toBe(`3 tval ${RAM_BASE.toString(16)} at 0`);
    expect(trapOf(user(machine('nop\necall')))).toBe('8 tval 0 at 4');
  });

  test('floating point while FS is off, and with reserved rounding modes', () => {
    expect(trapOf(machine('fadd.d f1, f2, f3'))).toBe('2 tval 23170d3 at 0');
    expect(trapOf(machine('csrr a0, fcsr'))).toMatch(/^2 /);
    const on = 'li a0, 0x2000\ncsrw sstatus, a0\n';
    expect(trapOf(machine(`${on}li a0, 5\ncsrw frm, a0\nfadd.d f1, f2, f3`))).toMatch(/^2 .* at 14$/);
    expect(trapOf(machine(`${on}.word 0x023150d3`))).toMatch(/^2 .* at c$/);
  });

  test('misaligned and unreachable atomics', () => {
    const at = (address: number, op: string) =>
      trapOf(machine(`li a0, ${address}\n${op}`)).replace(/ at .*/, '');
    expect(at(RAM_BASE + 2, 'lr.w a1, (a0)')).toBe('4 tval 80000002');
    expect(at(RAM_BASE + 4, 'sc.d a1, a1, (a0)')).toBe('6 tval 80000004');
    expect(at(RAM_BASE + 4, 'amoadd.d a1, a1, (a0)')).toBe('6 tval 80000004');
    expect(at(UART, 'lr.w a1, (a0)')).toBe('5 tval 10000000');
    expect(at(UART, 'amoadd.w a1, a1, (a0)')).toBe('7 tval 10000000');
  });

  test('a jump to where no memory is faults at the target', () => {
    const m = machine(`li a0, ${UART}\njalr a1, 0(a0)`);
    expect(m.run()).toBe(Exit.Sbi);
    expect([m.field(AT.scause), m.field(AT.stval), m.field(AT.sepc)]).toEqual([1n, 0x10000000n, 0x10000000n]);
    expect(m.x(11)).toBe(BigInt(RAM_BASE + 12));
  });

  test('a handler that cannot be fetched uses the budget up instead of hanging', () => {
    const m = machine('ebreak');
    m.setField(AT.stvec, 0x10000000n);
    expect(m.run(100)).toBe(Exit.Budget);
    expect(m.cpu.instret(m.vcpu)).toBe(0);
  });
});

describe('trap entry and return', () => {
  test('the stack of privilege and interrupt enable', () => {
    const m = machine('ebreak');
    m.arena.words[m.vcpu + AT.sstatus] = Status.SIE;
    trapOf(m);
    expect(m.cpu.vcpu.sstatus.get(m.vcpu)).toBe(Status.SPP | Status.SPIE);
    m.program('csrw sepc, a0\nsret');
    m.setX(10, HANDLER | 1n);
    m.run();
    expect([m.cpu.vcpu.sstatus.get(m.vcpu), m.field(AT.sepc)]).toEqual([Status.SIE | Status.SPIE, HANDLER]);
  });

  test('sret to user mode', () => {
    const m = machine('csrw sepc, a0\nsret\nnop\necall');
    m.setX(10, BigInt(RAM_BASE + 12));
    expect(trapOf(m)).toBe('8 tval 0 at c');
    expect(m.cpu.vcpu.sstatus.get(m.vcpu) & Status.SPP).toBe(0);
  });

  test('raise enters the handler with the cause given', () => {
    const m = machine(`li a0, ${UART}\nlw a1, 0(a0)`);
    expect(m.run()).toBe(Exit.Mmio);
    m.cpu.raise(m.vcpu, 5, UART, 0);
    expect(trapOf(m)).toBe('5 tval 10000000 at 8');
  });
});

describe('interrupts', () => {
  const LOOP = 'l: addi a0, a0, 1\nj l';

  test('are taken at the start of a slice, external before software before timer', () => {
    for (const [pending, code] of [
      [0x222, 9n],
      [0x22, 1n],
      [0x20, 5n],
    ] as const) {
      const m = machine(LOOP);
      m.arena.words[m.vcpu + AT.sstatus] = Status.SIE;
      m.arena.words[m.vcpu + AT.sie] = 0x222;
      m.cpu.vcpu.pending.or(m.vcpu, pending);
      expect(m.run()).toBe(Exit.Sbi);
      expect(m.field(AT.scause)).toBe((1n << 63n) | code);
      expect(m.field(AT.sepc)).toBe(BigInt(RAM_BASE));
    }
  });

  test('a vectored stvec takes them at four times their code, exceptions at its base', () => {
    const m = machine(LOOP);
    m.setField(AT.stvec, HANDLER | 1n);
    m.poke(Number(HANDLER) + 20, [0x73]);
    m.arena.words[m.vcpu + AT.sstatus] = Status.SIE;
    m.arena.words[m.vcpu + AT.sie] = Interrupt.Timer;
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Timer);
    m.run();
    expect(m.field(AT.pc)).toBe(HANDLER + 24n);
  });

  test('wait in supervisor mode while SIE is clear, and never in user mode', () => {
    const m = machine(LOOP);
    m.arena.words[m.vcpu + AT.sie] = 0x222;
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Timer);
    expect(m.run(100)).toBe(Exit.Budget);
    user(m);
    m.cpu.flushTlb(m.vcpu);
    expect(m.run(100)).toBe(Exit.Sbi);
  });

  test('enabling them takes one before the next instruction', () => {
    const m = machine('csrsi sstatus, 2\naddi a0, a0, 1');
    m.arena.words[m.vcpu + AT.sie] = Interrupt.Software;
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Software);
    m.run();
    expect([m.x(10), m.field(AT.sepc)]).toEqual([0n, BigInt(RAM_BASE + 4)]);
  });

  test('wfi waits only when nothing enabled is pending, whatever SIE says', () => {
    const m = machine('wfi\nwfi\necall');
    m.arena.words[m.vcpu + AT.sie] = Interrupt.Timer;
    expect([m.run(), m.field(AT.pc)]).toEqual([Exit.Wfi, BigInt(RAM_BASE + 4)]);
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Timer);
    expect(m.run()).toBe(Exit.Sbi);
  });
});

describe('CSRs', () => {
  const written = (csr: string, value: bigint, first = ''): bigint => {
    const m = machine(`${first}\ncsrw ${csr}, a0\ncsrr a1, ${csr}\necall`);
    m.setX(10, value);
    m.run();
    return m.x(11);
  };

  test('keep what is writable of all ones and all zeros', () => {
    const ones = (1n << 64n) - 1n;
    const all = {
      sstatus: (1n << 63n) | (2n << 32n) | BigInt(0x2 | 0x20 | 0x100 | 0x6000 | 0xc0000),
      sie: 0x222n,
      sip: 2n,
      stvec: HANDLER,
      scounteren: 7n,
      senvcfg: 1n,
      sscratch: ones,
      sepc: ones - 1n,
      scause: ones,
      stval: ones,
      satp: 0n,
    };
    for (const [name, value] of Object.entries(all))
      expect([name, written(name, ones)]).toEqual([name, value]);
    for (const name of Object.keys(all)) {
      expect([name, written(name, 0n)]).toEqual([name, name === 'sstatus' ? 2n << 32n : 0n]);
    }
    expect(written('stvec', 0x80001005n)).toBe(0x80001005n);
  });

  test('fcsr is frm and fflags, and a write makes FS dirty', () => {
    const m = machine(
      'li a0, 0x2000\ncsrw sstatus, a0\nli a1, 0xff\ncsrw fcsr, a1\ncsrr a2, frm\ncsrr a3, fflags\ncsrr a4, sstatus\necall',
    );
    m.run();
    expect([m.x(12), m.x(13), m.x(14) >> 63n]).toEqual([7n, 31n, 1n]);
  });

  test('set and clear by register and immediate, returning the old value', () => {
    const m = machine(
      'li a0, 12\ncsrw sscratch, a0\ncsrrsi a1, sscratch, 3\ncsrrci a2, sscratch, 5\ncsrrc a3, sscratch, a0\ncsrr a4, sscratch\necall',
    );
    m.run();
    expect([11, 12, 13, 14].map(n => m.x(n))).toEqual([12n, 15n, 10n, 2n]);
  });

  test('instret counts what retired before the instruction that reads it', () => {
    const m = machine('nop\ncsrr a0, instret\nnop\ncsrr a1, cycle\necall');
    m.run();
    expect([m.x(10), m.x(11), m.cpu.instret(m.vcpu)]).toEqual([1n, 3n, 4]);
  });
});

describe('devices', () => {
  test('a load exits, and its completion extends as the instruction says', () => {
    const cases: [string, bigint][] = [
      ['lb a1, 0(a0)', 0xffff_ffff_ffff_ff81n],
      ['lbu a1, 0(a0)', 0x81n],
      ['lh a1, 0(a0)', 0xffff_ffff_ffff_8081n],
      ['lhu a1, 0(a0)', 0x8081n],
      ['lw a1, 0(a0)', 0xffff_ffff_8000_8081n],
      ['lwu a1, 0(a0)', 0x8000_8081n],
      ['ld a1, 0(a0)', 0x9000_0000_8000_8081n],
      ['.word 0x0001610c', 0x9000_0000_8000_8081n], // c.ld a1, 0(a0)
    ];
    for (const [source, value] of cases) {
      const m = machine(`li a0, ${UART + 8}\n${source}\naddi a2, a2, 1\necall`);
      expect(m.run()).toBe(Exit.Mmio);
      const exit = mmioExit(m.arena.words, m.vcpu);
      expect([exit.gpa, exit.isWrite, m.cpu.instret(m.vcpu)]).toEqual([UART + 8, false, 2]);
      m.cpu.completeMmio(m.vcpu, 0x80008081, 0x90000000);
      expect([m.run(), m.x(11), m.x(12)]).toEqual([Exit.Sbi, value, 1n]);
    }
  });

  test('a store exits with its data, and a load to x0 leaves x0 alone', () => {
    const m = machine(
      `li a0, ${UART}\nli a1, 0x123456789abcdef0\nsh a1, 2(a0)\nlw x0, 0(a0)\nmv a2, x0\necall`,
    );
    expect(m.run()).toBe(Exit.Mmio);
    expect(mmioExit(m.arena.words, m.vcpu)).toMatchObject({ gpa: UART + 2, bytes: 2, isWrite: true });
    expect(mmioExit(m.arena.words, m.vcpu).lo & 0xffff).toBe(0xdef0);
    m.cpu.completeMmio(m.vcpu, 0, 0);
    expect(m.run()).toBe(Exit.Mmio);
    m.cpu.completeMmio(m.vcpu, -1, -1);
    expect([m.run(), m.x(12), m.x(0)]).toEqual([Exit.Sbi, 0n, 0n]);
  });

  test('misaligned accesses and those half in a device are access faults', () => {
    expect(trapOf(machine(`li a0, ${UART + 2}\nlw a1, 0(a0)`))).toBe('5 tval 10000002 at 8');
    expect(trapOf(machine(`li a0, ${UART - 2}\nsw a1, 0(a0)`))).toBe('7 tval ffffffe at 8');
  });
});

test('a request ends the slice before its first instruction, a flush does not', () => {
  const m = machine('l: j l');
  m.cpu.vcpu.requests.or(m.vcpu, Request.Kick | Request.FlushTlb);
  expect([m.run(10), m.cpu.vcpu.requests.load(m.vcpu)]).toEqual([Exit.Request, Request.Kick]);
  m.cpu.vcpu.requests.and(m.vcpu, ~Request.Kick);
  m.cpu.vcpu.requests.or(m.vcpu, Request.FlushTlb);
  expect([m.run(10), m.cpu.vcpu.requests.load(m.vcpu), m.cpu.instret(m.vcpu)]).toEqual([Exit.Budget, 0, 10]);
});
