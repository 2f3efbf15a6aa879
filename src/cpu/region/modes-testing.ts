import { expect } from 'vitest';
import { compileInterpreter } from '../interpreter.ts';
import { FlatMachine, type FlatOptions } from '../testing.ts';
import { Lockstep } from './lockstep.ts';

// The same program interpreted; by regions, of every place that a jump leads to the second time; and by both in
// lockstep.

export const MODES = ['interpreter', 'regions', 'lockstep'] as const;
export type Mode = (typeof MODES)[number];

const MODULES = {
  interpreter: compileInterpreter(false),
  regions: compileInterpreter(false, true, 2),
  lockstep: new Lockstep().compile(),
};

export type Run = {
  m: FlatMachine;
  /** To be called at the end: that regions ran if they were meant to, and did what the interpreter does. */
  check(): void;
};

export function runIn(mode: Mode, options: FlatOptions = {}): Run {
  const lockstep = mode === 'lockstep' ? new Lockstep() : undefined;
  const m = new FlatMachine({
    ...{ module: MODULES[mode], batch: mode === 'interpreter' ? 0 : 1 },
    ...options,
    ...(lockstep && { lockstep }),
  });
  const check = () => {
    const { regions } = m.cpu.translated(m.code);
    if (mode === 'interpreter') expect(regions).toBe(0);
    else expect(regions).toBeGreaterThan(0);
    if (lockstep === undefined) return;
    expect(lockstep.reports).toEqual([]);
    expect(lockstep.runs).toBeGreaterThan(5);
  };
  return { m, check };
}
