import { AssertionError } from '../base/assert.ts';
import type { Arena } from './arena.ts';

/** Thrown where a thread that may not sleep would have to (J-5). */
export class WouldBlockError extends Error {
  override readonly name = 'WouldBlockError';
}

/** How a thread sleeps on a word and wakes others; the explorer replaces it with a turnstile. */
export type Waiter = {
  /** Sleeps while `words[at] === expected`, at most `timeoutMs`. May return early. */
  wait(at: number, expected: number, timeoutMs?: number): 'ok' | 'timed-out' | 'not-equal';
  notify(at: number, count: number): void;
  /** A named yield point. */
  point(label: string): void;
  /** How often to try before sleeping; the explorer never spins. */
  spins(limit: number): number;
};

const nothing = (_label: string): void => {};

/** `Atomics.wait` on a shared arena; on a private one sleeping is a deadlock, hence an assertion. */
export function productionWaiter(arena: Arena): Waiter {
  return arena.shared ? sharedWaiter(arena.words) : loneWaiter;
}

function sharedWaiter(words: Int32Array): Waiter {
  return {
    wait(at, expected, timeoutMs = Number.POSITIVE_INFINITY) {
      try {
        return Atomics.wait(words, at, expected, timeoutMs);
      } catch (cause) {
        throw new WouldBlockError('this thread may not sleep: run the core in a worker', { cause });
      }
    },
    notify(at, count) {
      Atomics.notify(words, at, count);
    },
    point: nothing,
    spins: limit => limit,
  };
}

const loneWaiter: Waiter = {
  wait(at) {
    throw new AssertionError(`one-worker mode: nobody else can change word ${at}`);
  },
  notify() {},
  point: nothing,
  spins: () => 0,
};
