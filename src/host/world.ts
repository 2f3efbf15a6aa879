// What Node and a browser both have under the same names.

/** Milliseconds of a clock that never goes back. */
export const monotonicMs = (): number => performance.now();
/** Nanoseconds of a clock that all threads of the process share; never goes back within one. */
export const sharedClockNs = (): number => Math.floor((performance.timeOrigin + performance.now()) * 1e6);
export const epochSeconds = (): number => Math.floor(Date.now() / 1000);

/** Random bytes fit for keys. */
export function fillRandom(into: Uint8Array): void {
  // Shared memory is refused there, so a copy goes between; 64 KiB is the most that one call gives.
  for (let at = 0; at < into.length; at += 65536) {
    into.set(crypto.getRandomValues(new Uint8Array(Math.min(65536, into.length - at))), at);
  }
}

type WithImmediate = { setImmediate?: (work: () => void) => unknown };

/** Resolves when the event loop has been round once. A browser's timers would wait four milliseconds. */
export function nextTurn(): Promise<void> {
  const { setImmediate } = globalThis as WithImmediate;
  return new Promise(resolve => {
    if (setImmediate !== undefined) setImmediate(resolve);
    else onMessage(resolve);
  });
}

function onMessage(work: () => void): void {
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    work();
  };
  port2.postMessage(0);
}
