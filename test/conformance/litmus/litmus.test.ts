import { describe, expect, test } from 'vitest';
import { FENCES, goesWrong } from './fences.ts';
import { runLitmusTest } from './litmus.ts';
import { LITMUS } from './tests.ts';

const RUNS = 20_000;

describe('two harts on two threads', () => {
  test.each(LITMUS.map(t => [t.name, t] as const))(
    'RVWMO allows every outcome of %s',
    async (_name, litmus) => {
      expect((await runLitmusTest(litmus, RUNS)).forbidden).toBe(0);
    },
  );

  test('a page that another hart unmapped is not used once RFENCE has returned; without the wait it is', async () => {
    expect(await goesWrong(FENCES.remap)).toBe(false);
    // Harts see a request within a loop's round, so the window is hit in every other run.
    let wrong = false;
    for (let i = 0; i < 16 && !wrong; i++) wrong = await goesWrong(FENCES.remap, ['fenceWithoutAck']);
    expect(wrong).toBe(true);
  });

  // Its mutant is the one above: here the window is too short to be hit each time.
  test('code that another hart patched is executed once RFENCE has returned', async () => {
    expect(await goesWrong(FENCES.patch)).toBe(false);
  });

  test('fence.i sees what another hart wrote; not if a page becomes code before the others were told', async () => {
    expect(await goesWrong(FENCES.write)).toBe(false);
    expect(await goesWrong(FENCES.write, ['codeWithoutAck'])).toBe(true);
  });
});
