import { Errno } from '../../base/errno.ts';
import { isPageAligned, pageNumber, pagesOf } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { isSwap, pteIsPresent, SwpType, swpOffset, swpType } from '../layout.ts';
import { VPN_MAX } from '../page-table.ts';

/**
 * Which pages are there. Throws EINVAL (unaligned), ENOMEM (a range that isn't, a gap; what came before is
 * filled in). A swapped page counts while the swap cache has it. Linux: mm/mincore.c.
 */
export function mincore(
  core: MmCore,
  mm: Ptr<'mm'>,
  address: number,
  bytes: number,
  vector: Uint8Array,
): void {
  if (!isPageAligned(address)) throw new Errno('EINVAL', 'mincore');
  const start = pageNumber(address);
  const end = start + pagesOf(bytes);
  if (start < 0 || end > VPN_MAX) throw new Errno('ENOMEM', 'mincore', 'not a range');
  const { sync, layout, vmas } = core;
  sync.readLock('mmap', mm + layout.mm.mmapLock.at);
  try {
    for (let vpn = start; vpn < end; vpn++) {
      if (vmas.find(mm, vpn) === 0) throw new Errno('ENOMEM', 'mincore', 'a gap');
      vector[vpn - start] = resident(core, mm, vpn) ? 1 : 0;
    }
  } finally {
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
  }
}

function resident(core: MmCore, mm: Ptr<'mm'>, vpn: number): boolean {
  const entry = core.pageTable.entryOf(mm, vpn);
  if (isSwap(entry)) return cached(core, swpOffset(entry));
  // A page on its way elsewhere is there; markers are not pages.
  return pteIsPresent(entry) || swpType(entry) === SwpType.Migration;
}

function cached(core: MmCore, slot: number): boolean {
  const pfn = core.swap.lookupCache(slot);
  if (pfn !== 0) core.pages.put(pfn);
  return pfn !== 0;
}
