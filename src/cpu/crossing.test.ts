import { beforeEach, describe, expect, test } from 'vitest';
import { FlushList, type FlushListPtr } from './flush-list.ts';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, PTE, RAM_BASE, TestTables } from './testing.ts';
import { AT, CROSS_ENTRIES, Privilege, Status } from './vcpu.ts';

// An instruction that straddles two pages is decoded into a private place of the vCPU, which rests on the translation
// of both. Whatever ends one of these has it decoded anew.

const { V, R, X, U, G, A } = PTE;
const module = compileInterpreter(false);
const CODE = 0x4000_0000n;
const HANDLER = 0x4000_1000n;
const FIRST = 0x5000_0000n;
const SECOND = FIRST + 0x1000n;
/** Each is followed by a sret to the instruction. */
const FENCES = [
  'nop',
  'sfence.vma',
  'sfence.vma a0',
  'sfence.vma x0, a5',
  'sfence.vma a0, a5',
  'csrw satp, a4',
  'fence.i',
] as const;
type Fence = (typeof FENCES)[number];

/** The pages of RAM that have the halves: an old one and a new one. */
const PAGES = { first: [8, 12], second: [10, 14] } as const;
type Half = keyof typeof PAGES;
const HALVES: readonly Half[] = ['first', 'second'];
const VA = { first: FIRST, second: SECOND } as const;
const frame = (page: number) => RAM_BASE + page * 4096;
const gfn = (page: number) => frame(page) / 4096;
/** The first half says which register, a2 or a3; the second, what is put there. */
const ADDI = [0x0613, 0x0693] as const;
const VALUE = [5, 9] as const;

/** What a2 and a3 are after the instruction of an old (0) or a new (1) half each. */
const of = (first: number, second: number): bigint[] =>
  [0, 1].map(register => (register === first ? BigInt(VALUE[second]!) : 0n));
const changed = (half: Half, to: number): bigint[] => (half === 'first' ? of(to, 0) : of(0, to));

let m: FlatMachine;
let spaces: TestTables[];
let privilege: number;
/** Where the host has moved a page of the guest, by gfn: to the frame that another had. */
let moved: Map<number, number>;

function start(at: number): void {
  privilege = at;
  moved = new Map();
  m = new FlatMachine({
    module,
    ports: inner => ({
      ...inner,
      resolve: (vcpu, gfn, access) => inner.resolve(vcpu, moved.get(gfn) ?? gfn, access),
    }),
  });
  m.program(FENCES.map(fence => `${fence}\nsret`).join('\n'));
  m.poke(frame(1), [0x73]);
  for (const which of [0, 1]) putHalves(which);
  spaces = [0, 1].map(i => {
    const tables = new TestTables(Object.assign(Object.create(m) as FlatMachine, { pages: 64 - 16 * i }));
    tables.map(CODE, RAM_BASE, V | X | A | G);
    tables.map(HANDLER, frame(1), V | X | A | G);
    return tables;
  });
  for (const half of HALVES) map(half, 0);
  m.setField(AT.stvec, HANDLER);
  m.setField(AT.satp, spaces[0]!.satp);
}

function putHalves(which: number): void {
  const halves = new Uint16Array(m.arena.memory.buffer);
  halves[m.byte(frame(PAGES.first[which]!)) / 2 + 2047] = ADDI[which]!;
  // The immediate, and an ecall.
  halves.set([VALUE[which]! << 4, 0x0073, 0], m.byte(frame(PAGES.second[which]!)) / 2);
}

function map(half: Half, which: number, space = 0, va = VA[half]): void {
  const user = privilege === Privilege.User ? U : 0;
  spaces[space]!.map(va, frame(PAGES[half][which]!), V | R | X | A | user);
}

/** Executes the fence and then the instruction, before the end of page `va`. Returns a2 and a3. */
function go(fence: Fence, va = FIRST): bigint[] {
  m.setField(AT.pc, CODE + 8n * BigInt(FENCES.indexOf(fence)));
  m.setField(AT.sepc, va + 0xffen);
  m.arena.words[m.vcpu + AT.sstatus] = privilege === Privilege.User ? 0 : Status.SPP;
  for (const n of [12, 13]) m.setX(n, 0n);
  expect(m.run()).toBe(Exit.Sbi);
  return [m.x(12), m.x(13)];
}

const MODES = [
  ['a user', Privilege.User],
  ['a supervisor', Privilege.Supervisor],
] as const;

describe.each(MODES)('an instruction across two pages, of %s, is decoded anew', (_, at) => {
  beforeEach(() => {
    start(at);
    expect(go('nop')).toEqual(of(0, 0));
  });

  describe.each(HALVES)('when the mapping of its %s half changed', half => {
    test.each(['sfence.vma', 'sfence.vma a0', 'sfence.vma x0, a5', 'sfence.vma a0, a5'] as const)(
      'after %s',
      fence => {
        m.setX(10, VA[half]);
        m.setX(15, 0n);
        // More than once, as what was dropped is there again.
        for (const which of [1, 0, 1]) {
          map(half, which);
          expect(go(fence)).toEqual(changed(half, which));
        }
      },
    );

    test('after a change of satp, there and back', () => {
      for (const other of HALVES) map(other, other === half ? 1 : 0, 1);
      for (const space of [1, 0, 1, 0]) {
        m.setX(14, spaces[space]!.satp | (BigInt(space) << 44n));
        expect(go('csrw satp, a4')).toEqual(changed(half, space));
      }
    });
  });

  describe.each(HALVES)('J-7 when the host moved its %s half', half => {
    /** The flush list lies in a page that has nothing else. */
    const listAt = () => (m.byte(frame(20)) / 4) as FlushListPtr;
    const ask = (request: number) => void m.cpu.vcpu.requests.or(m.vcpu, request);

    test.each([
      ['a flush of everything', () => m.cpu.flushTlb(m.vcpu)],
      ['a request for one', () => ask(Request.FlushTlb)],
      [
        'a request that names the frame',
        (from: number) => {
          new FlushList(m.arena.words).add(listAt(), m.byte(frame(from)) >>> 12);
          ask(Request.FlushPages);
        },
      ],
    ])('after %s', (_, flush) => {
      new FlushList(m.arena.words).join(listAt(), m.vcpu);
      const [old, renewed] = PAGES[half];
      moved.set(gfn(old), gfn(renewed));
      flush(old);
      expect(go('nop')).toEqual(changed(half, 1));
      moved.delete(gfn(old));
      flush(renewed);
      expect(go('nop')).toEqual(changed(half, 0));
    });
  });

  test.each(HALVES)('when others changed its %s half and dropped the page', half => {
    const pfn = m.byte(frame(PAGES[half][0])) >>> 12;
    const byte = pfn * 4096 + (half === 'first' ? 4094 : 0);
    const halves = new Uint16Array(m.arena.memory.buffer);
    for (const which of [1, 0]) {
      halves[byte / 2] = half === 'first' ? ADDI[which]! : VALUE[which]! << 4;
      m.cpu.dropCode(m.code, pfn);
      expect(go('fence.i')).toEqual(changed(half, which));
    }
  });

  test('in each of the places that there are for such', () => {
    // One more than a multiple of their number apart, so that each has its own.
    const vas = Array.from(
      { length: CROSS_ENTRIES },
      (_, i) => FIRST + BigInt(i * (CROSS_ENTRIES + 1) * 4096),
    );
    for (const which of [0, 1, 0]) {
      for (const va of vas) {
        map('first', 0, 0, va);
        map('second', which, 0, va + 0x1000n);
      }
      go('sfence.vma');
      expect(vas.map(va => go('nop', va))).toEqual(vas.map(() => of(0, which)));
    }
  });
});
