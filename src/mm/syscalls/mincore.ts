import { Errno } from '../../base/errno.ts';
import { isPageAligned, pageNumber, pagesOf } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { VPN_MAX } from '../page-table.ts';

/**
 * Which pages are there. Throws EINVAL (unaligned), ENOMEM (a range that isn't, a gap; what came before is
 * filled in). Linux: mm/mincore.c.
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
      const vma = vmas.find(mm, vpn);
      if (vma === 0) throw new Errno('ENOMEM', 'mincore', 'a gap');
      vector[vpn - start] = core.mlock.isResident(mm, vma, vpn) ? 1 : 0;
    }
  } finally {
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
  }
}
