import { once } from 'node:events';
import { expect, test } from 'vitest';
import { spawnWorker } from '../../host/node/spawn.ts';
import { Arena } from '../../sync/arena.ts';
import { Sync } from '../../sync/sync.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import { Zram } from './zram.ts';
import { STACK_HEAD, sharedFrames, type ZramThreadData } from './zram-thread.testing.ts';

const THREADS = 3;
const FRAMES = 300;
const SLOTS = 240;
const SCRATCH_WORDS = 4096;

test('three threads on one device read back what they wrote, and leave the pool empty', async () => {
  const arena = Arena.create({ frames: FRAMES + THREADS, heapBytes: 1 << 20, shared: true });
  let next = arena.heap;
  const heap = { alloc: (words: number) => (next += words) - words };
  const sync = new Sync(arena);
  const stack = heap.alloc(STACK_HEAD + FRAMES);
  const frames = sharedFrames(sync, stack);
  for (let i = 0; i < FRAMES; i++) frames.freeFrame(arena.firstFrame + i);
  const ops = createPageOps(arena.memory, true);
  const zram = Zram.create({ arena, sync, ops, heap, frames }, { slots: SLOTS });

  const share = SLOTS / THREADS;
  const results = await Promise.all(
    Array.from({ length: THREADS }, async (_, i) => {
      const data: ZramThreadData = {
        memory: arena.memory,
        stack,
        scratch: heap.alloc(SCRATCH_WORDS),
        page: arena.firstFrame + FRAMES + i,
        slots: [i * share, (i + 1) * share],
        steps: 12_000,
        seed: 100 + i,
      };
      const worker = spawnWorker(new URL('./zram-thread.testing.ts', import.meta.url), data);
      const [tally] = (await once(worker, 'message')) as [
        { wrong: number; reads: number; compacted: number },
      ];
      await worker.terminate();
      return tally;
    }),
  );
  expect(results.map(r => r.wrong)).toEqual([0, 0, 0]);
  expect(Math.min(...results.map(r => r.reads))).toBeGreaterThan(1000);
  expect(results.reduce((sum, r) => sum + r.compacted, 0)).toBeGreaterThan(10);
  expect(zram.stats()).toMatchObject({
    orig_data_size: 0,
    compr_data_size: 0,
    mem_used_total: 0,
    same_pages: 0,
    huge_pages: 0,
  });
  expect(arena.words[stack + 1]).toBe(FRAMES);
});
