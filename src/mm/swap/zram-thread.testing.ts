import { parentPort, workerData } from 'node:worker_threads';
import { Random } from '../../base/random.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { Arena, frameByte } from '../../sync/arena.ts';
import { Sync } from '../../sync/sync.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import { PAGE_SAMPLES } from '../../wasm/page-samples.ts';
import type { FramePort } from './swap-backend.ts';
import { Zram } from './zram.ts';

/** Words in front of the frame stack: its lock, then how many frames are free. */
export const STACK_HEAD = 2;

/** Frames for several threads: a stack in the arena at `at`, under 'zone'. */
export function sharedFrames(sync: Sync, at: number): FramePort {
  const words = sync.words;
  return {
    allocFrame: () => {
      sync.lock('zone', at);
      const pfn = words[at + 1] === 0 ? -1 : (words[at + STACK_HEAD + --words[at + 1]] as number);
      sync.unlock('zone', at);
      return pfn;
    },
    freeFrame: pfn => {
      sync.lock('zone', at);
      words[at + STACK_HEAD + words[at + 1]++] = pfn;
      sync.unlock('zone', at);
    },
  };
}

export type ZramThreadData = {
  memory: WebAssembly.Memory;
  /** Word index of the frame stack, and of words for this thread's scratch. */
  stack: number;
  scratch: number;
  page: number;
  /** This thread's slots: from, to. */
  slots: [number, number];
  steps: number;
  seed: number;
};

const KINDS = Object.keys(PAGE_SAMPLES);

/** Works on its own slots of the common device, compacting now and then; returns how many pages were wrong. */
export function zramThread(data: ZramThreadData): { wrong: number; reads: number; compacted: number } {
  const arena = Arena.attach(data.memory);
  const sync = new Sync(arena, { lockdep: true });
  const frames = sharedFrames(sync, data.stack);
  const ops = createPageOps(arena.memory, arena.shared);
  const zram = Zram.attach({ arena, sync, ops, frames, heap: { alloc: () => data.scratch } });
  const random = new Random(data.seed);
  const bytes = arena.bytes.subarray(frameByte(data.page), frameByte(data.page) + PAGE_SIZE);
  const held = new Map<number, Uint8Array>();
  const tally = { wrong: 0, reads: 0, compacted: 0 };
  const read = (slot: number) => {
    const want = held.get(slot);
    if (want === undefined) return;
    tally.reads++;
    if (zram.readPage(slot, data.page) !== 'ok' || bytes.some((byte, i) => byte !== want[i])) tally.wrong++;
  };
  for (let i = 0; i < data.steps; i++) {
    const slot = data.slots[0] + random.below(data.slots[1] - data.slots[0]);
    const what = random.below(5);
    if (what < 2) {
      PAGE_SAMPLES[random.pick(KINDS)]!(bytes, random);
      const outcome = zram.writePage(slot, data.page);
      held.delete(slot);
      if (outcome === 'ok') held.set(slot, bytes.slice());
    } else if (what === 2) {
      zram.freeSlot(slot);
      held.delete(slot);
    } else read(slot);
    if (random.oneIn(20)) tally.compacted += zram.compact(2);
  }
  for (let slot = data.slots[0]; slot < data.slots[1]; slot++) {
    read(slot);
    zram.freeSlot(slot);
  }
  sync.lockdep?.assertNone();
  return tally;
}

if (parentPort !== null && (workerData as Partial<ZramThreadData> | null)?.stack !== undefined) {
  parentPort.postMessage(zramThread(workerData as ZramThreadData));
}
