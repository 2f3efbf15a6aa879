import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import type { Pfn } from '../base/units.ts';
import { frameByte, Root } from '../sync/arena.ts';
import { array, i32, type Ptr, ptr, struct } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import type { Heap } from './heap.ts';
import type { MmLayout } from './layout.ts';
import type { Mmap } from './mmap.ts';
import type { MmuNotifiers } from './mmu-notifier.ts';
import type { PageAlloc } from './page-alloc.ts';
import type { PageTable } from './page-table.ts';
import type { Memcontrol } from './reclaim/memcontrol.ts';
import type { Slabs } from './slab.ts';
import type { UffdRelease } from './userfaultfd/release.ts';
import type { Vmas } from './vma.ts';

type Mm = Ptr<'mm'>;
type Memcg = Ptr<'memcg'>;

const rootLayout = (words: Int32Array) =>
  struct(words, 'mmRoot', {
    lock: i32, //        class 'mmList'
    head: ptr('mm'), //  list of all, linked by mm.next; under the lock
    srcu: array(3), //   of the notifiers
    put: i32, //         notifiers that were put, linked by putNext; atomic
  });

export type MmOptions = {
  /** Frames that its anonymous memory may hold at once, in pages. Without it there is no group. */
  limitPages?: number;
  /** A group that other address spaces share; instead of `limitPages`. */
  memcg?: Memcg;
  /** Number by which the host knows it. */
  owner?: number;
};

export type MmsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly pageOps: PageOps;
  readonly slabs: Slabs;
  readonly pageAlloc: PageAlloc;
  readonly pageTable: PageTable;
  readonly vmas: Vmas;
  readonly notifiers: MmuNotifiers;
  readonly memcontrol: Memcontrol;
  readonly mmap: Mmap;
  readonly uffdRelease: UffdRelease;
  readonly ksm: { exit(mm: Mm): void };
};

/** Marks, in `memcg.id`, a group whose last mm went while some page was still charged. */
const ORPHAN = -1;

/** Address spaces from birth to exit, and the list of all. Linux: kernel/fork.c, exit_mmap. */
export class Mms {
  readonly #deps: MmsDeps;
  readonly #root: ReturnType<typeof rootLayout>;
  readonly #r: Ptr<'mmRoot'>;

  constructor(deps: MmsDeps) {
    this.#deps = deps;
    this.#root = rootLayout(deps.sync.words);
    this.#r = deps.sync.arena.root(Root.mmList) as Ptr<'mmRoot'>;
    assert(this.#r !== 0, 'Mms: the arena has no list of address spaces');
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync, heap: Heap): void {
    sync.arena.setRoot(Root.mmList, heap.alloc(rootLayout(sync.words).words));
  }

  /** Where the lock of the list, the notifiers' Srcu and those that were put lie. */
  static shared(sync: Sync): { mmListLock: number; srcuAt: number; putAt: number } {
    const { offsets } = rootLayout(sync.words);
    const root = sync.arena.root(Root.mmList);
    return { mmListLock: root + offsets.lock, srcuAt: root + offsets.srcu, putAt: root + offsets.put };
  }

  /** An empty address space. Throws ENOMEM, and EINVAL for a limit that can't work. */
  create(options: MmOptions = {}): Mm {
    const { memcontrol, layout } = this.#deps;
    this.#sweep();
    const own = options.limitPages === undefined ? undefined : memcontrol.create({ max: options.limitPages });
    const memcg = own ?? options.memcg ?? (0 as Memcg);
    try {
      const mm = this.#create(memcg);
      layout.mm.owner.set(mm, options.owner ?? 0);
      return mm;
    } catch (error) {
      if (own !== undefined) memcontrol.destroy(own);
      throw error;
    }
  }

  /** An empty address space of the same owner that charges to the same group: what fork starts from. */
  createLike(mm: Mm): Mm {
    const { memcg, owner } = this.#deps.layout.mm;
    const like = this.#create(memcg.get(mm));
    owner.set(like, owner.get(mm));
    return like;
  }

  #create(memcg: Memcg): Mm {
    const { slabs, pageAlloc, pageTable, layout, pageOps } = this.#deps;
    const m = layout.mm;
    const mm = slabs.mm.alloc();
    const array: Pfn = mm === 0 ? -1 : pageAlloc.alloc();
    if (array < 0 || !pageTable.create(mm)) {
      if (array >= 0) pageAlloc.free(array);
      if (mm !== 0) slabs.mm.free(mm);
      throw new Errno('ENOMEM', 'createMm');
    }
    pageOps.zero(frameByte(array));
    m.vmas.set(mm, array);
    m.memcg.set(mm, memcg);
    m.users.store(mm, 1);
    m.count.store(mm, 1);
    this.#locked(() => {
      m.next.set(mm, this.#root.head.get(this.#r));
      this.#root.head.set(this.#r, mm);
    });
    return mm;
  }

  /** One more user of the address space. */
  get(mm: Mm): void {
    this.#deps.layout.mm.users.add(mm, 1);
  }

  /** As `get`, for who doesn't know whether it has any: false when it has exited. */
  tryGet(mm: Mm): boolean {
    const { users } = this.#deps.layout.mm;
    for (let seen = users.load(mm); seen !== 0; ) {
      const now = users.cas(mm, seen, seen + 1);
      if (now === seen) return true;
      seen = now;
    }
    return false;
  }

  /**
   * A user goes; with the last one everything that is mapped is freed, subscribers hearing `release`
   * first (N-19). The structure lives until the last subscriber is gone.
   */
  exit(mm: Mm): void {
    const { sync, layout, notifiers, mmap, vmas } = this.#deps;
    const before = layout.mm.users.add(mm, -1);
    assert(before > 0, 'exit: the address space has exited');
    if (before > 1) return;
    this.#closeLookups(mm);
    notifiers.releaseAll(mm);
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    if (vmas.count(mm) > 0) mmap.removeVmas(mm, 0, vmas.count(mm));
    // Reclaim may still have an end to send to it.
    notifiers.closeRanges(mm);
    this.#free(mm);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    this.#deps.uffdRelease.orphans(mm);
    this.#deps.ksm.exit(mm);
    this.#unlink(mm);
    this.#orphan(layout.mm.memcg.get(mm));
    this.#sweep();
    this.drop(mm);
  }

  /**
   * Before subscribers hear of the end, faults begin to fail, or one might still map what nobody will take
   * away (N-19): the lockless ones by `wpSeq`, which stays odd, the others by `users`, under mmap.
   */
  #closeLookups(mm: Mm): void {
    const { sync, layout } = this.#deps;
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    layout.mm.wpSeq.add(mm, 1);
    sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
  }

  /** Requires: mmap for write, everything unmapped, lookups closed. */
  #free(mm: Mm): void {
    const { layout, pageTable, pageAlloc } = this.#deps;
    const m = layout.mm;
    assert(
      m.anonPages.load(mm) === 0 && m.swapEnts.load(mm) === 0 && m.shmemPages.load(mm) === 0,
      'exit: pages are left over',
    );
    pageTable.destroy(mm);
    pageAlloc.free(m.vmas.get(mm));
    m.vmas.set(mm, 0);
  }

  #unlink(mm: Mm): void {
    const { next } = this.#deps.layout.mm;
    this.#locked(() => {
      const head = this.#root.head.get(this.#r);
      if (head === mm) this.#root.head.set(this.#r, next.get(mm));
      for (let at = head; at !== 0; at = next.get(at)) if (next.get(at) === mm) next.set(at, next.get(mm));
    });
  }

  /** Drops a count of the structure. */
  drop(mm: Mm): void {
    const { layout, slabs } = this.#deps;
    const before = layout.mm.count.add(mm, -1);
    assert(before > 0, 'mm: a count dropped that nobody held');
    if (before !== 1) return;
    this.#deps.notifiers.intervals.free(mm);
    slabs.mm.free(mm);
  }

  /** A group that no address space charges to any more waits for its last page. */
  #orphan(memcg: Memcg): void {
    if (memcg === 0) return;
    const { layout } = this.#deps;
    let used = false;
    this.#locked(() => this.#each(mm => void (used ||= layout.mm.memcg.get(mm) === memcg)));
    if (!used) layout.memcg.id.store(memcg, ORPHAN);
  }

  /** Groups whose last page has come back are gone. */
  #sweep(): void {
    const { memcontrol, layout } = this.#deps;
    const { id, usage, swapUsage, next } = layout.memcg;
    for (let memcg = memcontrol.first(); memcg !== 0; memcg = next.load(memcg)) {
      if (id.load(memcg) !== ORPHAN || usage.load(memcg) !== 0 || swapUsage.load(memcg) !== 0) continue;
      if (id.cas(memcg, ORPHAN, 0) === ORPHAN) memcontrol.destroy(memcg);
    }
  }

  #each(work: (mm: Mm) => void): void {
    const { next } = this.#deps.layout.mm;
    for (let mm = this.#root.head.get(this.#r); mm !== 0; mm = next.get(mm)) work(mm);
  }

  /** Calls `work` for every address space, which may take no lock outside 'mmap'. */
  forEach(work: (mm: Mm) => void): void {
    this.#locked(() => this.#each(work));
  }

  /** The address space after `mm` on the list, the first when 0; 0 at the end. `mm` must not exit meanwhile. */
  after(mm: Mm): Mm {
    let found = 0 as Mm;
    this.#locked(() => {
      found = mm === 0 ? this.#root.head.get(this.#r) : this.#deps.layout.mm.next.get(mm);
    });
    return found;
  }

  /** As `forEach` for those of a group, all when 0; false, doing nothing, when the list is in use. */
  tryForEach(memcg: Memcg, work: (mm: Mm) => void): boolean {
    const { sync, layout } = this.#deps;
    const lock = this.#r + this.#root.lock.at;
    if (!sync.tryLock('mmList', lock)) return false;
    this.#each(mm => {
      if (memcg === 0 || layout.mm.memcg.get(mm) === memcg) work(mm);
    });
    sync.unlock('mmList', lock);
    return true;
  }

  #locked(work: () => void): void {
    const { sync } = this.#deps;
    const lock = this.#r + this.#root.lock.at;
    sync.lock('mmList', lock);
    work();
    sync.unlock('mmList', lock);
  }
}
