import { mkdirSync, readdirSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { writeFileAtomic } from './atomic-file.ts';
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
  const compiled = take?.();
  if (compiled === undefined) return;
  try {
    const directory = dirname(compiled.path);
    mkdirSync(directory, { recursive: true, mode: 0o700 });
    writeFileAtomic(compiled.path, compiled.bytes);
    removeOldest(directory, basename(compiled.path).split('-v')[0]!);
  } catch {
    // A read-only or full disk, or another process that cleans up too.
  }
}

function removeOldest(directory: string, script: string): void {
  const paths = readdirSync(directory)
    .filter(name => name.startsWith(`${script}-v`))
    .map(name => join(directory, name));
  const ages = new Map(paths.map(path => [path, statSync(path).mtimeMs]));
  paths.sort((a, b) => ages.get(b)! - ages.get(a)!);
  for (const path of paths.slice(KEPT)) rmSync(path, { force: true });
}
