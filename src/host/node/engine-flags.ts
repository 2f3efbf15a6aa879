import { setFlagsFromString } from 'node:v8';

/** What translated code gains from, with the first V8 that has it without being asked. */
const FLAGS = [
  { flag: '--experimental-wasm-relaxed-simd', defaultSince: 11.4 },
  { flag: '--experimental-wasm-branch-hinting', defaultSince: 14 },
] as const;

/** The flags that a V8 of this version needs. A newer one may not know the name, and would complain. */
export const engineFlags = (v8: string): string[] => {
  const [major, minor] = v8.split('.').map(Number) as [number, number];
  const isBefore = (since: number) =>
    major < Math.floor(since) || (major === Math.floor(since) && minor < Math.round((since % 1) * 10));
  return FLAGS.filter(({ defaultSince }) => isBefore(defaultSince)).map(({ flag }) => flag);
};

/**
 * Has V8 heed branch hints and offer relaxed vectors. For all threads of the process, and for modules
 * compiled from now on: before the first. Does nothing in an engine that has them, or isn't V8.
 */
export const setEngineFlags = (): void => {
  for (const flag of engineFlags(process.versions.v8 ?? '99.0')) setFlagsFromString(flag);
};

/** What V8 11.3 lets a function do before it optimizes it: bytes of machine code that were passed, by and large. */
const USUAL_BUDGET = 1_800_000;
/**
 * For regions of a guest that boots, as they are large: they would be optimized after some twenty visits, and a boot, which has two
 * processors at most places, spends more on that than it gains. A loop still has its turn within some 10 ms.
 */
const REGION_BUDGET = 1_800_000_000;
const TIERING_BUDGET = '--wasm-tiering-budget';

/** Whether the engine counts so, and nobody has said how far: what `compilePatiently` needs. */
export const isPatient =
  process.versions.v8?.startsWith('11.3.') === true &&
  ![...process.execArgv, process.env.NODE_OPTIONS ?? ''].some(text => text.includes(TIERING_BUDGET));

/**
 * Compiles a module whose functions V8 11.3 shall optimize once they were really used. The flag is the
 * process's, so it is set for that moment alone. A script that another thread loads just then, or whose code it keeps, is compiled anew
 * once, as kept code is for certain flags.
 */
export function compilePatiently(bytes: Uint8Array<ArrayBuffer>): WebAssembly.Module {
  setFlagsFromString(`${TIERING_BUDGET}=${REGION_BUDGET}`);
  try {
    return new WebAssembly.Module(bytes);
  } finally {
    setFlagsFromString(`${TIERING_BUDGET}=${USUAL_BUDGET}`);
  }
}
