import { PAGE_SIZE } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmConfig, MmCore } from '../core.ts';
import { GUP_PFN_MASK } from '../fault-codes.ts';
import type { Advice } from '../madvise.ts';
import { testMm } from '../testing.ts';
import type { VmstatName } from '../vmstat.ts';

export const HUGE_BYTES = 512 * PAGE_SIZE;

/** An mm with room for a few huge pages, and 2 MiB areas of one mapping at AREA that asks for them. */
export class HugeRig {
  static readonly AT = 0x20000000;
  readonly core: MmCore;
  readonly mm: Ptr<'mm'>;

  constructor(options: { areas?: number; frames?: number; limitPages?: number } & Partial<MmConfig> = {}) {
    const { areas = 1, frames = 2560, limitPages, ...config } = options;
    this.core = testMm({ frames, swap: { kind: 'zram', bytes: 8 << 20 }, ...config });
    this.mm = this.core.createMm(limitPages === undefined ? {} : { limitPages });
    this.core.mmap.map(this.mm, areas * HUGE_BYTES, { address: HugeRig.AT, fixed: 'exclusive' });
    this.advise('hugepage', 0, areas * 512);
    // What any first touch allocates, so that tests count what is theirs.
    this.core.anonVmas.prepare(this.core.mmap.find(this.mm, HugeRig.AT));
  }

  at = (page: number): number => HugeRig.AT + page * PAGE_SIZE;

  advise(advice: Advice, page: number, pages = 1): void {
    this.core.madvise.advise(this.mm, this.at(page), pages * PAGE_SIZE, advice);
  }

  /** Touches a page and lets go of it; what gup answered. */
  touch(page: number, write: boolean): number {
    const found = this.core.gup.fault(this.mm, this.at(page) / PAGE_SIZE, write);
    if (found >= 0) this.core.pages.put(found & GUP_PFN_MASK);
    return found;
  }

  write = (page: number, value: number): void => this.core.access.write32(this.mm, this.at(page), value);
  read = (page: number): number => this.core.access.read32(this.mm, this.at(page));

  /** The address space as text, and proof that all is in order. */
  text(): string {
    this.core.checkInvariants();
    return this.core.describe(this.mm).split('\n').slice(1).join('\n');
  }

  /** What has been counted, zeros left out. */
  counts(...names: VmstatName[]): Partial<Record<VmstatName, number>> {
    const all = this.core.vmstat.all();
    return Object.fromEntries(names.map(name => [name, all[name]]).filter(([, n]) => n !== 0));
  }

  thpCounts() {
    const names = Object.keys(this.core.vmstat.all()).filter(n => n.startsWith('thp_')) as VmstatName[];
    return this.counts(...names);
  }

  /** All that U-15 says a user fault leaves alone. */
  accounts() {
    const { layout, pageAlloc } = this.core;
    this.core.lru.drainAll();
    const memcg = layout.mm.memcg.get(this.mm);
    return {
      charged: memcg === 0 ? 0 : layout.memcg.usage.load(memcg),
      frames: -pageAlloc.freeFrames,
      anon: layout.mm.anonPages.load(this.mm),
      tables: layout.mm.nrPtes.load(this.mm),
    };
  }
}
