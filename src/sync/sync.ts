import { assert } from '../base/assert.ts';
import type { Arena } from './arena.ts';
import { type AtomicWords, LAST_READER } from './atomics.ts';
import { type LockClass, Lockdep } from './lockdep.ts';
import { productionWaiter, type Waiter } from './waiter.ts';

// A mutex is one word: 0 free, 1 held, 2 held and somebody may sleep on it.
// A reader/writer lock is two words: [0] readers, or -1 for a writer; [1] writers waiting.
// Both live in the arena; a lock's address is the word index.

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;
const SPINS = 200;

export type SyncOptions = {
  waiter?: Waiter;
  /** Checks the lock order on each acquisition (M-13). Costs, so tests turn it on. */
  lockdep?: boolean;
};

/**
 * What one thread uses to meet the others: locks by address, the two-way wait, and the named yield
 * points of the explorer. One per thread and arena; it holds no shared state itself.
 */
export class Sync {
  readonly arena: Arena;
  readonly words: Int32Array;
  readonly #atomics: AtomicWords;
  readonly waiter: Waiter;
  readonly lockdep: Lockdep | undefined;
  /** A named yield point (J-6); nothing in production, a scheduler's turnstile in the explorer. */
  readonly y: (label: string) => void;

  constructor(arena: Arena, options: SyncOptions = {}) {
    this.arena = arena;
    this.words = arena.words;
    this.#atomics = arena.atomics;
    this.waiter = options.waiter ?? productionWaiter(arena);
    this.lockdep = options.lockdep ? new Lockdep() : undefined;
    this.y = this.waiter.point;
  }

  lock(cls: LockClass, at: number): void {
    this.lockdep?.acquire(cls, at);
    if (this.#atomics.cas(at, FREE, HELD) === FREE) return;
    this.#lockSlow(at);
  }

  #lockSlow(at: number): void {
    for (let i = 0; i < this.waiter.spins(SPINS); i++) {
      if (this.#atomics.cas(at, FREE, HELD) === FREE) return;
    }
    while (this.#atomics.exchange(at, CONTENDED) !== FREE) this.waiter.wait(at, CONTENDED);
  }

  tryLock(cls: LockClass, at: number): boolean {
    if (this.#atomics.cas(at, FREE, HELD) !== FREE) return false;
    this.lockdep?.acquire(cls, at, true);
    return true;
  }

  unlock(cls: LockClass, at: number): void {
    this.lockdep?.release(cls, at);
    const before = this.#atomics.exchange(at, FREE);
    assert(before !== FREE, 'unlock: the lock was not held');
    if (before === CONTENDED) this.waiter.notify(at, 1);
  }

  isLocked(at: number): boolean {
    return this.#atomics.load(at) !== FREE;
  }

  /** Takes a reader/writer lock for reading. Waiting writers go first, so writers don't starve. */
  readLock(cls: LockClass, at: number): void {
    this.lockdep?.acquire(cls, at);
    // Most often nobody has it and no writer waits.
    if (this.#atomics.enterIdle(at) !== 0) return;
    this.#readLockSlow(at);
  }

  #readLockSlow(at: number): void {
    for (;;) {
      const state = this.#atomics.load(at);
      const writers = this.#atomics.load(at + 1);
      if (state >= 0 && writers === 0) {
        if (this.#atomics.cas(at, state, state + 1) === state) return;
      } else if (state !== 0 || writers !== 0) {
        this.#waitRw(at, state, writers);
      }
    }
  }

  tryReadLock(cls: LockClass, at: number): boolean {
    const state = this.#atomics.load(at);
    if (state < 0 || this.#atomics.load(at + 1) !== 0) return false;
    if (this.#atomics.cas(at, state, state + 1) !== state) return false;
    this.lockdep?.acquire(cls, at, true);
    return true;
  }

  readUnlock(cls: LockClass, at: number): void {
    this.lockdep?.release(cls, at);
    const before = this.#atomics.leave(at);
    assert(before > 0 || before === LAST_READER, 'readUnlock: the lock was not held for reading');
    // Only writers wait for a reader to leave, and each has counted itself before it looks at the state.
    if (before === LAST_READER) this.#wakeRw(at);
  }

  writeLock(cls: LockClass, at: number): void {
    this.lockdep?.acquire(cls, at);
    if (this.#atomics.cas(at, 0, -1) === 0) return;
    this.#atomics.add(at + 1, 1);
    for (;;) {
      const state = this.#atomics.cas(at, 0, -1);
      if (state === 0) break;
      this.waiter.wait(at, state);
    }
    // A reader that slept for this writer re-tests when the writer unlocks.
    this.#atomics.sub(at + 1, 1);
  }

  writeUnlock(cls: LockClass, at: number): void {
    this.lockdep?.release(cls, at);
    const before = this.#atomics.exchange(at, 0);
    assert(before === -1, 'writeUnlock: the lock was not held for writing');
    this.#wakeRw(at);
  }

  #waitRw(at: number, state: number, writers: number): void {
    if (state < 0) this.waiter.wait(at, state);
    else this.waiter.wait(at + 1, writers);
  }

  #wakeRw(at: number): void {
    this.waiter.notify(at, Number.POSITIVE_INFINITY);
    this.waiter.notify(at + 1, Number.POSITIVE_INFINITY);
  }
}
