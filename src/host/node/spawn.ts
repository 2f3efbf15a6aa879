import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

/** True when this code runs from source, under tsx or vitest. */
const fromSource = import.meta.url.endsWith('.ts');

/**
 * Starts a worker from a module of ours, named by its source: `new URL('./x-worker.ts', import.meta.url)`.
 * Built, the same module is `.js` beside this one. A worker thread does not inherit a TypeScript loader on
 * Node 20, so from source it registers tsx first.
 */
export function spawnWorker(module: URL, workerData: unknown): Worker {
  if (!fromSource) return new Worker(fileURLToPath(module).replace(/\.ts$/, '.js'), { workerData });
  const load = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(module.href)}); });`;
  return new Worker(load, { eval: true, workerData });
}

/** Threads that this host runs at once. */
export const cores = (): number => availableParallelism();
