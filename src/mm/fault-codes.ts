// What a fault answers: a frame number, perhaps with GUP_WRITABLE, or one of the negative codes.

/** The pte lets the access be a write too. */
export const GUP_WRITABLE = 1 << 24;
export const GUP_PFN_MASK = GUP_WRITABLE - 1;
/** No VMA, no right, or the page's content is lost: EFAULT. */
export const GUP_FAULT = -1;
export const GUP_NOMEM = -2;
/** Somebody owes us the page: call again when told. Nothing is half done (J-5). */
export const GUP_BLOCKED = -3;
export const GUP_HWPOISON = -4;
/** Within the mm: something changed meanwhile; look again (M-26). */
export const FAULT_RETRY = -100;
