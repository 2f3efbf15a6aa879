import { assert } from '../../base/assert.ts';
import { Random } from '../../base/random.ts';
import { Spte } from '../../kvm/layout.ts';
import type { AnyCase } from '../case.ts';
import { GFN, type World } from '../world.ts';
import { base, fourPages, type Setup, type WorldCase } from './faults.ts';

// T-RMAP: many leaves of one gfn. The direct root makes one per slot, so these are made by hand.

const LEAVES = 9;

/** A slot's head for GFN, with `count` words of the heap standing for leaves. */
function byHand(world: World, { guest, flag }: Setup, count: number): { head: number; leaves: number[] } {
  const { memslots, rmap, sync, layout } = world.kvm;
  const slot = memslots.find(memslots.active(guest.vm), 0, GFN);
  const head = rmap.head(slot, GFN, 0);
  const leaves: number[] = [];
  const lock = guest.vm + layout.vm.mmuLock.at;
  for (let i = 0; i < count; i++) {
    while (!rmap.topUp(guest.vm));
    sync.lock('mmu', lock);
    const leaf = flag + i;
    world.sync.words[leaf] = (world.mm.pages.zeroPage << 12) | Spte.Present;
    rmap.add(guest.vm, head, leaf);
    layout.vm.pfFixed.add(guest.vm, 1);
    sync.unlock('mmu', lock);
    leaves.push(leaf);
  }
  return { head, leaves };
}

function withLeaves(world: World): Setup {
  const setup = fourPages(world);
  return { ...setup, flag: world.mm.heap.alloc(4096) };
}

const zapAll: WorldCase = {
  ...base,
  name: 'T-RMAP-01',
  title: 'a gfn with 1 to 9 leaves is zapped: none is left',
  profiles: ['seed08', 'modern'],
  setup: withLeaves,
  actors: {
    notifier(world, setup) {
      const { vm } = setup.guest;
      const { memslots, mmu, rmap, layout, sync } = world.kvm;
      const slot = memslots.find(memslots.active(vm), 0, GFN);
      for (let count = 1; count <= LEAVES; count++) {
        const { head, leaves } = byHand(world, setup, count);
        sync.lock('mmu', vm + layout.vm.mmuLock.at);
        mmu.zapGfn(vm, slot, GFN);
        sync.unlock('mmu', vm + layout.vm.mmuLock.at);
        assert(rmap.first(head) === 0, 'T-RMAP-01: the reverse map still names a leaf');
        assert(
          leaves.every(leaf => world.sync.words[leaf] === 0),
          'T-RMAP-01: a leaf is left',
        );
      }
    },
  },
  reach: {},
  oracle: (world, { guest }) => world.check(guest),
  mutants: [{ name: 'next is captured before the removal (B-2)', breaks: { kvm: { rmapNextFirst: true } } }],
};

const model: WorldCase = {
  ...base,
  name: 'T-RMAP-03',
  title: '10^6 random additions and removals against a set',
  profiles: ['modern'],
  setup: withLeaves,
  actors: {
    notifier(world, setup) {
      const { vm } = setup.guest;
      const { rmap, sync, layout } = world.kvm;
      const { head, leaves } = byHand(world, setup, 1);
      const model = new Set(leaves);
      const random = new Random(3);
      const lock = vm + layout.vm.mmuLock.at;
      for (let step = 0; step < 1_000_000; step++) {
        const leaf = setup.flag + random.below(40);
        while (!rmap.topUp(vm));
        sync.lock('mmu', lock);
        if (model.delete(leaf)) rmap.remove(vm, head, leaf);
        else {
          rmap.add(vm, head, leaf);
          model.add(leaf);
        }
        sync.unlock('mmu', lock);
        if (step % 1000 === 0) same(world, head, model);
      }
      same(world, head, model);
    },
  },
  reach: {},
  oracle() {},
  mutants: [{ name: 'the last leaf does not fill the gap', breaks: { kvm: { rmapLosesLast: true } } }],
};

function same(world: World, head: number, model: ReadonlySet<number>): void {
  const found: number[] = [];
  const { rmap } = world.kvm;
  for (let n = 0, leaf = rmap.nth(head, 0); leaf !== 0; leaf = rmap.nth(head, ++n)) found.push(leaf);
  assert(found.length === model.size && found.every(leaf => model.has(leaf)), 'T-RMAP-03: not the same set');
}

export const cases: readonly AnyCase[] = [zapAll, model];
