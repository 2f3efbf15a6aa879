import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';

/**
 * Writes a file so that a reader sees all of it or what was there before; unless it need not be durable, after a crash of
 * the machine, too.
 */
export function writeFileAtomic(
  path: string,
  bytes: Uint8Array | string,
  { isDurable = true, mode = 0o644 } = {},
): void {
  const data = typeof bytes === 'string' ? Buffer.from(bytes) : bytes;
  // Any name that is free: node:crypto takes a thread 4 ms to load.
  const temporary = join(
    dirname(path),
    `.${basename(path)}.${process.pid}-${Math.random().toString(36).slice(2)}`,
  );
  const fd = openSync(temporary, 'wx', mode);
  try {
    for (let at = 0; at < data.length; ) at += writeSync(fd, data, at, data.length - at);
    if (isDurable) fsyncSync(fd);
    closeSync(fd);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** Runs `work` with a fresh directory under `parent`, which is gone afterwards unless `work` moved it. */
export async function withTemporaryDirectory<T>(
  parent: string,
  work: (directory: string) => Promise<T>,
): Promise<T> {
  mkdirSync(parent, { recursive: true });
  const directory = mkdtempSync(join(parent, 'tmp-'));
  try {
    return await work(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/**
 * Puts a finished directory in its place, replacing what was there. Rename swaps no directories, so the
 * old one is moved aside first; whoever has its files open keeps them. Of two that publish at once the
 * last one wins, whole.
 */
export function publishDirectory(finished: string, target: string): void {
  mkdirSync(dirname(target), { recursive: true });
  for (let attempt = 0; attempt < 8; attempt++) {
    const aside = `${finished}.old-${attempt}`;
    try {
      if (existsSync(target)) renameSync(target, aside);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    }
    try {
      renameSync(finished, target);
      rmSync(aside, { recursive: true, force: true });
      return;
    } catch (error) {
      const code = (error as NodeJS.ErrnoException).code;
      if (code !== 'ENOTEMPTY' && code !== 'EEXIST') throw error;
    }
  }
  throw new Error(`cannot replace ${target}: others keep writing it`);
}
