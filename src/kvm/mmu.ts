import { assert } from '../base/assert.ts';
import type { Gfn, Pfn } from '../base/units.ts';
import type { AtomicWords } from '../sync/atomics.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { ADDRESS_SPACES, HUGE_GFNS, ROOT_LEVEL, Spte, SpteTable, sptePfn } from './layout.ts';

type Vm = Ptr<'vm'>;
type Slot = Ptr<'slot'>;

const FRAME_WORDS = 1024;
/** Table frames that must be in store before a leaf is committed: one per level below the root. */
const RESERVE = ROOT_LEVEL;

/** Position of a gfn in a table of `level`. A gfn is below 2^27. */
const indexAt = (gfn: Gfn, level: number): number => (gfn >>> (9 * level)) & 511;

/**
 * The secondary page tables (K-1, K-3 direct): per address space a radix tree of one-word sptes. Leaves are
 * read without a lock, hence atomic; they change under 'mmu', but for accessed and dirty bits, which are
 * set by compare-exchange on the value read, so that a zapped leaf can't come back (mm-figures B.2).
 */
export class KvmMmu {
  readonly #kvm: Kvm;
  readonly #words: Int32Array;
  readonly #atomics: AtomicWords;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.#words = kvm.words;
    this.#atomics = kvm.sync.arena.atomics;
  }

  root(vm: Vm, space: number): Pfn {
    return this.#atomics.load(vm + this.#kvm.layout.vm.roots.at + space);
  }

  /** Makes the root tables. Throws nothing; false when no frame is to be had. */
  createRoots(vm: Vm): boolean {
    const roots = this.makeRoots(vm);
    for (const [space, pfn] of roots?.entries() ?? [])
      this.#atomics.store(vm + this.#kvm.layout.vm.roots.at + space, pfn);
    return roots !== undefined;
  }

  /** An empty root for each space, in use by nobody yet; none when a frame is lacking. */
  makeRoots(vm: Vm): Pfn[] | undefined {
    const { pageAlloc } = this.#kvm.mm;
    const roots: Pfn[] = [];
    for (let space = 0; space < ADDRESS_SPACES; space++) {
      const pfn = pageAlloc.alloc();
      if (pfn < 0) {
        for (const root of roots) pageAlloc.free(root);
        return undefined;
      }
      this.#initTable(pfn, 0, ROOT_LEVEL, space);
      roots.push(pfn);
    }
    this.#countTables(vm, ADDRESS_SPACES);
    return roots;
  }

  #countTables(vm: Vm, by: number): void {
    const { sync, layout } = this.#kvm;
    sync.lock('mmu', vm + layout.vm.mmuLock.at);
    layout.vm.tables.set(vm, layout.vm.tables.get(vm) + by);
    sync.unlock('mmu', vm + layout.vm.mmuLock.at);
  }

  /** The address of a gfn's leaf of either level, or 0 when a table on the way is missing. Lockless. */
  walk(vm: Vm, space: number, gfn: Gfn): number {
    let table = this.root(vm, space) * FRAME_WORDS;
    for (let level = ROOT_LEVEL; level > 0; level--) {
      const entry = this.#atomics.load(table + indexAt(gfn, level));
      if ((entry & Spte.Table) === 0) return (entry & Spte.Huge) === 0 ? 0 : table + indexAt(gfn, level);
      table = sptePfn(entry) * FRAME_WORDS;
    }
    return table + indexAt(gfn, 0);
  }

  /** Fills the stores that `commitLeaf` draws on. Call without locks; false when no frame is to be had. */
  topUp(vm: Vm): boolean {
    const { vm: v } = this.#kvm.layout;
    while (v.tableSpare.get(vm) < RESERVE) {
      const pfn = this.#kvm.mm.pageAlloc.alloc();
      if (pfn < 0) return false;
      this.#kvm.sync.lock('mmu', vm + v.mmuLock.at);
      this.#pushSpare(vm, pfn);
      v.tables.set(vm, v.tables.get(vm) + 1);
      this.#kvm.sync.unlock('mmu', vm + v.mmuLock.at);
    }
    return this.#kvm.rmap.topUp(vm);
  }

  /** True if `commitLeaf` cannot run dry. Requires: 'mmu'. */
  ready(vm: Vm): boolean {
    return this.#kvm.layout.vm.tableSpare.get(vm) >= RESERVE && this.#kvm.rmap.ready(vm);
  }

  /**
   * Installs a leaf and its reverse map: the only writer of present leaves (K-17). `value` says its level
   * (Huge). Requires: 'mmu', `ready`, and that the caller's checks of the invalidation sequence and of the
   * level have just passed. Returns the old value of a leaf that was there: of another frame, then the caller
   * flushes; or of the same, widened. Leaves of the other level are gone, and flushed.
   */
  commitLeaf(vm: Vm, slot: Slot, space: number, gfn: Gfn, value: number): number {
    const huge = (value & Spte.Huge) !== 0;
    const leaf = this.#reach(vm, slot, space, gfn, huge ? 1 : 0);
    if (huge) this.#park(vm, slot, gfn, leaf);
    const before = this.#atomics.load(leaf);
    if ((before & Spte.Present) !== 0 && sptePfn(before) === sptePfn(value)) {
      this.#widen(leaf, value);
      return before;
    }
    const replaced = (before & Spte.Present) === 0 ? 0 : this.removeLeaf(vm, slot, gfn, leaf);
    this.#kvm.rmap.add(vm, this.#kvm.rmap.head(slot, gfn, huge ? 1 : 0), leaf);
    if (huge) this.#kvm.layout.vm.pages2m.set(vm, this.#kvm.layout.vm.pages2m.get(vm) + 1);
    this.#atomics.store(leaf, value);
    this.#kvm.layout.vm.pfFixed.add(vm, 1);
    return replaced;
  }

  /**
   * Makes way for a 2 MiB leaf: the small ones below its entry go, and their table waits, with the slot, until
   * it goes itself. A table lives as long as its root: lockless walkers may be in it. Requires: 'mmu'.
   */
  #park(vm: Vm, slot: Slot, gfn: Gfn, at: number): void {
    const entry = this.#atomics.load(at);
    if ((entry & Spte.Table) === 0) return;
    const table = sptePfn(entry) * FRAME_WORDS;
    const first = gfn - indexAt(gfn, 0);
    let zapped = 0;
    for (let i = 0; i < HUGE_GFNS; i++) {
      if ((this.#atomics.load(table + i) & Spte.Present) === 0) continue;
      this.removeLeaf(vm, slot, first + i, table + i);
      zapped++;
    }
    this.#words[this.#kvm.rmap.parked(slot, gfn)] = entry;
    if (zapped > 0) this.#kvm.requests.flushRemoteTlbs(vm);
  }

  /** Notes that no slot is at a gfn whose lowest table is there (K-6). Requires: 'mmu'. */
  markMmio(vm: Vm, space: number, gfn: Gfn, value: number): void {
    const leaf = this.walk(vm, space, gfn);
    if (leaf !== 0 && (this.#atomics.load(leaf) & Spte.Present) === 0) this.#atomics.store(leaf, value);
  }

  /** Before a generation comes round again: no leaf may have it (L-16). */
  forgetMmio(vm: Vm): void {
    const { sync, layout } = this.#kvm;
    sync.lock('mmu', vm + layout.vm.mmuLock.at);
    for (let space = 0; space < ADDRESS_SPACES; space++) this.#forgetBelow(this.root(vm, space), ROOT_LEVEL);
    sync.unlock('mmu', vm + layout.vm.mmuLock.at);
  }

  #forgetBelow(pfn: Pfn, level: number): void {
    for (let at = pfn * FRAME_WORDS; at < pfn * FRAME_WORDS + 512; at++) {
      const entry = this.#atomics.load(at);
      if ((entry & Spte.Mmio) !== 0) this.#atomics.store(at, 0);
      if (level > 0 && (entry & Spte.Table) !== 0) this.#forgetBelow(sptePfn(entry), level - 1);
    }
  }

  /** Adds rights and A/D bits to a leaf of the same frame; never takes any away. */
  #widen(leaf: number, value: number): void {
    for (;;) {
      const now = this.#atomics.load(leaf);
      if (this.#atomics.cas(leaf, now, now | value) === now) return;
    }
  }

  /**
   * Takes a leaf out: exchange first, then the A and D bits of what was there go to the page or to all 512
   * (K-7). Returns the old value. The caller flushes before anyone may rely on it. Requires: 'mmu'.
   */
  removeLeaf(vm: Vm, slot: Slot, gfn: Gfn, leaf: number): number {
    const { layout, rmap } = this.#kvm;
    const huge = ((this.#words[leaf] as number) & Spte.Huge) !== 0;
    const before = this.#atomics.exchange(leaf, huge ? this.#unpark(slot, gfn) : 0);
    assert((before & Spte.Present) !== 0, 'K-7: every leaf in a reverse map is present');
    rmap.remove(vm, rmap.head(slot, gfn, huge ? 1 : 0), leaf);
    const first = sptePfn(before);
    const frames = huge ? HUGE_GFNS : 1;
    for (let pfn = first; pfn < first + frames; pfn++) this.#transfer(vm, before, pfn);
    if (huge) {
      this.#kvm.requests.nameAll(vm);
      layout.vm.pages2m.set(vm, layout.vm.pages2m.get(vm) - 1);
    } else this.#kvm.requests.name(vm, first);
    layout.vm.mmuShadowZapped.add(vm, 1);
    return before;
  }

  /** The table that waited below a 2 MiB leaf, which takes its place; 0 when there was none. */
  #unpark(slot: Slot, gfn: Gfn): number {
    const at = this.#kvm.rmap.parked(slot, gfn);
    const entry = this.#words[at] as number;
    this.#words[at] = 0;
    return entry;
  }

  #transfer(vm: Vm, before: number, pfn: Pfn): void {
    const { mm, breaks, cpu, layout } = this.#kvm;
    if ((before & Spte.Accessed) !== 0) mm.pages.setReferenced(pfn);
    const keeps = !breaks.dropDirty || !this.#kvm.isBroken(pfn);
    if ((before & Spte.Dirty) !== 0 && keeps) mm.pages.setDirty(pfn);
    if ((before & Spte.Exec) !== 0) cpu.dropCode(layout.vm.code.get(vm), pfn);
  }

  /** Removes every leaf of either level that maps a gfn of [first, last) of a slot. As `zapGfn`. */
  zapRange(vm: Vm, slot: Slot, first: Gfn, last: Gfn, removed?: (value: number) => void): number {
    let zapped = 0;
    for (let gfn = first; gfn < last; gfn++) zapped += this.zapGfn(vm, slot, gfn, removed);
    if (this.#kvm.breaks.smallLeavesOnly) return zapped;
    for (let gfn = first; gfn < last; gfn = nextArea(gfn)) {
      const head = this.#kvm.rmap.head(slot, gfn, 1);
      for (let leaf = this.#kvm.rmap.first(head); leaf !== 0; leaf = this.#kvm.rmap.first(head)) {
        const before = this.removeLeaf(vm, slot, gfn, leaf);
        removed?.(before);
        zapped++;
      }
    }
    return zapped;
  }

  /** Removes every 4 KiB leaf of a gfn, in every root. Returns how many. Requires: 'mmu'. */
  zapGfn(vm: Vm, slot: Slot, gfn: Gfn, removed?: (value: number) => void): number {
    const head = this.#kvm.rmap.head(slot, gfn, 0);
    if (this.#kvm.breaks.rmapNextFirst) return this.#zapCapturingNext(vm, slot, gfn, head);
    let zapped = 0;
    for (;;) {
      const leaf = this.#kvm.rmap.first(head);
      if (leaf === 0) return zapped;
      const before = this.removeLeaf(vm, slot, gfn, leaf);
      removed?.(before);
      zapped++;
    }
  }

  /** B-2 as it was: walks by position while removal moves entries. For the mutant only. */
  #zapCapturingNext(vm: Vm, slot: Slot, gfn: Gfn, head: number): number {
    let zapped = 0;
    for (let n = 0; ; n++) {
      const leaf = this.#kvm.rmap.nth(head, n);
      if (leaf === 0) return zapped;
      this.removeLeaf(vm, slot, gfn, leaf);
      zapped++;
    }
  }

  /** Removes all leaves of a slot that faults can no longer see, and waits for the flush (L-14, phase 2). */
  zapSlot(vm: Vm, slot: Slot): void {
    const { vm: v, slot: s } = this.#kvm.layout;
    const { sync } = this.#kvm;
    sync.lock('mmu', vm + v.mmuLock.at);
    const first = s.gfn.get(slot);
    this.#kvm.pins.begin();
    const zapped = this.zapRange(vm, slot, first, first + s.npages.get(slot), this.#kvm.pins.remember);
    sync.y('G.zap');
    if (zapped > 0) this.#kvm.requests.flushRemoteTlbs(vm);
    sync.unlock('mmu', vm + v.mmuLock.at);
    this.#kvm.pins.release(vm);
  }

  /** Test-and-clear the accessed bit of one leaf, keeping a dirty bit set meanwhile (K-13, B-7). */
  clearYoung(leaf: number): boolean {
    if (this.#kvm.breaks.agePlainStore) return this.#clearYoungPlain(leaf);
    const before = this.#atomics.and(leaf, ~Spte.Accessed);
    return (before & Spte.Accessed) !== 0;
  }

  isYoung(leaf: number): boolean {
    return (this.#atomics.load(leaf) & Spte.Accessed) !== 0;
  }

  #clearYoungPlain(leaf: number): boolean {
    const before = this.#words[leaf] as number;
    this.#kvm.sync.y('A.plain');
    this.#words[leaf] = before & ~Spte.Accessed;
    return (before & Spte.Accessed) !== 0;
  }

  /** Frees every table and descriptor. The VM has no running vCPU and no notifier any more. */
  destroy(vm: Vm): void {
    const { vm: v } = this.#kvm.layout;
    for (let space = 0; space < ADDRESS_SPACES; space++) {
      const root = this.root(vm, space);
      if (root !== 0) this.#freeTable(root, ROOT_LEVEL);
      this.#atomics.store(vm + v.roots.at + space, 0);
    }
    for (let pfn = v.tableFree.get(vm); pfn !== 0; ) {
      const next = this.#words[pfn * FRAME_WORDS] as number;
      this.#kvm.mm.pageAlloc.free(pfn);
      pfn = next;
    }
    for (let pfn = v.descFrames.get(vm); pfn !== 0; ) {
      const next = this.#words[pfn * FRAME_WORDS + 1023] as number;
      this.#kvm.mm.pageAlloc.free(pfn);
      pfn = next;
    }
    v.tableFree.set(vm, 0);
    v.descFrames.set(vm, 0);
  }

  /** Frees the tables of a root that nobody can reach; their leaves are gone. */
  freeTree(vm: Vm, root: Pfn): void {
    this.#countTables(vm, -this.#freeTable(root, ROOT_LEVEL));
  }

  /** Returns how many tables it has freed. */
  #freeTable(pfn: Pfn, level: number): number {
    let freed = 1;
    for (let i = 0; level > 0 && i < 512; i++) {
      const entry = this.#words[pfn * FRAME_WORDS + i] as number;
      if ((entry & Spte.Table) !== 0) freed += this.#freeTable(sptePfn(entry), level - 1);
    }
    this.#kvm.mm.pageAlloc.free(pfn);
    return freed;
  }

  /**
   * The address of an entry of level `to`, with tables made from the store where they lack; a 2 MiB leaf that
   * is above it goes. Requires: 'mmu', `ready`.
   */
  #reach(vm: Vm, slot: Slot, space: number, gfn: Gfn, to: number): number {
    let table = this.root(vm, space) * FRAME_WORDS;
    for (let level = ROOT_LEVEL; level > to; level--) {
      const at = table + indexAt(gfn, level);
      let entry = this.#atomics.load(at);
      if ((entry & Spte.Table) === 0) entry = this.#makeTable(vm, slot, space, gfn, level, at);
      table = sptePfn(entry) * FRAME_WORDS;
    }
    return table + indexAt(gfn, to);
  }

  #makeTable(vm: Vm, slot: Slot, space: number, gfn: Gfn, level: number, at: number): number {
    if (((this.#words[at] as number) & Spte.Huge) !== 0) {
      this.removeLeaf(vm, slot, gfn, at);
      this.#kvm.requests.flushRemoteTlbs(vm);
      const parked = this.#words[at] as number;
      if (parked !== 0) return parked;
    }
    const pfn = this.#popSpare(vm);
    const shift = 9 * level;
    this.#initTable(pfn, (gfn >>> shift) << shift, level - 1, space);
    const entry = (pfn << 12) | Spte.Table;
    this.#atomics.store(at, entry);
    return entry;
  }

  #initTable(pfn: Pfn, gfn: Gfn, level: number, space: number): void {
    const at = pfn * FRAME_WORDS;
    this.#words.fill(0, at, at + FRAME_WORDS);
    this.#words[at + SpteTable.gfn] = gfn;
    this.#words[at + SpteTable.level] = level;
    this.#words[at + SpteTable.space] = space;
  }

  #pushSpare(vm: Vm, pfn: Pfn): void {
    const { vm: v } = this.#kvm.layout;
    this.#words[pfn * FRAME_WORDS] = v.tableFree.get(vm);
    v.tableFree.set(vm, pfn);
    v.tableSpare.set(vm, v.tableSpare.get(vm) + 1);
  }

  #popSpare(vm: Vm): Pfn {
    const { vm: v } = this.#kvm.layout;
    const pfn = v.tableFree.get(vm);
    assert(pfn !== 0, 'mmu: topped up before the lock was taken');
    v.tableFree.set(vm, this.#words[pfn * FRAME_WORDS] as number);
    v.tableSpare.set(vm, v.tableSpare.get(vm) - 1);
    return pfn;
  }

  /** The level of the table that a leaf lies in. */
  #levelOf(leaf: number): number {
    return this.#words[leaf - (leaf % FRAME_WORDS) + SpteTable.level] as number;
  }

  /** The first gfn that a leaf maps, from where it lies. */
  gfnOf(leaf: number): Gfn {
    const table = leaf - (leaf % FRAME_WORDS);
    return (this.#words[table + SpteTable.gfn] as number) + ((leaf - table) << (9 * this.#levelOf(leaf)));
  }
}

/** The first gfn of the next 2 MiB. */
export const nextArea = (gfn: Gfn): Gfn => gfn - (gfn % HUGE_GFNS) + HUGE_GFNS;
