import { PAGE_STRUCT_WORDS } from '../sync/arena.ts';
import { i32, ptr, struct, u64 } from '../sync/struct.ts';

// Every record of the mm, as it lies in the arena. `atomic` fields are touched outside their lock and so
// are atomic everywhere; `plain` fields name the lock under which alone they are touched (J-4).

/** Bits of `page.flags`. Atomic. Linux: enum pageflags. */
export const PageFlag = {
  Dirty: 1 << 0,
  Referenced: 1 << 1,
  Active: 1 << 2,
  Lru: 1 << 3,
  SwapCache: 1 << 4,
  Ksm: 1 << 5,
  /** The only mapping may write in place; no swap entry elsewhere names the page (M-31). */
  AnonExclusive: 1 << 6,
  HwPoison: 1 << 7,
  Mlocked: 1 << 8,
  Writeback: 1 << 9,
  Reclaim: 1 << 10,
  Workingset: 1 << 11,
  /** Kernel memory: page tables, slab, zram; never on the LRU. */
  Table: 1 << 12,
  Slab: 1 << 13,
  Zram: 1 << 14,
  Reserved: 1 << 15,
  Uptodate: 1 << 16,
  /** Free, in the zone. Set while the frame has no owner, so that a use after free is an assertion. */
  Free: 1 << 17,
  /** In some thread's pagevec, on its way to the LRU; turns into Lru under 'lru'. */
  LruPending: 1 << 18,
  /** MADV_FREE: while clean it may be dropped instead of swapped (M-32). */
  LazyFree: 1 << 19,
  /** In the page cache of an inode, `private`; `mapping` is the tree of its VMAs, `index` the page within it. */
  Shmem: 1 << 20,
  /** Counted as unevictable, on no list. Changes under 'lru', with Lru. */
  Unevictable: 1 << 21,
} as const;

/** One-word primary page-table entry. Present: pfn in bits 12..31. */
export const Pte = {
  Present: 1 << 0,
  Write: 1 << 1,
  Young: 1 << 2,
  Dirty: 1 << 3,
  /** The shared zero page: no refcount, no rmap (M-30). */
  Zero: 1 << 4,
  SoftDirty: 1 << 5,
  UffdWp: 1 << 6,
  /** Present, but made inaccessible to take a hint fault. */
  ProtNone: 1 << 7,
  /** In a middle level: a 2 MiB leaf. */
  Huge: 1 << 8,
} as const;
export const PTE_PFN_SHIFT = 12;
/** Every bit of an entry that is not its frame. */
export const PTE_BITS = (1 << PTE_PFN_SHIFT) - 1;

/** Not present and not none: bits 1..3 say what, bits 4..6 are flags, the offset is in bits 7..31. */
export const SwpType = { Swap: 1, Migration: 2, Poison: 3, Marker: 4 } as const;
export const Swp = {
  TypeShift: 1,
  TypeMask: 7,
  Exclusive: 1 << 4,
  SoftDirty: 1 << 5,
  UffdWp: 1 << 6,
  OffsetShift: 7,
} as const;
export const MAX_SWAP_SLOTS = 1 << 25;
/** A hole that is poisoned: an access fails as one to lost memory does (V-34, V-60). */
export const POISON_ENTRY = SwpType.Poison << Swp.TypeShift;
/** A hole that remembers write protection (M-4, V-36). */
export const WP_MARKER = (SwpType.Marker << Swp.TypeShift) | Swp.UffdWp;

export const pteIsNone = (e: number): boolean => e === 0;
export const pteIsPresent = (e: number): boolean => (e & Pte.Present) !== 0;
/** Of a middle entry: a 2 MiB leaf. */
export const pmdIsHuge = (e: number): boolean => (e & Pte.Huge) !== 0;
export const ptePfn = (e: number): number => e >>> PTE_PFN_SHIFT;
export const mkPte = (pfn: number, bits: number): number => (pfn << PTE_PFN_SHIFT) | Pte.Present | bits;
export const swpType = (e: number): number => (e & Pte.Present ? 0 : (e >>> Swp.TypeShift) & Swp.TypeMask);
export const isSwap = (e: number): boolean => swpType(e) === SwpType.Swap;
export const swpOffset = (e: number): number => e >>> Swp.OffsetShift;
/** A hole with something to say: what COPY may replace (V-31). */
export const isMarker = (e: number): boolean =>
  swpType(e) === SwpType.Poison || swpType(e) === SwpType.Marker;
/** The entry without write protection by userfaultfd; 0 when that was all it said. */
export const withoutUffdWp = (e: number): number => {
  if ((e & Pte.Present) !== 0) return e & ~Pte.UffdWp;
  return swpType(e) === SwpType.Marker ? 0 : e & ~Swp.UffdWp;
};
export const mkSwap = (slot: number, bits: number): number =>
  (slot << Swp.OffsetShift) | (SwpType.Swap << Swp.TypeShift) | bits;

/** Bits of `mm.flags`. */
export const MmFlag = {
  /** The reaper has begun: holes are no memory any more (C-19). Linux: MMF_UNSTABLE. */
  Unstable: 1 << 0,
} as const;

/** In `mm.ranges`: a subscriber registers, or the mm exits; waits until the count is zero (N-17). */
export const RANGES_CLOSED = 1 << 30;

// A table of any level is one frame: 512 one-word entries, then these words.
/** Word offsets within a page-table frame. */
export const Table = {
  entries: 0,
  /** Lock of this table's entries; class 'ptl'. */
  lock: 512,
  /** Page tables that point here; above 1 the table is shared by fork and read-only (design 9). */
  refs: 513,
  /** Entries that are not none; under the lock. */
  used: 514,
  /** In a middle table: spare tables kept for its huge entries, a list through word 0; under the lock. */
  deposit: 515,
} as const;

/** Low word of vm_flags; the high word holds bits 32 and up (J-2). */
export const VmFlag = {
  Read: 0x1,
  Write: 0x2,
  Exec: 0x4,
  Shared: 0x8,
  MayRead: 0x10,
  MayWrite: 0x20,
  MayExec: 0x40,
  MayShare: 0x80,
  GrowsDown: 0x100,
  UffdMissing: 0x200,
  PfnMap: 0x400,
  UffdWp: 0x1000,
  Locked: 0x2000,
  Io: 0x4000,
  DontCopy: 0x20000,
  DontExpand: 0x40000,
  LockOnFault: 0x80000,
  /** Private and writable once: it counts for overcommit, so such VMAs don't merge with others (M-2). */
  Account: 0x100000,
  NoReserve: 0x200000,
  HugeTlb: 0x400000,
  DontDump: 0x4000000,
  HugePage: 0x20000000,
  NoHugePage: 0x40000000,
  Mergeable: -0x80000000,
} as const;
/** High word of vm_flags. */
export const VmFlagHigh = { UserFault: 1 << 0, UffdMinor: 1 << 6 } as const;

export function mmLayout(words: Int32Array) {
  return {
    /** Linux: struct page. One per frame; the array is at `arena.pageArray`. */
    page: struct(
      words,
      'page',
      {
        flags: i32, //     atomic, PageFlag
        refcount: i32, //  atomic; 0 is free
        mapcount: i32, //  atomic; ptes that map it
        lock: i32, //      class 'page'
        /** Atomic; changes under the page lock. With PageFlag.Ksm it is a stable node instead. */
        mapping: ptr('anonVma'),
        index: i32, //     vpn within `mapping`; as `mapping`
        swap: i32, //      slot + 1 while SwapCache, else 0; atomic, changes under the page lock
        memcg: ptr('memcg'), // who is charged; atomic
        next: i32, //      pfn: LRU under 'lru', free list under 'zone'
        prev: i32,
        gen: i32, //       atomic; pass in which it was last seen young
        private: i32, //   the owner's own use (slab, zram)
      },
      PAGE_STRUCT_WORDS,
    ),
    /** Linux: struct mm_struct. */
    mm: struct(words, 'mm', {
      mmapLock: i32, //    class 'mmap', two words
      mmapLock2: i32,
      users: i32, //       atomic; the address space lives
      count: i32, //       atomic; the structure lives
      pgd: i32, //         pfn of the top table
      vmas: i32, //        pfn of the frame holding the sorted array of VMA pointers; under mmap
      vmaCount: i32, //    under mmap
      anonPages: i32, //   atomic
      swapEnts: i32, //    atomic
      filePages: i32, //   atomic
      shmemPages: i32, //  atomic
      nrPtes: i32, //      atomic
      notifiers: ptr('notifier'), // atomic head; changes under mmap for write
      memcg: ptr('memcg'),
      wpSeq: i32, //       atomic; write_protect_seq
      tableLock: i32, //   class 'ptl'; installs of anon_vmas
      owner: i32, //       host-assigned id
      next: ptr('mm'), //  list of all, under mmList
      hiwaterRss: i32, //  atomic
      defFlags: i32, //    vm_flags of what is mapped from now on (mlockall); under mmap for write
      /** Invalidations of reclaim that have no mmap lock, RANGES_CLOSED while none may begin; atomic. */
      ranges: i32,
      uffds: ptr('uffd'), // contexts bound to it, linked by uffd.next; under mmap for write
      /** What KSM knows of its pages, in order of address; changes under 'ksm', atomic as exit looks first. */
      ksmItems: ptr('ksmItem'),
      /** MmFlag. Plain: set before the reaper takes any ptl, read by who finds a hole under one. */
      flags: i32,
      intervals: ptr('intervals'), // atomic; written once, no range being open
    }),
    /** Linux: struct vm_area_struct. Under the mm's mmap lock. */
    vma: struct(words, 'vma', {
      mm: ptr('mm'),
      start: i32, //       vpn
      end: i32, //         vpn, exclusive
      flags: u64, //       VmFlag, then VmFlagHigh
      anonVma: ptr('anonVma'),
      pgoff: i32, //       vpn at which it was born: index = pgoff + (vpn - start)
      ops: ptr('inode'), // what it maps, of which it holds a reference; 0: anonymous memory
      uffd: ptr('uffd'), // userfaultfd context, or 0
      policy: i32,
      avcs: ptr('avc'), // its anon_vma_chains, under mmap
    }),
    /** Linux: struct anon_vma. */
    anonVma: struct(words, 'anonVma', {
      lock: i32, //        class 'anonVma'; only the root's is used
      root: ptr('anonVma'),
      parent: ptr('anonVma'),
      refcount: i32, //    atomic: pages' mapping and avcs keep it
      children: i32, //    under the root's lock
      activeVmas: i32, //  under the root's lock
      head: ptr('avc'), // VMAs in which its pages may be mapped; under the root's lock
    }),
    /** Linux: struct anon_vma_chain; ties a vma to an anon_vma. */
    avc: struct(words, 'avc', {
      vma: ptr('vma'),
      anonVma: ptr('anonVma'),
      nextSameVma: ptr('avc'), //     under mmap
      nextSameAnonVma: ptr('avc'), // under the root's lock
      prevSameAnonVma: ptr('avc'),
    }),
    /**
     * What KSM knows of one page of an mm, or, without an mm, how other mappings of a merged page are found
     * after the item's own went. Under 'ksm'; of those on a node, what the reverse map reads (`anonVma`, `index`,
     * the list) changes under the merged page's lock too. Linux: struct ksm_rmap_item.
     */
    ksmItem: struct(words, 'ksmItem', {
      mm: ptr('mm'), //    0: an orphan
      vpn: i32,
      lo: i32, //          hash of the content when it was last seen
      hi: i32,
      seq: i32, //         the pass in which it went into the unstable table, 0: it did not
      node: ptr('ksmNode'), //    it maps this one's page
      anonVma: ptr('anonVma'), // with a node: where the reverse map looks, a reference held,
      index: i32, //               and for which index
      next: ptr('ksmItem'), //    of the mm
      link: ptr('ksmItem'), //    of the node's list or of its bucket
      back: ptr('ksmItem'),
    }),
    /** One page that stands for equal ones: the stable table. Under 'ksm'. Linux: struct ksm_stable_node. */
    ksmNode: struct(words, 'ksmNode', {
      pfn: i32, //         it holds no reference: the page's `mapping` tells whether it is still ours
      lo: i32, //          hash of the content, which never changes
      hi: i32,
      owner: i32, //       whose pages it may stand for
      count: i32, //       items with an mm
      items: ptr('ksmItem'), //   changes under the page lock, too
      link: ptr('ksmNode'), //    of its bucket
      next: ptr('ksmNode'), //    of all
      prev: ptr('ksmNode'),
    }),
    /** A subscriber of an mm. Linux: struct mmu_notifier. */
    notifier: struct(words, 'notifier', {
      next: ptr('notifier'), // atomic
      mm: ptr('mm'),
      ops: i32, //         which implementation; see MmuNotifiers.registerOps
      subscriber: i32, //  pointer given back to it (the vm)
      users: i32, //       atomic: callbacks under way
      state: i32, //       atomic: 0 live, 1 release is being sent, 2 sent, or put
      putNext: ptr('notifier'), // put, and not yet freed; whoever took the list has it alone
    }),
    /** Those who subscribe to parts of one mm. Linux: struct mmu_notifier_subscriptions. */
    intervals: struct(words, 'intervals', {
      lock: i32, //        class 'intervals', a leaf
      seq: i32, //         atomic: odd while an interval is invalidated; changes under the lock
      active: i32, //      ranges begun and not ended; under the lock
      head: ptr('interval'), //     changes under the lock while seq is even
      deferred: ptr('interval'), // inserted while seq is odd; under the lock
      notifier: ptr('notifier'), // what stands for all in the mm's list; atomic
    }),
    /** Linux: struct mmu_interval_notifier. */
    interval: struct(words, 'interval', {
      mm: ptr('mm'),
      start: i32, //       vpn; fixed, as what follows
      end: i32,
      ops: i32, //         see IntervalNotifiers.registerOps
      subscriber: i32,
      seq: i32, //         atomic: of its last invalidation; changes under the device's lock
      next: ptr('interval'), // as `head`
    }),
    /** Limit and usage of one mm or several. Linux: struct mem_cgroup. All in pages, all atomic. */
    memcg: struct(words, 'memcg', {
      usage: i32,
      /** The lower of `max` and `high`: what a charge may reach without a second thought. */
      limit: i32,
      max: i32,
      high: i32,
      low: i32,
      /** Above it background reclaim works; at most `high`, and a little below `max`. */
      wmark: i32,
      peak: i32,
      swapUsage: i32,
      swapMax: i32,
      failcnt: i32, //     charges that found no room at first
      lowEvents: i32, //   Linux: memory.events
      highEvents: i32,
      maxEvents: i32,
      oom: i32,
      oomKill: i32,
      psi: ptr('psi'), //  what its tasks lost to memory (psi.ts)
      lru: ptr('lruvec'),
      next: ptr('memcg'),
      reclaiming: i32,
      id: i32,
    }),
    /** Active and inactive lists of one memcg, circular through `page.next/prev`; under 'lru'. */
    lruvec: struct(words, 'lruvec', {
      lock: i32,
      activeHead: i32,
      activeTail: i32,
      activeCount: i32,
      inactiveHead: i32,
      inactiveTail: i32,
      inactiveCount: i32,
      pass: i32, //        full ageing passes done; atomic
      age: i32, //         evictions and activations so far, the clock of refaults; atomic
      scanned: i32, //     pages aged since the pass began; atomic
      passEnd: i32, //     atomic: 1 while a pass is over and the secondaries are yet to be told
      // Events of this group alone, by the names of memory.stat; atomic.
      pgscan: i32,
      pgsteal: i32,
      pgactivate: i32,
      pgdeactivate: i32,
      unevictable: i32, // pages that are Mlocked: counted, on neither list
      refaults: i32,
      activations: i32,
    }),
    /** Memory that can be mapped more than once. Linux: struct inode and its address_space, of tmpfs. */
    inode: struct(words, 'inode', {
      refs: i32, //        atomic: VMAs and handles
      lock: i32, //        class 'iPages': the page cache
      root: i32, //        pfn of the top of the cache, 0 while it never held a page; under the lock
      pages: i32, //       in the cache; under the lock
      size: i32, //        pages; atomic, changes under the lock
      tree: ptr('anonVma'), // the VMAs that map it, and the lock of their list (Linux: i_mmap)
      number: i32,
      next: ptr('inode'), // list of all, under the list's lock
    }),
    /** Linux: struct userfaultfd_ctx, of both generations of the interface (parts F and V). */
    uffd: struct(words, 'uffd', {
      mm: ptr('mm'), //    its structure is counted, its address space is not (F-1, V-30)
      refs: i32, //        atomic: descriptors, and events that carry it; the last one releases
      count: i32, //       atomic: the structure lives; all refs together are one, each entry is one
      next: ptr('uffd'), // list of mm.uffds, under mmap for write
      lock: i32, //        class 'uffd': the queues and what hangs in them
      state: i32, //       atomic, UffdState
      flags: i32, //       UffdFlag; fixed at birth
      features: i32, //    atomic; 0 until the handshake, by compare-exchange (V-3)
      pendingHead: ptr('uffdWait'), // faults nobody has read; under the lock
      pendingTail: ptr('uffdWait'),
      faultHead: ptr('uffdWait'), //   read and not yet answered; under the lock
      faultTail: ptr('uffdWait'),
      eventHead: ptr('uffdWait'), //   fork, remap, remove, unmap; under the lock
      eventTail: ptr('uffdWait'),
      ready: i32, //       atomic: goes up when something can be read; readers and pollers sleep on it
      waiters: i32, //     atomic: entries in the fault queues, so that a waker may look without the lock
      mapChanging: i32, // class 'mapChanging', two words
      mapChanging2: i32,
      mmapChanging: i32, // atomic: mutations begun and not done (V-54)
      serial: i32, //      number of the last entry queued; under the lock
    }),
    /** A sleeper in a context's queues. The sleeper makes it and frees it. Linux: userfaultfd_wait_queue. */
    uffdWait: struct(words, 'uffdWait', {
      ctx: ptr('uffd'),
      next: ptr('uffdWait'), // under the context's lock
      prev: ptr('uffdWait'),
      state: i32, //       atomic, WaitState; the sleeper sleeps on it
      event: i32, //       UffdEvent
      flags: i32, //       of a page fault: UffdFault
      vpn: i32, //         the page, or the first page of the event
      offset: i32, //      of the address within its page (V-5 EXACT_ADDRESS)
      end: i32, //         of the event; exclusive
      to: i32, //          remap: where it went
      child: ptr('uffd'), // fork: the child's context
      thread: i32, //      who faulted (THREAD_ID)
      serial: i32, //      tells it from another in the same place; under the lock
    }),
  };
}
export type MmLayout = ReturnType<typeof mmLayout>;
