import { parentPort, workerData } from 'node:worker_threads';
import { Arena } from '../sync/arena.ts';
import { Barrier } from './barrier.ts';
import { AT, sweep } from './litmus.ts';
import { LITMUS } from './litmus-tests.ts';

// The second thread of a litmus test.

export type LitmusWork = {
  name: string;
  form: 'sides' | 'control';
  rounds: number;
  memory: WebAssembly.Memory;
};

const work = workerData as LitmusWork;
const arena = Arena.attach(work.memory);
const { words, heap } = arena;
const side = LITMUS.find(l => l.name === work.name)![work.form](arena)[1];
const barrier = new Barrier(words, heap + AT.barrier);
parentPort!.postMessage('ready');
for (let round = 0; round < work.rounds; round++) {
  barrier.meet();
  sweep(words, heap, side, words, heap + AT.results);
  barrier.meet();
}
