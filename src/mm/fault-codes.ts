// What a fault answers: a frame number, perhaps with GUP_WRITABLE, or one of the negative codes.

/** The pte lets the access be a write too. */
export const GUP_WRITABLE = 1 << 24;
export const GUP_PFN_MASK = GUP_WRITABLE - 1;
/** A huge entry maps the page: a hint, as it may be split by now (K-4). */
export const GUP_HUGE = 1 << 25;
/** No VMA, no right, or the page's content is lost: EFAULT. */
export const GUP_FAULT = -1;
export const GUP_NOMEM = -2;
/** Somebody owes us the page: call again when told. Nothing is half done (J-5). */
export const GUP_BLOCKED = -3;
export const GUP_HWPOISON = -4;
/** A user fault that nobody was asked to resolve: SIGBUS for an access, EFAULT for a system call (U-20, U-23). */
export const GUP_SIGBUS = -5;
/** Within the mm: something changed meanwhile; look again (M-26). */
export const FAULT_RETRY = -100;
/** Within the mm: no huge page for this fault; the pte path takes it (M-20). */
export const FAULT_FALLBACK = -101;

/** How an access may be delayed (M-21). None: it may sleep as often as it must. */
export const FaultFlag = {
  /** Answer GUP_BLOCKED at once, queueing nothing, where the fault would sleep (RETRY_NOWAIT). */
  NoWait: 1 << 0,
  /** Not at all: a user fault is SIGBUS (ALLOW_RETRY missing). ptrace, core dumps (U-35). */
  NoRetry: 1 << 1,
  /** Made by the system on the program's behalf: USER_MODE_ONLY contexts refuse it (V-20). */
  Kernel: 1 << 2,
  /** The second attempt under the rule of 2014 (M-21, F-12). */
  Tried: 1 << 3,
} as const;

/** From here on `how` holds the offset of the address within its page, for a message that tells it (V-5). */
export const FAULT_OFFSET_SHIFT = 8;
