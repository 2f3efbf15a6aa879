import { beforeEach, describe, expect, test } from 'vitest';
import { FlushList, type FlushListPtr } from './flush-list.ts';
import { type CpuPorts, Exit, Miss, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { MICRO_BYTES, MICRO_READ, MICRO_WRITE, SET_BYTES, TlbSet } from './tlb-layout.ts';
import { AT, Privilege, Status } from './vcpu.ts';

const { V, R, W, X, U, G, A, D } = PTE;
const module = compileInterpreter(false);
const CODE = 0x4000_0000n;
const HANDLER = 0x4000_1000n;
const DATA = 0x4000_2000n;
/** Takes the place of DATA's entry in the TLB, and leaves the micro entries alone. */
const RIVAL = DATA + 0x40_0000n;
const FRAME = RAM_BASE + 0x8000;
const OTHER = RAM_BASE + 0x9000;
const RW = V | R | W | A | D;
const LEFT = 77;

let m: FlatMachine;
let tables: TestTables;

/** A supervisor that has begun to run at CODE; a trap would go to HANDLER. */
function start(source = 'l: j l', ports?: (inner: CpuPorts) => CpuPorts): void {
  m = new FlatMachine({ module, ...(ports === undefined ? {} : { ports }) });
  tables = new TestTables(m);
  m.program(source);
  tables.map(CODE, RAM_BASE, V | X | A | G);
  m.poke(RAM_BASE + 0x1000, [0x73]);
  tables.map(HANDLER, RAM_BASE + 0x1000, V | X | A | G);
  tables.map(DATA, FRAME, RW);
  tables.map(RIVAL, OTHER, RW);
  m.setField(AT.pc, CODE);
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, tables.satp);
  m.run(1);
}

type Kind = 'read' | 'write';
const KINDS: Kind[] = ['read', 'write'];
const offset = (kind: Kind, register: number) => (kind === 'read' ? MICRO_READ : MICRO_WRITE) + 16 * register;

function fill(kind: Kind, va: bigint, bytes = 8, register = 5): number {
  const { fillRead, fillWrite } = m.cpu.fills;
  return (kind === 'read' ? fillRead : fillWrite)(m.vcpu * 4, offset(kind, register), va, bytes, LEFT);
}

/** The page that a micro entry of a set is of, or -1. */
function micro(kind: Kind, set: number = TlbSet.Supervisor, register = 5): bigint {
  const at = m.arena.words[m.vcpu + AT.tlb]! + (set * SET_BYTES + offset(kind, register)) / 4;
  return m.arena.words[at] === -1 ? -1n : BigInt(m.arena.words[at]! >>> 0);
}

const select = (privilege: number, status = 0) => {
  m.arena.words[m.vcpu + AT.privilege] = privilege;
  m.arena.words[m.vcpu + AT.sstatus] = status;
  // From outside `run`, the way to have the base pointer follow.
  m.cpu.flushTlb(m.vcpu);
};

describe('a fill', () => {
  beforeEach(() => start());

  test('is the address of the access and makes the entry that the register names, and no other', () => {
    for (const kind of KINDS) {
      expect(fill(kind, DATA + 16n)).toBe(m.byte(FRAME) + 16);
      expect([micro(kind), micro(kind, TlbSet.Supervisor, 4)]).toEqual([DATA, -1n]);
      const at = (m.arena.words[m.vcpu + AT.tlbBase]! + offset(kind, 5)) / 4;
      expect(Number(DATA) + m.arena.words[at + 2]!).toBe(m.byte(FRAME));
    }
  });

  test('of a misaligned access within the page has an address and leaves the entry as it is', () => {
    fill('read', RIVAL);
    expect(fill('read', DATA + 0xff7n)).toBe(m.byte(FRAME) + 0xff7);
    expect(micro('read')).toBe(RIVAL);
  });

  test('that would leave the page is 0, even when the page is there', () => {
    fill('read', DATA);
    expect(fill('read', DATA + 0xff9n)).toBe(0);
    expect(fill('read', DATA + 0xffen, 4)).toBe(0);
    expect(fill('read', DATA + 0xffcn, 4)).toBe(m.byte(FRAME) + 0xffc);
  });

  test('where nothing may be read or written is 0, and nothing trapped', () => {
    tables.map(DATA + 0x1000n, OTHER, V | R | A);
    const before = m.state();
    expect(fill('read', DATA + 0x5000n)).toBe(0);
    expect(fill('write', DATA + 0x1000n)).toBe(0);
    expect(fill('read', 1n << 50n)).toBe(0);
    expect(m.state()).toEqual(before);
    expect([m.field(AT.scause), m.arena.words[m.vcpu + AT.unretired]]).toEqual([0n, 0]);
    expect([micro('read'), micro('write')]).toEqual([-1n, -1n]);
  });

  test('of a device is 0', () => {
    tables.map(DATA + 0x1000n, 0x1000_0000, RW);
    expect([fill('read', DATA + 0x1000n), fill('write', DATA + 0x1000n)]).toEqual([0, 0]);
  });

  test('to write a frame with decoded code is 0 and leaves the code to be dropped by the interpreter', () => {
    tables.map(DATA, RAM_BASE, RW);
    expect([fill('write', DATA), micro('write')]).toEqual([0, -1n]);
    expect(fill('read', DATA)).toBe(m.byte(RAM_BASE));
  });

  test('with SUM finds what the supervisor has without it', () => {
    fill('read', DATA);
    m.arena.words[m.vcpu + AT.tlbBase]! += 2 * SET_BYTES;
    m.arena.words[m.vcpu + AT.tlbBorrow] = 2 * SET_BYTES;
    tables.map(DATA, 0, 0);
    expect(fill('read', DATA)).toBe(m.byte(FRAME));
    expect(micro('read', TlbSet.SupervisorSum)).toBe(DATA);
  });
});

describe('while the page is looked up', () => {
  const target = FRAME / 4096;

  test('instret counts what the caller says is left', () => {
    const seen: number[] = [];
    start('l: j l', inner => ({
      ...inner,
      resolve(vcpu, gfn, access) {
        if (gfn === target) seen.push(m.cpu.instret(vcpu) + m.arena.words[vcpu + AT.left]!);
        return inner.resolve(vcpu, gfn, access);
      },
    }));
    const before = m.cpu.instret(m.vcpu);
    m.arena.words[m.vcpu + AT.budget] = 100;
    fill('read', DATA);
    expect(seen).toEqual([before + 100]);
    expect(m.arena.words[m.vcpu + AT.left]).toBe(LEFT);
  });

  /** Runs a fill during whose lookup `event` happens; its result, and the exit that is recorded. */
  function during(event: () => void, result?: number): [number, bigint, number] {
    start('l: j l', inner => ({
      ...inner,
      resolve(vcpu, gfn, access) {
        if (gfn !== target) return inner.resolve(vcpu, gfn, access);
        event();
        return result ?? inner.resolve(vcpu, gfn, access);
      },
    }));
    m.arena.words[m.vcpu + AT.leave] = 0;
    return [fill('read', DATA), micro('read'), m.arena.words[m.vcpu + AT.leave]! - 1];
  }
  const ask = (request: number) => () => void m.cpu.vcpu.requests.or(m.vcpu, request);

  test('J-8: a flush is served and its result is not used', () => {
    for (const request of [Request.FlushTlb, Request.FlushPages]) {
      expect(during(ask(request))).toEqual([0, -1n, -1]);
      expect(m.cpu.vcpu.requests.load(m.vcpu)).toBe(0);
    }
  });

  test('a request to leave is recorded as the exit', () => {
    expect(during(ask(Request.Pause))).toEqual([0, -1n, Exit.Request]);
  });

  test('K-31: a page that is on its way is an exit at once, as its ticket has been handed out', () => {
    expect(during(() => {}, Miss.Blocked)).toEqual([0, -1n, Exit.Blocked]);
  });

  test('memory that is not to be had is left to the interpreter', () => {
    expect(during(() => {}, Miss.Fault)).toEqual([0, -1n, -1]);
  });
});

describe('J-7: micro entries go with what they are copies of, even when that has been replaced', () => {
  /** Micro entries of DATA, whose own entries are gone to RIVAL. */
  function orphans(): void {
    for (const kind of KINDS) {
      fill(kind, DATA);
      fill(kind, RIVAL, 8, 6);
    }
    expect(KINDS.map(kind => micro(kind))).toEqual([DATA, DATA]);
  }
  const left = () => KINDS.map(kind => micro(kind));

  beforeEach(() => {
    start('sfence.vma a0\nsfence.vma\ncsrw satp, a2\nl: j l');
    m.setX(10, DATA);
    orphans();
  });

  test('at a flush request', () => {
    m.cpu.vcpu.requests.or(m.vcpu, Request.FlushTlb);
    m.setField(AT.pc, CODE + 12n);
    m.run(1);
    expect(left()).toEqual([-1n, -1n]);
  });

  test('when their frames are dropped, and only then', () => {
    const list = new FlushList(m.arena.words);
    const at = (m.byte(RAM_BASE) / 4 + 40 * 1024) as FlushListPtr;
    list.join(at, m.vcpu);
    const drop = (gpa: number) => {
      list.add(at, m.byte(gpa) / 4096);
      m.cpu.vcpu.requests.or(m.vcpu, Request.FlushPages);
      m.setField(AT.pc, CODE + 12n);
      m.run(1);
    };
    drop(OTHER);
    expect([...left(), micro('read', TlbSet.Supervisor, 6)]).toEqual([DATA, DATA, -1n]);
    drop(FRAME);
    expect(left()).toEqual([-1n, -1n]);
  });

  test('at sfence.vma of their page, and of everything', () => {
    for (const at of [CODE, CODE + 4n]) {
      orphans();
      m.setField(AT.pc, at);
      m.run(1);
      expect(left()).toEqual([-1n, -1n]);
    }
  });

  test('at a change of address space', () => {
    m.setX(12, tables.satp | (1n << 44n));
    m.setField(AT.pc, CODE + 8n);
    m.run(1);
    expect(left()).toEqual([-1n, -1n]);
  });

  test('of a user and of SUM too', () => {
    tables.map(DATA, FRAME, RW | U);
    for (const [set, privilege, status] of [
      [TlbSet.User, Privilege.User, 0],
      [TlbSet.SupervisorSum, Privilege.Supervisor, Status.SUM],
    ] as const) {
      select(privilege, status);
      fill('read', DATA);
      expect(micro('read', set)).toBe(DATA);
      select(Privilege.Supervisor);
      m.setField(AT.pc, CODE);
      m.run(1);
      expect(micro('read', set)).toBe(-1n);
    }
  });

  test('and those that write, when code is decoded from their frame', () => {
    tables.map(DATA + 0x1000n, FRAME, V | X | A);
    m.poke(FRAME, [0x6f]);
    m.setField(AT.pc, DATA + 0x1000n);
    m.run(1);
    expect(left()).toEqual([DATA, -1n]);
  });

  test('every part of a set has its own words', () => {
    expect([MICRO_WRITE - MICRO_READ, SET_BYTES - MICRO_WRITE]).toEqual([MICRO_BYTES, MICRO_BYTES]);
  });
});
