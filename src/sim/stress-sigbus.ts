import { ERRNO } from '../base/errno.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { type MmCore, UserFaultSigbus } from '../mm/index.ts';
import type { Ptr } from '../sync/struct.ts';
import { IDLE_WORD, isIn, type StressRegions } from './stress-layout.ts';
import type { StressTrail } from './stress-trail.ts';
import type { StressUffd } from './stress-uffd.ts';

export type SigbusOptions = {
  mm: MmCore;
  space: Ptr<'mm'>;
  hva: number;
  regions: StressRegions;
  uffd: StressUffd;
  trail: StressTrail;
};

/**
 * Fills holes of the SIGBUS region on the thread that met them: moves the page back from where it is kept. Several
 * threads may be at it; who comes second finds the page there.
 */
export class SigbusResolver {
  readonly #o: SigbusOptions;
  /** Pages brought back by this thread. */
  moved = 0;

  constructor(options: SigbusOptions) {
    this.#o = options;
  }

  /** True if the page may be there now, and the access is to be made again. */
  resolve(page: number): boolean {
    const { mm, space, hva, regions, uffd } = this.#o;
    const { sigbus } = regions;
    if (!isIn(sigbus, page)) return false;
    this.#o.trail.did('giveBack', page);
    const ctx = uffd.sigbus as Ptr<'uffd'>;
    const staged = uffd.sigbusStaging + (page - sigbus.first) * PAGE_SIZE;
    const result = mm.move.move(ctx, space, hva + page * PAGE_SIZE, staged, PAGE_SIZE, 0);
    if (result === 0) this.moved++;
    // A child of fork has a share in it, or somebody holds it: the first write makes it ours.
    if (result === -ERRNO.EBUSY) this.#unshare(staged);
    return true;
  }

  #unshare(staged: number): void {
    const { mm, space, trail } = this.#o;
    trail.did('unshare');
    try {
      mm.access.write32(space, staged + IDLE_WORD * 4, 0);
    } catch (error) {
      // Somebody was quicker: it isn't kept there any more.
      if (!(error instanceof UserFaultSigbus)) throw error;
    }
  }
}
