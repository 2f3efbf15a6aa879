import { expect, test } from 'vitest';
import { Arena } from '../sync/arena.ts';
import { Sync } from '../sync/sync.ts';
import { productionWaiter } from '../sync/waiter.ts';
import { createPageOps } from '../wasm/page-ops.ts';
import type { MmBreaks } from './breaks.ts';
import { initMm } from './core.ts';
import { GUP_PFN_MASK } from './fault-codes.ts';
import type { Interval } from './interval-notifier.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';

const PAGE = 4096;

/** Sixteen written pages, and devices that map parts of them. `atWait` is what happens when somebody would sleep. */
function world(breaks: Partial<MmBreaks> = {}) {
  const arena = Arena.create({ frames: 1024, heapBytes: 1 << 20, shared: false });
  const waits: (() => void)[] = [];
  const wait = (): 'ok' => {
    const next = waits.shift();
    if (next === undefined) throw new Error('nobody ends what is waited for');
    next();
    return 'ok';
  };
  const sync = new Sync(arena, { lockdep: true, waiter: { ...productionWaiter(arena), wait } });
  const core = initMm(sync, { pageOps: createPageOps(arena.memory, false), poison: true, breaks });
  const { notifiers } = core;
  const { intervals } = notifiers;
  const mm = core.createMm();
  const address = core.mmap.map(mm, 16 * PAGE);
  const base = address / PAGE;
  for (let i = 0; i < 16; i++) core.access.write32(mm, address + i * PAGE, 100 + i);
  const heard: string[] = [];
  let willing = true;
  const ops = intervals.registerOps({
    name: 'device',
    invalidate: (interval, subscriber, start, end, _event, flags, seq) => {
      if (!willing && (flags & NotifyFlag.Blockable) === 0) return false;
      intervals.setSeq(interval, seq);
      heard.push(`${subscriber}:${start - base}-${end - base}`);
      return true;
    },
  });
  const lock = mm + core.layout.mm.mmapLock.at;
  const start = (from: number, to: number, flags: number = NotifyFlag.Blockable): number => {
    sync.readLock('mmap', lock);
    const result = notifiers.start(mm, base + from, base + to, NotifyEvent.Clear, flags);
    sync.readUnlock('mmap', lock);
    return result;
  };
  const end = (from: number, to: number): void => {
    sync.readLock('mmap', lock);
    notifiers.end(mm, base + from, base + to, NotifyEvent.Clear);
    sync.readUnlock('mmap', lock);
  };
  const insert = (from: number, to: number, subscriber: number): Interval =>
    intervals.insert(mm, base + from, base + to, ops, subscriber);
  const refuse = () => {
    willing = false;
  };
  return { core, notifiers, intervals, mm, address, base, heard, waits, start, end, insert, refuse };
}

test('N-21: an interval hears of the ranges that meet it, and its sequence tells who used it meanwhile', () => {
  const w = world();
  const [low, high] = [w.insert(0, 4, 1), w.insert(8, 12, 2)];
  const seqs = [low, high].map(interval => w.intervals.readBegin(interval));
  w.core.madvise.advise(w.mm, w.address + 3 * PAGE, 3 * PAGE, 'dontneed');
  expect(w.heard.splice(0)).toEqual(['1:3-6']);
  expect([low, high].map((interval, i) => w.intervals.readRetry(interval, seqs[i]!))).toEqual([true, false]);
  // One after the other, quiet in between: none meets a half-open end.
  w.core.madvise.advise(w.mm, w.address + 4 * PAGE, 4 * PAGE, 'dontneed');
  w.core.mmap.protect(w.mm, w.address + 10 * PAGE, 6 * PAGE, { read: true });
  expect(w.heard).toEqual(['2:10-16']);
  expect(w.intervals.readRetry(low, w.intervals.readBegin(low))).toBe(false);
  w.core.checkInvariants();
});

test('N-21: who begins to read inside an invalidation waits for its end, and for that of all that are open', () => {
  const w = world();
  const [hit, other] = [w.insert(0, 4, 1), w.insert(8, 12, 2)];
  w.start(2, 3);
  w.start(5, 6);
  expect(w.intervals.readRetry(other, w.intervals.readBegin(other))).toBe(false); // it has nothing to wait for
  w.waits.push(
    () => w.end(2, 3),
    () => w.end(5, 6),
  );
  const seq = w.intervals.readBegin(hit);
  expect([w.waits.length, w.intervals.readRetry(hit, seq)]).toEqual([0, false]);
  w.core.checkInvariants();
});

test('N-21, N-13: an interval inserted during an invalidation joins at its end; counted as quiet, it would be stale', () => {
  const first = (breaks: Partial<MmBreaks>): string => {
    const w = world(breaks);
    w.insert(0, 4, 1);
    w.start(2, 3);
    const late = w.insert(2, 3, 2); // deferred
    w.start(2, 3); // walks the list as it was
    const said = [w.heard.splice(0).join(' ')];
    w.end(2, 3);
    w.waits.push(() => w.end(2, 3));
    w.intervals.readBegin(late);
    said.push(w.waits.length === 0 ? 'waited' : 'went on');
    for (const end of w.waits.splice(0)) end();
    w.start(2, 3);
    w.end(2, 3);
    return [...said, w.heard.join(' ')].join(', ');
  };
  expect(first({})).toBe('1:2-3 1:2-3, waited, 2:2-3 1:2-3');
  expect(first({ intervalInsertedEarly: true })).toBe('1:2-3 2:2-3 1:2-3, waited, 2:2-3 1:2-3');
  // No interval is met, but a range is open: it might be in this one.
  const open = (breaks: Partial<MmBreaks>): boolean => {
    const w = world(breaks);
    w.insert(8, 9, 1);
    w.start(2, 3);
    const late = w.insert(2, 3, 2);
    let ended = false;
    w.waits.push(() => {
      ended = true;
      w.end(2, 3);
    });
    w.intervals.readBegin(late);
    return ended;
  };
  expect([open({}), open({ intervalInsertedEarly: true })]).toEqual([true, false]);
});

test('N-14, T-FIR-22: an interval that may not sleep refuses before the list hears; refused by the list, it is ended', () => {
  const w = world();
  const one = w.insert(0, 4, 1);
  const list: string[] = [];
  const join = (name: string, result: 0 | -11, hasEnd: boolean): void => {
    const invalidateRangeStart = (): number => {
      list.push(`start ${name}`);
      return result;
    };
    const invalidateRangeEnd = () => void list.push(`end ${name}`);
    const ops = { name, pins: false, invalidateRangeStart, ...(hasEnd ? { invalidateRangeEnd } : {}) };
    w.notifiers.register(w.mm, w.notifiers.registerOps(ops), 1);
  };
  join('third', 0, true);
  join('second', -11, false);
  join('first', 0, true);
  expect([w.start(0, 2, 0), w.heard.splice(0)]).toEqual([-11, ['1:0-2']]);
  expect(list.splice(0)).toEqual(['start first', 'start second', 'start third', 'end first', 'end third']);
  w.intervals.readBegin(one); // nobody waits
  w.core.checkInvariants();
  w.refuse();
  expect([w.start(0, 2, 0), w.heard, list]).toEqual([-11, [], []]);
  w.core.checkInvariants();
});

test('N-14: 6.12 leaves the intervals begun when a subscriber of the list refuses, and a reader waits for ever', () => {
  const w = world({ intervalLeftBegun: true });
  const one = w.insert(0, 4, 1);
  const ops = { name: 'unwilling', pins: false, invalidateRangeStart: () => -11 };
  w.notifiers.register(w.mm, w.notifiers.registerOps(ops), 1);
  w.start(0, 2, 0);
  expect(() => w.intervals.readBegin(one)).toThrow('nobody ends');
  expect(() => w.core.checkInvariants()).toThrow('M9: no interval');
});

test('N-21: removed, an interval hears nothing; its removal waits for the invalidation under way', () => {
  const w = world();
  const kept = w.core.slabs.interval.used;
  const [a, b, c] = [w.insert(0, 4, 1), w.insert(0, 4, 2), w.insert(0, 4, 3)];
  w.intervals.remove(b!);
  w.start(0, 1);
  expect(w.heard.splice(0)).toEqual(['3:0-1', '1:0-1']);
  w.waits.push(() => w.end(0, 1));
  w.intervals.remove(c!);
  expect(w.waits.length).toBe(0);
  w.intervals.remove(a!);
  w.core.madvise.advise(w.mm, w.address, 4 * PAGE, 'dontneed');
  expect([w.heard, w.core.slabs.interval.used]).toEqual([[], kept]);
  expect(() => w.insert(3, 3, 1)).toThrow('EINVAL');
  w.core.checkInvariants();
});

test('N-19, N-21: at exit every interval hears that all goes; afterwards none can be had, and nothing is left', () => {
  const w = world();
  const { mm: mms, notifier, intervals: records, interval } = w.core.slabs;
  const [a] = [w.insert(0, 4, 1), w.insert(8, 12, 2)];
  w.intervals.remove(a);
  const one = w.insert(0, 4, 3);
  const two = w.insert(5, 6, 4);
  w.core.exit(w.mm);
  expect(w.heard.map(line => line.split(':')[0])).toEqual(['4', '3', '2']);
  expect(w.core.gup.fault(w.mm, w.base, false)).toBeLessThan(0);
  w.intervals.remove(one);
  w.intervals.remove(two);
  expect([mms.used, notifier.used, records.used, interval.used]).toEqual([1, 0, 1, 1]);
  w.core.checkInvariants();
});

test('N-22: a device that keeps a frame under an interval starts over when it is taken, and never uses a stale one', () => {
  const w = world();
  const { core, intervals } = w;
  /** What the device does per request: sample, get the frame, and use it only if nothing happened (N-21). */
  const read = (interval: Interval, page: number, between: () => void = () => {}): [number, number] => {
    for (let tries = 1; ; tries++) {
      const seq = intervals.readBegin(interval);
      const pfn = core.gup.fault(w.mm, w.base + page, false) & GUP_PFN_MASK;
      core.pages.put(pfn); // no reference is kept: the interval is all that tells
      if (tries === 1) between();
      if (!intervals.readRetry(interval, seq)) return [core.sync.words[pfn * 1024]!, tries];
    }
  };
  const interval = w.insert(0, 16, 1);
  expect(read(interval, 2)).toEqual([102, 1]);
  const replaced = () => {
    const child = core.fork(w.mm);
    core.access.write32(w.mm, w.address + 2 * PAGE, 7); // another frame
    core.exit(child);
  };
  expect(read(interval, 2, replaced)).toEqual([7, 2]);
  expect(read(interval, 3, () => core.madvise.advise(w.mm, w.address + 3 * PAGE, PAGE, 'dontneed'))).toEqual([
    0, 2,
  ]);
});
