/** Linux generic error numbers, by name (A-4). */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  ESRCH: 3,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  E2BIG: 7,
  ENOEXEC: 8,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EFAULT: 14,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  EINVAL: 22,
  EMFILE: 24,
  ENOSPC: 28,
  ERANGE: 34,
  EHWPOISON: 133,
} as const;
export type ErrnoCode = keyof typeof ERRNO;

/** An expected failure off the hot paths, shaped like Node's system errors. */
export class Errno extends Error {
  override readonly name = 'Errno';
  readonly code: ErrnoCode;
  /** Negative, as Node has it. */
  readonly errno: number;
  readonly syscall: string;

  constructor(code: ErrnoCode, syscall: string, detail?: string) {
    super(`${code}: ${syscall}${detail === undefined ? '' : `: ${detail}`}`);
    this.code = code;
    this.errno = -ERRNO[code];
    this.syscall = syscall;
  }
}
