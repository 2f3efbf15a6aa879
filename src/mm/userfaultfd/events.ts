import { Errno } from '../../base/errno.ts';
import type { Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, VmFlag, VmFlagHigh } from '../layout.ts';
import type { Vmas } from '../vma.ts';
import type { UffdContexts } from './contexts.ts';
import type { Ticket } from './queues.ts';
import { UffdEvent, UffdFeature, UffdFlag, UffdState } from './state.ts';
import type { UffdWaits } from './waits.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type EventsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly uffds: UffdContexts;
  readonly waits: UffdWaits;
  readonly breaks: MmBreaks;
};

/** What a mutator of this thread owes once it holds no lock: an event, if the context wants it, and a wake. */
type Owed = {
  readonly ctx: Uffd;
  /** 0: only the sleepers of [start, end) are to be woken. */
  readonly entry: Ticket;
  readonly start: Vpn;
  readonly end: Vpn;
};
/** A context that the child of a fork gets in the place of its parent's. */
export type Forked = { readonly parent: Uffd; readonly child: Uffd; readonly entry: Ticket };

const LOW = VmFlag.UffdMissing | VmFlag.UffdWp;
const HIGH = VmFlagHigh.UffdMinor;

/**
 * Tells managers what becomes of their ranges: fork, remap, remove, unmap (V-50 to V-57). A mutator shuts the
 * gate of each context before it changes anything, says so once it holds no lock, and waits until that is read;
 * then the gate opens. Linux: dup_userfaultfd, mremap_userfaultfd_*, userfaultfd_remove, userfaultfd_unmap_*.
 */
export class UffdEvents {
  readonly #deps: EventsDeps;
  readonly #wait: MmLayout['uffdWait'];
  #owed: Owed[] = [];

  constructor(deps: EventsDeps) {
    this.#deps = deps;
    this.#wait = deps.layout.uffdWait;
  }

  #wants(ctx: Uffd, feature: number): boolean {
    const { layout, uffds, breaks } = this.#deps;
    return (layout.uffd.features.load(ctx) & feature) !== 0 && (uffds.isHeld(ctx) || breaks.releaseLate);
  }

  /** An event that will be told, with the gate shut. Throws ENOMEM with nothing changed. */
  #begin(ctx: Uffd, event: number, call: string): Ticket {
    const { uffds } = this.#deps;
    const entry = uffds.queues.alloc(ctx, event);
    if (entry === 0) throw new Errno('ENOMEM', call, 'no memory for an event');
    uffds.beginChange(ctx);
    return entry;
  }

  /**
   * Queues an event, waits for it, frees it and leaves the gate to the caller. True if it was read; not so when
   * the context is released (V-55). No lock may be held.
   */
  #tell(ctx: Uffd, entry: Ticket): boolean {
    const { uffds, waits, sync } = this.#deps;
    sync.y('X.b');
    uffds.queues.enqueueEvent(ctx, entry);
    sync.y('X.ev');
    uffds.queues.announce(ctx);
    let read = false;
    try {
      // The last reference goes before the events are woken: one of the two looks finds out.
      const over = this.#deps.breaks.releaseLate ? uffds.isReleased(ctx) : !uffds.isHeld(ctx);
      if (!over) waits.wait(entry);
      read = uffds.queues.wasRead(entry);
    } finally {
      uffds.queues.finish(entry);
    }
    if (read) sync.y('X.rd');
    return read;
  }

  /** After `#begin`: tells, then opens the gate, whatever happens. */
  #tellAndEnd(ctx: Uffd, entry: Ticket): boolean {
    try {
      return this.#tell(ctx, entry);
    } finally {
      this.#deps.uffds.endChange(ctx);
    }
  }

  /**
   * The VMAs [first, last) are about to go, as part of unmapping [start, end). Throws ENOMEM with nothing changed.
   * What is owed for it is settled by `settle`. Requires: mmap for write.
   */
  unmapping(mm: Mm, first: number, last: number, start: Vpn, end: Vpn, call: string): void {
    const { vmas, layout } = this.#deps;
    const from = this.#owed.length;
    for (let i = first; i < last; i++) {
      const ctx = layout.vma.uffd.get(vmas.at(mm, i));
      if (ctx === 0 || this.#owed.some((owed, at) => at >= from && owed.ctx === ctx)) continue;
      try {
        const entry = this.#wants(ctx, UffdFeature.EventUnmap)
          ? this.#begin(ctx, UffdEvent.Unmap, call)
          : (0 as Ticket);
        this.#owe(ctx, entry, start, end);
      } catch (error) {
        for (const owed of this.#owed.splice(from)) this.#forgive(owed);
        throw error;
      }
    }
  }

  #owe(ctx: Uffd, entry: Ticket, start: Vpn, end: Vpn): void {
    this.#deps.layout.uffd.count.add(ctx, 1);
    if (entry !== 0) {
      this.#wait.vpn.set(entry, start);
      this.#wait.end.set(entry, end);
    }
    this.#owed.push({ ctx, entry, start, end });
  }

  #forgive({ ctx, entry }: Owed): void {
    const { uffds } = this.#deps;
    if (entry !== 0) {
      uffds.queues.drop(entry);
      uffds.endChange(ctx);
    }
    uffds.drop(ctx);
  }

  /**
   * Tells what this thread owes, in order, and waits; sleepers of ranges that went are woken first (V-57). Called
   * by every mutator, failed ones included, once it holds no lock.
   */
  settle(): void {
    while (this.#owed.length > 0) {
      try {
        this.#settleOne(this.#owed.shift() as Owed);
      } catch (error) {
        // A manager on this thread has thrown; the others are owed theirs all the same.
        this.settle();
        throw error;
      }
    }
  }

  #settleOne({ ctx, entry, start, end }: Owed): void {
    const { uffds, breaks } = this.#deps;
    if (!breaks.unmapWithoutWake) uffds.wakeRange(ctx, start, end);
    try {
      if (entry !== 0) this.#tellAndEnd(ctx, entry);
    } finally {
      uffds.drop(ctx);
    }
  }

  /**
   * A VMA is about to be moved: without EVENT_REMAP the new one is an ordinary one (V-51). Throws ENOMEM. Requires:
   * mmap for write.
   */
  remapping(to: Vma): Ticket {
    const { layout } = this.#deps;
    const ctx = layout.vma.uffd.get(to);
    if (ctx === 0) return 0 as Ticket;
    const seed14 = (layout.uffd.flags.get(ctx) & UffdFlag.Seed14) !== 0;
    // In 2014 a moved VMA keeps its context, and nobody is told (F-36).
    if (seed14) return 0 as Ticket;
    if (this.#wants(ctx, UffdFeature.EventRemap)) return this.#begin(ctx, UffdEvent.Remap, 'mremap');
    if (!this.#deps.breaks.remapKeepsContext) this.#forget(to);
    return 0 as Ticket;
  }

  /**
   * The pages have moved. `entry` is what `remapping` returned; the old range was unmapped if `gone`. Settled by
   * `settle`. Requires: mmap for write.
   */
  remapped(ctx: Uffd, entry: Ticket, from: Vpn, to: Vpn, pages: number, gone: boolean): void {
    if (ctx === 0) return;
    if (entry !== 0) this.#wait.to.set(entry, to);
    this.#owe(ctx, entry, from, from + pages);
    if (!gone || !this.#wants(ctx, UffdFeature.EventUnmap)) return;
    const unmap = this.#deps.uffds.queues.alloc(ctx, UffdEvent.Unmap);
    if (unmap === 0) return; // the manager has heard where it went
    this.#deps.uffds.beginChange(ctx);
    this.#owe(ctx, unmap, from, from + pages);
  }

  #forget(vma: Vma): void {
    const { vmas, layout } = this.#deps;
    const { lo, hi } = vmas.flags(vma);
    vmas.setFlags(vma, lo & ~LOW, hi & ~HIGH);
    layout.vma.uffd.set(vma, 0 as Uffd);
  }

  /**
   * The pages of [start, end) of a VMA are about to go, by DONTNEED, FREE or REMOVE. When the manager wants to
   * hear of it first, gives mmap back, waits and takes it again: then the VMA is to be looked up anew, and the
   * context returned is to be given to `removed` once the pages are gone (V-52). 0: nothing has happened. Throws
   * ENOMEM. Requires: mmap for read.
   */
  removing(mm: Mm, vma: Vma, start: Vpn, end: Vpn): Uffd {
    const { layout, sync, uffds } = this.#deps;
    const ctx = layout.vma.uffd.get(vma);
    if (ctx === 0 || !this.#wants(ctx, UffdFeature.EventRemove)) return 0 as Uffd;
    const entry = this.#begin(ctx, UffdEvent.Remove, 'madvise');
    this.#wait.vpn.set(entry, start);
    this.#wait.end.set(entry, end);
    const lock = mm + layout.mm.mmapLock.at;
    sync.readUnlock('mmap', lock);
    let told = false;
    try {
      this.#tell(ctx, entry);
      told = true;
    } finally {
      sync.readLock('mmap', lock);
      if (!told) uffds.endChange(ctx);
    }
    return ctx;
  }

  removed(ctx: Uffd): void {
    this.#deps.uffds.endChange(ctx);
  }

  /**
   * A VMA has been copied for a child. Gives the copy a context of its own, noted in `forked`, if the manager
   * wants to hear of forks; else it is an ordinary one (U-31), or, in 2014, one without a context (U-30). Throws
   * ENOMEM. Requires: the parent's mmap for write.
   */
  forking(forked: Forked[], child: Mm, from: Vma, to: Vma): void {
    const { layout } = this.#deps;
    const ctx = layout.vma.uffd.get(from);
    if (ctx === 0 || this.#deps.breaks.forkKeepsContext) return;
    if ((layout.uffd.flags.get(ctx) & UffdFlag.Seed14) !== 0) layout.vma.uffd.set(to, 0 as Uffd);
    else if (!this.#wants(ctx, UffdFeature.EventFork)) this.#forget(to);
    else {
      const known = forked.find(pair => pair.parent === ctx);
      layout.vma.uffd.set(to, known === undefined ? this.#duplicate(forked, ctx, child) : known.child);
    }
  }

  #duplicate(forked: Forked[], parent: Uffd, child: Mm): Uffd {
    const { layout, uffds } = this.#deps;
    const u = layout.uffd;
    const entry = this.#begin(parent, UffdEvent.Fork, 'fork');
    let copy: Uffd;
    try {
      copy = uffds.alloc(child, u.flags.get(parent));
    } catch (error) {
      uffds.queues.drop(entry);
      uffds.endChange(parent);
      throw error;
    }
    u.features.store(copy, u.features.load(parent));
    u.state.store(copy, UffdState.Running);
    uffds.link(child, copy);
    this.#wait.child.set(entry, copy);
    forked.push({ parent, child: copy, entry });
    return copy;
  }

  /**
   * Tells each manager of its new context, and waits. Nobody read it: the child's context is released (V-50). No
   * lock may be held.
   */
  forked(forked: readonly Forked[]): void {
    const { uffds } = this.#deps;
    for (const { parent, child, entry } of forked) {
      let read = false;
      try {
        read = this.#tellAndEnd(parent, entry);
      } finally {
        if (!read) uffds.put(child);
      }
    }
  }

  /** The fork has failed; the child has exited. No lock may be held. */
  forkFailed(forked: readonly Forked[]): void {
    const { uffds, breaks } = this.#deps;
    for (const { parent, child, entry } of forked) {
      uffds.queues.drop(entry);
      if (!breaks.forkLeavesGate) uffds.endChange(parent);
      uffds.put(child);
    }
  }
}
