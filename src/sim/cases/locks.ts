import { assert } from '../../base/assert.ts';
import { SeqCount } from '../../sync/seqcount.ts';
import { Srcu } from '../../sync/srcu.ts';
import { Sync } from '../../sync/sync.ts';
import type { AnyCase, Case } from '../case.ts';

// The primitives themselves, stopped before every atomic access. Words of the heap:
//   [0, 1] the lock   [8] readers inside   [9] writers inside   [10] a counter   [11] its copy
// All of a critical section's accesses are atomic, so that the explorer can stop between them.

type Breaks = {
  /** Wake-ups get lost. */
  noNotify: boolean;
  /** Unlock looks, then stores, instead of exchanging. */
  unlockByStore: boolean;
  /** Lock looks, then stores. */
  lockByStore: boolean;
  /** A reader takes the lock while a writer is inside. */
  readerIgnoresWriter: boolean;
  noRetry: boolean;
  sampleOdd: boolean;
  noOdd: boolean;
  noSynchronize: boolean;
  /** A reader counts itself where the sample said, without looking again. */
  noSecondLook: boolean;
};

class BrokenSync extends Sync {
  readonly #breaks: Partial<Breaks>;

  constructor(sync: Sync, breaks: Partial<Breaks>) {
    const { waiter } = sync;
    super(sync.arena, { waiter: breaks.noNotify ? { ...silent(waiter) } : waiter, lockdep: true });
    this.#breaks = breaks;
  }

  override lock(...[cls, at]: Parameters<Sync['lock']>): void {
    if (!this.#breaks.lockByStore) {
      super.lock(cls, at);
      return;
    }
    this.lockdep?.acquire(cls, at);
    while (Atomics.load(this.words, at) !== 0) this.waiter.wait(at, Atomics.load(this.words, at));
    Atomics.store(this.words, at, 2);
  }

  override unlock(...[cls, at]: Parameters<Sync['unlock']>): void {
    if (!this.#breaks.unlockByStore) {
      super.unlock(cls, at);
      return;
    }
    this.lockdep?.release(cls, at);
    const before = Atomics.load(this.words, at);
    Atomics.store(this.words, at, 0);
    if (before === 2) this.waiter.notify(at, 1);
  }

  override readLock(...[cls, at]: Parameters<Sync['readLock']>): void {
    if (!this.#breaks.readerIgnoresWriter) {
      super.readLock(cls, at);
      return;
    }
    this.lockdep?.acquire(cls, at);
    Atomics.add(this.words, at, 1);
  }
}

function silent(waiter: Sync['waiter']): Sync['waiter'] {
  return {
    wait: (at, expected, timeoutMs) => waiter.wait(at, expected, timeoutMs),
    notify() {},
    point: waiter.point,
    spins: limit => waiter.spins(limit),
  };
}

type Core = { sync: Sync; seq: SeqCount; srcu: Srcu; breaks: Partial<Breaks>; at: number };

function build(sync: Sync, breaks: Partial<Breaks>): Core {
  const broken = new BrokenSync(sync, breaks);
  return { sync: broken, seq: new SeqCount(broken), srcu: new Srcu(broken), breaks, at: sync.arena.heap };
}

const base = {
  profiles: ['sync'],
  arena: { frames: 1, heapBytes: 4096 },
  everyAtomic: true,
  core: (sync: Sync, options: { breaks: Partial<Breaks> }) => build(sync, options.breaks),
  setup: () => null,
} as const;

/** Adds one to the counter the slow way. */
function count({ sync: { words }, at }: Core): void {
  Atomics.store(words, at + 10, Atomics.load(words, at + 10) + 1);
}

function lockedCount(core: Core): void {
  core.sync.lock('zone', core.at);
  count(core);
  core.sync.unlock('zone', core.at);
}

const mutex: Case<Core, null, Breaks> = {
  ...base,
  name: 'mutex',
  title: 'three threads add to a counter under a mutex',
  actors: { a: lockedCount, b: lockedCount, c: lockedCount },
  reach: { 'two sleep': 'a:sleep, b:sleep', 'others sleep': 'b:sleep, c:sleep' },
  oracle({ sync, at }) {
    assert(sync.words[at + 10] === 3, 'mutual exclusion: an increment is lost');
    assert(sync.words[at] === 0, 'the mutex is free at the end');
  },
  mutants: [
    { name: 'no notify', breaks: { noNotify: true } },
    { name: 'unlock without exchange', breaks: { unlockByStore: true } },
    { name: 'lock without compare-exchange', breaks: { lockByStore: true } },
  ],
};

function write({ sync, at }: Core): void {
  sync.writeLock('mmap', at);
  const others = Atomics.add(sync.words, at + 9, 1) + Atomics.load(sync.words, at + 8);
  assert(others === 0, 'a writer is alone inside');
  Atomics.sub(sync.words, at + 9, 1);
  sync.writeUnlock('mmap', at);
}

function read({ sync, at }: Core): void {
  sync.readLock('mmap', at);
  Atomics.add(sync.words, at + 8, 1);
  assert(Atomics.load(sync.words, at + 9) === 0, 'no writer is inside with a reader');
  Atomics.sub(sync.words, at + 8, 1);
  sync.readUnlock('mmap', at);
}

const rwOracle = ({ sync, at }: Core): void => {
  assert(sync.words[at] === 0 && sync.words[at + 1] === 0, 'the lock is free at the end');
};

const rwlock: Case<Core, null, Breaks> = {
  ...base,
  name: 'rwlock',
  title: 'two readers and a writer',
  actors: { reader: read, other: read, writer: write },
  reach: { 'the writer sleeps': 'writer:sleep', 'a reader sleeps': 'reader:sleep' },
  oracle: rwOracle,
  mutants: [
    { name: 'no notify', breaks: { noNotify: true } },
    { name: 'a reader ignores the writer', breaks: { readerIgnoresWriter: true } },
  ],
};

const rwlockWriters: Case<Core, null, Breaks> = {
  ...base,
  name: 'rwlock-writers',
  title: 'two writers and a reader',
  actors: { reader: read, writer: write, other: write },
  reach: { 'a writer sleeps': 'other:sleep', 'the reader sleeps': 'reader:sleep' },
  oracle: rwOracle,
  mutants: [{ name: 'no notify', breaks: { noNotify: true } }],
};

/** What a reader without the rules would do. */
function sample({ seq, sync, breaks, at }: Core): number {
  return breaks.sampleOdd ? Atomics.load(sync.words, at) : seq.readBegin(at);
}

function readPair(core: Core): void {
  const { sync, seq, breaks, at } = core;
  for (;;) {
    const seen = sample(core);
    const first = Atomics.load(sync.words, at + 10);
    const second = Atomics.load(sync.words, at + 11);
    if (!breaks.noRetry && seq.readRetry(at, seen)) continue;
    assert(first === second, 'a reader saw half of a write');
    return;
  }
}

function writePair({ sync, seq, breaks, at }: Core): void {
  if (breaks.noOdd) sync.lock('invalidate', at + 1);
  else seq.writeBegin(at);
  count({ sync, at } as Core);
  Atomics.store(sync.words, at + 11, Atomics.load(sync.words, at + 10));
  if (breaks.noOdd) {
    Atomics.add(sync.words, at, 2);
    sync.unlock('invalidate', at + 1);
  } else seq.writeEnd(at);
}

const seqcount: Case<Core, null, Breaks> = {
  ...base,
  name: 'seqcount',
  title: 'a reader of a pair against two writers',
  actors: { reader: readPair, writer: writePair, other: writePair },
  reach: { 'the reader sleeps': 'reader:sleep' },
  oracle({ sync, at }) {
    assert(sync.words[at] === 4, 'the sequence is even and counts both writers');
    assert(sync.words[at + 10] === 2 && sync.words[at + 11] === 2, 'both writers wrote');
  },
  mutants: [
    { name: 'no retry', breaks: { noRetry: true } },
    { name: 'the sample may be odd', breaks: { sampleOdd: true } },
    { name: 'the writer bumps only once', breaks: { noOdd: true } },
    { name: 'no notify', breaks: { noNotify: true } },
  ],
};

// Srcu: [0..2] its words; [8] the published value 0 or 1; [16 + value] is 1 once that value is torn down.

function srcuRead({ sync, srcu, breaks, at }: Core): void {
  const token = breaks.noSecondLook ? countedBlindly({ sync, at } as Core) : srcu.readLock(at);
  const value = Atomics.load(sync.words, at + 8);
  assert(Atomics.load(sync.words, at + 16 + value) === 0, 'a reader holds what was torn down');
  srcu.readUnlock(at, token);
}

function countedBlindly({ sync, at }: Core): number {
  const index = Atomics.load(sync.words, at) & 1;
  Atomics.add(sync.words, at + 1 + index, 1);
  return index;
}

function srcuUpdate({ sync, srcu, breaks, at }: Core): void {
  for (const value of [1, 2]) {
    Atomics.store(sync.words, at + 8, value);
    if (!breaks.noSynchronize) srcu.synchronize(at);
    Atomics.store(sync.words, at + 16 + value - 1, 1);
  }
}

const srcu: Case<Core, null, Breaks> = {
  ...base,
  name: 'srcu',
  heavy: true,
  preemptions: 3,
  title: 'two readers of a published value, which an updater replaces twice',
  actors: { reader: srcuRead, other: srcuRead, updater: srcuUpdate },
  reach: { 'the updater sleeps': 'updater:sleep' },
  oracle({ sync, at }) {
    assert(sync.words[at + 1] === 0 && sync.words[at + 2] === 0, 'all readers have left');
  },
  mutants: [
    { name: 'no synchronize', breaks: { noSynchronize: true } },
    { name: 'no second look at the index', breaks: { noSecondLook: true } },
    { name: 'no notify', breaks: { noNotify: true } },
  ],
};

export const cases: readonly AnyCase[] = [mutex, rwlock, rwlockWriters, seqcount, srcu];
