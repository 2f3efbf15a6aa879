export { MARK } from '../mm/breaks.ts';

/**
 * Rules that a test may switch off, to prove that it would notice (T.1: "each protocol test has a mutant").
 * All false in production; read once, when the core is built.
 */
export type KvmBreaks = {
  /** B-3, T-RMAP-02, T-FIR-16: invalidation and ageing know 4 KiB leaves alone. */
  smallLeavesOnly: boolean;
  /** B-31: the level of a leaf is taken from the shape of slot and frame, not from the primary. */
  levelFromShape: boolean;
  /** T-THP-10: the primary's level is looked up before the sequence is sampled, and not again. */
  levelBeforeSample: boolean;
  /** T-FIP-01: the notifier leaves the leaves where they are. */
  skipZap: boolean;
  /** T-FIP-03, T-FIR-03: the fault does not compare the sequence under mmu_lock. */
  ignoreSeq: boolean;
  /** T-FIR-02: nor look whether an invalidation is in progress. */
  ignoreInProgress: boolean;
  /** T-FIR-09: retry on any invalidation, wherever it is. */
  ignoreRange: boolean;
  /** T-FIP-06: the sequence is sampled even while it is odd. */
  sampleOdd: boolean;
  /** T-FIP-09: the sequence is sampled after GUP (K-15). */
  sampleAfterGup: boolean;
  /** T-FIP-10: install first, then check (B-6). */
  installThenCheck: boolean;
  /** T-FIP-11, T-FIR-15: stop at the first slot that backs the hva. */
  firstSlotOnly: boolean;
  /** J-7: ask vCPUs to flush, but don't wait for them. */
  flushWithoutAck: boolean;
  /**
   * `flushWithoutAck`, `dropDirty` and `accessedBitOr` hold for frames that begin with MARK alone: a guest's test program
   * marks its own pages, so that the kernel below it lives to tell what was lost. `accessedBitOr` then waits for
   * reclaim to take the leaf, and reclaim for the vCPU, as the window is of a few instructions.
   */
  onlyMarked: boolean;
  /** J-7: zaps name no frames, so vCPUs that are asked to flush drop nothing. */
  forgetNames: boolean;
  /** J-7: vCPUs are asked to flush before the frames are named. */
  namesAfterRequest: boolean;
  /** J-7: a vCPU that the list of names has left behind goes by what it finds. */
  forgetOverflow: boolean;
  /** J-7: nor does it look whether it was overtaken while it read. */
  trustNames: boolean;
  /** mm-figures B.2: set accessed and dirty with OR instead of compare-exchange. */
  accessedBitOr: boolean;
  /** T-AGE-04, B-7: clear the accessed bit with a plain store. */
  agePlainStore: boolean;
  /** T-AGE-06: stop ageing at the first young leaf. */
  ageShortCircuit: boolean;
  /** T-RMAP-01, B-2: capture `next` before removing a leaf. */
  rmapNextFirst: boolean;
  /** T-FIR-08: in_progress goes down before the sequence goes up (K-23). */
  decrementFirst: boolean;
  /** T-FIR-08: the check is made before mmu_lock is taken, and not again under it (K-25). */
  checkUnlocked: boolean;
  /** T-FIR-12: the hull is not reset when in_progress leaves zero (K-21). */
  staleHull: boolean;
  /** T-FIR-13: a boolean where a counter belongs. */
  inProgressFlag: boolean;
  /** T-FIR-05: the sequence moves at the start of an invalidation instead of its end. */
  seqAtStart: boolean;
  /** T-FIR-18: a retried fault forgets the reference that GUP took. */
  leakOnRetry: boolean;
  /** T-SLOT-04: publish memslots without waiting for invalidations under way (L-12). */
  publishAtOnce: boolean;
  /** T-SLOT-06: a deleted slot keeps its leaves. */
  deleteKeepsLeaves: boolean;
  /** The dirty bit of a zapped leaf is dropped (T-FIP-08, K-7). */
  dropDirty: boolean;
  /** design 11: an ageing pass ends without a TLB generation bump. */
  noAgeingBump: boolean;
  /** T-AGE-03, T-AGE-11: ageing counts as an invalidation (K-54). */
  ageMovesSequence: boolean;
  /** T-FIR-14: a range that no slot shows is counted all the same (K-20). */
  countUnseen: boolean;
  /** T-FIR-17: a retry goes by the sequence of the first attempt. */
  sampleOnce: boolean;
  /** T-AGE-12: a fault brings in the next page while it holds mmu_lock (M-11). */
  gupUnderLock: boolean;
  /** T-SLOT-12: a slot may lie over another (L-11). */
  overlapUnchecked: boolean;
  /** T-SLOT-03: a slot that moves is changed where it is, rather than in a copy (L-1). */
  editInPlace: boolean;
  /** T-SLOT-07: a vCPU that waits for a page stays in its read section of the slots (L-15). */
  sleepInReadSection: boolean;
  /** T-THP-08: a slot that is logged is mapped by 2 MiB (K-4). */
  hugeWhileLogged: boolean;
  /** T-THP-09: leaves that hold references are of 2 MiB, and hold one. */
  hugePins: boolean;
  /** T-RMAP-03: the last leaf of a block does not move into the gap. */
  rmapLosesLast: boolean;
  /** T-SLOT-01: faults look behind a slot that has no address yet (L-3). */
  faultThroughZero: boolean;
  /** T-SLOT-02: a slot whose hook failed stays (L-2). */
  keepHook: boolean;
  /** T-SLOT-09: what was MMIO once stays so (L-16). */
  staleMmio: boolean;
  /** T-FIR-19: roots are replaced, and faults on their way are not told (K-34). */
  zapAllQuietly: boolean;
  /** T-RMAP-04: tables are freed without waiting for those who walk them. */
  freeTablesAtOnce: boolean;
  /** T-FIP-12: pages beside a fault are mapped without asking whether an invalidation is about them. */
  prefetchUnchecked: boolean;
  /** T-AGE-08: a leaf without an accessed bit counts as used, and stays (K-13). */
  ageKeepsLeaves: boolean;
  /** T-LIFE-09: a VM is freed without waiting for its vCPUs. */
  destroyWithoutWait: boolean;
  /** K-28: a read fault in a read-only slot maps the page as writable as the primary has it. */
  ignoreReadOnlySlot: boolean;
  /** SBI RFENCE returns as soon as the harts are asked to fence. */
  fenceWithoutAck: boolean;
  /** A fence is left to a hart that has entered the address space meanwhile. */
  owesBlindly: boolean;
  /** A frame becomes code before the other vCPUs have dropped their Write entries for it. */
  codeWithoutAck: boolean;
};

export const NO_BREAKS: KvmBreaks = {
  smallLeavesOnly: false,
  levelFromShape: false,
  levelBeforeSample: false,
  skipZap: false,
  ignoreSeq: false,
  ignoreInProgress: false,
  ignoreRange: false,
  sampleOdd: false,
  sampleAfterGup: false,
  installThenCheck: false,
  firstSlotOnly: false,
  flushWithoutAck: false,
  onlyMarked: false,
  forgetNames: false,
  namesAfterRequest: false,
  forgetOverflow: false,
  trustNames: false,
  accessedBitOr: false,
  agePlainStore: false,
  ageShortCircuit: false,
  rmapNextFirst: false,
  decrementFirst: false,
  checkUnlocked: false,
  staleHull: false,
  inProgressFlag: false,
  seqAtStart: false,
  leakOnRetry: false,
  publishAtOnce: false,
  deleteKeepsLeaves: false,
  dropDirty: false,
  noAgeingBump: false,
  ageMovesSequence: false,
  countUnseen: false,
  sampleOnce: false,
  gupUnderLock: false,
  overlapUnchecked: false,
  editInPlace: false,
  sleepInReadSection: false,
  hugeWhileLogged: false,
  hugePins: false,
  rmapLosesLast: false,
  faultThroughZero: false,
  keepHook: false,
  staleMmio: false,
  zapAllQuietly: false,
  freeTablesAtOnce: false,
  prefetchUnchecked: false,
  ageKeepsLeaves: false,
  destroyWithoutWait: false,
  ignoreReadOnlySlot: false,
  fenceWithoutAck: false,
  owesBlindly: false,
  codeWithoutAck: false,
};
