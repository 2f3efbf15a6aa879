import { framesFor } from '../machine/host.ts';
import type { Launch } from './driver.ts';

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

/** A Launch for `InlineDriver` from bytes. Throws ENOMEM when it can't fit an arena. */
export function launchFromBytes(o: BytesLaunch): Launch {
  const swap = o.zramBytes ? ({ kind: 'zram', bytes: o.zramBytes } as const) : ({ kind: 'none' } as const);
  return {
    host: {
      frames: framesFor(o.memoryBytes, o.memoryLimitBytes, swap),
      shared: false,
      swap,
      breaks: [],
    },
    machine: {
      memoryBytes: o.memoryBytes,
      ...(o.memoryLimitBytes === undefined ? {} : { memoryLimitBytes: o.memoryLimitBytes }),
      commandLine: o.commandLine,
      clock: 'real',
    },
    files: { kernel: o.kernel, ...(o.initrd === undefined ? {} : { initrd: o.initrd }) },
    disks: [],
    agent: false,
  };
}
