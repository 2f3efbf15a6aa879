import { expect, test } from 'vitest';
import { VmFlag } from '../layout.ts';
import { DST, FACES, PAGE, Resolving, SRC } from './resolve-testing.ts';

test.each(FACES)(
  'R-3, R-14: %s makes a table for holes of the source where they are allowed, or says ENOMEM; else it makes none',
  face => {
    const at = new Resolving(1024);
    const { core, mm } = at;
    core.pageTable.alloc(mm, DST / PAGE);
    core.pageTable.allocPmd(mm, SRC / PAGE);
    const table = (i: number) => core.pageTable.walk(mm, SRC / PAGE + i) !== 0;
    expect(at.move(face, 0, 0, 1)).toBe('ENOENT');
    core.pageAlloc.failAt(1);
    expect(at.move(face, 0, 0, 1, true)).toBe('ENOMEM');
    expect([table(0), table(512)]).toEqual([false, false]);
    const before = core.layout.mm.nrPtes.load(mm);
    core.pageAlloc.failAt(2);
    expect(at.move(face, 0, 510, 4, true)).toBe(2 * PAGE);
    expect([table(0), table(512)]).toEqual([true, false]);
    expect(core.layout.mm.nrPtes.load(mm)).toBe(before + 1);
    // Made before the destination is examined, it stays.
    at.arm(0);
    at.write(DST, 1);
    at.arm(VmFlag.UffdMissing);
    expect(at.move(face, 0, 512, 1)).toBe('EEXIST');
    expect(table(512)).toBe(false);
    expect(at.move(face, 0, 512, 1, true)).toBe('EEXIST');
    expect(table(512)).toBe(true);
    core.checkInvariants();
  },
);

test('R-3: after MOVE of allowed holes a write there gives a small page, as a table is in the way of a huge one', () => {
  for (const holes of [false, true]) {
    const at = new Resolving(1024);
    const { core, mm } = at;
    core.madvise.advise(mm, SRC, 1024 * PAGE, 'hugepage');
    expect(at.move('MOVE', 0, 3, 5, holes)).toBe(holes ? 5 * PAGE : 'ENOENT');
    at.write(SRC, 1);
    at.write(SRC + 512 * PAGE, 1);
    expect(core.hugePmd.countPages(mm)).toBe(holes ? 512 : 1024);
    core.checkInvariants();
  }
});
