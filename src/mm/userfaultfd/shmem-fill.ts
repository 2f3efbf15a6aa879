import { ERRNO } from '../../base/errno.ts';
import type { Pfn, Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import { FAULT_RETRY } from '../fault-codes.ts';
import { isMarker, type MmLayout, PageFlag, Pte, VmFlag } from '../layout.ts';
import type { Pages } from '../page.ts';
import { HUGE, type PageTable, type PteAt } from '../page-table.ts';
import type { Shmem } from '../shmem.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

/** A new page that is to be an inode's. */
export const NEW_SHMEM = PageFlag.Uptodate | PageFlag.Shmem;

export type ShmemFillDeps = {
  readonly layout: MmLayout;
  readonly pages: Pages;
  readonly pageTable: PageTable;
  readonly shmem: Shmem;
};

/**
 * Resolves faults on mappings of inodes: CONTINUE maps what the cache has, COPY and ZEROPAGE put a page into the
 * cache and map it (V-31 to V-33, V-61). Answers are 0 or a negative error number. Requires throughout: mmap for
 * read, inside the gate. Linux: mfill_atomic_pte_continue, shmem_mfill_atomic_pte.
 */
export class ShmemFill {
  readonly #deps: ShmemFillDeps;

  constructor(deps: ShmemFillDeps) {
    this.#deps = deps;
  }

  /** EFAULT for a hole of the inode, or beyond its end; EIO for a poisoned page; EEXIST where one is mapped. */
  continuePage(mm: Mm, vma: Vma, vpn: Vpn, bits: number): number {
    const { layout, pages, pageTable, shmem } = this.#deps;
    const pfn = shmem.findLocked(layout.vma.ops.get(vma), shmem.indexOf(vma, vpn));
    if (pfn === 0) return -ERRNO.EFAULT;
    const pte = pages.has(pfn, PageFlag.HwPoison) ? -ERRNO.EIO : pageTable.alloc(mm, vpn);
    const code = pte > 0 ? this.#map(mm, vma, pte, pfn, bits) : pte === 0 ? -ERRNO.ENOMEM : refused(pte);
    pages.unlock(pfn);
    pages.put(pfn);
    return code;
  }

  /** Requires: the page locked. */
  #map(mm: Mm, vma: Vma, pte: PteAt, pfn: Pfn, bits: number): number {
    const { pageTable, shmem } = this.#deps;
    const seen = pageTable.load(pte);
    if (seen !== 0 && !isMarker(seen)) return -ERRNO.EEXIST;
    const mapped = shmem.mapPage(mm, vma, pte, pfn, bits | this.#hidden(vma), seen);
    return mapped === FAULT_RETRY ? -ERRNO.EEXIST : 0;
  }

  /** A VMA without rights shows nothing yet. */
  #hidden(vma: Vma): number {
    const flags = this.#deps.layout.vma.flags.get(vma);
    return Pte.Dirty | ((flags & (VmFlag.Read | VmFlag.Write)) === 0 ? Pte.ProtNone : 0);
  }

  /**
   * Makes a new page, charged, filled and with the flags NEW_SHMEM, the inode's, and maps it. Consumes the caller's
   * one reference. EEXIST: the cache has a page, or the pte one; EFAULT: beyond the end.
   */
  install(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, pfn: Pfn, bits: number): number {
    const { layout, pages, shmem } = this.#deps;
    const inode = layout.vma.ops.get(vma);
    const index = shmem.indexOf(vma, vpn);
    pages.get(pfn);
    const added = shmem.add(inode, index, pfn);
    if (added !== 'ok') {
      pages.put(pfn);
      pages.put(pfn);
      return added === 'exists' ? -ERRNO.EEXIST : added === 'beyond' ? -ERRNO.EFAULT : -ERRNO.ENOMEM;
    }
    const code = this.#map(mm, vma, pte, pfn, bits);
    if (code !== 0) shmem.remove(inode, index, pfn);
    else {
      pages.unlock(pfn);
      pages.put(pfn);
    }
    return code;
  }
}

/** What stands where a table was wanted: 2 MiB, or the error itself. */
const refused = (pte: number): number => (pte === HUGE ? -ERRNO.EEXIST : pte);
