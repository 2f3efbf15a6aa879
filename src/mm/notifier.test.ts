import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Errno } from '../base/errno.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmBreaks } from './breaks.ts';
import type { MmCore } from './core.ts';
import { ptePfn } from './layout.ts';
import { NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
import { at, type Op, Run, script, WINDOW } from './model-testing.ts';
import { Checker, Shadow } from './notifier-testing.ts';
import { testMm } from './testing.ts';

const PAGE = 4096;
const ZRAM = { kind: 'zram', bytes: 4 << 20 } as const;

/** Eight pages, the first four written, seen by a checker that has heard nothing yet. */
function watched(breaks: Partial<MmBreaks> = {}): {
  core: MmCore;
  mm: Ptr<'mm'>;
  address: number;
  checker: Checker;
  handle: number;
} {
  const core = testMm({ swap: ZRAM, breaks });
  const mm = core.createMm({ limitPages: 64 });
  const address = core.mmap.map(mm, 8 * PAGE);
  for (let i = 0; i < 4; i++) core.access.write32(mm, address + i * PAGE, i + 1);
  const checker = new Checker(core, address / PAGE);
  const handle = core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 1);
  return { core, mm, address, checker, handle };
}

type Watched = ReturnType<typeof watched>;
/** A call of N-5's list, and what a subscriber must hear of it. */
const CALL_SITES: Record<string, { call(w: Watched): void; heard: string[] }> = {
  munmap: {
    call: ({ core, mm, address }) => core.mmap.unmap(mm, address + PAGE, 2 * PAGE),
    heard: ['start Unmap 1-3', 'end Unmap 1-3'],
  },
  'munmap of two mappings': {
    call: ({ core, mm, address }) => {
      core.madvise.advise(mm, address + 2 * PAGE, 2 * PAGE, 'dontdump');
      core.mmap.unmap(mm, address, 3 * PAGE);
    },
    heard: ['start Unmap 0-2', 'end Unmap 0-2', 'start Unmap 2-3', 'end Unmap 2-3'],
  },
  'mmap over a mapping': {
    call: ({ core, mm, address }) =>
      core.mmap.map(mm, PAGE, { address: address + 3 * PAGE, fixed: 'replace' }),
    heard: ['start Unmap 3-4', 'end Unmap 3-4'],
  },
  DONTNEED: {
    call: ({ core, mm, address }) => core.madvise.advise(mm, address, 3 * PAGE, 'dontneed'),
    heard: ['start Clear 0-3', 'end Clear 0-3'],
  },
  FREE: {
    call: ({ core, mm, address }) => core.madvise.advise(mm, address, 3 * PAGE, 'free'),
    heard: ['start Clear 0-3', 'end Clear 0-3'],
  },
  mprotect: {
    call: ({ core, mm, address }) => core.mmap.protect(mm, address + PAGE, PAGE, { read: true }),
    heard: ['start ProtectionVma 1-2', 'end ProtectionVma 1-2'],
  },
  'mprotect to more rights (C-17)': {
    call: ({ core, mm, address, checker }) => {
      core.mmap.protect(mm, address, PAGE, { read: true });
      checker.heard();
      core.mmap.protect(mm, address, PAGE, { read: true, write: true });
    },
    heard: [],
  },
  'mprotect that changes nothing': {
    call: ({ core, mm, address }) => core.mmap.protect(mm, address, PAGE, { read: true, write: true }),
    heard: [],
  },
  fork: {
    call: ({ core, mm }) => core.exit(core.fork(mm)),
    heard: ['start ProtectionPage 0-8', 'end ProtectionPage 0-8'],
  },
  'breaking COW': {
    call: ({ core, mm, address, checker }) => {
      const child = core.fork(mm);
      checker.heard();
      core.access.write32(mm, address, 9);
      core.exit(child);
    },
    heard: ['start Clear 0-1', 'end Clear 0-1'],
  },
  'a write off the zero page': {
    call: ({ core, mm, address }) => {
      core.access.read32(mm, address + 5 * PAGE);
      core.access.write32(mm, address + 5 * PAGE, 1);
    },
    heard: ['start Clear 5-6', 'end Clear 5-6'],
  },
  'a write to a page of our own again (T-COW-03)': {
    call: ({ core, mm, address, checker }) => {
      core.exit(core.fork(mm));
      checker.heard();
      core.access.write32(mm, address, 9);
    },
    heard: [],
  },
  'swap out': {
    call: ({ core, mm, address }) => core.madvise.advise(mm, address + PAGE, 2 * PAGE, 'pageout'),
    heard: [
      'start Clear 1-2 deferred',
      'start Clear 2-3 deferred',
      'flush',
      'end Clear 1-2',
      'end Clear 2-3',
    ],
  },
  'swap in': {
    call: ({ core, mm, address, checker }) => {
      core.madvise.advise(mm, address, PAGE, 'pageout');
      checker.heard();
      core.access.read32(mm, address);
    },
    heard: [],
  },
  ageing: {
    call: ({ core, mm, address }) => {
      const found = core.gup.fault(mm, address / PAGE + 2, false) & 0xffffff;
      core.pages.lock(found);
      core.rmap.pageReferenced(found);
      core.pages.unlock(found);
      core.pages.put(found);
    },
    heard: ['age 2'],
  },
  'a hint (C-10)': {
    call: ({ core, mm, address }) => core.numa.changeProtNuma(mm, address / PAGE, address / PAGE + 3),
    heard: ['start ProtectionVma 0-3', 'end ProtectionVma 0-3'],
  },
  'a move of the mapping': {
    call: ({ core, mm, address }) =>
      core.mremap.remap(mm, address, 2 * PAGE, 2 * PAGE, { mayMove: true, to: address + 64 * PAGE }),
    // Of the entries, then of the mapping that is left behind.
    heard: ['start Unmap 0-2', 'end Unmap 0-2', 'start Unmap 0-2', 'end Unmap 0-2'],
  },
  'the end of a pass': {
    call: ({ core, mm }) => core.notifiers.ageingPassEnd(mm),
    heard: ['pass'],
  },
  exit: {
    call: ({ core, mm, handle }) => {
      core.exit(mm);
      core.notifiers.unregister(handle);
    },
    heard: ['release'],
  },
  unregister: {
    call: ({ core, mm, address, handle }) => {
      core.notifiers.unregister(handle);
      core.mmap.unmap(mm, address, PAGE);
    },
    heard: ['release'],
  },
};

// N-10: event and bounds of each.
test.each(Object.entries(CALL_SITES))('T-NOT: %s is told as it must be', (_name, { call, heard }) => {
  const w = watched();
  call(w);
  expect(w.checker.heard()).toEqual(heard);
  w.core.checkInvariants();
});

// N-5: the rule of each call site, switched off, shows in what is heard.
test.each([
  ['munmap', 'rangeWithoutNotify'],
  ['mmap over a mapping', 'rangeWithoutNotify'],
  ['DONTNEED', 'rangeWithoutNotify'],
  ['FREE', 'rangeWithoutNotify'],
  ['mprotect', 'rangeWithoutNotify'],
  ['fork', 'rangeWithoutNotify'],
  ['breaking COW', 'cowWithoutNotify'],
  ['a write off the zero page', 'cowWithoutNotify'],
  ['swap out', 'unmapWithoutNotify'],
  ['a hint (C-10)', 'hintWithoutNotify'],
  ['a move of the mapping', 'moveWithoutBracket'],
] as const)('T-NOT: a secondary that is not told by %s, by %s, misses it', (name, rule) => {
  const { call, heard } = CALL_SITES[name]!;
  const w = watched({ [rule]: true });
  call(w);
  const starts = (lines: string[]) => lines.filter(line => line.startsWith('start'));
  expect(starts(w.checker.heard()).length).toBe(name === 'a move of the mapping' ? 1 : 0);
  expect(starts(heard).length).toBeGreaterThan(name === 'a move of the mapping' ? 1 : 0);
});

test.each(['munmap', 'DONTNEED', 'FREE', 'mprotect', 'fork', 'breaking COW', 'a write off the zero page'])(
  'T-NOT: whichever allocation fails in %s, every start has its end',
  name => {
    for (let n = 1; n < 12; n++) {
      const w = watched();
      w.core.pageAlloc.failAt(n);
      try {
        CALL_SITES[name]!.call(w);
      } catch (error) {
        if (!(error instanceof Errno)) throw error;
      }
      w.core.pageAlloc.failAt(0, 0);
      w.checker.heard(); // asserts that nothing is open
      w.core.checkInvariants();
    }
  },
);

test('a start that answers EAGAIN lets the others begin and end, and has no end itself (N-14)', () => {
  const { core, mm, checker } = watched();
  const ops = { name: 'unwilling', pins: false, invalidateRangeStart: () => -11 };
  core.notifiers.register(mm, core.notifiers.registerOps(ops), 2);
  const lock = mm + core.layout.mm.mmapLock.at;
  core.sync.readLock('mmap', lock);
  expect(core.notifiers.start(mm, 0, 9, NotifyEvent.Clear, 0)).toBe(-11);
  core.sync.readUnlock('mmap', lock);
  expect(checker.heard().map(line => line.split(' ')[0])).toEqual(['start', 'end']);
});

test('T-COW-03: a write to a page of our own tells nobody and stays in place; copied, they hear of it', () => {
  for (const rule of [{}, { copyOwnPage: true }]) {
    const copies = 'copyOwnPage' in rule;
    const w = watched(rule);
    const frame = () => ptePfn(w.core.pageTable.entryOf(w.mm, w.address / PAGE));
    w.core.exit(w.core.fork(w.mm));
    w.checker.heard();
    const before = frame();
    w.core.access.write32(w.mm, w.address, 9);
    expect([w.checker.heard().length, frame() === before]).toEqual(copies ? [2, false] : [0, true]);
    expect(w.core.access.read32(w.mm, w.address)).toBe(9);
  }
});

test('N-15: a start under the lock of a table is caught, and one without an outer lock', () => {
  const { core, mm, address } = watched();
  const start = () => core.notifiers.start(mm, 0, 9, NotifyEvent.Clear, NotifyFlag.Blockable);
  expect(start).toThrow('N-15: start under mmap');
  const lock = mm + core.layout.mm.mmapLock.at;
  const pte = core.pageTable.walk(mm, address / PAGE);
  core.sync.readLock('mmap', lock);
  core.pageTable.lock(pte);
  expect(start).toThrow('N-15: start under a ptl');
  core.pageTable.unlock(pte);
  core.sync.readUnlock('mmap', lock);
});

test('every subscriber is asked when a page is aged, and clears its bit, whatever the first says (N-3)', () => {
  const { core, mm, address } = watched();
  let asked = 0;
  const clearYoung = (): boolean => ++asked > 0;
  const ops = { name: 'young', pins: false, invalidateRangeStart: () => 0, clearYoung };
  for (let i = 0; i < 3; i++) core.notifiers.register(mm, core.notifiers.registerOps(ops), i);
  expect(core.notifiers.clearYoung(mm, address / PAGE, false)).toBe(true);
  expect(asked).toBe(3);
});

test('who neither pins nor implements start is refused (N-6)', () => {
  const core = testMm();
  expect(() => core.notifiers.registerOps({ name: 'careless', pins: false })).toThrow('N-6');
});

const seeds = fc.array(fc.tuple(fc.nat(WINDOW - 1), fc.boolean()), { minLength: 100, maxLength: 100 });

/** A script whose first address space is also used through a shadow, which must agree at every rest. */
function shadowed(
  steps: [Op, number][],
  fills: [number, boolean][],
  pins: boolean,
  breaks: Partial<MmBreaks>,
): void {
  const core = testMm({ frames: 256, swap: ZRAM, breaks });
  const run = new Run(core);
  const { mm } = run.spaces[0]!;
  const shadow = new Shadow(core, pins);
  const handle = core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 1);
  let alive = true;
  for (const [i, [step, space]] of steps.entries()) {
    run.step({ ...step, space });
    alive &&= run.spaces.some(s => s.mm === mm);
    if (!alive) break;
    const [page, write] = fills[i % fills.length]!;
    shadow.fill(mm, at(page) / PAGE, write);
    run.touched(run.spaces.find(s => s.mm === mm)!, page);
    shadow.check(mm);
    core.checkInvariants();
  }
  core.notifiers.unregister(handle);
  expect(shadow.entries.size).toBe(0);
  run.readAll();
  run.end();
}

// N-11, N-26: after a start nothing of the range is left in the shadow, nor before its end.
test.each([false, true])('a shadow agrees with the primary after every step; pinning: %s', pins => {
  fc.assert(
    fc.property(script, seeds, (steps, fills) => shadowed(steps, fills, pins, {})),
    { seed: 5, numRuns: 15 },
  );
});

test.each(['unmapWithoutNotify', 'cowWithoutNotify'] as const)('with %s the shadow is caught stale', name => {
  const result = fc.check(
    fc.property(script, seeds, (steps, fills) => shadowed(steps, fills, false, { [name]: true })),
    { seed: 5, numRuns: 60, endOnFailure: true },
  );
  expect(result.failed).toBe(true);
});
