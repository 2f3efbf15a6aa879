import { workerData } from 'node:worker_threads';
import { Host, type HostShare } from '../machine/host.ts';
import { nodePorts } from './node-ports.ts';

// kswapd: keeps every VM a little below its limit, so that faults seldom reclaim for themselves.

const { share, control } = workerData as { share: HostShare; control: number };
const host = Host.attach(share, nodePorts);
const BUSY_MS = 1;
const QUIET_MS = 50;

while (Atomics.load(host.words, control) === 0) {
  const worked = host.housekeep();
  // A word of its own, which nobody notifies but to end it: input for a machine is no reason to reclaim.
  Atomics.wait(host.words, host.housekeepWord, 0, worked ? BUSY_MS : QUIET_MS);
}
host.mm.close();
