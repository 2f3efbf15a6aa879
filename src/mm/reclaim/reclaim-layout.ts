import { array, i32, ptr, struct, u64 } from '../../sync/struct.ts';

// Records of reclaim alone. As in layout.ts: `atomic` fields are touched outside their lock.

export const MAX_SWAP_AREAS = 4;

/** State of a swap area; atomic. */
export const AreaFlag = {
  /** The device said it has no room; cleared when a slot of the area is freed. */
  Full: 1 << 0,
  /** A write failed: nothing more is written there, what it holds can still be read (O-4). */
  WriteError: 1 << 1,
} as const;

/** Threads that may keep a pagevec at once; further ones add to the LRU page by page. */
export const MAX_PAGEVECS = 16;
/** Pages that a thread collects before it takes the LRU lock once. Linux: PAGEVEC_SIZE. */
export const PAGEVEC_SIZE = 15;

export function reclaimLayout(words: Int32Array) {
  return {
    /** At Root.swap. */
    swap: struct(words, 'swap', {
      lock: i32, //   class 'swap'
      areas: i32, //  atomic; areas are never removed
      slots: i32, //  atomic; of all areas
      used: i32, //   atomic; slots with a count, or on their way back to the free list
      cached: i32, // atomic; pages in the swap cache
      area: array(MAX_SWAP_AREAS), // pointers
    }),
    /** One swap device. Its slots are numbered base .. base + slots - 1. */
    area: struct(words, 'swapArea', {
      base: i32,
      slots: i32,
      table: i32, //  word index of the slot records
      bump: i32, //   slots from here on were never used; under 'swap'
      free: i32, //   1 + the area's slot freed last, 0 for none; linked by slot.link; under 'swap'
      used: i32, //   atomic; changes under 'swap'
      flags: i32, //  atomic, AreaFlag
    }),
    /** Linux: swap_map, the swap cache and swap_cgroup, one record a slot. */
    slot: struct(words, 'swapSlot', {
      count: i32, //  swap ptes that name it, plus one for the swap cache; atomic, changes under 'swap'
      page: i32, //   pfn in the swap cache, 0 for none; atomic, changes under 'swap'
      memcg: ptr('memcg'), // who is charged for the slot; under 'swap'
      link: i32, //   while free: the next free slot + 1. In use: `age` of its eviction + 1, 0 for none
    }),
    /** Pages of one thread on their way to the LRU: 0, or a pfn whose page has LruPending. All atomic. */
    pagevec: struct(words, 'pagevec', { owner: i32, pages: array(PAGEVEC_SIZE) }, 16),
    /** Linux: struct psi_group, for memory alone. Under its lock; 64-bit words are in nanoseconds. */
    psi: struct(words, 'psi', {
      lock: i32, //     class 'psi'
      running: i32, //  tasks that are not idle, stalled ones included
      stalled: i32, //  tasks inside a stall section
      last: u64, //     time up to which the totals go
      next: u64, //     when the averages are next due
      some: u64, //     totals
      full: u64,
      someSampled: u64, // totals at the last update of the averages
      fullSampled: u64,
      avgSome: array(3), // of 10, 60 and 300 s, in percent, 11 bits of fraction
      avgFull: array(3),
    }),
    /** At Root.lru. */
    lru: struct(words, 'lru', { root: ptr('lruvec'), pagevecs: i32 }),
  };
}
export type ReclaimLayout = ReturnType<typeof reclaimLayout>;
