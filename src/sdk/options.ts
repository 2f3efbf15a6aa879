import { FaultlineError } from '../base/error.ts';
import { formatSize, parseSize } from '../base/size.ts';
import { MIB, PAGE_SIZE } from '../base/units.ts';
import { cores } from '../host/node/spawn.ts';
import { openSwapFile } from '../host/node/swap-file.ts';
import type { SwapSpec } from '../machine/host.ts';
import type { Host } from './host.ts';
import { bytes, LIMIT_MIN, type Size } from './size.ts';
import type { FaultHandler } from './userfault.ts';

export type SandboxOptions = {
  /** 'tiny', 'base', a name from `faultline image ls`, or an image's directory. */
  image?: string;
  /** Guest RAM. */
  memory?: Size;
  /** Most of it that may be in frames at once; less than `memory` is overcommit. */
  memoryLimit?: Size;
  /** The memory it lives in, with other guests; its own unless told. Swap is then the Host's. */
  host?: Host;
  /** 'none', 'zram', 'zram:SIZE' or 'file:PATH'. */
  swap?: string;
  /** Merges equal pages, within the guest or among the guests of a Host; 'off' unless told. */
  ksm?: 'off' | 'self' | 'same-owner';
  /** By default the guest has a balloon and reports what it frees, which goes back to the Host. */
  balloon?: 'off' | 'free-page-reporting';
  /**
   * Supplies all of the guest's RAM, page by page, from before its first instruction. `fault.initial` is what
   * belongs there in a guest that boots.
   */
  userfault?: FaultHandler;
  /** Harts, 1 to 8; 1 unless told. */
  cpus?: number;
  /**
   * Workers that run harts, the machine's own among them: as many as harts and cores unless told; 0 runs everything
   * on this thread, over memory nobody shares.
   */
  runners?: number;
  clock?: 'real' | 'instret';
  seed?: number;
  /** Added to the kernel's command line. */
  append?: string;
  /** Modules and command line as Debian ships them. */
  pristine?: boolean;
  /** Give up after this long. */
  timeoutMs?: number;
  signal?: AbortSignal;
  onConsole?(bytes: Uint8Array): void;
  onProgress?(text: string): void;
  /** Instead of the image's own command line. */
  cmdline?: string;
  /** Test: rules of the memory core to switch off, by their names in mm/breaks.ts and kvm/breaks.ts. */
  breaks?: readonly string[];
  /** Test: see MachineConfig. */
  blockedOneIn?: number;
};

/** Harts of a guest; kvm's MAX_VCPUS. */
const MAX_CPUS = 8;

export type Sizes = {
  memoryBytes: number;
  limitBytes: number | undefined;
  swap: SwapSpec;
  /** Gives the swap file back; once no thread uses it any more. */
  closeSwap(): void;
};

/** Checks what was asked for before anything is made. Throws E_USAGE, E_MEMORY_LIMIT, E_SWAP and E_DISK_FULL. */
export function sizesOf(options: SandboxOptions, defaultMemory: number): Sizes {
  const memoryBytes = bytes(options.memory ?? defaultMemory);
  const limitBytes = options.memoryLimit === undefined ? undefined : bytes(options.memoryLimit);
  if (memoryBytes % PAGE_SIZE !== 0) {
    throw new FaultlineError('E_USAGE', `--memory ${memoryBytes} is not a whole number of pages`, {
      hint: '--memory 256M',
    });
  }
  if (memoryBytes > 15 * 1024 * MIB) {
    throw new FaultlineError(
      'E_USAGE',
      `--memory ${formatSize(memoryBytes)} is more than the board has room for`,
      { hint: '--memory 4G' },
    );
  }
  if (limitBytes !== undefined && limitBytes < LIMIT_MIN) {
    throw new FaultlineError(
      'E_MEMORY_LIMIT',
      `a limit of ${formatSize(limitBytes)} is below the working minimum of ${formatSize(LIMIT_MIN)}`,
      {
        hint: '--memory-limit 32M',
      },
    );
  }
  oneOf('ksm', options.ksm, ['off', 'self', 'same-owner']);
  oneOf('balloon', options.balloon, ['off', 'free-page-reporting']);
  const { cpus = 1 } = options;
  if (!Number.isInteger(cpus) || cpus < 1 || cpus > MAX_CPUS) {
    throw new FaultlineError('E_USAGE', `--cpus ${cpus}: a guest has 1 to ${MAX_CPUS} harts`, {
      hint: '--cpus 2',
    });
  }
  if (options.host !== undefined) return { memoryBytes, limitBytes, ...hostSwap(options) };
  return {
    memoryBytes,
    limitBytes,
    ...parseSwap(options.swap ?? defaultSwap(memoryBytes, limitBytes), memoryBytes),
  };
}

/** Harts, and the threads that run them: as many as there are harts and cores, unless told. */
export function hartsOf(options: SandboxOptions): { cpus: number; runners: number } {
  const { cpus = 1, runners = cores() } = options;
  return { cpus, runners: Math.max(1, Math.min(cpus, runners)) };
}

/** A word that is none must not be taken for another: 'slef' would merge with other guests. */
function oneOf(name: string, word: string | undefined, words: readonly string[]): void {
  if (word === undefined || words.includes(word)) return;
  throw new FaultlineError('E_USAGE', `--${name} ${word} is not one of ${words.join(', ')}`, {
    hint: `--${name} ${words[0]}`,
  });
}

/** A guest that may not have all its RAM needs somewhere to put the rest. */
function defaultSwap(memoryBytes: number, limitBytes: number | undefined): string {
  return limitBytes !== undefined && limitBytes < memoryBytes ? 'zram' : 'none';
}

/** A guest in a Host swaps where that does. */
function hostSwap(options: SandboxOptions): Swap {
  const inline = options.host!.inline;
  if (options.swap !== undefined) {
    throw new FaultlineError('E_USAGE', 'swap belongs to the Host that the guest is in', {
      hint: "Host.create({ swap: 'zram' })",
    });
  }
  if (options.runners !== undefined && (options.runners === 0) !== inline) {
    throw new FaultlineError('E_USAGE', 'runners: 0 is said of the Host, for all of its guests', {
      hint: 'Host.create({ runners: 0 })',
    });
  }
  return noFile({ kind: 'none' });
}

type Swap = Pick<Sizes, 'swap' | 'closeSwap'>;

const noFile = (swap: SwapSpec): Swap => ({ swap, closeSwap() {} });

/** Throws E_USAGE for a text that names no swap, E_SWAP and E_DISK_FULL for a file that can't be. */
export function parseSwap(text: string, memoryBytes: number): Swap {
  const [kind, rest] = splitOnce(text);
  if (kind === 'none' && rest === undefined) return noFile({ kind: 'none' });
  const size = rest === undefined || kind !== 'zram' ? memoryBytes : parseSize(rest);
  if (kind === 'zram' && size >= PAGE_SIZE) return noFile({ kind: 'zram', bytes: size });
  if (kind === 'file' && rest) return swapFile(rest, memoryBytes);
  throw new FaultlineError('E_USAGE', `--swap ${text} is nothing to swap to`, {
    hint: '--swap none, zram, zram:256M or file:PATH',
  });
}

function splitOnce(text: string): [string, string | undefined] {
  const colon = text.indexOf(':');
  return colon < 0 ? [text, undefined] : [text.slice(0, colon), text.slice(colon + 1)];
}

function swapFile(path: string, memoryBytes: number): Swap {
  const file = openSwapFile(path, memoryBytes);
  return { swap: { kind: 'file', path, fd: file.fd, bytes: memoryBytes }, closeSwap: () => file.close() };
}
