import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { MmBreaks } from './breaks.ts';
import type { MmCore } from './core.ts';
import { type Op, Run, script } from './model-testing.ts';
import { testMm } from './testing.ts';

const core = (breaks: Partial<MmBreaks> = {}): MmCore =>
  testMm({ frames: 256, swap: { kind: 'zram', bytes: 4 << 20 }, breaks });

function runScript(mm: MmCore, steps: [Op, number][]): void {
  const run = new Run(mm);
  for (const [step, space] of steps) {
    run.step({ ...step, space });
    mm.checkInvariants();
  }
  run.readAll();
  mm.checkInvariants();
  run.end();
}

test('a random script leaves every byte as a Map has it, and the invariants true after each step', () => {
  fc.assert(
    fc.property(script, steps => runScript(core(), steps)),
    { seed: 7, numRuns: 15 },
  );
});

test.each(['unmapForgetsDirty', 'forgetDirty', 'forkKeepsWritable'] as const)(
  'with %s the script fails, so it can',
  name => {
    const result = fc.check(
      fc.property(script, steps => runScript(core({ [name]: true }), steps)),
      { seed: 7, numRuns: 60, endOnFailure: true },
    );
    expect(result.failed).toBe(true);
  },
);

/** Runs a script in which calls may run out of memory; those leave nothing half done that leaks. */
function runHungry(mm: MmCore, steps: [Op, number][], failAt: number, times: number): number {
  const run = new Run(mm, true);
  mm.pageAlloc.failAt(failAt, times);
  for (const [step, space] of steps) {
    if (!run.tryStep({ ...step, space })) mm.checkInvariants();
  }
  const left = mm.pageAlloc.failuresLeft;
  mm.pageAlloc.failAt(0, 0);
  mm.checkInvariants();
  run.readAll();
  run.end();
  return left;
}

test.each([1, 1e9])('whichever allocation fails, %d in a row, nothing leaks and no byte changes', times => {
  const [steps] = fc.sample(script, { seed: 3, numRuns: 1 }) as [[Op, number][]];
  let n = 1;
  for (; n < 400; n += times === 1 ? 1 : 7) {
    if (runHungry(core(), steps, n, times) === times) break;
  }
  expect(n).toBeGreaterThan(20); // and the loop ended because a run saw no failure
  expect(n).toBeLessThan(400);
});
