import type { Worker } from 'node:worker_threads';
import { setEngineFlags } from '../host/node/engine-flags.ts';
import { spawnWorker } from '../host/node/spawn.ts';
import type { MachineWorkerData } from './worker-driver.ts';

// A machine's worker takes a tenth of a second to load its modules. So it is started while this thread still loads its
// own, or reads the image, and told what to run when that is known.

/** There where this module is part of a script that `runScript` runs: the worker that was started before (cli/main.ts). */
declare const handed: Worker | undefined;

const waiting: Worker[] = [];
/** Those of them that no launch counts on yet. */
let spare = 0;
if (typeof handed !== 'undefined' && handed !== undefined) {
  watch(handed);
  spare = 1;
}

const spawn = (data: MachineWorkerData | undefined): Worker =>
  spawnWorker(new URL('./machine-worker.ts', import.meta.url), data);

/** A worker for the machine that the next launch will be. It keeps no process alive. */
export function startWorker(): Worker {
  setEngineFlags();
  const worker = spawn(undefined);
  worker.unref();
  return worker;
}

/** Sees to a worker for a machine that is about to be. */
export function standBy(): void {
  if (spare > 0) spare--;
  else watch(startWorker());
}

function watch(worker: Worker): void {
  waiting.push(worker);
  const forget = () => {
    const at = waiting.indexOf(worker);
    if (at !== -1) waiting.splice(at, 1);
    spare = Math.min(spare, waiting.length);
  };
  // The machine then gets a new one, which fails in its sight if it must.
  worker.on('error', forget).on('exit', forget);
}

/** The machine will not be. */
export const standDown = (): unknown => waiting.pop()?.terminate();

/** What goes to the worker without a copy: a kernel has 30 MB. */
function handedOver({ launch: { files } }: MachineWorkerData): ArrayBuffer[] {
  const buffers = 'kernel' in files ? [files.kernel, files.initrd] : [];
  return buffers.flatMap(bytes => (isWhole(bytes) ? [bytes.buffer] : []));
}

const isWhole = (bytes: Uint8Array | undefined): bytes is Uint8Array<ArrayBuffer> =>
  bytes?.buffer instanceof ArrayBuffer && bytes.byteLength === bytes.buffer.byteLength;

/** A worker that runs this machine: one that stands by, or a new one. */
export function machineWorker(data: MachineWorkerData): Worker {
  const worker = waiting.pop();
  spare = Math.min(spare, waiting.length);
  if (worker === undefined) return spawn(data);
  worker.ref();
  worker.postMessage(data, handedOver(data));
  return worker;
}
