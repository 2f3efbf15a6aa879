import { workerData } from 'node:worker_threads';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { monotonicMs } from '../host/world.ts';
import { HartRunner } from '../machine/hart-runner.ts';
import { Host } from '../machine/host.ts';
import { nodePorts } from './node-ports.ts';
import { CONTROL, pauseAt, type RunnerWorkerData, wakeWord } from './worker-driver.ts';

// Runs harts of a machine whose devices are on another worker.

const { share, machine, control, runner } = workerData as RunnerWorkerData;
const host = Host.attach(share, nodePorts);
const left = control + CONTROL.runners;
try {
  const wake = wakeWord(control, runner);
  const over = control + CONTROL.over;
  const pause = pauseAt(control);
  new HartRunner({ host, share: machine, runner, monotonicMs, wake, over, pause }).run();
  keepCompiled();
} finally {
  host.mm.close();
  // The last word: who waits for it gives back the memory that it is in.
  Atomics.sub(host.words, left, 1);
  Atomics.notify(host.words, left);
}
