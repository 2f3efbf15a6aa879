import type { Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';

/** Why a range is invalidated (N-10). */
export const NotifyEvent = {
  Unmap: 0,
  Clear: 1,
  ProtectionVma: 2,
  ProtectionPage: 3,
  SoftDirty: 4,
  Release: 5,
  Migrate: 6,
  Exclusive: 7,
} as const;
export type NotifyEvent = (typeof NotifyEvent)[keyof typeof NotifyEvent];

export const NotifyFlag = {
  /** The callback may sleep. Without it a callback may answer EAGAIN (N-14). */
  Blockable: 1,
  /**
   * Zap, but leave the wait for vCPU acknowledgements to `flush`, which the mm calls once per batch before
   * it reads or frees any page of the batch and before the `end`s (design 11).
   */
  DeferFlush: 2,
} as const;

/**
 * A secondary MMU's callbacks, modern and seed08 in one table; absent ones are skipped. `subscriber` is
 * the pointer given at registration. Runs on whichever thread changes the mm, so an implementation
 * keeps its state in the arena. May take 'mmu', 'mnInvalidate' and nothing outside them (M-11, M-12).
 */
export type MmuNotifierOps = {
  readonly name: string;
  /** Leaves hold a page reference (seed08), so `end` alone is correct for ranges (N-6). */
  readonly pins: boolean;
  /** Returns 0, or -11 (EAGAIN) only when not Blockable. */
  invalidateRangeStart?(
    subscriber: number,
    mm: Ptr<'mm'>,
    start: Vpn,
    end: Vpn,
    event: NotifyEvent,
    flags: number,
  ): number;
  invalidateRangeEnd?(subscriber: number, mm: Ptr<'mm'>, start: Vpn, end: Vpn, event: NotifyEvent): void;
  /** Returns once no vCPU can use a translation that a deferred start zapped. */
  flush?(subscriber: number): void;
  /**
   * For what shares the primary's tables (N-23): the primary flushes [start, end), its ptes are changed and no frame
   * is freed. Who implements it has neither start nor end.
   */
  archInvalidateSecondaryTlbs?(subscriber: number, mm: Ptr<'mm'>, start: Vpn, end: Vpn): void;
  /** seed08: the pte has been cleared, the page not yet freed. */
  invalidatePage?(subscriber: number, mm: Ptr<'mm'>, page: Vpn): void;
  /** seed08's name for clearFlushYoung of one page. */
  agePage?(subscriber: number, mm: Ptr<'mm'>, page: Vpn): boolean;
  clearFlushYoung?(subscriber: number, mm: Ptr<'mm'>, start: Vpn, end: Vpn): boolean;
  clearYoung?(subscriber: number, mm: Ptr<'mm'>, start: Vpn, end: Vpn): boolean;
  testYoung?(subscriber: number, mm: Ptr<'mm'>, page: Vpn): boolean;
  /** A full ageing pass is over: cached translations must be refilled once, so that use shows again. */
  ageingPassEnd?(subscriber: number): void;
  release?(subscriber: number, mm: Ptr<'mm'>): void;
};
