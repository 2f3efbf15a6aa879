// The privileged manual, "Sv39: Page-Based 39-bit Virtual-Memory System".

/** Bits of a page-table entry's low word. */
export const Pte = { V: 1, R: 2, W: 4, X: 8, U: 16, G: 32, A: 64, D: 128 } as const;
