import { beforeEach, describe, expect, test, vi } from 'vitest';
import { Exit } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { OwedFences } from './owed-fences.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT, Status } from './vcpu.ts';

const module = compileInterpreter(false);
const { V, R, X, W, U, A, D, G } = PTE;
const CODE = 0x4000_0000n;
const DATA = 0x5000_0000n;
const [OURS, THEIRS, THIRD] = [7, 8, 9] as const;

let m: FlatMachine;
let tables: TestTables;
let owed: OwedFences;
beforeEach(() => {
  m = new FlatMachine({ module });
  tables = new TestTables(m);
  owed = new OwedFences(m.arena.words);
  m.program('again: csrw satp, a2\nld a1, 0(a0)\necall\nj again');
  tables.map(CODE, RAM_BASE, V | X | A | G);
  m.poke(RAM_BASE + 0x8000, [1, 0]);
  m.poke(RAM_BASE + 0x9000, [2, 0]);
  remap(0x8000);
  m.setField(AT.satp, tables.satp);
  m.setField(AT.pc, CODE);
  // Pages of the user's are what a hart keeps from one visit of a space to the next.
  m.cpu.vcpu.sstatus.set(m.vcpu, Status.SUM);
  m.cpu.flushTlb(m.vcpu);
  m.setX(10, DATA);
  expect([look(OURS), look(THEIRS)]).toEqual([1n, 1n]);
  remap(0x9000);
});

function remap(offset: number): void {
  tables.map(DATA, RAM_BASE + offset, V | R | W | U | A | D);
}

/** What the hart finds once it has entered a space; all have the same tables. */
function look(asid: number): bigint {
  m.setX(12, tables.satp | (BigInt(asid) << 44n));
  expect(m.run()).toBe(Exit.Sbi);
  return m.x(11);
}

describe('a fence of an address space that the hart is not in', () => {
  test('is left to it, and made before it comes there', () => {
    expect([look(OURS), look(THEIRS)]).toEqual([1n, 1n]);
    expect(owed.leave(m.vcpu, OURS)).toBe(true);
    expect(m.cpu.vcpu.requests.load(m.vcpu)).toBe(0);
    expect([look(THEIRS), look(OURS)]).toEqual([1n, 2n]);
  });

  test('is made though the hart goes elsewhere first', () => {
    expect(owed.leave(m.vcpu, OURS)).toBe(true);
    expect([look(THIRD), look(OURS)]).toEqual([2n, 2n]);
  });

  test('counts once, however often it is left', () => {
    for (let i = 0; i < 3; i++) expect(owed.leave(m.vcpu, OURS)).toBe(true);
    // Nobody has fenced these.
    expect([look(THEIRS), look(OURS)]).toEqual([1n, 2n]);
  });

  test('beside one of another space is of all but the one that the hart is in', () => {
    look(THIRD);
    remap(0x8000);
    expect([owed.leave(m.vcpu, OURS), owed.leave(m.vcpu, THEIRS)]).toEqual([true, true]);
    expect([look(THIRD), look(OURS), look(THEIRS)]).toEqual([2n, 1n, 1n]);
  });
});

describe('a fence of the address space that the hart is just leaving', () => {
  /** Another hart remaps and fences when this one has said where it goes, and has not looked yet what it owes. */
  function leaving(owes: readonly number[]): bigint {
    remap(0x8000);
    expect(look(OURS)).toBe(1n);
    for (const asid of owes) expect(owed.leave(m.vcpu, asid)).toBe(true);
    const { load } = Atomics;
    const loads = vi.spyOn(Atomics, 'load').mockImplementation(((words: Int32Array, at: number) => {
      if (at === m.vcpu + AT.owed && load(words, m.vcpu + AT.space) === THEIRS) {
        loads.mockRestore();
        remap(0x9000);
        expect(owed.leave(m.vcpu, OURS)).toBe(true);
      }
      return load(words, at);
    }) as typeof Atomics.load);
    look(THEIRS);
    expect(Atomics.load).toBe(load);
    return look(OURS);
  }

  test('is made', () => expect(leaving([])).toBe(2n));

  test('is made where one of another space is owed', () => expect(leaving([THIRD])).toBe(2n));
});

test('a fence of the address space that the hart is in is not left to it', () => {
  expect(owed.leave(m.vcpu, THEIRS)).toBe(false);
  look(OURS);
  expect(owed.leave(m.vcpu, OURS)).toBe(false);
});

test('a record that begins anew owes nothing, and is where its satp says', () => {
  expect(owed.leave(m.vcpu, OURS)).toBe(true);
  m.cpu.flushTlb(m.vcpu);
  expect([m.cpu.vcpu.owed.load(m.vcpu), m.cpu.vcpu.space.load(m.vcpu)]).toEqual([0, THEIRS]);
});
