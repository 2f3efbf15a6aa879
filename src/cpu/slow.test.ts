import { describe, expect, test } from 'vitest';
import { assemble } from './assemble.ts';
import { Exit } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { type Mode, runIn } from './region/modes-testing.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';
import { AT, Interrupt, Privilege, Status } from './vcpu.ts';

// An instruction with a case of its own that slow.ts has to do after all, while what is decoded is of bytes that were
// overwritten. Without a fence.i the old instruction may execute or the new one: each whole, by its own length,
// operands and stval.

const HANDLER = RAM_BASE + 0x1000;
const STORER = RAM_BASE + 0x2000;
const WARM = RAM_BASE + 0x9000;
const MISSED = RAM_BASE + 0xa000;
const MISSED_GFN = MISSED / 4096;

const word = (source: string) => assemble(source)[0]!;
const ADD = word('addi a0, a0, 7');
/** c.addi a0, 1; c.nop */
const SHORT_ADD = 0x0001_0505;
/** c.fld fa0, 0(a2); c.nop */
const SHORT_LOAD = 0x0001_2208;
/** Lets the interrupt in that is pending; the others find FS off. */
const ENABLE = word('csrrsi t2, sstatus, 2');
const CASES = {
  'an addition, now an integer one': { old: word('fadd.s fa0, fa0, fa0'), now: ADD },
  'an addition, now a short instruction': { old: word('fadd.s fa0, fa0, fa0'), now: SHORT_ADD },
  'a short load, now a long instruction': { old: SHORT_LOAD, now: ADD },
  'a change of sstatus, now an addition': { old: ENABLE, now: ADD },
  'a change of sstatus, now a short one': { old: ENABLE, now: SHORT_ADD },
} as const;

/** Where the instruction stands, in a loop that a load is part of; `start`: where the load is. */
const PLACES = {
  'at the head of the loop': {
    lines: ['.word X', 'lw a1, 0(a2)'],
    at: RAM_BASE,
    start: RAM_BASE + 4,
    turns: 2n,
  },
  'within the loop': { lines: ['lw a1, 0(a2)', '.word X'], at: RAM_BASE + 4, start: RAM_BASE, turns: 1n },
} as const;
type Place = (typeof PLACES)[keyof typeof PLACES];

/** By a device or another process, which drops what is decoded; by a store of another hart. */
const WAYS = ['poke', 'store'] as const;
/** When the bytes change: never, before the slice, or in the midst of it, within the load. */
type When = 'never' | 'before' | 'within';

type Case = { old: number; now: number };
type Setting = { mode: Mode; place: Place; when: When; way: (typeof WAYS)[number] };

/** What the guest sees in the end. */
function outcome({ old, now }: Case, { mode, place, when, way }: Setting) {
  let onMiss = () => {};
  const { m, check } = runIn(mode, {
    ports: inner => ({
      ...inner,
      resolve: (vcpu, gfn, access) => {
        if (gfn === MISSED_GFN) onMiss();
        return inner.resolve(vcpu, gfn, access);
      },
    }),
  });
  const source = ['again:', ...place.lines, 'addi s0, s0, -1', 'bnez s0, again', 'ecall'].join('\n');
  m.program(source.replace('X', String(old)));
  m.poke(HANDLER, assemble('ecall'));
  m.setField(AT.stvec, BigInt(HANDLER));
  m.arena.words[m.vcpu + AT.sstatus] = Status.FS;
  m.setX(8, 5n);
  m.setX(12, BigInt(WARM));
  expect(m.run()).toBe(Exit.Sbi);
  check();
  // It was decoded and executed by its own case. Now it goes the slow way.
  m.arena.words[m.vcpu + AT.sstatus] = 0;
  m.arena.words[m.vcpu + AT.sie] = Interrupt.Software;
  m.arena.words[m.vcpu + AT.pending] = Interrupt.Software;
  for (const [n, value] of [
    [7, 0n],
    [8, place.turns],
    [10, 0n],
    [12, BigInt(MISSED)],
  ] as const)
    m.setX(n, value);
  m.setField(AT.f + 20, 1n);
  let missed = 0;
  const change = () => (way === 'poke' ? drop(m, place.at, now) : storeBySecond(m, place.at, now));
  onMiss = () => {
    if (missed++ === 0 && when === 'within') change();
  };
  if (when === 'before') change();
  m.cpu.setPc(m.vcpu, place.start);
  const before = m.cpu.instret(m.vcpu);
  expect(m.run()).toBe(Exit.Sbi);
  expect(missed).toBeGreaterThan(0);
  return {
    retired: m.cpu.instret(m.vcpu) - before,
    record: m.arena.words.slice(m.vcpu, m.vcpu + AT.instret).join(' '),
    status: m.arena.words[m.vcpu + AT.sstatus],
    trap: [m.field(AT.scause), m.field(AT.stval), m.field(AT.sepc)],
    a0: m.x(10),
  };
}

function drop(m: FlatMachine, at: number, now: number): void {
  m.poke(at, [now]);
  m.cpu.dropCode(m.code, m.byte(at) >>> 12);
}

function storeBySecond(m: FlatMachine, at: number, now: number): void {
  const second = m.secondCpu({ module: compiled, batch: 0 });
  m.poke(STORER, assemble('sw t1, 0(t0)\necall'));
  const vcpu = second.createVcpu(m.code);
  second.reset(vcpu, { hartId: 1, pc: STORER, a1: 0 });
  second.setX(vcpu, 5, at | 0, 0);
  second.setX(vcpu, 6, now | 0, 0);
  expect(second.run(vcpu, 100)).toBe(Exit.Sbi);
  expect(m.arena.words[m.byte(at) / 4]).toBe(now | 0);
}

const compiled = compileInterpreter(false);

describe.each(Object.entries(CASES))('%s', (_, which) => {
  describe.each(Object.entries(PLACES))('%s', (_, place) => {
    const reference = { mode: 'interpreter', place, way: 'poke' } as const;
    const old = outcome(which, { ...reference, when: 'never' });
    const renewed = outcome(which, { ...reference, when: 'before' });

    test.each(['interpreter', 'regions'] as const)('is the old one or the new one, whole: %s', mode => {
      expect(old).not.toEqual(renewed);
      expect(outcome(which, { mode, place, when: 'never', way: 'poke' })).toEqual(old);
      for (const way of WAYS) {
        expect(outcome(which, { mode, place, when: 'before', way })).toEqual(renewed);
        expect([old, renewed]).toContainEqual(outcome(which, { mode, place, when: 'within', way }));
      }
    });
  });
});

test.each([
  ['floating point that is off', Privilege.Supervisor, 'fadd.s fa0, fa1, fa2'],
  ['a CSR of the supervisor in user mode', Privilege.User, 'csrrw a0, sscratch, a1'],
])('%s is illegal with its own bits, across two pages too', (_, privilege, source) => {
  for (const at of [RAM_BASE + 8, RAM_BASE + 0xffe]) {
    const m = new FlatMachine({ module: compiled });
    const halves = new Uint16Array(m.arena.memory.buffer);
    halves.set([word(source) & 0xffff, word(source) >>> 16], m.byte(at) / 2);
    m.poke(STORER, assemble('ecall'));
    m.setField(AT.stvec, BigInt(STORER));
    m.setField(AT.pc, BigInt(at));
    m.arena.words[m.vcpu + AT.privilege] = privilege;
    expect(m.run()).toBe(Exit.Sbi);
    expect([m.field(AT.scause), m.field(AT.stval), m.field(AT.sepc)]).toEqual([
      2n,
      BigInt(word(source)),
      BigInt(at),
    ]);
  }
});
