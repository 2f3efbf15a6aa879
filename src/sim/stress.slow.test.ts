import { expect, test } from 'vitest';
import { runStress } from './stress.ts';
import { breaksOf, type StressBreaks } from './stress-host.ts';

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
