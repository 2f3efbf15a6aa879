import type { CpuFigures } from './cpu-figures.ts';
import { bar } from './lib.ts';

/** Single tests against QEMU: floor and goal. */
const SINGLE: Record<string, { atLeast: number; goal: number }> = {
  intmix: { atLeast: 1, goal: 1.5 },
  sha256: { atLeast: 1, goal: 1.5 },
  matmul: { atLeast: 1.2, goal: 2.5 },
  fib: { atLeast: 1.2, goal: 3 },
  mandel: { atLeast: 1.2, goal: 3 },
  wordsum: { atLeast: 1.2, goal: 3 },
};
const WORST = { atLeast: 0.5, goal: 1 };
const MEAN = { qemu: { atLeast: 1, goal: 2 }, v86: { atLeast: 2, goal: 5 } };

/**
 * Prints each bar of the fast CPU as met or not. `all`: every test was run, so that means and the worst count.
 * Undefined if there was no peer to compare with.
 */
export function checkBars(figures: CpuFigures, all: boolean): boolean | undefined {
  const met: boolean[] = [];
  const check = (name: string, value: number, limits: { atLeast: number; goal: number }) =>
    met.push(bar(name, value, limits));
  for (const peer of ['qemu', 'v86'] as const) {
    if (!figures.has(peer)) console.log(`  bars against ${peer}: not run`);
    else if (all) check(`geometric mean against ${peer}`, figures.geomean(peer)!, MEAN[peer]);
    else console.log(`  geometric mean against ${peer}: no bar, as tests were left out`);
  }
  if (figures.has('qemu')) {
    for (const test of figures.tests) {
      if (SINGLE[test] !== undefined)
        check(`${test} against qemu`, figures.ratio(test, 'qemu')!, SINGLE[test]);
    }
    const [worst, ratio] = figures.tests
      .map(test => [test, figures.ratio(test, 'qemu')!] as const)
      .reduce((a, b) => (b[1] < a[1] ? b : a));
    check(`worst against qemu, ${worst}`, ratio, WORST);
  }
  return met.length === 0 ? undefined : met.every(Boolean);
}
