import { PAGE_SIZE } from '../base/units.ts';
import type { MmCore } from '../mm/index.ts';
import { UffdFeature, UffdMode, Userfaultfd } from '../mm/index.ts';
import type { Ptr } from '../sync/struct.ts';
import type { StressRegions } from './stress-layout.ts';

/** Where user faults happen; plain data, the same on every thread. Addresses are of the host. */
export type StressUffd = {
  /** The context of the manager's thread, which takes over its reference. */
  asked: number;
  /** The context that answers SIGBUS; the manager closes it, too. */
  sigbus: number;
  /** One that is told of every change; of memory that comes and goes (stress-scrap.ts). The manager's, too. */
  told: number;
  /** Where pages of both regions are kept while the guest lacks them, one place for each. */
  askedStaging: number;
  sigbusStaging: number;
};

/**
 * Arms the regions of a new address space. Pages of the SIGBUS region are all there, so that a hole of it
 * always means that its page is staged.
 */
export function armRegions(mm: MmCore, space: Ptr<'mm'>, hva: number, regions: StressRegions): StressUffd {
  const { asked, sigbus, huge } = regions;
  const at = (page: number): number => hva + page * PAGE_SIZE;
  mm.madvise.advise(space, at(huge.first), huge.count * PAGE_SIZE, 'hugepage');
  mm.madvise.advise(space, at(sigbus.first), sigbus.count * PAGE_SIZE, 'populate-write');
  const askedStaging = mm.mmap.map(space, asked.count * PAGE_SIZE);
  const sigbusStaging = mm.mmap.map(space, sigbus.count * PAGE_SIZE);
  const manager = Userfaultfd.create(mm, space);
  manager.api(UffdFeature.EventFork | UffdFeature.PagefaultFlagWp | UffdFeature.Move);
  manager.register(at(asked.first), asked.count * PAGE_SIZE, UffdMode.Missing | UffdMode.Wp);
  manager.register(askedStaging, asked.count * PAGE_SIZE, UffdMode.Missing);
  const self = Userfaultfd.create(mm, space);
  self.api(UffdFeature.Sigbus | UffdFeature.Move);
  self.register(at(sigbus.first), sigbus.count * PAGE_SIZE, UffdMode.Missing);
  self.register(sigbusStaging, sigbus.count * PAGE_SIZE, UffdMode.Missing);
  const told = Userfaultfd.create(mm, space);
  told.api(UffdFeature.EventRemap | UffdFeature.EventRemove | UffdFeature.EventUnmap);
  return { asked: manager.ctx, sigbus: self.ctx, told: told.ctx, askedStaging, sigbusStaging };
}
