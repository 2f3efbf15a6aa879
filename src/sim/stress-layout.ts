import { i32, struct } from '../sync/struct.ts';

/** How the stress test is set up; plain data, the same on every thread. */
export type StressShape = {
  /** Pages that the vCPUs write their counters to. */
  pages: number;
  /** Pages that the housekeeper unmaps again and again. */
  scratch: number;
  vcpus: number;
  seed: number;
};

/** First guest frame of the memslot: counters first, scratch behind them. */
export const FIRST_GFN = 0x100;
/** Counters that each writer has in each page. */
export const COUNTERS = 4;
/** Words between two counters of a page, so that they lie apart. */
const STRIDE = 61;
export const MAX_WRITERS = 4;

/** Where a counter lies in its page. The last writer is the VMM, through the primary page tables. */
export const counterWord = (writer: number, counter: number): number =>
  (writer * COUNTERS + counter) * STRIDE + 5;

export function stressLayout(words: Int32Array) {
  return {
    /** What the threads tell each other. All atomic. */
    control: struct(words, 'stressControl', {
      ready: i32, //   workers that are set up
      go: i32,
      stop: i32,
      finished: i32, // workers that have swept all pages
      contended: i32, // the page that every vCPU visits now, and the housekeeper takes away
      epochs: i32, //  word index of one word per scratch page: odd while it is being unmapped
    }),
    /** One per vCPU, and one of the housekeeper's. Atomic; each written by its own thread. */
    report: struct(words, 'stressReport', {
      checked: i32,
      misses: i32,
      scratchChecked: i32,
      lost: i32,
      stale: i32, //    scratch pages that kept content across an unmap
      failed: i32, //   faults that could not be served
      gfn: i32, //      of the first wrong value
      wanted: i32,
      got: i32,
      unmaps: i32,
      forks: i32,
    }),
  };
}
export type StressLayout = ReturnType<typeof stressLayout>;
