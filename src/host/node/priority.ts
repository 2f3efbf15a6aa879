import { readdirSync } from 'node:fs';
import { setPriority } from 'node:os';

// Where a machine has few processors, what compiles takes them from the guest whose code it is. So it yields: what it is at
// is worth the more the longer the guest runs, and the guest runs meanwhile.

/** A nice value: a tenth of a processor for which something ordinary competes. */
const BACKGROUND = 10;

/**
 * Lowers the priority of all threads that this process has beside the main one: at its very beginning, those of the engine,
 * on which it compiles. On Linux; elsewhere priorities are of processes.
 */
export function engineYields(): void {
  if (process.platform !== 'linux') return;
  for (const thread of readdirSync('/proc/self/task')) {
    if (Number(thread) !== process.pid) lower(Number(thread));
  }
}

/** Lowers the priority of this thread, on Linux. */
export function threadYields(): void {
  if (process.platform === 'linux') lower(0);
}

/** What can't be lowered, as it is gone or a sandbox forbids it, stays as it is. */
function lower(thread: number): void {
  try {
    setPriority(thread, BACKGROUND);
  } catch {
    // It works all the same.
  }
}
