import { parentPort } from 'node:worker_threads';
import { findCase } from './cases/index.ts';
import type { Options } from './explorer.ts';
import { Pool } from './pool.ts';
import { runCase } from './run.ts';

// Explores whole cases with a pool of its own, so that several run side by side.

export type JobTask = { name: string; profile: string; options: Options };

const port = parentPort!;
const pool = new Pool();
port.on('message', async (task: JobTask) => {
  port.postMessage(await runCase(pool, await findCase(task.name), task.profile, task.options));
});
port.postMessage('ready');
