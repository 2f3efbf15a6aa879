import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { Arena } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { Sync } from '../../sync/sync.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import type { MmBreaks } from '../breaks.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../core.ts';
import { GUP_PFN_MASK } from '../fault-codes.ts';
import { PageFlag } from '../layout.ts';

/** Two threads' views of one arena, and a limited space. A frame that was the first's is in its pagevec, and free. */
function stale(breaks: Partial<MmBreaks>) {
  const arena = Arena.create({ frames: 256, heapBytes: 1 << 20, shared: false });
  const config: MmConfig = { pageOps: createPageOps(arena.memory, false), poison: true, breaks };
  const a = initMm(new Sync(arena, { lockdep: true }), config);
  const b = attachMm(new Sync(arena, { lockdep: true }), config);
  const mm = a.createMm({ limitPages: 64 });
  const at = a.mmap.map(mm, 4 * PAGE_SIZE);
  const touch = (core: MmCore, page: number): number => {
    const pfn = core.gup.fault(mm, at / PAGE_SIZE + page, true) & GUP_PFN_MASK;
    core.pages.put(pfn);
    return pfn;
  };
  touch(b, 1); // tables and records, so that what comes next is a page
  const pfn = touch(a, 0);
  b.madvise.advise(mm, at, PAGE_SIZE, 'dontneed');
  return { a, b, pfn, touch };
}

/** The other thread takes the frame again, and the first empties its pagevec as soon as it is there. */
function bornAgain(breaks: Partial<MmBreaks>): void {
  const { a, b, pfn, touch } = stale(breaks);
  const { pageAlloc } = b;
  const allocUser = pageAlloc.allocUser.bind(pageAlloc);
  pageAlloc.allocUser = (refs, flags, memcg) => {
    const found = allocUser(refs, flags, memcg);
    a.lru.drain();
    return found;
  };
  expect(touch(b, 2)).toBe(pfn);
  b.lru.drain();
  a.checkInvariants();
}

test('M-6 R6: a frame that is born again goes to the list of the group it is charged to; without the rule to another', () => {
  bornAgain({});
  expect(() => bornAgain({ bornUnowned: true })).toThrow('R6');
});

test('M-6: a pagevec that names a frame from an earlier life leaves it alone until it says whose it is', () => {
  const { a, pfn } = stale({});
  const { flags, refcount } = a.layout.page;
  const p = a.pages.at(pfn);
  expect(refcount.load(p)).toBe(0);
  // As in the midst of PageAlloc.alloc.
  flags.store(p, PageFlag.LruPending);
  a.lru.drain();
  expect(flags.load(p)).toBe(PageFlag.LruPending);
  expect(a.lru.count(a.lru.lruvecOf(0 as Ptr<'memcg'>), false)).toBe(0);
});
