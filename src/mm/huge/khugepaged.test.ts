import { expect, test } from 'vitest';
import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import type { MmBreaks } from '../breaks.ts';
import { GUP_SIGBUS, GUP_WRITABLE } from '../fault-codes.ts';
import { VmFlag } from '../layout.ts';
import { AT, Managed, proven, VPN } from '../userfaultfd/manager-testing.ts';
import { HUGE_BYTES, HugeRig } from './huge-testing.ts';

/** An area of small pages, `value` + page in each but those left out. */
function filled(options: { holes?: number[]; breaks?: Partial<MmBreaks>; areas?: number } = {}): HugeRig {
  const rig = new HugeRig({ breaks: options.breaks ?? {}, areas: options.areas ?? 1 });
  rig.advise('nohugepage', 0, 512);
  for (let page = 0; page < 512; page++) if (!options.holes?.includes(page)) rig.write(page, page + 1);
  rig.advise('hugepage', 0, 512);
  return rig;
}

const scan = (rig: HugeRig) => rig.core.khugepaged.collapse(rig.mm, rig.at(0) / PAGE_SIZE, false);

/** What MADV_COLLAPSE of the area throws. */
function advise(rig: HugeRig): string {
  try {
    rig.advise('collapse', 0, 512);
    return 'ok';
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    return error.code;
  }
}

/** Runs `act` once, when the core comes to a named point. */
function at(rig: HugeRig, label: string, act: () => void): void {
  let due = true;
  Object.defineProperty(rig.core.sync, 'y', {
    value: (name: string) => {
      if (name !== label || !due) return;
      due = false;
      act();
    },
  });
}

const content = (rig: HugeRig, holes: number[] = []): void => {
  for (let page = 0; page < 512; page += 37) expect(rig.read(page)).toBe(holes.includes(page) ? 0 : page + 1);
};

test('H-23: khugepaged copies 512 small pages into a huge one, and frees them', () => {
  const rig = filled();
  const before = rig.accounts();
  expect(scan(rig)).toBe('succeed');
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  expect(rig.accounts()).toEqual(before);
  expect(rig.thpCounts()).toEqual({ thp_collapse_alloc: 1 });
  content(rig);
  expect(scan(rig)).toBe('pmd-mapped');
  expect(advise(rig)).toBe('ok');
  rig.core.exit(rig.mm);
  rig.core.checkInvariants();
});

test('T-KHP-05: holes of ordinary memory become zeros, as many as max_ptes_none allows; without the rule it fails', () => {
  proven({ collapseSkipsZeroing: true }, breaks => {
    const rig = filled({ holes: [3, 74, 111], breaks });
    rig.core.thp.setLimits({ maxPtesNone: 2 });
    expect(scan(rig)).toBe('exceed-none-pte');
    expect(rig.counts('thp_scan_exceed_none_pte', 'thp_collapse_alloc')).toEqual({
      thp_scan_exceed_none_pte: 1,
    });
    rig.advise('userfault', 0, 512);
    rig.advise('nouserfault', 0, 512);
    rig.core.thp.setLimits({ maxPtesNone: 3 });
    // Whatever frames it takes, they have been used before.
    const used = rig.core.pageAlloc.allocHuge();
    rig.core.sync.words.fill(7, used * 1024, (used + 512) * 1024);
    rig.core.pageAlloc.freeHuge(used);
    expect(scan(rig)).toBe('succeed');
    content(rig, [3, 74, 111]);
    expect(rig.read(3)).toBe(0);
    rig.text();
  });
});

test('T-KHP-01 H-20: one hole of an armed area ends the attempt; without the rule it reads as zeros', () => {
  const run = (breaks: Partial<MmBreaks>) => {
    const rig = filled({ holes: [74], breaks });
    rig.advise('userfault', 0, 512);
    const result = scan(rig);
    return [result, rig.touch(74, false) === GUP_SIGBUS];
  };
  expect(run({})).toEqual(['exceed-none-pte', true]);
  expect(run({ collapseArmed: true })).toEqual(['succeed', false]);
});

test('H-20: every mode of userfaultfd arms an area; H-21: a protected pte ends the attempt', () => {
  for (const flag of [VmFlag.UffdMissing, VmFlag.UffdWp]) {
    const rig = filled({ holes: [9] });
    const vma = rig.core.mmap.find(rig.mm, rig.at(0));
    const { lo, hi } = rig.core.vmas.flags(vma);
    rig.core.vmas.setFlags(vma, lo | flag, hi);
    expect(scan(rig)).toBe('exceed-none-pte');
    expect(rig.counts('thp_collapse_alloc')).toEqual({});
  }
  const rig = filled();
  const pte = rig.core.pageTable.walk(rig.mm, rig.at(5) / PAGE_SIZE);
  rig.core.pageTable.change(pte, 1 << 6, 1 << 1);
  expect(scan(rig)).toBe('pte-uffd-wp');
});

test('T-KHP-02: a page is discarded between scan and isolation: isolation ends it; without the look it is filled', () => {
  const run = (breaks: Partial<MmBreaks>) => {
    const rig = filled({ breaks });
    rig.core.thp.setLimits({ maxPtesNone: 0 });
    at(rig, 'C.scanned', () => rig.advise('dontneed', 74));
    const result = scan(rig);
    rig.text();
    content(rig, [74]);
    return result;
  };
  expect(run({})).toBe('exceed-none-pte');
  expect(run({ collapseUnchecked: true })).toBe('succeed');
});

test('T-KHP-03 H-24: armed between scan and isolation, with a hole: isolation sees the flag', () => {
  const run = (breaks: Partial<MmBreaks>) => {
    const rig = filled({ holes: [74], breaks });
    at(rig, 'C.scanned', () => rig.advise('userfault', 0, 512));
    const result = scan(rig);
    return [result, rig.touch(74, false) === GUP_SIGBUS];
  };
  expect(run({})).toEqual(['exceed-none-pte', true]);
  expect(run({ collapseUnchecked: true })).toEqual(['succeed', false]);
});

test('T-KHP-04 C-9: an armed area without holes may be collapsed, and fires no more; without the rule it fails', () => {
  proven({ collapseRefusesArmed: true }, breaks => {
    const rig = filled({ breaks });
    rig.advise('userfault', 0, 512);
    expect(scan(rig)).toBe('succeed');
    for (let page = 0; page < 512; page++) expect(rig.touch(page, true)).toBeGreaterThan(0);
    content(rig);
  });
});

test('T-KHP-06: MADV_COLLAPSE of an armed area with a hole is EBUSY, fills nothing, counts once; without the rule it fails', () => {
  proven({ collapseArmed: true }, breaks => {
    const rig = filled({ holes: [74], breaks });
    rig.advise('userfault', 0, 512);
    expect(advise(rig)).toBe('EBUSY');
    expect(rig.counts('thp_scan_exceed_none_pte')).toEqual({ thp_scan_exceed_none_pte: 1 });
    expect(rig.touch(74, true)).toBe(GUP_SIGBUS);
    rig.advise('nouserfault', 0, 512);
    expect(advise(rig)).toBe('ok');
    content(rig, [74]);
  });
});

test('T-KHP-07 H-21: a zero page in an armed area ends the attempt; without the rule it fails', () => {
  proven({ collapseArmed: true }, breaks => {
    const rig = filled({ holes: [74], breaks });
    rig.read(74);
    rig.advise('userfault', 0, 512);
    expect([scan(rig), advise(rig)]).toEqual(['exceed-none-pte', 'EBUSY']);
    rig.advise('nouserfault', 0, 512);
    expect(scan(rig)).toBe('succeed');
  });
});

test('T-KHP-08: COPY of the last hole before, during or after a collapse: right data, and EEXIST on a huge page; without the rule it fails', () => {
  proven({ collapseArmed: true }, breaks => {
    const bytes = new Uint8Array(PAGE_SIZE).fill(7);
    for (const label of ['before', 'C.scanned', 'after']) {
      const managed = new Managed({ pages: 512, core: { frames: 2560, breaks } });
      const { core, mm, ctx } = managed;
      core.memcontrol.setMax(core.layout.mm.memcg.get(mm), 2000, 32);
      core.madvise.advise(mm, AT, HUGE_BYTES, 'nohugepage');
      const copy = (page: number) => core.mfill.copy(ctx, AT + page * PAGE_SIZE, bytes, PAGE_SIZE);
      for (let page = 0; page < 512; page++) if (page !== 74) expect(copy(page)).toBe(0);
      core.madvise.advise(mm, AT, HUGE_BYTES, 'hugepage');
      if (label === 'before') copy(74);
      let due = label === 'C.scanned';
      Object.defineProperty(core.sync, 'y', {
        value: (name: string) => {
          if (due && name === label) due = copy(74) < 0;
        },
      });
      // Armed: a hole at the scan already ends it.
      const results = [core.khugepaged.collapse(mm, VPN, false)];
      if (label !== 'before') {
        expect(results).toEqual(['exceed-none-pte']);
        expect(copy(74)).toBe(label === 'after' ? 0 : -17);
        results.push(core.khugepaged.collapse(mm, VPN, false));
      }
      expect(results.at(-1)).toBe('succeed');
      expect(copy(74)).toBe(-17);
      for (const page of [0, 74, 511]) expect(core.access.read8(mm, AT + page * PAGE_SIZE)).toBe(7);
      core.checkInvariants();
    }
  });
});

test('H-22 T-THP-03: a page that somebody holds ends the attempt, found by scan or isolation; else a write is lost', () => {
  const run = (label: string, breaks: Partial<MmBreaks>) => {
    const rig = filled({ breaks });
    let pin = -1;
    const take = () => {
      pin = rig.core.gup.fault(rig.mm, rig.at(9) / PAGE_SIZE, true) & (GUP_WRITABLE - 1);
    };
    if (label === '') take();
    else at(rig, label, take);
    const result = scan(rig);
    rig.core.sync.words[pin * 1024] = 99;
    rig.core.pages.put(pin);
    rig.text();
    return [result, rig.read(9)];
  };
  expect(run('', {})).toEqual(['page-count', 99]);
  expect(run('C.scanned', {})).toEqual(['page-count', 99]);
  expect(run('C.scanned', { collapsePinned: true })).toEqual(['succeed', 10]);
});

test('T-THP-07: a collapse that fails after the entry was emptied leaves all as it was; without the rule it does not', () => {
  const run = (breaks: Partial<MmBreaks>) => {
    const rig = filled({ breaks });
    const before = [rig.text(), rig.accounts()];
    let pin = 0;
    at(rig, 'C.scanned', () => {
      pin = rig.core.gup.fault(rig.mm, rig.at(300) / PAGE_SIZE, true) & (GUP_WRITABLE - 1);
    });
    expect(scan(rig)).toBe('page-count');
    rig.core.pages.put(pin);
    return [[rig.text(), rig.accounts()], before];
  };
  const [after, before] = run({});
  expect(after).toEqual(before);
  expect(() => run({ collapseLosesTable: true })).toThrow();
});

test('H-22: swapped pages come in, shared ones are copied, within the limits', () => {
  const rig = filled();
  rig.advise('pageout', 10, 5);
  rig.core.thp.setLimits({ maxPtesSwap: 4 });
  expect(scan(rig)).toBe('exceed-swap-pte');
  const child = rig.core.fork(rig.mm);
  rig.core.thp.setLimits({ maxPtesSwap: 5, maxPtesShared: 500 });
  expect(scan(rig)).toBe('exceed-shared-pte');
  expect(rig.counts('thp_scan_exceed_swap_pte', 'thp_scan_exceed_share_pte')).toEqual({
    thp_scan_exceed_swap_pte: 1,
    thp_scan_exceed_share_pte: 1,
  });
  rig.core.thp.setLimits({ maxPtesShared: 511 });
  rig.write(0, 1);
  expect(scan(rig)).toBe('succeed');
  expect(rig.text()).toContain('0x20000000 huge page writable dirty ×512');
  content(rig);
  rig.write(37, 5);
  expect(rig.core.access.read32(child, rig.at(37))).toBe(38);
  rig.core.exit(child);
  rig.core.checkInvariants();
});

test('H-22: an area that nobody used of late is left alone, but for MADV_COLLAPSE', () => {
  const rig = filled();
  for (let page = 0; page < 512; page++) {
    const pte = rig.core.pageTable.walk(rig.mm, rig.at(page) / PAGE_SIZE);
    rig.core.pageTable.change(pte, 0, 1 << 2);
  }
  expect(scan(rig)).toBe('lack-referenced-page');
  expect(advise(rig)).toBe('ok');
  rig.text();
});

test('MADV_COLLAPSE: EINVAL for what may not be huge or has no table, and for a part inside one area, ENOMEM without frames, EAGAIN for a pin', () => {
  const rig = filled({ areas: 2 });
  rig.core.thp.enabled = 'never';
  rig.core.pageAlloc.failHuge();
  expect(advise(rig)).toBe('ENOMEM');
  expect(rig.counts('thp_collapse_alloc_failed')).toEqual({ thp_collapse_alloc_failed: 1 });
  const pin = rig.core.gup.fault(rig.mm, rig.at(9) / PAGE_SIZE, true) & (GUP_WRITABLE - 1);
  expect(advise(rig)).toBe('EAGAIN');
  rig.core.pages.put(pin);
  rig.advise('nohugepage', 0, 512);
  expect(advise(rig)).toBe('EINVAL');
  rig.advise('hugepage', 0, 512);
  expect(() => rig.advise('collapse', 512, 512)).toThrow(/EINVAL/);
  // The first area has no table, and so the second is not looked at.
  const pair = rig.core.mmap.map(rig.mm, 2 * HUGE_BYTES);
  rig.core.access.write8(rig.mm, pair + HUGE_BYTES, 1);
  const huge = rig.core.hugePmd.countPages(rig.mm);
  expect(() => rig.core.madvise.advise(rig.mm, pair, 2 * HUGE_BYTES, 'collapse')).toThrow(/EINVAL/);
  expect(rig.core.hugePmd.countPages(rig.mm)).toBe(huge);
  rig.core.mmap.unmap(rig.mm, pair, 2 * HUGE_BYTES);
  expect(() => rig.advise('collapse', 1, 510)).toThrow(/EINVAL/);
  rig.advise('collapse', 1, 511); // from one area to the next: none to do
  expect(advise(rig)).toBe('ok');
  const fresh = rig.core.mmap.map(rig.mm, 2 * HUGE_BYTES);
  rig.core.access.read8(rig.mm, fresh);
  expect(() => rig.core.madvise.advise(rig.mm, fresh, 2 * HUGE_BYTES, 'collapse')).toThrow(/EINVAL/);
  rig.core.mmap.unmap(rig.mm, rig.at(300), HUGE_BYTES);
  rig.text();
});

test('a group at its limit has no room for a copy: EBUSY, and the charge is as before', () => {
  const rig = new HugeRig({ limitPages: 700 });
  rig.advise('nohugepage', 0, 512);
  for (let page = 0; page < 512; page++) rig.write(page, page + 1);
  rig.advise('hugepage', 0, 512);
  const before = rig.accounts();
  expect(advise(rig)).toBe('EBUSY');
  expect(rig.accounts()).toEqual(before);
  content(rig);
});

test('khugepaged.step goes over the areas that want to be huge, a few pages at a time', () => {
  const rig = new HugeRig({ areas: 3, frames: 6144 });
  rig.advise('nohugepage', 0, 1536);
  for (const page of [1, 600, 1100]) rig.write(page, page);
  expect(rig.core.khugepaged.step(1 << 20)).toBe(0);
  rig.advise('hugepage', 0, 1536);
  rig.advise('nohugepage', 512, 512);
  expect(rig.core.khugepaged.step(512)).toBe(1);
  expect(rig.core.khugepaged.step(512)).toBe(1);
  expect([rig.core.khugepaged.step(1 << 20), rig.core.vmstat.read('thp_collapse_alloc')]).toEqual([0, 2]);
  expect(rig.core.hugePmd.countPages(rig.mm)).toBe(1024);
  expect([1, 600, 1100].map(rig.read)).toEqual([1, 600, 1100]);
  rig.text();
  rig.core.exit(rig.mm);
  expect(rig.core.khugepaged.step(1 << 20)).toBe(0);
});
