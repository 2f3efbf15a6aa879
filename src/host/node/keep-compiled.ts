import { mkdirSync, readdirSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { writeFileAtomic } from './atomic-file.ts';
import { removeOldest } from './remove-oldest.ts';
import type { TakeCompiled } from './script-cache.ts';

/** There where this module is part of a script that `runScript` runs. */
declare const takeCompiled: TakeCompiled | undefined;

/** Of one script, for other builds, versions and flags: so many are kept. */
const KEPT = 4;

/**
 * Keeps what V8 has compiled of this thread's script for the next process, unless that is kept already. Some 20 ms
 * where it is not, so call it when there is nothing to do, and once all is compiled that a start needs. A cache that
 * cannot be written costs only the time.
 */
export function keepCompiled(
  take: TakeCompiled | undefined = typeof takeCompiled === 'undefined' ? undefined : takeCompiled,
): void {
  // Where files have no owner, none would ever be read.
  const compiled = process.getuid === undefined ? undefined : take?.();
  if (compiled === undefined) return;
  try {
    const directory = dirname(compiled.path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    // Its bytes are summed up, so that it need not be safe on disk before the name leads there.
    writeFileAtomic(compiled.path, compiled.bytes, { isDurable: false });
    removeOldest(compiledOf(basename(compiled.path).split('-v')[0]!, directory), KEPT);
  } catch {
    // A read-only or full disk, or another process that cleans up too.
  }
}

/** Of a script; those that a process left behind when it was ended at its work as well. */
function compiledOf(script: string, directory: string): string[] {
  return readdirSync(directory)
    .filter(name => name.replace(/^\./, '').startsWith(`${script}-v`))
    .map(name => join(directory, name));
}
