import { runBare } from '../../../src/sdk/bare.ts';
import { COUNTER_BYTES, litmusProgram, rounded } from './program.ts';
import { LITMUS, type Litmus } from './tests.ts';

export type LitmusResult = {
  /** How often each outcome was seen. */
  readonly outcomes: ReadonlyMap<string, number>;
  readonly runs: number;
  readonly forbidden: number;
  /** Undefined where the test names no relaxed outcome. */
  readonly relaxed: number | undefined;
};

/** Runs one test so often, a hart and a runner for each thread. */
export async function runLitmusTest(test: Litmus, runs: number): Promise<LitmusResult> {
  const bytes: number[] = [];
  const harts = test.threads.length;
  const options = { memory: '32M', cpus: harts, runners: harts } as const;
  await runBare(litmusProgram(test, runs), options, piece => void bytes.push(...piece));
  const counters = new DataView(Uint8Array.from(bytes).buffer);
  const outcomes = new Map<string, number>();
  const sums = { all: 0, forbidden: 0, relaxed: 0 };
  for (let at = 0; at < counters.byteLength; at += COUNTER_BYTES) {
    const times = counters.getUint32(at, true);
    if (times === 0) continue;
    const values = test.observed.map((_, i) => ((at / COUNTER_BYTES) >> (2 * i)) & 3);
    outcomes.set(test.observed.map((what, i) => `${what}=${values[i]}`).join(' '), times);
    sums.all += times;
    if (test.forbidden(...values)) sums.forbidden += times;
    if (test.relaxed?.(...values)) sums.relaxed += times;
  }
  if (sums.all !== rounded(runs))
    throw new Error(`${test.name}: ${sums.all} outcomes of ${rounded(runs)} runs`);
  const relaxed = test.relaxed === undefined ? undefined : sums.relaxed;
  return { outcomes, runs: sums.all, forbidden: sums.forbidden, relaxed };
}

export type LitmusOptions = { runs: number; only?: string | undefined; print(line: string): void };

/** Runs all tests, or those whose name holds `only`; how many showed a forbidden outcome. */
export async function runLitmus({ runs, only, print }: LitmusOptions): Promise<number> {
  let failed = 0;
  for (const test of LITMUS.filter(t => only === undefined || t.name.includes(only))) {
    const { outcomes, forbidden, relaxed, runs: done } = await runLitmusTest(test, runs);
    const seen = [...outcomes].map(([what, times]) => `${what}: ${times}`).join(', ');
    const verdict = forbidden === 0 ? 'ok' : `FORBIDDEN ${forbidden} times`;
    const weak = relaxed === undefined ? '' : `, relaxed ${relaxed} times`;
    print(`${test.name}: ${done} runs, ${verdict}${weak} (${seen})`);
    if (forbidden > 0) failed++;
  }
  return failed;
}
