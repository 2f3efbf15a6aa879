import { TIMEBASE_HZ } from './memory-map.ts';

/** The guest's time. One per machine; ticks are those of the `time` CSR (10 MHz). */
export interface MachineClock {
  /** Ticks since the machine started. Below 2^53. */
  ticks(): number;
  /** Nanoseconds since the machine started. */
  now(): number;
  readonly epochSeconds: number;
  /** Nanoseconds for which the guest was paused and its time stood still. */
  paused(): number;
  /** Instructions after which `deadline` (ticks) will have come, at most `limit`. At least 1. */
  budgetUntil(deadline: number, limit: number): number;
  /** The guest sleeps until `deadline` ticks. True if that is done; false to wait `millisecondsUntil`. */
  skipTo(deadline: number): boolean;
  millisecondsUntil(deadline: number): number;
}

const NS_PER_TICK = 1e9 / TIMEBASE_HZ;

/**
 * The host's clock. `start`: when the machine did, by `monotonicMs`; now unless told. `lost`: ticks for which the
 * guest was paused and its time stood still.
 */
export function realClock(
  monotonicMs: () => number,
  epochSeconds: number,
  start = monotonicMs(),
  lost: () => number = () => 0,
): MachineClock {
  const ticks = () => Math.floor((monotonicMs() - start) * (TIMEBASE_HZ / 1000)) - lost();
  return {
    ticks,
    now: () => Math.floor((monotonicMs() - start) * 1e6) - lost() * NS_PER_TICK,
    epochSeconds,
    paused: () => lost() * NS_PER_TICK,
    budgetUntil: (_deadline, limit) => limit,
    skipTo: () => false,
    millisecondsUntil: deadline => Math.max(0, (deadline - ticks()) / (TIMEBASE_HZ / 1000)),
  };
}

/** Instructions that pass in one tick of virtual time: 250 million a second of guest time. */
const INSTRUCTIONS_PER_TICK = 25;
/** Where virtual time starts: 2026-01-01, so that certificates are valid and runs are equal. */
const VIRTUAL_EPOCH_SECONDS = 1_767_225_600;

/** Time is the count of retired instructions, and sleep jumps: runs are equal to the instruction (design 12). */
export function instretClock(instret: () => number): MachineClock {
  let skipped = 0;
  const ticks = () => Math.floor(instret() / INSTRUCTIONS_PER_TICK) + skipped;
  return {
    ticks,
    now: () => ticks() * NS_PER_TICK,
    epochSeconds: VIRTUAL_EPOCH_SECONDS,
    paused: () => 0,
    budgetUntil(deadline, limit) {
      const left = (deadline - ticks()) * INSTRUCTIONS_PER_TICK;
      // A deadline that has passed is pending already.
      return left > 0 ? Math.min(limit, left) : limit;
    },
    skipTo(deadline) {
      const ahead = deadline - ticks();
      if (ahead > 0 && ahead < Number.MAX_SAFE_INTEGER) skipped += ahead;
      return true;
    },
    millisecondsUntil: () => 0,
  };
}
