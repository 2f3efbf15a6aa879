import { beforeEach, describe, expect, test } from 'vitest';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, permitted, RAM_BASE, TestTables } from './testing.ts';
import { AT, Privilege, Status } from './vcpu.ts';

// Sv39 with Svade: who may read, write and execute what, and what the trap says otherwise.

const { V, R, W, X, U, G, A, D } = PTE;
const module = compileInterpreter(false);
const CODE = 0x4000_0000n;
const DATA = 0x4000_2000n;
const HANDLER = 0x4000_1000n;
const DATA_PAGE = RAM_BASE + 0x8000;

let m: FlatMachine;
let tables: TestTables;

/** A program at CODE that user and supervisor can run; traps go to HANDLER, which asks the host. */
function start(source: string, privilege: number, status = 0): void {
  m = new FlatMachine({ module });
  tables = new TestTables(m);
  m.program(source);
  const user = privilege === Privilege.User ? U : 0;
  tables.map(CODE, RAM_BASE, V | X | A | user);
  m.poke(RAM_BASE + 0x1000, [0x73]); // ecall
  tables.map(HANDLER, RAM_BASE + 0x1000, V | X | A);
  m.setField(AT.pc, CODE);
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, tables.satp);
  m.arena.words[m.vcpu + AT.privilege] = privilege;
  m.arena.words[m.vcpu + AT.sstatus] = status;
  m.setX(10, DATA);
}

const outcome = () => {
  const exit = m.run(100);
  if (exit === Exit.Budget) return 'fine';
  return `${m.field(AT.scause)} at ${m.field(AT.stval).toString(16)}`;
};
const PROGRAMS = {
  read: 'ld a1, 0(a0)\nl: j l',
  write: 'sd a1, 0(a0)\nl: j l',
  exec: 'jr a0\nl: j l',
} as const;
const CAUSE = { read: 13, write: 15, exec: 12 } as const;

test('the permission matrix: every leaf, access, privilege, SUM and MXR', () => {
  const wrong: string[] = [];
  for (const kind of ['read', 'write', 'exec'] as const) {
    for (const privilege of [Privilege.User, Privilege.Supervisor]) {
      for (const status of [0, Status.SUM, Status.MXR, Status.SUM | Status.MXR]) {
        start(PROGRAMS[kind], privilege, status);
        m.poke(DATA_PAGE, [0x0000006f]); // j .
        for (let flags = 0; flags < 256; flags++) {
          tables.map(DATA, DATA_PAGE, flags);
          m.setField(AT.pc, CODE);
          m.arena.words[m.vcpu + AT.privilege] = privilege;
          m.arena.words[m.vcpu + AT.sstatus] = status;
          m.cpu.flushTlb(m.vcpu);
          const want = permitted(kind, flags, privilege, status)
            ? 'fine'
            : `${CAUSE[kind]} at ${DATA.toString(16)}`;
          const got = outcome();
          if (got !== want) wrong.push(`${kind} ${privilege} ${status} ${flags}: ${got}, not ${want}`);
        }
      }
    }
  }
  expect(wrong).toEqual([]);
});

describe('from supervisor mode', () => {
  const READABLE = V | R | A;
  beforeEach(() => start(PROGRAMS.read, Privilege.Supervisor));

  test('an address that is not canonical is a page fault', () => {
    for (const va of [1n << 38n, 1n << 39n, 0xffff_ffbf_ffff_f000n, 1n << 63n]) {
      m.setX(10, va);
      m.setField(AT.pc, CODE);
      expect(outcome()).toBe(`13 at ${va.toString(16)}`);
    }
  });

  test('superpages of both sizes translate, and misaligned ones fault', () => {
    const giga = 0xffff_ffc0_0000_0000n;
    tables.map(giga, RAM_BASE, READABLE, 2);
    m.poke(DATA_PAGE, [77]);
    m.setX(10, giga + BigInt(DATA_PAGE - RAM_BASE));
    expect([outcome(), m.x(11)]).toEqual(['fine', 77n]);
    tables.map(0x8000_0000n, RAM_BASE, READABLE, 1);
    m.setX(10, 0x8000_0000n + BigInt(DATA_PAGE - RAM_BASE));
    m.setX(11, 0n);
    m.setField(AT.pc, CODE);
    expect([outcome(), m.x(11)]).toEqual(['fine', 77n]);
    tables.map(0x8020_0000n, RAM_BASE + 0x1000, READABLE, 1);
    m.setX(10, 0x8020_0000n);
    m.setField(AT.pc, CODE);
    expect(outcome()).toBe('13 at 80200000');
  });

  test('reserved bits, and A, D or U in a pointer, are page faults', () => {
    for (const bit of [22, 28, 29, 30, 31]) {
      tables.write(tables.entry(DATA), DATA_PAGE, READABLE, 1 << bit);
      m.setField(AT.pc, CODE);
      expect(outcome()).toBe('13 at 40002000');
    }
    for (const flag of [A, D, U]) {
      start(PROGRAMS.read, Privilege.Supervisor);
      const far = 0x1_0000_0000n;
      tables.map(far, DATA_PAGE, READABLE);
      const table = Number(m.peek(tables.entry(far, 1)) >> 10n) * 4096;
      tables.write(tables.entry(far, 1), table, V | flag);
      m.setX(10, far);
      expect(outcome()).toBe('13 at 100000000');
    }
  });

  test('a page table where there is no memory is an access fault of the access', () => {
    for (const [kind, cause] of [
      ['read', 5],
      ['write', 7],
      ['exec', 1],
    ] as const) {
      start(PROGRAMS[kind], Privilege.Supervisor);
      tables.write(tables.entry(DATA, 2), 0x1000_0000, V);
      tables.map(0x8000_0000n, RAM_BASE, V | X | A, 2);
      m.setField(AT.stvec, 0x8000_1000n);
      m.setField(AT.pc, 0x8000_0000n);
      m.setX(10, DATA);
      expect(outcome()).toBe(`${cause} at 40002000`);
    }
  });

  test('entries outlive a change of the tables until sfence.vma says so', () => {
    start(
      'ld a1, 0(a0)\nsd x0, 0(a2)\nld a3, 0(a0)\nsfence.vma a0\nld a4, 0(a0)\nl: j l',
      Privilege.Supervisor,
    );
    tables.map(DATA, DATA_PAGE, READABLE);
    const window = 0x5000_0000n;
    const entry = tables.entry(DATA);
    tables.map(window, entry - (entry % 4096), V | R | W | A | D);
    m.setX(12, window + BigInt(entry % 4096));
    m.poke(DATA_PAGE, [5]);
    expect(outcome()).toBe('13 at 40002000');
    expect([m.x(11), m.x(13), m.x(14)]).toEqual([5n, 5n, 0n]);
    expect(m.field(AT.sepc)).toBe(CODE + 16n);
  });

  test('sfence.vma of an address inside a superpage drops all of it', () => {
    start('ld a1, 0(a0)\nsd x0, 0(a2)\nsfence.vma a5\nld a4, 0(a0)\nl: j l', Privilege.Supervisor);
    const mega = 0x8000_0000n;
    tables.map(mega, RAM_BASE, READABLE | G, 1);
    const window = 0x5000_0000n;
    const entry = tables.entry(mega, 1);
    tables.map(window, entry - (entry % 4096), V | R | W | A | D);
    m.setX(12, window + BigInt(entry % 4096));
    m.setX(10, mega);
    m.setX(15, mega + 0x1f_f000n);
    expect(outcome()).toBe('13 at 80000000');
  });

  test('a change of address space hides local pages and keeps global ones', () => {
    start('ld a1, 0(a0)\ncsrw satp, a2\nld a3, 0(a4)\nld a3, 0(a0)\nl: j l', Privilege.Supervisor);
    tables.map(DATA, DATA_PAGE, READABLE);
    const other = new TestTables(Object.assign(Object.create(m), { pages: m.pages - 10 }));
    other.map(CODE, RAM_BASE, V | X | A | G);
    other.map(HANDLER, RAM_BASE + 0x1000, V | X | A | G);
    other.map(0x4000_3000n, DATA_PAGE, READABLE);
    m.setX(12, other.satp | (1n << 44n));
    m.setX(14, 0x4000_3000n);
    expect(outcome()).toBe('13 at 40002000');
  });

  test('writes of other modes leave satp as it was', () => {
    start('csrw satp, a0\ncsrr a1, satp\nl: j l', Privilege.Supervisor);
    for (const mode of [1n, 9n, 10n, 15n]) {
      m.setX(10, mode << 60n);
      m.setField(AT.pc, CODE);
      expect([outcome(), m.x(11)]).toEqual(['fine', tables.satp]);
    }
  });
});

describe('accesses that straddle two pages', () => {
  const VA = DATA + 0xffdn;
  const second = DATA_PAGE + 0x3000;

  beforeEach(() => start('sd a1, 0(a0)\nld a2, 0(a0)\nlh a3, 2(a0)\nl: j l', Privilege.Supervisor));

  test('reach two frames that are not neighbours', () => {
    tables.map(DATA, DATA_PAGE, V | R | W | A | D);
    tables.map(DATA + 0x1000n, second, V | R | W | A | D);
    m.setX(10, VA);
    m.setX(11, 0x8877665544332211n);
    expect([outcome(), m.x(12), m.x(13)]).toEqual(['fine', 0x8877665544332211n, 0x4433n]);
    expect(m.peek(DATA_PAGE + 0xff8) >> 40n).toBe(0x332211n);
    expect(m.peek(second)).toBe(0x8877665544n);
  });

  test('write nothing when the second page faults, and name that page', () => {
    tables.map(DATA, DATA_PAGE, V | R | W | A | D);
    tables.map(DATA + 0x1000n, second, V | R | A);
    m.setX(10, VA);
    m.setX(11, -1n);
    const before = m.state().memory;
    expect(outcome()).toBe('15 at 40003000');
    expect(m.state().memory).toBe(before);
    expect(m.field(AT.sepc)).toBe(CODE);
  });
});

test('a flush request is served and acknowledged during a walk, and the access sees the new frame', () => {
  let moved = false;
  m = new FlatMachine({
    module,
    ports: inner => ({
      ...inner,
      resolve(vcpu, gfn, access) {
        const pfn = inner.resolve(vcpu, gfn, access);
        if (gfn !== RAM_BASE / 4096 + 9 || moved) return pfn;
        // The page moves while the vCPU looks it up.
        moved = true;
        m.cpu.vcpu.requests.or(vcpu, Request.FlushTlb);
        return pfn + 1;
      },
    }),
  });
  m.program('ld a1, 0(a0)\nl: j l');
  m.setX(10, BigInt(RAM_BASE + 0x9000));
  m.poke(RAM_BASE + 0x9000, [1]);
  m.poke(RAM_BASE + 0xa000, [2]);
  expect([m.run(50), m.x(11), m.cpu.vcpu.requests.load(m.vcpu), m.cpu.instret(m.vcpu)]).toEqual([
    0,
    1n,
    0,
    50,
  ]);
});
