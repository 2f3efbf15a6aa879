import { workerData } from 'node:worker_threads';
import { keepCompiled } from '../host/node/keep-compiled.ts';
import { monotonicMs } from '../host/world.ts';
import { Host } from '../machine/host.ts';
import type { HostWorkerData } from './host-worker.ts';
import { nodePorts } from './node-ports.ts';

// Makes regions of what is hot, so that those who run into it need not.

const { share, control } = workerData as HostWorkerData;
const host = Host.attach(share, nodePorts);

/** By then most of the translator was needed once. */
const KEEP_MS = 1000;
const since = monotonicMs();

try {
  host.translate(control, () => {
    if (monotonicMs() - since > KEEP_MS) keepCompiled();
  });
} finally {
  host.mm.close();
}
