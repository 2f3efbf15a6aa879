import { framesFor, Host } from '../machine/host.ts';
import type { DriverEvents, Launch } from './driver.ts';
import { InlineDriver } from './inline-driver.ts';
import { Memory } from './memory.ts';

/** What a machine without files of its own is made of: a page has bytes, and nothing else. */
export type BytesLaunch = {
  kernel: Uint8Array;
  initrd?: Uint8Array;
  commandLine: string;
  memoryBytes: number;
  /** Bytes of frames that the guest may have at once. */
  memoryLimitBytes?: number;
  /** Bytes of compressed swap; none when 0. */
  zramBytes?: number;
};

/**
 * Starts a machine on this thread, over a Host of its own. `shared`: other threads may attach. Throws ENOMEM
 * when it can't fit an arena.
 */
export function startFromBytes(
  o: BytesLaunch,
  events: DriverEvents,
  shared: boolean,
): { driver: InlineDriver; memory: Memory } {
  const swap = o.zramBytes ? ({ kind: 'zram', bytes: o.zramBytes } as const) : ({ kind: 'none' } as const);
  const frames = framesFor(o.memoryBytes, o.memoryLimitBytes, swap);
  const host = Host.create({ frames, shared, swap, breaks: [] });
  const driver = new InlineDriver(host, launchOf(o), events, () => {
    throw new Error('bytes have no disks');
  });
  return { driver, memory: new Memory(host, driver) };
}

const launchOf = (o: BytesLaunch): Launch => ({
  machine: {
    memoryBytes: o.memoryBytes,
    ...(o.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: o.memoryLimitBytes }),
    commandLine: o.commandLine,
    clock: 'real',
  },
  files: { kernel: o.kernel, ...(o.initrd === undefined ? {} : { initrd: o.initrd }) },
  disks: [],
  agent: false,
  keepMemory: true,
});
