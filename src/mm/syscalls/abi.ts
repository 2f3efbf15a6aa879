import type { Advice } from '../madvise.ts';

// The numbers of the system calls, in one table. Linux's generic ones, as x86-64 and RISC-V have them.

/** Whose numbers a process speaks. seed14: madvise 18 and 19 are USERFAULT and NOUSERFAULT (U-4). */
export type Abi = 'seed14' | 'modern';

export const PROT = { READ: 1, WRITE: 2, EXEC: 4 } as const;

export const MAP = {
  SHARED: 0x01,
  PRIVATE: 0x02,
  FIXED: 0x10,
  ANONYMOUS: 0x20,
  NORESERVE: 0x4000,
  POPULATE: 0x8000,
  FIXED_NOREPLACE: 0x100000,
} as const;

export const MREMAP = { MAYMOVE: 1, FIXED: 2, DONTUNMAP: 4 } as const;

/** `mlock2`. */
export const MLOCK_ONFAULT = 1;

const MADV_COMMON: Readonly<Record<number, Advice>> = {
  0: 'normal',
  3: 'willneed',
  4: 'dontneed',
  8: 'free',
  9: 'remove',
  10: 'dontfork',
  11: 'dofork',
  12: 'mergeable',
  13: 'unmergeable',
  14: 'hugepage',
  15: 'nohugepage',
  16: 'dontdump',
  17: 'dodump',
};

/** Advice by its number. Symbolic names never collide; numbers 18 and 19 do. */
export const MADV: Readonly<Record<Abi, Readonly<Record<number, Advice>>>> = {
  seed14: { ...MADV_COMMON, 18: 'userfault', 19: 'nouserfault' },
  modern: {
    ...MADV_COMMON,
    20: 'cold',
    21: 'pageout',
    22: 'populate-read',
    23: 'populate-write',
    25: 'collapse',
  },
};
