import { Errno } from '../base/errno.ts';
import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import type { Advice } from '../mm/index.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressHost } from './stress-host.ts';
import type { Region, StressLayout, StressShape } from './stress-layout.ts';
import type { StressTrail } from './stress-trail.ts';

export type HugeOptions = {
  host: StressHost;
  layout: StressLayout;
  report: Ptr<'stressReport'>;
  shape: StressShape;
  mm: Ptr<'mm'>;
  hva: number;
  huge: Region;
  /** A whole area, too: it is collapsed when no page of it is missing. */
  asked: Region;
  trail: StressTrail;
};

const AREA = 512;
/** Rounds between two attempts to make all areas huge again, and between two passes of khugepaged. */
const COLLAPSE_EVERY = 4;
const SCAN_EVERY = 16;
/** Pages that are locked, or get other rights, at a time. */
const PART = 24;

/** Breaks huge pages in all the ways there are that keep what is in them, and makes them anew. */
export class StressHuge {
  readonly #o: HugeOptions;
  readonly #random: Random;
  #round = 0;

  constructor(options: HugeOptions) {
    this.#o = options;
    this.#random = new Random(options.shape.seed * 13 + 3);
  }

  round(): void {
    const { host } = this.#o;
    this.#round++;
    if (this.#random.oneIn(2)) this.#split();
    if (this.#round % COLLAPSE_EVERY === 0) this.#collapse();
    if (this.#round % SCAN_EVERY !== 0) return;
    this.#o.trail.did('khugepaged');
    this.#collapsed(host.mm.khugepaged.step(4 * AREA));
  }

  /** DONTNEED of scratch pages, which lie in the last area, and PAGEOUT come from the housekeeper, too. */
  #split(): void {
    const { host, mm, hva, huge: region } = this.#o;
    const count = 1 + this.#random.below(PART);
    const page = region.first + this.#random.below(region.count - count);
    const at = hva + page * PAGE_SIZE;
    const bytes = count * PAGE_SIZE;
    this.#o.trail.did('split', page);
    const { mmap, mlock } = host.mm;
    switch (this.#random.below(3)) {
      case 0:
        this.#advise(at, bytes, 'pageout');
        break;
      case 1:
        // A right that nobody uses: the mapping ends inside of a huge page all the same.
        mmap.protect(mm, at, bytes, { read: true, write: true, exec: true });
        mmap.protect(mm, at, bytes, { read: true, write: true });
        break;
      default:
        mlock.lock(mm, at, bytes);
        mlock.unlock(mm, at, bytes);
    }
  }

  #advise(at: number, bytes: number, advice: Advice): boolean {
    const { host, mm } = this.#o;
    try {
      host.mm.madvise.advise(mm, at, bytes, advice);
      return true;
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      return false;
    }
  }

  /** MADV_COLLAPSE of each area that isn't huge; somebody holds a page of it, or there is no room: later. */
  #collapse(): void {
    const { huge, asked } = this.#o;
    for (const region of [huge, asked])
      for (let page = region.first; page < region.first + region.count; page += AREA)
        this.#collapseArea(page);
  }

  #collapseArea(page: number): void {
    const { host, mm, hva } = this.#o;
    const at = hva + page * PAGE_SIZE;
    if (host.mm.pageTable.mapsHuge(mm, at / PAGE_SIZE, -1)) return;
    this.#o.trail.did('collapse', page);
    if (this.#advise(at, AREA * PAGE_SIZE, 'collapse')) this.#collapsed(1);
  }

  #collapsed(areas: number): void {
    this.#o.layout.report.collapses.add(this.#o.report, areas);
  }
}
