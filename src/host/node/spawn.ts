import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

/** True when this code runs from source, under tsx or vitest. */
const fromSource = import.meta.url.endsWith('.ts');

/**
 * Starts a worker from a module of ours, named by its source: `new URL('./x-worker.ts', import.meta.url)`. Built, the same
 * module is a script beside this one, which `thread-main.ts` runs. A worker thread does not inherit a TypeScript loader
 * on Node 20, so from source it registers tsx first.
 */
export function spawnWorker(module: URL, workerData: unknown): Worker {
  if (!fromSource) {
    const script = fileURLToPath(module).replace(/\.ts$/, '.cjs');
    return new Worker(join(dirname(script), 'thread-main.cjs'), { argv: [basename(script)], workerData });
  }
  const load = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(module.href)}); });`;
  return new Worker(load, { eval: true, workerData });
}

/** Threads that this host runs at once. */
export const cores = (): number => availableParallelism();
