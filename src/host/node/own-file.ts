import { closeSync, fstatSync, openSync, readSync } from 'node:fs';

const WRITABLE_BY_OTHERS = 0o022;

/**
 * A file of this user's, of at most `most` bytes, to which nobody else may write; undefined for what is none, or is not
 * there.
 */
export function readOwn(path: string, most = Number.MAX_SAFE_INTEGER): Buffer | undefined {
  try {
    const fd = openSync(path, 'r');
    try {
      const { size, uid, mode } = fstatSync(fd);
      if (uid !== process.getuid?.() || (mode & WRITABLE_BY_OTHERS) !== 0 || size > most) return undefined;
      const bytes = Buffer.allocUnsafeSlow(size);
      return readSync(fd, bytes) === size ? bytes : undefined;
    } finally {
      closeSync(fd);
    }
  } catch {
    return undefined;
  }
}
