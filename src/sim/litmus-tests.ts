import type { Arena } from '../sync/arena.ts';
import { SeqCount } from '../sync/seqcount.ts';
import { Sync } from '../sync/sync.ts';

/** One side of a litmus test: runs once on a cell of CELL_WORDS zeroed words; the result is a small number. */
export type Side = (words: Int32Array, at: number) => number;

/**
 * A memory-order test on two real threads (T-WAK). `control` breaks the rule; where it shows the forbidden
 * outcome, the test can see it on this machine.
 */
export type Litmus = {
  name: string;
  title: string;
  sides(arena: Arena): readonly [Side, Side];
  control(arena: Arena): readonly [Side, Side];
  /** True if the two results may never occur together. */
  forbidden(first: number, second: number): boolean;
};

/** A cache line. */
export const CELL_WORDS = 16;

const MODE = 0;
const REQUESTS = 1;

/** J-7: either the vCPU sees the request, or the requester sees it in guest mode. */
const modeRequest: Litmus = {
  name: 'T-TLB-01',
  title: 'a vCPU stores its mode and reads requests; a requester the reverse (J-7, T-WAK-02)',
  sides: () => [
    (words, at) => {
      Atomics.store(words, at + MODE, 1);
      return Atomics.load(words, at + REQUESTS);
    },
    (words, at) => {
      Atomics.or(words, at + REQUESTS, 1);
      return Atomics.load(words, at + MODE);
    },
  ],
  control: () => [
    (words, at) => {
      words[at + MODE] = 1;
      return words[at + REQUESTS] as number;
    },
    (words, at) => {
      words[at + REQUESTS] = 1;
      return words[at + MODE] as number;
    },
  ],
  forbidden: (sawRequest, sawMode) => sawRequest === 0 && sawMode === 0,
};

const SEQ = 0;
const DONE = 1;

const end = (first: number, second: number): Side => {
  return (words, at) => {
    Atomics.add(words, at + first, 1);
    Atomics.add(words, at + second, 1);
    return 0;
  };
};
/** 1 when the invalidation looks finished while the sequence has not moved. */
const fault: Side = (words, at) =>
  Atomics.load(words, at + DONE) === 1 && Atomics.load(words, at + SEQ) === 0 ? 1 : 0;

/** K-23: who sees in_progress back at zero must see the new sequence. */
const sequenceOrder: Litmus = {
  name: 'T-WAK-03',
  title: 'an end moves the sequence, then in_progress; a fault reads them in the other order (K-23)',
  sides: () => [end(SEQ, DONE), fault],
  control: () => [end(DONE, SEQ), fault],
  forbidden: (_end, torn) => torn === 1,
};

const writer = (seq: SeqCount): Side => {
  return (words, at) => {
    seq.writeBegin(at);
    Atomics.store(words, at + 4, 1);
    Atomics.store(words, at + 5, 1);
    seq.writeEnd(at);
    return 0;
  };
};
/** 1 when a read that counts as good saw half of the write. */
const reader = (seq: SeqCount, retries: boolean): Side => {
  return (words, at) => {
    for (;;) {
      const seen = seq.readBegin(at);
      const torn = Atomics.load(words, at + 4) !== Atomics.load(words, at + 5) ? 1 : 0;
      if (!retries || !seq.readRetry(at, seen)) return torn;
    }
  };
};

/** K-15: what was read between a sample and a good recheck is wholly old or wholly new. */
const seqlock: Litmus = {
  name: 'T-WAK-04',
  title: 'a sequence count around a pair of words, written and read (K-15)',
  sides: arena => {
    const seq = new SeqCount(new Sync(arena));
    return [writer(seq), reader(seq, true)];
  },
  control: arena => {
    const seq = new SeqCount(new Sync(arena));
    return [writer(seq), reader(seq, false)];
  },
  forbidden: (_write, torn) => torn === 1,
};

const WAITERS = 0;
const PTE = 1;

/** V-24: either the sleeper sees the page, or who installed it sees the sleeper. */
const queueAndPte: Litmus = {
  name: 'T-WAK-01',
  title: 'a sleeper counts itself and reads the pte; a resolver writes the pte and reads the count (V-24)',
  sides: () => [
    (words, at) => {
      Atomics.add(words, at + WAITERS, 1);
      return Atomics.load(words, at + PTE);
    },
    (words, at) => {
      Atomics.store(words, at + PTE, 1);
      return Atomics.load(words, at + WAITERS);
    },
  ],
  control: () => [
    (words, at) => {
      words[at + WAITERS] = 1;
      return words[at + PTE] as number;
    },
    (words, at) => {
      words[at + PTE] = 1;
      return words[at + WAITERS] as number;
    },
  ],
  forbidden: (sawPte, sawSleeper) => sawPte === 0 && sawSleeper === 0,
};

const LOCK = 0;
/** Goes up when the entry leaves the unread ones, and when it has come to those that were read. */
const LEFT = 1;
const CAME = 2;

/** V-25: a wake that looks into both queues finds an entry in one of them. */
const refile: Litmus = {
  name: 'T-WAK-05',
  title: 'a read takes an entry from one queue to the other; a wake looks into both (V-25)',
  sides: arena => [mover(new Sync(arena), true), looker(new Sync(arena), true)],
  control: arena => [mover(new Sync(arena), false), looker(new Sync(arena), false)],
  forbidden: (_moved, missed) => missed === 1,
};

function mover(sync: Sync, locks: boolean): Side {
  return (words, at) => {
    if (locks) sync.lock('uffd', at + LOCK);
    Atomics.store(words, at + LEFT, 1);
    Atomics.store(words, at + CAME, 1);
    if (locks) sync.unlock('uffd', at + LOCK);
    return 0;
  };
}

/** 1 when the entry was in neither. */
function looker(sync: Sync, locks: boolean): Side {
  return (words, at) => {
    if (locks) sync.lock('uffd', at + LOCK);
    const came = Atomics.load(words, at + CAME) === 1;
    const left = Atomics.load(words, at + LEFT) === 1;
    if (locks) sync.unlock('uffd', at + LOCK);
    return left && !came ? 1 : 0;
  };
}

const READY = 0;
const QUEUED = 1;

/** 1 when the poller would sleep on a count that has gone up already, with the entry there. */
const poller: Side = (words, at) => {
  const seen = Atomics.load(words, at + READY);
  const found = Atomics.load(words, at + QUEUED);
  return seen === 1 && found === 0 ? 1 : 0;
};

/** A poller samples the count before it looks; whoever queues counts afterwards. */
const pollOrQueue: Litmus = {
  name: 'T-WAK-06',
  title: 'a poller samples `ready`, then looks; whoever queues does the two in the other order',
  sides: () => [poller, end(QUEUED, READY)],
  control: () => [poller, end(READY, QUEUED)],
  forbidden: asleep => asleep === 1,
};

export const LITMUS: readonly Litmus[] = [
  modeRequest,
  sequenceOrder,
  seqlock,
  queueAndPte,
  refile,
  pollOrQueue,
];
