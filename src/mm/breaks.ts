/**
 * Rules that a test may switch off, to prove that it would notice (T.1: "each protocol test has a mutant").
 * All false in production; read once, when the core is built.
 */
export type MmBreaks = {
  /**
   * mm-figures B.3: a swap-in is guarded by the comparison of the pte alone, not by the swap cache and the
   * page lock: the slot can be freed and handed out again in between.
   */
  swapinPteSame: boolean;
  /** J-9: frames are written and freed while a vCPU may still use what it cached. */
  reclaimWithoutFlush: boolean;
  /** T-FIP-08: the page is written to swap before the flush is acknowledged. */
  writeBeforeFlush: boolean;
  /** M-35: pages that somebody holds a reference to are freed all the same. */
  ignorePinned: boolean;
  /** A page whose swap copy is older than its content counts as clean. */
  forgetDirty: boolean;
};

export const NO_MM_BREAKS: MmBreaks = {
  swapinPteSame: false,
  reclaimWithoutFlush: false,
  writeBeforeFlush: false,
  ignorePinned: false,
  forgetDirty: false,
};
