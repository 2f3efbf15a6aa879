import type { Pfn } from '../../base/units.ts';

// What reclaim needs of a place to swap to. The slot numbers, their counts and the swap cache are
// swap.ts's; a backend only keeps one page's content per slot.

/**
 * - `ok`: the content is kept; the frame may be reused.
 * - `full`: the device has no room for this page now (disk full, pool at its `mem_limit`).
 * - `nomem`: there was no frame to keep it in. Freeing memory elsewhere may help.
 * - `error`: the device failed. The slot should not be used again.
 *
 * After anything but `ok` the slot is empty, and the frame is as it was.
 */
export type SwapWrite = 'ok' | 'full' | 'nomem' | 'error';
/** After `error` the frame's content is undefined: the page is lost (O-4). */
export type SwapRead = 'ok' | 'error';

/**
 * One swap device. Every call is synchronous, callable from each thread that has its own instance over
 * the same state, and takes at most one leaf lock, so the caller must hold none of `LOCK_ORDER`'s leaves.
 *
 * The caller keeps each slot to one operation at a time (the swap cache's page lock does), and the
 * frame's content still while it is written (unmapped everywhere and flushed: T-FIP-08).
 */
export interface SwapBackend {
  /** As in the guest-visible flag: `zram`, `file`. */
  readonly name: string;
  /** Slots are numbered 0 .. slots - 1. */
  readonly slots: number;
  /** Keeps the content of `pfn` in `slot`; whatever the slot held before is forgotten. */
  writePage(slot: number, pfn: Pfn): SwapWrite;
  /** Fills `pfn` with what `slot` holds. The slot keeps it. */
  readPage(slot: number, pfn: Pfn): SwapRead;
  /** Forgets what the slot holds. Freeing an empty slot does nothing. */
  freeSlot(slot: number): void;
  /**
   * Writes several pages, `count` from the start of both arrays. Returns how many leading ones were
   * kept; when fewer than `count`, `writePage` on the next tells why.
   */
  writePages?(slots: ArrayLike<number>, pfns: ArrayLike<Pfn>, count: number): number;
}

/** Where a backend that lives in memory gets its frames. -1: none left. Neither call is made under a lock. */
export type FramePort = {
  allocFrame(): Pfn | -1;
  freeFrame(pfn: Pfn): void;
};

/** Where tables that live as long as the Host come from: zeroed words of the arena's heap. */
export type HeapPort = {
  /** Word index of `words` zeroed words, 64-byte aligned. Throws ENOMEM. */
  alloc(words: number): number;
};
