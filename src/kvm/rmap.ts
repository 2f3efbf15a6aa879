import { assert } from '../base/assert.ts';
import type { Gfn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { RMAP_DESC } from './layout.ts';
import { hugeAreas } from './memslots.ts';

// A gfn's leaves, for one slot and level, hang from one word: 0 for none; the leaf's word index shifted
// left by one with bit 0 set for a single leaf; else the index of the first descriptor, shifted left by one.
// All under 'mmu'.

const DESC_WORDS = 8;
const PER_FRAME = 1024 / DESC_WORDS - 1;
/** Descriptors that must be in store before a leaf is added. */
const RESERVE = 1;

type Vm = Ptr<'vm'>;
type Slot = Ptr<'slot'>;
type Desc = Ptr<'rmapDesc'>;

/** The secondary MMU's reverse map: guest frame to leaf sptes (K-1, K-7). */
export class KvmRmap {
  readonly #kvm: Kvm;
  readonly #words: Int32Array;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.#words = kvm.words;
  }

  /** The word from which a gfn's leaves of `level` hang. */
  head(slot: Slot, gfn: Gfn, level: number): number {
    const { slot: s } = this.#kvm.layout;
    const base = s.gfn.get(slot);
    if (level === 0) return s.rmap.get(slot) + (gfn - base);
    return s.rmapHuge.get(slot) + ((gfn >>> 9) - (base >>> 9));
  }

  /** The word that holds the table entry parked below a gfn's 2 MiB leaf, or 0. */
  parked(slot: Slot, gfn: Gfn): number {
    return this.head(slot, gfn, 1) + hugeAreas(this.#kvm.layout.slot.npages.get(slot));
  }

  /** Puts descriptors in store. Called with no lock; false when no frame is to be had. */
  topUp(vm: Vm): boolean {
    const { vm: v } = this.#kvm.layout;
    if (v.descSpare.get(vm) >= RESERVE) return true;
    const pfn = this.#kvm.mm.pageAlloc.alloc();
    if (pfn < 0) return false;
    this.#kvm.sync.lock('mmu', vm + v.mmuLock.at);
    const frame = pfn * 1024;
    this.#words[frame + 1023] = v.descFrames.get(vm);
    v.descFrames.set(vm, pfn);
    for (let i = 0; i < PER_FRAME; i++) this.#free(vm, (frame + i * DESC_WORDS) as Desc);
    this.#kvm.sync.unlock('mmu', vm + v.mmuLock.at);
    return true;
  }

  /** True if `add` cannot run dry. Requires: 'mmu'. */
  ready(vm: Vm): boolean {
    return this.#kvm.layout.vm.descSpare.get(vm) >= RESERVE;
  }

  add(vm: Vm, head: number, leaf: number): void {
    const { desc } = this.#kvm.layout;
    const word = this.#words[head] as number;
    if (word === 0) {
      this.#words[head] = (leaf << 1) | 1;
      return;
    }
    let d = (word >>> 1) as Desc;
    if ((word & 1) !== 0) {
      d = this.#take(vm);
      desc.leaves.set(d, word >>> 1);
      desc.used.set(d, 1);
    } else if (desc.used.get(d) === RMAP_DESC) {
      const first = this.#take(vm);
      desc.next.set(first, d);
      d = first;
    }
    const used = desc.used.get(d);
    this.#words[d + desc.leaves.at + used] = leaf;
    desc.used.set(d, used + 1);
    this.#words[head] = d << 1;
  }

  /** Removes one leaf; the last leaf of the first block moves into the gap. */
  remove(vm: Vm, head: number, leaf: number): void {
    const { desc } = this.#kvm.layout;
    const word = this.#words[head] as number;
    assert(word !== 0, 'K-7: a leaf without a reverse map');
    if ((word & 1) !== 0) {
      assert(word >>> 1 === leaf, 'K-7: the reverse map names another leaf');
      this.#words[head] = 0;
      return;
    }
    const first = (word >>> 1) as Desc;
    const at = this.#find(first, leaf);
    const last = desc.used.get(first) - 1;
    if (!this.#kvm.breaks.rmapLosesLast)
      this.#words[at] = this.#words[first + desc.leaves.at + last] as number;
    desc.used.set(first, last);
    if (last > 0) return;
    const next = desc.next.get(first);
    this.#words[head] = next << 1;
    this.#free(vm, first);
  }

  #find(first: Desc, leaf: number): number {
    const { desc } = this.#kvm.layout;
    for (let d = first; d !== 0; d = desc.next.get(d)) {
      const used = desc.used.get(d);
      for (let i = 0; i < used; i++) {
        const at = d + desc.leaves.at + i;
        if (this.#words[at] === leaf) return at;
      }
    }
    assert(false, 'K-7: the reverse map does not name the leaf');
  }

  /** Some leaf of the gfn, or 0. Removing it and asking again visits all (K-7, B-2). */
  first(head: number): number {
    const { desc } = this.#kvm.layout;
    const word = this.#words[head] as number;
    if (word === 0) return 0;
    if ((word & 1) !== 0) return word >>> 1;
    return this.#words[(word >>> 1) + desc.leaves.at] as number;
  }

  /** The nth leaf, or 0: for walks that remove nothing. */
  nth(head: number, n: number): number {
    const { desc } = this.#kvm.layout;
    const word = this.#words[head] as number;
    if (word === 0) return 0;
    if ((word & 1) !== 0) return n === 0 ? word >>> 1 : 0;
    for (let d = (word >>> 1) as Desc; d !== 0; d = desc.next.get(d)) {
      const used = desc.used.get(d);
      if (n < used) return this.#words[d + desc.leaves.at + n] as number;
      n -= used;
    }
    return 0;
  }

  #take(vm: Vm): Desc {
    const { vm: v, desc } = this.#kvm.layout;
    const d = v.descFree.get(vm) as Desc;
    assert(d !== 0, 'rmap: topped up before the lock was taken');
    v.descFree.set(vm, desc.next.get(d));
    v.descSpare.set(vm, v.descSpare.get(vm) - 1);
    desc.next.set(d, 0 as Desc);
    desc.used.set(d, 0);
    return d;
  }

  #free(vm: Vm, d: Desc): void {
    const { vm: v, desc } = this.#kvm.layout;
    desc.next.set(d, v.descFree.get(vm) as Desc);
    v.descFree.set(vm, d);
    v.descSpare.set(vm, v.descSpare.get(vm) + 1);
  }
}
