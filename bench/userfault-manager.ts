import { parentPort, workerData } from 'node:worker_threads';
import { Arena, attachMm, createPageOps, Sync } from '../src/mm/index.ts';
import type { Ptr } from '../src/sync/struct.ts';

// The manager of `bench/userfault.ts` on a thread of its own: reads a fault, answers it with COPY, and sleeps when
// there is none, as a program around poll and read would.

const PAGE = 4096;
const { memory, context } = workerData as { memory: WebAssembly.Memory; context: number };
const arena = Arena.attach(memory);
const core = attachMm(new Sync(arena), { pageOps: createPageOps(memory, true) });
const ctx = context as Ptr<'uffd'>;
const { uffd, uffdWait } = core.layout;
const { queues } = core.uffds;
const source = new Uint8Array(PAGE).fill(7);
const END = -1;

let [vpn, serial] = [0, 0];
const note = (entry: Ptr<'uffdWait'>): void => {
  vpn = uffdWait.vpn.get(entry);
  serial = uffdWait.serial.get(entry);
};

parentPort!.postMessage('ready');
const word = ctx + uffd.ready.at;
for (;;) {
  const ready = Atomics.load(arena.words, word);
  const entry = queues.peek(ctx, note);
  if (entry !== 0 && queues.taken(ctx, entry, serial)) {
    if (core.mfill.copy(ctx, vpn * PAGE, source, PAGE) !== 0) throw new Error('COPY failed');
  } else if (uffd.flags.get(ctx) === END) break;
  else core.uffdRead.wait(ctx, ready, 100);
}
core.close();
parentPort!.close();
