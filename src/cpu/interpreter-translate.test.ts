import { describe, expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { Access } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, permitted, RAM_BASE, TestTables } from './testing.ts';
import { HOST_AT } from './tlb-layout.ts';
import { AT, Privilege, Status } from './vcpu.ts';

// The walk in wasm is that of mmu.ts. A machine without it is the other twin.

const { V, R, W, X, U, G, A, D } = PTE;
const walking = compileInterpreter(false);
const asking = compileInterpreter(false, false);
const CODE = 0x4000_0000n;
const HANDLER = 0x4000_1000n;
const USER_CODE = 0x4000_2000n;
/** From the end of RAM down come the tables of one address space, from here on down those of the other. */
const OTHER_SPACE = 20;
/** What is mapped lies behind the code. */
const DATA_PAGES = 4;

const ACCESSES = [
  'ld a1, 0(a0)',
  'sd a1, 0(a0)',
  'amoadd.d a1, a2, (a0)',
  'lr.w a1, (a0)',
  'lw a1, 2(a0)',
  'jr a0',
];
const SYSTEM = [
  'sfence.vma',
  'sfence.vma a0',
  'sfence.vma a0, a5',
  'csrw sstatus, a3',
  'csrw satp, a4',
  'sret',
];

/** A machine whose tables map its code for both privileges; two address spaces, with the code in both. */
function machine(module: WebAssembly.Module) {
  const m = new FlatMachine({ module });
  m.program([...ACCESSES, ...SYSTEM].join('\n'));
  m.cpu.dropCode(m.code, m.arena.firstFrame);
  m.arena.words.copyWithin(
    m.byte(RAM_BASE + 0x2000) / 4,
    m.byte(RAM_BASE) / 4,
    m.byte(RAM_BASE) / 4 + ACCESSES.length,
  );
  m.poke(RAM_BASE + 0x1000, [0x73]);
  const spaces = [0, OTHER_SPACE].map(skip => {
    const tables = new TestTables(Object.assign(Object.create(m) as FlatMachine, { pages: m.pages - skip }));
    tables.map(CODE, RAM_BASE, V | X | A | G);
    tables.map(HANDLER, RAM_BASE + 0x1000, V | X | A | G);
    tables.map(USER_CODE, RAM_BASE + 0x2000, V | X | A | U);
    return tables;
  });
  m.setField(AT.pc, CODE);
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, spaces[0]!.satp);
  return { m, spaces };
}
type Machine = ReturnType<typeof machine>;

/** Addresses that share entries and tables, by the level of their leaves. */
const ADDRESSES = [
  [0x5000_0000n, 0x5000_1000n, 0x5040_0000n],
  [0x5020_0000n, 0x8000_0000n],
  [0xffff_ffc0_0000_0000n],
] as const;

/** One thing that happens, drawn once and done to both. */
function draw(r: Random): (machine: Machine) => void {
  const level = [0, 0, 0, 1, 2][r.below(5)]!;
  const va = ADDRESSES[level]![r.below(ADDRESSES[level]!.length)]! + BigInt(8 * r.below(3));
  if (r.below(4) === 0) return drawMapping(r, va, level);
  const system = r.below(2) === 0;
  const at = system ? ACCESSES.length + r.below(SYSTEM.length) : r.below(ACCESSES.length);
  const status = [0, Status.SUM, Status.MXR, Status.SPP, Status.SUM | Status.MXR][r.below(5)]!;
  const space = r.below(2);
  const asid = r.below(2);
  return ({ m, spaces }) => {
    const user = m.arena.words[m.vcpu + AT.privilege] === Privilege.User;
    m.setX(10, va);
    m.setX(11, 5n);
    m.setX(13, BigInt(status));
    m.setX(14, spaces[space]!.satp | (BigInt(asid) << 44n));
    m.setX(15, BigInt(asid));
    m.setField(AT.sepc, USER_CODE);
    // A user that comes to where system instructions are would fault, and so be the supervisor again.
    m.setField(AT.pc, (user && !system ? USER_CODE : CODE) + 4n * BigInt(at));
    m.run(at === ACCESSES.indexOf('jr a0') ? 2 : 1);
  };
}

function drawMapping(r: Random, va: bigint, level: number): (machine: Machine) => void {
  const likely = V | R | A | D;
  let flags = likely | (r.below(16) << 2);
  if (r.below(2) === 0) flags ^= 1 << r.below(8);
  const high = r.below(20) === 0 ? 1 << (22 + r.below(10)) : 0;
  const page = 3 + r.below(DATA_PAGES);
  const misaligned = r.below(6) === 0;
  const space = r.below(2);
  return ({ spaces }) => {
    const gpa = level === 0 || misaligned ? RAM_BASE + page * 4096 : RAM_BASE;
    const tables = spaces[space]!;
    tables.write(tables.entry(va, level), gpa, flags, high);
  };
}

/** What both must agree on: the guest's state, and the TLB block up to the host's part. */
function all({ m }: Machine): string {
  const { words } = m.arena;
  const tlb = words[m.vcpu + AT.tlb]!;
  const cached: string[] = [];
  for (let i = 0; i < HOST_AT / 4; i++) {
    const word = words[tlb + i]!;
    if (word !== -1 && word !== 0) cached.push(`${i}:${word}`);
  }
  const local = words[m.vcpu + AT.tlbLocal]!;
  return JSON.stringify([m.state(), local, cached]);
}

test('what is done without callbacks and with them is the same, whatever the tables say', () => {
  for (let seed = 1; seed <= 20; seed++) {
    const r = new Random(seed);
    const both = [machine(walking), machine(asking)];
    for (let step = 0; step < 150; step++) {
      const happens = draw(r);
      for (const one of both) happens(one);
      if (step % 10 === 9) expect(all(both[0]!), `seed ${seed}, step ${step}`).toBe(all(both[1]!));
    }
  }
});

describe('without a callback', () => {
  const FLAGS = V | R | W | X | A | D;
  const DATA = RAM_BASE + 0x5000;
  const CODE_FRAME = RAM_BASE + 0x6000;
  const [DATA_VA, CODE_VA] = ADDRESSES[0];
  const KINDS = ['read', 'write', 'exec'] as const;
  let one: Machine;
  let m: FlatMachine;

  /** Executes one of the instructions, on an address. */
  function run(source: string, va: bigint = DATA_VA): void {
    m.setX(10, va);
    m.setX(11, 0x6fn);
    m.setField(AT.pc, CODE + 4n * BigInt([...ACCESSES, ...SYSTEM].indexOf(source)));
    m.run(source === 'jr a0' ? 2 : 1);
  }

  /** Whether `translate` makes the entry, which does not stay. */
  function translates(kind: number, va: bigint = DATA_VA): boolean {
    const entry = m.cpu.fills.translate(m.vcpu * 4, va, kind as Access);
    if (entry !== 0) m.arena.words[entry >>> 2] = -1;
    return entry !== 0;
  }

  function start(module = walking): void {
    one = machine(module);
    m = one.m;
    one.spaces[0]!.map(DATA_VA, DATA, FLAGS);
    one.spaces[0]!.map(CODE_VA, CODE_FRAME, FLAGS);
    m.poke(DATA, [0x6f]);
    m.poke(CODE_FRAME, [0x6f]);
  }

  /** Both frames resolved for what is done with them; the guest has forgotten all. */
  function warm(): void {
    start();
    run('ld a1, 0(a0)');
    run('sd a1, 0(a0)');
    run('jr a0', CODE_VA);
    run('sfence.vma');
  }

  test('is translated again what was resolved for that kind of access before', () => {
    for (const [source, kinds] of [
      ['ld a1, 0(a0)', [true, false, false]],
      ['sd a1, 0(a0)', [false, true, false]],
      ['jr a0', [false, false, true]],
    ] as const) {
      start();
      run(source);
      run('sfence.vma');
      expect([0, 1, 2].map(kind => translates(kind))).toEqual(kinds);
      start(asking);
      run(source);
      run('sfence.vma');
      expect([0, 1, 2].map(kind => translates(kind))).toEqual([false, false, false]);
    }
  });

  test('the permission matrix holds: every leaf, access, privilege, SUM and MXR', () => {
    warm();
    const wrong: string[] = [];
    for (let flags = 0; flags < 256; flags++) {
      one.spaces[0]!.map(DATA_VA, DATA, flags);
      one.spaces[0]!.map(CODE_VA, CODE_FRAME, flags);
      for (const [kind, name] of KINDS.entries()) {
        for (const privilege of [Privilege.User, Privilege.Supervisor]) {
          for (const status of [0, Status.SUM, Status.MXR, Status.SUM | Status.MXR]) {
            m.arena.words[m.vcpu + AT.privilege] = privilege;
            m.arena.words[m.vcpu + AT.sstatus] = status;
            const got = translates(kind, kind === Access.Exec ? CODE_VA : DATA_VA);
            if (got !== permitted(name, flags, privilege, status))
              wrong.push(`${name} ${privilege} ${status} ${flags}`);
          }
        }
      }
    }
    expect(wrong).toEqual([]);
  });

  test('addresses that are not canonical, reserved bits and misaligned superpages are left to the callbacks', () => {
    warm();
    const tables = one.spaces[0]!;
    expect(translates(Access.Read)).toBe(true);
    for (const bit of [38n, 39n, 63n]) expect(translates(Access.Read, DATA_VA | (1n << bit))).toBe(false);
    for (let bit = 22; bit < 32; bit++) {
      tables.write(tables.entry(DATA_VA), DATA, FLAGS, 1 << bit);
      expect(translates(Access.Read)).toBe(false);
    }
    for (const flag of [A, D, U]) {
      tables.map(DATA_VA, DATA, FLAGS);
      const table = Number(m.peek(tables.entry(DATA_VA, 1)) >> 10n) * 4096;
      tables.write(tables.entry(DATA_VA, 1), table, V | flag);
      expect(translates(Access.Read)).toBe(false);
      tables.write(tables.entry(DATA_VA, 1), table, V);
    }
    const [mega] = ADDRESSES[1];
    tables.map(mega, RAM_BASE, FLAGS, 1);
    expect(translates(Access.Read, mega + 0x5000n)).toBe(true);
    tables.map(mega, RAM_BASE + 0x1000, FLAGS, 1);
    expect(translates(Access.Read, mega + 0x4000n)).toBe(false);
  });

  test('3: no frame with decoded code is written, and none without is executed', () => {
    warm();
    run('jr a0');
    run('sfence.vma');
    expect(KINDS.map((_, kind) => translates(kind))).toEqual([true, false, true]);
    run('sd a1, 0(a0)');
    run('sfence.vma');
    expect(KINDS.map((_, kind) => translates(kind))).toEqual([true, true, false]);
  });

  test('decoded pages are found only while no drop is to be noticed', () => {
    warm();
    expect(translates(Access.Exec, CODE_VA)).toBe(true);
    m.cpu.dropCode(m.code, m.byte(RAM_BASE + 0x2000) / 4096);
    run('jr a0');
    m.cpu.dropCode(m.code, m.byte(DATA) / 4096);
    expect(translates(Access.Exec, CODE_VA)).toBe(false);
  });
});
