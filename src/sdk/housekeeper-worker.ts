import { workerData } from 'node:worker_threads';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { Host } from '../machine/host.ts';
import type { HostWorkerData } from './host-worker.ts';
import { nodePorts } from './node-ports.ts';

// kswapd, ksmd and khugepaged: what Linux does behind the guests, so that they seldom do it for themselves.

const { share, control } = workerData as HostWorkerData;
const host = Host.attach(share, nodePorts);

while (Atomics.load(host.words, control) === 0) {
  const pause = host.housekeep();
  keepCompiled();
  // A word of its own, which nobody notifies but to end it: input for a machine is no reason to reclaim.
  Atomics.wait(host.words, host.housekeepWord, 0, pause);
}
host.mm.close();
