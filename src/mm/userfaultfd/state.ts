// Constants of the records `uffd` and `uffdWait`, and of what is read from a descriptor.

/** `uffd.state`. The middle ones are the handshake of 2014 (F-2); today's goes from Ask to Running (V-3). */
export const UffdState = { Ask: 0, AckOk: 1, AckUnknown: 2, Running: 3, Released: 4 } as const;

/** `uffd.flags`, fixed at birth. The low ones are the caller's. */
export const UffdFlag = {
  UserModeOnly: 1 << 0,
  NonBlock: 1 << 1,
  CloseOnExec: 1 << 2,
  /** Speaks the protocol of 2014. */
  Seed14: 1 << 3,
  /** What holes become when the last descriptor closes (V-29); neither: ordinary memory, as in mainline. */
  ClosePoison: 1 << 4,
  CloseHang: 1 << 5,
} as const;

/** Feature bits (V-5). */
export const UffdFeature = {
  PagefaultFlagWp: 1 << 0,
  EventFork: 1 << 1,
  EventRemap: 1 << 2,
  EventRemove: 1 << 3,
  MissingHugetlbfs: 1 << 4,
  MissingShmem: 1 << 5,
  EventUnmap: 1 << 6,
  Sigbus: 1 << 7,
  ThreadId: 1 << 8,
  MinorHugetlbfs: 1 << 9,
  MinorShmem: 1 << 10,
  ExactAddress: 1 << 11,
  WpHugetlbfsShmem: 1 << 12,
  WpUnpopulated: 1 << 13,
  Poison: 1 << 14,
  WpAsync: 1 << 15,
  Move: 1 << 16,
} as const;

/** Register modes (V-11). */
export const UffdMode = { Missing: 1, Wp: 2, Minor: 4 } as const;

/** `uffdWait.event`, and the first byte of a message. */
export const UffdEvent = { Pagefault: 0x12, Fork: 0x13, Remap: 0x14, Remove: 0x15, Unmap: 0x16 } as const;

/** `uffdWait.flags` of a page fault (V-21). */
export const UffdFault = { Write: 1, Wp: 2, Minor: 4 } as const;

/** `uffdWait.state`. */
export const WaitState = { Pending: 0, Read: 1, Woken: 2 } as const;

/** Numbers of the ioctls (V-4). */
export const UffdIoctl = {
  Register: 0,
  Unregister: 1,
  Wake: 2,
  Copy: 3,
  Zeropage: 4,
  Move: 5,
  Writeprotect: 6,
  Continue: 7,
  Poison: 8,
  Api: 0x3f,
} as const;

/** The version that both generations speak (F-2, V-3). */
export const UFFD_API = 0xaa;

/** What poll answers. Linux: POLLIN, POLLOUT, POLLERR, POLLHUP. */
export const Poll = { In: 1, Out: 4, Err: 8, Hup: 16 } as const;
