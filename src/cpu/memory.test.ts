import { describe, expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { Exit } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { FlatMachine, RAM_BASE } from './testing.ts';
import { AT } from './vcpu.ts';

const module = compileInterpreter(false);
const DATA = RAM_BASE + 0x4000;
const U = (x: bigint) => BigInt.asUintN(64, x);

const LOADS: [string, bigint, (x: bigint) => bigint][] = [
  ['lb', 8n, x => BigInt.asIntN(8, x)],
  ['lbu', 8n, x => x],
  ['lh', 16n, x => BigInt.asIntN(16, x)],
  ['lhu', 16n, x => x],
  ['lw', 32n, x => BigInt.asIntN(32, x)],
  ['lwu', 32n, x => x],
  ['ld', 64n, x => x],
];

/** Memory as one number, for the reference. */
function bytesAt(m: FlatMachine, gpa: number, bits: bigint): bigint {
  let value = 0n;
  for (let i = Number(bits) / 8 - 1; i >= 0; i--)
    value = (value << 8n) | BigInt(m.arena.bytes[m.byte(gpa + i)]!);
  return value;
}

describe('loads and stores', () => {
  test('of every width at every alignment, page ends included', () => {
    const r = new Random(5);
    const m = new FlatMachine({ module });
    m.poke(
      DATA,
      Array.from({ length: 2048 }, () => r.u32()),
    );
    for (const [name, bits, extend] of LOADS) {
      for (let at = DATA + 0xff0; at < DATA + 0x1010; at++) {
        m.program(`${name} a1, -5(a0)\necall`);
        m.setX(10, BigInt(at + 5));
        m.run();
        expect(m.x(11), `${name} ${at.toString(16)}`).toBe(U(extend(bytesAt(m, at, bits))));
      }
    }
    for (const [name, bits] of [
      ['sb', 8n],
      ['sh', 16n],
      ['sw', 32n],
      ['sd', 64n],
    ] as const) {
      for (let at = DATA + 0xff0; at < DATA + 0x1010; at++) {
        const value = U((BigInt(r.u32()) << 32n) | BigInt(r.u32()));
        m.program(`${name} a1, 2047(a0)\necall`);
        m.setX(10, BigInt(at - 2047));
        m.setX(11, value);
        const [before, after] = [bytesAt(m, at - 8, 64n), bytesAt(m, at + Number(bits) / 8, 64n)];
        m.run();
        expect(bytesAt(m, at, bits), `${name} ${at.toString(16)}`).toBe(BigInt.asUintN(Number(bits), value));
        expect([bytesAt(m, at - 8, 64n), bytesAt(m, at + Number(bits) / 8, 64n)]).toEqual([before, after]);
      }
    }
  });

  test('the same, hitting the TLB, as in the loop of a program', () => {
    const m = new FlatMachine({ module });
    m.program(`
      loop: lbu a2, 0(a0)
            sb a2, 0(a1)
            addi a0, a0, 1
            addi a1, a1, 1
            bne a0, a3, loop
            ecall`);
    m.poke(
      DATA,
      Array.from({ length: 2048 }, (_, i) => Math.imul(i, 0x9e3779b9)),
    );
    m.setX(10, BigInt(DATA));
    m.setX(11, BigInt(DATA + 0x3001));
    m.setX(13, BigInt(DATA + 0x2000));
    expect(m.run(1e6)).toBe(Exit.Sbi);
    const { bytes } = m.arena;
    expect(bytes.slice(m.byte(DATA + 0x3001), m.byte(DATA + 0x5001))).toEqual(
      bytes.slice(m.byte(DATA), m.byte(DATA + 0x2000)),
    );
  });

  test('of singles and doubles, boxed and unboxed', () => {
    const m = new FlatMachine({ module });
    m.program(`li t0, 0x2000
      csrw sstatus, t0
      flw f1, 4(a0)
      fld f2, 8(a0)
      fsw f2, 16(a0)
      fsd f1, 24(a0)
      fmv.x.w a1, f1
      fmv.x.d a2, f1
      csrr a3, sstatus
      ecall`);
    m.poke(DATA, [0, 0x80000001, 0x11223344, 0x55667788, -1, -1, 0, 0]);
    m.setX(10, BigInt(DATA));
    m.run();
    expect([m.peek(DATA + 16), m.peek(DATA + 24)]).toEqual([0xffffffff11223344n, 0xffffffff80000001n]);
    expect([m.x(11), m.x(12), m.x(13) >> 63n]).toEqual([0xffffffff80000001n, 0xffffffff80000001n, 1n]);
  });
});

describe('atomics', () => {
  const AMO: [string, (a: bigint, b: bigint, width: number) => bigint][] = [
    ['amoswap', (_a, b) => b],
    ['amoadd', (a, b) => a + b],
    ['amoxor', (a, b) => a ^ b],
    ['amoand', (a, b) => a & b],
    ['amoor', (a, b) => a | b],
    ['amomin', (a, b, w) => (BigInt.asIntN(w, a) < BigInt.asIntN(w, b) ? a : b)],
    ['amomax', (a, b, w) => (BigInt.asIntN(w, a) > BigInt.asIntN(w, b) ? a : b)],
    ['amominu', (a, b, w) => (BigInt.asUintN(w, a) < BigInt.asUintN(w, b) ? a : b)],
    ['amomaxu', (a, b, w) => (BigInt.asUintN(w, a) > BigInt.asUintN(w, b) ? a : b)],
  ];

  test('each AMO replaces memory and returns what was there, sign-extended', () => {
    const r = new Random(7);
    const m = new FlatMachine({ module });
    for (const width of [32, 64]) {
      for (const [name, reference] of AMO) {
        for (let i = 0; i < 40; i++) {
          const [a, b] = [0, 1].map(() => BigInt.asUintN(64, (BigInt(r.u32()) << 32n) | BigInt(r.u32()))) as [
            bigint,
            bigint,
          ];
          m.program(`${name}.${width === 32 ? 'w' : 'd'} a1, a1, (a0)\necall`);
          m.poke(DATA, [Number(a & 0xffffffffn) | 0, Number(a >> 32n) | 0]);
          m.setX(10, BigInt(DATA));
          m.setX(11, b);
          m.run();
          const low = BigInt.asUintN(width, reference(a, b, width));
          expect(m.peek(DATA), `${name} ${width}`).toBe(width === 64 ? low : ((a >> 32n) << 32n) | low);
          expect(m.x(11)).toBe(U(BigInt.asIntN(width, a)));
        }
      }
    }
  });

  const reserve = (between: string) => {
    const m = new FlatMachine({ module });
    m.program(`li a1, 7\nlr.w a2, (a0)\n${between}\nsc.w a3, a1, (a0)\nsc.w a4, a1, (a0)\necall`);
    m.poke(DATA, [-5, 0]);
    m.setX(10, BigInt(DATA));
    m.run();
    return { m, results: [m.x(12), m.x(13), m.x(14), m.peek(DATA)] };
  };

  test('sc succeeds once after lr', () => {
    expect(reserve('nop').results).toEqual([U(-5n), 0n, 1n, 7n]);
  });

  test('sc fails when the value changed, at another address or width, and without lr', () => {
    expect(reserve('sw zero, 0(a0)').results).toEqual([U(-5n), 1n, 1n, 0n]);
    expect(reserve('addi a0, a0, 4').results.slice(1, 3)).toEqual([1n, 1n]);
    expect(reserve('lr.d a5, (a0)').results.slice(1, 3)).toEqual([1n, 1n]);
  });

  test('a flush of the TLB fails an sc (J-10)', () => {
    const m = new FlatMachine({ module });
    m.program('lr.d a2, (a0)\nnop\nsc.d a3, a1, (a0)\necall');
    m.setX(10, BigInt(DATA));
    m.run(2);
    expect(m.cpu.vcpu.reservation.get(m.vcpu)).not.toBe(0);
    m.cpu.flushTlb(m.vcpu);
    m.run();
    expect([m.x(13), m.field(AT.pc)]).toEqual([1n, BigInt(RAM_BASE + 16)]);
  });
});
