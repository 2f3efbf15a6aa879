import { PAGE_SIZE } from '../../base/units.ts';

// Size classes of the compressed pool. A zspage is 1 to 4 frames that need not be adjacent, seen as one
// run of bytes: a header, then objects of one size. Objects may straddle two frames.

/** Bytes at the start of a zspage that its own record takes. */
export const ZSPAGE_HEADER = 32;
/** Bytes at the start of each object that say whose it is. */
export const OBJECT_HEADER = 4;
export const ZSPAGE_FRAMES_MAX = 4;
const ALIGN = 16;
const STEP = 32;

export type SizeClass = {
  /** Bytes of an object, header included; a multiple of 16. */
  readonly size: number;
  /** Frames of a zspage. */
  readonly frames: number;
  /** Objects of a zspage. */
  readonly objects: number;
};

const usable = (frames: number): number => frames * PAGE_SIZE - ZSPAGE_HEADER;

/** A longer zspage must save this much, because a half-empty one wastes more. */
const WORTH = 1.02;

/** The cheapest way to hold objects of `size`. */
function bestClass(size: number): SizeClass {
  let best: SizeClass | undefined;
  for (let frames = 1; frames <= ZSPAGE_FRAMES_MAX; frames++) {
    const objects = Math.floor(usable(frames) / size);
    if (objects === 0) continue;
    if (best === undefined || frames * best.objects * WORTH < best.frames * objects) {
      best = { size: Math.floor(usable(frames) / objects / ALIGN) * ALIGN, frames, objects };
    }
  }
  return best as SizeClass;
}

/**
 * All classes, smallest first. Sizes that lead to the same zspage are one class, as its objects can be as
 * large as fit. The largest puts 5 objects into 4 frames: whatever is larger takes a frame of its own.
 */
export function sizeClasses(): SizeClass[] {
  const largest = Math.floor(usable(ZSPAGE_FRAMES_MAX) / (ZSPAGE_FRAMES_MAX + 1) / ALIGN) * ALIGN;
  const classes: SizeClass[] = [];
  for (let size = STEP; size <= largest; size += STEP) {
    const candidate = bestClass(size);
    if (candidate.size !== classes.at(-1)?.size) classes.push(candidate);
  }
  return classes;
}
