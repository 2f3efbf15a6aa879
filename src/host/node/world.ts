import { webcrypto } from 'node:crypto';

/** Milliseconds of a clock that never goes back. */
export const monotonicMs = (): number => performance.now();
export const epochSeconds = (): number => Math.floor(Date.now() / 1000);

/** Random bytes fit for keys. */
export function fillRandom(into: Uint8Array): void {
  // Shared memory is refused there, so a copy goes between.
  into.set(webcrypto.getRandomValues(new Uint8Array(into.length)));
}
