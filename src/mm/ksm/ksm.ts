import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { frameByte, Root } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { Heap } from '../heap.ts';
import type { Memory } from '../memory.ts';
import type { PageAlloc } from '../page-alloc.ts';
import { nextTable } from '../page-table.ts';
import type { Slabs } from '../slab.ts';
import { KsmItems } from './ksm-items.ts';
import { BUCKETS_PER_FRAME, KSM_MERGE, KsmMerge, type KsmRoot, KsmRun, ksmLayout } from './ksm-layout.ts';
import { type KsmMergeDeps, KsmMerger } from './ksm-merge.ts';
import { type KsmScanDeps, KsmScanner } from './ksm-scan.ts';
import { KsmTable } from './ksm-table.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type KsmDeps = Omit<KsmMergeDeps, 'ksm' | 'items'> &
  Pick<KsmScanDeps, 'afterMm'> & {
    readonly slabs: Slabs;
    readonly pageAlloc: PageAlloc;
    readonly memory: Pick<Memory, 'unshare'>;
  };

/** Settings by Linux's names, with the values that they may have. */
const SETTINGS = {
  run: [0, 2],
  pages_to_scan: [0, 0x7fffffff],
  sleep_millisecs: [0, 0x7fffffff],
  use_zero_pages: [0, 1],
  max_page_sharing: [2, 0x7fffffff],
} as const;
export type KsmSetting = keyof typeof SETTINGS;
/** Whose pages may be merged with whose. */
export type KsmMergeMode = (typeof KSM_MERGE)[number];

/** Figures by the names of /sys/kernel/mm/ksm. `general_profit` in bytes, the rest in pages or passes. */
export type KsmStats = Record<KsmSetting, number> & {
  merge: KsmMergeMode;
  pages_shared: number;
  pages_sharing: number;
  pages_unshared: number;
  pages_volatile: number;
  pages_scanned: number;
  full_scans: number;
  general_profit: number;
  /** Pages given up for the zero page, ever. */
  zero_pages: number;
};

/**
 * Merges equal pages of address spaces of one owner: what is mergeable is said by MADV_MERGEABLE. One thread's view;
 * any thread may take a step, and one at a time does. Linux: mm/ksm.c.
 */
export class Ksm {
  readonly #deps: KsmDeps;
  readonly #ksm: ReturnType<typeof ksmLayout>;
  readonly #root: KsmRoot;
  readonly #table: KsmTable;
  readonly #items: KsmItems;
  readonly #scanner: KsmScanner;

  constructor(deps: KsmDeps) {
    this.#deps = deps;
    this.#ksm = ksmLayout(deps.sync.words);
    this.#root = deps.sync.arena.root(Root.ksm) as KsmRoot;
    this.#table = new KsmTable({ ...deps, ksm: this.#ksm });
    this.#items = new KsmItems({ ...deps, ksm: this.#ksm, table: this.#table });
    const merger = new KsmMerger({ ...deps, ksm: this.#ksm, items: this.#items });
    this.#scanner = new KsmScanner({
      ...deps,
      ksm: this.#ksm,
      items: this.#items,
      table: this.#table,
      merger,
    });
  }

  /** Once per arena, before the first instance. Settings are Linux's but for the owner. */
  static init(sync: Sync, heap: Heap): void {
    const { ksm } = ksmLayout(sync.words);
    const root = heap.alloc(ksm.words) as KsmRoot;
    let buckets = BUCKETS_PER_FRAME;
    while (buckets < sync.arena.frames) buckets *= 2;
    ksm.mask.set(root, buckets - 1);
    ksm.directory.set(root, heap.alloc(buckets / BUCKETS_PER_FRAME));
    ksm.seq.set(root, 1);
    ksm.pages_to_scan.store(root, 100);
    ksm.sleep_millisecs.store(root, 20);
    ksm.max_page_sharing.store(root, 256);
    ksm.merge.store(root, KsmMerge.SameOwner);
    sync.arena.setRoot(Root.ksm, root);
  }

  /**
   * Changes a setting. `run`: 0 stops, 1 lets `background` work, 2 also gives every merged page's mappings pages
   * of their own again and forgets all. Throws EINVAL for what isn't one, ENOMEM when 2 could not be done.
   */
  set(name: KsmSetting, value: number): void {
    const bounds = SETTINGS[name];
    if (bounds === undefined || !Number.isInteger(value) || value < bounds[0] || value > bounds[1])
      throw new Errno('EINVAL', 'ksm', `${name} ${value}`);
    this.#ksm.ksm[name].store(this.#root, value);
    if (name !== 'run') return;
    if (value === KsmRun.Unmerge) this.#unmergeAll();
  }

  /** Whose pages may become one. Throws EBUSY while any are, as Linux does for merge_across_nodes. */
  setMerge(mode: KsmMergeMode): void {
    const value = KSM_MERGE.indexOf(mode);
    if (value < 0) throw new Errno('EINVAL', 'ksm', mode);
    this.#locked(() => {
      const { ksm } = this.#ksm;
      if (ksm.pages_shared.load(this.#root) > 0) throw new Errno('EBUSY', 'ksm', 'pages are merged');
      // Items of the pass under way lie where their owner of before put them.
      this.#scanner.restart();
      ksm.merge.store(this.#root, value);
    });
  }

  /** What paces the housekeeper. */
  settings(): { run: number; sleep_millisecs: number } {
    const { run, sleep_millisecs } = this.#ksm.ksm;
    return { run: run.load(this.#root), sleep_millisecs: sleep_millisecs.load(this.#root) };
  }

  /** One step of the housekeeper's: as many pages as `pages_to_scan` says, if it is to run. Returns how many. */
  background(): number {
    const { ksm } = this.#ksm;
    return ksm.run.load(this.#root) === KsmRun.Merge ? this.scan(ksm.pages_to_scan.load(this.#root)) : 0;
  }

  /**
   * Looks at up to `pages` pages, at most to the end of the pass; returns at how many. Whoever comes while another
   * thread scans does nothing. Requires: no lock.
   */
  scan(pages: number): number {
    const { sync } = this.#deps;
    const { ksm } = this.#ksm;
    const lock = this.#root + ksm.lock.at;
    if (ksm.merge.load(this.#root) === KsmMerge.Off) return 0;
    let seen = 0;
    for (let step = 0; step >= 0 && seen < pages; seen += Math.max(step, 0)) {
      if (!sync.tryLock('ksm', lock)) break;
      this.#activate();
      step = this.#scanner.step(pages - seen);
      sync.unlock('ksm', lock);
    }
    return seen;
  }

  /** Whole passes, for tests and benchmarks. */
  fullScans(passes: number): void {
    const { full_scans } = this.#ksm.ksm;
    const target = full_scans.load(this.#root) + passes;
    while (full_scans.load(this.#root) < target) this.scan(1 << 20);
  }

  #activate(): void {
    const { ksm } = this.#ksm;
    if (ksm.active.load(this.#root) !== 0) return;
    const { pageOps, pages } = this.#deps;
    ksm.zeroLo.set(this.#root, pageOps.hash64(frameByte(pages.zeroPage)));
    ksm.zeroHi.set(this.#root, pageOps.hashHigh());
    ksm.active.store(this.#root, 1);
  }

  #locked(work: () => void): void {
    const { sync } = this.#deps;
    const lock = this.#root + this.#ksm.ksm.lock.at;
    sync.lock('ksm', lock);
    try {
      work();
    } finally {
      sync.unlock('ksm', lock);
    }
  }

  /**
   * An address space that is exiting forgets its items; everything of it is unmapped. Who scans it holds the
   * lock and has seen that nobody uses it. Linux: __ksm_exit. Requires: nothing inside 'ksm'.
   */
  exit(mm: Mm): void {
    if (this.#ksm.ksm.active.load(this.#root) === 0) return;
    this.#locked(() => {
      this.#scanner.leave(mm);
      this.#dropItems(mm);
    });
  }

  #dropItems(mm: Mm): void {
    const { layout } = this.#deps;
    for (let item = layout.mm.ksmItems.load(mm); item !== 0; item = layout.mm.ksmItems.load(mm)) {
      this.#items.drop(item, 0 as Ptr<'ksmItem'>);
    }
  }

  /**
   * Gives the pages of [start, end) of a VMA that are merged to it alone, as copies; false when memory ran out
   * on the way. Their items go when a scan comes by. Requires: mmap. Linux: unmerge_ksm_pages.
   */
  unmerge(mm: Mm, vma: Vma, start: number, end: number): boolean {
    const { pageTable, memory } = this.#deps;
    for (let vpn = start; vpn < end; ) {
      if (pageTable.walk(mm, vpn) <= 0) {
        // No table, or a huge page: nothing in it is merged.
        vpn = nextTable(vpn);
        continue;
      }
      if (!memory.unshare(mm, vma, vpn)) return false;
      vpn++;
    }
    return true;
  }

  #unmergeAll(): void {
    let done = true;
    if (this.#ksm.ksm.active.load(this.#root) === 0) return;
    this.#locked(() => {
      this.#scanner.restart();
      // Nobody leaves the list while 'ksm' is held: `exit` comes first.
      for (let mm = this.#deps.afterMm(0 as Mm); mm !== 0; mm = this.#deps.afterMm(mm)) {
        done = this.#unmergeMm(mm) && done;
      }
      this.#scanner.sweepAll();
    });
    if (!done) throw new Errno('ENOMEM', 'ksm', 'no memory to give every page back');
  }

  #unmergeMm(mm: Mm): boolean {
    const { sync, layout, vmas } = this.#deps;
    const lock = mm + layout.mm.mmapLock.at;
    let done = true;
    sync.readLock('mmap', lock);
    // Who exits drops its pages and its items itself.
    const live = layout.mm.users.load(mm) !== 0;
    for (let i = 0; live && i < vmas.count(mm); i++) {
      const vma = vmas.at(mm, i);
      done = this.unmerge(mm, vma, layout.vma.start.get(vma), layout.vma.end.get(vma)) && done;
    }
    sync.readUnlock('mmap', lock);
    if (live && done) this.#dropItems(mm);
    return done;
  }

  /** All nodes, and the unstable table: for checks. */
  tables(): { nodes: Ptr<'ksmNode'>[]; unstable: Ptr<'ksmItem'>[]; seq: number; items: number } {
    const { ksm } = this.#ksm;
    const nodes: Ptr<'ksmNode'>[] = [];
    for (let at = ksm.nodes.get(this.#root); at !== 0; at = this.#deps.layout.ksmNode.next.get(at))
      nodes.push(at);
    const unstable = this.#table.unstable();
    return { nodes, unstable, seq: ksm.seq.get(this.#root), items: ksm.items.load(this.#root) };
  }

  /** Settings and figures. Each is a moment's; together they may be of two. */
  stats(): KsmStats {
    const { ksm } = this.#ksm;
    const read = (name: Exclude<keyof typeof ksm, 'words' | 'offsets'>): number => ksm[name].load(this.#root);
    const merged = read('pages_shared') + read('pages_sharing') + read('pages_unshared');
    return {
      run: read('run'),
      pages_to_scan: read('pages_to_scan'),
      sleep_millisecs: read('sleep_millisecs'),
      use_zero_pages: read('use_zero_pages'),
      max_page_sharing: read('max_page_sharing'),
      merge: KSM_MERGE[read('merge')] as KsmMergeMode,
      pages_shared: read('pages_shared'),
      pages_sharing: read('pages_sharing'),
      pages_unshared: read('pages_unshared'),
      pages_volatile: Math.max(0, read('items') - merged),
      pages_scanned: read('pages_scanned') >>> 0,
      full_scans: read('full_scans'),
      zero_pages: read('zero_pages') >>> 0,
      general_profit: read('pages_sharing') * PAGE_SIZE - read('items') * this.#deps.layout.ksmItem.words * 4,
    };
  }
}
