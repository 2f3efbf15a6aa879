import { expect, test } from 'vitest';
import type { MmBreaks } from '../breaks.ts';
import { ptePfn } from '../layout.ts';
import { Checker } from '../notifier-testing.ts';
import { proven } from './manager-testing.ts';
import { DST, FACES, type Face, PAGE, Resolving, SRC } from './resolve-testing.ts';

const HUGE = 512;

/** A source that is huge, its pages numbered, and room for it. */
function huge(areas = 1, breaks: Partial<MmBreaks> = {}): Resolving {
  const at = new Resolving(areas * HUGE + HUGE, { frames: 8192, breaks });
  at.core.madvise.advise(at.mm, SRC, areas * HUGE * PAGE, 'hugepage');
  for (let i = 0; i < areas * HUGE; i++) at.write(SRC + i * PAGE, i);
  expect(at.core.hugePmd.countPages(at.mm)).toBe(areas * HUGE);
  return at;
}

/** Bytes and splits of a move, and proof that nothing was lost. */
function moved(at: Resolving, face: Face, dst: number, src: number, pages: number, holes: boolean) {
  const said = at.move(face, dst, src, pages, holes);
  at.core.checkInvariants();
  return { said, splits: at.core.vmstat.read('thp_split_pmd'), huge: at.core.hugePmd.countPages(at.mm) };
}

const rows = FACES.flatMap(face => [false, true].map(holes => [face, holes] as const));

test.each(rows)(
  'T-RAP-16, R-13, B-40: %s of an aligned huge page moves it whole, ALLOW %s',
  (face, holes) => {
    const at = huge(2);
    const checker = new Checker(at.core, SRC / PAGE);
    at.core.notifiers.register(at.mm, at.core.notifiers.registerOps(checker.ops()), 0);
    const before = at.core.layout.mm.nrPtes.load(at.mm);
    const first = ptePfn(at.core.pageTable.entryOf(at.mm, SRC / PAGE));
    expect(moved(at, face, 0, 0, 2 * HUGE, holes)).toEqual({
      said: 2 * HUGE * PAGE,
      splits: 0,
      huge: 2 * HUGE,
    });
    expect(checker.heard()).toEqual([
      'start Clear 0-512',
      'end Clear 0-512',
      'start Clear 512-1024',
      'end Clear 512-1024',
    ]);
    expect(ptePfn(at.core.pageTable.entryOf(at.mm, DST / PAGE))).toBe(first);
    expect([0, 511, 1023].map(i => at.read(DST + i * PAGE))).toEqual([0, 511, 1023]);
    // A middle table of the destination; the deposited tables have moved along.
    expect(at.core.layout.mm.nrPtes.load(at.mm) - before).toBeLessThanOrEqual(1);
    expect(at.entry(SRC)).toBe(0);
  },
);

test.each(rows)(
  'T-RAP-16: %s that is misaligned, short, or onto a table splits and moves small, ALLOW %s',
  (face, holes) => {
    const misaligned = huge();
    expect(moved(misaligned, face, 1, 0, HUGE, holes)).toEqual({ said: HUGE * PAGE, splits: 1, huge: 0 });
    expect(misaligned.read(DST + 300 * PAGE)).toBe(299);
    const short = huge();
    expect(moved(short, face, 0, 0, HUGE - 1, holes)).toEqual({
      said: (HUGE - 1) * PAGE,
      splits: 1,
      huge: 0,
    });
    expect([short.read(DST + 510 * PAGE), short.read(SRC + 511 * PAGE)]).toEqual([510, 511]);
    const table = huge();
    table.core.pageTable.alloc(table.mm, DST / PAGE);
    expect(moved(table, face, 0, 0, HUGE, holes)).toEqual({ said: HUGE * PAGE, splits: 1, huge: 0 });
    expect(table.read(DST + 511 * PAGE)).toBe(511);
  },
);

test.each(rows)(
  'T-RAP-16, R-5: %s of a huge page that fork shares is EBUSY, onto one EEXIST; neither splits, ALLOW %s',
  (face, holes) => {
    const at = huge();
    const child = at.core.fork(at.mm);
    expect(moved(at, face, 0, 0, HUGE, holes)).toEqual({ said: 'EBUSY', splits: 0, huge: HUGE });
    at.core.exit(child);
    at.arm(0);
    at.core.madvise.advise(at.mm, DST, HUGE * PAGE, 'hugepage');
    at.write(DST, 1);
    at.core.uffdRegister.register(at.ctx, DST, HUGE * PAGE, 1);
    expect(moved(at, face, 0, 0, HUGE, holes)).toEqual({ said: 'EEXIST', splits: 0, huge: 2 * HUGE });
  },
);

test.each(rows)(
  'R-13, R-5: %s of a part of a huge page splits it before it says EEXIST, ALLOW %s',
  (face, holes) => {
    const at = huge();
    at.arm(0);
    at.write(DST, 1);
    at.core.uffdRegister.register(at.ctx, DST, HUGE * PAGE, 1);
    expect(moved(at, face, 0, 0, 5, holes)).toEqual({ said: 'EEXIST', splits: 1, huge: 0 });
    expect([0, 511].map(i => at.read(SRC + i * PAGE))).toEqual([0, 511]);
  },
);

test.each(rows)(
  'T-RAP-16, B-39: a huge zero source is EBUSY for remap_anon_pages and moves with MOVE: %s, ALLOW %s',
  (face, holes) => {
    const at = new Resolving(2 * HUGE, { frames: 8192 });
    at.core.madvise.advise(at.mm, SRC, HUGE * PAGE, 'hugepage');
    at.read(SRC);
    const entry = at.core.pageTable.entryOf(at.mm, SRC / PAGE);
    const { said, splits } = moved(at, face, 0, 0, HUGE, holes);
    expect([said, splits]).toEqual([face === 'remap' ? 'EBUSY' : HUGE * PAGE, 0]);
    expect(at.core.pageTable.entryOf(at.mm, (face === 'remap' ? SRC : DST) / PAGE)).toBe(entry);
  },
);

test('R-17: a pin on one of the 512 is EBUSY for MOVE, and goes along with remap_anon_pages', () => {
  const at = huge();
  at.core.lru.drainAll();
  const pfn = ptePfn(at.core.pageTable.entryOf(at.mm, SRC / PAGE)) + 77;
  at.core.pages.get(pfn);
  expect(moved(at, 'MOVE', 0, 0, HUGE, false).said).toBe('EBUSY');
  expect(moved(at, 'remap', 0, 0, HUGE, false)).toEqual({ said: HUGE * PAGE, splits: 0, huge: HUGE });
  at.core.pages.put(pfn);
});

test.each([false, true])(
  'T-RAP-17: a huge source in use elsewhere is tried again; split underfoot (%s) it moves all the same; without the rule it fails',
  split => {
    proven({ moveHugeGivesUp: true }, breaks => {
      const at = huge(1, breaks);
      const other = at.thread();
      // While a page of it is locked a whole move is tried again.
      const pfn = ptePfn(at.core.pageTable.entryOf(at.mm, SRC / PAGE)) + 3;
      other.pages.lock(pfn);
      let tries = 0;
      at.at = label => {
        if (label !== 'V.again' || ++tries !== 3) return;
        at.at = () => {};
        other.pages.unlock(pfn);
        if (split) other.hugePmd.split(at.mm, SRC / PAGE);
      };
      const wanted = { said: HUGE * PAGE, splits: split ? 1 : 0, huge: split ? 0 : HUGE };
      expect(moved(at, 'remap', 0, 0, HUGE, false)).toEqual(wanted);
      expect([tries, at.read(DST + 511 * PAGE)]).toEqual([3, 511]);
    });
  },
);

test('T-RAP-16: without a look at the 512 pages a shared huge page would move, and be writable twice', () => {
  const at = new Resolving(2 * HUGE, { frames: 8192, breaks: { moveHugeUnjudged: true } });
  at.core.madvise.advise(at.mm, SRC, HUGE * PAGE, 'hugepage');
  at.write(SRC, 1);
  at.core.fork(at.mm);
  expect(() => moved(at, 'remap', 0, 0, HUGE, false)).toThrow('M');
});
