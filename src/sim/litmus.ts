import { spawnWorker } from '../host/node/spawn.ts';
import { Arena } from '../sync/arena.ts';
import { Barrier } from './barrier.ts';
import { CELL_WORDS, LITMUS, type Litmus, type Side } from './litmus-tests.ts';
import type { LitmusWork } from './litmus-worker.ts';
import { nextMessage } from './next-message.ts';

/** Cells between two meetings: few, so that the threads stay abreast. */
export const CELLS = 64;
/** Word offsets in the heap: the barrier, then the second side's results, then the cells. */
export const AT = { barrier: 0, results: 16, cells: 128 } as const;

export type LitmusReport = {
  name: string;
  iterations: number;
  /** Times that the two results came together, by `first second`. */
  outcomes: Map<string, number>;
  forbidden: number;
  /** Forbidden outcomes of the broken form: above zero, this machine can show the fault. */
  control: number;
};

/** Runs one test for so many iterations on this thread and another, then its control for a tenth of that. */
export async function runLitmus(litmus: Litmus, iterations: number): Promise<LitmusReport> {
  const honest = await race(litmus, 'sides', iterations);
  const control = await race(litmus, 'control', Math.ceil(iterations / 10));
  return { name: litmus.name, iterations, ...honest, control: control.forbidden };
}

async function race(
  litmus: Litmus,
  form: 'sides' | 'control',
  iterations: number,
): Promise<{ outcomes: Map<string, number>; forbidden: number }> {
  const arena = Arena.create({ frames: 1, heapBytes: 8192, shared: true });
  const rounds = Math.ceil(iterations / CELLS);
  const work: LitmusWork = { name: litmus.name, form, rounds, memory: arena.memory };
  const worker = spawnWorker(new URL('./litmus-worker.ts', import.meta.url), work);
  await nextMessage(worker);
  const outcomes = new Map<string, number>();
  let forbidden = 0;
  const { words, heap } = arena;
  const mine = new Int32Array(CELLS);
  const barrier = new Barrier(words, heap + AT.barrier);
  const side = litmus[form](arena)[0];
  for (let round = 0; round < rounds; round++) {
    words.fill(0, heap + AT.cells, heap + AT.cells + CELLS * CELL_WORDS);
    barrier.meet();
    sweep(words, heap, side, mine, 0);
    barrier.meet();
    for (let i = 0; i < CELLS; i++) {
      const second = words[heap + AT.results + i] as number;
      const key = `${mine[i]} ${second}`;
      outcomes.set(key, (outcomes.get(key) ?? 0) + 1);
      if (litmus.forbidden(mine[i]!, second)) forbidden++;
    }
  }
  await worker.terminate();
  return { outcomes, forbidden };
}

/** One side over all cells of a round; results go to `into` from `at` on. */
export function sweep(words: Int32Array, heap: number, side: Side, into: Int32Array, at: number): void {
  for (let i = 0; i < CELLS; i++) into[at + i] = side(words, heap + AT.cells + i * CELL_WORDS);
}

/** Runs all tests and prints a line each; 1 if a forbidden outcome came up. */
export async function litmusMain(iterations: number): Promise<number> {
  let bad = 0;
  for (const litmus of LITMUS) {
    const report = await runLitmus(litmus, iterations);
    bad += report.forbidden;
    const seen = [...report.outcomes].sort().map(([key, count]) => `(${key}) ${count}`);
    console.log(
      `${report.forbidden === 0 ? 'ok  ' : 'FAIL'}  ${litmus.name}  ${iterations} iterations  ` +
        `forbidden ${report.forbidden}  with the rule broken ${report.control}  outcomes ${seen.join(', ')}`,
    );
  }
  return bad === 0 ? 0 : 1;
}
