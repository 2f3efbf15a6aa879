import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { Root } from '../../sync/arena.ts';
import type { Sync } from '../../sync/sync.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import type { Heap } from '../heap.ts';
import { PageFlag } from '../layout.ts';
import type { Pages } from '../page.ts';
import type { PageAlloc } from '../page-alloc.ts';
import type { Swap } from './swap.ts';
import type { FramePort, SwapBackend } from './swap-backend.ts';
import { SwapFile, type SwapFilePort } from './swap-file.ts';
import { Zram } from './zram.ts';

/** Where pages go that memory has no room for. */
export type SwapConfig =
  | { kind: 'none' }
  /** Compressed memory: room for `bytes` of pages, the pool taking frames of its own. */
  | { kind: 'zram'; bytes: number; memLimitBytes?: number }
  /** The first `bytes` of a file that the host has opened; this thread's port to it is `swapFile`. */
  | { kind: 'file'; bytes: number };

export type SwapDeviceDeps = {
  readonly sync: Sync;
  readonly pageOps: PageOps;
  readonly heap: Heap;
  readonly pages: Pages;
  readonly pageAlloc: PageAlloc;
  readonly swap: Swap;
  readonly swapFile?: SwapFilePort | undefined;
};

/** Frames of the pool, told apart from users' pages. */
const framePort = ({ pageAlloc, pages }: SwapDeviceDeps): FramePort => ({
  allocFrame() {
    const pfn = pageAlloc.alloc();
    if (pfn >= 0) pages.set(pfn, PageFlag.Zram);
    return pfn;
  },
  freeFrame: pfn => pageAlloc.free(pfn),
});

/** Makes the arena's swap device, or, on a further thread, attaches to it. Returns it, if there is one. */
export function openSwap(deps: SwapDeviceDeps, config: SwapConfig): SwapBackend | undefined {
  if (config.kind === 'none') return undefined;
  const { sync, swap } = deps;
  const exists = sync.arena.root(config.kind === 'zram' ? Root.zram : Root.swapfile) !== 0;
  const device = config.kind === 'zram' ? openZram(deps, config, exists) : openFile(deps, config, exists);
  if (exists) swap.attach(0, device);
  else swap.swapon(device);
  return device;
}

function openZram(deps: SwapDeviceDeps, config: SwapConfig & { kind: 'zram' }, exists: boolean): SwapBackend {
  const { sync, pageOps, heap } = deps;
  const parts = { arena: sync.arena, sync, ops: pageOps, heap, frames: framePort(deps) };
  if (exists) return Zram.attach(parts);
  const limit = config.memLimitBytes === undefined ? {} : { memLimitBytes: config.memLimitBytes };
  return Zram.create(parts, { slots: Math.floor(config.bytes / PAGE_SIZE), ...limit });
}

function openFile(deps: SwapDeviceDeps, config: SwapConfig & { kind: 'file' }, exists: boolean): SwapBackend {
  const { sync, pageOps, heap, swapFile: file } = deps;
  if (file === undefined) throw new Errno('EINVAL', 'swapon', 'no port to the swap file');
  const parts = { arena: sync.arena, ops: pageOps, heap, file };
  return exists ? SwapFile.attach(parts) : SwapFile.create(parts, Math.floor(config.bytes / PAGE_SIZE));
}
