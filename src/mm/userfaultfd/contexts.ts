import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import type { Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmLayout } from '../layout.ts';
import { VPN_MAX } from '../page-table.ts';
import type { Slabs } from '../slab.ts';
import { UffdQueues } from './queues.ts';
import { UffdState } from './state.ts';

type Mm = Ptr<'mm'>;
type Uffd = Ptr<'uffd'>;

export type ContextsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly breaks: MmBreaks;
  /** Drops a count of an mm's structure. */
  readonly dropMm: (mm: Mm) => void;
};

/**
 * Contexts from birth to release, and the gate that keeps resolvers out while the layout of their mm changes.
 * `refs` are descriptors, and the last one releases; `count` keeps the structure (F-1, F-33). Linux:
 * fs/userfaultfd.c.
 */
export class UffdContexts {
  readonly queues: UffdQueues;
  readonly #deps: ContextsDeps;
  readonly #uffd: MmLayout['uffd'];
  #release: (ctx: Uffd) => void = () => {};

  constructor(deps: ContextsDeps) {
    this.#deps = deps;
    this.#uffd = deps.layout.uffd;
    this.queues = new UffdQueues({ ...deps, drop: ctx => this.drop(ctx) });
  }

  /** What the last close does before the structure goes (release.ts). */
  wire(release: (ctx: Uffd) => void): void {
    this.#release = release;
  }

  /**
   * A context of an mm, with one reference. It keeps the mm's structure, not what is mapped (F-1, F-34). Throws
   * ENOMEM, and ESRCH when the mm has exited.
   */
  create(mm: Mm, flags: number): Uffd {
    const { sync, layout } = this.#deps;
    const ctx = this.alloc(mm, flags);
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    const live = layout.mm.users.load(mm) > 0;
    if (live) this.link(mm, ctx);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (live) return ctx;
    this.drop(ctx);
    throw new Errno('ESRCH', 'userfaultfd', 'the address space has exited');
  }

  /** As `create`, not yet on the list of its mm. */
  alloc(mm: Mm, flags: number): Uffd {
    const ctx = this.#deps.slabs.uffd.alloc();
    if (ctx === 0) throw new Errno('ENOMEM', 'userfaultfd');
    this.#deps.layout.mm.count.add(mm, 1);
    this.#uffd.mm.set(ctx, mm);
    this.#uffd.flags.set(ctx, flags);
    this.#uffd.state.store(ctx, UffdState.Ask);
    this.#uffd.refs.store(ctx, 1);
    this.#uffd.count.store(ctx, 1);
    return ctx;
  }

  /** Requires: mmap for write. */
  link(mm: Mm, ctx: Uffd): void {
    const { uffds } = this.#deps.layout.mm;
    this.#uffd.next.set(ctx, uffds.get(mm));
    uffds.set(mm, ctx);
  }

  /** Requires: mmap for write. */
  unlink(mm: Mm, ctx: Uffd): void {
    const { uffds } = this.#deps.layout.mm;
    const { next } = this.#uffd;
    if (uffds.get(mm) === ctx) uffds.set(mm, next.get(ctx));
    for (let at = uffds.get(mm); at !== 0; at = next.get(at))
      if (next.get(at) === ctx) next.set(at, next.get(ctx));
  }

  /** One more descriptor. The caller has one. */
  get(ctx: Uffd): void {
    const before = this.#uffd.refs.add(ctx, 1);
    assert(before > 0, 'userfaultfd: a reference to a context that is gone');
  }

  /** A reference for the time of one call, if there is still a descriptor (T-LIFE-04). */
  tryGet(ctx: Uffd): boolean {
    for (let refs = this.#uffd.refs.load(ctx); refs > 0; refs = this.#uffd.refs.load(ctx))
      if (this.#uffd.refs.cas(ctx, refs, refs + 1) === refs) return true;
    return false;
  }

  /** A descriptor goes; with the last one the context is released (F-30, V-29). No lock may be held. */
  put(ctx: Uffd): void {
    // The mm may exit as soon as nobody holds the context, and end it.
    this.#uffd.count.add(ctx, 1);
    const before = this.#uffd.refs.add(ctx, -1);
    assert(before > 0, 'userfaultfd: a reference dropped that nobody held');
    if (before === 1) this.#release(ctx);
    this.drop(ctx);
  }

  /** Drops a count of the structure. */
  drop(ctx: Uffd): void {
    const before = this.#uffd.count.add(ctx, -1);
    assert(before > 0, 'userfaultfd: a count dropped that nobody held');
    if (before > 1) return;
    this.#deps.dropMm(this.#uffd.mm.get(ctx));
    this.#deps.slabs.uffd.free(ctx);
  }

  /** Will anybody read what it is told? Not after the last close, even where the policy is to hang. */
  isHeld(ctx: Uffd): boolean {
    return this.#uffd.refs.load(ctx) !== 0;
  }

  isReleased(ctx: Uffd): boolean {
    return this.#uffd.state.load(ctx) === UffdState.Released;
  }

  /**
   * Wakes whoever sleeps in a fault of [start, end), read or not (V-15). Returns how many. After a page was
   * installed: with no lock held, or with mmap alone.
   */
  wakeRange(ctx: Uffd, start: Vpn, end: Vpn): number {
    return this.queues.wake(ctx, start, end, false);
  }

  /** Wakes everybody, events included: nobody will answer any more. */
  wakeAll(ctx: Uffd): void {
    this.queues.wake(ctx, 0, VPN_MAX, false);
    this.queues.wakeEvents(ctx);
    this.queues.announce(ctx);
  }

  /** Is a change of the layout under way? A resolver asks first of all, without a lock (V-30). */
  isChanging(ctx: Uffd): boolean {
    return this.#uffd.mmapChanging.load(ctx) !== 0;
  }

  /**
   * Opens the gate for a resolver, which passes through it until `leave`; false while a change is under way:
   * EAGAIN. Inside, it may not sleep for the manager. Requires: mmap for read, nothing below it (V-54).
   */
  tryEnter(ctx: Uffd): boolean {
    const { sync, breaks } = this.#deps;
    if (breaks.skipGate) return true;
    sync.readLock('mapChanging', ctx + this.#uffd.mapChanging.at);
    if (this.isChanging(ctx)) {
      this.leave(ctx);
      return false;
    }
    sync.y('V.g');
    return true;
  }

  leave(ctx: Uffd): void {
    if (this.#deps.breaks.skipGate) return;
    this.#deps.sync.readUnlock('mapChanging', ctx + this.#uffd.mapChanging.at);
  }

  /** Shuts the gate before the layout changes, once those inside have left. `endChange` opens it (OR-5). */
  beginChange(ctx: Uffd): void {
    const { sync } = this.#deps;
    sync.writeLock('mapChanging', ctx + this.#uffd.mapChanging.at);
    this.#uffd.mmapChanging.add(ctx, 1);
    sync.writeUnlock('mapChanging', ctx + this.#uffd.mapChanging.at);
    this.#uffd.count.add(ctx, 1);
  }

  endChange(ctx: Uffd): void {
    const before = this.#uffd.mmapChanging.add(ctx, -1);
    assert(before > 0, 'userfaultfd: a change ended that had not begun');
    this.#deps.sync.y('X.c');
    this.drop(ctx);
  }
}
