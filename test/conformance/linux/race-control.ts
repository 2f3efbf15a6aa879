import type { MmBreaks } from '../../../src/mm/breaks.ts';
import type { MmConfig } from '../../../src/mm/index.ts';
import type { Arena } from '../../../src/sync/arena.ts';
import { createPageOps } from '../../../src/wasm/page-ops.ts';
import { PROCESSES } from './script.ts';

/** Address spaces that the second thread may work on at once. */
export const MAX_RACED = PROCESSES;

/** Words that the thread of a script and its second thread share, beside the arena; all atomic. */
export const Ctl = {
  /** What the second thread is to do. */
  want: 0,
  /** It holds nothing, and uses no address space. */
  resting: 1,
  /** How often it has been through them all. */
  rounds: 2,
  /** It has ended: the length of the text that says why, a character a word at `why`. */
  failed: 3,
  /** Address spaces, 0 for none; changed while it rests. */
  raced: 4,
} as const;
const WHY = Ctl.raced + MAX_RACED;
const WHY_WORDS = 400;
export const CTL_WORDS = WHY + WHY_WORDS;

export const Want = { Race: 0, Rest: 1 } as const;

export type RaceWorkerData = {
  memory: WebAssembly.Memory;
  control: Int32Array;
  breaks: Partial<MmBreaks>;
};

export const tell = (control: Int32Array, at: number, value: number): void => {
  Atomics.store(control, at, value);
  Atomics.notify(control, at);
};

/** The second thread ends. */
export function fail(control: Int32Array, why: string): void {
  const text = why.slice(0, WHY_WORDS);
  for (let i = 0; i < text.length; i++) control[WHY + i] = text.charCodeAt(i);
  tell(control, Ctl.failed, Math.max(1, text.length));
}

/** Why it has, if it has. */
export function whyFailed(control: Int32Array): string | undefined {
  const length = Atomics.load(control, Ctl.failed);
  return length === 0 ? undefined : String.fromCharCode(...control.subarray(WHY, WHY + length));
}

/** Alike on both threads. Swap holds all that the scripts of a run can have swapped out at once. */
export const raceConfig = (arena: Arena, breaks: Partial<MmBreaks>): MmConfig => ({
  pageOps: createPageOps(arena.memory, true),
  swap: { kind: 'zram', bytes: 4 << 20 },
  ...{ poison: true, strictSeedOrder: true, breaks },
});
