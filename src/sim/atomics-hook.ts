type Atomic = (words: Int32Array, at: number, ...rest: number[]) => number;

const OPERATIONS = [
  'load',
  'store',
  'add',
  'sub',
  'or',
  'and',
  'xor',
  'exchange',
  'compareExchange',
] as const;

/**
 * Replaces this thread's `Atomics` by one that calls `before` in front of every access to `arena`; returns
 * how to undo it. The code under test stays as shipped.
 */
export function hookAtomics(arena: ArrayBufferLike, before: (operation: string) => void): () => void {
  const real = globalThis.Atomics;
  const hooked = Object.create(real) as Record<string, Atomic>;
  for (const name of OPERATIONS) {
    const original = real[name] as Atomic;
    hooked[name] = (words, at, ...rest) => {
      if (words.buffer === arena) before(name);
      return original(words, at, ...rest);
    };
  }
  globalThis.Atomics = hooked as unknown as typeof Atomics;
  return () => {
    globalThis.Atomics = real;
  };
}
