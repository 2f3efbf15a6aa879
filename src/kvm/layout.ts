import { array, i32, ptr, struct, u64 } from '../sync/struct.ts';

export const MAX_VCPUS = 8;
export const MAX_SLOTS = 32;
/** Address spaces of a VM, each with a root of its own. Linux: KVM_ADDRESS_SPACE_NUM. */
export const ADDRESS_SPACES = 2;

/** One-word secondary page-table entry; the frame is in bits 12..31. Zero traps (K-6). */
export const Spte = {
  Present: 1 << 0,
  Write: 1 << 1,
  Exec: 1 << 2,
  Accessed: 1 << 3,
  Dirty: 1 << 4,
  /** The primary pte was writable when this was made (K-5). */
  HostWritable: 1 << 5,
  /** Not write-tracked by a dirty log. */
  MmuWritable: 1 << 6,
  /** In a middle table: points to a lower table. */
  Table: 1 << 7,
  /** In a middle table: a leaf of 2 MiB, the first of whose 512 frames it names (K-4). */
  Huge: 1 << 8,
  /** Not present: no slot was there at the generation in bits 12..31 (K-6, L-16). */
  Mmio: 1 << 9,
} as const;
/** As much of the slots' generation as an Mmio entry holds. */
export const GENERATION_MASK = 0xfffff;
export const sptePfn = (e: number): number => e >>> 12;
/** The frame that a leaf of either level maps a gfn to. */
export const spteFrame = (e: number, gfn: number): number =>
  (e & Spte.Huge) === 0 ? e >>> 12 : (e >>> 12) | (gfn & (HUGE_GFNS - 1));
/** Guest frames of a 2 MiB leaf. */
export const HUGE_GFNS = 512;

/** Words behind the 512 entries of a secondary table, which is one frame. */
export const SpteTable = { gfn: 512, level: 513, space: 514 } as const;
/** Levels: 0 is 4 KiB, 1 is 2 MiB, 2 the root (gpa below 512 GiB). */
export const ROOT_LEVEL = 2;

/** Guest frames around a fault that may be prefetched, at most: one lowest table has them all. */
export const PREFETCH_MAX = 512;

export const SlotFlag = { LogDirty: 1 << 0, ReadOnly: 1 << 1, /** internal */ Invalid: 1 << 16 } as const;

/** How the VM's faults race invalidations (semantics.md 0.2). */
export const Protocol = { Modern: 0, SeqlockPin: 1, /** K-26 */ NonRange: 2 } as const;

export function kvmLayout(words: Int32Array) {
  return {
    vm: struct(words, 'vm', {
      slotsLock: i32, //   class 'slots'
      mmuLock: i32, //     class 'mmu': sptes, rmap, the invalidation words below
      mnLock: i32, //      class 'mnInvalidate': mnActive and publication
      mm: ptr('mm'),
      notifier: i32,
      protocol: i32,
      noAccessed: i32, //  leaves have no accessed bit that means anything: ageing unmaps (K-13)
      prefetch: i32, //    guest frames that a fault looks at, a power of two; 0 for its own alone
      slots: ptr('slots'), // atomic: the published set
      generation: i32, //  atomic: of the slots; bit 0 while an update is in progress (L-16)
      seq: i32, //         atomic: ends of invalidations (K-22)
      inProgress: i32, //  atomic: invalidations between start and end
      rangeStart: i32, //  gfn hull of them; under mmu
      rangeEnd: i32,
      mnActive: i32, //    atomic: changes under mnInvalidate
      invSeq: i32, //      atomic: seed08's sequence, odd while a writer is inside
      invLock: i32, //     class 'invalidate'
      srcuIndex: i32, //   atomic: which reader count new readers use
      srcuReaders: u64, // atomic: two reader counts
      roots: array(ADDRESS_SPACES), // pfn of the root tables; atomic
      rootGeneration: i32, // atomic (K-34)
      vcpuCount: i32, //   atomic
      vcpus: array(MAX_VCPUS),
      flushList: ptr('flushList'), // names of zapped frames; added to under mmu
      tableFree: i32, //   pfn list of spare table frames, linked by their word 0; under mmu
      tableSpare: i32, //  how many
      descFree: i32, //    spare rmap descriptors; under mmu
      descSpare: i32,
      tables: i32, //      frames used as tables, spare ones included; under mmu
      descFrames: i32, //  list of frames cut into descriptors, linked by their last word
      code: i32, //        the CPU's decode cache or 0
      state: i32, //       atomic, VmState
      next: ptr('vm'),
      id: i32,
      // What KVM's statistics are made of; atomic. pf_taken is pf_fixed + pf_retried, pages_4k is
      // pf_fixed - mmu_shadow_zapped - pages_2m: each atomic less is 10 ns of a fault.
      pfFixed: i32,
      pfRetried: i32,
      mmuShadowZapped: i32,
      tlbFlush: i32,
      remoteTlbFlush: i32,
      aged: i32,
      pages2m: i32, //     leaves of 2 MiB; under mmu, read without it as a figure
    }),
    /** A set of memslots; immutable once published. */
    slots: struct(words, 'slots', {
      count: i32,
      generation: i32,
      entries: array(MAX_SLOTS),
    }),
    /** Immutable once published, but `flags` of a copy marked Invalid (L-14). */
    slot: struct(words, 'slot', {
      id: i32,
      space: i32,
      flags: i32,
      gfn: i32, //         first guest frame
      npages: i32,
      vpn: i32, //         first page of the backing; 0 without userAlloc is "not visible yet" (L-3)
      rmap: i32, //        array of npages words: leaves of level 0 per gfn
      rmapHuge: i32, //    array for level 1, then as many words: tables parked below its leaves
      userAlloc: i32, //   the caller named the address; else the memory is the slot's own (L-4)
    }),
    /** A block of an rmap list: up to RMAP_DESC leaves of one gfn. */
    desc: struct(words, 'rmapDesc', { next: ptr('rmapDesc'), used: i32, leaves: array(6) }, 8),
  };
}
export type KvmLayout = ReturnType<typeof kvmLayout>;
export const RMAP_DESC = 6;
