import { rmSync, statSync } from 'node:fs';

/** Removes all of some files but the `kept` that were changed last. Throws for what it may not remove. */
export function removeOldest(paths: readonly string[], kept: number): void {
  // What another process has taken away meanwhile is as old as can be.
  const age = (path: string) => statSync(path, { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const ages = new Map(paths.map(path => [path, age(path)]));
  const newestFirst = [...paths].sort((a, b) => ages.get(b)! - ages.get(a)!);
  for (const path of newestFirst.slice(kept)) rmSync(path, { force: true });
}
