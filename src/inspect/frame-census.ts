import type { MmCore } from '../mm/index.ts';
import { PageFlag } from '../mm/layout.ts';
import type { Ptr } from '../sync/struct.ts';

/** Frames by what they are used for. */
export type FrameCensus = {
  /** Anonymous pages that somebody maps. */
  anonMapped: number;
  /** Pages of shared mappings, mapped or not. */
  shmem: number;
  shmemMapped: number;
  swapCached: number;
  mlocked: number;
  tables: number;
  slab: number;
  zram: number;
};

/**
 * Looks at every frame that was ever handed out, without a lock: each figure is right to within what changes
 * meanwhile. Of one group alone unless `memcg` is undefined.
 */
export function frameCensus(core: MmCore, memcg?: Ptr<'memcg'>): FrameCensus {
  const { page } = core.layout;
  const found = {
    ...{ anonMapped: 0, shmem: 0, shmemMapped: 0, swapCached: 0, mlocked: 0, tables: 0, slab: 0, zram: 0 },
  };
  for (let pfn = core.sync.arena.firstFrame; pfn < core.pageAlloc.bump; pfn++) {
    const p = core.pages.at(pfn);
    const flags = page.flags.load(p);
    if ((flags & (PageFlag.Free | PageFlag.Reserved)) !== 0) continue;
    if (memcg === undefined || page.memcg.load(p) === memcg) count(found, flags, page.mapcount.load(p) > 0);
  }
  return found;
}

function count(into: FrameCensus, flags: number, mapped: boolean): void {
  if ((flags & PageFlag.Table) !== 0) into.tables++;
  else if ((flags & PageFlag.Slab) !== 0) into.slab++;
  else if ((flags & PageFlag.Zram) !== 0) into.zram++;
  else if ((flags & PageFlag.Shmem) !== 0) {
    into.shmem++;
    if (mapped) into.shmemMapped++;
  } else if (mapped) into.anonMapped++;
  if ((flags & PageFlag.SwapCache) !== 0) into.swapCached++;
  if ((flags & PageFlag.Mlocked) !== 0) into.mlocked++;
}

export type LruCounts = { active: number; inactive: number; unevictable: number };

/** Pages on the lists of one group, or of all. */
export function lruCounts(core: MmCore, memcg?: Ptr<'memcg'>): LruCounts {
  const counts = { active: 0, inactive: 0, unevictable: 0 };
  const add = (lruvec: Ptr<'lruvec'>): void => {
    counts.active += core.lru.count(lruvec, true);
    counts.inactive += core.lru.count(lruvec, false);
    counts.unevictable += core.lru.unevictable(lruvec);
  };
  if (memcg !== undefined) add(core.lru.lruvecOf(memcg));
  else {
    add(core.lru.lruvecOf(0 as Ptr<'memcg'>));
    for (let m = core.memcontrol.first(); m !== 0; m = core.layout.memcg.next.load(m))
      add(core.lru.lruvecOf(m));
  }
  return counts;
}
