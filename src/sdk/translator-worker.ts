import { workerData } from 'node:worker_threads';
import { Host } from '../machine/host.ts';
import type { HostWorkerData } from './host-worker.ts';
import { nodePorts } from './node-ports.ts';

// Makes regions of what is hot, so that those who run into it need not.

const { share, control } = workerData as HostWorkerData;
const host = Host.attach(share, nodePorts);

try {
  host.translate(control);
} finally {
  host.mm.close();
}
