import { PAGE_SIZE } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmCore } from '../core.ts';
import { testMm } from '../testing.ts';
import type { KsmStats } from './ksm.ts';

type Mm = Ptr<'mm'>;

/** A small mm with zram, and address spaces in it whose memory may be merged. */
export class Merging {
  readonly mm: MmCore;

  constructor(options: { frames?: number; breaks?: Partial<MmBreaks> } = {}) {
    const { frames = 512, breaks = {} } = options;
    this.mm = testMm({ frames, breaks, swap: { kind: 'zram', bytes: 256 * PAGE_SIZE } });
  }

  /** An address space with one mergeable mapping. */
  space(pages: number, owner = 1): { mm: Mm; at: number } {
    const mm = this.mm.createMm({ owner });
    const at = this.mm.mmap.map(mm, pages * PAGE_SIZE);
    this.mm.madvise.advise(mm, at, pages * PAGE_SIZE, 'mergeable');
    return { mm, at };
  }

  /** A page whose content is told by `value`; 0 is a page of zeroes that was written. */
  fill(mm: Mm, at: number, value: number): void {
    for (const word of [0, 512, 1023]) this.mm.access.write32(mm, at + word * 4, value);
  }

  read(mm: Mm, at: number): number {
    return this.mm.access.read32(mm, at);
  }

  /** Passes: the first notes what pages hold, the second merges. Invariants after each. */
  scan(passes = 2): void {
    for (let i = 0; i < passes; i++) {
      this.mm.ksm.fullScans(1);
      this.mm.checkInvariants();
    }
  }

  figures(): string {
    const s: KsmStats = this.mm.ksm.stats();
    return `shared ${s.pages_shared} sharing ${s.pages_sharing} unshared ${s.pages_unshared} volatile ${s.pages_volatile}`;
  }
}
