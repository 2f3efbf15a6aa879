import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import { GUP_PFN_MASK } from './fault-codes.ts';
import { HUGE_BYTES, HugeRig } from './huge/huge-testing.ts';
import { Pte } from './layout.ts';
import { STORE_HOLD } from './page.ts';
import { VPN_MAX } from './page-table.ts';

type Mm = Ptr<'mm'>;

/** A page of each kind from `HugeRig.AT` on: a huge one, then ones with an entry of every kind, then no table. */
class Kinds extends HugeRig {
  readonly child: Mm;

  constructor() {
    super({ areas: 3 });
    const page = 512;
    this.touch(0, true);
    this.advise('nohugepage', page, 512);
    for (let i = 1; i < 8; i++) this.touch(page + i, i % 2 === 1);
    this.advise('pageout', page + 1);
    this.core.mmap.protect(this.mm, this.at(page + 3), PAGE_SIZE, { read: true });
    this.change(page + 4, 0, Pte.Young);
    this.change(page + 5, Pte.ProtNone, 0);
    this.change(page + 7, 0, Pte.Dirty);
    this.child = this.core.fork(this.mm);
    this.touch(page + 9, true);
  }

  change(page: number, set: number, clear: number): void {
    const { pageTable } = this.core;
    const pte = pageTable.walk(this.mm, this.at(page) / PAGE_SIZE);
    pageTable.lock(pte);
    pageTable.change(pte, set, clear);
    pageTable.unlock(pte);
  }

  /** What is held for a store to each page, which each walk answers as it does to a write. */
  holds(): number[] {
    const { gup, pages } = this.core;
    return this.pages.map(vpn => {
      const walked = gup.walk(this.mm, vpn, true, STORE_HOLD);
      const looked = gup.walk(this.mm, vpn, true, 0);
      expect(looked).toBe(walked);
      if (walked < 0) return walked;
      const refs = pages.refcount(walked & GUP_PFN_MASK);
      pages.endHold(walked & GUP_PFN_MASK);
      expect(gup.holdWait(this.mm, vpn)).toBe(walked & GUP_PFN_MASK);
      expect(pages.refcount(walked & GUP_PFN_MASK)).toBe(refs);
      pages.endHold(walked & GUP_PFN_MASK);
      return walked;
    });
  }

  readonly pages = [0, 1, 511, ...Array.from({ length: 12 }, (_, i) => 512 + i), 1024, 1535, 1536].map(
    page => this.at(page) / PAGE_SIZE,
  );

  /** What a walk answers for each page, and how many references it took. */
  answers(walk: (mm: Mm, vpn: number, write: boolean) => number): number[] {
    const { pages } = this.core;
    const all = this.pages.concat(0, -1, VPN_MAX - 1, VPN_MAX, 2 ** 32);
    return [this.mm, this.child].flatMap(mm =>
      all.flatMap(vpn =>
        [false, true].flatMap(write => {
          const found = walk(mm, vpn, write);
          if (found < 0) return [found];
          const refs = pages.refcount(found & GUP_PFN_MASK);
          pages.put(found & GUP_PFN_MASK);
          return [found, refs];
        }),
      ),
    );
  }
}

test('M-24, N-25: the generated walk answers what the one in TypeScript does, references included', () => {
  const rig = new Kinds();
  const { gup, layout } = rig.core;
  const compare = (): number[] => {
    const fast = rig.answers((mm, vpn, write) => gup.fast(mm, vpn, write));
    expect(fast).toEqual(rig.answers((mm, vpn, write) => gup.walk(mm, vpn, write)));
    return fast;
  };
  expect(new Set(compare()).size).toBeGreaterThan(8);
  expect(rig.holds().some(pfn => pfn >= 0)).toBe(true);
  // Odd: tables or rights are being taken away.
  layout.mm.wpSeq.add(rig.mm, 1);
  layout.mm.wpSeq.add(rig.child, 1);
  expect(new Set(compare())).toEqual(new Set([-200]));
  layout.mm.wpSeq.add(rig.mm, 1);
  layout.mm.wpSeq.add(rig.child, 1);
  rig.advise('dontneed', 0, (3 * HUGE_BYTES) / PAGE_SIZE);
  compare();
  rig.core.exit(rig.child);
  rig.core.checkInvariants();
});

test('V-36: a store holds a page of a huge entry, too, and who takes rights away waits for what holds it alone', () => {
  const rig = new HugeRig({ areas: 1 });
  const { gup, pages } = rig.core;
  rig.touch(0, true);
  const pfn = gup.holdWait(rig.mm, rig.at(7) / PAGE_SIZE);
  expect(pages.refcount(pfn)).toBe(1 + STORE_HOLD);
  // In one-worker mode nobody else could end it.
  expect(() => pages.settle(pfn)).toThrow('one-worker mode');
  pages.endHold(pfn);
  pages.get(pfn);
  pages.settle(pfn);
  pages.put(pfn);
  rig.core.checkInvariants();
});
