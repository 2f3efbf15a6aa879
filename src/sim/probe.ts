import { assert } from '../base/assert.ts';
import type { MmuNotifierOps } from '../mm/mmu-notifier-ops.ts';
import type { Sync } from '../sync/sync.ts';

/** Words of a probe's record: ranges open, starts, ends, releases. */
export const PROBE_WORDS = 4;
const OPEN = 0;
const STARTS = 1;
const ENDS = 2;
const RELEASES = 3;

/** A subscriber that checks the caller's side of the contract (N-12, N-17, N-18, N-26). */
export function probeOps(sync: Sync): MmuNotifierOps {
  const { words } = sync;
  return {
    name: 'probe',
    pins: false,
    invalidateRangeStart(at) {
      Atomics.add(words, at + OPEN, 1);
      Atomics.add(words, at + STARTS, 1);
      sync.y('P.start');
      return 0;
    },
    invalidateRangeEnd(at) {
      assert(Atomics.sub(words, at + OPEN, 1) > 0, 'N-17: an end without a start');
      Atomics.add(words, at + ENDS, 1);
      sync.y('P.end');
    },
    release(at) {
      Atomics.add(words, at + RELEASES, 1);
      sync.y('P.release');
    },
  };
}

/** A subscriber without an end, which refuses every start that may not sleep (N-14). */
export function refuserOps(): MmuNotifierOps {
  return {
    name: 'refuser',
    pins: false,
    invalidateRangeStart: (_at, _mm, _start, _end, _event, flags) => ((flags & 1) === 0 ? -11 : 0),
  };
}

export const probeReport = (words: Int32Array, at: number) => ({
  open: words[at + OPEN] as number,
  starts: words[at + STARTS] as number,
  ends: words[at + ENDS] as number,
  releases: words[at + RELEASES] as number,
});
