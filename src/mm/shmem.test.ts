import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import { FAULT_RETRY, GUP_PFN_MASK, GUP_SIGBUS } from './fault-codes.ts';
import { PageFlag, VmFlag, VmFlagHigh } from './layout.ts';
import type { Advice } from './madvise.ts';
import type { MmuNotifierOps } from './mmu-notifier-ops.ts';
import { Swapping } from './swap/swapping-testing.ts';

type Mm = Ptr<'mm'>;

const code = (work: () => unknown): string => {
  try {
    work();
    return 'ok';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

/** An inode of `pages` pages with a handle, mapped in an address space of its own; further views by `view`. */
function shared(pages = 4, options: ConstructorParameters<typeof Swapping>[0] = {}) {
  const world = new Swapping(options);
  const { mm: core } = world;
  const inode = core.shmem.create(pages * PAGE_SIZE);
  const view = (mm: Mm = core.createMm()) => ({
    mm,
    at: core.mmap.map(mm, pages * PAGE_SIZE, { shared: inode }),
  });
  const peek = (v: { mm: Mm; at: number }, page: number): number =>
    core.access.read32(v.mm, v.at + page * PAGE_SIZE);
  const poke = (v: { mm: Mm; at: number }, page: number, value: number): void =>
    core.access.write32(v.mm, v.at + page * PAGE_SIZE, value);
  const pages_ = (mm: Mm): number => core.layout.mm.shmemPages.load(mm);
  return { world, core, inode, view, peek, poke, mapped: pages_ };
}

test('V-61 two views of an inode, in one address space and in two, show the same pages', () => {
  const { core, view, peek, poke, mapped } = shared();
  const a = view();
  const b = view(a.mm);
  const c = view();
  poke(a, 1, 7);
  expect([peek(b, 1), peek(c, 1), peek(c, 2)]).toEqual([7, 7, 0]);
  poke(c, 2, 9);
  expect([peek(a, 2), peek(b, 2)]).toEqual([9, 9]);
  expect([mapped(a.mm), mapped(c.mm), core.layout.mm.anonPages.load(a.mm)]).toEqual([4, 2, 0]);
  core.checkInvariants();
});

test('an object goes with its last reference, be that a view or a handle, and takes its pages with it', () => {
  const { world, core, inode, view, poke } = shared();
  const free = core.pageAlloc.freeFrames;
  const a = view();
  for (let page = 0; page < 4; page++) poke(a, page, 1);
  core.exit(a.mm);
  expect(core.layout.inode.pages.get(inode)).toBe(4);
  core.checkInvariants();
  const b = view();
  core.shmem.put(inode);
  core.checkInvariants();
  core.exit(b.mm);
  core.checkInvariants();
  expect([core.slabs.inode.used, core.pageAlloc.freeFrames]).toEqual([0, free]);
  expect(world.leftovers()).toMatch(/^slots 0, cached 0/);
});

test('fork shares: both sides write the same pages, and neither copies', () => {
  const { core, view, peek, poke, world } = shared();
  const a = view();
  poke(a, 0, 1);
  const child = core.fork(a.mm);
  const b = { mm: child, at: a.at };
  poke(b, 0, 2);
  poke(a, 1, 3);
  expect([peek(a, 0), peek(b, 1), world.counter('cow_copy')]).toEqual([2, 3, 0]);
  core.checkInvariants();
  core.exit(a.mm);
  expect(peek(b, 1)).toBe(3);
  core.checkInvariants();
});

test('MAP_SHARED and MAP_ANONYMOUS: an object of its own, which goes with its last mapping', () => {
  const { core } = shared();
  const mm = core.createMm();
  const before = core.slabs.inode.used;
  const at = core.mmap.map(mm, 3 * PAGE_SIZE, { shared: true });
  core.access.write32(mm, at, 5);
  const child = core.fork(mm);
  core.access.write32(child, at, 6);
  expect([core.access.read32(mm, at), core.slabs.inode.used - before]).toEqual([6, 1]);
  expect(core.describe(mm)).toBe(
    '0x10000000-0x10003000 rw- shmem\n  0x10000000 page shared×2 writable dirty',
  );
  core.mmap.unmap(mm, at, 3 * PAGE_SIZE);
  core.exit(child);
  expect(core.slabs.inode.used - before).toBe(0);
  core.checkInvariants();
});

test('MADV_DONTNEED unmaps a view; the page stays in the cache', () => {
  const { core, view, peek, poke, mapped } = shared();
  const a = view();
  poke(a, 0, 7);
  core.madvise.advise(a.mm, a.at, 4 * PAGE_SIZE, 'dontneed');
  expect([mapped(a.mm), peek(a, 0), mapped(a.mm)]).toEqual([0, 7, 1]);
  core.checkInvariants();
});

test('MADV_REMOVE makes holes wherever the pages are mapped, and tells every secondary', () => {
  const { core, inode, view, peek, poke, mapped } = shared();
  const [a, b] = [view(), view()];
  for (let page = 0; page < 4; page++) poke(a, page, 10 + page);
  for (let page = 0; page < 4; page++) peek(b, page);
  const told: string[] = [];
  const ops = (name: string): MmuNotifierOps => ({
    name,
    pins: false,
    invalidateRangeStart: (_s, _mm, start, end) =>
      Number(told.push(`${name} ${start - b.at / PAGE_SIZE}+${end - start}`)) & 0,
  });
  core.notifiers.register(b.mm, core.notifiers.registerOps(ops('b')), 1);
  core.madvise.advise(a.mm, a.at + PAGE_SIZE, 2 * PAGE_SIZE, 'remove');
  expect(told).toEqual(['b 1+2']);
  expect([mapped(a.mm), mapped(b.mm), core.layout.inode.pages.get(inode)]).toEqual([2, 2, 2]);
  core.checkInvariants();
  expect([0, 1, 2, 3].map(page => peek(b, page))).toEqual([10, 0, 0, 13]);
});

test('MADV_REMOVE is EINVAL for private memory, EACCES where the mapping may never be written', () => {
  const { core, view } = shared();
  const a = view();
  const at = core.mmap.map(a.mm, PAGE_SIZE);
  core.mmap.protect(a.mm, a.at, PAGE_SIZE, { read: true });
  const advise = (address: number, advice: Advice) =>
    code(() => core.madvise.advise(a.mm, address, PAGE_SIZE, advice));
  expect(advise(at, 'remove')).toBe('EINVAL');
  expect([advise(a.at, 'remove'), advise(a.at + PAGE_SIZE, 'remove')]).toEqual(['ok', 'ok']);
  expect(advise(a.at + PAGE_SIZE, 'free')).toBe('EINVAL');
  const vma = core.mmap.find(a.mm, a.at);
  core.vmas.setFlags(vma, core.layout.vma.flags.get(vma) & ~VmFlag.MayWrite, core.vmas.flagsHigh(vma));
  expect(advise(a.at, 'remove')).toBe('EACCES');
});

test('U-2 MADV_USERFAULT and MADV_NOUSERFAULT are EINVAL on a mapping of an inode', () => {
  const { core, view } = shared();
  const a = view();
  for (const advice of ['userfault', 'nouserfault'] as const) {
    expect(code(() => core.madvise.advise(a.mm, a.at, PAGE_SIZE, advice))).toBe('EINVAL');
  }
});

test('a hole punched under a pin leaves the holder its page, and everybody else a new one', () => {
  const { core, inode, view, peek, poke } = shared();
  const a = view();
  poke(a, 0, 7);
  const pinned = core.gup.fault(a.mm, a.at / PAGE_SIZE, true) & GUP_PFN_MASK;
  core.shmem.punchHole(inode, 0, PAGE_SIZE);
  core.checkInvariants();
  expect([peek(a, 0), core.sync.words[pinned * 1024], core.pages.mapcount(pinned)]).toEqual([0, 7, 0]);
  core.pages.put(pinned);
  core.checkInvariants();
  expect(code(() => core.shmem.punchHole(inode, 1, PAGE_SIZE))).toBe('EINVAL');
  expect(code(() => core.shmem.punchHole(inode, 0, 0))).toBe('EINVAL');
});

test('beyond the end is a bus error; what truncation takes is gone, and what comes back is zero', () => {
  const { core, inode, view, peek, poke, mapped } = shared();
  const a = view();
  for (let page = 0; page < 4; page++) core.access.write32(a.mm, a.at + page * PAGE_SIZE + 2048, 7 + page);
  core.shmem.truncate(inode, PAGE_SIZE + 2048);
  core.checkInvariants();
  expect([mapped(a.mm), core.layout.inode.pages.get(inode)]).toEqual([2, 2]);
  expect(core.gup.fault(a.mm, a.at / PAGE_SIZE + 2, false)).toBe(GUP_SIGBUS);
  // The rest of the last page is zeroed at once.
  expect(core.access.read32(a.mm, a.at + PAGE_SIZE + 2048)).toBe(0);
  core.shmem.truncate(inode, 4 * PAGE_SIZE);
  expect([peek(a, 2), core.access.read32(a.mm, a.at + 2048)]).toEqual([0, 7]);
  poke(a, 3, 1);
  core.checkInvariants();
  expect(code(() => core.shmem.truncate(inode, -1))).toBe('EINVAL');
  expect(code(() => core.shmem.create(Number.NaN))).toBe('EINVAL');
});

test('C-11 a page is charged to whom it was made for, once, and until it leaves the cache', () => {
  const { world, core, inode } = shared();
  const [first, second] = [core.createMm({ limitPages: 64 }), core.createMm({ limitPages: 64 })];
  const at = [first, second].map(mm => core.mmap.map(mm, 4 * PAGE_SIZE, { shared: inode }));
  core.access.write8(first, at[0]!, 1);
  core.access.write8(second, at[1]!, 1);
  core.access.write8(second, at[1]! + PAGE_SIZE, 1);
  const usage = (): number[] => [world.usage(first), world.usage(second)];
  expect(usage()).toEqual([1, 1]);
  core.madvise.advise(first, at[0]!, PAGE_SIZE, 'dontneed');
  expect(usage()).toEqual([1, 1]);
  core.madvise.advise(second, at[1]!, PAGE_SIZE, 'remove');
  expect(usage()).toEqual([0, 1]);
  core.checkInvariants();
});

test('C-11 shared memory is not reclaimed: at the limit it is out of memory, and nothing is lost', () => {
  const { core } = shared();
  const mm = core.createMm({ limitPages: 32 });
  const at = core.mmap.map(mm, 40 * PAGE_SIZE, { shared: true });
  for (let i = 0; i < 32; i++) core.access.write32(mm, at + i * PAGE_SIZE, i);
  expect(code(() => core.access.write8(mm, at + 32 * PAGE_SIZE, 1))).toBe('ENOMEM');
  core.madvise.advise(mm, at, PAGE_SIZE, 'pageout');
  for (let i = 0; i < 32; i++) expect(core.access.read32(mm, at + i * PAGE_SIZE)).toBe(i);
  core.checkInvariants();
});

test('M-2 a view split by mprotect, or moved by mremap, is still found by a punch', () => {
  const { core, inode, view, peek, poke, mapped } = shared();
  const a = view();
  for (let page = 0; page < 4; page++) poke(a, page, 1 + page);
  core.mmap.protect(a.mm, a.at + PAGE_SIZE, PAGE_SIZE, { read: true });
  core.checkInvariants();
  expect(code(() => poke(a, 1, 9))).toBe('EFAULT');
  const to = core.mremap.remap(a.mm, a.at + 2 * PAGE_SIZE, 2 * PAGE_SIZE, 2 * PAGE_SIZE, {
    mayMove: true,
    to: a.at + 64 * PAGE_SIZE,
  });
  core.checkInvariants();
  expect([core.access.read32(a.mm, to), mapped(a.mm)]).toEqual([3, 4]);
  core.mmap.protect(a.mm, a.at + PAGE_SIZE, PAGE_SIZE, { read: true, write: true });
  // The page is written in place: there is nobody to copy it for.
  poke(a, 1, 5);
  core.shmem.punchHole(inode, PAGE_SIZE, 2 * PAGE_SIZE);
  core.checkInvariants();
  expect([
    peek(a, 0),
    peek(a, 1),
    core.access.read32(a.mm, to),
    core.access.read32(a.mm, to + PAGE_SIZE),
  ]).toEqual([1, 0, 0, 4]);
  core.exit(a.mm);
  core.checkInvariants();
});

test('M-2 a view that was split merges again, and one reference of the inode goes with the part', () => {
  const { core, inode, view } = shared();
  const a = view();
  const refs = (): number => core.layout.inode.refs.load(inode);
  expect([refs(), core.vmas.count(a.mm)]).toEqual([2, 1]);
  core.madvise.advise(a.mm, a.at + PAGE_SIZE, PAGE_SIZE, 'dontdump');
  expect([refs(), core.vmas.count(a.mm)]).toEqual([4, 3]);
  core.madvise.advise(a.mm, a.at + PAGE_SIZE, PAGE_SIZE, 'dodump');
  expect([refs(), core.vmas.count(a.mm)]).toEqual([2, 1]);
  core.checkInvariants();
});

test('V-61 MISSING asks for what the cache lacks, MINOR for what it has, and neither for the rest', () => {
  const { core, view, poke } = shared();
  const [loader, guest] = [view(), view()];
  poke(loader, 0, 7);
  const vma = core.mmap.find(guest.mm, guest.at);
  const { lo } = core.vmas.flags(vma);
  const asks = (low: number, high: number): boolean[] => {
    core.madvise.advise(guest.mm, guest.at, 4 * PAGE_SIZE, 'dontneed');
    core.madvise.advise(loader.mm, loader.at + PAGE_SIZE, PAGE_SIZE, 'remove');
    core.vmas.setFlags(vma, lo | low, high);
    return [0, 1].map(page => {
      const result = core.gup.fault(guest.mm, guest.at / PAGE_SIZE + page, true);
      if (result >= 0) core.pages.put(result & GUP_PFN_MASK);
      return result === GUP_SIGBUS;
    });
  };
  expect([asks(0, 0), asks(VmFlag.UffdMissing, 0), asks(0, VmFlagHigh.UffdMinor)]).toEqual([
    [false, false],
    [false, true],
    [true, false],
  ]);
  expect(asks(VmFlag.UffdMissing, VmFlagHigh.UffdMinor)).toEqual([true, true]);
  core.vmas.setFlags(vma, lo, 0);
  core.checkInvariants();
});

test('V-33 V-31 a page is put into the cache and mapped by those who resolve faults', () => {
  const { core, inode, view, peek, mapped } = shared();
  const a = view();
  const put = (index: number): string => {
    const pfn = core.memory.newPage(a.mm, 2, PageFlag.Uptodate | PageFlag.Shmem);
    core.sync.words.fill(7, pfn * 1024, pfn * 1024 + 1024);
    const added = core.shmem.add(inode, index, pfn);
    if (added === 'ok') core.pages.unlock(pfn);
    else core.pages.put(pfn);
    core.pages.put(pfn);
    return added;
  };
  expect([put(0), put(0), put(4)]).toEqual(['ok', 'exists', 'beyond']);
  core.checkInvariants();
  const pte = core.pageTable.alloc(a.mm, a.at / PAGE_SIZE);
  const found = core.shmem.findLocked(inode, 0);
  expect([core.shmem.find(inode, 1), found > 0]).toEqual([0, true]);
  const vma = core.mmap.find(a.mm, a.at);
  const results = [0, 1].map(() => core.shmem.mapPage(a.mm, vma, pte, found, 0));
  core.pages.unlock(found);
  core.pages.put(found);
  expect([(results[0] as number) & GUP_PFN_MASK, results[1], mapped(a.mm)]).toEqual([found, FAULT_RETRY, 1]);
  expect(peek(a, 0)).toBe(7);
  core.checkInvariants();
});

const PAGES = 12;
const steps = fc.array(
  fc.record({
    kind: fc.nat(9),
    view: fc.nat(3),
    page: fc.nat(PAGES - 1),
    count: fc.integer({ min: 1, max: 6 }),
  }),
  { minLength: 20, maxLength: 80 },
);

test('in any order of writes, forks, punches, truncations and moves each view shows what the object holds', () => {
  fc.assert(
    fc.property(steps, sequence => {
      const { world, core, inode, view, peek } = shared(PAGES);
      const words = new Array<number>(PAGES).fill(0);
      let size = PAGES;
      let value = 0;
      const views = [view(), view()];
      for (const { kind, view: which, page, count } of sequence) {
        const v = views[which % views.length] as { mm: Mm; at: number };
        const [at, end] = [v.at + page * PAGE_SIZE, Math.min(page + count, PAGES)];
        const bytes = (end - page) * PAGE_SIZE;
        if (kind < 3) {
          if (page < size) words[page] = ++value;
          const done = code(() => core.access.write32(v.mm, at, value));
          expect(done === 'ok').toBe(page < size);
        } else if (kind === 3) core.madvise.advise(v.mm, at, bytes, 'dontneed');
        else if (kind === 4) {
          core.shmem.punchHole(inode, page * PAGE_SIZE, bytes);
          words.fill(0, page, end);
        } else if (kind === 5) {
          size = end;
          core.shmem.truncate(inode, size * PAGE_SIZE);
          words.fill(0, size);
        } else if (kind === 6 && views.length < 4) views.push({ mm: core.fork(v.mm), at: v.at });
        else if (kind === 7 && views.length > 1) {
          core.exit(v.mm);
          views.splice(which % views.length, 1);
        } else if (kind === 8) {
          core.mmap.protect(v.mm, at, bytes, { read: true });
          core.mmap.protect(v.mm, v.at, PAGES * PAGE_SIZE, { read: true, write: true });
        } else if (kind === 9) {
          v.at = core.mremap.remap(v.mm, v.at, PAGES * PAGE_SIZE, PAGES * PAGE_SIZE, {
            mayMove: true,
            to: 0x40000000 + ++value * 0x100000,
          });
        }
      }
      core.checkInvariants();
      for (const v of views) for (let page = 0; page < size; page++) expect(peek(v, page)).toBe(words[page]);
      for (const v of views) core.exit(v.mm);
      core.shmem.put(inode);
      core.checkInvariants();
      expect(core.slabs.inode.used).toBe(0);
      expect(world.leftovers()).toMatch(/^slots 0, cached 0/);
    }),
    { numRuns: 60 },
  );
});
