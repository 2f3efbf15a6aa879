import { MIB } from '../base/units.ts';
import { framesFor } from '../machine/host.ts';
import type { Launch } from './driver.ts';
import { InlineDriver } from './inline-driver.ts';
import { nodeMachine } from './node-ports.ts';
import { type SandboxOptions, type Sizes, sizesOf } from './options.ts';
import { endError } from './sandbox.ts';
import { WorkerDriver } from './worker-driver.ts';

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
  try {
    return await runSized(elf, options, sizes, onConsole);
  } finally {
    sizes.closeSwap();
  }
}

async function runSized(
  elf: Uint8Array,
  options: SandboxOptions,
  sizes: Sizes,
  onConsole: (bytes: Uint8Array) => void,
): Promise<number> {
  const launch: Launch = {
    host: {
      frames: framesFor(sizes.memoryBytes, sizes.limitBytes, sizes.swap),
      shared: true,
      swap: sizes.swap,
      breaks: [],
    },
    machine: {
      memoryBytes: sizes.memoryBytes,
      ...(sizes.limitBytes === undefined ? {} : { memoryLimitBytes: sizes.limitBytes }),
      commandLine: '',
      clock: options.clock ?? 'real',
      seed: options.seed ?? 1,
    },
    files: { elf },
    disks: [],
    agent: false,
  };
  const events = { console: onConsole, agent: () => {} };
  const driver =
    options.runners === 0 ? new InlineDriver(launch, events, nodeMachine) : new WorkerDriver(launch, events);
  options.signal?.addEventListener('abort', () => driver.stop(), { once: true });
  if (options.signal?.aborted) driver.stop();
  const end = await driver.ended;
  if (end.kind === 'exit') return end.code!;
  if (end.kind === 'shutdown') return 0;
  throw endError(end, '');
}
