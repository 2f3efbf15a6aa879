import { describe, expect, test } from 'vitest';
import { Random } from '../base/random.ts';
import { type CpuPorts, Miss, Request } from './interface.ts';
import { PORTION } from './portions.ts';
import { finish, type Mode, machine } from './programs-testing.ts';
import type { FlatMachine } from './testing.ts';
import { AT, Interrupt, Privilege } from './vcpu.ts';

// However a run is cut into pieces, and whatever holds it up, the guest can't tell.

const CASES = [1, 2, 3, 4].flatMap(seed => [
  { seed, mode: 'interpreter' as Mode },
  { seed, mode: 'regions' as Mode },
]);

describe.each(CASES)('program $seed ends in the same state, by $mode', ({ seed, mode }) => {
  const whole = finish(machine(seed), () => 1_000_000);

  test('in one piece', () => {
    const m = machine(seed, { mode });
    expect(finish(m, () => 1_000_000)).toEqual(whole);
    const { regions } = m.cpu.translated(m.code);
    if (mode === 'regions') expect(regions).toBeGreaterThan(5);
    else expect(regions).toBe(0);
  });

  test('in slices of one instruction and of random lengths', () => {
    const r = new Random(seed);
    expect(finish(machine(seed, { mode }), () => 1)).toEqual(whole);
    expect(finish(machine(seed, { mode }), () => 1 + r.below(700))).toEqual(whole);
  });

  test('in portions, as a vCPU of several has them', () => {
    const r = new Random(seed);
    const ofSeveral = () => {
      const m = machine(seed, { mode });
      m.cpu.createVcpu(m.code);
      return m;
    };
    expect(finish(ofSeveral(), () => 1_000_000)).toEqual(whole);
    expect(finish(ofSeveral(), () => 1 + r.below(3 * PORTION))).toEqual(whole);
  });

  test('when any look-up of memory may block', () => {
    const r = new Random(seed);
    let blocked = 0;
    const ports = (inner: CpuPorts): CpuPorts => ({
      ...inner,
      resolve: (...args) => {
        if (!r.oneIn(3)) return inner.resolve(...args);
        blocked++;
        return Miss.Blocked;
      },
    });
    const m = machine(seed, { ports, mode });
    let runs = 0;
    // Dropping the TLB between slices makes look-ups frequent.
    const state = finish(m, () => {
      if (++runs % 3 === 0) m.cpu.flushTlb(m.vcpu);
      return mode === 'regions' ? 500 : 20;
    });
    expect(state).toEqual(whole);
    expect(blocked).toBeGreaterThan(mode === 'regions' ? 20 : 100);
  });

  test('when flushes, kicks and dropped code arrive at any look-up', () => {
    const r = new Random(seed);
    let m: FlatMachine;
    const ports = (inner: CpuPorts): CpuPorts => ({
      ...inner,
      resolve: (vcpu, gfn, access) => {
        if (r.oneIn(4)) m.cpu.vcpu.requests.or(vcpu, Request.FlushTlb);
        if (r.oneIn(9)) m.cpu.vcpu.requests.or(vcpu, Request.Kick);
        if (r.oneIn(5)) m.cpu.dropCode(m.code, m.arena.firstFrame + r.below(2));
        return r.oneIn(7) ? Miss.Again : inner.resolve(vcpu, gfn, access);
      },
    });
    m = machine(seed, { ports, mode });
    let runs = 0;
    const state = finish(m, () => {
      if (++runs % 2 === 0) m.cpu.flushTlb(m.vcpu);
      return 1 + r.below(mode === 'regions' ? 900 : 40);
    });
    expect(state).toEqual(whole);
  });
});

test('the programs trap, fault and reach their end', () => {
  const m = machine(1);
  finish(m, () => 1_000_000);
  expect(m.x(29)).toBeGreaterThan(200n);
  expect(m.x(20)).toBeLessThan(11n);
});

test('an interrupt between any two instructions leaves user code unharmed', () => {
  const m = machine(2);
  const plain = machine(2);
  m.arena.words[m.vcpu + AT.sie] = Interrupt.Software;
  // The handler steps over 4 bytes; for interrupts step back first.
  for (let i = 0; i < 3000; i++) {
    m.cpu.run(m.vcpu, 1);
    plain.cpu.run(plain.vcpu, 1);
    expect(m.field(AT.pc)).toBe(plain.field(AT.pc));
    if (m.cpu.vcpu.privilege.get(m.vcpu) !== Privilege.User) continue;
    m.cpu.vcpu.pending.or(m.vcpu, Interrupt.Software);
    m.setField(AT.sepc, 0n);
    const pc = m.field(AT.pc);
    const [x29, x31] = [m.x(29), m.x(31)];
    const held = [27, 28, 30].map(n => m.x(n));
    m.cpu.run(m.vcpu, 1);
    m.cpu.vcpu.pending.and(m.vcpu, 0);
    expect([m.field(AT.sepc), m.field(AT.scause)]).toEqual([pc, (1n << 63n) | 1n]);
    while (m.cpu.vcpu.privilege.get(m.vcpu) !== Privilege.User) m.cpu.run(m.vcpu, 1);
    m.setField(AT.pc, pc);
    for (const [k, n] of [27, 28, 30].entries()) m.setX(n, held[k]!);
    m.setX(29, x29);
    m.setX(31, x31);
    plain.setField(AT.sscratch, m.field(AT.sscratch));
  }
});
