import { expect, test } from 'vitest';
import { POISON_ENTRY, VmFlag, WP_MARKER } from '../layout.ts';
import { proven } from './manager-testing.ts';
import { DST, name, PAGE, page, Resolving, SRC } from './resolve-testing.ts';

test('V-31, C-11: COPY makes an exclusive dirty page, writable if the VMA is, charged to its space', () => {
  const at = new Resolving(4);
  const { core, mm, ctx } = at;
  const before = at.usage();
  expect(at.said(core.mfill.copy(ctx, DST, new Uint8Array(3 * PAGE).fill(7), 2 * PAGE, 0, PAGE))).toEqual([
    0,
    2 * PAGE,
  ]);
  core.mmap.protect(mm, DST + 2 * PAGE, PAGE, { read: true });
  expect(at.said(core.mfill.copy(ctx, DST + 2 * PAGE, page(8), PAGE))).toEqual([0, PAGE]);
  expect(at.describe()).toBe(`0x20000000-0x20002000 rw- anon um
  0x20000000 page writable dirty ×2
0x20002000-0x20003000 r-- anon um
  0x20002000 page dirty
0x20003000-0x20004000 rw- anon um
0x30000000-0x30004000 rw- anon`);
  expect([at.read(DST + PAGE), at.read(DST + 2 * PAGE), at.usage() - before]).toEqual([
    0x07070707, 0x08080808, 3,
  ]);
  core.checkInvariants();
});

test('V-31, V-32, V-34: none is filled; a marker is replaced by COPY alone; anything else is EEXIST', () => {
  const at = new Resolving(6);
  const { core, ctx } = at;
  at.arm(0);
  at.write(DST, 1);
  at.write(DST + PAGE, 2);
  at.read(DST + 2 * PAGE);
  at.advise(DST + PAGE, 1, 'pageout');
  at.arm(VmFlag.UffdMissing | VmFlag.UffdWp);
  at.plant(DST + 3 * PAGE, POISON_ENTRY);
  at.plant(DST + 4 * PAGE, WP_MARKER);
  const before = at.describe();
  for (let i = 0; i < 5; i++) {
    const to = DST + i * PAGE;
    expect(at.said(core.mfill.zeropage(ctx, to, PAGE))).toEqual(['EEXIST', 'EEXIST']);
    expect(at.said(core.mfill.poison(ctx, to, PAGE))).toEqual(['EEXIST', 'EEXIST']);
    if (i < 3) expect(at.said(core.mfill.copy(ctx, to, page(1), PAGE))).toEqual(['EEXIST', 'EEXIST']);
  }
  expect(at.describe()).toBe(before);
  for (const i of [3, 4]) expect(core.mfill.copy(ctx, DST + i * PAGE, page(9), PAGE)).toBe(0);
  expect(core.mfill.zeropage(ctx, DST + 5 * PAGE, PAGE)).toBe(0);
  expect(at.describe()).toBe(`0x20000000-0x20006000 rw- anon um uw
  0x20000000 page writable dirty
  0x20001000 swap exclusive
  0x20002000 zero
  0x20003000 page writable dirty ×2
  0x20005000 zero
0x30000000-0x30006000 rw- anon`);
  core.checkInvariants();
});

test('V-30: gate, then range, then mode, then the space; the last three leave the field alone', () => {
  const at = new Resolving(2);
  const { core, ctx, mm } = at;
  core.uffds.beginChange(ctx);
  expect(at.said(core.mfill.copy(ctx, DST + 1, page(1), 0, 9))).toEqual(['EAGAIN', 'EAGAIN']);
  core.uffds.endChange(ctx);
  const { mfill } = core;
  const refused = ['EINVAL', undefined];
  expect(at.said(mfill.copy(ctx, DST + 1, page(1), PAGE))).toEqual(refused);
  expect(at.said(mfill.copy(ctx, DST, page(1), 0))).toEqual(refused);
  expect(at.said(mfill.copy(ctx, DST, page(1), 2 * PAGE))).toEqual(refused);
  expect(at.said(mfill.copyFrom(ctx, DST, mm, 2 ** 39 - 1, PAGE))).toEqual(refused);
  expect(at.said(mfill.copy(ctx, DST, page(1), PAGE, 4))).toEqual(refused);
  expect(at.said(mfill.zeropage(ctx, DST, PAGE, 2))).toEqual(refused);
  expect(at.said(mfill.poison(ctx, DST, PAGE, 2))).toEqual(refused);
  expect(at.said(mfill.zeropage(ctx, DST, 2 ** 39))).toEqual(refused);
  at.arm(0);
  core.exit(mm);
  expect(at.said(mfill.zeropage(ctx, DST, PAGE))).toEqual(['ESRCH', undefined]);
});

test('V-38, V-33: a range that leaves its VMA, or one that nobody registered, is ENOENT; WP without its mode EINVAL', () => {
  const at = new Resolving(4);
  const { core, ctx, mm } = at;
  const fill = (to: number, pages: number, mode = 0) =>
    at.said(core.mfill.copy(ctx, to, new Uint8Array(pages * PAGE), pages * PAGE, mode));
  expect(fill(DST + 64 * PAGE, 1)).toEqual(['ENOENT', 'ENOENT']);
  expect(fill(DST + 3 * PAGE, 2)).toEqual(['ENOENT', 'ENOENT']);
  expect(fill(SRC, 1)).toEqual(['ENOENT', 'ENOENT']);
  expect(fill(DST, 1, 2)).toEqual(['EINVAL', 'EINVAL']);
  expect(at.said(core.mfill.continue(ctx, DST, PAGE))).toEqual(['EINVAL', 'EINVAL']);
  // Whatever splits the VMA breaks calls across the split, though the first pages would fit.
  core.madvise.advise(mm, DST + 2 * PAGE, PAGE, 'dontfork');
  expect(fill(DST, 4)).toEqual(['ENOENT', 'ENOENT']);
  expect(fill(DST, 2)).toEqual([0, 2 * PAGE]);
  core.pageAlloc.failAt(1, 100);
  expect(fill(DST + 2 * PAGE, 1)).toEqual(['ENOMEM', 'ENOMEM']);
  core.pageAlloc.failAt(0, 0);
  core.checkInvariants();
});

test('V-30: a call that stops half-way is EAGAIN, with the bytes in the field', () => {
  const at = new Resolving(4);
  const { core, ctx } = at;
  expect(core.mfill.copy(ctx, DST + 2 * PAGE, page(5), PAGE)).toBe(0);
  expect(at.said(core.mfill.zeropage(ctx, DST, 4 * PAGE))).toEqual(['EAGAIN', 2 * PAGE]);
  expect(at.said(core.mfill.zeropage(ctx, DST + 2 * PAGE, 2 * PAGE))).toEqual(['EEXIST', 'EEXIST']);
  core.checkInvariants();
});

/** Two threads with the same page; the second one comes while the first has its page in hand. */
function race(fillWithoutRecheck: boolean) {
  const at = new Resolving(1, { breaks: { fillWithoutRecheck } });
  const other = at.thread();
  const frames = at.core.pageAlloc.freeFrames;
  let second = -1;
  at.once('V.c', () => {
    second = other.mfill.copy(at.ctx, DST, page(2), PAGE);
  });
  const first = at.core.mfill.copy(at.ctx, DST, page(1), PAGE);
  return { at, said: [name(first), name(second)], frames };
}

test('T-UF-05, R-6: of two resolvers of a page one succeeds, and the other’s frame and charge are given back; without the recheck not', () => {
  const { at, said, frames } = race(false);
  expect(said).toEqual(['EEXIST', 0]);
  expect([at.read(DST), at.usage()]).toEqual([0x02020202, 1]);
  at.core.lru.drainAll();
  expect(frames - at.core.pageAlloc.freeFrames).toBeLessThanOrEqual(5); // the page, tables, a slab
  at.core.checkInvariants();
  const broken = race(true);
  expect(broken.said).toEqual([0, 0]);
  expect(() => broken.at.core.checkInvariants()).toThrow('M');
});

test('T-UF-08: COPY with DONTWAKE leaves the sleeper, a wake releases it; without, the range that was filled wakes', () => {
  const at = new Resolving(2);
  const { core, ctx } = at;
  expect(at.fault(DST, true)).toBe('blocked');
  const ticket = core.gup.ticket;
  expect(core.mfill.copy(ctx, DST, page(1), PAGE, 1)).toBe(0);
  expect(core.uffdWaits.isOver(ticket)).toBe(false);
  expect(core.uffds.wakeRange(ctx, DST / PAGE, DST / PAGE + 1)).toBe(1);
  expect(core.uffdWaits.isOver(ticket)).toBe(true);
  core.uffds.queues.finish(ticket);
  expect(at.fault(DST + PAGE, false)).toBe('blocked');
  expect(core.mfill.zeropage(ctx, DST + PAGE, PAGE)).toBe(0);
  expect(core.uffdWaits.isOver(core.gup.ticket)).toBe(true);
  core.uffds.queues.finish(core.gup.ticket);
  core.checkInvariants();
});

test('T-UF-10: after ZEROPAGE a read goes on, and a write breaks off a copy with no user fault; without the rule it fails', () => {
  proven({ zeroIsHole: true }, breaks => {
    const at = new Resolving(1, { breaks });
    expect(at.core.mfill.zeropage(at.ctx, DST, PAGE)).toBe(0);
    expect([at.fault(DST, false), at.fault(DST, true)]).toEqual(['page', 'page']);
    expect(at.describe()).toContain('0x20000000 page writable dirty');
    expect(at.core.uffds.queues.counts(at.ctx)).toEqual({ pending: 0, read: 0, events: 0 });
    at.core.checkInvariants();
  });
});

test('T-UF-11: two threads in SIGBUS mode both remap: one succeeds, one has EEXIST, both accesses go on; without the rule it fails', () => {
  proven({ moveOntoPages: true, moveWithoutRecheck: true }, breaks => {
    const at = new Resolving(2, { breaks });
    at.fill();
    at.arm(0);
    at.core.madvise.advise(at.mm, DST, 2 * PAGE, 'userfault');
    const other = at.thread();
    const said: (string | number)[] = [];
    other.access.onSigbus((mm, address) => {
      said.push(name(other.move.remapAnonPages(mm, address - (address % PAGE), SRC + PAGE, PAGE, 0)));
      return true;
    });
    at.core.access.onSigbus((mm, address) => {
      expect(other.access.read32(mm, address)).toBe(101); // the other is quicker
      said.push(name(at.core.move.remapAnonPages(mm, address - (address % PAGE), SRC, PAGE, 0)));
      return true;
    });
    expect(at.read(DST + 8 - 8)).toBe(101);
    expect(said).toEqual([PAGE, 'EEXIST']);
    expect(at.read(SRC)).toBe(100); // the loser's page is untouched
    at.core.checkInvariants();
  });
});

test('T-UF-18: a source that is swapped out, or across two pages, is read; one that can’t be is EFAULT', () => {
  const at = new Resolving(4);
  const { core, ctx, mm } = at;
  at.fill();
  at.advise(SRC, 2, 'pageout');
  expect(at.said(core.mfill.copyFrom(ctx, DST, mm, SRC + 4, 2 * PAGE))).toEqual([0, 2 * PAGE]);
  expect([at.read(DST + PAGE - 4), at.read(DST + 2 * PAGE - 4)]).toEqual([101, 102]);
  // The third page of this source is not mapped.
  expect(at.said(core.mfill.copyFrom(ctx, DST + 2 * PAGE, mm, SRC + 3 * PAGE, 2 * PAGE))).toEqual([
    'EAGAIN',
    PAGE,
  ]);
  expect(at.said(core.mfill.copyFrom(ctx, DST + 3 * PAGE, mm, SRC + 4 * PAGE, PAGE))).toEqual([
    'EFAULT',
    'EFAULT',
  ]);
  expect(at.entry(DST + 3 * PAGE)).toBe(0);
  core.checkInvariants();
});

test('T-UF-18, V-31: after the source was faulted in everything is looked at anew: the gate, the VMA, the entry', () => {
  const outcomes = [
    ['EAGAIN', (at: Resolving) => at.core.uffds.beginChange(at.ctx)],
    ['ENOENT', (at: Resolving) => at.core.mmap.unmap(at.mm, DST, PAGE)],
    ['EEXIST', (at: Resolving) => void at.thread().mfill.zeropage(at.ctx, DST, PAGE)],
    [0, () => {}],
  ] as const;
  for (const [said, meanwhile] of outcomes) {
    const at = new Resolving(1);
    at.fill();
    at.advise(SRC, 1, 'pageout');
    const before = at.usage();
    at.once('V.slept', () => meanwhile(at));
    expect(name(at.core.mfill.copyFrom(at.ctx, DST, at.mm, SRC, PAGE))).toBe(said);
    expect(at.usage() - before).toBe(said === 0 ? 2 : 1); // the source came in
    if (said === 'EAGAIN') at.core.uffds.endChange(at.ctx);
    at.core.checkInvariants();
  }
});

test('T-UF-18: a source that is another context’s hole sleeps with no lock held; its manager may fill on this thread; without the rule it fails', () => {
  proven({ copyGivesUp: true }, breaks => {
    const at = new Resolving(2, { breaks });
    const { core, ctx, mm } = at;
    const theirs = core.uffds.create(mm, 0);
    core.layout.vma.uffd.set(core.mmap.find(mm, SRC), theirs);
    const { lo, hi } = core.vmas.flags(core.mmap.find(mm, SRC));
    core.vmas.setFlags(core.mmap.find(mm, SRC), lo | VmFlag.UffdMissing, hi);
    core.uffdWaits.serveInline(theirs, () => {
      core.sync.lockdep?.assertNone();
      const code = core.mfill.copy(theirs, SRC, page(6), PAGE);
      return code === 0;
    });
    expect(at.said(core.mfill.copyFrom(ctx, DST, mm, SRC, PAGE))).toEqual([0, PAGE]);
    expect(at.read(DST)).toBe(0x06060606);
    core.checkInvariants();
  });
});

test('V-34, V-60: poison is EHWPOISON for an access, EFAULT for a system call; DONTNEED clears, fork copies, COPY replaces', () => {
  const at = new Resolving(3);
  const { core, ctx, mm } = at;
  expect(at.said(core.mfill.poison(ctx, DST, 3 * PAGE))).toEqual([0, 3 * PAGE]);
  expect([at.fault(DST, false), at.fault(DST, true)]).toEqual(['EHWPOISON', 'EHWPOISON']);
  const failure = (work: () => void): string => {
    try {
      work();
      return 'ok';
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  expect(failure(() => core.access.copyFromUser(mm, DST, new Uint8Array(4)))).toBe('EFAULT');
  expect(failure(() => core.madvise.advise(mm, DST, PAGE, 'populate-read'))).toBe('EHWPOISON');
  const child = core.fork(mm);
  expect(core.describe(child)).toContain('0x20000000 poison ×3');
  at.advise(DST, 1, 'dontneed');
  expect(core.mfill.copy(ctx, DST + PAGE, page(4), PAGE)).toBe(0);
  expect(at.describe()).toContain(`um
  0x20001000 page writable dirty
  0x20002000 poison
`);
  core.checkInvariants();
});

test('T-FRK-10, T-DN-02: while a change is under way COPY is EAGAIN, afterwards it is simply repeated', () => {
  const at = new Resolving(1);
  at.core.uffds.beginChange(at.ctx);
  expect(name(at.core.mfill.copy(at.ctx, DST, page(1), PAGE))).toBe('EAGAIN');
  at.core.uffds.endChange(at.ctx);
  expect(name(at.core.mfill.copy(at.ctx, DST, page(1), PAGE))).toBe(0);
});

test('T-SWP-01, -15, C-1, U-10: a resolved page, zeros too, goes to swap and comes back with no user fault; without the rule it fails', () => {
  proven({ swapIsHole: true }, breaks => {
    const at = new Resolving(2, { breaks });
    const { core, ctx } = at;
    core.mfill.copy(ctx, DST, page(3), PAGE);
    core.mfill.copy(ctx, DST + PAGE, page(0), PAGE);
    at.advise(DST, 2, 'pageout');
    expect(at.describe()).toContain('0x20000000 swap exclusive ×2');
    expect([at.fault(DST, false), at.fault(DST + PAGE, true)]).toEqual(['page', 'page']);
    expect([at.read(DST), at.read(DST + PAGE)]).toEqual([0x03030303, 0]);
    expect(core.uffds.queues.counts(ctx)).toEqual({ pending: 0, read: 0, events: 0 });
    expect(core.vmstat.read('pswpin')).toBe(2);
    core.checkInvariants();
  });
});

test('T-SWP-04, U-10: a clean MADV_FREE page that reclaim takes is a hole again, and asked for; without the rule it fails', () => {
  proven({ fillArmed: true }, breaks => {
    const at = new Resolving(1, { breaks });
    const { core, ctx } = at;
    core.mfill.copy(ctx, DST, page(3), PAGE);
    core.lru.drainAll();
    at.advise(DST, 1, 'free');
    at.advise(DST, 1, 'pageout');
    expect(at.entry(DST)).toBe(0);
    expect(at.fault(DST, false)).toBe('blocked');
    expect(at.message()).toBe(0);
    core.checkInvariants();
  });
});

test('T-SWP-08: COPY at the limit with everything swappable reclaims and goes on, sleepers holding no lock; without the rule it fails', () => {
  proven({ chargeWithoutReclaim: true }, breaks => {
    const at = new Resolving(96, { limitPages: 32, breaks });
    const { core, ctx } = at;
    expect(at.fault(DST + 95 * PAGE, false)).toBe('blocked');
    const sleeper = core.gup.ticket;
    for (let i = 0; i < 96; i++)
      expect(name(core.mfill.copy(ctx, DST + i * PAGE, page(i + 1), PAGE))).toBe(0);
    expect(core.uffdWaits.isOver(sleeper)).toBe(true);
    core.uffds.queues.finish(sleeper);
    for (let i = 0; i < 96; i++) expect(at.read(DST + i * PAGE) & 0xff).toBe(i + 1);
    expect(at.usage()).toBeLessThanOrEqual(32);
    core.checkInvariants();
  });
});

test('V-30: COPY that a fatal signal ends after a page says what it has done', () => {
  let left = 2;
  const at = new Resolving(8, { killed: () => --left < 0 });
  expect(at.said(at.core.mfill.zeropage(at.ctx, DST, 8 * PAGE))).toEqual(['EAGAIN', 3 * PAGE]);
  at.core.checkInvariants();
});

test('V-39: any context fills what another one of the space has registered; with strictOwner it is ENOENT', () => {
  const at = new Resolving(1);
  const other = at.core.uffds.create(at.mm, 0);
  expect(name(at.core.mfill.copy(other, DST, page(1), PAGE))).toBe(0);
  const strict = new Resolving(1, { strictOwner: true });
  const another = strict.core.uffds.create(strict.mm, 0);
  expect(name(strict.core.mfill.copy(another, DST, page(1), PAGE))).toBe('ENOENT');
});
