/** `faultline/mm`: an address space of Linux's kind in shared memory. See README.md here. */
export { Arena, type ArenaOptions } from '../sync/arena.ts';
export { Sync, type SyncOptions } from '../sync/sync.ts';
export { createPageOps, type PageOps } from '../wasm/page-ops.ts';
export { CopyError, type SigbusHandler, UserFaultSigbus } from './access.ts';
export { type MmBreaks, NO_MM_BREAKS } from './breaks.ts';
export { attachMm, initMm, type MmConfig, MmCore } from './core.ts';
export {
  FaultFlag,
  GUP_BLOCKED,
  GUP_FAULT,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
  GUP_WRITABLE,
} from './fault-codes.ts';
export type { Advice } from './madvise.ts';
export type { MapOptions, Protection } from './mmap.ts';
export type { MmOptions } from './mms.ts';
export { type MmuNotifierOps, NotifyEvent, NotifyFlag } from './mmu-notifier-ops.ts';
export type { SwapConfig } from './swap/swap-config.ts';
export type { SwapFilePort } from './swap/swap-file.ts';
export { type Buffer14, Userfaultfd2014 } from './userfaultfd/seed14.ts';
export {
  Poll,
  UFFD_API,
  UffdEvent,
  UffdFault,
  UffdFeature,
  UffdIoctl,
  UffdMode,
} from './userfaultfd/state.ts';
export {
  type ClosePolicy,
  type UserfaultEvent,
  Userfaultfd,
  type UserfaultfdOptions,
} from './userfaultfd/userfaultfd.ts';
