import { describe, expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import type { MmBreaks } from '../breaks.ts';
import { GUP_NOMEM, GUP_PFN_MASK, GUP_SIGBUS, GUP_WRITABLE } from '../fault-codes.ts';
import { Shadow } from '../notifier-testing.ts';
import { AT, Managed, proven, VPN } from '../userfaultfd/manager-testing.ts';
import { HUGE_BYTES, HugeRig } from './huge-testing.ts';

test('H-2 M-5: the first write to an area that asks for it maps 2 MiB, zeroed', () => {
  const rig = new HugeRig();
  rig.write(5, 7);
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  expect([rig.read(0), rig.read(5), rig.read(511)]).toEqual([0, 7, 0]);
  expect(rig.thpCounts()).toEqual({ thp_fault_alloc: 1 });
  expect(rig.accounts()).toMatchObject({ anon: 512, tables: 2 });
  rig.core.exit(rig.mm);
  rig.core.checkInvariants();
});

test('by default only memory that asks is huge; always and never say otherwise; NOHUGEPAGE wins', () => {
  const rig = new HugeRig({ areas: 4 });
  expect(rig.core.thp.enabled).toBe('madvise');
  rig.advise('nohugepage', 0, 512);
  rig.core.thp.enabled = 'always';
  rig.touch(0, true);
  rig.touch(512, true);
  rig.core.thp.enabled = 'never';
  rig.touch(1024, true);
  expect(rig.core.describe(rig.mm).split('\n').slice(1)).toEqual([
    '  0x20000000 page writable dirty',
    '0x20200000-0x20800000 rw- anon hg',
    '  0x20200000 huge page writable dirty ×512',
    '  0x20400000 page writable dirty',
  ]);
  expect(() => {
    rig.core.thp.enabled = 'sometimes' as 'never';
  }).toThrow(/EINVAL/);
  rig.core.checkInvariants();
});

test('H.1: an area that the VMA does not wholly contain is mapped page by page', () => {
  const rig = new HugeRig({ areas: 2 });
  rig.core.mmap.unmap(rig.mm, rig.at(1023), PAGE_SIZE);
  rig.touch(600, true);
  expect(rig.text()).toBe('  0x20258000 page writable dirty');
  expect(rig.thpCounts()).toEqual({});
});

test('H-1 M-30: a read maps the huge zero page, one object that goes when nobody maps it', () => {
  const rig = new HugeRig({ areas: 2 });
  const before = rig.accounts();
  expect(rig.read(3)).toBe(0);
  expect(rig.read(700)).toBe(0);
  expect(rig.text()).toBe('  0x20000000 huge zero ×1024');
  // A middle table, and a table in deposit for each entry.
  expect(rig.accounts()).toEqual({ ...before, tables: before.tables + 3, frames: before.frames + 3 });
  expect(rig.thpCounts()).toEqual({ thp_zero_page_alloc: 1 });
  expect([rig.core.thp.zeroRefs, rig.core.thp.shrinkZero()]).toEqual([3, false]);
  rig.advise('dontneed', 0, 1024);
  expect([rig.core.thp.zeroRefs, rig.core.thp.shrinkZero(), rig.core.thp.zeroRefs]).toEqual([1, true, 0]);
  rig.read(3);
  expect(rig.thpCounts()).toEqual({ thp_zero_page_alloc: 2 });
  expect(rig.text()).toBe('  0x20000000 huge zero ×512');
});

test('use_zero_page off: a read allocates', () => {
  const rig = new HugeRig();
  rig.core.thp.useZeroPage = false;
  expect(rig.touch(3, false) & GUP_WRITABLE).toBe(GUP_WRITABLE);
  expect(rig.thpCounts()).toEqual({ thp_fault_alloc: 1 });
  rig.text();
});

test('a write to the huge zero page gives a huge page, with the table that was kept for it', () => {
  const rig = new HugeRig();
  rig.read(0);
  const before = rig.accounts();
  rig.write(9, 1);
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  expect([rig.read(0), rig.read(9), rig.read(511)]).toEqual([0, 1, 0]);
  expect(rig.thpCounts()).toEqual({ thp_zero_page_alloc: 1, thp_fault_alloc: 1 });
  expect(rig.core.thp.zeroRefs).toBe(1);
  expect(rig.accounts()).toEqual({ ...before, frames: before.frames + 512, anon: 512 });
});

test.each([false, true])(
  'M-31: secondaries let go of the huge zero page before it is replaced, pinning subscriber %s; else one is stale',
  pins => {
    const run = (breaks: Partial<MmBreaks>) => {
      const rig = new HugeRig({ breaks });
      const { core, mm } = rig;
      const shadow = new Shadow(core, pins);
      core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 0);
      shadow.fill(mm, rig.at(7) / PAGE_SIZE, false);
      rig.write(9, 1);
      shadow.check(mm);
      rig.text();
    };
    run({});
    expect(() => run({ cowWithoutNotify: true })).toThrow('OR-3');
  },
);

test('H-6 H-11: without a huge frame a write splits the huge zero page into 512 zero pages and copies one', () => {
  const rig = new HugeRig();
  rig.read(0);
  rig.core.pageAlloc.failHuge();
  rig.write(9, 1);
  expect(rig.text()).toBe(
    ['  0x20000000 zero ×9', '  0x20009000 page writable dirty', '  0x2000a000 zero ×502'].join('\n'),
  );
  expect(rig.thpCounts()).toEqual({ thp_zero_page_alloc: 1, thp_fault_fallback: 1, thp_split_pmd: 1 });
  expect(rig.core.thp.zeroRefs).toBe(1);
});

test('H-6: who is left alone with a shared huge page may write to all of it; a page held elsewhere splits it', () => {
  const rig = new HugeRig();
  rig.write(5, 50);
  rig.core.exit(rig.core.fork(rig.mm));
  rig.write(6, 60);
  expect(rig.text()).toBe('  0x20000000 huge page writable dirty ×512');
  rig.core.exit(rig.core.fork(rig.mm));
  const pin = rig.core.gup.fault(rig.mm, rig.at(9) / PAGE_SIZE, false) & GUP_PFN_MASK;
  rig.write(7, 70);
  expect(rig.text()).toContain('0x20000000 page');
  rig.core.pages.put(pin);
  expect([5, 6, 7, 8].map(rig.read)).toEqual([50, 60, 70, 0]);
});

test('H-10 H-12: DONTNEED of a part splits, and only the part becomes a hole', () => {
  const rig = new HugeRig();
  for (let page = 0; page < 512; page++) rig.write(page, page + 1);
  rig.advise('dontneed', 7, 2);
  expect(rig.text()).toBe(
    ['  0x20000000 page writable dirty ×7', '  0x20009000 page writable dirty ×503'].join('\n'),
  );
  expect([6, 7, 8, 9, 511].map(rig.read)).toEqual([7, 0, 0, 10, 512]);
  expect(rig.counts('thp_split_pmd')).toEqual({ thp_split_pmd: 1 });
});

test('DONTNEED of the whole gives back all 512 frames and the table', () => {
  const rig = new HugeRig();
  const before = rig.accounts();
  rig.write(0, 1);
  rig.advise('dontneed', 0, 512);
  expect(rig.text()).toBe('');
  expect(rig.accounts()).toEqual({ ...before, tables: before.tables + 1, frames: before.frames + 1 });
  expect(rig.counts('thp_split_pmd')).toEqual({});
});

test('mprotect and munmap split where a VMA would end inside; a whole area keeps its shape', () => {
  const rig = new HugeRig({ areas: 2 });
  rig.write(0, 1);
  rig.write(512, 2);
  rig.core.mmap.protect(rig.mm, rig.at(0), HUGE_BYTES, { read: true });
  expect(rig.text()).toContain('0x20000000 huge page dirty ×512');
  expect(rig.touch(3, true)).toBeLessThan(0);
  rig.core.mmap.protect(rig.mm, rig.at(0), HUGE_BYTES, { read: true, write: true });
  rig.write(3, 3);
  expect(rig.core.describe(rig.mm).split('\n')[1]).toBe('  0x20000000 huge page writable dirty ×1024');
  rig.core.mmap.unmap(rig.mm, rig.at(600), 10 * PAGE_SIZE);
  expect(rig.text()).toContain('0x20200000 page writable dirty ×88');
  rig.core.mmap.protect(rig.mm, rig.at(100), 412 * PAGE_SIZE, {});
  expect(rig.text()).toContain('0x20000000 page writable dirty ×100');
  expect([rig.read(0), rig.read(3), rig.read(512)]).toEqual([1, 3, 2]);
});

test('fork shares a huge page huge; a write splits one side and copies one page (H-6)', () => {
  const rig = new HugeRig({ areas: 2 });
  rig.write(5, 50);
  rig.read(600);
  const child = rig.core.fork(rig.mm);
  const shared = ['  0x20000000 huge page shared×2 dirty ×512', '  0x20200000 huge zero ×512'].join('\n');
  expect(rig.text()).toBe(shared);
  expect(rig.core.describe(child).split('\n').slice(1).join('\n')).toBe(shared);
  rig.core.access.write32(child, rig.at(5), 51);
  expect([rig.read(5), rig.core.access.read32(child, rig.at(5))]).toEqual([50, 51]);
  expect(rig.text()).toContain('0x20000000 huge page');
  rig.core.checkInvariants();
  rig.core.exit(child);
  rig.write(5, 52);
  rig.write(6, 60);
  expect([5, 6, 7].map(rig.read)).toEqual([52, 60, 0]);
  rig.text();
});

test('fork splits a huge page of which one is pinned, and copies that one', () => {
  const rig = new HugeRig();
  rig.write(5, 50);
  const pin = rig.core.gup.fault(rig.mm, rig.at(5) / PAGE_SIZE, true) & (GUP_WRITABLE - 1);
  const child = rig.core.fork(rig.mm);
  rig.write(5, 51);
  expect(rig.core.gup.fault(rig.mm, rig.at(5) / PAGE_SIZE, true) & (GUP_WRITABLE - 1)).toBe(pin);
  expect(rig.core.access.read32(child, rig.at(5))).toBe(50);
  rig.core.pages.put(pin);
  rig.core.pages.put(pin);
  rig.text();
  rig.core.exit(child);
  rig.text();
});

test('fork that finds no frame for a table leaves the parent as it was', () => {
  for (let n = 1; n < 8; n++) {
    const rig = new HugeRig();
    rig.write(0, 4);
    rig.core.pageAlloc.failAt(n);
    try {
      rig.core.exit(rig.core.fork(rig.mm));
    } catch {}
    rig.core.pageAlloc.failAt(0, 0);
    expect(rig.read(0)).toBe(4);
    rig.text();
  }
});

test('reclaim takes pages of a huge page one by one, and they come back with what they held', () => {
  const rig = new HugeRig({ areas: 2, limitPages: 700 });
  for (let page = 0; page < 1024; page++) rig.write(page, page + 1);
  for (let page = 0; page < 1024; page++) expect(rig.read(page)).toBe(page + 1);
  expect(rig.core.vmstat.read('pswpout')).toBeGreaterThan(300);
  rig.text();
});

test('ageing: one young bit serves 512 pages, until the first one is asked for', () => {
  const rig = new HugeRig();
  const first = rig.touch(0, true) & (GUP_WRITABLE - 1);
  rig.core.lru.drainAll();
  const referenced = (pfn: number): number => {
    rig.core.pages.lock(pfn);
    const young = rig.core.rmap.pageReferenced(pfn);
    rig.core.pages.unlock(pfn);
    return young;
  };
  expect([511, 9, 0, 9, 0].map(page => referenced(first + page))).toEqual([1, 1, 1, 0, 0]);
  rig.touch(77, false);
  expect([9, 0, 9].map(page => referenced(first + page))).toEqual([1, 1, 0]);
});

/** T-CHG: what an injected failure changes, on the huge path. */
describe.each([
  { order: 'the order of 2014', strictSeedOrder: true },
  { order: 'the order of U-14', strictSeedOrder: false },
])('with $order', ({ strictSeedOrder }) => {
  const rig = (config: ConstructorParameters<typeof HugeRig>[0] = {}) => {
    const made = new HugeRig({ strictSeedOrder, limitPages: 1024, areas: 2, frames: 2048, ...config });
    // The middle table is there already, so that only the row's own allocations are counted.
    made.touch(512, true);
    made.advise('dontneed', 512, 512);
    return made;
  };
  const THP = ['thp_fault_alloc', 'thp_fault_fallback', 'thp_fault_fallback_charge'] as const;
  const change = (made: HugeRig, act: () => number) => {
    const [before, counted] = [made.accounts(), made.core.vmstat.all()];
    const result = act();
    const after = made.accounts();
    const delta: Record<string, number> = {};
    for (const key of Object.keys(before) as (keyof typeof before)[]) {
      if (after[key] !== before[key]) delta[key] = after[key] - before[key];
    }
    for (const name of THP) {
      const n = made.core.vmstat.read(name) - counted[name];
      if (n !== 0) delta[name] = n;
    }
    made.core.checkInvariants();
    return { result: Math.min(result, 0), ...delta };
  };
  /** The huge path alone: what it answered, references dropped. */
  const hugeFault = (made: HugeRig, write = true): number => {
    const { core, mm } = made;
    const vpn = made.at(3) / PAGE_SIZE;
    core.sync.readLock('mmap', mm + core.layout.mm.mmapLock.at);
    const found = core.huge.fault(mm, core.vmas.find(mm, vpn), vpn, write);
    core.sync.readUnlock('mmap', mm + core.layout.mm.mmapLock.at);
    if (found >= 0) core.pages.put(found & (GUP_WRITABLE - 1));
    return found;
  };
  const FALLBACK = -101;
  const RETRY = -100;

  test('T-CHG-01: no huge frame: FALLBACK, counted once; without the rule it fails', () => {
    proven({ hugeUncounted: true }, breaks => {
      const made = rig({ breaks });
      made.core.pageAlloc.failHuge();
      expect(change(made, () => hugeFault(made))).toEqual({ result: FALLBACK, thp_fault_fallback: 1 });
    });
  });

  test('T-CHG-02: no charge: FALLBACK, counted once, and as a charge; without the rule it fails', () => {
    proven({ hugeUncounted: true }, breaks => {
      const made = rig({ breaks });
      const memcg = made.core.layout.mm.memcg.get(made.mm);
      made.core.memcontrol.setMax(memcg, 500, 32);
      const counted = { thp_fault_fallback: 1, thp_fault_fallback_charge: 1 };
      expect(change(made, () => hugeFault(made))).toEqual({ result: FALLBACK, ...counted });
    });
  });

  test('T-CHG-03 H-3: no table: OOM, nothing counted; without the rule it fails', () => {
    proven({ hugeKeepsCharge: true }, breaks => {
      for (const write of [true, false]) {
        const made = rig({ breaks });
        made.core.pageAlloc.failAt(1);
        expect(change(made, () => hugeFault(made, write))).toEqual({ result: GUP_NOMEM });
      }
    });
  });

  // B-29: a lost race is no allocation.
  test('T-CHG-04 T-ZERO-05: the entry was filled meanwhile: 0, nothing counted, nothing kept; without the rule it fails', () => {
    proven({ hugeKeepsCharge: true }, breaks => {
      for (const write of [true, false]) {
        const made = rig({ breaks });
        made.touch(0, true);
        expect(change(made, () => hugeFault(made, write))).toEqual({ result: RETRY });
        expect(made.core.thp.zeroRefs).toBe(write ? 0 : 1);
      }
    });
  });

  test('T-CHG-05 T-ZERO-04 H-2: an armed area is SIGBUS, and nothing changes; without the rule it fails', () => {
    proven({ fillArmed: true }, breaks => {
      for (const [write, zeroPage] of [
        [true, true],
        [false, true],
        [false, false],
      ] as const) {
        const made = rig({ breaks });
        made.core.thp.useZeroPage = zeroPage;
        made.advise('userfault', 0, 512);
        expect(change(made, () => hugeFault(made, write))).toEqual({ result: GUP_SIGBUS });
        expect(made.core.thp.zeroRefs).toBeLessThanOrEqual(1);
      }
    });
  });

  test('U-14: only the order of 2014 lets OOM mask a user fault', () => {
    const made = rig();
    made.advise('userfault', 0, 512);
    made.core.pageAlloc.failAt(1);
    const result = strictSeedOrder ? GUP_NOMEM : GUP_SIGBUS;
    expect(change(made, () => hugeFault(made))).toEqual({ result });
    made.core.pageAlloc.failAt(0, 0);
  });

  test('T-CHG-06: success charges 512 pages, takes 512 frames and a table, counts once; without the rule it fails', () => {
    proven({ hugeUncounted: true }, breaks => {
      const made = rig({ breaks });
      const taken = { charged: 512, frames: 513, anon: 512, tables: 1, thp_fault_alloc: 1 };
      expect(change(made, () => hugeFault(made))).toEqual({ result: 0, ...taken });
    });
  });

  test('T-CHG-07: no huge zero page: FALLBACK, counted once; without the rule it fails', () => {
    proven({ hugeUncounted: true }, breaks => {
      const made = rig({ breaks });
      made.core.thp.failZero();
      expect(change(made, () => hugeFault(made, false))).toEqual({ result: FALLBACK, thp_fault_fallback: 1 });
    });
  });

  test('H-7: FALLBACK goes on page by page', () => {
    const made = rig();
    made.core.pageAlloc.failHuge();
    expect(made.touch(3, true)).toBeGreaterThan(0);
    expect(made.text()).toBe('  0x20003000 page writable dirty');
  });

  test('T-CHG-08: the pte path: no charge is OOM, a page that came meanwhile is 0, armed is SIGBUS; nothing is kept; without the rule it fails', () => {
    proven({ fillArmed: true }, breaks => {
      const small = () => {
        const made = rig({ swap: { kind: 'none' }, breaks });
        made.advise('nohugepage', 0, 512);
        made.touch(0, true); // the table
        return made;
      };
      const charged = small();
      const memcg = charged.core.layout.mm.memcg.get(charged.mm);
      charged.core.memcontrol.setMax(memcg, 32, 32);
      charged.core.pageAlloc.failAt(1, 1000);
      expect(change(charged, () => charged.touch(3, true))).toEqual({ result: GUP_NOMEM });
      const filled = small();
      filled.touch(3, true);
      expect(change(filled, () => filled.touch(3, true))).toEqual({ result: 0 });
      const armed = small();
      armed.advise('userfault', 0, 512);
      expect(change(armed, () => armed.touch(3, true))).toEqual({ result: GUP_SIGBUS });
    });
  });

  test('T-CHG-09 H-7: FALLBACK, then the pte path finds the area armed: SIGBUS, and FALLBACK counted only then; without the rule it fails', () => {
    proven({ fillArmed: true }, breaks => {
      const made = rig({ breaks });
      made.advise('userfault', 0, 512);
      made.core.pageAlloc.failHuge();
      const {
        tables: _tables,
        frames: _frames,
        ...rest
      } = change(made, () => made.touch(3, true)) as Record<string, number>;
      expect(rest).toEqual(
        strictSeedOrder ? { result: GUP_SIGBUS, thp_fault_fallback: 1 } : { result: GUP_SIGBUS },
      );
    });
  });

  test('T-CHG-11: as many user faults as one likes change no account; without the rule it fails', () => {
    proven({ fillArmed: true }, breaks => {
      const made = rig({ breaks });
      made.advise('userfault', 0, 512);
      const before = made.accounts();
      for (let i = 0; i < (strictSeedOrder ? 20 : 100_000); i++)
        expect(made.touch(i % 512, true)).toBe(GUP_SIGBUS);
      expect(made.accounts()).toEqual(before);
      expect(made.counts('thp_fault_fallback')).toEqual({});
    });
  });
});

test('T-ZERO-02: the huge zero page that was there before stays readable when user faults are armed; without the rule it fails', () => {
  proven({ zeroIsHole: true }, breaks => {
    const rig = new HugeRig({ breaks });
    rig.read(0);
    rig.advise('userfault', 0, 512);
    expect(rig.read(9)).toBe(0);
    rig.write(9, 4);
    expect([rig.read(9), rig.read(10)]).toEqual([4, 0]);
    rig.text();
  });
});

test('T-THP-06 H-11: split in an armed area, the huge zero page leaves no hole to fire', () => {
  const rig = new HugeRig();
  rig.read(0);
  rig.advise('userfault', 0, 512);
  rig.core.hugePmd.split(rig.mm, rig.at(0) / PAGE_SIZE);
  expect(rig.text()).toBe('  0x20000000 zero ×512');
  for (let page = 0; page < 512; page++) expect(rig.touch(page, false)).toBeGreaterThan(0);
  rig.write(3, 1);
  expect(rig.text()).toContain('page writable dirty');
});

test('R-13: a huge page moves whole to another VMA, with the table kept for it', () => {
  const rig = new HugeRig({ areas: 2 });
  const { core, mm } = rig;
  rig.write(5, 55);
  rig.advise('userfault', 512, 512); // a VMA of its own
  const [from, into] = [0, 512].map(page => core.pageTable.pmd(mm, rig.at(page) / PAGE_SIZE)) as [
    number,
    number,
  ];
  const [source, target] = [core.mmap.find(mm, rig.at(0)), core.mmap.find(mm, rig.at(512))];
  core.anonVmas.prepare(target);
  const first = core.pageTable.load(from) >>> 12;
  expect([
    core.hugeMove.isOurs(first),
    core.hugeMove.lockPages(first),
    core.hugeMove.lockPages(first),
  ]).toEqual([true, true, false]);
  const anonVma = core.layout.vma.anonVma.load(source);
  core.anonVmas.lock(anonVma);
  core.pageTable.lock(from);
  core.hugeMove.move(from, into, target, rig.at(512) / PAGE_SIZE, true);
  core.pageTable.unlock(from);
  core.anonVmas.unlock(anonVma);
  core.hugeMove.unlockPages(first);
  expect(rig.text()).toBe(
    ['0x20200000-0x20400000 rw- anon hg uf', '  0x20200000 huge page writable dirty ×512'].join('\n'),
  );
  expect(rig.read(512 + 5)).toBe(55);
});

test('H-5 B-27 B-28: a huge user fault names the 4 KiB page; while it sleeps nothing is kept; neighbours still fire', () => {
  for (const write of [true, false]) {
    const managed = new Managed({ pages: 512, core: { frames: 2560, strictSeedOrder: true } });
    const { core, mm } = managed;
    core.madvise.advise(mm, AT, HUGE_BYTES, 'hugepage');
    core.memcontrol.setMax(core.layout.mm.memcg.get(mm), 2000, 32);
    managed.finish(managed.sleeper(7, write)); // makes the middle table and what else any fault makes
    const tables = core.layout.mm.nrPtes.load(mm);
    const free = core.pageAlloc.freeFrames;
    const ticket = managed.sleeper(7, write);
    expect(core.layout.uffdWait.vpn.get(ticket)).toBe(VPN + 7);
    expect([core.layout.mm.nrPtes.load(mm), core.pageAlloc.freeFrames]).toEqual([tables, free]);
    expect(core.thp.zeroRefs).toBe(write ? 0 : 1);
    expect(managed.provide(7, 70)).toBe('ok');
    expect(managed.isWoken(ticket)).toBe(true);
    managed.finish(ticket);
    expect(core.access.read32(mm, AT + 7 * PAGE_SIZE)).toBe(70);
    managed.finish(managed.sleeper(8, write));
    core.checkInvariants();
    expect(core.describe(mm)).not.toContain('huge');
  }
});
