import fc from 'fast-check';
import { expect, test, vi } from 'vitest';
import { Arena } from '../sync/arena.ts';
import { Srcu } from '../sync/srcu.ts';
import { Sync } from '../sync/sync.ts';
import { productionWaiter } from '../sync/waiter.ts';
import { createPageOps } from '../wasm/page-ops.ts';
import type { MmBreaks } from './breaks.ts';
import { initMm } from './core.ts';
import { HugeRig } from './huge/huge-testing.ts';
import { type MmuNotifierOps, NotifyEvent } from './mmu-notifier-ops.ts';
import { at, type Op, Run, script, WINDOW } from './model-testing.ts';
import { Checker, Shadow } from './notifier-testing.ts';
import { testMm } from './testing.ts';

const PAGE = 4096;
const ZRAM = { kind: 'zram', bytes: 4 << 20 } as const;

/** Four written pages, and a way to subscribe with what the callbacks say written down in `log`. */
function world(core = testMm({ swap: ZRAM })) {
  const mm = core.createMm({ limitPages: 64 });
  const address = core.mmap.map(mm, 8 * PAGE);
  for (let i = 0; i < 4; i++) core.access.write32(mm, address + i * PAGE, i + 1);
  const log: string[] = [];
  const join = (name: string, ops: Partial<MmuNotifierOps> = {}): number => {
    const all = { name, pins: true, ageingPassEnd: () => void log.push(name), ...ops };
    return core.notifiers.register(mm, core.notifiers.registerOps(all), 1);
  };
  const hear = (): string => {
    core.notifiers.ageingPassEnd(mm);
    return log.splice(0).join(' ');
  };
  return { core, mm, address, log, join, hear };
}

/** All that the mm may call, once. */
function everyHook({ core, mm, address }: ReturnType<typeof world>): (() => unknown)[] {
  const { notifiers } = core;
  const page = address / PAGE;
  return [
    () => notifiers.start(mm, page, page + 1, NotifyEvent.Clear, 1),
    () => notifiers.end(mm, page, page + 1, NotifyEvent.Clear),
    () => notifiers.pageStart(mm, page, NotifyEvent.Clear, 1),
    () => notifiers.invalidatePage(mm, page),
    () => notifiers.pageEnd(mm, page, NotifyEvent.Clear),
    () => notifiers.unpinRange(mm, page, page + 1, NotifyEvent.Clear),
    () => notifiers.flush(mm),
    () => notifiers.flushPrimary(mm, page, page + 1),
    () => notifiers.clearYoung(mm, page, true),
    () => notifiers.testYoung(mm, page),
    () => notifiers.ageingPassEnd(mm),
  ];
}

test('N-1: callbacks come from registration on, and operations that a subscriber lacks are skipped', () => {
  const w = world();
  expect(w.hear()).toBe('');
  w.join('first');
  for (const hook of everyHook(w)) hook();
  expect(w.log).toEqual(['first']);
  w.join('empty', { ageingPassEnd: undefined as never });
  w.log.length = 0;
  for (const hook of everyHook(w)) hook();
  expect([w.log, w.core.notifiers.clearYoung(w.mm, w.address / PAGE, true)]).toEqual([['first'], false]);
  w.core.exit(w.mm);
  w.core.checkInvariants();
});

test('N-2: who subscribes during a walk is not waited for, and hears the next one; the walk reaches the rest', () => {
  const w = world();
  w.join('last');
  let late = false;
  w.join('middle', {
    ageingPassEnd: () => {
      w.log.push('middle');
      if (!late) w.join('late');
      late = true;
    },
  });
  w.join('first');
  expect([w.hear(), w.hear()]).toEqual(['first middle last', 'late first middle last']);
});

test('N-4: a hook of an mm to which nobody subscribes is one test of one word', () => {
  const w = world();
  const head = w.core.layout.mm.notifiers;
  const tested = vi.spyOn(head, 'load');
  const entered = vi.spyOn(Srcu.prototype, 'readLock');
  for (const hook of everyHook(w)) {
    tested.mockClear();
    hook();
    expect([tested.mock.calls, entered.mock.calls.length]).toEqual([[[w.mm]], 0]);
  }
  const child = w.core.fork(w.mm);
  w.core.access.write32(w.mm, w.address, 9);
  expect(entered).not.toHaveBeenCalled();
  w.join('somebody');
  everyHook(w)[0]!();
  expect(entered).toHaveBeenCalledOnce();
  vi.restoreAllMocks();
  w.core.exit(child);
});

test('N-4: an mm built without notifiers refuses subscribers, and works as it does with them', () => {
  const states = [true, false].map(notifiers => {
    const w = world(testMm({ swap: ZRAM, notifiers }));
    const { core, mm, address } = w;
    const child = core.fork(mm);
    core.access.write32(mm, address, 9);
    core.madvise.advise(mm, address + PAGE, 2 * PAGE, 'pageout');
    core.madvise.advise(mm, address + 3 * PAGE, PAGE, 'dontneed');
    core.checkInvariants();
    return [core.describe(mm), core.describe(child), core.access.read32(child, address)];
  });
  expect(states[1]).toEqual(states[0]);
  const w = world(testMm({ notifiers: false }));
  expect(() => w.join('nobody')).toThrow('ENODEV');
  expect(() => w.core.notifiers.intervals.insert(w.mm, 0, 1, 0, 0)).toThrow('ENODEV');
  w.core.exit(w.mm);
});

test('N-20: who is put hears nothing more, not even release, and goes when its callbacks are over', () => {
  const w = world();
  const { core } = w;
  const { mm: mms, notifier } = core.slabs;
  const before = [mms.used - 1, notifier.used];
  const stays = () => void w.log.push('released');
  w.join('stays', { release: stays });
  const goes: number = w.join('goes', {
    release: stays,
    ageingPassEnd: () => {
      w.log.push('goes');
      core.notifiers.put(goes);
    },
  });
  expect([w.hear(), w.hear(), notifier.used]).toEqual(['goes stays', 'stays', before[1]! + 2]);
  core.notifiers.reap();
  expect([w.hear(), notifier.used]).toEqual(['stays', before[1]! + 1]);
  const third: number = w.join('third', {
    release: () => {
      w.log.push('third released');
      core.notifiers.put(third); // within release
    },
  });
  core.exit(w.mm);
  expect(w.log).toEqual(['third released', 'released']);
  core.checkInvariants();
  expect(notifier.used).toBe(before[1]! + 1); // `stays` was never unregistered, and keeps the structure
  expect(mms.used).toBe(before[0]! + 1);
});

test('N-20: what is put is freed after the walk that stands on it; without the wait it stands on nothing', () => {
  const tried = (putWithoutWait: boolean): string => {
    const arena = Arena.create({ frames: 1024, heapBytes: 1 << 20, shared: false });
    const wait = (): never => {
      throw new Error('would wait');
    };
    const sync = new Sync(arena, { waiter: { ...productionWaiter(arena), wait } });
    const w = world(
      initMm(sync, { pageOps: createPageOps(arena.memory, false), breaks: { putWithoutWait } }),
    );
    w.join('last');
    const middle: number = w.join('middle', {
      ageingPassEnd: () => {
        w.log.push('middle');
        w.core.notifiers.put(middle);
        w.core.notifiers.reap(); // as another thread would
      },
    });
    try {
      return w.hear();
    } catch (error) {
      return (error as Error).message;
    }
  };
  expect(tried(false)).toBe('would wait');
  expect(tried(true)).toContain('notifier: freed');
});

test('N-17, N-23: who shares the tables of the primary has neither start nor end', () => {
  const { core } = world();
  const arch = { name: 'iommu', pins: false, archInvalidateSecondaryTlbs: () => {} };
  const refused = (more: Partial<MmuNotifierOps>) => () => core.notifiers.registerOps({ ...arch, ...more });
  expect(refused({ invalidateRangeStart: () => 0 })).toThrow('EINVAL');
  expect(refused({ invalidateRangeEnd: () => {} })).toThrow('EINVAL');
  expect(refused({})).not.toThrow();
});

const seeds = fc.array(fc.tuple(fc.nat(WINDOW - 1), fc.boolean()), { minLength: 100, maxLength: 100 });

/** A script beside a secondary that shares the primary's tables: what it caches must be flushed with the primary. */
function sharing(steps: [Op, number][], fills: [number, boolean][], breaks: Partial<MmBreaks>): void {
  const core = testMm({ frames: 256, swap: ZRAM, breaks });
  const run = new Run(core);
  const { mm } = run.spaces[0]!;
  const shadow = new Shadow(core, false, true);
  const handle = core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 1);
  for (const [i, [step, space]] of steps.entries()) {
    run.step({ ...step, space });
    if (!run.spaces.some(s => s.mm === mm)) break;
    const [page, write] = fills[i % fills.length]!;
    shadow.fill(mm, at(page) / PAGE, write);
    run.touched(run.spaces.find(s => s.mm === mm)!, page);
    shadow.check(mm);
  }
  core.notifiers.unregister(handle);
  expect(shadow.entries.size).toBe(0);
  run.end();
}

test('N-23: a secondary that shares the tables hears each flush before a frame is freed; not told, it is stale', () => {
  const checked = (breaks: Partial<MmBreaks>, numRuns: number) =>
    fc.check(
      fc.property(script, seeds, (steps, fills) => sharing(steps, fills, breaks)),
      { seed: 5, numRuns, endOnFailure: true },
    );
  expect(checked({}, 12).failed).toBe(false);
  expect(checked({ flushPrimaryAlone: true }, 30).failed).toBe(true);
});

/** What a checker hears of a huge page's area: the page written whole before. */
function huge(act: (rig: HugeRig) => void, breaks: Partial<MmBreaks> = {}): string[] {
  const rig = new HugeRig({ breaks });
  rig.write(0, 1);
  const checker = new Checker(rig.core, HugeRig.AT / PAGE);
  const ops = rig.core.notifiers.registerOps(checker.ops());
  rig.core.notifiers.register(rig.mm, ops, 1);
  act(rig);
  rig.core.checkInvariants();
  return checker.heard();
}

test('N-16: what may change a huge entry brackets all of its 512 pages, a split as the removal of the whole', () => {
  const parts = ['start Clear 0-512', 'end Clear 0-512'];
  expect(huge(rig => rig.advise('dontneed', 3, 2))).toEqual(['start Clear 3-5', ...parts, 'end Clear 3-5']);
  expect(huge(rig => rig.advise('dontneed', 0, 512))).toEqual(parts);
  const readOnly = (pages: number) => (rig: HugeRig) =>
    rig.core.mmap.protect(rig.mm, rig.at(0), pages * PAGE, { read: true });
  const whole = ['start ProtectionVma 0-512', 'end ProtectionVma 0-512'];
  expect(huge(readOnly(512))).toEqual(whole);
  expect(huge(readOnly(8)).slice(0, 2)).toEqual(parts);
  const fork = (rig: HugeRig): void => rig.core.exit(rig.core.fork(rig.mm));
  expect(huge(fork)).toEqual(['start ProtectionPage 0-512', 'end ProtectionPage 0-512']);
  const collapse = (rig: HugeRig): void => {
    rig.advise('dontneed', 3, 1);
    rig.write(3, 7);
    rig.advise('collapse', 0, 512);
  };
  expect(huge(collapse).slice(-2)).toEqual(parts);
  expect(huge(rig => rig.advise('dontneed', 3, 2), { splitWithoutNotify: true })).toEqual([
    'start Clear 3-5',
    'end Clear 3-5',
  ]);
});

test('N-24: a range and the end of an mm may take their time; ageing is asked where nobody may sleep', () => {
  const w = world();
  const { core, mm, address } = w;
  const checker = new Checker(core, address / PAGE);
  core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 1);
  const held: boolean[] = [];
  w.join('young', { agePage: () => held.push(core.sync.lockdep!.holds('ptl')) < 0 });
  const child = core.fork(mm);
  core.access.write32(mm, address, 5);
  core.madvise.advise(mm, address, 2 * PAGE, 'pageout');
  const pfn = core.gup.fault(mm, address / PAGE + 2, false) & 0xffffff;
  core.pages.lock(pfn);
  core.rmap.pageReferenced(pfn);
  core.pages.unlock(pfn);
  core.pages.put(pfn);
  core.exit(mm);
  core.exit(child);
  // The checker has asserted that nothing was held that forbids it.
  expect(checker.heard().filter(line => /^(start|end|release)/.test(line)).length).toBeGreaterThan(6);
  expect(held.length).toBeGreaterThan(0);
  const pte = core.pageTable;
  const other = world(core);
  other.join('checker', new Checker(core, 0).ops());
  const at0 = pte.walk(other.mm, other.address / PAGE);
  pte.lock(at0);
  expect(() => core.notifiers.end(other.mm, 0, 1, NotifyEvent.Clear)).toThrow(/N-15|N-24/);
  pte.unlock(at0);
});

test('M-12: a callback that wants a lock outside its own is a lock order failure', () => {
  const w = world();
  const { core, mm, address } = w;
  const lock = mm + core.layout.mm.mmapLock.at;
  let wanted: 'mmap' | 'slots' | 'vm' = 'mmap';
  const start = (): number => {
    core.sync.readLock(wanted, lock);
    return 0;
  };
  w.join('greedy', { invalidateRangeStart: start });
  for (wanted of ['mmap', 'slots', 'vm'] as const) {
    core.sync.writeLock('mmap', lock);
    expect(() => core.notifiers.start(mm, address / PAGE, address / PAGE + 1, NotifyEvent.Clear, 1)).toThrow(
      `lock order: ${wanted}@${lock} wanted while holding mmap`,
    );
    core.sync.writeUnlock('mmap', lock);
  }
});
