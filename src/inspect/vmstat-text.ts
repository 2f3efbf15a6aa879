import type { MmCore } from '../mm/index.ts';
import { VMSTAT, type VmstatName } from '../mm/vmstat.ts';
import { valuesText } from './format.ts';
import { type FrameCensus, frameCensus, type LruCounts, lruCounts } from './frame-census.ts';

// Names of /proc/vmstat in Linux 6.12's order. What we don't keep is left out; what Linux has no name for, too.

const ORDER = [
  ...['nr_free_pages', 'nr_zone_inactive_anon', 'nr_zone_active_anon', 'nr_zone_unevictable', 'nr_mlock'],
  ...['nr_zspages', 'nr_inactive_anon', 'nr_active_anon', 'nr_unevictable', 'nr_slab_unreclaimable'],
  ...['workingset_refault_anon', 'workingset_activate_anon', 'workingset_restore_anon'],
  ...['nr_anon_pages', 'nr_mapped', 'nr_file_pages', 'nr_shmem', 'nr_anon_transparent_hugepages'],
  ...['nr_page_table_pages', 'nr_swapcached', 'pswpin', 'pswpout', 'allocstall_normal', 'pgfree'],
  ...['pgactivate', 'pgdeactivate', 'pglazyfree', 'pgfault', 'pgmajfault', 'pglazyfreed', 'pgrefill'],
  ...['pgreuse', 'pgscan_anon', 'pgsteal_anon', 'pgrotated', 'oom_kill', 'numa_pte_updates'],
  ...['numa_huge_pte_updates', 'numa_hint_faults', 'numa_hint_faults_local', 'numa_pages_migrated'],
  ...['pgmigrate_success', 'pgmigrate_fail', 'unevictable_pgs_culled', 'unevictable_pgs_scanned'],
  ...['unevictable_pgs_rescued', 'unevictable_pgs_mlocked', 'unevictable_pgs_munlocked'],
  ...['unevictable_pgs_cleared', 'unevictable_pgs_stranded', 'thp_fault_alloc', 'thp_fault_fallback'],
  ...['thp_fault_fallback_charge', 'thp_collapse_alloc', 'thp_collapse_alloc_failed', 'thp_split_page'],
  ...['thp_split_page_failed', 'thp_deferred_split_page', 'thp_split_pmd', 'thp_scan_exceed_none_pte'],
  ...['thp_scan_exceed_swap_pte', 'thp_scan_exceed_share_pte', 'thp_zero_page_alloc'],
  ...['thp_zero_page_alloc_failed', 'thp_swpout', 'thp_swpout_fallback', 'balloon_inflate'],
  ...['balloon_deflate', 'balloon_migrate', 'swap_ra', 'swap_ra_hit', 'swpin_zero', 'swpout_zero'],
  ...['ksm_swpin_copy', 'cow_ksm'],
];

/** Linux counts by zone or by kind what we count once. */
const ALIAS: Record<string, VmstatName> = {
  ...{ allocstall_normal: 'allocstall', pgscan_anon: 'pgscan', pgsteal_anon: 'pgsteal' },
};

const GAUGES: Record<string, (core: MmCore, frames: FrameCensus, lists: LruCounts) => number> = {
  nr_free_pages: core => core.pageAlloc.freeFrames,
  nr_zone_inactive_anon: (_core, _frames, lists) => lists.inactive,
  nr_zone_active_anon: (_core, _frames, lists) => lists.active,
  nr_zone_unevictable: (_core, _frames, lists) => lists.unevictable,
  nr_unevictable: (_core, _frames, lists) => lists.unevictable,
  nr_mlock: (_core, frames) => frames.mlocked,
  nr_zspages: (_core, frames) => frames.zram,
  nr_inactive_anon: (_core, _frames, lists) => lists.inactive,
  nr_active_anon: (_core, _frames, lists) => lists.active,
  nr_slab_unreclaimable: (_core, frames) => frames.slab,
  nr_anon_pages: (_core, frames) => frames.anonMapped,
  nr_mapped: (_core, frames) => frames.shmemMapped,
  nr_file_pages: (_core, frames) => frames.shmem + frames.swapCached,
  nr_shmem: (_core, frames) => frames.shmem,
  nr_page_table_pages: (_core, frames) => frames.tables,
  nr_swapcached: (_core, frames) => frames.swapCached,
};

/** As /proc/vmstat reads (M-37). */
export function vmstatText(core: MmCore): string {
  return valuesText(vmstatValues(core));
}

function* vmstatValues(core: MmCore): Generator<readonly [string, number]> {
  core.lru.drainAll();
  const frames = frameCensus(core);
  const lists = lruCounts(core);
  for (const name of ORDER) {
    const counter = ALIAS[name] ?? name;
    const gauge = GAUGES[name];
    if (gauge !== undefined) yield [name, gauge(core, frames, lists)];
    else if (counter in VMSTAT) yield [name, core.vmstat.read(counter as VmstatName)];
  }
}
