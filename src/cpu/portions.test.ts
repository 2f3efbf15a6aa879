import { describe, expect, test } from 'vitest';
import { Exit, Request } from './interface.ts';
import { compileInterpreter } from './interpreter.ts';
import { PORTION } from './portions.ts';
import { Lockstep } from './region/lockstep.ts';
import { FlatMachine, type FlatOptions } from './testing.ts';

// Others that ask something of a vCPU wait for it: in a VM of several it must not go on to the end of its slice.

const LOOP = 'again: addi a0, a0, 1\nbne a0, a1, again\necall';
const SLICE = 1_000_000;
const ROUNDS = 100_000;

type Region = Parameters<Lockstep['wrap']>[0];

/** Has something asked of the vCPU while it is in a region, which can't see it. */
class AskedInside extends Lockstep {
  readonly #ask: () => void;

  constructor(ask: () => void) {
    super();
    this.#ask = ask;
  }

  override wrap(region: Region): WebAssembly.ExportValue {
    return super.wrap((...args) => {
      this.#ask();
      return region(...args);
    });
  }
}

function machine(vcpus: number, options: FlatOptions): FlatMachine {
  const m = new FlatMachine(options).program(LOOP);
  for (let i = 1; i < vcpus; i++) m.cpu.createVcpu(m.code);
  m.setX(11, BigInt(ROUNDS));
  return m;
}

test('a slice in portions retires as many instructions as one in one piece', () => {
  for (const mode of [{ batch: 0 }, { module: compileInterpreter(false, true, 2), batch: 1 }]) {
    const m = machine(2, mode);
    m.setX(11, 1_000_000_000n);
    for (const budget of [1, PORTION - 1, PORTION, PORTION + 1, 2 * PORTION, 5 * PORTION + 77]) {
      const before = m.cpu.instret(m.vcpu);
      expect(m.run(budget)).toBe(Exit.Budget);
      expect(m.cpu.instret(m.vcpu) - before).toBe(budget);
    }
  }
});

describe('a loop that is asked something', () => {
  /** Rounds that a region goes on for. */
  function rounds(vcpus: number): number {
    let asks = false;
    const lockstep = new AskedInside(() => {
      if (asks) m.cpu.vcpu.requests.or(m.vcpu, Request.Kick);
    });
    const m = machine(vcpus, { module: lockstep.compile(), batch: 1, lockstep });
    expect(m.run(100)).toBe(Exit.Budget);
    expect(m.cpu.translated(m.code).regions).toBeGreaterThan(0);
    asks = true;
    const before = m.x(10);
    m.run(SLICE);
    return Number(m.x(10) - before);
  }

  test('is left within a portion if its VM has several vCPUs', () => {
    expect(rounds(2)).toBeGreaterThan(0);
    expect(rounds(2)).toBeLessThanOrEqual(PORTION / 2);
  });

  test('goes on to its end if it has one', () => {
    expect(rounds(1)).toBeGreaterThan(ROUNDS - 100);
  });
});
