import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { UffdMode } from '../mm/index.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressHost } from './stress-host.ts';
import type { StressLayout, StressShape } from './stress-layout.ts';
import type { StressTrail } from './stress-trail.ts';
import type { StressUffd } from './stress-uffd.ts';

export type ScrapOptions = {
  host: StressHost;
  layout: StressLayout;
  report: Ptr<'stressReport'>;
  shape: StressShape;
  mm: Ptr<'mm'>;
  uffd: StressUffd;
  trail: StressTrail;
};

const PAGES = 8;
const BYTES = PAGES * PAGE_SIZE;
/** Where the mapping is, and where it goes next; nothing else is near. */
const PLACES = [0x60000000, 0x68000000] as const;

/**
 * A mapping that comes, goes, moves and is emptied beside everything else. Its manager hears of it, and the
 * change waits until it has (V-50 to V-57). Memory of its own, which the guest does not see.
 */
export class StressScrap {
  readonly #o: ScrapOptions;
  readonly #random: Random;
  readonly #expected = new Int32Array(PAGES);
  #place = 0;
  #mapped = false;

  constructor(options: ScrapOptions) {
    this.#o = options;
    this.#random = new Random(options.shape.seed * 29 + 1);
  }

  round(): void {
    const { host, mm } = this.#o;
    if (!this.#mapped) this.#map();
    for (let i = 0; i < 2; i++) this.#count(this.#random.below(PAGES));
    switch (this.#random.below(4)) {
      case 0:
        host.mm.madvise.advise(mm, this.#at, BYTES, 'dontneed');
        this.#expected.fill(0);
        break;
      case 1:
        this.#move();
        break;
      case 2:
        host.mm.madvise.advise(mm, this.#at, BYTES, 'pageout');
        break;
      default:
        this.#unmap();
    }
  }

  end(): void {
    if (this.#mapped) this.#unmap();
  }

  get #at(): number {
    return PLACES[this.#place] as number;
  }

  #map(): void {
    const { host, mm, uffd } = this.#o;
    host.mm.mmap.map(mm, BYTES, { address: this.#at, fixed: 'exclusive' });
    host.mm.uffdRegister.register(uffd.told as Ptr<'uffd'>, this.#at, BYTES, UffdMode.Missing);
    this.#mapped = true;
    this.#expected.fill(0);
  }

  #unmap(): void {
    const { host, mm } = this.#o;
    host.mm.mmap.unmap(mm, this.#at, BYTES);
    this.#mapped = false;
  }

  #move(): void {
    const { host, mm } = this.#o;
    const from = this.#at;
    this.#place = 1 - this.#place;
    host.mm.mremap.remap(mm, from, BYTES, BYTES, { mayMove: true, to: this.#at });
  }

  /** A hole is zero: the manager says so. */
  #count(page: number): void {
    const { host, mm, layout, report, trail } = this.#o;
    const { access } = host.mm;
    const address = this.#at + page * PAGE_SIZE;
    trail.did('scrap', page);
    const got = access.read32(mm, address);
    if (got !== this.#expected[page]) {
      layout.report.lost.add(report, 1);
      trail.witness('the scrap lost a write', page, 0, this.#expected[page] as number, got);
    }
    access.write32(mm, address, got + 1);
    this.#expected[page] = got + 1;
  }
}
