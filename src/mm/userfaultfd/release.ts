import type { Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import { isMarker, type MmLayout, POISON_ENTRY, VmFlag, VmFlagHigh } from '../layout.ts';
import { HUGE, nextTable, type PageTable } from '../page-table.ts';
import type { Vmas } from '../vma.ts';
import type { UffdContexts } from './contexts.ts';
import type { UffdRegister } from './register.ts';
import { UffdFlag, UffdState } from './state.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type ReleaseDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly pageTable: PageTable;
  readonly uffds: UffdContexts;
  readonly register: UffdRegister;
  readonly breaks: MmBreaks;
};

/** What the last close leaves behind (F-30, V-29). Linux: userfaultfd_release. */
export class UffdRelease {
  readonly #deps: ReleaseDeps;

  constructor(deps: ReleaseDeps) {
    this.#deps = deps;
  }

  /**
   * The last descriptor is gone. With policy `hang` nothing happens until the mm exits but that events end unread:
   * who touches a hole sleeps. Requires: no lock, and a count held.
   */
  release(ctx: Uffd): void {
    const { layout, uffds } = this.#deps;
    const hangs =
      !this.#deps.breaks.closeForgetsPolicy && (layout.uffd.flags.get(ctx) & UffdFlag.CloseHang) !== 0;
    const alive = layout.mm.users.load(layout.uffd.mm.get(ctx)) > 0;
    if (hangs && alive) uffds.queues.wakeEvents(ctx);
    else if (this.#claim(ctx)) this.#end(ctx);
  }

  /** The mm exits: contexts that nobody holds any more go with it. Requires: no lock, `users` 0. */
  orphans(mm: Mm): void {
    for (let ctx = this.#orphan(mm); ctx !== 0; ctx = this.#orphan(mm)) this.#end(ctx);
  }

  /** One more that nobody holds, claimed; 0 when there is none. What is on the list is not freed under mmap. */
  #orphan(mm: Mm): Uffd {
    const { sync, layout } = this.#deps;
    const { refs, next } = layout.uffd;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    let ctx = layout.mm.uffds.get(mm);
    while (ctx !== 0 && (refs.load(ctx) !== 0 || !this.#claim(ctx))) ctx = next.get(ctx);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    return ctx;
  }

  /** The last close and the exit of the mm may meet: one of them ends the context. */
  #claim(ctx: Uffd): boolean {
    const { layout, breaks } = this.#deps;
    const { state } = layout.uffd;
    if (breaks.releaseLate) return !this.#deps.uffds.isReleased(ctx);
    for (let seen = state.load(ctx); seen !== UffdState.Released; seen = state.load(ctx))
      if (state.cas(ctx, seen, UffdState.Released) === seen) return true;
    return false;
  }

  /**
   * It has been claimed, so that no fault begins to wait any more; then mmap, behind those that had begun to queue;
   * then everybody is woken.
   */
  #end(ctx: Uffd): void {
    const { sync, layout, uffds, breaks } = this.#deps;
    const mm = layout.uffd.mm.get(ctx);
    sync.y('X.rel');
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    uffds.unlink(mm, ctx);
    if (layout.mm.users.load(mm) > 0) this.#clearVmas(mm, ctx);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (!breaks.releaseWithoutWake) uffds.wakeAll(ctx);
    sync.y('X.woken');
    if (breaks.releaseLate) layout.uffd.state.store(ctx, UffdState.Released);
    uffds.drop(ctx);
  }

  /** Every VMA that names it forgets it: that is what keeps the pointer from dangling (F-36). */
  #clearVmas(mm: Mm, ctx: Uffd): void {
    const { vmas, layout, register } = this.#deps;
    for (let vpn = 0, i = 0; i < vmas.count(mm); i = vmas.indexOf(mm, vpn)) {
      const vma = vmas.at(mm, i);
      const [start, end] = [layout.vma.start.get(vma), layout.vma.end.get(vma)];
      vpn = end;
      if (layout.vma.uffd.get(vma) !== ctx) continue;
      const forgets = this.#deps.breaks.closeForgetsPolicy;
      const poison = !forgets && (layout.uffd.flags.get(ctx) & UffdFlag.ClosePoison) !== 0;
      if (poison && (layout.vma.flags.get(vma) & VmFlag.UffdMissing) !== 0) this.#poison(mm, vma, start, end);
      register.disarm(mm, vma, start, end, 'close');
    }
  }

  /**
   * Holes become poison: better an error than zeros in the place of content (B-32). Where there is no frame
   * for a table, holes stay armed for SIGBUS.
   */
  #poison(mm: Mm, vma: Vma, start: Vpn, end: Vpn): void {
    const { pageTable, vmas, layout } = this.#deps;
    for (let vpn = start; vpn < end; vpn = nextTable(vpn)) {
      const first = pageTable.alloc(mm, vpn);
      if (first === 0) {
        vmas.setFlags(vma, layout.vma.flags.get(vma), vmas.flagsHigh(vma) | VmFlagHigh.UserFault);
        return;
      }
      if (first === HUGE) continue;
      pageTable.lock(first);
      for (let pte = first; pte < first + Math.min(end, nextTable(vpn)) - vpn; pte++) {
        const entry = pageTable.held(pte);
        if (entry === 0) pageTable.fill(pte, POISON_ENTRY);
        else if (isMarker(entry)) pageTable.replace(pte, POISON_ENTRY);
      }
      pageTable.unlock(first);
    }
  }
}
