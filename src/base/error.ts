/** Every code a user can meet on stderr or in `error.code`. */
export type FaultlineCode =
  | 'E_USAGE'
  | 'E_NOT_AN_IMAGE'
  | 'E_IMAGE_NOT_FOUND'
  | 'E_KERNEL_TRUNCATED'
  | 'E_MEMORY_TOO_SMALL'
  | 'E_MEMORY_LIMIT'
  | 'E_OUT_OF_MEMORY'
  | 'E_SWAP'
  | 'E_SWAP_FULL'
  | 'E_DISK_FULL'
  | 'E_MIRROR'
  | 'E_SIGNATURE'
  | 'E_TOOL_MISSING'
  | 'E_GUEST_FAULT'
  | 'E_GUEST_PANIC'
  | 'E_AGENT'
  | 'E_TIMEOUT'
  | 'E_USER_FAULT'
  | 'E_ELF'
  | 'E_IO'
  | 'E_INTERNAL';

/** A failure meant for a person: one line, a code, and what to try. */
export class FaultlineError extends Error {
  override readonly name = 'FaultlineError';
  readonly code: FaultlineCode;
  /** What to try, as one line without the word "try". */
  readonly hint: string | undefined;

  constructor(code: FaultlineCode, message: string, options: { hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.hint = options.hint;
  }
}
