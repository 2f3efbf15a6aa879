import { AssertionError } from '../base/assert.ts';

/** Every lock of the system, outermost first: the only copy of the order (M-10). */
export const LOCK_ORDER = [
  'vm', //            the list of VMs
  'slots', //         who may change memslots             Linux: kvm->slots_lock
  'ksm', //           the scanner and its tables          Linux: ksm_thread_mutex
  'mmList', //        the list of address spaces
  'mmap', //          an mm's VMAs; reader/writer         Linux: mm->mmap_lock
  'mapChanging', //   userfaultfd's gate                  Linux: ctx->map_changing_lock
  'page', //          one frame's identity                Linux: PG_locked
  'anonVma', //       an anon_vma's list of VMAs          Linux: anon_vma->root->rwsem
  'ptl', //           one page table's entries            Linux: page_table_lock
  'invalidate', //    seed08's sequence lock, writers     Linux (2008): invalidate_lock
  // The last are leaves beside one another: no two are ever held together.
  'mmu', //           sptes, rmap, invalidation counts    Linux: kvm->mmu_lock
  'mnInvalidate', //  active invalidations                Linux: kvm->mn_invalidate_lock
  'intervals', //     subscribers to parts of an mm       Linux: mmu_notifier_subscriptions.lock
  'lru', //           the reclaim lists                   Linux: lruvec->lru_lock
  'iPages', //        an inode's page cache               Linux: i_pages
  'swap', //          swap slots and their counts         Linux: swap_info_struct.lock
  'zram', //          the compressed pool
  'zone', //          the free lists                      Linux: zone->lock
  'irqchip', //       PLIC and pending words
  'uffd', //          a userfaultfd's queues              Linux: ctx->fault_pending_wqh.lock
  'psi', //           what a group lost to memory         Linux: psi_group_cpu's sequence count
] as const;
export type LockClass = (typeof LOCK_ORDER)[number];

const RANK = new Map<LockClass, number>(LOCK_ORDER.map((name, rank) => [name, rank]));
const FIRST_LEAF = RANK.get('mmu')!;
/** Classes of which one thread may hold two, lower address first. */
const PAIRED: ReadonlySet<LockClass> = new Set(['ptl', 'mmap', 'anonVma']);

/** Fails on an acquisition that the order forbids. Sees one thread; the order makes that enough. */
export class Lockdep {
  readonly #held: { cls: LockClass; at: number }[] = [];

  acquire(cls: LockClass, at: number, tried = false): void {
    if (!tried) for (const lock of this.#held) this.#check(lock, cls, at);
    this.#held.push({ cls, at });
  }

  #check(held: { cls: LockClass; at: number }, cls: LockClass, at: number): void {
    const mine = RANK.get(cls)!;
    const theirs = RANK.get(held.cls)!;
    const paired = held.cls === cls && PAIRED.has(cls) && held.at < at;
    const siblings = theirs >= FIRST_LEAF && mine >= FIRST_LEAF;
    if ((mine <= theirs && !paired) || siblings) {
      throw new AssertionError(`lock order: ${cls}@${at} wanted while holding ${held.cls}@${held.at}`);
    }
  }

  release(cls: LockClass, at: number): void {
    const index = this.#held.findLastIndex(lock => lock.cls === cls && lock.at === at);
    if (index < 0) throw new AssertionError(`lock order: ${cls}@${at} released but not held`);
    this.#held.splice(index, 1);
  }

  holds(cls: LockClass): boolean {
    return this.#held.some(lock => lock.cls === cls);
  }

  /** Throws unless no lock is held: what must be true when a thread sleeps or leaves the core. */
  assertNone(): void {
    if (this.#held.length > 0)
      throw new AssertionError(`locks held: ${this.#held.map(l => l.cls).join(' ')}`);
  }
}
