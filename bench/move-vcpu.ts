import { parentPort, workerData } from 'node:worker_threads';
import { Mode } from '../src/cpu/interface.ts';

// A vCPU of `bench/move.ts`: runs in guest mode, and answers requests at its stop-points. It has cached nothing that
// could be dropped, so what is measured is the asking.

export type MoveVcpuData = { memory: WebAssembly.Memory; mode: number; requests: number; stop: number };

/** Loads between two stop-points: some microseconds, as a block of translated code may take. */
const BLOCK = 512;

const { memory, mode, requests, stop } = workerData as MoveVcpuData;
const words = new Int32Array(memory.buffer);
let sum = 0;
Atomics.store(words, mode, Mode.InGuest);
parentPort!.postMessage('ready');
while (Atomics.load(words, stop) === 0) {
  for (let i = 0; i < BLOCK; i++) sum += words[stop + i]!;
  if (Atomics.load(words, requests) === 0) continue;
  Atomics.store(words, requests, 0);
  Atomics.notify(words, requests);
}
Atomics.store(words, mode, Mode.Outside);
parentPort!.postMessage(sum);
