import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { frameWord } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmBreaks } from '../breaks.ts';
import { GUP_PFN_MASK } from '../fault-codes.ts';
import { PageFlag } from '../layout.ts';
import type { MmuNotifierOps } from '../mmu-notifier-ops.ts';
import { proven } from '../userfaultfd/manager-testing.ts';
import type { SwapBackend } from './swap-backend.ts';
import { Swapping } from './swapping-testing.ts';

const NOTHING = 'slots 0, cached 0, frames 0, heap 0';
const word = (page: number): number => Math.imul(page, 0x9e3779b1) | 1;

test('memory of four times the limit keeps its contents, and takes no more frames than allowed (T-SWP-14); without the rule it fails', () => {
  for (const rule of [{ unmapForgetsDirty: true }, { chargeWithoutReclaim: true }])
    proven(rule, breaks => {
      const world = new Swapping({ breaks });
      const { mm, at } = world.map(400, 100);
      const { access, layout } = world.mm;
      for (let i = 0; i < 400; i++) access.write32(mm, at + i * PAGE_SIZE + 8, word(i));
      for (let round = 0; round < 3; round++) {
        for (let i = 0; i < 400; i++) {
          expect(access.read32(mm, at + i * PAGE_SIZE + 8)).toBe(word(i + round));
          access.write32(mm, at + i * PAGE_SIZE + 8, word(i + round + 1));
        }
      }
      world.mm.checkInvariants();
      expect(layout.memcg.peak.load(layout.mm.memcg.get(mm))).toBeLessThanOrEqual(100);
      expect([world.counter('pswpin') > 300, world.counter('pswpout') > 300]).toEqual([true, true]);
      world.mm.exit(mm);
      world.mm.checkInvariants();
      expect(world.leftovers()).toBe(NOTHING);
    });
});

test('a page that was swapped out comes back when touched (T-SWP-01)', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1);
  world.mm.access.write32(mm, at, 7);
  expect([world.pageOut(mm, at), world.mm.layout.mm.swapEnts.load(mm)]).toEqual([true, 1]);
  expect([world.mm.access.read32(mm, at), world.mm.layout.mm.swapEnts.load(mm)]).toEqual([7, 0]);
  expect(world.counter('pgmajfault')).toBe(1);
});

test('a page only read since it came back goes again without a write, one written with', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1);
  const { access } = world.mm;
  access.write32(mm, at, 7);
  world.pageOut(mm, at);
  expect([world.counter('pswpout'), access.read32(mm, at)]).toEqual([1, 7]);
  expect([world.pageOut(mm, at), world.counter('pswpout')]).toEqual([true, 1]);
  expect(access.read32(mm, at)).toBe(7);
  access.write32(mm, at, 8);
  expect([world.pageOut(mm, at), world.counter('pswpout')]).toEqual([true, 2]);
  expect(access.read32(mm, at)).toBe(8);
  world.mm.exit(mm);
  expect(world.leftovers()).toBe(NOTHING);
});

test('a page that somebody holds stays until it is let go (T-SWP-03); without the rule it fails', () => {
  proven({ ignorePinned: true }, breaks => {
    const world = new Swapping({ breaks });
    const { mm, at } = world.map(1);
    world.mm.access.write32(mm, at, 7);
    const pfn = world.mm.gup.fault(mm, at / PAGE_SIZE, true) & 0xffffff;
    world.pageOut(mm, at);
    // As a device would, past every page table.
    world.sync.words[pfn * 1024] = 9;
    world.mm.pages.setDirty(pfn);
    expect([world.mm.access.read32(mm, at), world.pfn(mm, at)]).toEqual([9, pfn]);
    world.mm.pages.put(pfn);
    expect([world.pageOut(mm, at), world.mm.access.read32(mm, at)]).toEqual([true, 9]);
  });
});

const subscriber = (ops: Partial<MmuNotifierOps>): MmuNotifierOps => ({
  name: 'test',
  pins: false,
  invalidateRangeStart: () => 0,
  ...ops,
});

// C-14
test('MADV_FREE drops a clean page, and keeps one that a secondary wrote (T-SWP-05); without the rule it fails', () => {
  proven({ freeForgetsDirty: true }, breaks => {
    const world = new Swapping({ breaks });
    const { mm, at } = world.map(2);
    const { notifiers, madvise, access, pages } = world.mm;
    for (const page of [0, 1]) access.write32(mm, at + page * PAGE_SIZE, 7);
    const frames = [0, 1].map(page => world.pfn(mm, at + page * PAGE_SIZE));
    madvise.advise(mm, at, 2 * PAGE_SIZE, 'free');
    // The second page's leaf is found dirty when it is zapped.
    const zap = (_s: number, _mm: number, start: number) => {
      if (start === at / PAGE_SIZE + 1) pages.setDirty(frames[1] as number);
      return 0;
    };
    const ops = notifiers.registerOps(subscriber({ invalidateRangeStart: zap }));
    notifiers.register(mm, ops, 1);
    world.pageOut(mm, at);
    world.pageOut(mm, at + PAGE_SIZE);
    expect([access.read32(mm, at), access.read32(mm, at + PAGE_SIZE)]).toEqual([0, 7]);
    expect(world.counter('pglazyfreed')).toBe(1);
  });
});

// C-3, M-32
test('when the swap entry cannot be had the pte is restored, and the data with it (T-SWP-12); without the rule it fails', () => {
  proven({ unmapWithoutRestore: true }, breaks => {
    const world = new Swapping({ breaks });
    const { mm, at } = world.map(1);
    const seen: string[] = [];
    const ops = world.mm.notifiers.registerOps(
      subscriber({
        invalidateRangeStart: () => Number(seen.push('start')) & 0,
        invalidateRangeEnd: () => void seen.push('end'),
      }),
    );
    world.mm.notifiers.register(mm, ops, 1);
    world.mm.access.write32(mm, at, 7);
    const pfn = world.pfn(mm, at);
    world.mm.swap.duplicate = () => false;
    world.pageOut(mm, at);
    expect([seen, world.pfn(mm, at), world.mm.access.read32(mm, at)]).toEqual([['start', 'end'], pfn, 7]);
  });
});

test('a leaf that holds a reference is taken away before references are counted (T-SWP-13)', () => {
  const takes = (hears: boolean, breaks: Partial<MmBreaks> = {}): boolean => {
    const world = new Swapping({ breaks });
    const { mm, at } = world.map(1);
    world.mm.access.write32(mm, at, 7);
    const pfn = world.pfn(mm, at);
    world.mm.pages.get(pfn); // the leaf's
    const invalidatePage = () => world.mm.pages.put(pfn);
    const ops = world.mm.notifiers.registerOps(
      subscriber({ pins: true, ...(hears ? { invalidatePage } : {}) }),
    );
    world.mm.notifiers.register(mm, ops, 1);
    return world.pageOut(mm, at) && !world.mm.pages.has(pfn, PageFlag.SwapCache);
  };
  expect([takes(true), takes(false), takes(true, { unmapWithoutNotify: true })]).toEqual([
    true,
    false,
    false,
  ]);
});

test('a page of zeros comes back as a page that is there, not as a hole (T-SWP-15)', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1);
  world.mm.access.write32(mm, at, 0);
  world.pageOut(mm, at);
  const zeroMapped = world.counter('zero_page_map');
  expect(world.mm.access.read32(mm, at)).toBe(0);
  expect([world.pfn(mm, at) !== 0, world.counter('zero_page_map') - zeroMapped]).toEqual([true, 0]);
});

test('a failing device keeps pages in memory; what it cannot read is a bus error (T-SWP-10); without the rule it fails', () => {
  proven({ swapErrorReadsOn: true }, breaks => {
    const world = new Swapping({ breaks });
    const { mm, at } = world.map(2);
    const device = world.mm.swapDevice as SwapBackend;
    for (const page of [0, 1]) world.mm.access.write32(mm, at + page * PAGE_SIZE, 7);
    world.pageOut(mm, at);
    device.readPage = () => 'error';
    expect(() => world.mm.access.read32(mm, at)).toThrow('EHWPOISON');
    device.writePage = () => 'error';
    world.pageOut(mm, at + PAGE_SIZE);
    expect([world.mm.access.read32(mm, at + PAGE_SIZE), world.mm.swap.isFull()]).toEqual([7, true]);
    world.mm.checkInvariants();
  });
});

test('without swap a write beyond the limit is out of memory, and memory given back can be used', () => {
  const world = new Swapping({ swap: { kind: 'none' } });
  const { mm, at } = world.map(80, 64);
  for (let i = 0; i < 64; i++) world.mm.access.write8(mm, at + i * PAGE_SIZE, 1);
  expect(() => world.mm.access.write8(mm, at + 64 * PAGE_SIZE, 1)).toThrow('ENOMEM');
  expect(world.usage(mm)).toBe(64);
  world.mm.madvise.advise(mm, at, PAGE_SIZE, 'dontneed');
  world.mm.access.write8(mm, at + 64 * PAGE_SIZE, 1);
  expect(() => world.mm.createMm({ limitPages: 8 })).toThrow('EINVAL');
});

test('with swap full what is resident stays, and the write that needs more is out of memory', () => {
  const world = new Swapping({ swap: { kind: 'zram', bytes: 16 * PAGE_SIZE } });
  const { mm, at } = world.map(100, 64);
  const { access } = world.mm;
  for (let i = 0; i < 80; i++) access.write32(mm, at + i * PAGE_SIZE, word(i));
  expect(() => access.write8(mm, at + 80 * PAGE_SIZE, 1)).toThrow('ENOMEM');
  world.mm.checkInvariants();
  world.mm.madvise.advise(mm, at, 8 * PAGE_SIZE, 'dontneed');
  for (let i = 8; i < 80; i++) expect(access.read32(mm, at + i * PAGE_SIZE)).toBe(word(i));
  world.mm.checkInvariants();
  world.mm.exit(mm);
  expect(world.leftovers()).toBe(NOTHING);
});

test('a limit lowered on a live address space swaps the difference out', () => {
  const world = new Swapping();
  const { mm, at } = world.map(200, 200);
  const { access, memcontrol, layout } = world.mm;
  for (let i = 0; i < 200; i++) access.write32(mm, at + i * PAGE_SIZE, word(i));
  memcontrol.setMax(layout.mm.memcg.get(mm), 50, 40);
  expect(world.usage(mm)).toBeLessThanOrEqual(50);
  for (let i = 0; i < 200; i++) expect(access.read32(mm, at + i * PAGE_SIZE)).toBe(word(i));
  world.mm.checkInvariants();
});

test('a shared page goes out once, and each side gets its own back after writing', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1, 64);
  const { access, vmscan, layout } = world.mm;
  access.write32(mm, at, 7);
  const child = world.mm.fork(mm);
  expect(vmscan.reclaim(layout.mm.memcg.get(mm), 1)).toBe(1);
  expect([world.pfn(mm, at), world.pfn(child, at), world.counter('pswpout')]).toEqual([0, 0, 1]);
  access.write32(child, at, 8);
  expect([access.read32(mm, at), access.read32(child, at)]).toEqual([7, 8]);
  world.mm.checkInvariants();
  world.mm.exit(child);
  access.write32(mm, at, 9);
  world.mm.exit(mm);
  expect(world.leftovers()).toBe(NOTHING);
});

test('a page of the swap cache that both sides copy away from at once gives its slot back', () => {
  const world = new Swapping({ lockdep: false });
  const { mm, at } = world.map(1, 64);
  const { access, swap } = world.mm;
  access.write32(mm, at, 7);
  world.pageOut(mm, at);
  access.read32(mm, at);
  const child = world.mm.fork(mm);
  world.at = label => {
    if (label !== 'M.0') return;
    world.at = () => {};
    access.write32(child, at, 9);
  };
  access.write32(mm, at, 8);
  expect([access.read32(mm, at), access.read32(child, at), swap.slots.used]).toEqual([8, 9, 0]);
});

/** At `label`, once, the page is brought back, written and swapped out again by somebody else. */
function meanwhile(world: Swapping, mm: Ptr<'mm'>, at: number, label: string): void {
  world.at = reached => {
    if (reached !== label) return;
    world.at = () => {};
    world.mm.access.write32(mm, at, 8);
    world.pageOut(mm, at);
  };
}

// M-33
test('a slot freed and handed out again during a swap-in: the pte alone does not tell (mm-figures B.3)', () => {
  const world = new Swapping({ breaks: { swapInByPteAlone: true }, lockdep: false });
  const { mm, at } = world.map(1);
  world.mm.access.write32(mm, at, 7);
  world.pageOut(mm, at);
  meanwhile(world, mm, at, 'S.in');
  expect(world.mm.access.read32(mm, at)).toBe(7); // 8 was written
});

// M-33
test('while a slot is read the page that will hold it is locked in the swap cache, so nobody gets past', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1);
  world.mm.access.write32(mm, at, 7);
  world.pageOut(mm, at);
  const device = world.mm.swapDevice as SwapBackend;
  const read = device.readPage.bind(device);
  const seen: unknown[] = [];
  device.readPage = (slot, pfn) => {
    seen.push(world.mm.swap.lookupCache(0) === pfn, world.mm.pages.tryLock(pfn));
    world.mm.pages.put(pfn);
    return read(slot, pfn);
  };
  expect([world.mm.access.read32(mm, at), seen]).toEqual([7, [true, false]]);
});

const PAGES = 96;
type Step = { kind: number; page: number; count: number };
const steps = fc.array(
  fc.record({ kind: fc.nat(11), page: fc.nat(PAGES - 1), count: fc.integer({ min: 1, max: 40 }) }),
  { minLength: 60, maxLength: 160 },
);

/** An address space beside arrays that say what it must hold; a child of it now and then. */
class Model {
  readonly world = new Swapping({ frames: 512 });
  readonly #root: { mm: Ptr<'mm'>; words: Int32Array };
  readonly #at: number;
  #child: { mm: Ptr<'mm'>; words: Int32Array } | undefined;
  #value = 0;

  constructor() {
    const { mm, at } = this.world.map(PAGES, 48);
    this.#root = { mm, words: new Int32Array(PAGES) };
    this.#at = at;
  }

  step({ kind, page, count }: Step): void {
    const { mm } = this.world;
    const one = kind % 2 === 1 && this.#child !== undefined ? this.#child : this.#root;
    const address = this.#at + page * PAGE_SIZE;
    const bytes = Math.min(count, PAGES - page) * PAGE_SIZE;
    const memcg = mm.layout.mm.memcg.get(one.mm);
    if (kind < 4) this.#fill(one, page, Math.min(count, PAGES - page));
    else if (kind < 6) mm.vmscan.reclaim(memcg, count);
    else if (kind < 8) mm.madvise.advise(one.mm, address, bytes, 'pageout');
    else if (kind === 8) mm.vmscan.age(memcg, count);
    else if (kind === 9) {
      mm.madvise.advise(one.mm, address, bytes, 'dontneed');
      one.words.fill(0, page, page + bytes / PAGE_SIZE);
    } else if (kind === 10) this.#forkOrExit();
    else this.#check(one, page);
  }

  #fill(one: { mm: Ptr<'mm'>; words: Int32Array }, page: number, count: number): void {
    for (let i = page; i < page + count; i++) {
      one.words[i] = ++this.#value;
      this.world.mm.access.write32(one.mm, this.#at + i * PAGE_SIZE + 64, this.#value);
    }
  }

  #check(one: { mm: Ptr<'mm'>; words: Int32Array }, page: number): void {
    expect(this.world.mm.access.read32(one.mm, this.#at + page * PAGE_SIZE + 64)).toBe(one.words[page]);
  }

  #forkOrExit(): void {
    if (this.#child !== undefined) this.world.mm.exit(this.#child.mm);
    this.#child =
      this.#child === undefined
        ? { mm: this.world.mm.fork(this.#root.mm), words: this.#root.words.slice() }
        : undefined;
  }

  finish(): void {
    for (const one of [this.#root, this.#child]) {
      for (let page = 0; one !== undefined && page < PAGES; page++) this.#check(one, page);
    }
    const { layout } = this.world.mm;
    expect(layout.memcg.peak.load(layout.mm.memcg.get(this.#root.mm))).toBeLessThanOrEqual(48);
    this.world.mm.checkInvariants();
    if (this.#child !== undefined) this.world.mm.exit(this.#child.mm);
    this.world.mm.exit(this.#root.mm);
    expect(this.world.leftovers()).toBe(NOTHING);
  }
}

test('whatever is written, reclaimed, aged, discarded and forked, each address space holds what it should', () => {
  fc.assert(
    fc.property(steps, list => {
      const model = new Model();
      for (const step of list) model.step(step);
      model.finish();
    }),
    { numRuns: 25, seed: 20 },
  );
});

test('M-31: a page that a device holds stays the parent’s alone after a fork, though reclaim took its mapping', () => {
  const world = new Swapping();
  const { mm, at } = world.map(1, 64);
  const { access, gup, pages } = world.mm;
  access.write32(mm, at, 7);
  const pfn = gup.fault(mm, at / PAGE_SIZE, true) & GUP_PFN_MASK;
  expect(world.pageOut(mm, at)).toBe(true);
  const child = world.mm.fork(mm);
  world.sync.words[frameWord(pfn)] = 8;
  expect([access.read32(mm, at), access.read32(child, at)]).toEqual([8, 7]);
  pages.put(pfn);
  world.mm.checkInvariants();
  world.mm.exit(child);
  world.mm.exit(mm);
  world.mm.checkInvariants();
});
