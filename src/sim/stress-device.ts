import { Random } from '../base/random.ts';
import { type Pfn, pageNumber } from '../base/units.ts';
import { FaultFlag, GUP_PFN_MASK } from '../mm/index.ts';
import { frameWord } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressHost } from './stress-host.ts';
import { counterWord, isIn, type StressLayout, type StressShape } from './stress-layout.ts';
import type { StressTrail } from './stress-trail.ts';

export type DeviceOptions = {
  host: StressHost;
  layout: StressLayout;
  report: Ptr<'stressReport'>;
  shape: StressShape;
  mm: Ptr<'mm'>;
  hva: number;
  trail: StressTrail;
};

/** The first pages, which are merged, are written to more often than others. */
const OFTEN = 48;

/**
 * Counts as a device does: pins a page, and writes to its frame some time later. What it finds armed it leaves
 * alone, as its thread is the manager.
 */
export class StressDevice {
  readonly #o: DeviceOptions;
  readonly #random: Random;
  readonly #expected: Int32Array;
  /** Of the transfer under way; -1: none. */
  #pinned: Pfn | -1 = -1;
  #page = 0;

  constructor(options: DeviceOptions) {
    this.#o = options;
    this.#random = new Random(options.shape.seed * 23 + 11);
    this.#expected = new Int32Array(options.shape.pages);
  }

  /** Ends the transfer under way, if there is one, or begins one: so every other is long. */
  round(contended: number): void {
    const { shape } = this.#o;
    if (this.#pinned >= 0) this.end();
    else {
      const anywhere = this.#random.below(this.#random.oneIn(4) ? OFTEN : shape.pages);
      this.#begin(this.#random.oneIn(4) ? contended : anywhere);
      // A pin is not stopped by write protection that comes after it.
      const asked = shape.regions !== undefined && isIn(shape.regions.asked, this.#page);
      if (asked || this.#random.oneIn(2)) this.end();
    }
  }

  #begin(page: number): void {
    const { host, mm, hva } = this.#o;
    this.#o.trail.did('pin', page);
    const how = FaultFlag.Kernel | FaultFlag.NoRetry;
    const found = host.mm.gup.fault(mm, pageNumber(hva) + page, true, how);
    if (found < 0) return;
    this.#page = page;
    this.#pinned = found & GUP_PFN_MASK;
    host.sync.y('D.pin');
  }

  /** The transfer is over: what was pinned is written, and let go. */
  end(): void {
    const { pages } = this.#o.host.mm;
    if (this.#pinned < 0) return;
    this.#o.trail.did('unpin', this.#page);
    this.#write(this.#page, this.#pinned);
    pages.setDirty(this.#pinned);
    pages.put(this.#pinned);
    this.#pinned = -1;
  }

  #write(page: number, pfn: number): void {
    const { host, layout, report, shape, trail } = this.#o;
    const word = counterWord(shape.vcpus + 1, 0);
    const at = frameWord(pfn) + word;
    const got = host.sync.words[at] as number;
    if (got !== this.#expected[page]) {
      layout.report.lost.add(report, 1);
      trail.witness('a device lost a write', page, word, this.#expected[page] as number, got);
    }
    host.sync.words[at] = got + 1;
    this.#expected[page] = got + 1;
    layout.report.checked.add(report, 1);
  }
}
