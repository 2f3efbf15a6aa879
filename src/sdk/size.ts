import { FaultlineError } from '../base/error.ts';
import { parseSize } from '../base/size.ts';

/** Bytes, or text such as '256M'. */
export type Size = number | string;

/** A size as a number. Throws E_USAGE. */
export function bytes(size: Size): number {
  if (typeof size === 'string') return parseSize(size);
  if (Number.isSafeInteger(size) && size >= 0) return size;
  throw new FaultlineError('E_USAGE', 'a size is a whole number of bytes', { hint: "268435456 or '256M'" });
}
