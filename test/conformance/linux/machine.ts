import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { UffdFeature } from '../../../src/mm/userfaultfd/state.ts';
import type { Script } from './script.ts';

// What the kernel of this machine can be asked.

/** What the driver found out about userfaultfd: errnos, 0 for success, and the features offered. */
export type Probe = { open: number; api: number; features: number };

/** Calls that need a descriptor. The rest of a script runs anywhere. */
const UFFD_CALLS: readonly string[] = [
  ...['uffd', 'handler', 'api', 'register', 'unregister', 'wake', 'copy', 'copyfrom', 'zeropage'],
  ...['writeprotect', 'move', 'poison', 'continue', 'uread', 'poll', 'close'],
];

const ERRNO_NAMES: Readonly<Record<number, string>> = {
  1: 'EPERM',
  13: 'EACCES',
  22: 'EINVAL',
  38: 'ENOSYS',
};

/** Asked for by scripts, or behind calls that scripts make. */
const NEEDED = [
  ...(['PagefaultFlagWp', 'EventFork', 'EventRemap', 'EventRemove', 'EventUnmap', 'Sigbus'] as const),
  ...(['ExactAddress', 'WpUnpopulated', 'Poison', 'Move'] as const),
];

/** Why scripts with user faults can't run on the machine that answered so; undefined when they can. */
export function whyNoUserfault({ open, api, features }: Probe): string | undefined {
  const name = (errno: number): string => ERRNO_NAMES[errno] ?? `errno ${errno}`;
  if (open === 38) return 'no userfaultfd in this kernel';
  if (open !== 0) return `userfaultfd is refused here (${name(open)})`;
  if (api !== 0) return `the handshake of userfaultfd fails (${name(api)})`;
  const missing = NEEDED.filter(feature => (features & UffdFeature[feature]) === 0);
  return missing.length === 0 ? undefined : `userfaultfd without ${missing.join(', ')}`;
}

/** Would the machine have to offer userfaultfd for this script? */
export const needsUserfault = (script: Script): boolean =>
  script.some(({ call }) => UFFD_CALLS.includes(call));

/** Reads what `driver probe` prints. An answer that doesn't read so is that of no userfaultfd. */
export function parseProbe(text: string): Probe {
  const [, open, api, features] = /^userfaultfd (\d+) (\d+) ([0-9a-f]+)$/m.exec(text) ?? [];
  if (features === undefined) return { open: 38, api: 0, features: 0 };
  // Bits above 31 are newer than what scripts ask for.
  return { open: Number(open), api: Number(api), features: Number.parseInt(features.slice(-8), 16) | 0 };
}

export const probe = (program: string): Probe =>
  parseProbe(execFileSync(program, ['probe'], { encoding: 'utf8' }));

const THP = '/sys/kernel/mm/transparent_hugepage';

/** Why scripts with huge pages can't run here; undefined when they can. What asks for them has to get them. */
export function whyNoHuge(
  read = (name: string): string => readFileSync(`${THP}/${name}`, 'utf8'),
): string | undefined {
  try {
    const [enabled, size, zero] = [read('enabled'), read('hugepages-2048kB/enabled'), read('use_zero_page')];
    if (!enabled.includes('[madvise]')) return `transparent huge pages are '${enabled.trim()}' here`;
    if (!/\[(inherit|madvise)\]/.test(size)) return `huge pages of 2 MiB are '${size.trim()}' here`;
    return zero.trim() === '1' ? undefined : 'there is no huge zero page here';
  } catch {
    return 'no transparent huge pages in this kernel';
  }
}
