import { beforeEach, describe, expect, test } from 'vitest';
import { type Fence, FenceRequests } from './fence-requests.ts';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT } from './vcpu.ts';

const module = compileInterpreter(false);
const { V, R, X, W, A, D, G } = PTE;
const CODE = 0x4000_0000n;
const DATA = 0x5000_0000n;
const ASID = 7;

let m: FlatMachine;
let tables: TestTables;
let fences: FenceRequests;
beforeEach(() => {
  m = new FlatMachine({ module });
  tables = new TestTables(m);
  fences = new FenceRequests(m.arena.words);
  m.program('again: ld a1, 0(a0)\nld a3, 0(a2)\necall\nj again');
  tables.map(CODE, RAM_BASE, V | X | A | G);
  m.poke(RAM_BASE + 0x8000, [1, 0]);
  m.poke(RAM_BASE + 0x9000, [2, 0]);
  remap(0x8000);
  m.setField(AT.satp, tables.satp | (BigInt(ASID) << 44n));
  m.setField(AT.pc, CODE);
  m.setX(10, DATA);
  m.setX(12, DATA + 0x1000n);
  expect(look()).toEqual([1n, 1n]);
  // Without a fence a hart may go by what it knows.
  remap(0x9000);
  expect(look()).toEqual([1n, 1n]);
});

/** Both pages of data in one frame. */
function remap(offset: number): void {
  tables.map(DATA, RAM_BASE + offset, V | R | W | A | D);
  tables.map(DATA + 0x1000n, RAM_BASE + offset, V | R | W | A | D);
}

/** What the hart finds in both. */
function look(): bigint[] {
  expect(m.run()).toBe(Exit.Sbi);
  expect(m.cpu.vcpu.requests.load(m.vcpu)).toBe(0);
  return [m.x(11), m.x(13)];
}

/** As another hart asks. */
function fence(start: bigint, length: number, asid?: number): number {
  const fence: Fence = { startLo: Number(start & 0xffff_ffffn), startHi: Number(start >> 32n), length, asid };
  const bit = fences.post(m.vcpu, fence);
  m.cpu.vcpu.requests.or(m.vcpu, bit);
  return bit;
}

describe('a remote fence', () => {
  test('of a range is of its pages alone, the last of which it may only touch', () => {
    fence(DATA, 4096);
    expect(look()).toEqual([2n, 1n]);
    fence(DATA + 0xff8n, 16);
    expect(look()).toEqual([2n, 2n]);
  });

  test('of an address space is of the current one, or of nothing', () => {
    fence(0n, Number.POSITIVE_INFINITY, ASID + 1);
    expect(look()).toEqual([1n, 1n]);
    fence(DATA, 8192, ASID + 1);
    expect(look()).toEqual([1n, 1n]);
    fence(0n, Number.POSITIVE_INFINITY, ASID);
    expect(look()).toEqual([2n, 2n]);
  });

  test('of everything, or of a long range, is of everything', () => {
    expect(fence(0n, Number.POSITIVE_INFINITY)).toBe(Request.FenceVma);
    expect(look()).toEqual([2n, 2n]);
    remap(0x8000);
    expect(fence(0n, 2 ** 31)).toBe(Request.FenceVma);
    expect(look()).toEqual([1n, 1n]);
  });

  test('beside another that is under way is of everything', () => {
    expect(fence(DATA, 4096)).toBe(Request.FencePages);
    expect(fence(DATA + 0x1000n, 4096)).toBe(Request.FenceVma);
    expect(look()).toEqual([2n, 2n]);
    expect(fence(DATA, 4096)).toBe(Request.FencePages);
    expect(look()).toEqual([2n, 2n]);
  });

  test('of instructions fetches what was written since', () => {
    m.poke(RAM_BASE, [0x00158593]); // addi a1, a1, 1
    m.cpu.dropCode(m.code, m.arena.firstFrame);
    m.cpu.vcpu.requests.or(m.vcpu, Request.FenceI);
    expect(look()).toEqual([2n, 1n]);
  });
});
