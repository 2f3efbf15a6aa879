import { afterAll, beforeAll, expect, test } from 'vitest';
import { allCases } from './cases/index.ts';
import { runLitmus } from './litmus.ts';
import { LITMUS } from './litmus-tests.ts';
import { Pool } from './pool.ts';
import { runCase } from './run.ts';

let pool: Pool;
beforeAll(() => {
  pool = new Pool();
});
afterAll(() => pool.close());

const OPTIONS = { preemptions: 2, random: 20, atomics: 0, seed: 1, maxSchedules: 60_000 };

for (const c of (await allCases()).filter(one => !one.heavy)) {
  for (const profile of c.profiles) {
    test(`${c.name} (${profile}): ${c.title}; every mutant dies`, async () => {
      const report = await runCase(pool, c, profile, OPTIONS);
      expect(report.problems).toEqual([]);
    });
  }
}

for (const litmus of LITMUS) {
  test(`${litmus.name}: ${litmus.title}`, async () => {
    expect((await runLitmus(litmus, 200_000)).forbidden).toBe(0);
  });
}
