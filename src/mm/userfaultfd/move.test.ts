import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Ptr } from '../../sync/struct.ts';
import type { MmBreaks } from '../breaks.ts';
import { PageFlag, POISON_ENTRY, ptePfn, Swp, SwpType, VmFlag, WP_MARKER } from '../layout.ts';
import { Checker, Shadow } from '../notifier-testing.ts';
import { proven } from './manager-testing.ts';
import { DST, FACES, name, PAGE, Resolving, SRC } from './resolve-testing.ts';

const MIGRATION = (7 << Swp.OffsetShift) | (SwpType.Migration << Swp.TypeShift);

test.each(FACES)(
  'T-RAP-01, R-5: %s onto anything but a hole is EEXIST, with both sides as they were; without the rule it fails',
  face => {
    proven({ moveOntoPages: true, moveWithoutRecheck: true }, breaks => {
      const at = new Resolving(8, { breaks });
      at.fill();
      at.arm(0);
      for (let i = 0; i < 6; i++) at.write(DST + i * PAGE, 1);
      at.advise(DST + PAGE, 2, 'dontneed');
      at.read(DST + PAGE); // zero page
      at.advise(DST + 3 * PAGE, 1, 'pageout');
      at.arm(VmFlag.UffdMissing | VmFlag.UffdWp);
      at.plant(DST + 6 * PAGE, POISON_ENTRY);
      at.plant(DST + 7 * PAGE, WP_MARKER);
      at.plant(DST + 2 * PAGE, MIGRATION);
      at.core.pages.set(ptePfn(at.entry(DST + 4 * PAGE)), PageFlag.Ksm);
      const before = at.describe();
      for (let i = 0; i < 8; i++) expect([i, at.move(face, i, i, 1, i % 2 === 1)]).toEqual([i, 'EEXIST']);
      expect(at.describe()).toBe(before);
      at.core.pages.clear(ptePfn(at.entry(DST + 4 * PAGE)), PageFlag.Ksm);
      at.plant(DST + 2 * PAGE, 0);
      at.core.checkInvariants();
    });
  },
);

test.each(FACES)(
  'T-RAP-02, -04, -06, R-14: %s of holes is ENOENT, or with ALLOW counted; EEXIST comes first; without the rule it fails',
  face => {
    for (const rule of [{ moveSkipsHoles: true }, { moveOntoPages: true }])
      proven(rule, breaks => {
        const at = new Resolving(8, { breaks });
        for (const i of [1, 2, 4, 5, 6]) at.write(SRC + i * PAGE, 100 + i);
        expect(at.move(face, 0, 0, 8)).toBe('ENOENT');
        expect(at.move(face, 0, 0, 8, true)).toBe(8 * PAGE);
        expect(at.describe()).toBe(`0x20000000-0x20008000 rw- anon um
  0x20001000 page writable dirty ×2
  0x20004000 page writable dirty ×3
0x30000000-0x30008000 rw- anon`);
        expect(at.read(DST + 5 * PAGE)).toBe(105);
        expect(at.move(face, 1, 0, 1)).toBe('EEXIST');
        expect(at.move(face, 1, 0, 1, true)).toBe('EEXIST');
        at.core.checkInvariants();
      });
  },
);

test.each(FACES)(
  'T-RAP-03, -05, R-7: %s stops at the first failure with what it has moved, and never says 0; without the rule it fails',
  face => {
    for (const rule of [{ moveForgetsProgress: true }, { moveSaysNothing: true }])
      proven(rule, breaks => {
        const at = new Resolving(8, { breaks });
        at.fill();
        at.arm(0);
        at.write(DST + 4 * PAGE, 1);
        at.arm(VmFlag.UffdMissing);
        expect(at.move(face, 0, 0, 8)).toBe(4 * PAGE);
        expect(at.move(face, 4, 4, 4)).toBe('EEXIST');
        expect([0, 3].map(i => at.read(DST + i * PAGE))).toEqual([100, 103]);
        at.core.checkInvariants();
      });
  },
);

test('V-30, T-RAP-03: MOVE says EAGAIN when it stops half-way, has the bytes in its field and wakes their range', () => {
  const at = new Resolving(8);
  at.fill(0, 4);
  const { core, ctx, mm } = at;
  const sleepers = [0, 3, 4].map(page => {
    const entry = core.uffds.queues.alloc(ctx, 0x12);
    core.layout.uffdWait.vpn.set(entry, DST / PAGE + page);
    core.uffds.queues.enqueueFault(ctx, entry);
    return entry;
  });
  const woken = () => sleepers.map(entry => core.uffdWaits.isOver(entry));
  expect(name(core.move.move(ctx, mm, DST, SRC, 8 * PAGE, 1))).toBe('EAGAIN');
  expect([core.move.result, woken()]).toEqual([4 * PAGE, [false, false, false]]);
  at.fill(4, 5);
  expect(core.move.move(ctx, mm, DST + 4 * PAGE, SRC + 4 * PAGE, PAGE, 0)).toBe(0);
  expect([core.move.result, woken()]).toEqual([PAGE, [false, false, true]]);
  for (const entry of sleepers) core.uffds.queues.finish(entry);
  core.checkInvariants();
});

test('V-30: MOVE while a change is under way is EAGAIN in the field; bad ranges and modes leave the field alone', () => {
  const at = new Resolving(2);
  at.fill();
  const { core, ctx, mm } = at;
  const call = (dst: number, src: number, length: number, mode: number, caller = mm) => [
    name(core.move.move(ctx, caller, dst, src, length, mode)),
    core.move.result === undefined ? undefined : name(core.move.result),
  ];
  core.uffds.beginChange(ctx);
  expect(call(DST + 1, SRC, 0, 9)).toEqual(['EAGAIN', 'EAGAIN']);
  core.uffds.endChange(ctx);
  const other = core.createMm();
  for (const bad of [
    call(DST + 1, SRC, PAGE, 0),
    call(DST, SRC + 1, PAGE, 0),
    call(DST, SRC, 0, 0),
    call(DST, SRC, 2 ** 39, 0),
    call(DST, SRC, PAGE, 4),
    call(DST, SRC, PAGE, 0, other),
  ])
    expect(bad).toEqual(['EINVAL', undefined]);
  expect(call(DST + 64 * PAGE, SRC, PAGE, 0)).toEqual(['ENOENT', 'ENOENT']);
  expect(call(DST, SRC + 64 * PAGE, PAGE, 0)).toEqual(['ENOENT', 'ENOENT']);
  expect(call(DST, SRC, 3 * PAGE, 0)).toEqual(['EINVAL', 'EINVAL']);
  expect(call(SRC, DST, PAGE, 0)).toEqual(['EINVAL', 'EINVAL']); // not registered
  expect([at.read(SRC), at.read(SRC + PAGE)]).toEqual([100, 101]);
});

test('T-RAP-09, -22, R-2: every EINVAL of remap_anon_pages leaves the state as it was; without the rule it fails', () => {
  proven({ moveUnchecked: true }, breaks => {
    const at = new Resolving(4, { breaks });
    at.fill();
    const { core, mm } = at;
    core.mmap.map(mm, 4 * PAGE, { address: DST + 4 * PAGE, fixed: 'exclusive', protection: { read: true } });
    core.mmap.map(mm, PAGE, { address: SRC + 8 * PAGE, fixed: 'exclusive', flags: { lo: VmFlag.Locked } });
    core.mmap.map(mm, PAGE, { address: SRC + 10 * PAGE, fixed: 'exclusive', flags: { lo: VmFlag.Shared } });
    core.mmap.map(mm, PAGE, { address: SRC + 12 * PAGE, fixed: 'exclusive', shared: true });
    core.mmap.map(mm, PAGE, { address: SRC + 4 * PAGE, fixed: 'exclusive', flags: { lo: VmFlag.DontDump } });
    core.madvise.advise(mm, SRC + 4 * PAGE, PAGE, 'dodump');
    core.mmap.map(mm, PAGE, { address: SRC + 5 * PAGE, fixed: 'exclusive', flags: { lo: VmFlag.HugePage } });
    core.layout.vma.flags.set(
      core.mmap.find(mm, SRC + 5 * PAGE),
      core.layout.vma.flags.get(core.mmap.find(mm, SRC)),
    );
    const before = at.describe();
    const call = (dst: number, src: number, length: number, flags = 0) =>
      name(core.move.remapAnonPages(mm, dst, src, length, flags));
    expect([
      call(DST, SRC, PAGE, 2),
      call(DST + 1, SRC, PAGE),
      call(DST, SRC + 1, PAGE),
      call(DST, SRC, PAGE + 1),
      call(DST, SRC, 0),
      call(DST, 2 ** 39 - PAGE, 2 * PAGE),
      call(DST, SRC + 64 * PAGE, PAGE),
      call(DST + 64 * PAGE, SRC, PAGE),
      call(DST, SRC, 7 * PAGE), // leaves its VMA
      call(SRC, DST, 5 * PAGE),
      call(DST + 4 * PAGE, SRC, PAGE), // protection
      call(DST, SRC + 8 * PAGE, PAGE), // mlock
      call(DST, SRC + 10 * PAGE, PAGE), // shared
      call(DST, SRC + 12 * PAGE, PAGE), // special
      call(SRC + 12 * PAGE, SRC, PAGE),
      call(DST, SRC + 4 * PAGE, 2 * PAGE), // two equal VMAs that are not one
    ]).toEqual(Array(16).fill('EINVAL'));
    expect(at.describe()).toBe(before);
  });
});

test('T-RAP-07: the zero page moves with MOVE, and is EBUSY for remap_anon_pages; without the rule it fails', () => {
  proven({ moveZero14: true }, breaks => {
    const at = new Resolving(2, { breaks });
    at.read(SRC);
    expect(at.move('remap', 0, 0, 1)).toBe('EBUSY');
    expect(at.move('MOVE', 0, 0, 1)).toBe(PAGE);
    expect(at.describe()).toBe(`0x20000000-0x20002000 rw- anon um
  0x20000000 zero
0x30000000-0x30002000 rw- anon`);
    at.write(DST, 5);
    expect(at.read(DST)).toBe(5);
    at.core.checkInvariants();
  });
});

test('T-RAP-08, R-16, R-17, B-23: shared and merged pages are EBUSY; a pinned one moves in seed14 alone; without the rule it fails', () => {
  proven({ moveShared: true }, breaks => {
    const at = new Resolving(4, { breaks });
    at.fill();
    const { core } = at;
    const child = core.fork(at.mm);
    for (const face of FACES) expect(at.move(face, 0, 0, 1)).toBe('EBUSY');
    core.exit(child);
    // V-35: once shared, MOVE wants a write first; 2014 looks at the mapcount.
    expect(at.move('MOVE', 0, 0, 1)).toBe('EBUSY');
    expect(at.move('remap', 0, 0, 1)).toBe(PAGE);
    at.write(SRC + PAGE, 7);
    const pfn = ptePfn(at.entry(SRC + PAGE));
    core.pages.set(pfn, PageFlag.Ksm);
    for (const face of FACES) expect(at.move(face, 1, 1, 1)).toBe('EBUSY');
    core.pages.clear(pfn, PageFlag.Ksm);
    core.lru.drainAll();
    core.pages.get(pfn);
    expect(at.move('MOVE', 1, 1, 1)).toBe('EBUSY');
    expect(at.move('remap', 1, 1, 1)).toBe(PAGE);
    core.pages.put(pfn);
    expect([at.read(DST), at.read(DST + PAGE), ptePfn(at.entry(DST + PAGE))]).toEqual([100, 7, pfn]);
    core.checkInvariants();
  });
});

test('T-RAP-18, R-8: a fatal signal ends a move after the page in hand: EINTR when there was none, else short; without the rule it fails', () => {
  proven({ moveUnkillable: true }, breaks => {
    let left = 0;
    const at = new Resolving(8, { breaks, killed: () => --left < 0 });
    at.fill();
    left = 2;
    expect(at.move('remap', 0, 0, 8)).toBe(3 * PAGE);
    left = 0;
    at.plant(SRC + 3 * PAGE + 0, at.entry(SRC + 3 * PAGE));
    at.advise(SRC + 3 * PAGE, 1, 'dontneed');
    at.plant(SRC + 3 * PAGE, MIGRATION);
    expect(at.move('remap', 3, 3, 5)).toBe('EINTR');
    at.plant(SRC + 3 * PAGE, 0);
    expect(at.read(DST + 2 * PAGE)).toBe(102);
    at.core.checkInvariants();
  });
});

test('T-RAP-19: a migration entry in the source is waited for, then its page moves; without the rule it fails', () => {
  proven({ moveFailsMigration: true }, breaks => {
    let seen = 0;
    const at: Resolving = new Resolving(2, {
      breaks,
      killed() {
        if (at.entry(SRC) === MIGRATION && ++seen === 3) at.plant(SRC, entry);
        return false;
      },
    });
    at.fill();
    const entry = at.entry(SRC);
    at.plant(SRC, MIGRATION);
    expect(at.move('remap', 0, 0, 2)).toBe(2 * PAGE);
    expect([seen, at.read(DST)]).toEqual([3, 100]);
    at.core.checkInvariants();
  });
});

test('R-5, row 7: poison and markers in the source are EFAULT', () => {
  for (const face of FACES) {
    const at = new Resolving(1);
    for (const entry of [POISON_ENTRY, WP_MARKER]) {
      at.plant(SRC, entry);
      expect(at.move(face, 0, 0, 1)).toBe('EFAULT');
    }
  }
});

test('T-RAP-20, -21, R-4: dst needs no flag; moving onto itself or up by one is EEXIST, down by one moves all; without the rule it fails', () => {
  for (const rule of [{ moveWantsArmed: true }, { moveOntoPages: true, moveWithoutRecheck: true }])
    proven(rule, breaks => {
      const at = new Resolving(5, { breaks });
      at.arm(0);
      at.fill(1, 5);
      const self = (dst: number, src: number, pages: number, flags = 0) =>
        name(at.core.move.remapAnonPages(at.mm, SRC + dst * PAGE, SRC + src * PAGE, pages * PAGE, flags));
      expect([self(1, 1, 1), self(0, 0, 1), self(0, 0, 1, 1), self(2, 1, 3)]).toEqual([
        'EEXIST',
        'ENOENT',
        PAGE,
        'EEXIST',
      ]);
      expect(self(0, 1, 4)).toBe(4 * PAGE);
      expect([0, 1, 2, 3].map(i => at.read(SRC + i * PAGE))).toEqual([101, 102, 103, 104]);
      expect(at.move('remap', 0, 0, 4)).toBe(4 * PAGE);
      at.core.checkInvariants();
    });
});

test('T-RAP-24: at its limit with nothing free a move succeeds, and changes no counter but that of tables; without the rule it fails', () => {
  proven({ moveCountsAgain: true }, breaks => {
    const at = new Resolving(4, { breaks });
    const { core, mm } = at;
    at.fill();
    core.lru.drainAll();
    const { memcg } = core.layout;
    const group = core.layout.mm.memcg.get(mm);
    core.memcontrol.storeMax(group, memcg.usage.load(group));
    const before = [
      core.layout.mm.anonPages.load(mm),
      core.layout.mm.nrPtes.load(mm),
      memcg.usage.load(group),
    ];
    expect(at.move('remap', 0, 0, 4)).toBe(4 * PAGE);
    const after = [
      core.layout.mm.anonPages.load(mm),
      core.layout.mm.nrPtes.load(mm),
      memcg.usage.load(group),
    ];
    expect(after).toEqual([before[0], before[1]! + 1, before[2]]);
    core.checkInvariants();
  });
});

test('T-RAP-26, R-3: no frame for a table is ENOMEM at the first page, a short count later; tables made stay; without the rule it fails', () => {
  proven({ moveForgetsProgress: true }, breaks => {
    const at = new Resolving(1024, { breaks });
    const { core, mm } = at;
    for (const i of [510, 511, 512, 513]) at.write(SRC + i * PAGE, i);
    const tables = () => core.layout.mm.nrPtes.load(mm);
    const before = tables();
    core.pageAlloc.failAt(1);
    expect(at.move('remap', 510, 510, 4)).toBe('ENOMEM');
    expect(tables()).toBe(before);
    core.pageAlloc.failAt(2);
    expect(at.move('remap', 510, 510, 4)).toBe(2 * PAGE);
    expect(tables()).toBe(before + 1);
    core.pageAlloc.failAt(1);
    expect(at.move('remap', 512, 512, 2)).toBe('ENOMEM');
    expect(at.move('remap', 512, 512, 2)).toBe(2 * PAGE);
    expect([510, 513].map(i => at.read(DST + i * PAGE))).toEqual([510, 513]);
    core.checkInvariants();
  });
});

test.each(FACES)(
  'T-SWP-02, R-12, B-24, T-SWP-07: %s moves a swap entry with its cached page; without, the reverse map is wrong',
  face => {
    for (const moveSwapWithoutRekey of [false, true]) {
      const at = new Resolving(2, { breaks: { moveSwapWithoutRekey } });
      at.fill();
      const { core } = at;
      // Written and unmapped, but still in the cache: somebody holds a reference.
      const pfn = ptePfn(at.entry(SRC));
      core.pages.get(pfn);
      at.advise(SRC, 1, 'pageout');
      expect(at.describe()).toContain('0x30000000 swap exclusive');
      expect(at.move(face, 0, 0, 1)).toBe(PAGE);
      core.pages.put(pfn);
      expect([at.read(DST), ptePfn(at.entry(DST))]).toEqual([100, pfn]);
      if (moveSwapWithoutRekey) expect(() => core.checkInvariants()).toThrow('M7');
      else core.checkInvariants();
      if (moveSwapWithoutRekey) continue;
      at.advise(DST, 1, 'pageout');
      expect(at.move(face, 0, 1, 1)).toBe('EEXIST');
      expect(at.read(DST)).toBe(100);
      core.checkInvariants();
    }
  },
);

test('R-5, row 5: a swap entry that fork shares is EBUSY; 2014 takes it once the child is gone, MOVE does not', () => {
  const at = new Resolving(1);
  at.fill();
  at.advise(SRC, 1, 'pageout');
  const child = at.core.fork(at.mm);
  for (const face of FACES) expect(at.move(face, 0, 0, 1)).toBe('EBUSY');
  at.core.exit(child);
  expect(at.move('MOVE', 0, 0, 1)).toBe('EBUSY');
  expect(at.move('remap', 0, 0, 1)).toBe(PAGE);
  expect(at.read(DST)).toBe(100);
  at.core.checkInvariants();
});

test('R-5, row 5: a swap entry whose page the child has read back is EBUSY: the page is still the child’s', () => {
  const at = new Resolving(1);
  at.fill();
  at.advise(SRC, 1, 'pageout');
  const child = at.core.fork(at.mm);
  expect(at.core.access.read32(child, SRC)).toBe(100);
  expect(at.move('remap', 0, 0, 1)).toBe('EBUSY');
  at.core.checkInvariants();
});

/** Swapped out, forked, read back by the parent, then moved by it. */
function sharedThroughSwap(breaks: Partial<MmBreaks>): { moved: string | number; child: number } {
  const at = new Resolving(1, { breaks });
  at.fill();
  at.advise(SRC, 1, 'pageout');
  const child = at.core.fork(at.mm);
  at.read(SRC);
  const moved = at.move('remap', 0, 0, 1);
  if (moved === PAGE) at.write(DST, 999);
  else at.core.checkInvariants();
  return { moved, child: at.core.access.read32(child, SRC) };
}

test('T-RAP-25, R-22, B-41: a page that the child’s swap entry names is EBUSY; by mapcount alone the child sees a later write', () => {
  expect(sharedThroughSwap({})).toEqual({ moved: 'EBUSY', child: 100 });
  expect(sharedThroughSwap({ moveByMapcountAlone: true })).toEqual({ moved: PAGE, child: 999 });
});

test('T-SWP-04 (half): a lazily freed page that moves is kept', () => {
  const at = new Resolving(1);
  at.fill();
  at.core.lru.drainAll();
  at.advise(SRC, 1, 'free');
  expect(at.move('remap', 0, 0, 1)).toBe(PAGE);
  at.advise(DST, 1, 'pageout');
  expect(at.read(DST)).toBe(100);
  at.core.checkInvariants();
});

test.each([false, true])(
  'R-10, R-11: the source alone is bracketed, once for each table; pinning subscriber %s',
  pins => {
    for (const moveWithoutBracket of [false, true]) {
      const at = new Resolving(4, { breaks: { moveWithoutBracket } });
      const { core, mm } = at;
      at.fill();
      const checker = new Checker(core, SRC / PAGE);
      const shadow = new Shadow(core, pins);
      core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 0);
      core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 0);
      for (let i = 0; i < 4; i++) shadow.fill(mm, SRC / PAGE + i, true);
      checker.heard();
      expect(at.move('remap', 0, 0, 2)).toBe(2 * PAGE);
      expect(checker.heard()).toEqual(['start Clear 0-2', 'end Clear 0-2']);
      shadow.check(mm);
      expect(shadow.entries.size).toBe(2);
      expect(at.move('MOVE', 2, 2, 2)).toBe(moveWithoutBracket && pins ? 'EBUSY' : 2 * PAGE);
      checker.heard();
    }
  },
);

test('random moves leave every page once, where a Map has it, and the invariants true after each', () => {
  const page = fc.nat(9);
  const step = fc.record({
    kind: fc.constantFrom('move', 'move', 'move', 'write', 'drop', 'out', 'fork', 'exit'),
    face: fc.constantFrom(...FACES),
    side: fc.boolean(),
    dst: page,
    src: page,
    count: fc.integer({ min: 1, max: 4 }),
    holes: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { minLength: 20, maxLength: 60 }), steps => {
      const at = new Resolving(10);
      at.arm(0);
      const model = new Map<number, number>();
      const place = (side: boolean, i: number) => (side ? SRC : DST) + i * PAGE;
      let child = 0 as Ptr<'mm'>;
      let value = 1;
      for (const s of steps) {
        const count = Math.min(s.count, 10 - Math.max(s.dst, s.src));
        const here = place(s.side, s.src);
        if (s.kind === 'write') {
          at.write(here, ++value);
          model.set(here, value);
        } else if (s.kind === 'drop') {
          at.advise(here, count, 'dontneed');
          for (let i = 0; i < count; i++) model.delete(here + i * PAGE);
        } else if (s.kind === 'out') at.advise(here, count, 'pageout');
        else if (s.kind === 'fork' && child === 0) child = at.core.fork(at.mm);
        else if (s.kind === 'exit' && child !== 0) {
          at.core.exit(child);
          child = 0 as Ptr<'mm'>;
        } else if (s.kind === 'move') {
          const there = place(!s.side, s.dst);
          at.arm(VmFlag.UffdMissing, there);
          const { move } = at.core;
          const flags = s.holes ? (s.face === 'remap' ? 1 : 2) : 0;
          const moved =
            s.face === 'remap'
              ? move.remapAnonPages(at.mm, there, here, count * PAGE, flags)
              : move.move(at.ctx, at.mm, there, here, count * PAGE, flags) && 0;
          at.arm(0, there);
          const done = Math.max(0, (s.face === 'remap' ? moved : (move.result ?? 0)) / PAGE);
          for (let i = 0; i < done; i++) {
            const held = model.get(here + i * PAGE);
            expect(model.has(there + i * PAGE)).toBe(false);
            model.delete(here + i * PAGE);
            if (held !== undefined) model.set(there + i * PAGE, held);
            expect(held !== undefined || s.holes).toBe(true);
          }
          if (done < count && child === 0 && s.face === 'remap') {
            const taken = model.has(there + done * PAGE);
            expect(taken || !model.has(here + done * PAGE)).toBe(true);
          }
        }
        at.core.checkInvariants();
      }
      for (const side of [false, true])
        for (let i = 0; i < 10; i++) {
          const address = place(side, i);
          expect(model.has(address)).toBe(at.entry(address) !== 0);
          if (model.has(address)) expect(at.read(address)).toBe(model.get(address));
        }
    }),
    { seed: 9, numRuns: 30 },
  );
});
