import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import { Swap } from '../swap/swap.ts';
import type { VmstatName } from '../vmstat.ts';
import { Lru } from './lru.ts';
import { Memcontrol } from './memcontrol.ts';
import { type ReclaimLayout, reclaimLayout } from './reclaim-layout.ts';
import type { PagesPort, RmapPort, UnmapBatchPort, WordsPort } from './reclaim-ports.ts';
import { Vmscan, type VmscanDeps } from './vmscan.ts';

export type ReclaimDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly heap: WordsPort;
  readonly pages: PagesPort;
  readonly vmstat: { add(name: VmstatName, by: number): void };
};

/** Makes what reclaim keeps in the arena. Once per arena, before the first `createReclaim`. */
export function initReclaim(deps: Omit<ReclaimDeps, 'pages' | 'vmstat'>): void {
  const reclaim = reclaimLayout(deps.sync.words);
  Swap.init({ ...deps, reclaim });
  Lru.init({ ...deps, reclaim });
}

/**
 * Reclaim as one thread sees it. The reverse map needs the swap, and vmscan needs the reverse map: so
 * `connect` comes second, and until then every charge beyond a limit fails.
 */
export function createReclaim(deps: ReclaimDeps) {
  const reclaim: ReclaimLayout = reclaimLayout(deps.sync.words);
  const lru = new Lru({ ...deps, reclaim });
  const swap = new Swap({ ...deps, reclaim, refaulted: (pfn, age) => lru.refaulted(pfn, age) });
  let direct = (_memcg: Ptr<'memcg'>, _pages: number): number => 0;
  const memcontrol = new Memcontrol({
    ...deps,
    reclaim: (memcg, pages) => direct(memcg, pages),
    createLruvec: () => lru.createLruvec(),
  });
  return {
    lru,
    swap,
    memcontrol,
    connect<B extends UnmapBatchPort>(rest: {
      rmap: RmapPort<B>;
      batch: B;
      breaks: MmBreaks;
      passEnd?: VmscanDeps<B>['passEnd'];
      zoneIsLow?: VmscanDeps<B>['zoneIsLow'];
    }): Vmscan<B> {
      const vmscan = new Vmscan<B>({ ...deps, ...rest, lru, swap, memcontrol });
      direct = (memcg, pages) => {
        deps.vmstat.add('allocstall', 1);
        return vmscan.reclaim(memcg, pages);
      };
      return vmscan;
    },
  };
}
