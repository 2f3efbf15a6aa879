import { beforeEach, describe, expect, test } from 'vitest';
import { FlushList, type FlushListPtr } from './flush-list.ts';
import { Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { CONTEXTS, SET_BYTES } from './tlb-layout.ts';
import { AT, Privilege, Status } from './vcpu.ts';

// The privileged manual, "Supervisor Memory-Management Fence Instruction": what outlives a change of satp, and
// which fence ends it. Tables are changed without a fence, so that a load tells whether its translation is old.

const { V, R, W, X, U, G, A, D } = PTE;
const module = compileInterpreter(false);
const CODE = 0x4000_0000n;
const HANDLER = 0x4000_1000n;
const USER_CODE = 0x4000_2000n;
const DATA = 0x5000_0000n;
const MEGA = 0x8000_0000n;
const READABLE = V | R | A | D;
/** Frames whose first words are these numbers. */
const OLD = 5;
const NEW = 6;
const frame = (page: number) => RAM_BASE + page * 4096;
const SOURCE = [
  'ld a1, 0(a0)',
  'csrw satp, a4',
  'sfence.vma',
  'sfence.vma a0',
  'sfence.vma x0, a5',
  'sfence.vma a0, a5',
  'csrw sstatus, a3',
  'sd a2, 0(a0)',
  'jr a0',
  'l: j l',
];

let m: FlatMachine;
let spaces: TestTables[];

beforeEach(() => {
  m = new FlatMachine({ module });
  m.program(SOURCE.join('\n'));
  m.poke(frame(2), Array.from(m.arena.words.subarray(m.byte(RAM_BASE) / 4, m.byte(RAM_BASE) / 4 + 1)));
  m.poke(frame(1), [0x73]);
  for (const page of [OLD, NEW]) m.poke(frame(page), [page]);
  spaces = Array.from({ length: CONTEXTS + 1 }, (_, i) => {
    const tables = new TestTables(Object.assign(Object.create(m) as FlatMachine, { pages: 64 - 8 * i }));
    tables.map(CODE, RAM_BASE, V | X | A | G);
    tables.map(HANDLER, frame(1), V | X | A | G);
    tables.map(USER_CODE, frame(2), V | X | A | U);
    return tables;
  });
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, spaces[0]!.satp);
});

const satp = (space: number, asid = space) => spaces[space]!.satp | (BigInt(asid) << 44n);

function exec(source: string): void {
  m.setField(AT.pc, CODE + 4n * BigInt(SOURCE.indexOf(source)));
  m.run(1);
}

function enter(space: number, asid = space): void {
  m.setX(14, satp(space, asid));
  exec('csrw satp, a4');
}

function fence(source: string, asid = 0, va = DATA): void {
  m.setX(10, va);
  m.setX(15, BigInt(asid));
  exec(source);
}

/** What a supervisor's load in the current space finds: OLD, NEW, or 0 when it faults. */
function load(va = DATA): number {
  m.setX(10, va);
  m.setX(11, 0n);
  exec('ld a1, 0(a0)');
  return Number(m.x(11));
}

function loadIn(space: number): number {
  enter(space);
  return load();
}

const setStatus = (status: number) => {
  m.setX(13, BigInt(status));
  exec('csrw sstatus, a3');
};

/** Maps DATA to OLD in each of some spaces, has it looked up there, and maps it to NEW. */
function renew(list: number[], flags = READABLE | U): void {
  setStatus(Status.SUM);
  for (const space of list) {
    spaces[space]!.map(DATA, frame(OLD), flags);
    expect(loadIn(space)).toBe(OLD);
    spaces[space]!.map(DATA, frame(NEW), flags);
  }
}

describe('entries of pages that are not global', () => {
  test('outlive that their address space is left', () => {
    renew([0, 1]);
    expect([loadIn(0), loadIn(1), loadIn(0)]).toEqual([OLD, OLD, OLD]);
  });

  test('are not seen by another space, with another ASID or another root', () => {
    renew([0]);
    spaces[1]!.map(DATA, frame(NEW), READABLE | U);
    for (const asid of [0, 1]) {
      enter(1, asid);
      expect(load()).toBe(NEW);
    }
    enter(0, 7);
    expect(load()).toBe(NEW);
  });

  test('of a user are kept apart too', () => {
    const user = (space: number) => {
      enter(space);
      m.arena.words[m.vcpu + AT.privilege] = Privilege.User;
      // What sret does, without a fence.
      const kept = m.arena.words[m.vcpu + AT.tlbBase]!;
      m.arena.words[m.vcpu + AT.tlbBase] =
        kept - m.arena.words[m.vcpu + AT.tlbBorrow]! + m.arena.words[m.vcpu + AT.tlbSum]! - SET_BYTES;
      m.arena.words[m.vcpu + AT.tlbBorrow] = 0;
      m.setX(10, DATA);
      m.setField(AT.pc, USER_CODE);
      m.run(1);
      const found = Number(m.x(11));
      m.arena.words[m.vcpu + AT.privilege] = Privilege.Supervisor;
      m.arena.words[m.vcpu + AT.tlbBase] = kept;
      return found;
    };
    spaces[0]!.map(DATA, frame(OLD), READABLE | U);
    spaces[1]!.map(DATA, frame(NEW), READABLE | U);
    expect([user(0), user(1), user(0)]).toEqual([OLD, NEW, OLD]);
    spaces[0]!.map(DATA, frame(NEW), READABLE | U);
    expect([user(1), user(0)]).toEqual([NEW, OLD]);
    fence('sfence.vma x0, a5', 0);
    expect(user(0)).toBe(NEW);
  });

  test('go, when there are more spaces than contexts, with the space that was longest away', () => {
    const all = spaces.map((_, i) => i);
    renew(all);
    // The last took the place of the first.
    expect(all.slice(1).map(loadIn)).toEqual(all.slice(1).map(() => OLD));
    expect(loadIn(0)).toBe(NEW);
    expect([loadIn(2), loadIn(1)]).toEqual([OLD, NEW]);
  });

  test('of the supervisor itself go when the space is left, and global ones stay', () => {
    spaces[0]!.map(DATA, frame(OLD), READABLE);
    spaces[0]!.map(DATA + 0x1000n, frame(OLD), READABLE | G);
    expect([load(), load(DATA + 0x1000n)]).toEqual([OLD, OLD]);
    spaces[1]!.map(DATA, frame(NEW), READABLE);
    expect(loadIn(1)).toBe(NEW);
    spaces[0]!.map(DATA, frame(NEW), READABLE);
    expect(loadIn(0)).toBe(NEW);
  });
});

describe('sfence.vma', () => {
  test('of an ASID ends the entries of its space, wherever the hart is, and no others', () => {
    for (const at of [0, 1, 2]) {
      renew([0, 1]);
      enter(at);
      fence('sfence.vma x0, a5', 1);
      expect([loadIn(0), loadIn(1)]).toEqual([OLD, NEW]);
      fence('sfence.vma');
    }
  });

  test('of an ASID ends the entries of every root that it was used with', () => {
    setStatus(Status.SUM);
    for (const space of [0, 1]) {
      spaces[space]!.map(DATA, frame(OLD), READABLE | U);
      enter(space, 3);
      expect(load()).toBe(OLD);
      spaces[space]!.map(DATA, frame(NEW), READABLE | U);
    }
    fence('sfence.vma x0, a5', 3);
    for (const space of [0, 1]) {
      enter(space, 3);
      expect(load()).toBe(NEW);
    }
  });

  test('of an address and an ASID ends that page there, and no other', () => {
    renew([0, 1]);
    enter(2);
    fence('sfence.vma a0, a5', 1, DATA + 0x1000n);
    expect(loadIn(1)).toBe(OLD);
    enter(2);
    fence('sfence.vma a0, a5', 1);
    expect([loadIn(0), loadIn(1)]).toEqual([OLD, NEW]);
  });

  test('of an address ends its page in every space, and of everything all', () => {
    for (const source of ['sfence.vma a0', 'sfence.vma']) {
      renew([0, 1, 2]);
      fence(source);
      expect([loadIn(0), loadIn(1), loadIn(2)]).toEqual([NEW, NEW, NEW]);
      fence('sfence.vma');
    }
  });

  test('of an address in a superpage ends all of it in every space', () => {
    setStatus(Status.SUM);
    for (const space of [0, 1]) {
      spaces[space]!.map(MEGA, RAM_BASE, READABLE | U, 1);
      enter(space);
      expect(load(MEGA + BigInt(OLD * 4096))).toBe(OLD);
      spaces[space]!.write(spaces[space]!.entry(MEGA, 1), 0, 0);
    }
    fence('sfence.vma a0', 0, MEGA + 0x1f_f000n);
    for (const space of [0, 1]) {
      enter(space);
      expect(load(MEGA + BigInt(OLD * 4096))).toBe(0);
    }
  });

  test('with an ASID leaves global pages; without one it ends them', () => {
    spaces[0]!.map(DATA, frame(OLD), READABLE | G);
    expect(load()).toBe(OLD);
    spaces[0]!.map(DATA, frame(NEW), READABLE | G);
    fence('sfence.vma x0, a5', 0);
    expect(load()).toBe(OLD);
    fence('sfence.vma');
    expect(load()).toBe(NEW);
  });
});

test('a change of MXR or of the mode ends the entries of every space', () => {
  for (const change of [() => setStatus(Status.SUM | Status.MXR), () => bare()]) {
    renew([0, 1]);
    change();
    expect([loadIn(0), loadIn(1)]).toEqual([NEW, NEW]);
    fence('sfence.vma');
    setStatus(Status.SUM);
  }
});

/** To satp 0 and back; CODE is not RAM then, so by the record. */
function bare(): void {
  spaces[2]!.map(CODE, RAM_BASE, V | X | A | G);
  m.setX(14, 0n);
  exec('csrw satp, a4');
  m.setX(14, satp(0));
  m.setField(AT.pc, BigInt(RAM_BASE) + 4n);
  m.run(1);
}

describe('whatever space the hart is in, all are covered', () => {
  test('J-7: by a flush of everything and by one that names the frame', () => {
    const list = new FlushList(m.arena.words);
    const at = (m.byte(frame(10)) / 4) as FlushListPtr;
    list.join(at, m.vcpu);
    for (const request of [Request.FlushTlb, Request.FlushPages]) {
      renew([0, 1]);
      enter(2);
      if (request === Request.FlushPages) list.add(at, m.byte(frame(OLD)) / 4096);
      m.cpu.vcpu.requests.or(m.vcpu, request);
      exec('l: j l');
      expect([loadIn(0), loadIn(1)]).toEqual([NEW, NEW]);
      fence('sfence.vma');
    }
  });

  test('3: when a frame becomes code, by the drop of what writes to it', () => {
    setStatus(Status.SUM);
    for (const space of [0, 1]) {
      spaces[space]!.map(DATA, frame(7), READABLE | W | U);
      enter(space);
      m.setX(10, DATA);
      m.setX(12, 0x6fn);
      exec('sd a2, 0(a0)');
    }
    enter(2);
    spaces[2]!.map(DATA, frame(7), V | X | A);
    m.setX(10, DATA);
    m.setField(AT.pc, CODE + 4n * BigInt(SOURCE.indexOf('jr a0')));
    m.run(2);
    expect(m.field(AT.pc)).toBe(DATA);
    // addi a6, a6, 1, then to itself: by a store from another space than the one that decoded it.
    enter(1);
    m.setX(10, DATA);
    m.setX(12, (0x6fn << 32n) | 0x00180813n);
    exec('sd a2, 0(a0)');
    enter(2);
    m.setX(10, DATA);
    m.setField(AT.pc, CODE + 4n * BigInt(SOURCE.indexOf('jr a0')));
    m.run(3);
    expect(m.x(16)).toBe(1n);
  });
});
