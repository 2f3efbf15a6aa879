import { Errno } from '../../base/errno.ts';
import { isPageAligned, PAGE_SIZE, pagesOf } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { VmFlag } from '../layout.ts';
import type { MapOptions, Protection } from '../mmap.ts';
import { type Abi, MADV, MAP, MLOCK_ONFAULT, MREMAP, PROT } from './abi.ts';
import { mincore } from './mincore.ts';

type Mm = Ptr<'mm'>;

const PROT_ALL = PROT.READ | PROT.WRITE | PROT.EXEC;

/**
 * The mm as a program sees it through system calls: numbers in, and out a result or a negative errno.
 * What `npm run conformance -- linux` compares with the real ones.
 */
export class Syscalls {
  readonly #core: MmCore;
  readonly #abi: Abi;

  constructor(core: MmCore, abi: Abi = 'modern') {
    this.#core = core;
    this.#abi = abi;
  }

  /** Anonymous memory only, private or shared. Returns the address. Linux: mm/mmap.c ksys_mmap_pgoff. */
  mmap(mm: Mm, address: number, bytes: number, prot: number, flags: number): number {
    return this.#call(() => {
      const length = bytes === 0 ? -1 : pagesOf(bytes) * PAGE_SIZE;
      const kind = flags & (MAP.PRIVATE | MAP.SHARED);
      if ((flags & MAP.ANONYMOUS) === 0 || (kind !== MAP.PRIVATE && kind !== MAP.SHARED) || length < 0)
        throw new Errno('EINVAL', 'mmap');
      const fixed = (flags & (MAP.FIXED | MAP.FIXED_NOREPLACE)) !== 0;
      if (fixed && !isPageAligned(address)) throw new Errno('EINVAL', 'mmap');
      const place = mmapPlace(address, flags);
      const lo = (flags & MAP.NORESERVE) !== 0 ? VmFlag.NoReserve : 0;
      const shared = kind === MAP.SHARED ? { shared: true as const } : {};
      const options = { protection: protection(prot), ...place, flags: { lo }, ...shared };
      const at = this.#core.mmap.map(mm, bytes, options);
      const write = (prot & PROT.WRITE) !== 0 && kind === MAP.PRIVATE;
      if ((flags & MAP.POPULATE) !== 0 && prot !== 0) this.#populate(mm, at, bytes, write);
      return at;
    });
  }

  /** What MAP_POPULATE can't bring in is left to the first touch. */
  #populate(mm: Mm, at: number, bytes: number, write: boolean): void {
    try {
      this.#core.madvise.advise(mm, at, bytes, write ? 'populate-write' : 'populate-read');
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
    }
  }

  munmap(mm: Mm, address: number, bytes: number): number {
    return this.#call(() => this.#core.mmap.unmap(mm, address, bytes));
  }

  mprotect(mm: Mm, address: number, bytes: number, prot: number): number {
    return this.#call(() => {
      if (!isPageAligned(address)) throw new Errno('EINVAL', 'mprotect');
      if (bytes === 0) return;
      if ((prot & ~PROT_ALL) !== 0) throw new Errno('EINVAL', 'mprotect');
      this.#core.mmap.protect(mm, address, bytes, protection(prot));
    });
  }

  /** Returns the address. `to` counts with FIXED alone. */
  mremap(mm: Mm, address: number, oldBytes: number, newBytes: number, flags: number, to: number): number {
    return this.#call(() => {
      const { MAYMOVE, FIXED, DONTUNMAP } = MREMAP;
      if ((flags & ~(MAYMOVE | FIXED | DONTUNMAP)) !== 0) throw new Errno('EINVAL', 'mremap', 'unknown flag');
      return this.#core.mremap.remap(mm, address, oldBytes, newBytes, {
        mayMove: (flags & MAYMOVE) !== 0,
        keep: (flags & DONTUNMAP) !== 0,
        ...((flags & FIXED) !== 0 ? { to } : {}),
      });
    });
  }

  madvise(mm: Mm, address: number, bytes: number, advice: number): number {
    return this.#call(() => {
      const name = MADV[this.#core.breaks.abiIgnored ? 'modern' : this.#abi][advice];
      if (name === undefined) throw new Errno('EINVAL', 'madvise', 'unknown advice');
      this.#core.madvise.advise(mm, address, bytes, name);
    });
  }

  /** Any address: the page that it is in counts whole. */
  mlock(mm: Mm, address: number, bytes: number): number {
    return this.#call(() => this.#core.mlock.lock(mm, address, bytes));
  }

  /** As mlock; with MLOCK_ONFAULT pages come in as they are touched. */
  mlock2(mm: Mm, address: number, bytes: number, flags: number): number {
    return this.#call(() => {
      if ((flags & ~MLOCK_ONFAULT) !== 0) throw new Errno('EINVAL', 'mlock2', 'unknown flag');
      this.#core.mlock.lock(mm, address, bytes, flags !== 0);
    });
  }

  munlock(mm: Mm, address: number, bytes: number): number {
    return this.#call(() => this.#core.mlock.unlock(mm, address, bytes));
  }

  /** Fills a byte for each page: bit 0 says that it is resident. */
  mincore(mm: Mm, address: number, bytes: number, vector: Uint8Array): number {
    return this.#call(() => mincore(this.#core, mm, address, bytes, vector));
  }

  #call(work: () => unknown): number {
    try {
      const result = work();
      return typeof result === 'number' ? result : 0;
    } catch (error) {
      if (error instanceof Errno) return error.errno;
      throw error;
    }
  }
}

function mmapPlace(address: number, flags: number): MapOptions {
  if ((flags & MAP.FIXED_NOREPLACE) !== 0) return { address, fixed: 'exclusive' };
  if ((flags & MAP.FIXED) !== 0) return { address, fixed: 'replace' };
  const hint = address - (address % PAGE_SIZE);
  return hint > 0 ? { address: hint } : {};
}

function protection(prot: number): Protection {
  return {
    read: (prot & PROT.READ) !== 0,
    write: (prot & PROT.WRITE) !== 0,
    exec: (prot & PROT.EXEC) !== 0,
  };
}
