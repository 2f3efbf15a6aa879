import { MIB } from '../base/units.ts';
import type { Launch } from './driver.ts';
import type { Host } from './host.ts';
import { hartsOf, type SandboxOptions, type Sizes, sizesOf } from './options.ts';
import { endError } from './sandbox.ts';
import { privateHost, start } from './start-guest.ts';

const DEFAULT_MEMORY = 128 * MIB;

/**
 * Runs one ELF in supervisor mode; resolves with the code it stored to `tohost`, or 0 if it powered off.
 * `options.signal` stops it, which rejects.
 */
export async function runBare(
  elf: Uint8Array,
  options: SandboxOptions,
  onConsole: (bytes: Uint8Array) => void,
): Promise<number> {
  const sizes = sizesOf(options, DEFAULT_MEMORY);
  const host = options.host ?? privateHost(sizes, options);
  try {
    return await runIn(host, elf, options, sizes, onConsole);
  } finally {
    if (options.host === undefined) await host.close();
  }
}

async function runIn(
  host: Host,
  elf: Uint8Array,
  options: SandboxOptions,
  sizes: Sizes,
  onConsole: (bytes: Uint8Array) => void,
): Promise<number> {
  const launch: Launch = {
    machine: {
      memoryBytes: sizes.memoryBytes,
      ...(sizes.limitBytes === undefined ? {} : { memoryLimitBytes: sizes.limitBytes }),
      commandLine: '',
      clock: options.clock ?? 'real',
      ...hartsOf(options),
      seed: options.seed ?? 1,
    },
    files: { elf },
    disks: [],
    agent: false,
    keepMemory: options.host === undefined,
  };
  const driver = start(host, launch, { console: onConsole, agent: () => {} });
  options.signal?.addEventListener('abort', () => driver.stop(), { once: true });
  if (options.signal?.aborted) driver.stop();
  const end = await driver.ended;
  if (end.kind === 'exit') return end.code!;
  if (end.kind === 'shutdown') return 0;
  throw endError(end, '');
}
