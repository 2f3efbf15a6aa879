import { PAGE_SIZE } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { kib } from './format.ts';
import { frameCensus, lruCounts } from './frame-census.ts';

/** As /proc/meminfo reads: the lines that have a meaning here, in Linux's order. */
export function meminfo(core: MmCore): string {
  core.lru.drainAll();
  const frames = frameCensus(core);
  const lists = lruCounts(core);
  const free = core.pageAlloc.freeFrames;
  const { total, used } = core.swap.slots;
  const pages: Record<string, number> = {
    ...{ MemTotal: core.sync.arena.frames, MemFree: free, MemAvailable: free },
    ...{ Buffers: 0, Cached: frames.shmem, SwapCached: frames.swapCached },
    ...{ Active: lists.active, Inactive: lists.inactive },
    ...{ 'Active(anon)': lists.active, 'Inactive(anon)': lists.inactive },
    ...{ 'Active(file)': 0, 'Inactive(file)': 0, Unevictable: lists.unevictable },
    Mlocked: frames.mlocked,
    ...{ SwapTotal: total, SwapFree: total - used, AnonPages: frames.anonMapped },
    ...{ Mapped: frames.shmemMapped, Shmem: frames.shmem, Slab: frames.slab, PageTables: frames.tables },
  };
  return Object.entries(pages)
    .map(([name, count]) => kib(name, (count * PAGE_SIZE) / 1024))
    .join('');
}
