import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import { PageFlag, VmFlag } from './layout.ts';
import { Mcl } from './mlock.ts';
import { Swapping } from './swap/swapping-testing.ts';
import { testMm } from './testing.ts';

type Mm = Ptr<'mm'>;

const code = (work: () => unknown): string => {
  try {
    work();
    return 'ok';
  } catch (error) {
    return (error as { code: string }).code;
  }
};

function mapped(pages = 8, limit = 200, options: ConstructorParameters<typeof Swapping>[0] = {}) {
  const world = new Swapping(options);
  const { mm, at } = world.map(pages, limit);
  const { mm: core } = world;
  const page = (i: number): number => at + i * PAGE_SIZE;
  const resident = (who: Mm = mm): string => core.mlock.mincore(who, at, pages * PAGE_SIZE).join('');
  const flags = (i: number, who: Mm = mm): number =>
    core.layout.vma.flags.get(core.mmap.find(who, page(i))) & (VmFlag.Locked | VmFlag.LockOnFault);
  const mlocked = (i: number, who: Mm = mm): boolean =>
    core.pages.has(world.pfn(who, page(i)), PageFlag.Mlocked);
  return { world, core, mm, at, page, resident, flags, mlocked };
}

test('C-16 mlock brings every page in, marks it, and reclaim takes none of them', () => {
  const { world, core, mm, at, page, resident, mlocked } = mapped();
  core.access.write32(mm, page(1), 7);
  world.pageOut(mm, page(1));
  core.access.read8(mm, page(2));
  core.mlock.lock(mm, at, 6 * PAGE_SIZE);
  expect([resident(), mlocked(1), mlocked(2)]).toEqual(['11111100', true, true]);
  core.checkInvariants();
  const memcg = core.layout.mm.memcg.get(mm);
  expect([core.vmscan.reclaim(memcg, 100), resident()]).toEqual([0, '11111100']);
  expect(core.lru.unevictable(core.lru.lruvecOf(memcg))).toBe(6);
  expect(code(() => core.madvise.advise(mm, at, PAGE_SIZE, 'pageout'))).toBe('EINVAL');
  core.mlock.unlock(mm, at, 6 * PAGE_SIZE);
  core.checkInvariants();
  expect([core.vmscan.reclaim(memcg, 100), resident(), core.access.read32(mm, page(1))]).toEqual([
    6,
    '00000000',
    7,
  ]);
});

test('C-16 MADV_DONTNEED and MADV_FREE of locked memory are EINVAL; munmap is not', () => {
  const { core, mm, at } = mapped();
  core.mlock.lock(mm, at, 4 * PAGE_SIZE);
  for (const advice of ['dontneed', 'free', 'cold'] as const) {
    expect(code(() => core.madvise.advise(mm, at, PAGE_SIZE, advice))).toBe('EINVAL');
  }
  core.mmap.unmap(mm, at, 2 * PAGE_SIZE);
  core.checkInvariants();
  core.exit(mm);
  core.checkInvariants();
});

test('C-16 mlock2(ONFAULT) brings nothing in, and what is touched then stays', () => {
  const { core, mm, at, page, resident, mlocked } = mapped(4);
  core.access.write8(mm, page(3), 1);
  core.mlock.lock(mm, at, 4 * PAGE_SIZE, true);
  expect(resident()).toBe('0001');
  core.access.write8(mm, page(0), 1);
  expect([mlocked(0), mlocked(3)]).toEqual([true, true]);
  core.checkInvariants();
  expect([core.vmscan.reclaim(core.layout.mm.memcg.get(mm), 10), resident()]).toEqual([0, '1001']);
});

test('V-38 M-2 mlock of a part splits the VMA, munlock merges it again; addresses are rounded outwards', () => {
  const { core, mm, at, page, flags } = mapped(4);
  core.mlock.lock(mm, page(1) + 100, PAGE_SIZE);
  expect([core.vmas.count(mm), [0, 1, 2, 3].map(i => flags(i) !== 0)]).toEqual([
    3,
    [false, true, true, false],
  ]);
  core.mlock.lock(mm, page(1), PAGE_SIZE, true);
  expect([flags(1), flags(2)]).toEqual([VmFlag.Locked | VmFlag.LockOnFault, VmFlag.Locked]);
  core.mlock.unlock(mm, at, 4 * PAGE_SIZE);
  expect(core.vmas.count(mm)).toBe(1);
  core.checkInvariants();
});

test('mlock stops at a gap with ENOMEM, what is before it being locked, and brings nothing in', () => {
  const { core, mm, at, page, flags } = mapped(6);
  core.mmap.unmap(mm, page(2), PAGE_SIZE);
  expect(code(() => core.mlock.lock(mm, at, 6 * PAGE_SIZE))).toBe('ENOMEM');
  expect([0, 1, 3].map(i => flags(i) !== 0)).toEqual([true, true, false]);
  expect(core.mlock.mincore(mm, at, 2 * PAGE_SIZE).join('')).toBe('00');
  expect(code(() => core.mlock.unlock(mm, at, 6 * PAGE_SIZE))).toBe('ENOMEM');
  expect(code(() => core.mlock.lock(mm, at, -1))).toBe('EINVAL');
  expect(code(() => core.mlock.lock(mm, at, 0))).toBe('ok');
});

test('mlock without memory is EAGAIN, of inaccessible memory ENOMEM, and the VMA stays locked', () => {
  const { core, mm, at, page, flags } = mapped(64, 40, { swap: { kind: 'none' } });
  expect(code(() => core.mlock.lock(mm, at, 64 * PAGE_SIZE))).toBe('EAGAIN');
  expect(flags(63)).not.toBe(0);
  core.mlock.unlock(mm, at, 64 * PAGE_SIZE);
  core.mmap.protect(mm, page(60), PAGE_SIZE, {});
  expect(code(() => core.mlock.lock(mm, page(60), PAGE_SIZE))).toBe('ENOMEM');
  core.checkInvariants();
});

test('U-33 mlock over a hole of a VMA with MADV_USERFAULT delivers the user fault: ENOMEM in SIGBUS mode', () => {
  const { core, mm, at, page, flags, resident } = mapped(4);
  core.access.write8(mm, page(0), 1);
  core.madvise.advise(mm, at, 4 * PAGE_SIZE, 'userfault');
  expect(code(() => core.mlock.lock(mm, at, 2 * PAGE_SIZE))).toBe('ENOMEM');
  expect([flags(1) !== 0, resident()]).toEqual([true, '1000']);
  // MAP_POPULATE swallows the error; the mapping is there.
  const armed = { hi: 1 };
  const other = core.mmap.map(mm, 2 * PAGE_SIZE, { flags: armed, populate: true });
  expect(core.mlock.mincore(mm, other, 2 * PAGE_SIZE).join('')).toBe('00');
  core.checkInvariants();
});

test('U-33 MAP_POPULATE and MAP_LOCKED bring pages in at once', () => {
  const { core, mm } = mapped(1);
  const a = core.mmap.map(mm, 2 * PAGE_SIZE, { populate: true });
  const b = core.mmap.map(mm, 2 * PAGE_SIZE, { locked: true });
  expect([a, b].map(at => core.mlock.mincore(mm, at, 2 * PAGE_SIZE).join(''))).toEqual(['11', '11']);
  core.checkInvariants();
  core.vmscan.reclaim(core.layout.mm.memcg.get(mm), 100);
  expect([a, b].map(at => core.mlock.mincore(mm, at, 2 * PAGE_SIZE).join(''))).toEqual(['00', '11']);
});

test('mlockall locks what is mapped, what will be, or either as it is touched; munlockall ends it', () => {
  const { core, mm, flags, resident } = mapped(2);
  for (const bad of [0, 8, Mcl.OnFault]) expect(code(() => core.mlock.lockAll(mm, bad))).toBe('EINVAL');
  core.mlock.lockAll(mm, Mcl.Current);
  const before = core.mmap.map(mm, PAGE_SIZE);
  const lock = (at: number): number => core.layout.vma.flags.get(core.mmap.find(mm, at)) & VmFlag.Locked;
  expect([resident(), flags(0), lock(before)]).toEqual(['11', VmFlag.Locked, 0]);
  core.mlock.lockAll(mm, Mcl.Future);
  const after = core.mmap.map(mm, PAGE_SIZE, { protection: { read: true } });
  expect([lock(after) !== 0, core.mlock.mincore(mm, after, PAGE_SIZE).join('')]).toEqual([true, '1']);
  core.mlock.lockAll(mm, Mcl.Current | Mcl.Future | Mcl.OnFault);
  expect(flags(0)).toBe(VmFlag.Locked | VmFlag.LockOnFault);
  core.mlock.unlockAll(mm);
  const later = core.mmap.map(mm, PAGE_SIZE);
  expect([before, after, later].map(lock)).toEqual([0, 0, 0]);
  core.checkInvariants();
});

test('fork inherits no lock; a shared page stays locked for the parent alone, and copies settle whose it is', () => {
  const { world, core, mm, page, flags, mlocked } = mapped(2);
  core.mlock.lock(mm, page(0), PAGE_SIZE);
  core.access.write32(mm, page(0), 7);
  const child = core.fork(mm);
  expect([flags(0, child), core.layout.mm.defFlags.get(child), mlocked(0)]).toEqual([0, 0, true]);
  core.checkInvariants();
  const memcg = core.layout.mm.memcg.get(mm);
  expect(core.vmscan.reclaim(memcg, 10)).toBe(0);
  // The parent copies: the new page is locked, the old one is the child's, and nobody's lock.
  core.access.write32(mm, page(0), 8);
  expect([mlocked(0), mlocked(0, child)]).toEqual([true, false]);
  core.checkInvariants();
  expect([core.vmscan.reclaim(memcg, 10) > 0, world.pfn(mm, page(0)) !== 0]).toEqual([true, true]);
  expect([core.access.read32(mm, page(0)), core.access.read32(child, page(0))]).toEqual([8, 7]);
  core.exit(mm);
  core.checkInvariants();
});

test('a page that two address spaces have locked is let go only by the second', () => {
  const { core, mm, page, mlocked } = mapped(1);
  core.access.write8(mm, page(0), 1);
  const child = core.fork(mm);
  core.mmap.protect(mm, page(0), PAGE_SIZE, { read: true });
  core.mmap.protect(child, page(0), PAGE_SIZE, { read: true });
  for (const who of [mm, child]) core.mlock.lock(who, page(0), PAGE_SIZE);
  core.mlock.unlock(mm, page(0), PAGE_SIZE);
  expect(mlocked(0, child)).toBe(true);
  core.checkInvariants();
  core.exit(child);
  expect(mlocked(0)).toBe(false);
  core.checkInvariants();
});

test('C-16 merging takes a page from the locked mapping alone; for a child that still maps it, it is free', () => {
  const { core, mm, at, page, mlocked } = mapped(2);
  for (const i of [0, 1]) core.access.write32(mm, page(i), 7);
  core.mlock.lock(mm, at, 2 * PAGE_SIZE);
  const child = core.fork(mm);
  core.madvise.advise(mm, at, 2 * PAGE_SIZE, 'mergeable');
  const lockedOfChild = () => [0, 1].filter(i => mlocked(i, child)).length;
  expect([mlocked(0), mlocked(1), lockedOfChild()]).toEqual([true, true, 2]);
  for (let pass = 0; pass < 4; pass++) core.ksm.scan(64);
  // One of the two pages was given up for the other, which stays locked by the parent.
  expect([core.ksm.stats().pages_sharing, mlocked(0), mlocked(1), lockedOfChild()]).toEqual([
    1,
    true,
    true,
    1,
  ]);
  core.checkInvariants();
  core.exit(child);
  core.checkInvariants();
});

test('mprotect that makes locked memory writable brings its pages in, a user fault being no reason to wait', () => {
  const { core, mm, at, page, resident } = mapped(4);
  const rights = (write: boolean) => core.mmap.protect(mm, at, 3 * PAGE_SIZE, { read: true, write });
  rights(false);
  core.madvise.advise(mm, page(1), PAGE_SIZE, 'userfault');
  core.mlock.lock(mm, at, PAGE_SIZE);
  expect(code(() => core.mlock.lock(mm, page(1), PAGE_SIZE))).toBe('ENOMEM');
  core.mlock.lock(mm, page(2), PAGE_SIZE, true);
  expect(resident()).toBe('1000');
  core.madvise.advise(mm, page(1), PAGE_SIZE, 'nouserfault');
  rights(true);
  // What comes in as it is touched still does.
  expect(resident()).toBe('1100');
  core.checkInvariants();
});

test('munlock of no bytes inside a page is of that page, as for Linux', () => {
  const { core, mm, page, flags } = mapped(2);
  core.mlock.lock(mm, page(0) + 8, 0);
  core.mlock.lock(mm, page(1), 0);
  expect([flags(0), flags(1)]).toEqual([VmFlag.Locked, 0]);
});

test('mincore tells present pages, pages of the swap cache and of inodes; ENOMEM at a gap, EINVAL unaligned', () => {
  const { world, core, mm, at, page } = mapped(3);
  const ask = (address: number, count: number): string =>
    core.mlock.mincore(mm, address, count * PAGE_SIZE).join('');
  core.access.write8(mm, page(0), 1);
  core.access.read8(mm, page(1));
  expect(ask(at, 3)).toBe('110');
  world.pageOut(mm, page(0));
  expect(ask(at, 1)).toBe('0');
  const shared = core.mmap.map(mm, 2 * PAGE_SIZE, { shared: true });
  core.access.write8(mm, shared, 1);
  core.madvise.advise(mm, shared, 2 * PAGE_SIZE, 'dontneed');
  expect(ask(shared, 2)).toBe('10');
  core.mmap.unmap(mm, page(1), PAGE_SIZE);
  expect(code(() => ask(at, 3))).toBe('ENOMEM');
  expect(code(() => ask(at + 1, 1))).toBe('EINVAL');
});

test('O-3 at the limit locked pages stay, and the charge that needs one of them fails', () => {
  const { core, mm, at, page } = mapped(64, 40);
  core.mlock.lock(mm, at, 36 * PAGE_SIZE);
  for (let i = 36; i < 64; i++) core.access.write32(mm, page(i), i);
  for (let i = 36; i < 64; i++) expect(core.access.read32(mm, page(i))).toBe(i);
  expect(core.mlock.mincore(mm, at, 36 * PAGE_SIZE).every(x => x === 1)).toBe(true);
  core.checkInvariants();
});

test.each(['merged', 'collapsed'])(
  'C-16 R8 a locked page that a fork shares is marked no more once it is %s where it was locked',
  how => {
    const core = testMm({ frames: 2560, swap: { kind: 'zram', bytes: 1 << 20 } });
    const mm = core.createMm();
    const at = 0x20000000;
    core.mmap.map(mm, 512 * PAGE_SIZE, { address: at, fixed: 'exclusive' });
    core.madvise.advise(mm, at, 512 * PAGE_SIZE, 'mergeable');
    for (let i = 0; i < 3; i++) core.access.write32(mm, at + i * PAGE_SIZE, 7);
    core.mlock.lock(mm, at, 512 * PAGE_SIZE, true);
    const child = core.fork(mm);
    if (how === 'merged') core.ksm.fullScans(3);
    else core.madvise.advise(mm, at, 512 * PAGE_SIZE, 'collapse');
    core.checkInvariants();
    core.exit(mm);
    core.checkInvariants();
    core.vmscan.reclaim(core.layout.mm.memcg.get(child), 64);
    expect(core.access.read32(child, at)).toBe(7);
    core.exit(child);
  },
);

test('C-16 a locked mapping that mremap makes longer is brought in; locked on fault, it is not', () => {
  for (const onFault of [false, true]) {
    const { core, mm, at } = mapped(4);
    core.mlock.lock(mm, at, 4 * PAGE_SIZE, onFault);
    core.mremap.remap(mm, at, 4 * PAGE_SIZE, 8 * PAGE_SIZE);
    expect(core.mlock.mincore(mm, at, 8 * PAGE_SIZE).join('')).toBe(onFault ? '00000000' : '11111111');
    core.checkInvariants();
  }
});
