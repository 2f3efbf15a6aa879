// Three sets of translations for a vCPU, so that changing privilege or SUM is a change of base pointer:
//
//   set 0  user            { Read, Write, Exec } x TLB_ENTRIES entries, { Read, Write } x MICRO_ENTRIES
//   set 1  supervisor
//   set 2  supervisor with sstatus.SUM; starts out by borrowing from set 1
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
export const TLB_SETS = 3;
export const TLB_BYTES = TLB_SETS * SET_BYTES;
/** Behind the sets: one byte per hash of a frame, all zero but while frames are dropped. A power of two. */
export const FILTER_BYTES = 4096;
export const TlbSet = { User: 0, Supervisor: 1, SupervisorSum: 2 } as const;
/** The byte offset of an entry among its kind is `(va >>> 8) & INDEX_MASK`. */
export const INDEX_MASK = (TLB_ENTRIES - 1) * ENTRY_BYTES;
