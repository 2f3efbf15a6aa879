import { Errno } from '../base/errno.ts';
import type { Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { AnonVmas } from './anon-vma.ts';
import type { HugePmd } from './huge/huge-pmd.ts';
import type { MmLayout } from './layout.ts';
import type { Shmem } from './shmem.ts';
import type { Slabs } from './slab.ts';
import { MAX_VMAS, type Vmas, type VmFlags } from './vma.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;

export type VmaEditDeps = {
  readonly layout: MmLayout;
  readonly slabs: Slabs;
  readonly vmas: Vmas;
  readonly anonVmas: AnonVmas;
  readonly shmem: Shmem;
  readonly hugePmd: HugePmd;
};

/** Makes, splits and merges VMAs. Requires throughout: mmap for write. Linux: mm/vma.c. */
export class VmaEdit {
  readonly #deps: VmaEditDeps;

  constructor(deps: VmaEditDeps) {
    this.#deps = deps;
  }

  /** Throws ENOMEM with nothing changed. */
  create(mm: Mm, index: number, start: Vpn, end: Vpn, lo: number, hi: number, call: string): Vma {
    const { vmas, layout } = this.#deps;
    const vma = this.#alloc(mm, call);
    layout.vma.mm.set(vma, mm);
    layout.vma.start.set(vma, start);
    layout.vma.end.set(vma, end);
    layout.vma.pgoff.set(vma, start);
    vmas.setFlags(vma, lo, hi);
    vmas.insert(mm, index, vma);
    return vma;
  }

  /** As `create`, over an inode from its page `index` on, of which the VMA takes a reference. */
  createShared(
    mm: Mm,
    at: number,
    start: Vpn,
    end: Vpn,
    flags: VmFlags,
    inode: Ptr<'inode'>,
    index: number,
  ): void {
    const { layout, anonVmas, shmem } = this.#deps;
    const vma = this.create(mm, at, start, end, flags.lo, flags.hi, 'mmap');
    layout.vma.pgoff.set(vma, index);
    layout.vma.ops.set(vma, inode);
    shmem.get(inode);
    if (!anonVmas.join(vma, layout.inode.tree.get(inode))) {
      this.destroy(mm, at);
      throw new Errno('ENOMEM', 'mmap', 'no memory for the reverse map');
    }
    this.#mergeAt(mm, at + 1);
    this.#mergeAt(mm, at);
  }

  /** Gives back a VMA that is in no list. */
  #free(vma: Vma): void {
    const { slabs, shmem, layout } = this.#deps;
    const inode = layout.vma.ops.get(vma);
    slabs.vma.free(vma);
    if (inode !== 0) shmem.put(inode);
  }

  #alloc(mm: Mm, call: string): Vma {
    const { slabs, vmas } = this.#deps;
    if (vmas.count(mm) === MAX_VMAS) throw new Errno('ENOMEM', call, `more than ${MAX_VMAS} mappings`);
    const vma = slabs.vma.alloc();
    if (vma === 0) throw new Errno('ENOMEM', call, 'no memory for a mapping');
    return vma;
  }

  /** Forgets an unlinked VMA that maps nothing. */
  destroy(mm: Mm, index: number): void {
    const { vmas } = this.#deps;
    const vma = vmas.at(mm, index);
    vmas.remove(mm, index);
    this.#free(vma);
  }

  /** A copy of a VMA for another mm, or another part of this one; it has no anon_vma yet. */
  copy(mm: Mm, from: Vma, call: string): Vma {
    const { vmas, layout, shmem } = this.#deps;
    const v = layout.vma;
    const vma = this.#alloc(mm, call);
    v.mm.set(vma, mm);
    for (const field of [v.start, v.end, v.pgoff, v.uffd, v.policy]) field.set(vma, field.get(from) as never);
    const inode = v.ops.get(from);
    v.ops.set(vma, inode);
    if (inode !== 0) shmem.get(inode);
    vmas.setFlags(vma, v.flags.get(from), vmas.flagsHigh(from));
    return vma;
  }

  /**
   * A VMA like `from` over the free range [start, end), through whose anon_vmas its pages are found too:
   * they keep their indexes, the first one's being `pgoff`. Throws ENOMEM with nothing changed.
   */
  place(mm: Mm, from: Vma, start: Vpn, end: Vpn, pgoff: number, call: string): Vma {
    const { vmas, layout, anonVmas } = this.#deps;
    const v = layout.vma;
    const vma = this.copy(mm, from, call);
    v.start.set(vma, start);
    v.end.set(vma, end);
    v.pgoff.set(vma, pgoff);
    v.anonVma.store(vma, v.anonVma.load(from));
    if (!anonVmas.clone(vma, from)) {
      this.#free(vma);
      throw new Errno('ENOMEM', call, 'no memory for a mapping');
    }
    vmas.insert(mm, vmas.indexOf(mm, start), vma);
    return vma;
  }

  /** Lets a VMA end later; what lies between is free. */
  grow(mm: Mm, vma: Vma, end: Vpn): void {
    const v = this.#deps.layout.vma;
    this.#setBounds(vma, v.start.get(vma), end, v.pgoff.get(vma));
    this.#mergeAt(mm, this.#deps.vmas.indexOf(mm, end));
  }

  /** Merges what meets at `vpn`, if it is one but for the boundary. */
  mergeAt(mm: Mm, vpn: Vpn): void {
    this.#mergeAt(mm, this.#deps.vmas.indexOf(mm, vpn));
  }

  /** Makes `vpn` a boundary between VMAs, if it lies inside one. Throws ENOMEM with nothing changed. */
  splitAt(mm: Mm, vpn: Vpn, call: string): void {
    const { vmas, layout, anonVmas } = this.#deps;
    const index = vmas.indexOf(mm, vpn);
    if (index === vmas.count(mm)) return;
    const low = vmas.at(mm, index);
    const start = layout.vma.start.get(low);
    if (start >= vpn) return;
    this.#deps.hugePmd.splitAt(mm, vpn);
    const high = this.copy(mm, low, call);
    layout.vma.start.set(high, vpn);
    layout.vma.pgoff.set(high, layout.vma.pgoff.get(low) + vpn - start);
    layout.vma.anonVma.store(high, layout.vma.anonVma.load(low));
    if (!anonVmas.clone(high, low)) {
      this.#free(high);
      throw new Errno('ENOMEM', call, 'no memory to split a mapping');
    }
    this.#setBounds(low, start, vpn, layout.vma.pgoff.get(low));
    vmas.insert(mm, index + 1, high);
  }

  /** Reclaim reads the bounds under the anon_vma lock. */
  #setBounds(vma: Vma, start: Vpn, end: Vpn, pgoff: number): void {
    const { layout, anonVmas } = this.#deps;
    const anonVma = layout.vma.anonVma.load(vma);
    if (anonVma !== 0) anonVmas.lock(anonVma);
    layout.vma.start.set(vma, start);
    layout.vma.end.set(vma, end);
    layout.vma.pgoff.set(vma, pgoff);
    if (anonVma !== 0) anonVmas.unlock(anonVma);
  }

  /**
   * Gives the part [start, end) of one VMA other flags: splits it off, merges it with what it has come to
   * equal. Returns the VMA that contains it then. Throws ENOMEM with no flag changed.
   */
  setFlags(mm: Mm, start: Vpn, end: Vpn, lo: number, hi: number, call: string): Vma {
    this.#split(mm, start, end, call);
    this.#deps.vmas.setFlags(this.#deps.vmas.find(mm, start), lo, hi);
    return this.#merged(mm, start, end);
  }

  /** As `setFlags`, with the context of userfaultfd, or none. */
  setUffd(mm: Mm, start: Vpn, end: Vpn, lo: number, hi: number, uffd: Ptr<'uffd'>, call: string): Vma {
    const { vmas, layout } = this.#deps;
    this.#split(mm, start, end, call);
    const vma = vmas.find(mm, start);
    vmas.setFlags(vma, lo, hi);
    layout.vma.uffd.set(vma, uffd);
    return this.#merged(mm, start, end);
  }

  /** Makes [start, end), a part of one VMA, a VMA. */
  #split(mm: Mm, start: Vpn, end: Vpn, call: string): void {
    this.splitAt(mm, start, call);
    try {
      this.splitAt(mm, end, call);
    } catch (error) {
      this.mergeAt(mm, start);
      throw error;
    }
  }

  /**
   * Merges the VMA [start, end) with its neighbours; the one that contains it then. The lower side first: where
   * the neighbours don't suit one another, it wins, as in Linux.
   */
  #merged(mm: Mm, start: Vpn, end: Vpn): Vma {
    const { vmas } = this.#deps;
    this.#mergeAt(mm, vmas.indexOf(mm, start));
    this.#mergeAt(mm, vmas.indexOf(mm, end));
    return vmas.find(mm, start);
  }

  /** Merges the VMA at `index` into the one before it, if they are one but for the boundary (M-2). */
  #mergeAt(mm: Mm, index: number): void {
    const { vmas, layout, anonVmas } = this.#deps;
    if (index === 0 || index >= vmas.count(mm)) return;
    const low = vmas.at(mm, index - 1);
    const high = vmas.at(mm, index);
    const v = layout.vma;
    if (!this.#mergeable(low, high)) return;
    const [start, pgoff, end] = [v.start.get(low), v.pgoff.get(low), v.end.get(high)];
    // The one that reclaim can find its pages through stays.
    const dropLow = v.anonVma.load(low) === 0;
    const [kept, dropped] = dropLow ? [high, low] : [low, high];
    this.#setBounds(kept, start, end, pgoff);
    anonVmas.unlink(dropped);
    this.destroy(mm, dropLow ? index - 1 : index);
  }

  #mergeable(low: Vma, high: Vma): boolean {
    const { vmas, layout } = this.#deps;
    const v = layout.vma;
    if (v.end.get(low) !== v.start.get(high) || !vmas.sameKind(low, high)) return false;
    if (v.pgoff.get(low) + v.end.get(low) - v.start.get(low) !== v.pgoff.get(high)) return false;
    const [a, b] = [v.anonVma.load(low), v.anonVma.load(high)];
    if (a !== 0 && b !== 0) return a === b;
    return !this.#isForkChild(low) && !this.#isForkChild(high);
  }

  /** It shares a tree with other processes, whose lock further VMAs would only burden. Linux: mm/vma.c. */
  #isForkChild(vma: Vma): boolean {
    const { vma: v, avc } = this.#deps.layout;
    const first = v.avcs.get(vma);
    return first !== 0 && avc.nextSameVma.get(first) !== 0;
  }

  /**
   * Lets a neighbour of `index` grow over [start, end), which is free, instead of making a VMA; both
   * neighbours become one if they meet. False when neither fits.
   */
  extend(mm: Mm, index: number, start: Vpn, end: Vpn, lo: number, hi: number): boolean {
    const { vmas, layout } = this.#deps;
    const v = layout.vma;
    const before = index === 0 ? (0 as Vma) : vmas.at(mm, index - 1);
    if (before !== 0 && this.#fits(before, v.end.get(before), start, lo, hi, start)) {
      this.#setBounds(before, v.start.get(before), end, v.pgoff.get(before));
      this.#mergeAt(mm, index);
      return true;
    }
    if (index === vmas.count(mm)) return false;
    const after = vmas.at(mm, index);
    if (!this.#fits(after, v.start.get(after), end, lo, hi, end)) return false;
    this.#setBounds(after, start, v.end.get(after), v.pgoff.get(after) - (end - start));
    return true;
  }

  /** May a new anonymous range that touches `vma` at `edge` become part of it? */
  #fits(vma: Vma, edge: Vpn, touches: Vpn, lo: number, hi: number, vpn: Vpn): boolean {
    const { vmas, layout } = this.#deps;
    const v = layout.vma;
    if (edge !== touches || v.flags.get(vma) !== lo || vmas.flagsHigh(vma) !== hi) return false;
    if (this.#isForkChild(vma)) return false;
    if (v.ops.get(vma) !== 0 || v.uffd.get(vma) !== 0 || v.policy.get(vma) !== 0) return false;
    // Born where it lies, as the new range is.
    return v.pgoff.get(vma) + vpn - v.start.get(vma) === vpn;
  }
}
