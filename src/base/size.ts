import { FaultlineError } from './error.ts';

const UNIT: Record<string, number> = { '': 1, K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** Bytes of a size as people write it: `4096`, `256M`, `1.5G`, `64MiB`. Throws E_USAGE. */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)([KMGT]?)(?:i?B)?$/i.exec(text.trim());
  if (match === null) {
    throw new FaultlineError('E_USAGE', `'${text}' is not a size`, {
      hint: 'a number with K, M or G, such as 256M',
    });
  }
  return Math.floor(Number(match[1]) * UNIT[(match[2] as string).toUpperCase()]!);
}

/** A size for people: `64 MiB`, `1.5 GiB`. */
export function formatSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let unit = 0;
  let value = bytes;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  const digits = Number.isInteger(value) || value >= 100 ? 0 : 1;
  return `${value.toFixed(digits)} ${units[unit]}`;
}
