import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { HugeRig } from '../huge/huge-testing.ts';
import { PageFlag, Pte, ptePfn } from '../layout.ts';
import { AT, codeOf, Managed } from '../userfaultfd/manager-testing.ts';
import { Resolving, SRC } from '../userfaultfd/resolve-testing.ts';
import { UffdMode } from '../userfaultfd/state.ts';
import { Merging } from './ksm-testing.ts';

const PAGE = PAGE_SIZE;

/** Two address spaces whose first `pages` pages are pairwise equal, and merged. */
function pair(pages = 1, m = new Merging()) {
  const [a, b] = [m.space(pages), m.space(pages)];
  for (const { mm, at } of [a, b]) for (let p = 0; p < pages; p++) m.fill(mm, at + p * PAGE, 7 + p);
  m.scan();
  return { m, a, b };
}

test('C-6: equal pages of two address spaces become one, which both map read-only', () => {
  const m = new Merging();
  const [a, b] = [m.space(3), m.space(3)];
  for (const { mm, at } of [a, b]) {
    m.fill(mm, at, 7);
    m.fill(mm, at + PAGE, mm);
  }
  m.scan(1);
  expect(m.figures()).toBe('shared 0 sharing 0 unshared 0 volatile 4');
  m.scan(1);
  const merged = [
    '0x10000000-0x10003000 rw- anon mg',
    '  0x10000000 page ksm shared×2 dirty',
    '  0x10001000 page writable dirty',
  ].join('\n');
  expect([a, b].map(({ mm }) => m.mm.describe(mm))).toEqual([merged, merged]);
  expect(m.figures()).toBe('shared 1 sharing 1 unshared 2 volatile 0');
});

test('M-31: a write to a merged page copies it, even for the last who maps it; in place, others would see it', () => {
  for (const ksmReuse of [false, true]) {
    const { m, a, b } = pair(1, new Merging({ breaks: { ksmReuse } }));
    const pfn = ptePfn(m.mm.pageTable.entryOf(a.mm, a.at / PAGE));
    m.mm.access.write32(a.mm, a.at, 8);
    m.mm.access.write32(b.mm, b.at, 9);
    expect([m.read(a.mm, a.at), m.read(b.mm, b.at)]).toEqual([8, 9]);
    expect(ptePfn(m.mm.pageTable.entryOf(b.mm, b.at / PAGE)) === pfn).toBe(ksmReuse);
    expect(m.mm.vmstat.read('cow_ksm')).toBe(ksmReuse ? 1 : 2);
    if (ksmReuse) expect(() => m.mm.checkInvariants()).toThrow('KS1');
    else m.scan();
  }
});

test('a page that changes from pass to pass is volatile, and never merged', () => {
  const m = new Merging();
  const [a, b] = [m.space(1), m.space(1)];
  for (let i = 1; i < 6; i++) {
    for (const { mm, at } of [a, b]) m.fill(mm, at, i);
    m.scan(1);
    expect(m.figures()).toBe('shared 0 sharing 0 unshared 0 volatile 2');
  }
});

/** Ten address spaces with the same page `pages` times; each writes one of them. */
function thousand(m: Merging, pages = 1000): string[] {
  const spaces = Array.from({ length: 10 }, () => m.space(pages));
  for (const { mm, at } of spaces) for (let p = 0; p < pages; p++) m.mm.access.write32(mm, at + p * PAGE, 7);
  const before = m.mm.pageAlloc.freeFrames;
  m.mm.ksm.fullScans(2);
  const lines = [m.figures(), `freed ${m.mm.pageAlloc.freeFrames - before > 9 * pages}`];
  const copies = m.mm.vmstat.read('cow_copy');
  for (const [i, { mm, at }] of spaces.entries())
    m.mm.access.write32(mm, at + i * (pages / 10) * PAGE, 100 + i);
  lines.push(`copies ${m.mm.vmstat.read('cow_copy') - copies}`);
  let wrong = 0;
  for (const [i, { mm, at }] of spaces.entries())
    for (let p = 0; p < pages; p++)
      if (m.read(mm, at + p * PAGE) !== (p === i * (pages / 10) ? 100 + i : 7)) wrong++;
  return [...lines, `wrong ${wrong}`];
}

test('T-KSM-04: 1000 equal pages of 10 address spaces: copies exactly for the writers; writable, all would see', () => {
  const m = new Merging({ frames: 12_000 });
  expect(thousand(m)).toEqual([
    // 256 of them to a page (max_page_sharing).
    'shared 40 sharing 9960 unshared 0 volatile 0',
    'freed true',
    'copies 10',
    'wrong 0',
  ]);
  m.mm.checkInvariants();
  const broken = new Merging({ frames: 2000, breaks: { ksmKeepsWritable: true } });
  expect(thousand(broken, 50).at(-1)).not.toBe('wrong 0');
});

test('T-KSM-05, C-7: holes of an armed mapping are neither filled nor looked at; filled, nobody would be asked', () => {
  for (const breaks of [{}, { ksmFillsHoles: true }]) {
    const m = new Merging({ breaks });
    const a = m.space(4);
    for (const p of [0, 2]) m.fill(a.mm, a.at + p * PAGE, 7);
    m.mm.madvise.advise(a.mm, a.at, 4 * PAGE, 'userfault');
    m.mm.ksm.fullScans(3);
    const page = '0x10000000 page ksm shared×2 dirty';
    const lines = m.mm.describe(a.mm).split('\n').slice(1);
    if ('ksmFillsHoles' in breaks) {
      expect(lines).toContain('  0x10001000 zero');
      continue;
    }
    expect(lines).toEqual([`  ${page}`, `  ${page.replace('0000 ', '2000 ')}`]);
    m.mm.checkInvariants();
    expect(codeOf(() => m.read(a.mm, a.at + PAGE))).toBe('EFAULT');
    m.mm.access.write32(a.mm, a.at, 8);
    expect([m.read(a.mm, a.at), m.read(a.mm, a.at + 2 * PAGE)]).toEqual([8, 7]);
  }
});

test('C-20: a page that somebody holds is not merged until it is let go', () => {
  const m = new Merging();
  const [a, b] = [m.space(1), m.space(1)];
  for (const { mm, at } of [a, b]) m.fill(mm, at, 7);
  const pfn = ptePfn(m.mm.pageTable.entryOf(a.mm, a.at / PAGE));
  m.mm.pages.get(pfn);
  m.scan(4);
  expect(m.mm.ksm.stats().pages_shared).toBe(0);
  m.mm.pages.put(pfn);
  m.scan(2);
  expect(m.figures()).toBe('shared 1 sharing 1 unshared 0 volatile 0');
});

/** Two equal pages of a registered mapping, one of them write-protected. */
function oneProtected(core: ConstructorParameters<typeof Managed>[0]) {
  const at = new Managed({ pages: 2, mode: UffdMode.Wp, ...core });
  at.core.madvise.advise(at.mm, AT, 2 * PAGE, 'mergeable');
  for (const p of [0, 1]) at.core.access.write32(at.mm, AT + p * PAGE, 7);
  return at;
}

test('C-7: a page that userfaultfd has write-protected is not merged; merged, it would lose its mark', () => {
  for (const ksmMergesProtected of [false, true]) {
    const at = oneProtected({ core: { breaks: { ksmMergesProtected } } });
    at.core.writeProtect.protect(at.ctx, AT, PAGE, 1);
    at.core.ksm.fullScans(3);
    const mark = at.core.pageTable.entryOf(at.mm, AT / PAGE) & Pte.UffdWp;
    expect([at.core.ksm.stats().pages_shared, mark !== 0]).toEqual(
      ksmMergesProtected ? [1, false] : [0, true],
    );
    if (!ksmMergesProtected) at.core.checkInvariants();
  }
});

test('V-63: a write to a merged page that is write-protected tells the manager first, and copies then', () => {
  const at = oneProtected({});
  at.core.ksm.fullScans(2);
  at.core.writeProtect.protect(at.ctx, AT, PAGE, 1);
  const sleeper = at.sleeper(0);
  expect([
    at.core.vmstat.read('cow_ksm'),
    at.core.pages.has(pfnAt(at.core, at.mm, AT), PageFlag.Ksm),
  ]).toEqual([0, true]);
  at.core.writeProtect.protect(at.ctx, AT, PAGE, 0);
  at.finish(sleeper);
  at.core.access.write32(at.mm, AT, 8);
  expect([at.core.vmstat.read('cow_ksm'), at.core.access.read32(at.mm, AT + PAGE)]).toEqual([1, 7]);
  at.core.checkInvariants();
});

const pfnAt = (core: Merging['mm'], mm: Parameters<Merging['read']>[0], at: number): number =>
  ptePfn(core.pageTable.entryOf(mm, at / PAGE));

test('R-16, C-8: moving a merged page is EBUSY, even when it is mapped once', () => {
  const at = new Resolving(4);
  const { core, mm } = at;
  core.madvise.advise(mm, SRC, 2 * PAGE, 'mergeable');
  for (const p of [0, 1]) at.write(SRC + p * PAGE, 7);
  core.ksm.fullScans(2);
  at.write(SRC + PAGE, 8);
  expect([
    core.pages.mapcount(pfnAt(core, mm, SRC)),
    core.pages.has(pfnAt(core, mm, SRC), PageFlag.Ksm),
  ]).toEqual([1, true]);
  for (const face of ['remap', 'MOVE'] as const) expect(at.move(face, 0, 0, 1)).toBe('EBUSY');
  core.checkInvariants();
});

test('merged pages are swapped out from all who map them, and come back as pages of their own', () => {
  for (const ksmSwapInAnywhere of [false, true]) {
    const { m, a, b } = pair(1, new Merging({ breaks: { ksmSwapInAnywhere } }));
    const pfn = pfnAt(m.mm, a.mm, a.at);
    m.mm.lru.drainAll();
    expect(m.mm.lru.isolatePage(pfn) && m.mm.vmscan.reclaimPages(Int32Array.of(pfn), 1)).toBe(1);
    expect(m.mm.describe(a.mm).split('\n')[1]).toBe('  0x10000000 swap shared×2');
    m.mm.checkInvariants();
    expect([m.read(a.mm, a.at), m.read(b.mm, b.at)]).toEqual([7, 7]);
    if (ksmSwapInAnywhere) {
      expect(() => m.mm.checkInvariants()).toThrow('M7');
      continue;
    }
    expect(m.mm.vmstat.read('ksm_swpin_copy')).toBe(1);
    m.scan();
    expect(m.figures()).toBe('shared 1 sharing 1 unshared 0 volatile 0');
  }
});

test('a fork shares merged pages; when the parent goes first, the child’s are found all the same', () => {
  const { m, a, b } = pair(2);
  const child = m.mm.fork(a.mm);
  m.mm.checkInvariants();
  expect(m.mm.layout.mm.owner.get(child)).toBe(1);
  m.mm.exit(a.mm);
  m.mm.checkInvariants();
  const pfn = pfnAt(m.mm, child, a.at);
  m.mm.lru.drainAll();
  expect(m.mm.lru.isolatePage(pfn) && m.mm.vmscan.reclaimPages(Int32Array.of(pfn), 1)).toBe(1);
  m.scan(3);
  expect([m.read(child, a.at), m.read(child, a.at + PAGE), m.read(b.mm, b.at)]).toEqual([7, 8, 7]);
  m.mm.exit(child);
  m.mm.exit(b.mm);
  m.scan(1);
  expect([m.mm.slabs.ksmItem.used, m.mm.slabs.ksmNode.used, m.mm.slabs.anonVma.used]).toEqual([0, 0, 0]);
});

test('UNMERGEABLE and run 2 give everyone pages of their own, whatever they may do with them', () => {
  const { m, a, b } = pair(2);
  m.mm.mmap.protect(b.mm, b.at, 2 * PAGE, { read: true });
  m.mm.madvise.advise(a.mm, a.at, PAGE, 'unmergeable');
  m.mm.checkInvariants();
  expect(m.mm.describe(a.mm)).toBe(
    [
      '0x10000000-0x10001000 rw- anon',
      '  0x10000000 page dirty',
      '0x10001000-0x10002000 rw- anon mg',
      '  0x10001000 page ksm shared×2 dirty',
    ].join('\n'),
  );
  m.mm.ksm.set('run', 2);
  m.mm.checkInvariants();
  expect(m.mm.describe(b.mm)).toBe('0x10000000-0x10002000 r-- anon mg\n  0x10000000 page dirty ×2');
  expect(m.figures()).toBe('shared 0 sharing 0 unshared 0 volatile 0');
  expect([m.mm.slabs.ksmItem.used, m.mm.slabs.ksmNode.used]).toEqual([0, 0]);
  expect(m.mm.ksm.background()).toBe(0);
});

test('pages are merged within an owner, or a space, or not at all; that is settled while none are', () => {
  const m = new Merging();
  const spaces = [m.space(2, 1), m.space(2, 1), m.space(2, 2)];
  for (const { mm, at } of spaces) for (const p of [0, 1]) m.fill(mm, at + p * PAGE, 7);
  m.mm.ksm.setMerge('off');
  expect(m.mm.ksm.scan(100)).toBe(0);
  m.mm.ksm.setMerge('self');
  m.scan();
  expect(m.figures()).toBe('shared 3 sharing 3 unshared 0 volatile 0');
  expect(codeOf(() => m.mm.ksm.setMerge('same-owner'))).toBe('EBUSY');
  m.mm.ksm.set('run', 2);
  m.mm.ksm.setMerge('same-owner');
  m.scan();
  expect(m.figures()).toBe('shared 2 sharing 4 unshared 0 volatile 0');
  expect(codeOf(() => m.mm.ksm.setMerge('host' as 'self'))).toBe('EINVAL');
});

test('settings have the names, bounds and first values of Linux, and background work obeys them', () => {
  const { ksm } = new Merging().mm;
  expect(ksm.stats()).toEqual({
    ...{ run: 0, pages_to_scan: 100, sleep_millisecs: 20, use_zero_pages: 0, max_page_sharing: 256 },
    ...{ merge: 'same-owner', pages_shared: 0, pages_sharing: 0, pages_unshared: 0, pages_volatile: 0 },
    ...{ pages_scanned: 0, full_scans: 0, zero_pages: 0, general_profit: 0 },
  });
  for (const [setting, value] of [
    ['run', 3],
    ['pages_to_scan', -1],
    ['max_page_sharing', 1],
    ['shoes', 1],
  ] as const)
    expect(codeOf(() => ksm.set(setting as 'run', value))).toBe('EINVAL');
  const { m } = pair(8);
  expect(m.mm.ksm.background()).toBe(0);
  m.mm.ksm.set('run', 1);
  m.mm.ksm.set('pages_to_scan', 5);
  expect(m.mm.ksm.background()).toBe(5);
  // Sixteen mappings of eight pages, less sixteen items.
  expect(m.mm.ksm.stats().general_profit).toBe(8 * PAGE - 16 * m.mm.layout.ksmItem.words * 4);
});

test('with use_zero_pages a page of zeroes becomes the zero page, which is no hole', () => {
  const m = new Merging();
  m.mm.ksm.set('use_zero_pages', 1);
  const a = m.space(2);
  for (const p of [0, 1]) m.fill(a.mm, a.at + p * PAGE, 0);
  m.scan();
  m.mm.madvise.advise(a.mm, a.at, 2 * PAGE, 'userfault');
  expect(m.mm.describe(a.mm).split('\n')[1]).toBe('  0x10000000 zero ×2');
  expect([m.mm.ksm.stats().zero_pages, m.read(a.mm, a.at)]).toEqual([2, 0]);
  m.mm.access.write32(a.mm, a.at, 3);
  expect([m.read(a.mm, a.at), m.read(a.mm, a.at + PAGE)]).toEqual([3, 0]);
  m.mm.checkInvariants();
});

test('a huge page is looked at like its 512, and split when one of them is merged', () => {
  const rig = new HugeRig();
  rig.advise('mergeable', 0, 512);
  for (let p = 0; p < 512; p++) rig.write(p, p);
  rig.write(7, 8);
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  rig.core.ksm.fullScans(2);
  expect(rig.text().split('\n')[1]).toBe('  0x20007000 page ksm shared×2 dirty ×2');
  expect([rig.read(7), rig.read(8), rig.read(511)]).toEqual([8, 8, 511]);
  expect(rig.thpCounts()['thp_split_pmd' as never]).toBe(1);
});

test('a merged page stays charged to whoever brought it in, until it goes', () => {
  const m = new Merging();
  const [a, b] = [1, 2].map(() => m.mm.createMm({ limitPages: 64 }));
  const at = [a, b].map(mm => m.mm.mmap.map(mm!, PAGE));
  const usage = (mm: typeof a): number => m.mm.layout.memcg.usage.load(m.mm.layout.mm.memcg.get(mm!));
  for (const [i, mm] of [a, b].entries()) {
    m.mm.madvise.advise(mm!, at[i]!, PAGE, 'mergeable');
    m.fill(mm!, at[i]!, 7);
  }
  m.scan();
  expect(usage(a) + usage(b)).toBe(1);
  m.mm.access.write32(a!, at[0]!, 1);
  m.mm.access.write32(b!, at[1]!, 2);
  m.mm.checkInvariants();
  expect([usage(a), usage(b)]).toEqual([1, 1]);
});
