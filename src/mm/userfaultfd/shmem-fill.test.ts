import { expect, test } from 'vitest';
import { PAGE_SIZE as PAGE } from '../../base/units.ts';
import { GUP_SIGBUS } from '../fault-codes.ts';
import { PageFlag } from '../layout.ts';
import { testMm } from '../testing.ts';
import { name, page } from './resolve-testing.ts';
import { UffdMode } from './state.ts';
import { Userfaultfd } from './userfaultfd.ts';

const { Missing, Wp, Minor } = UffdMode;

/** An inode of `pages` pages in two views: the loader's, and the guest's, which a descriptor has registered. */
function twoViews(modes: number, pages = 4) {
  const core = testMm();
  const inode = core.shmem.create(pages * PAGE);
  const [loader, guest] = [core.createMm({ limitPages: 64 }), core.createMm({ limitPages: 64 })];
  const from = core.mmap.map(loader, pages * PAGE, { shared: inode });
  const at = core.mmap.map(guest, pages * PAGE, { shared: inode });
  const userfault = Userfaultfd.create(core, guest);
  userfault.api();
  const ioctls = userfault.register(at, pages * PAGE, modes);
  const { ctx } = userfault;
  const cached = (): number => core.layout.inode.pages.get(inode);
  return { core, inode, loader, guest, from, at, userfault, ctx, ioctls, cached };
}

const errno = (work: () => unknown): string => {
  try {
    work();
    return 'ok';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

test('V-61: the loader fills one view, and CONTINUE maps each page into the other as the guest asks for it', () => {
  const { core, loader, guest, from, at, userfault, ctx } = twoViews(Missing | Minor);
  for (const i of [0, 1]) core.access.write32(loader, from + i * PAGE, 10 + i);
  const seen: string[] = [];
  userfault.serveInline(event => {
    if (event.event !== 'pagefault') return;
    const index = (event.address - at) / PAGE;
    seen.push(`${index} ${event.minor ? 'minor' : 'missing'}`);
    if (!event.minor) core.access.write32(loader, from + index * PAGE, 10 + index);
    expect(core.mfill.continue(ctx, at + index * PAGE, PAGE)).toBe(0);
  });
  expect([0, 1, 2].map(i => core.access.read32(guest, at + i * PAGE))).toEqual([10, 11, 12]);
  expect(seen).toEqual(['0 minor', '1 minor', '2 missing']);
  core.access.write32(guest, at, 99);
  expect(core.access.read32(loader, from)).toBe(99);
  core.checkInvariants();
  userfault.close();
  core.checkInvariants();
});

test('V-33: CONTINUE of a hole, or beyond the end, is EFAULT; of a mapped page EEXIST; of a poisoned one EIO', () => {
  const { core, inode, loader, from, at, ctx } = twoViews(Minor);
  const { mfill } = core;
  expect(name(mfill.continue(ctx, at, PAGE))).toBe('EFAULT');
  for (const i of [0, 1, 3]) core.access.write8(loader, from + i * PAGE, 1);
  expect([mfill.continue(ctx, at, 2 * PAGE), mfill.result]).toEqual([0, 2 * PAGE]);
  expect(name(mfill.continue(ctx, at + PAGE, PAGE))).toBe('EEXIST');
  const pfn = core.shmem.find(inode, 3);
  core.pages.set(pfn, PageFlag.HwPoison);
  core.pages.put(pfn);
  expect(name(mfill.continue(ctx, at + 3 * PAGE, PAGE))).toBe('EIO');
  core.pages.clear(pfn, PageFlag.HwPoison);
  core.shmem.truncate(inode, 2 * PAGE);
  expect(name(mfill.continue(ctx, at + 3 * PAGE, PAGE))).toBe('EFAULT');
  // Half-way: what was mapped is in the field (V-30).
  core.madvise.advise(core.layout.uffd.mm.get(ctx), at, 2 * PAGE, 'dontneed');
  expect([name(mfill.continue(ctx, at, 3 * PAGE)), mfill.result]).toEqual(['EAGAIN', 2 * PAGE]);
  core.checkInvariants();
});

test('V-31, V-32, C-11: COPY and ZEROPAGE put pages into the cache, charged to the mm of the VMA', () => {
  const { core, inode, loader, guest, from, at, ctx, cached } = twoViews(Missing);
  const { mfill } = core;
  expect(mfill.copy(ctx, at, page(7), PAGE)).toBe(0);
  expect(mfill.zeropage(ctx, at + PAGE, PAGE)).toBe(0);
  const usage = (mm: typeof guest): number => core.layout.memcg.usage.load(core.layout.mm.memcg.get(mm));
  expect([cached(), usage(guest), usage(loader), core.layout.mm.shmemPages.load(guest)]).toEqual([
    2, 2, 0, 2,
  ]);
  core.checkInvariants();
  expect([core.access.read8(loader, from), core.access.read8(loader, from + PAGE)]).toEqual([7, 0]);
  // A page that the cache has is EEXIST, mapped here or not.
  core.access.write8(loader, from + 2 * PAGE, 5);
  const refused = [at, at + PAGE, at + 2 * PAGE].map(to => name(mfill.copy(ctx, to, page(9), PAGE)));
  expect(refused).toEqual(['EEXIST', 'EEXIST', 'EEXIST']);
  core.shmem.truncate(inode, 3 * PAGE);
  expect(name(mfill.copy(ctx, at + 3 * PAGE, page(9), PAGE))).toBe('EFAULT');
  expect(usage(guest)).toBe(2);
  core.checkInvariants();
});

test('V-31: a source that has to be faulted in is copied with no lock held', () => {
  const { core, guest, at, ctx } = twoViews(Missing);
  const source = core.mmap.map(guest, 2 * PAGE);
  core.access.copyToUser(guest, source, page(3));
  expect(core.mfill.copyFrom(ctx, at, guest, source, PAGE)).toBe(0);
  // Nobody has touched the second page, so it has to be faulted in, with the page in hand kept.
  expect(core.mfill.copyFrom(ctx, at + PAGE, guest, source + PAGE, PAGE)).toBe(0);
  expect([core.access.read8(guest, at), core.access.read8(guest, at + PAGE)]).toEqual([3, 0]);
  core.checkInvariants();
});

test('V-34: a poisoned hole of shared memory is EHWPOISON, and COPY makes it a page', () => {
  const { core, guest, at, ctx } = twoViews(Missing);
  expect(core.mfill.poison(ctx, at, PAGE)).toBe(0);
  expect(errno(() => core.access.read8(guest, at))).toBe('EHWPOISON');
  expect(core.mfill.copy(ctx, at, page(4), PAGE)).toBe(0);
  expect(core.access.read8(guest, at)).toBe(4);
  core.checkInvariants();
});

test('V-11: shared memory takes MISSING and MINOR, anonymous memory MISSING and WP; others are EINVAL', () => {
  const { core, guest, at, userfault, ioctls } = twoViews(Minor);
  expect(errno(() => userfault.register(at, PAGE, Wp))).toBe('EINVAL');
  expect(errno(() => userfault.register(at, PAGE, Minor | Wp))).toBe('EINVAL');
  const anonymous = core.mmap.map(guest, PAGE);
  expect(errno(() => userfault.register(anonymous, PAGE, Minor))).toBe('EINVAL');
  expect(errno(() => userfault.register(anonymous, PAGE, Missing | Wp))).toBe('ok');
  userfault.unregister(at, 4 * PAGE);
  expect([core.access.read8(guest, at), ioctls.length > 0]).toEqual([0, true]);
  core.checkInvariants();
});

test('V-61: beyond the end of its object nobody is asked for a page: it is SIGBUS, as nobody could supply it', () => {
  const { core, inode, guest, at, userfault } = twoViews(Missing | Minor);
  core.shmem.truncate(inode, PAGE);
  let asked = 0;
  userfault.serveInline(() => asked++);
  expect([1, 3].map(i => core.gup.fault(guest, at / PAGE + i, true))).toEqual([GUP_SIGBUS, GUP_SIGBUS]);
  expect(asked).toBe(0);
  core.checkInvariants();
});

test('T-LIFE-02: a sleeper in a MINOR fault is woken when the range is unregistered, and then served as usual', () => {
  const { core, loader, guest, from, at, userfault } = twoViews(Minor);
  core.access.write8(loader, from, 6);
  const blocked = core.gup.fault(guest, at / PAGE, false);
  expect(blocked).toBeLessThan(0);
  const { ticket } = core.gup;
  userfault.unregister(at, 4 * PAGE);
  core.uffdWaits.finish(ticket);
  expect(core.access.read8(guest, at)).toBe(6);
  core.checkInvariants();
});
