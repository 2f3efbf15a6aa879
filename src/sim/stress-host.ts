import { Random } from '../base/random.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { Kvm, type KvmBreaks, Vms } from '../kvm/index.ts';
import type { MmBreaks } from '../mm/breaks.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../mm/index.ts';
import type { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import { productionWaiter, type Waiter } from '../sync/waiter.ts';
import { createPageOps } from '../wasm/page-ops.ts';

/** Rules that a run may switch off, in each layer. Plain data, the same on every thread. */
export type StressBreaks = {
  mm: Partial<MmBreaks>;
  kvm: Partial<KvmBreaks>;
  noRetranslate: boolean;
};

type Named = Partial<StressBreaks> & { why: string };

/** Broken variants by name. Each must lose a write, or worse, within a minute. */
const BREAKS: Record<string, Named> = {
  // The three bugs of mm-figures.md B.
  'flush-without-ack': {
    kvm: { flushWithoutAck: true },
    why: 'J-7: vCPUs are asked to flush, not waited for',
  },
  'accessed-bit-or': { kvm: { accessedBitOr: true }, why: 'B.2: A and D set by OR, not compare-exchange' },
  'swapin-pte-same': { mm: { swapInByPteAlone: true }, why: 'B.3: a swap-in goes by the pte alone' },
  // Others.
  'skip-zap': { kvm: { skipZap: true }, why: 'T-FIP-01: the notifier leaves the leaves' },
  'ignore-invalidation': {
    kvm: { ignoreSeq: true, ignoreInProgress: true },
    why: 'T-FIR-02, 03: a fault does not look whether it raced an invalidation',
  },
  'ignore-seq': { kvm: { ignoreSeq: true }, why: 'T-FIR-03: the sequence is not compared' },
  'drop-dirty': { kvm: { dropDirty: true }, why: 'K-7: the dirty bit of a zapped leaf is dropped' },
  'reclaim-without-flush': {
    mm: { reclaimWithoutFlush: true },
    why: 'J-9: frames are freed before the flush',
  },
  'write-before-flush': { mm: { writeBeforeFlush: true }, why: 'T-FIP-08: written to swap before the flush' },
  'forget-dirty': { mm: { forgetDirty: true }, why: 'a dirty page counts as clean' },
  'unmap-without-notify': { mm: { unmapWithoutNotify: true }, why: 'N-5: reclaim tells nobody' },
  'unmap-forgets-dirty': { mm: { unmapForgetsDirty: true }, why: 'M-32: the dirty bit of a pte is dropped' },
  'cow-without-notify': { mm: { cowWithoutNotify: true }, why: 'M-31: COW tells nobody' },
  'age-plain-store': {
    kvm: { agePlainStore: true },
    why: 'B-7: the accessed bit is cleared by a plain store',
  },
  'sample-after-gup': { kvm: { sampleAfterGup: true }, why: 'K-15: the sequence is sampled after GUP' },
  'install-then-check': { kvm: { installThenCheck: true }, why: 'B-6: installed first, checked after' },
  'seq-at-start': { kvm: { seqAtStart: true }, why: 'T-FIR-05: the sequence moves at the start' },
  'fault-without-recheck': {
    mm: { faultWithoutRecheck: true },
    why: 'M-33: the pte is not compared again under its lock',
  },
  // With --everything.
  'store-unheld': {
    mm: { storeUnheld: true },
    why: 'V-36: a protection does not wait for stores of the VMM',
  },
  'protect-without-notify': {
    mm: { protectWithoutNotify: true },
    why: 'V-36: write protection is set without telling the secondaries',
  },
  'swap-drops-uffd-wp': { mm: { swapDropsUffdWp: true }, why: 'V-62: swap forgets write protection' },
  'move-without-bracket': {
    mm: { moveWithoutBracket: true },
    why: 'R-11: who moves a page tells the secondaries afterwards',
  },
  'move-without-recheck': {
    mm: { moveWithoutRecheck: true },
    why: 'T-RAP-10: entries are not looked at again',
  },
  'fill-without-recheck': { mm: { fillWithoutRecheck: true }, why: 'R-6: COPY replaces what is there' },
  'finish-without-unlink': {
    mm: { finishWithoutUnlink: true },
    why: 'T-UF-12: a sleeper that gives up frees its entry where it is',
  },
  'collapse-without-notify': { mm: { collapseWithoutNotify: true }, why: 'H-23: a collapse tells nobody' },
  'collapse-pinned': {
    mm: { collapsePinned: true },
    why: 'H-22: a collapse takes pages that somebody holds',
  },
  'collapse-armed': { mm: { collapseArmed: true }, why: 'H-20: a collapse fills holes that are armed' },
  'ignore-pinned': { mm: { ignorePinned: true }, why: 'M-35: reclaim frees pages that somebody holds' },
  'ksm-ignore-pins': { mm: { ksmIgnorePins: true }, why: 'C-5: pages that somebody holds are merged' },
  'small-leaves-only': { kvm: { smallLeavesOnly: true }, why: 'B-3: invalidation knows 4 KiB leaves alone' },
  'level-from-shape': {
    kvm: { levelFromShape: true },
    why: 'B-31: the level of a leaf is not the primary’s',
  },
  'ksm-without-notify': { mm: { ksmWithoutNotify: true }, why: 'C-5: merging tells nobody' },
  'fork-keeps-writable': { mm: { forkKeepsWritable: true }, why: 'T-FRK-03: fork leaves ptes writable' },
};

export const BREAK_NAMES = Object.keys(BREAKS);

/** The rules to switch off for a name; none without. Undefined for a name that isn't. */
export function breaksOf(name: string | undefined): StressBreaks | undefined {
  const named = name === undefined ? { why: '' } : BREAKS[name];
  if (named === undefined) return undefined;
  return { mm: named.mm ?? {}, kvm: named.kvm ?? {}, noRetranslate: named.noRetranslate ?? false };
}

/** Pages of compressed swap; more than everything the test can have swapped out, forks included. */
const SWAP_PAGES = 65536;

/** One in so many yield points holds its thread up: mostly for so many loads at most, else asleep. */
const JITTER_EVERY = 61;
const JITTER_MAX = 2048;
const SLEEP_ONE_IN = 6;
const SLEEP_MS = 0.5;
/** A word of the arena's header that is zero for ever, to sleep on. */
const UNUSED_WORD = 63;
/**
 * The window of `store-unheld` is met by one thread, and seldom: the variant holds it open for long, or a machine whose other
 * threads want its cores does not get to the change that belongs into it.
 */
const UNHELD = { point: 'A.h', sleepMs: 8 } as const;
/** Yield points in windows of a few instructions that a broken variant leaves open, which are widened often. */
const BROKEN_POINTS: ReadonlySet<string> = new Set(['F.or', 'A.plain', 'S.in', 'V.late', 'A.h']);

/**
 * Threads that all run at full speed meet in few of the ways they could. At the named yield points (T.0)
 * each is held up now and then, by a spin for when there are cores for all, by a sleep for when not.
 */
function jitter(arena: Arena, waiter: Waiter, seed: number, { mm }: StressBreaks): (label: string) => void {
  const random = new Random(seed);
  let left = JITTER_EVERY;
  return label => {
    const broken = BROKEN_POINTS.has(label) && !random.oneIn(4);
    if (--left > 0 && !broken) return;
    left = 1 + random.below(2 * JITTER_EVERY);
    const ms = mm.storeUnheld === true && label === UNHELD.point ? UNHELD.sleepMs : SLEEP_MS;
    if (random.oneIn(broken ? 2 : SLEEP_ONE_IN)) waiter.wait(UNUSED_WORD, 0, ms);
    else for (let i = random.below(JITTER_MAX); i > 0; i--) Atomics.load(arena.words, 0);
  };
}

/** mm and kvm over an arena, as one thread of the test sees them. */
export type StressHost = { sync: Sync; mm: MmCore; kvm: Kvm; vms: Vms };

export function stressHost(arena: Arena, breaks: StressBreaks, how: 'init' | 'attach', seed = 1): StressHost {
  const waiter = productionWaiter(arena);
  const sync = new Sync(arena, { waiter: { ...waiter, point: jitter(arena, waiter, seed, breaks) } });
  const config: MmConfig = {
    pageOps: createPageOps(arena.memory, arena.shared),
    swap: { kind: 'zram', bytes: SWAP_PAGES * PAGE_SIZE },
    // A frame that is used after it was freed then holds nobody's counters.
    poison: true,
    breaks: breaks.mm,
  };
  const mm = how === 'init' ? initMm(sync, config) : attachMm(sync, config);
  const kvm = new Kvm(sync, mm, { dropCode() {} }, breaks.kvm);
  return { sync, mm, kvm, vms: new Vms(kvm, mm.notifiers) };
}
