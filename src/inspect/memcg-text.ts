import { PAGE_SIZE } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { pressureText } from '../mm/reclaim/psi.ts';
import type { Ptr } from '../sync/struct.ts';
import { valuesText } from './format.ts';
import { frameCensus, lruCounts } from './frame-census.ts';

type Memcg = Ptr<'memcg'>;

/** Files of a cgroup's memory controller that can be read. */
export const MEMCG_FILES = [
  ...['memory.current', 'memory.peak', 'memory.max', 'memory.high', 'memory.low', 'memory.swap.current'],
  ...['memory.swap.max', 'memory.events', 'memory.stat', 'memory.pressure'],
] as const;

/** The text of one of MEMCG_FILES, or undefined when there is no such file. Linux: memory_files. */
export function memcgText(core: MmCore, memcg: Memcg, file: string): string | undefined {
  const { memcgFiles } = core;
  switch (file) {
    case 'memory.current':
      return `${memcgFiles.current(memcg)}\n`;
    case 'memory.peak':
      return `${memcgFiles.peak(memcg)}\n`;
    case 'memory.max':
      return limit(memcgFiles.max(memcg));
    case 'memory.high':
      return limit(memcgFiles.high(memcg));
    case 'memory.low':
      return limit(memcgFiles.low(memcg));
    case 'memory.swap.current':
      return `${memcgFiles.swapCurrent(memcg)}\n`;
    case 'memory.swap.max':
      return limit(memcgFiles.swapMax(memcg));
    case 'memory.events':
      return eventsText(core, memcg);
    case 'memory.stat':
      return memcgStatText(core, memcg);
    case 'memory.pressure':
      return pressureText(memcgFiles.pressure(memcg));
    default:
      return undefined;
  }
}

const limit = (bytes: number | undefined): string => `${bytes ?? 'max'}\n`;

function eventsText(core: MmCore, memcg: Memcg): string {
  const { low, high, max, oom, oomKill } = core.memcgFiles.events(memcg);
  return valuesText(Object.entries({ low, high, max, oom, oom_kill: oomKill, oom_group_kill: 0 }));
}

/** memory.stat in Linux 6.12's order, without the lines of what we don't keep; sizes are in bytes. */
function memcgStatText(core: MmCore, memcg: Memcg): string {
  core.lru.drainAll();
  const frames = frameCensus(core, memcg);
  const lists = lruCounts(core, memcg);
  const l = core.layout.lruvec;
  const lruvec = core.lru.lruvecOf(memcg);
  const sizes = {
    ...{ anon: frames.anonMapped, file: frames.shmem, shmem: frames.shmem, file_mapped: frames.shmemMapped },
    ...{ swapcached: frames.swapCached, inactive_anon: lists.inactive, active_anon: lists.active },
    unevictable: lists.unevictable,
  };
  const events = {
    workingset_refault_anon: l.refaults.load(lruvec) >>> 0,
    workingset_activate_anon: l.activations.load(lruvec) >>> 0,
    pgscan: l.pgscan.load(lruvec) >>> 0,
    pgsteal: l.pgsteal.load(lruvec) >>> 0,
    pgactivate: l.pgactivate.load(lruvec) >>> 0,
    pgdeactivate: l.pgdeactivate.load(lruvec) >>> 0,
  };
  const bytes = Object.entries(sizes).map(([name, pages]) => [name, pages * PAGE_SIZE] as const);
  return valuesText([...bytes, ...Object.entries(events)]);
}
