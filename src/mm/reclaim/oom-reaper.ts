import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { MmFlag, type MmLayout, VmFlag } from '../layout.ts';
import type { MmuNotifiers } from '../mmu-notifier.ts';
import { NotifyEvent } from '../mmu-notifier-ops.ts';
import type { Vmas } from '../vma.ts';
import type { Zap } from '../zap.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type OomReaperDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly notifiers: MmuNotifiers;
  readonly zap: Zap;
};

/**
 * Takes the memory of an address space that is to die before it gets round to it (C-19), waiting for nobody: who
 * holds its locks may itself wait for memory. Linux: __oom_reap_task_mm.
 */
export class OomReaper {
  readonly #deps: OomReaperDeps;

  constructor(deps: OomReaperDeps) {
    this.#deps = deps;
  }

  /**
   * Empties every private mapping. False: somebody would not be hurried, a lock holder or a subscriber; what
   * could be had is free, call again for the rest. From the first call on a fault on a hole is SIGBUS. The mm may
   * have exited, its structure is counted by the caller. Requires: no lock.
   */
  reap(mm: Mm): boolean {
    const { sync, layout, vmas } = this.#deps;
    const lock = mm + layout.mm.mmapLock.at;
    if (!sync.tryReadLock('mmap', lock)) return false;
    let all = true;
    if (layout.mm.users.load(mm) > 0) {
      layout.mm.flags.set(mm, MmFlag.Unstable);
      for (let i = 0; i < vmas.count(mm); i++) all = this.#vma(mm, vmas.at(mm, i)) && all;
    }
    sync.readUnlock('mmap', lock);
    return all;
  }

  #vma(mm: Mm, vma: Vma): boolean {
    const { layout, notifiers, zap } = this.#deps;
    const { flags, start, end, ops } = layout.vma;
    // Locked memory goes as any other. What is shared stays for whoever shares it.
    if ((flags.get(vma) & (VmFlag.PfnMap | VmFlag.HugeTlb | VmFlag.Shared)) !== 0) return true;
    const [from, to] = [start.get(vma), end.get(vma)];
    if (notifiers.start(mm, from, to, NotifyEvent.Clear, 0) !== 0) return false; // and no end (N-14)
    zap.range(mm, from, to, ops.get(vma) !== 0);
    notifiers.end(mm, from, to, NotifyEvent.Clear);
    return true;
  }
}
