import type { Worker } from 'node:worker_threads';
import { setEngineFlags } from '../host/node/engine-flags.ts';
import { spawnWorker } from '../host/node/spawn.ts';
import type { MachineWorkerData } from './worker-driver.ts';

// A machine's worker takes a tenth of a second to load its modules. So it is started while this thread still reads
// the image, and told what to run when that is known.

const waiting: Worker[] = [];

const spawn = (data: MachineWorkerData | undefined): Worker =>
  spawnWorker(new URL('./machine-worker.ts', import.meta.url), data);

/** Starts a worker for a machine that is about to be. It keeps no process alive. */
export function standBy(): void {
  setEngineFlags();
  const worker = spawn(undefined);
  worker.unref();
  waiting.push(worker);
  const forget = () => {
    const at = waiting.indexOf(worker);
    if (at !== -1) waiting.splice(at, 1);
  };
  // The machine then gets a new one, which fails in its sight if it must.
  worker.on('error', forget).on('exit', forget);
}

/** The machine will not be. */
export const standDown = (): unknown => waiting.pop()?.terminate();

/** A worker that runs this machine: one that stands by, or a new one. */
export function machineWorker(data: MachineWorkerData): Worker {
  const worker = waiting.pop();
  if (worker === undefined) return spawn(data);
  worker.ref();
  worker.postMessage(data);
  return worker;
}
