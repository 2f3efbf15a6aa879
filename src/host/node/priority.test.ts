import { execFileSync } from 'node:child_process';
import { expect, test } from 'vitest';

const module = JSON.stringify(new URL('./priority.ts', import.meta.url).href);
/** Nice values of a process's threads, by thread; the main one's is the first. */
const PROGRAM = `
  const { engineYields, threadYields } = await import(${module});
  const { readdirSync, readFileSync } = await import('node:fs');
  const { Worker } = await import('node:worker_threads');
  engineYields();
  // The engine may start threads later, as this one does.
  const late = new Worker('import { parentPort } from "node:worker_threads"; parentPort.once("message", () => {});', { eval: true });
  await new Promise(resolve => late.once('online', resolve));
  const nice = thread => Number(readFileSync('/proc/self/task/' + thread + '/stat', 'utf8').split(') ')[1].split(' ')[16]);
  const main = nice(process.pid);
  const all = readdirSync('/proc/self/task').map(nice);
  threadYields();
  console.log(JSON.stringify({ main, all, after: nice(process.pid) }));
  late.postMessage(0);
`;

test.skipIf(process.platform !== 'linux')(
  "the engine's threads yield, and neither the main thread nor those that come later do until they say so",
  () => {
    const args = ['--import', 'tsx', '--input-type=module', '-e', PROGRAM];
    const { main, all, after } = JSON.parse(execFileSync(process.execPath, args, { encoding: 'utf8' }));
    expect(main).toBe(0);
    expect(all.filter((nice: number) => nice === 10).length).toBeGreaterThanOrEqual(4);
    // The main thread and the worker.
    expect(all.filter((nice: number) => nice === 0).length).toBeGreaterThanOrEqual(2);
    expect(after).toBe(10);
  },
);
