import { expect, test } from 'vitest';
import { CopyError } from './access.ts';
import type { MmCore } from './core.ts';
import {
  FAULT_FALLBACK,
  FAULT_RETRY,
  FaultFlag,
  GUP_BLOCKED,
  GUP_FAULT,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
  GUP_WRITABLE,
} from './fault-codes.ts';
import { HugeRig } from './huge/huge-testing.ts';
import { PageFlag, POISON_ENTRY, ptePfn, VmFlag, WP_MARKER } from './layout.ts';
import { testMm } from './testing.ts';
import { DST, PAGE, page, Resolving, SRC } from './userfaultfd/resolve-testing.ts';

const ZRAM = { kind: 'zram', bytes: 1 << 20 } as const;

/** `work` as who holds mmap for reading. */
function underMmap<T>({ core, mm }: { core: MmCore; mm: Resolving['mm'] }, work: () => T): T {
  const lock = mm + core.layout.mm.mmapLock.at;
  core.sync.readLock('mmap', lock);
  const result = work();
  expect(core.sync.lockdep!.holds('mmap')).toBe(true);
  core.sync.readUnlock('mmap', lock);
  core.sync.lockdep!.assertNone();
  return result;
}

/** Memory.fault itself, with the lock that it requires; a page is let go of. */
function attempt(at: Resolving, address: number, write: boolean, how = 0): number {
  const { core, mm } = at;
  return underMmap(at, () => {
    const result = core.memory.fault(mm, core.mmap.find(mm, address), address / PAGE, write, how);
    if (result >= 0) core.pages.put(result & GUP_PFN_MASK);
    return result;
  });
}

test('M-1: an mm counts its pages of each kind and its tables; users end the space, the last count the structure', () => {
  const core = testMm({ swap: ZRAM });
  const { mm: m } = core.layout;
  const mm = core.createMm({ limitPages: 64 });
  const figures = (): number[] =>
    [m.users, m.count, m.anonPages, m.swapEnts, m.shmemPages, m.nrPtes].map(field => field.load(mm));
  expect([figures(), core.vmas.count(mm), m.notifiers.load(mm), m.wpSeq.load(mm)]).toEqual([
    [1, 1, 0, 0, 0, 0],
    ...[0, 0, 0],
  ]);
  const at = core.mmap.map(mm, 4 * PAGE);
  const inode = core.shmem.create(2 * PAGE);
  const view = core.mmap.map(mm, 2 * PAGE, { shared: inode });
  for (let i = 0; i < 4; i++) core.access.write32(mm, at + i * PAGE, 1);
  core.access.write32(mm, view, 1);
  core.madvise.advise(mm, at, PAGE, 'pageout');
  expect(figures()).toEqual([1, 1, 3, 1, 1, 2]);
  core.mms.get(mm);
  const notifier = core.notifiers.register(mm, core.notifiers.registerOps({ name: 'n', pins: true }), 0);
  core.exit(mm);
  expect(figures()).toEqual([1, 2, 3, 1, 1, 2]); // another user: nothing is gone
  core.checkInvariants();
  core.exit(mm);
  expect(figures()).toEqual([0, 1, 0, 0, 0, 0]);
  const structures = core.slabs.mm.used;
  core.notifiers.unregister(notifier);
  expect(core.slabs.mm.used).toBe(structures - 1);
  core.checkInvariants();
});

test('M-6: a frame says who owns it; mapped it has as many references at least, and free it has none', () => {
  const core = testMm({ swap: ZRAM });
  const { pages, pageAlloc } = core;
  const mm = core.createMm({ limitPages: 64 });
  const at = core.mmap.map(mm, PAGE);
  core.access.write32(mm, at, 1);
  const pfn = ptePfn(core.pageTable.entryOf(mm, at / PAGE));
  const state = () => [
    ...[pages.refcount(pfn), pages.mapcount(pfn)],
    ...[PageFlag.AnonExclusive, PageFlag.Uptodate, PageFlag.Free].map(flag => pages.has(pfn, flag)),
  ];
  const p = pages.at(pfn);
  expect([state(), core.layout.page.memcg.load(p) === core.layout.mm.memcg.get(mm)]).toEqual([
    [1, 1, true, true, false],
    true,
  ]);
  expect(core.layout.page.index.get(p)).toBe(at / PAGE);
  const child = core.fork(mm);
  expect(state()).toEqual([2, 2, false, true, false]);
  pages.get(pfn);
  core.exit(child);
  core.exit(mm);
  expect(state().slice(0, 2)).toEqual([1, 0]);
  expect(pages.has(pfn, PageFlag.Free)).toBe(false);
  const free = pageAlloc.freeFrames;
  pages.put(pfn);
  expect([pageAlloc.freeFrames, state()]).toEqual([free + 1, [0, 0, false, false, true]]);
  core.checkInvariants();
  expect(() => pages.get(pfn)).toThrow('a reference to a free page');
});

test('M-6: a reference dropped that nobody held, and a page freed that is mapped, are found at once', () => {
  const core = testMm();
  const mm = core.createMm();
  const at = core.mmap.map(mm, PAGE);
  core.access.write32(mm, at, 1);
  const pfn = ptePfn(core.pageTable.entryOf(mm, at / PAGE));
  expect(() => core.pages.put(pfn)).toThrow('M3: a mapped page has references');
  const free = core.pageAlloc.alloc();
  core.pageAlloc.free(free);
  expect(() => core.pages.put(free)).toThrow('nobody held');
});

test('M-20: a fault answers a page, retry, and one code for each way in which there is none', () => {
  const at = new Resolving(8);
  const { core, mm } = at;
  at.plant(DST + PAGE, POISON_ENTRY);
  at.write(SRC, 1);
  core.mmap.protect(mm, SRC + PAGE, PAGE, {});
  core.mmap.protect(mm, SRC + 2 * PAGE, PAGE, { read: true });
  expect(attempt(at, SRC, true)).toBeGreaterThan(GUP_WRITABLE);
  expect(attempt(at, SRC + 3 * PAGE, false)).toBe(core.pages.zeroPage);
  expect([attempt(at, SRC + PAGE, false), attempt(at, SRC + 2 * PAGE, true)]).toEqual([GUP_FAULT, GUP_FAULT]);
  expect([attempt(at, DST + PAGE, false), attempt(at, DST, true, FaultFlag.NoRetry)]).toEqual([
    GUP_HWPOISON,
    GUP_SIGBUS,
  ]);
  expect(attempt(at, DST, true)).toBe(GUP_BLOCKED);
  at.message();
  // MAJOR is a count here, as nobody but statistics asks.
  at.advise(SRC, 1, 'pageout');
  core.lru.drainAll();
  const major = core.vmstat.read('pgmajfault');
  expect(attempt(at, SRC, false)).toBeGreaterThan(0);
  expect(core.vmstat.read('pgmajfault') - major).toBe(1);
  core.pageAlloc.failAt(1, 1000);
  expect(attempt(at, SRC + 4 * PAGE, true)).toBe(GUP_NOMEM);
  core.pageAlloc.failAt(0, 0);
  core.checkInvariants();
});

test('M-20: RETRY is that the entry changed under the fault; FALLBACK stays within, the small page is the answer', () => {
  const at = new Resolving(4);
  at.arm(0);
  const { core, mm } = at;
  const other = at.thread();
  const fill = DST + PAGE;
  at.write(DST, 1);
  const prepare = core.anonVmas.prepare.bind(core.anonVmas);
  core.anonVmas.prepare = vma => {
    core.anonVmas.prepare = prepare;
    other.access.write32(mm, fill, 7); // between the look and the lock
    return prepare(vma);
  };
  expect(attempt(at, fill, true)).toBe(FAULT_RETRY);
  expect([at.read(fill), attempt(at, fill, true) > 0]).toEqual([7, true]);
  core.checkInvariants();

  const rig = new HugeRig({ frames: 700 });
  rig.core.pageAlloc.failHuge();
  const huge = rig.core.huge.fault.bind(rig.core.huge);
  const seen: number[] = [];
  rig.core.huge.fault = (...args) => {
    seen.push(huge(...args));
    return seen.at(-1)!;
  };
  expect([rig.touch(0, true) > 0, seen]).toEqual([true, [FAULT_FALLBACK]]);
  expect(rig.text()).toBe('  0x20000000 page writable dirty');
});

test('M-22: a fault that would sleep has given mmap back when it says so; told not to wait, it has queued nothing', () => {
  const at = new Resolving(4);
  const { core, mm } = at;
  expect(at.fault(DST, true, FaultFlag.NoWait)).toBe('blocked');
  expect([core.gup.ticket, core.layout.uffd.waiters.load(at.ctx)]).toEqual([0, 0]);
  expect(attempt(at, DST, true, FaultFlag.NoWait)).toBe(GUP_BLOCKED); // mmap is held still, says `attempt`
  expect(at.fault(DST, true)).toBe('blocked');
  core.sync.lockdep!.assertNone();
  // Whoever wants the lock for writing has it, and the VMA may go: nothing of it is touched after.
  core.mmap.unmap(mm, DST, 4 * PAGE);
  core.gup.sleep(core.gup.ticket);
  expect([at.fault(DST, true), core.layout.uffd.waiters.load(at.ctx)]).toEqual(['EFAULT', 0]);
  core.checkInvariants();
});

test('M-23: what GUP gives has a reference; what it can not give has the code of its reason', () => {
  const at = new Resolving(8);
  const { core, mm } = at;
  at.write(SRC, 1);
  const pfn = ptePfn(at.entry(SRC));
  expect(core.gup.fault(mm, SRC / PAGE, true)).toBe(pfn | GUP_WRITABLE);
  expect(core.pages.refcount(pfn)).toBe(2);
  core.pages.put(pfn);
  at.plant(DST + PAGE, POISON_ENTRY);
  core.mmap.protect(mm, SRC + PAGE, PAGE, { read: true });
  expect(at.fault(SRC + PAGE, true)).toBe('EFAULT');
  expect(at.fault(0x7000_0000, false)).toBe('EFAULT');
  expect(at.fault(DST + PAGE, false)).toBe('EHWPOISON');
  expect(at.fault(DST, false, FaultFlag.NoRetry)).toBe('SIGBUS');
  expect(at.fault(DST, false, FaultFlag.NoWait)).toBe('blocked');
  core.pageAlloc.failAt(1, 1000);
  expect(at.fault(SRC + 2 * PAGE, true)).toBe('ENOMEM');
  core.pageAlloc.failAt(0, 0);
  expect(core.pages.refcount(pfn)).toBe(1);
  // A count as soon as there is one page, and only then the error (pin_user_pages by way of copies).
  let failed: unknown;
  try {
    core.access.copyToUser(mm, SRC, new Uint8Array(3 * PAGE));
  } catch (error) {
    failed = error;
  }
  expect(failed).toMatchObject({ code: 'EFAULT', done: PAGE });
  core.checkInvariants();
});

test('M-24: while a fault sleeps, mappings change and pages come: mmap is free; the fault then finds what is there', () => {
  const at = new Resolving(4);
  const { core, mm, ctx } = at;
  const slept: string[] = [];
  at.once('U.k', () => {
    core.sync.lockdep!.assertNone();
    const other = at.thread();
    other.mmap.unmap(mm, SRC + 2 * PAGE, PAGE); // wants mmap for writing, and has it
    other.mmap.map(mm, PAGE, { address: 0x5000_0000, fixed: 'exclusive' });
    slept.push('unmapped');
    other.mfill.copy(ctx, DST, page(42), PAGE);
  });
  expect([at.read(DST), slept]).toEqual([0x2a2a2a2a, ['unmapped']]);
  core.sync.lockdep!.assertNone();
  core.checkInvariants();
});

test('M-25: a copy for a system call is EFAULT where an access is SIGBUS, with the count of what was copied', () => {
  const core = testMm();
  const mm = core.createMm();
  const at = core.mmap.map(mm, 4 * PAGE);
  core.access.write32(mm, at, 1);
  core.madvise.advise(mm, at + PAGE, PAGE, 'userfault');
  const stopped = (work: () => void): unknown => {
    try {
      work();
    } catch (error) {
      return error instanceof CopyError ? [error.code, error.done] : error;
    }
    return 'done';
  };
  const bytes = new Uint8Array(100).fill(9);
  const edge = at + PAGE - 60;
  expect(stopped(() => core.access.copyToUser(mm, edge, bytes))).toEqual(['EFAULT', 60]);
  expect(stopped(() => core.access.copyFromUser(mm, edge, new Uint8Array(100)))).toEqual(['EFAULT', 60]);
  expect(stopped(() => core.access.copyToUser(mm, at + PAGE, bytes))).toEqual(['EFAULT', 0]);
  const got = new Uint8Array(60);
  expect([stopped(() => core.access.copyFromUser(mm, edge, got)), got.every(b => b === 9)]).toEqual([
    'done',
    true,
  ]);
  expect(() => core.access.read8(mm, at + PAGE)).toThrow('a user fault at');
  expect(core.describe(mm).split('\n').slice(1)).toEqual([
    '  0x10000000 page writable dirty',
    '0x10001000-0x10002000 rw- anon uf',
    '0x10002000-0x10004000 rw- anon',
  ]);
  core.checkInvariants();
});

test('M-26: after an answer the access finds it at once; taken away meanwhile, it asks again, once for each time', () => {
  const asked = (takenAway: number): number => {
    const at = new Resolving(2);
    const { core, mm, ctx } = at;
    const other = at.thread();
    let times = 0;
    at.at = label => {
      if (label !== 'U.k') return;
      other.mfill.zeropage(ctx, DST, PAGE);
      if (times++ < takenAway) other.madvise.advise(mm, DST, PAGE, 'dontneed');
    };
    expect(at.read(DST)).toBe(0);
    core.checkInvariants();
    return times;
  };
  expect([asked(0), asked(1), asked(3)]).toEqual([1, 2, 4]);
});

test('M-36: a batch that is unmapped is flushed while its frames are whole, then freed; unflushed, a cache would be stale', () => {
  const freed = (flushPrimaryAlone: boolean): string[] => {
    const at = new Resolving(4, { breaks: { flushPrimaryAlone } });
    const { core, mm } = at;
    at.fill();
    const frames = [0, 1, 2, 3].map(i => ptePfn(at.entry(SRC + i * PAGE)));
    const said: string[] = [];
    const count = (): string =>
      `${frames.filter(pfn => core.pages.has(pfn, PageFlag.Free)).length} free, ` +
      `${[0, 1, 2, 3].filter(i => core.pageTable.entryOf(mm, SRC / PAGE + i) === 0).length} unmapped`;
    const ops = {
      name: 'shares',
      pins: false,
      archInvalidateSecondaryTlbs: () => void said.push(`flush: ${count()}`),
    };
    core.notifiers.register(mm, core.notifiers.registerOps(ops), 0);
    at.at = label => {
      if (label === 'M.x') said.push(`freed: ${count()}`);
    };
    at.advise(SRC, 4, 'dontneed');
    return said.slice(0, 2);
  };
  expect(freed(false)).toEqual(['flush: 0 free, 4 unmapped', 'freed: 4 free, 4 unmapped']);
  expect(freed(true)).toEqual(['freed: 4 free, 4 unmapped']);
});

test('M-4, V-36: a hole that remembers protection is filled like a hole', () => {
  const at = new Resolving(2);
  at.arm(VmFlag.UffdWp);
  at.plant(DST, WP_MARKER);
  expect([at.read(DST), page(0).length]).toEqual([0, PAGE]);
  at.core.checkInvariants();
});
