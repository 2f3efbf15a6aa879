import { FaultlineError } from '../base/error.ts';
import { parseSize } from '../base/size.ts';
import { MIB } from '../base/units.ts';

/** Bytes, or text such as '256M'. */
export type Size = number | string;

/** A size as a number. Throws E_USAGE. */
export function bytes(size: Size): number {
  if (typeof size === 'string') return parseSize(size);
  if (Number.isSafeInteger(size) && size >= 0) return size;
  throw new FaultlineError('E_USAGE', 'a size is a whole number of bytes', { hint: "268435456 or '256M'" });
}

/** Below this a guest's kernel and a handful of device pages would chase each other out (O-2). */
export const LIMIT_MIN = 8 * MIB;
