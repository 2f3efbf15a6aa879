import type { Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import {
  FAULT_OFFSET_SHIFT,
  FAULT_RETRY,
  FaultFlag,
  GUP_BLOCKED,
  GUP_NOMEM,
  GUP_SIGBUS,
} from '../fault-codes.ts';
import { type MmLayout, Pte, SwpType, swpType, VmFlag, VmFlagHigh } from '../layout.ts';
import type { PageTable } from '../page-table.ts';
import type { UffdContexts } from './contexts.ts';
import type { Ticket } from './queues.ts';
import { UffdEvent, UffdFault, UffdFeature, UffdFlag, UffdState } from './state.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type HandleDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pageTable: PageTable;
  readonly uffds: UffdContexts;
  readonly breaks: MmBreaks;
  readonly y: (label: string) => void;
  /** What messages call this thread (THREAD_ID). */
  readonly thread: number;
};

/** Internal to the decision: a message is to be queued. */
const DELIVER = 1;

/**
 * What a fault on an armed hole becomes (U-25, V-20), and the queueing of those that are delivered. Linux:
 * handle_userfault.
 *
 * Who finds an entry none under its lock in a VMA for which `isArmed` holds installs nothing: it drops the
 * lock, takes back what it has charged, and returns what `fault` says. The same for a write to an entry that
 * is write-protected (`UffdFault.Wp`) and for a page that is only in the page cache (`UffdFault.Minor`).
 */
export class UffdHandle {
  readonly #deps: HandleDeps;
  readonly #uffd: MmLayout['uffd'];
  readonly #wait: MmLayout['uffdWait'];
  readonly #vma: MmLayout['vma'];
  /** The context whose release the last fault ran into. */
  #releasing = 0 as Uffd;
  /** After GUP_BLOCKED: the entry that the caller owns, or 0 when it did not want to wait. */
  ticket = 0 as Ticket;

  constructor(deps: HandleDeps) {
    this.#deps = deps;
    this.#uffd = deps.layout.uffd;
    this.#wait = deps.layout.uffdWait;
    this.#vma = deps.layout.vma;
  }

  /** Is a hole of the VMA a user fault? `high` is the high word of its flags. Requires: mmap. */
  isArmed(flags: number, high: number): boolean {
    return ((flags & VmFlag.UffdMissing) | (high & VmFlagHigh.UserFault)) !== 0;
  }

  /**
   * GUP_SIGBUS, GUP_BLOCKED with `ticket`, FAULT_RETRY when the page has come meanwhile or the context is
   * released, or GUP_NOMEM. Requires: mmap for read and nothing below it; the test that led here was made
   * under the lock of the entry (U-11). `fault` is of UffdFault, `how` of FaultFlag.
   */
  fault(mm: Mm, vma: Vma, vpn: Vpn, fault: number, how: number): number {
    const ctx = this.#vma.uffd.get(vma);
    if (ctx === 0) return GUP_SIGBUS;
    const decided = this.#decide(ctx, vma, fault, how);
    return decided === DELIVER ? this.#deliver(mm, ctx, vpn, fault, how) : decided;
  }

  #decide(ctx: Uffd, vma: Vma, fault: number, how: number): number {
    const flags = this.#uffd.flags.get(ctx);
    const seed14 = (flags & UffdFlag.Seed14) !== 0;
    if (seed14 ? this.#refused14(ctx, how) : this.#refused(ctx, vma, flags, fault, how)) return GUP_SIGBUS;
    if ((how & FaultFlag.NoRetry) !== 0) return GUP_SIGBUS;
    this.ticket = 0 as Ticket;
    if ((how & FaultFlag.NoWait) !== 0 && !this.#deps.breaks.queueNoWait) return GUP_BLOCKED;
    if (!this.#deps.uffds.isReleased(ctx)) return DELIVER;
    this.#releasing = ctx;
    return FAULT_RETRY;
  }

  /**
   * Before a fault is made again: if its context was released, its VMAs are about to be plain ones, and whoever
   * does that is on its way to the mmap lock (M-26). Requires: no lock.
   */
  beforeRetry(): void {
    const ctx = this.#releasing;
    if (ctx === 0) return;
    this.#releasing = 0 as Uffd;
    this.#deps.sync.waiter.wait(ctx + this.#uffd.state.at, UffdState.Released, 1);
  }

  /** Under the rule of 2014 an access is delivered once (F-12). */
  #refused14(ctx: Uffd, how: number): boolean {
    return this.#deps.uffds.isReleased(ctx) || (how & FaultFlag.Tried) !== 0;
  }

  #refused(ctx: Uffd, vma: Vma, flags: number, fault: number, how: number): boolean {
    if ((this.#uffd.features.load(ctx) & UffdFeature.Sigbus) !== 0) return true;
    if ((flags & UffdFlag.UserModeOnly) !== 0 && (how & FaultFlag.Kernel) !== 0) return true;
    // Armed by MADV_USERFAULT alone: the context has not asked for holes.
    const missing = (fault & (UffdFault.Wp | UffdFault.Minor)) === 0;
    return missing && (this.#vma.flags.get(vma) & VmFlag.UffdMissing) === 0;
  }

  /** Queued while mmap is held, then the entry is looked at again: so no answer is missed (F-13, V-24). */
  #deliver(mm: Mm, ctx: Uffd, vpn: Vpn, fault: number, how: number): number {
    const { uffds, breaks, y } = this.#deps;
    const entry = uffds.queues.alloc(ctx, UffdEvent.Pagefault);
    if (entry === 0) return GUP_NOMEM;
    this.#wait.flags.set(entry, fault);
    this.#wait.vpn.set(entry, vpn);
    this.#wait.offset.set(entry, how >>> FAULT_OFFSET_SHIFT);
    this.#wait.thread.set(entry, this.#deps.thread);
    if (breaks.announceBeforeQueue) uffds.queues.announce(ctx);
    y('U.e');
    uffds.queues.enqueueFault(ctx, entry);
    y('U.q');
    const waits = breaks.queueWithoutRecheck || this.#mustWait(mm, vpn, fault);
    y('U.w');
    if (!waits) {
      uffds.queues.finish(entry);
      return FAULT_RETRY;
    }
    if (!breaks.announceBeforeQueue) uffds.queues.announce(ctx);
    this.ticket = entry;
    return GUP_BLOCKED;
  }

  /**
   * Would the access still fault? Swapped and migrating pages sort themselves out when it is tried again
   * (V-23). Requires: mmap for read, so that the table stays.
   */
  #mustWait(mm: Mm, vpn: Vpn, fault: number): boolean {
    const { pageTable } = this.#deps;
    const entry = pageTable.entryOf(mm, vpn);
    if (entry === 0) return true;
    if ((entry & Pte.Present) === 0) return swpType(entry) === SwpType.Marker;
    return (fault & UffdFault.Wp) !== 0 && (entry & Pte.UffdWp) !== 0;
  }
}
