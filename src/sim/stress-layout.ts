import { i32, struct } from '../sync/struct.ts';

/** How the stress test is set up; plain data, the same on every thread. */
export type StressShape = {
  /** Pages that the vCPUs write their counters to. */
  pages: number;
  /** Pages that the housekeeper unmaps again and again. */
  scratch: number;
  vcpus: number;
  seed: number;
  /** Parts of the counter pages that are more than plain memory; none without `--everything`. */
  regions?: StressRegions;
};

/** Pages from the memslot's first on: [first, first + count). */
export type Region = { first: number; count: number };
/** The plain pages come first. Each region is a mapping of its own. */
export type StressRegions = {
  /** Armed with a userfaultfd, MISSING and WP, whose manager is a thread. */
  asked: Region;
  /** Armed with one of the SIGBUS feature: whoever faults fills the hole. */
  sigbus: Region;
  /** Whole 2 MiB areas that want huge pages; the scratch pages are the end of the last. */
  huge: Region;
};

/** First guest frame of the memslot: counters first, scratch behind them. 2 MiB areas of both sides coincide. */
export const FIRST_GFN = 0x200;
/** Counters that each writer has in each page. */
export const COUNTERS = 4;
/** Words between two counters of a page, so that they lie apart. */
const STRIDE = 61;
export const MAX_WRITERS = 4;

/** Where a counter lies in its page. The last writers are the VMM, through the primary page tables, and a device. */
export const counterWord = (writer: number, counter: number): number =>
  (writer * COUNTERS + counter) * STRIDE + 5;
/** A word of each page that nobody counts in. */
export const IDLE_WORD = 1;

export const isIn = (region: Region, page: number): boolean =>
  page >= region.first && page < region.first + region.count;

/**
 * 8 MiB: an eighth plain, an eighth armed for SIGBUS, a quarter, which is a whole 2 MiB area, for a manager, half
 * huge with the scratch pages at its end.
 */
export function everythingShape(vcpus: number, seed: number): StressShape {
  const regions = {
    sigbus: { first: 256, count: 256 },
    asked: { first: 512, count: 512 },
    huge: { first: 1024, count: 1024 },
  };
  return { pages: 1984, scratch: 64, vcpus, seed, regions };
}

export function stressLayout(words: Int32Array) {
  return {
    /** What the threads tell each other. All atomic. */
    control: struct(words, 'stressControl', {
      ready: i32, //   workers that are set up
      go: i32,
      stop: i32,
      finished: i32, // workers that have swept all pages
      keeperDone: i32, // the housekeeper makes no user fault any more
      contended: i32, // the page that every vCPU visits now, and the housekeeper takes away
      epochs: i32, //  word index of one word per scratch page: odd while it is being unmapped
      trails: i32, //  word index of what each thread did last (stress-trail.ts)
    }),
    /** One per vCPU, and one of the housekeeper's. Atomic; each written by its own thread. */
    report: struct(words, 'stressReport', {
      checked: i32,
      misses: i32,
      scratchChecked: i32,
      lost: i32,
      staleScratch: i32, //   scratch pages that kept content across an unmap
      staleTwin: i32, //      merged pages that changed with their twins
      staleChild: i32, //     pages of a child that changed after the fork
      staleProtected: i32, // pages that changed while they were protected
      failed: i32, //   faults that could not be served
      unmaps: i32,
      forks: i32,
      code: i32, //     of the first fault that failed: GUP_
      asked: i32, //    user faults answered
      protections: i32, // of them, writes to protected pages
      blocked: i32, //  times that a vCPU waited for one
      sigbus: i32, //   holes that who faulted has filled
      moves: i32, //    pages moved, one way or the other
      collapses: i32,
      events: i32, //   of fork, remap, remove and unmap, read by the manager
    }),
  };
}
export type StressLayout = ReturnType<typeof stressLayout>;
