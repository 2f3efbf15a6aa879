// Where things are in the privileged programs. Physical:
//
//   0x22000000  page tables that are never written: QEMU's second flash, so that it can't set A and D there
//               and faults instead, as Svade does
//   0x80000000  machine mode's part; not run by ours
//   0x80001000  the supervisor's: driver and trap handler
//   0x80003000  blocks
//   0x80200000  page tables that blocks write, one page for each address space
//   0x80210000  values that they write there
//   0x80220000  records
//   0x80400000  sixteen pages that test addresses map to, and the rest of their 2 MiB
//
// Virtual, in every address space: RAM at its own address for the supervisor, and 4 GiB above for the
// user, to execute only. Test addresses are in tables.ts.

export const FLASH = 0x22000000;
export const FLASH_BYTES = 32 * 1024 * 1024;
export const MACHINE = 0x80000000;
export const SUPERVISOR = 0x80001000;
export const BLOCKS = 0x80003000;
export const WRITTEN_TABLES = 0x80200000;
export const PTE_VALUES = 0x80210000;
export const PTE_VALUE_COUNT = 256;
export const RECORDS = 0x80220000;
export const DATA = 0x80400000;
export const DATA_PAGES = 16;
/** A whole 2 MiB page behind DATA. */
export const RAM_END = DATA + 2 * 1024 * 1024;
export const RECORDS_MAX = Math.floor((DATA - RECORDS) / 2816);

/** The user's alias of RAM is this much above. */
export const USER_ALIAS = 0x100000000;
/** Spaces that an image's blocks run in. */
export const SPACES = 8;

/** Offset in each data page of a return instruction, where test jumps go. Stores stay away from it. */
export const LANDING = 2048;

export const RECORD_BYTES = 2816;
/** Where the frame register points in a record. */
export const CENTER = RECORD_BYTES / 2;
export const LOG_ENTRIES = 64;

/** Byte offsets in a record. */
export const AT = {
  x: 0,
  f: 256,
  fcsr: 512,
  entry: 520,
  satp: 528,
  sstatus: 536,
  stvec: 544,
  sscratch: 552,
  scause: 560,
  stval: 568,
  scounteren: 576,
  /** Left behind, in the order of OUT. */
  out: 584,
  saved: 648,
  traps: 672,
  /** scause, sepc, stval, sstatus of each trap. */
  log: 704,
} as const;

/** CSRs of the final state. */
export const OUT = ['sstatus', 'sepc', 'sscratch', 'satp', 'stvec', 'sie', 'sip', 'scounteren'] as const;

/** a7 of the ecall that ends the program. */
export const MAGIC = 0x5a5;
