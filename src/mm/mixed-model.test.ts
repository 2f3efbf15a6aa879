import { expect, test } from 'vitest';
import { MixedModel } from './mixed-model-testing.ts';

const SEED = Number(process.env.MIXED_SEED ?? 7);
const RUNS = Number(process.env.MIXED_RUNS ?? 2);
const STEPS = Number(process.env.MIXED_STEPS ?? 100);

function run(model: MixedModel): void {
  for (let i = 1; i <= STEPS; i++) {
    model.step();
    model.core.checkInvariants();
    if (i % 40 === 0) model.readAll();
  }
  model.readAll();
  model.end();
}

test('C-21: huge and merged pages, user faults, moves, locks, shared memory, swap, forks and pins, all at once', () => {
  for (let seed = SEED; seed < SEED + RUNS; seed++) {
    const model = new MixedModel(seed);
    try {
      run(model);
    } catch (cause) {
      throw new Error(`seed ${seed}, step ${model.log.length}:\n${model.log.slice(-8).join('\n')}`, {
        cause,
      });
    }
  }
});

test('with forkKeepsWritable the script fails, so it can', () => {
  const broken = (): void => {
    for (let seed = 1; seed <= 20; seed++) run(new MixedModel(seed, { forkKeepsWritable: true }));
  };
  expect(broken).toThrow();
});
