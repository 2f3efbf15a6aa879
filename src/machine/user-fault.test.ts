import { expect, test } from 'vitest';
import { MIB, PAGE_SIZE } from '../base/units.ts';
import { assemble } from '../cpu/assemble.ts';
import type { CpuBreaks } from '../cpu/breaks.ts';
import { AT } from '../cpu/vcpu.ts';
import { load } from './boot.ts';
import { Host } from './host.ts';
import { Machine, type MachinePorts } from './machine.ts';
import { RAM_BASE } from './memory-map.ts';

// A guest, or a device of it, meets a hole that only a program of ours can fill.

const HOLE = RAM_BASE + MIB;

function machine(ports: Partial<MachinePorts> = {}, breaks: readonly string[] = []) {
  const host = Host.create({ frames: 2048, shared: false, swap: { kind: 'none' }, breaks });
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'instret', seed: 1 } as const;
  const made = new Machine(host, config, {
    ...{ console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {}, ...ports },
  });
  return made;
}

/** Runs a program at the start of RAM until it comes to a stop. */
function run(m: Machine, source: string): string {
  load(m.memory, RAM_BASE, new Uint8Array(assemble(source, RAM_BASE).buffer));
  m.host.cpu.reset(m.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  for (let i = 0; i < 100; i++) {
    const step = m.step();
    if (step !== 'ran') return step;
  }
  return 'ran';
}

/** Reads the hole, writes behind it, and ends by an SBI reset. */
const PROGRAM = `
  lui t0, 0x80100
  slli t0, t0, 32
  srli t0, t0, 32
  lw a5, 0(t0)
  lui t1, 1
  add t1, t1, t0
  sw a5, 8(t1)
  lui a7, 0x53525
  addi a7, a7, 0x354
  li a6, 0
  li a0, 0
  li a1, 0
  ecall
`;

const arm = (m: Machine): void => {
  const offset = HOLE - RAM_BASE;
  m.host.mm.madvise.advise(m.mm, m.hva + offset, 4 * PAGE_SIZE, 'userfault');
};

test('U-24 a guest that meets a hole leaves with its address, and goes on when the hole is filled in this thread', () => {
  const seen: [number, boolean][] = [];
  const m = machine({
    userFault(gpa, write) {
      seen.push([gpa, write]);
      const { madvise, access } = m.host.mm;
      madvise.advise(m.mm, m.hva + gpa - RAM_BASE, PAGE_SIZE, 'nouserfault');
      access.write32(m.mm, m.hva + gpa - RAM_BASE, 42);
      return true;
    },
  });
  arm(m);
  expect(run(m, PROGRAM)).toBe('shutdown');
  expect(seen).toEqual([
    [HOLE, false],
    [HOLE + PAGE_SIZE, true],
  ]);
  expect(m.host.mm.access.read32(m.mm, m.hva + MIB + PAGE_SIZE + 8)).toBe(42);
  m.host.mm.checkInvariants();
});

test('U-24 a hole that nobody fills ends the machine, and says where it was', () => {
  const m = machine();
  arm(m);
  expect(run(m, PROGRAM)).toBe('out-of-memory');
  expect(m.host.lastFailure()).toBe(`nobody supplies the guest's page at 0x${HOLE.toString(16)}`);
  expect(m.host.words[m.vcpu + AT.running]).toBe(0);
});

/** Pops the first of a list, and reads the hole between LR and SC; notes how often it had to try again. */
const POP = `
  lui t0, 0x80100
  slli t0, t0, 32
  srli t0, t0, 32
  lui t1, 1
  add t1, t1, t0
  li a5, -1
  again: addi a5, a5, 1
  lr.d a1, (t1)
  ld a2, 0(a1)
  ld a4, 0(t0)
  sc.d a3, a2, (t1)
  bnez a3, again
  sd a5, 8(t1)
  lui a7, 0x53525
  addi a7, a7, 0x354
  li a6, 0
  li a0, 0
  li a1, 0
  ecall
`;

test('T-UF-22, J-10 an SC fails after a user fault since the LR, and no update is lost; without the rule one is', () => {
  const rule: keyof CpuBreaks = 'keepReservation';
  const [HEAD, FIRST] = [HOLE + PAGE_SIZE, HOLE + PAGE_SIZE + 64];
  /** The head of the list at the end, and how often the guest tried again. */
  const outcome = (breaks: readonly string[]): number[] => {
    const m = machine({ userFault: gpa => popsTwo(gpa) }, breaks);
    const at = (gpa: number): number => m.hva + gpa - RAM_BASE;
    const { madvise, access } = m.host.mm;
    // Another user of the list pops the first and the second meanwhile, and puts the first back.
    const popsTwo = (gpa: number): boolean => {
      madvise.advise(m.mm, at(gpa), PAGE_SIZE, 'nouserfault');
      access.write32(m.mm, at(HEAD), 3);
      access.write32(m.mm, at(FIRST), 3);
      access.write32(m.mm, at(HEAD), FIRST);
      return true;
    };
    access.write32(m.mm, at(HEAD), FIRST);
    access.write32(m.mm, at(FIRST), 2);
    madvise.advise(m.mm, at(HOLE), PAGE_SIZE, 'userfault');
    expect(run(m, POP)).toBe('shutdown');
    m.host.mm.checkInvariants();
    return [0, 8].map(offset => access.read32(m.mm, at(HEAD + offset)));
  };
  expect(outcome([])).toEqual([3, 1]);
  expect(outcome([rule])).toEqual([2, 0]);
});

test('U-23 a device that meets a hole asks as the guest does, and fails without an answer', () => {
  let answer = true;
  const m = machine({
    userFault(gpa) {
      m.host.mm.madvise.advise(m.mm, m.hva + gpa - RAM_BASE, PAGE_SIZE, 'nouserfault');
      return answer;
    },
  });
  arm(m);
  const pin = m.memory.pin(HOLE + PAGE_SIZE - 8, 16, 'read');
  expect(typeof pin).toBe('object');
  m.memory.unpin(pin as Exclude<typeof pin, string>);
  answer = false;
  expect([m.memory.pin(HOLE + 2 * PAGE_SIZE, 8, 'write'), m.memory.failed]).toEqual(['fault', true]);
});

test('a machine that is destroyed gives back all that it had, also to another guest of the Host', () => {
  const host = Host.create({ frames: 4096, shared: false, swap: { kind: 'none' }, breaks: [] });
  const ports = { console: () => {}, monotonicMs: () => 0, epochSeconds: 0, random: () => {} };
  const config = { memoryBytes: 4 * MIB, commandLine: '', clock: 'instret', seed: 1 } as const;
  const make = () => new Machine(host, config, ports);
  const usage = () => {
    host.mm.lru.drainAll();
    return [host.mm.pageAlloc.freeFrames, host.mm.heap.used];
  };
  const live = (m: Machine) => {
    expect(run(m, PROGRAM)).toBe('shutdown');
    m.destroy();
  };
  // Records of groups are kept for the next: as many as there were at once.
  for (const m of [make(), make()]) live(m);
  const before = usage();
  const [a, b] = [make(), make()];
  live(a);
  expect(run(b, PROGRAM)).toBe('shutdown');
  live(make());
  b.destroy();
  expect(usage()).toEqual(before);
  host.mm.checkInvariants();
});
