// Sets of translations for a vCPU, so that changing privilege, SUM or the address space is a change of base pointer:
//
//   set 0         supervisor     { Read, Write, Exec } x TLB_ENTRIES entries, { Read, Write } x MICRO_ENTRIES
//   set 1 + 2 c   user, in the address space of context c (tlb-contexts.ts)
//   set 2 + 2 c   supervisor with sstatus.SUM there; starts out by borrowing from set 0
//
// An entry is 16 bytes: i64 tag, the page's address, or all ones when empty; then i32. Of Read and Write
// the word is host - va; of Exec it is the byte address of the decoded page. A page stands in Write only
// when it may be written, its D is set, and its frame holds no decoded code. MMIO stands nowhere.
//
// The micro entries are for translated code: a site looks at the one that its base register's number names, so
// that neither the comparison nor the place depends on the address. They are copies of Read and Write entries
// and may outlive them, hence whatever drops those drops these.

export const TLB_ENTRIES = 1024;
export const ENTRY_BYTES = 16;
/** Bytes of the entries for one kind of access, in the order of `Access`. */
export const KIND_BYTES = TLB_ENTRIES * ENTRY_BYTES;
/** Micro entries for one kind of access: one for each base register. */
export const MICRO_ENTRIES = 32;
export const MICRO_BYTES = MICRO_ENTRIES * ENTRY_BYTES;
/** Where a set has them. */
export const MICRO_READ = 3 * KIND_BYTES;
export const MICRO_WRITE = MICRO_READ + MICRO_BYTES;
export const SET_BYTES = MICRO_WRITE + MICRO_BYTES;
export const CONTEXTS = 4;
export const TLB_SETS = 1 + 2 * CONTEXTS;
export const TLB_BYTES = TLB_SETS * SET_BYTES;

// Behind the sets, from the block's start:
/** One byte per hash of a frame, all zero but while frames are dropped. A power of two. */
export const FILTER_BYTES = 4096;
export const FILTER_AT = TLB_BYTES;
/** One bit per hash of a 2 MiB or 1 GiB region that pages of a superpage were cached from. */
export const SUPERPAGE_HASH_BITS = 15;
export const SUPERPAGE_AT = FILTER_AT + FILTER_BYTES;
export const SUPERPAGE_BYTES = 2 ** SUPERPAGE_HASH_BITS / 8;
/** What translates guest frames: see host-tlb.ts. A power of two. */
export const HOST_ENTRIES = 65536;
export const HOST_AT = SUPERPAGE_AT + SUPERPAGE_BYTES;
export const HOST_BYTES = HOST_ENTRIES * 8;
/** One word per frame of the arena. */
export const HELD_AT = HOST_AT + HOST_BYTES;

/** The latter two are those of context 0. */
export const TlbSet = { Supervisor: 0, User: 1, SupervisorSum: 2 } as const;
/** The byte offset of an entry among its kind is `(va >>> 8) & INDEX_MASK`. */
export const INDEX_MASK = (TLB_ENTRIES - 1) * ENTRY_BYTES;

const GOLDEN = 0x9e3779b1 | 0;
/** The filter's bit for the region of a level is the top bits of `(address >>> shift) * factor + addend`. */
export const SUPERPAGE_HASH = [
  { shift: 12, factor: 0, addend: 0 },
  { shift: 21, factor: GOLDEN, addend: 0 },
  { shift: 30, factor: GOLDEN, addend: 0x5bd1e995 },
] as const;
/** At the end of a vCPU's block: counts of arrivals by the interpreter at a place, by hash; u32 each. */
export const HEAT_BYTES = 32768;
/** Of a decoded record's byte address, shifted right by 1. */
export const HEAT_MASK = HEAT_BYTES - 4;
/** Arrivals at which a place is hot; a power of two. */
export const HOT = 1024;
