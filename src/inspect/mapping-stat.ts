import { PAGE_SIZE, type Pfn, type Vpn } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { isSwap, PageFlag, Pte, pteIsPresent, ptePfn, swpOffset, VmFlag } from '../mm/layout.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** Pages that one table maps. */
const TABLE_PAGES = 512;
/** Bits of fraction of a proportional size, so that thirds add up. Linux: PSS_SHIFT. */
const PSS_SHIFT = 12;
const PAGE_PSS = PAGE_SIZE * 2 ** PSS_SHIFT;

/**
 * What a mapping, or several, is made of: bytes, proportional ones with PSS_SHIFT bits of fraction. Linux:
 * struct mem_size_stats.
 */
export class MappingStat {
  rss = 0;
  pss = 0;
  pssDirty = 0;
  pssAnon = 0;
  pssShmem = 0;
  pssLocked = 0;
  sharedClean = 0;
  sharedDirty = 0;
  privateClean = 0;
  privateDirty = 0;
  referenced = 0;
  anonymous = 0;
  ksm = 0;
  lazyFree = 0;
  anonHuge = 0;
  swap = 0;
  swapPss = 0;
}

/** KiB of a sum with PSS_SHIFT bits of fraction. */
export const pssKib = (pss: number): number => Math.floor(pss / 2 ** (10 + PSS_SHIFT));

/**
 * Adds what a VMA maps. Requires: mmap for read; entries are read without their locks, so each figure is
 * right to within what changes meanwhile. Linux: smap_gather_stats.
 */
export function gather(core: MmCore, mm: Mm, vma: Vma, into: MappingStat): void {
  const { start, end, flags } = core.layout.vma;
  const locked = (flags.get(vma) & VmFlag.Locked) !== 0;
  for (let vpn = start.get(vma); vpn < end.get(vma); ) {
    const stop = Math.min(end.get(vma), vpn - (vpn % TABLE_PAGES) + TABLE_PAGES);
    gatherTable(core, mm, vpn, stop, locked, into);
    vpn = stop;
  }
}

function gatherTable(core: MmCore, mm: Mm, start: Vpn, end: Vpn, locked: boolean, into: MappingStat): void {
  const middle = middleEntry(core, mm, start);
  if (middle === 0) return;
  const first = start % TABLE_PAGES;
  if ((middle & Pte.Huge) !== 0) {
    gatherHuge(core, middle, first, end - start, locked, into);
    return;
  }
  const table = frameWord(ptePfn(middle));
  for (let i = first; i < first + end - start; i++) {
    gatherEntry(core, Atomics.load(core.sync.words, table + i), locked, into);
  }
}

/** The entry of the middle table that covers a page: 0, a table, or 2 MiB. */
function middleEntry(core: MmCore, mm: Mm, vpn: Vpn): number {
  const { words } = core.sync;
  const top = Atomics.load(words, frameWord(core.layout.mm.pgd.get(mm)) + (vpn >>> 18));
  return top === 0 ? 0 : Atomics.load(words, frameWord(ptePfn(top)) + ((vpn >>> 9) & 511));
}

/** A huge entry is 512 pages that share its bits (decision 4). */
function gatherHuge(
  core: MmCore,
  middle: number,
  first: number,
  pages: number,
  locked: boolean,
  into: MappingStat,
): void {
  if ((middle & Pte.Zero) !== 0 || !pteIsPresent(middle)) return;
  for (let i = first; i < first + pages; i++) gatherPage(core, ptePfn(middle) + i, middle, locked, into);
  into.anonHuge += pages * PAGE_SIZE;
}

function gatherEntry(core: MmCore, entry: number, locked: boolean, into: MappingStat): void {
  if (entry === 0 || (entry & Pte.Zero) !== 0) return;
  if (pteIsPresent(entry)) gatherPage(core, ptePfn(entry), entry, locked, into);
  else if (isSwap(entry)) {
    into.swap += PAGE_SIZE;
    into.swapPss += Math.floor(PAGE_PSS / Math.max(core.swap.count(swpOffset(entry)), 1));
  }
}

/** Linux: smaps_account. */
function gatherPage(core: MmCore, pfn: Pfn, entry: number, locked: boolean, into: MappingStat): void {
  const flags = core.layout.page.flags.load(core.pages.at(pfn));
  const dirty = (entry & Pte.Dirty) !== 0 || (flags & PageFlag.Dirty) !== 0;
  const sharers = Math.max(core.pages.mapcount(pfn), 1);
  const pss = Math.floor(PAGE_PSS / sharers);
  into.rss += PAGE_SIZE;
  into.pss += pss;
  if (dirty) into.pssDirty += pss;
  if (locked) into.pssLocked += pss;
  if ((entry & Pte.Young) !== 0 || (flags & PageFlag.Referenced) !== 0) into.referenced += PAGE_SIZE;
  if ((flags & PageFlag.Shmem) !== 0) into.pssShmem += pss;
  else {
    into.anonymous += PAGE_SIZE;
    into.pssAnon += pss;
    if ((flags & PageFlag.LazyFree) !== 0 && !dirty) into.lazyFree += PAGE_SIZE;
  }
  if ((flags & PageFlag.Ksm) !== 0) into.ksm += PAGE_SIZE;
  into[KIND[Number(sharers > 1) * 2 + Number(dirty)] as 'sharedClean'] += PAGE_SIZE;
}

const KIND = ['privateClean', 'privateDirty', 'sharedClean', 'sharedDirty'] as const;
