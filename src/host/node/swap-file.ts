import {
  closeSync,
  fstatSync,
  ftruncateSync,
  openSync,
  readSync,
  statfsSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { Errno } from '../../base/errno.ts';
import { FaultlineError } from '../../base/error.ts';
import { formatSize } from '../../base/size.ts';

/** A file that guest memory is swapped to, open. It satisfies mm's `SwapFilePort`. */
export type HostSwapFile = {
  readonly path: string;
  /** Workers of this process reach the file with `swapFilePort(fd)`. */
  readonly fd: number;
  readAt(offset: number, bytes: Uint8Array): number;
  writeAt(offset: number, bytes: Uint8Array): number;
  /** Gives the disk space back. No other thread may use the descriptor any more: its number is reused. */
  close(): void;
};

/**
 * Creates a swap file of `bytes`, sparse, readable by nobody else. What it holds is other people's memory
 * and is worth nothing afterwards, so its name is removed at once: the space comes back however the process
 * ends, and no second process can swap to it. An existing file is refused unless it is empty. Throws
 * E_SWAP and E_DISK_FULL.
 */
export function openSwapFile(path: string, bytes: number): HostSwapFile {
  const { fd, created } = open(path);
  try {
    requireRoom(path, bytes);
    ftruncateSync(fd, bytes);
    if (created) unlink(path);
  } catch (error) {
    closeSync(fd);
    if (created) unlink(path);
    throw explain(error, path);
  }
  const close = (): void => {
    // An empty file that somebody prepared keeps its name, and is empty again.
    if (!created) ftruncateSync(fd, 0);
    closeSync(fd);
  };
  return { path, fd, ...swapFilePort(fd), close };
}

/** The port over an open descriptor. Positional, so that threads may share it. */
export function swapFilePort(fd: number): Pick<HostSwapFile, 'readAt' | 'writeAt'> {
  return {
    readAt: (offset, bytes) => transfer('swap read', () => readSync(fd, bytes, 0, bytes.length, offset)),
    writeAt: (offset, bytes) => transfer('swap write', () => writeSync(fd, bytes, 0, bytes.length, offset)),
  };
}

const FULL = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);
const codeOf = (error: unknown): string => (error as { code?: string }).code ?? '';

/** A system error becomes an Errno that the core knows; anything else is a bug and goes on. */
function transfer(name: string, call: () => number): number {
  for (;;) {
    try {
      return call();
    } catch (error) {
      const code = codeOf(error);
      if (code === 'EINTR' || code === 'EAGAIN') continue;
      if (typeof (error as { errno?: unknown }).errno !== 'number') throw error;
      throw new Errno(FULL.has(code) ? 'ENOSPC' : 'EIO', name, code);
    }
  }
}

function open(path: string): { fd: number; created: boolean } {
  try {
    return { fd: openSync(path, 'wx+', 0o600), created: true };
  } catch (error) {
    if (codeOf(error) !== 'EEXIST') throw explain(error, path);
  }
  return { fd: openEmpty(path), created: false };
}

function openEmpty(path: string): number {
  let fd: number;
  try {
    fd = openSync(path, 'r+');
  } catch (error) {
    throw explain(error, path);
  }
  const stat = fstatSync(fd);
  if (stat.isFile() && stat.size === 0) return fd;
  closeSync(fd);
  const what = stat.isFile() ? 'exists and is not empty' : 'is not a regular file';
  throw new FaultlineError('E_SWAP', `swap file ${path} ${what}`, {
    hint: 'name a file that does not exist yet; it is made, and removed at the end',
  });
}

function requireRoom(path: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(dirname(path));
  const room = bavail * bsize;
  if (room >= bytes) return;
  throw new FaultlineError(
    'E_DISK_FULL',
    `a swap file of ${formatSize(bytes)} does not fit beside ${path}: ${formatSize(room)} are free`,
    { hint: 'a smaller one, another disk, or --swap zram' },
  );
}

function unlink(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Some systems don't remove open files; then it stays until somebody cleans up.
  }
}

const HINTS: Record<string, string> = {
  ENOENT: 'make the directory first, or name another path',
  ENOTDIR: 'a directory in the path is a file; name another path',
  EACCES: 'a directory that you may write to',
  EPERM: 'a directory that you may write to',
  EROFS: 'a disk that is not read-only',
  EISDIR: 'the name of a file in that directory',
  EFBIG: 'a smaller swap file, or a larger file size limit (ulimit -f)',
};

function explain(error: unknown, path: string): unknown {
  if (error instanceof FaultlineError) return error;
  const code = codeOf(error);
  if (code === '') return error;
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new FaultlineError('E_DISK_FULL', `no room for the swap file ${path} (${code})`, {
      hint: 'a smaller one, another disk, or --swap zram',
      cause: error,
    });
  }
  const hint = HINTS[code] ?? 'another path, or --swap zram';
  return new FaultlineError('E_SWAP', `swap file ${path} cannot be made (${code})`, { hint, cause: error });
}
