/** First word of a page that a test program gives up to be lost. */
export const MARK = 0x4c4f5354;

/** Rules that a test may switch off, to prove that it would notice. All false in production. */
export type MmBreaks = {
  /** A swap-in goes by the pte alone, and never asks the swap cache whose slot it is (mm-figures B.3). */
  swapInByPteAlone: boolean;
  /** The reverse map takes a pte away without telling the secondaries. */
  unmapWithoutNotify: boolean;
  /** A page written through its pte counts as clean when it is unmapped. */
  unmapForgetsDirty: boolean;
  /** COW shows the new page before the secondaries have dropped the old one (M-31). */
  cowWithoutNotify: boolean;
  /** fork leaves the parent's ptes writable. */
  forkKeepsWritable: boolean;
  /** Ageing asks the secondaries only when the pte was old (N-3, M-34). */
  ageShortCircuit: boolean;
  /** A fault's recheck of the pte under its lock is skipped. */
  faultWithoutRecheck: boolean;
  /** H-10: a huge entry is split without telling the secondaries. */
  splitWithoutNotify: boolean;
  /** H-1, H-2: a huge fault's recheck of the middle entry under its lock is skipped. */
  hugeWithoutRecheck: boolean;
  /** H-20: a collapse fills holes of a VMA in which user faults are armed. */
  collapseArmed: boolean;
  /** H-20, H-23: a collapse goes by its scan, and does not look again once it has the locks. */
  collapseUnchecked: boolean;
  /** H-22: a collapse takes pages that somebody holds a reference to. */
  collapsePinned: boolean;
  /** H-23: a collapse does not tell the secondaries. */
  collapseWithoutNotify: boolean;
  /** T-THP-07: a collapse that fails does not put the old table back. */
  collapseLosesTable: boolean;
  /** J-9: reclaim writes and frees frames while a vCPU may still use what it cached. */
  reclaimWithoutFlush: boolean;
  /** T-FIP-08: reclaim writes the page to swap before the flush is acknowledged. */
  writeBeforeFlush: boolean;
  /** M-35: reclaim frees pages that somebody holds a reference to all the same. */
  ignorePinned: boolean;
  /** Reclaim takes a page whose swap copy is older than its content for a clean one. */
  forgetDirty: boolean;
  /** A hole is punched without a second look at who has mapped the page since. */
  punchUnmapsOnce: boolean;
  /** A fault maps a page of the cache without asking, under its lock, whether it still is one. */
  mapUncached: boolean;
  /** C-16: reclaim asks whether a VMA is locked before it has the lock of the entry, and not again. */
  mlockSeenEarly: boolean;
  /** T-THP-06: the huge zero page is split into holes (H-11). */
  splitZeroToHoles: boolean;
  /** T-LIFE-06: unregister does not wait for callbacks that run. */
  unregisterWithoutWait: boolean;
  /** T-LIFE-07: whoever ends the subscription sends `release`, claimed or not. */
  releaseUnclaimed: boolean;
  /** N-21: an interval inserted during an invalidation counts as untouched by it. */
  intervalInsertedEarly: boolean;
  /** N-14, T-FIR-22: when a subscriber refuses, those that began are not ended. */
  refusalWithoutEnds: boolean;
  /** N-14, T-FIR-22: when a subscriber of the list refuses, the intervals stay begun. */
  intervalLeftBegun: boolean;
  /** N-20: what is put is freed while callbacks may run. */
  putWithoutWait: boolean;
  /** N-23: who shares the primary's tables is not told when the primary flushes. */
  flushPrimaryAlone: boolean;
  /** M-31, T-COW-03: a page that nobody shares is copied all the same. */
  copyOwnPage: boolean;
  /** C-19: a fault fills holes of an mm that is being reaped, or asks for them. */
  fillReaped: boolean;
  /** O-4: an entry whose content can't be read stays a swap entry. */
  readErrorRetried: boolean;
  /** N-5: DONTNEED, FREE, munmap, mprotect and fork do not tell the secondaries. */
  rangeWithoutNotify: boolean;
  /** T-LIFE-08: a subscriber joins while ranges are open. */
  registerInRange: boolean;
  /** T-UF-03: who has queued a user fault does not look at the pte again (F-13, V-24). */
  queueWithoutRecheck: boolean;
  /** T-UF-02, U-11: a user fault goes by what was read without the lock of the entry. */
  deliverUnchecked: boolean;
  /** T-UF-07: a read takes a fault off one queue and, later, puts it on the other (V-25). */
  refileInTwoSteps: boolean;
  /** T-UF-06, V-15: a wake finds only what has been read. */
  wakeOnlyRead: boolean;
  /** T-UF-01: one page wakes one sleeper. */
  wakeFirstOnly: boolean;
  /** T-UF-15, V-15: a wake goes beyond its range. */
  wakeWholeQueue: boolean;
  /** T-UF-12: a sleeper that gives up frees its entry where it is. */
  finishWithoutUnlink: boolean;
  /** T-UF-21: the last fault is read first. */
  readNewestFirst: boolean;
  /** T-WAK-06: readers are told before there is something. */
  announceBeforeQueue: boolean;
  /** T-LIFE-03, T-DN-07: the last close wakes nobody. */
  releaseWithoutWake: boolean;
  /** T-DN-07, T-FRK-06: a context is released after its sleepers were woken. */
  releaseLate: boolean;
  /** T-LIFE-04: a call on a descriptor does not keep it open. */
  callWithoutReference: boolean;
  /** T-LIFE-01, V-57: who sleeps in a range that is unmapped is left asleep. */
  unmapWithoutWake: boolean;
  /** T-LIFE-02, B-34: who sleeps in a range that is unregistered is left asleep. */
  unregisterWithoutWake: boolean;
  /** T-UF-14: who does not want to wait is queued all the same. */
  queueNoWait: boolean;
  /** T-UF-16: a system call does not wait for a page that somebody brings. */
  copyGivesUp: boolean;
  /** T-UF-17, U-16: a hole is a user fault, whatever the rights to it. */
  holeBeforeRights: boolean;
  /** T-ZERO-01: a fault fills an armed hole as any other. */
  fillArmed: boolean;
  /** T-UF-20: messages tell the exact address unasked. */
  alwaysExact: boolean;
  /** T-UF-19, F-35: a manager that sleeps in its own fault is not found out. */
  managerMaySleep: boolean;
  /** T-UF-23, B-25: a message is taken, and a state left, before the copy that may fail. */
  takeBeforeCopy: boolean;
  /** T-UF-24, F-21: the wake of 2014 takes what was not read, too. */
  wakeUnread14: boolean;
  /** T-UF-25, B-26: register changes VMAs as it tests them. */
  registerOnePass: boolean;
  /** T-LIFE-05, B-36: register does not ask whether the address space lives. */
  registerDead: boolean;
  /** T-LIFE-10, V-29: holes are ordinary memory after the last close, whatever was asked. */
  closeForgetsPolicy: boolean;
  /** T-LIFE-11, V-51: a mapping that moves unseen stays registered. */
  remapKeepsContext: boolean;
  /** T-FRK-01, T-FRK-08, B-20: the copy of a VMA keeps its context. */
  forkKeepsContext: boolean;
  /** T-FRK-07, OR-5: a fork that fails leaves the gate shut. */
  forkLeavesGate: boolean;
  /** T-DN-01: resolvers do not hold the gate while they install (V-54). */
  skipGate: boolean;
  /** who moves entries tells the secondaries of the old place afterwards, with no start before. */
  moveWithoutBracket: boolean;
  /** B-41: a page is taken for exclusive when it is mapped once, whatever swap entries name it. */
  moveByMapcountAlone: boolean;
  /** T-RAP-10: a move does not look at both entries again under their locks. */
  moveWithoutRecheck: boolean;
  /** T-RAP-16: a huge page moves whole whoever else maps it or holds it. */
  moveHugeUnjudged: boolean;
  /** T-RAP-12: a move takes the tables' locks in the order source, destination. */
  moveLocksUnordered: boolean;
  /** T-RAP-13: a page changes its anon_vma without its lock, which walks of the reverse map hold. */
  moveWithoutPageLock: boolean;
  /** B-24: a swap entry moves without the page that has its content. */
  moveSwapWithoutRekey: boolean;
  /** T-UF-05: a resolver does not look at the entry again under its lock. */
  fillWithoutRecheck: boolean;
  /** V-36: write protection is set without telling the secondaries. */
  protectWithoutNotify: boolean;
  /** T-SWP-11: a page that comes back from swap is no longer protected (V-62). */
  swapDropsUffdWp: boolean;
  /** B-42: the count of a slot is judged before the entry is looked at again. */
  moveSwapStale: boolean;
  /** C-6: KSM compares two pages while they may still be written, and not after. */
  ksmCompareFirst: boolean;
  /** C-5: KSM merges pages that somebody holds a reference to. */
  ksmIgnorePins: boolean;
  /** C-5, C-6: KSM changes ptes without telling the secondaries. */
  ksmWithoutNotify: boolean;
  /** M-31: the last mapping of a merged page is written in place. */
  ksmReuse: boolean;
  /** Swap-in maps the page that it finds, whatever place in whatever mapping that came from. */
  ksmSwapInAnywhere: boolean;
  /** C-6: the pte of a merged page keeps the right to write. */
  ksmKeepsWritable: boolean;
  /** C-7: KSM maps the zero page where it finds nothing. */
  ksmFillsHoles: boolean;
  /** C-7: KSM merges pages that userfaultfd has write-protected. */
  ksmMergesProtected: boolean;
  /** C-10: NUMA hints are set without telling the secondaries. */
  hintWithoutNotify: boolean;
  /** An item that goes takes with it the way to mappings that fork made. */
  ksmNoOrphans: boolean;
  /** T-RAP-01: a move does not ask first whether its destination is a hole (R-5, row 1). */
  moveOntoPages: boolean;
  /** T-RAP-02: a hole of the source counts as moved, asked for or not (R-5, row 2). */
  moveSkipsHoles: boolean;
  /** T-RAP-03: a move that stops half-way says why, and not how far it came. */
  moveForgetsProgress: boolean;
  /** T-RAP-05: a move that moved nothing says 0. */
  moveSaysNothing: boolean;
  /** T-RAP-07: remap_anon_pages moves the zero page. */
  moveZero14: boolean;
  /** T-RAP-08: a page is moved whoever else maps it. */
  moveShared: boolean;
  /** T-RAP-09: pages move between any two VMAs. */
  moveUnchecked: boolean;
  /** T-RAP-18: nobody asks whether a signal has come. */
  moveUnkillable: boolean;
  /** T-RAP-19: a page on its way elsewhere is not waited for. */
  moveFailsMigration: boolean;
  /** T-RAP-20: the destination of remap_anon_pages must be armed. */
  moveWantsArmed: boolean;
  /** T-RAP-24: a page that moved is counted as a new one. */
  moveCountsAgain: boolean;
  /** T-RAP-17: a huge page of which somebody has a lock is not tried again. */
  moveHugeGivesUp: boolean;
  /** T-ZERO-02, T-UF-10: the zero page in an armed area is as good as none (U-10). */
  zeroIsHole: boolean;
  /** T-SWP-01: a swap entry in an armed area is as good as none (U-10). */
  swapIsHole: boolean;
  /** T-SWP-10: what a failing device did not read is mapped all the same. */
  swapErrorReadsOn: boolean;
  /** T-SWP-12: a pte whose swap entry cannot be had is dropped (M-32). */
  unmapWithoutRestore: boolean;
  /** T-SWP-05: a lazily freed page goes, written since or not (C-14). */
  freeForgetsDirty: boolean;
  /** T-SWP-08, T-SWP-14: a charge that finds no room makes none. */
  chargeWithoutReclaim: boolean;
  /** T-CHG: a huge fault counts neither success nor fallback (H-2). */
  hugeUncounted: boolean;
  /** T-CHG: a huge fault that comes to nothing keeps its frames and their charge (H-2). */
  hugeKeepsCharge: boolean;
  /** T-KHP-04: an armed area is never collapsed, holes or not (C-9). */
  collapseRefusesArmed: boolean;
  /** T-KHP-05: a collapse leaves in holes what the frame held before. */
  collapseSkipsZeroing: boolean;
  /** T-FLG-01: VMAs merge by the low word of their flags (J-2, M-2). */
  mergeIgnoresHigh: boolean;
  /** T-FLG-02: madvise ends at the first gap (U-3). */
  madviseStopsAtGap: boolean;
  /** T-FLG-05: one table of numbers for every program. */
  abiIgnored: boolean;
  /** T-FRK-11: fork shares a page that somebody holds as it does any other. */
  forkSharesPinned: boolean;
  /** T-FLG-04: smaps shows the low word of the flags alone (U-7). */
  smapsLowWord: boolean;
  /** T-FRK-12: protection of userfaultfd goes to a child that has no context (V-62). */
  forkKeepsProtection: boolean;
  /** V-36: a store of the VMM holds its page by a reference like any other, so nobody waits for it. */
  storeUnheld: boolean;
  /**
   * `unmapWithoutNotify` holds for frames that begin with MARK alone, and the secondaries are told after all, before the
   * frame is somebody else's: a guest's test program marks its own pages, and the rest lives to tell.
   */
  onlyMarked: boolean;
  /** A page says that it is on its way to the LRU before it says whose it is (M-6). */
  bornUnowned: boolean;
  /** Nothing is lost by it: reclaim takes pages by their order alone, so that those in use go too (stress). */
  evictUsed: boolean;
};
export const NO_MM_BREAKS: MmBreaks = {
  swapInByPteAlone: false,
  unmapWithoutNotify: false,
  unmapForgetsDirty: false,
  cowWithoutNotify: false,
  forkKeepsWritable: false,
  ageShortCircuit: false,
  faultWithoutRecheck: false,
  splitWithoutNotify: false,
  hugeWithoutRecheck: false,
  collapseArmed: false,
  collapseUnchecked: false,
  collapsePinned: false,
  collapseWithoutNotify: false,
  collapseLosesTable: false,
  reclaimWithoutFlush: false,
  writeBeforeFlush: false,
  ignorePinned: false,
  forgetDirty: false,
  punchUnmapsOnce: false,
  mapUncached: false,
  mlockSeenEarly: false,
  splitZeroToHoles: false,
  unregisterWithoutWait: false,
  releaseUnclaimed: false,
  registerInRange: false,
  intervalInsertedEarly: false,
  refusalWithoutEnds: false,
  intervalLeftBegun: false,
  putWithoutWait: false,
  flushPrimaryAlone: false,
  rangeWithoutNotify: false,
  readErrorRetried: false,
  copyOwnPage: false,
  fillReaped: false,
  queueWithoutRecheck: false,
  deliverUnchecked: false,
  refileInTwoSteps: false,
  wakeOnlyRead: false,
  wakeFirstOnly: false,
  wakeWholeQueue: false,
  finishWithoutUnlink: false,
  readNewestFirst: false,
  announceBeforeQueue: false,
  releaseWithoutWake: false,
  releaseLate: false,
  callWithoutReference: false,
  unmapWithoutWake: false,
  unregisterWithoutWake: false,
  queueNoWait: false,
  copyGivesUp: false,
  holeBeforeRights: false,
  fillArmed: false,
  alwaysExact: false,
  managerMaySleep: false,
  takeBeforeCopy: false,
  wakeUnread14: false,
  registerOnePass: false,
  registerDead: false,
  closeForgetsPolicy: false,
  remapKeepsContext: false,
  forkKeepsContext: false,
  forkLeavesGate: false,
  skipGate: false,
  moveWithoutBracket: false,
  moveByMapcountAlone: false,
  moveWithoutRecheck: false,
  moveWithoutPageLock: false,
  moveSwapWithoutRekey: false,
  moveSwapStale: false,
  moveHugeUnjudged: false,
  moveLocksUnordered: false,
  swapDropsUffdWp: false,
  protectWithoutNotify: false,
  fillWithoutRecheck: false,
  ksmCompareFirst: false,
  ksmIgnorePins: false,
  ksmWithoutNotify: false,
  ksmReuse: false,
  ksmSwapInAnywhere: false,
  ksmKeepsWritable: false,
  ksmFillsHoles: false,
  ksmMergesProtected: false,
  hintWithoutNotify: false,
  ksmNoOrphans: false,
  moveOntoPages: false,
  moveSkipsHoles: false,
  moveForgetsProgress: false,
  moveSaysNothing: false,
  moveZero14: false,
  moveShared: false,
  moveUnchecked: false,
  moveUnkillable: false,
  moveFailsMigration: false,
  moveWantsArmed: false,
  moveCountsAgain: false,
  moveHugeGivesUp: false,
  zeroIsHole: false,
  swapIsHole: false,
  swapErrorReadsOn: false,
  unmapWithoutRestore: false,
  freeForgetsDirty: false,
  chargeWithoutReclaim: false,
  hugeUncounted: false,
  hugeKeepsCharge: false,
  collapseRefusesArmed: false,
  collapseSkipsZeroing: false,
  mergeIgnoresHigh: false,
  madviseStopsAtGap: false,
  abiIgnored: false,
  forkSharesPinned: false,
  smapsLowWord: false,
  forkKeepsProtection: false,
  storeUnheld: false,
  onlyMarked: false,
  bornUnowned: false,
  evictUsed: false,
};
