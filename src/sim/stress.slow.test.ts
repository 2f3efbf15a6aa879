import { expect, test } from 'vitest';
import { runStress } from './stress.ts';
import { breaksOf, type StressBreaks } from './stress-host.ts';

const everything = (
  seconds: number,
  protocol: 'modern' | 'seqlock',
  breaks: StressBreaks,
  untilLost: boolean,
) => runStress({ seconds, protocol, breaks, untilLost, seed: 12, vcpus: 2, everything: true });

const run = (seconds: number, protocol: 'modern' | 'seqlock', breaks: StressBreaks, untilLost: boolean) =>
  runStress({ seconds, protocol, breaks, untilLost, seed: 11, vcpus: 2 });

for (const protocol of ['modern', 'seqlock'] as const) {
  test(`threads that count in memory that comes and goes lose no write (${protocol})`, async () => {
    const result = await run(6, protocol, breaksOf(undefined) as StressBreaks, false);
    const { lost, stale, failed, problems } = result;
    expect({ lost, stale, failed, problems }).toEqual({ lost: 0, stale: 0, failed: 0, problems: [] });
    expect(Math.min(result.checked, result.swapOuts, result.ageingClears, result.unmaps)).toBeGreaterThan(0);
    expect(Math.min(result.cowBreaks, result.scratchChecked, result.vmmChecked)).toBeGreaterThan(0);
  });
}

for (const name of ['flush-without-ack', 'accessed-bit-or', 'swapin-pte-same', 'ignore-seq', 'drop-dirty']) {
  test(`with ${name} they do`, async () => {
    const result = await run(90, 'modern', breaksOf(name) as StressBreaks, true);
    expect(result.lost + result.stale + result.problems.length).toBeGreaterThan(0);
  });
}

for (const protocol of ['modern', 'seqlock'] as const) {
  test(`nor with user faults, moves, huge pages, merging, fork, a device and swap at once (${protocol})`, async () => {
    const result = await everything(6, protocol, breaksOf(undefined) as StressBreaks, false);
    const { lost, stale, failed, problems } = result;
    expect({ lost, stale, failed, problems }).toEqual({ lost: 0, stale: 0, failed: 0, problems: [] });
    const { checked, swapOuts, forks, cowBreaks, userFaults, wpFaults, sigbusFilled, moves } = result;
    expect(Math.min(checked, swapOuts, forks, cowBreaks)).toBeGreaterThan(0);
    expect(Math.min(userFaults, wpFaults, sigbusFilled, moves)).toBeGreaterThan(0);
    expect(Math.min(result.splits, result.mergesBroken)).toBeGreaterThan(0);
    // A leaf of seed08 holds a reference, and what somebody holds is not collapsed (H-22).
    if (protocol === 'modern') expect(result.collapses).toBeGreaterThan(0);
  });
}

for (const name of [
  'protect-without-notify',
  'swap-drops-uffd-wp',
  'store-unheld',
  'collapse-without-notify',
  'small-leaves-only',
]) {
  test(`with ${name} they do, or write what is protected`, async () => {
    const result = await everything(90, 'modern', breaksOf(name) as StressBreaks, true);
    expect(result.lost + result.stale + result.problems.length).toBeGreaterThan(0);
  });
}
