import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import { Swap } from '../swap/swap.ts';
import type { VmstatName } from '../vmstat.ts';
import { Lru } from './lru.ts';
import { MemcgFiles } from './memcg-files.ts';
import { Memcontrol } from './memcontrol.ts';
import { Psi } from './psi.ts';
import { type ReclaimLayout, reclaimLayout } from './reclaim-layout.ts';
import type { PagesPort, RmapPort, UnmapBatchPort, WordsPort } from './reclaim-ports.ts';
import { Vmscan, type VmscanDeps } from './vmscan.ts';

export type ReclaimDeps = {
  /** See PsiDeps. */
  readonly clock?: (() => number) | undefined;
  readonly processors?: number | undefined;
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly breaks?: MmBreaks;
  readonly heap: WordsPort;
  readonly pages: PagesPort;
  readonly vmstat: { add(name: VmstatName, by: number): void };
};

/** Makes what reclaim keeps in the arena. Once per arena, before the first `createReclaim`. */
export function initReclaim(deps: Omit<ReclaimDeps, 'pages' | 'vmstat'>): void {
  const reclaim = reclaimLayout(deps.sync.words);
  Swap.init({ ...deps, reclaim });
  Lru.init({ ...deps, reclaim });
  Psi.init({ ...deps, reclaim });
}

/**
 * Reclaim as one thread sees it. The reverse map needs the swap, and vmscan needs the reverse map: so
 * `connect` comes second, and until then every charge beyond a limit fails.
 */
export function createReclaim(deps: ReclaimDeps) {
  const reclaim: ReclaimLayout = reclaimLayout(deps.sync.words);
  const lru = new Lru({ ...deps, reclaim });
  const swap = new Swap({ ...deps, reclaim, refaulted: (pfn, age) => lru.refaulted(pfn, age) });
  const psi = new Psi({ ...deps, reclaim, clock: deps.clock ?? (() => 0) });
  let take = (_memcg: Ptr<'memcg'>, _pages: number): number => 0;
  const requested = (memcg: Ptr<'memcg'>, pages: number): number => take(memcg, pages);
  /** Whoever needs memory now does the work itself, and loses the time. */
  const stallReclaim = (memcg: Ptr<'memcg'>, pages: number): number => {
    deps.vmstat.add('allocstall', 1);
    psi.enter(memcg);
    const freed = take(memcg, pages);
    psi.leave(memcg);
    return freed;
  };
  const createLruvec = (): Ptr<'lruvec'> => lru.createLruvec();
  const memcontrol = new Memcontrol({ ...deps, psi, stallReclaim, reclaim: requested, createLruvec });
  return {
    ...{ lru, swap, psi, memcontrol, stallReclaim },
    files: new MemcgFiles({ ...deps, memcontrol, psi, lru, reclaim: requested }),
    connect<B extends UnmapBatchPort>(rest: {
      rmap: RmapPort<B>;
      batch: B;
      breaks: MmBreaks;
      passEnd?: VmscanDeps<B>['passEnd'];
      zoneIsLow?: VmscanDeps<B>['zoneIsLow'];
    }): Vmscan<B> {
      const vmscan = new Vmscan<B>({ ...deps, ...rest, lru, swap, memcontrol });
      take = (memcg, pages) => vmscan.reclaim(memcg, pages);
      return vmscan;
    },
  };
}
