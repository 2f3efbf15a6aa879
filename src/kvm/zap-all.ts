import type { Gfn, Pfn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { ROOT_LEVEL, Spte, sptePfn } from './layout.ts';

type Vm = Ptr<'vm'>;

const FRAME_WORDS = 1024;

/**
 * Zapping everything by generation (K-34): new roots at once, the old trees' leaves in small steps, their tables when
 * nobody can be in them. Linux: kvm_mmu_zap_all_fast.
 */
export class ZapAll {
  readonly #kvm: Kvm;
  readonly #words: Int32Array;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.#words = kvm.words;
  }

  /** Every leaf and table of the VM goes; false, with nothing changed, when there is no frame for new roots. */
  run(vm: Vm): boolean {
    const { sync, layout } = this.#kvm;
    const lock = vm + layout.vm.slotsLock.at;
    sync.lock('slots', lock);
    const roots = this.#kvm.mmu.makeRoots(vm);
    if (roots !== undefined) this.#replace(vm, roots);
    sync.unlock('slots', lock);
    return roots !== undefined;
  }

  /** Requires: 'slots', so that a leaf's slot is the one that it was made through. */
  #replace(vm: Vm, roots: readonly Pfn[]): void {
    const { sync, layout, srcu, breaks } = this.#kvm;
    const old = this.#exchange(vm, roots);
    for (const [space, root] of old.entries()) this.#zapTree(vm, space, root, ROOT_LEVEL, 0);
    sync.y('Z.leaves');
    // Who walks an old tree without a lock is a reader of the slots (T-RMAP-04).
    if (!breaks.freeTablesAtOnce) srcu.synchronize(vm + layout.vm.srcuIndex.at);
    for (const root of old) this.#kvm.mmu.freeTree(vm, root);
    sync.y('Z.x');
  }

  /**
   * The old roots are obsolete from here on: faults on their way begin again, vCPUs drop what they cached. Leaves of
   * 2 MiB go at once, as what is parked below them has one place for all roots.
   */
  #exchange(vm: Vm, roots: readonly Pfn[]): Pfn[] {
    const { sync, layout, requests, breaks } = this.#kvm;
    const { vm: v } = layout;
    sync.lock('mmu', vm + v.mmuLock.at);
    sync.y('Z.l');
    const old = roots.map((root, space) => Atomics.exchange(this.#words, vm + v.roots.at + space, root));
    v.rootGeneration.add(vm, 1);
    if (!breaks.zapAllQuietly) this.#kvm.moveSequence(vm);
    this.#kvm.pins.begin(); // leaves of 2 MiB hold nothing
    if (v.pages2m.get(vm) > 0)
      for (const [space, root] of old.entries()) this.#zapEntries(vm, space, root, ROOT_LEVEL, 0, 1);
    requests.nameAll(vm);
    requests.flushRemoteTlbs(vm);
    sync.unlock('mmu', vm + v.mmuLock.at);
    sync.y('Z.u');
    return old;
  }

  /** Zaps the leaves of a tree, with one hold of mmu_lock for each lowest table. */
  #zapTree(vm: Vm, space: number, table: Pfn, level: number, first: Gfn): void {
    if (level > 0) {
      for (let i = 0; i < 512; i++) {
        const entry = Atomics.load(this.#words, table * FRAME_WORDS + i);
        if ((entry & Spte.Table) === 0) continue;
        this.#zapTree(vm, space, sptePfn(entry), level - 1, first + (i << (9 * level)));
      }
      return;
    }
    const { sync, layout, pins } = this.#kvm;
    sync.lock('mmu', vm + layout.vm.mmuLock.at);
    pins.begin();
    this.#zapEntries(vm, space, table, 0, first, 0);
    sync.unlock('mmu', vm + layout.vm.mmuLock.at);
    pins.release(vm);
  }

  /** Zaps the leaves of level `at` in and below a table. Requires: 'mmu'. */
  #zapEntries(vm: Vm, space: number, table: Pfn, level: number, first: Gfn, at: number): void {
    const { memslots, mmu, pins } = this.#kvm;
    const set = memslots.active(vm);
    for (let i = 0; i < 512; i++) {
      const where = table * FRAME_WORDS + i;
      const entry = Atomics.load(this.#words, where);
      const gfn = first + (i << (9 * level));
      if (level > at) {
        if ((entry & Spte.Table) !== 0) this.#zapEntries(vm, space, sptePfn(entry), level - 1, gfn, at);
      } else if ((entry & Spte.Present) !== 0)
        pins.remember(mmu.removeLeaf(vm, memslots.find(set, space, gfn), gfn, where));
    }
  }
}
