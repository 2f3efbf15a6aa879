import { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import { createPageOps } from '../wasm/page-ops.ts';
import { initMm, type MmConfig, type MmCore } from './core.ts';

/** A small mm for one test: private memory, lock order checked, freed frames poisoned. */
export function testMm(options: { frames?: number } & Partial<MmConfig> = {}): MmCore {
  const { frames = 1024, ...config } = options;
  const arena = Arena.create({ frames, heapBytes: 1 << 20, shared: false });
  const sync = new Sync(arena, { lockdep: true });
  return initMm(sync, { pageOps: createPageOps(arena.memory, false), poison: true, ...config });
}
