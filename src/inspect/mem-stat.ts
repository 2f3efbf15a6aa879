import { PAGE_SIZE } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { isSwap, PageFlag, Pte, pmdIsHuge, pteIsPresent, ptePfn } from '../mm/layout.ts';
import type { Ptr } from '../sync/struct.ts';

/** What a guest's memory is made of now, in bytes, and what has happened to it since it started. */
export type MemoryStat = {
  /** In frames and charged. */
  residentBytes: number;
  limitBytes: number | undefined;
  /** Of the resident: used since the last look of reclaim, or on the active list; and the rest. */
  youngBytes: number;
  oldBytes: number;
  /** In swap. */
  swappedBytes: number;
  /** Reads as zero and costs nothing: the shared zero page. */
  zeroBytes: number;
  /** Of the resident: in pages of 2 MiB. */
  anonHugeBytes: number;
  /** Saved by merging equal pages, of all guests of the Host: pages_sharing. */
  mergedBytes: number;
  /** Share of the last ten seconds in which work waited for memory, in percent. */
  pressureSome: number;
  peakBytes: number;
  pgfault: number;
  pgmajfault: number;
  pswpin: number;
  pswpout: number;
  /** When this was taken; a monotonic clock. */
  atMs: number;
};

const UNLIMITED = 0x7fffffff;

/**
 * Looks at every pte of an mm, without a lock: each figure is right to within what changes meanwhile. The
 * events are the whole arena's.
 */
export function memoryStat(core: MmCore, mm: Ptr<'mm'> | undefined, atMs: number): MemoryStat {
  const { layout, vmstat } = core;
  const pages = mm === undefined ? NOTHING : countPages(core, mm);
  const memcg = mm === undefined ? 0 : layout.mm.memcg.get(mm);
  const max = memcg === 0 ? UNLIMITED : layout.memcg.max.load(memcg);
  return {
    residentBytes: pages.resident * PAGE_SIZE,
    limitBytes: max === UNLIMITED ? undefined : max * PAGE_SIZE,
    youngBytes: pages.young * PAGE_SIZE,
    oldBytes: (pages.resident - pages.young) * PAGE_SIZE,
    swappedBytes: pages.swapped * PAGE_SIZE,
    zeroBytes: pages.zero * PAGE_SIZE,
    anonHugeBytes: pages.huge * PAGE_SIZE,
    mergedBytes: core.ksm.stats().pages_sharing * PAGE_SIZE,
    pressureSome: core.memcgFiles.pressure(memcg as Ptr<'memcg'>).some.avg10,
    peakBytes: (memcg === 0 ? 0 : layout.memcg.peak.load(memcg)) * PAGE_SIZE,
    pgfault: vmstat.read('pgfault'),
    pgmajfault: vmstat.read('pgmajfault'),
    pswpin: vmstat.read('pswpin'),
    pswpout: vmstat.read('pswpout'),
    atMs,
  };
}

/**
 * What the address spaces of an arena hold, and how much of it each frame in use carries: bytes that were
 * touched and are still meant, for each byte of frames (O-9). Pages of zeros and shared pages count in each.
 */
export function overcommit(core: MmCore): { residentBytes: number; swappedBytes: number; ratio: number } {
  const { arena } = core.sync;
  const sum = { ...NOTHING };
  core.mms.tryForEach(0 as Ptr<'memcg'>, mm => {
    const pages = countPages(core, mm);
    for (const key of ['resident', 'young', 'swapped', 'zero'] as const) sum[key] += pages[key];
  });
  const used = Math.max(1, arena.frames - core.pageAlloc.freeFrames);
  const ratio = (sum.resident + sum.swapped + sum.zero) / used;
  return { residentBytes: sum.resident * PAGE_SIZE, swappedBytes: sum.swapped * PAGE_SIZE, ratio };
}

type Counts = { resident: number; young: number; swapped: number; zero: number; huge: number };
const HUGE_FRAMES = 512;
const NOTHING: Readonly<Counts> = { resident: 0, young: 0, swapped: 0, zero: 0, huge: 0 };

function countPages(core: MmCore, mm: Ptr<'mm'>): Counts {
  const counts = { ...NOTHING };
  const { words } = core.sync;
  const top = core.layout.mm.pgd.get(mm) * 1024;
  for (let i = 0; i < 512; i++) {
    const middle = words[top + i] as number;
    if (middle === 0) continue;
    for (let j = 0; j < 512; j++) {
      const table = words[ptePfn(middle) * 1024 + j] as number;
      if (pmdIsHuge(table)) countHuge(table, counts);
      else if (table !== 0) scanTable(core, words, ptePfn(table) * 1024, counts);
    }
  }
  return counts;
}

function countHuge(entry: number, counts: Counts): void {
  if ((entry & Pte.Zero) !== 0) {
    counts.zero += HUGE_FRAMES;
    return;
  }
  counts.resident += HUGE_FRAMES;
  counts.huge += HUGE_FRAMES;
  if ((entry & Pte.Young) !== 0) counts.young += HUGE_FRAMES;
}

function scanTable(core: MmCore, words: Int32Array, table: number, counts: Counts): void {
  for (let i = 0; i < 512; i++) {
    const entry = words[table + i] as number;
    if (isSwap(entry)) counts.swapped++;
    else if (!pteIsPresent(entry)) continue;
    else if ((entry & Pte.Zero) !== 0) counts.zero++;
    else if (core.sync.arena.isFrame(ptePfn(entry))) {
      // Asked, as the table may go meanwhile and be anything.
      counts.resident++;
      if ((entry & Pte.Young) !== 0 || isActive(core, ptePfn(entry))) counts.young++;
    }
  }
}

const isActive = (core: MmCore, pfn: number): boolean =>
  (core.layout.page.flags.load(core.pages.at(pfn)) & PageFlag.Active) !== 0;
