import type { Code } from './code.ts';
import { ModuleBuilder } from './encoder.ts';

/** What this engine, on this thread, can do. Plain data: decide once, hand it on. */
export type Features = {
  /** Shared memories and atomics. Without them: one-worker mode (J-4). */
  sharedMemory: boolean;
  /** 128-bit vectors; the page operations need them. */
  simd: boolean;
  /** memory.fill and memory.copy; the page operations need them. */
  bulkMemory: boolean;
  /** Float-to-int conversions that saturate; the interpreter's fcvt needs them. */
  saturatingConversions: boolean;
  /** `return_call`. */
  tailCalls: boolean;
  /** This thread may sleep in `Atomics.wait`: true in workers and in Node, false on a browser's main thread. */
  mayWait: boolean;
  /** `Atomics.waitAsync`. */
  waitAsync: boolean;
};

/**
 * Asks the engine by validating small modules; takes well under a millisecond. Branch hints are not
 * listed: an engine that doesn't know them skips their section, so they are always written.
 */
export function probeFeatures(): Features {
  const sharedMemory =
    validates(c => c.i32(0).mem('i32_atomic_load').op('drop'), true) && makesSharedMemory();
  return {
    sharedMemory,
    simd: validates(c => c.i32(0).op('i64_extend_i32_u', 'i64x2_splat', 'v128_any_true', 'drop')),
    bulkMemory: validates(c => c.i32(0).i32(0).i32(0).memoryFill()),
    saturatingConversions: validates(c => c.f64(0).op('i32_trunc_sat_f64_s', 'drop')),
    tailCalls: validates(c => c.returnCall(0)),
    mayWait: sharedMemory && mayWait(),
    waitAsync: typeof (Atomics as { waitAsync?: unknown }).waitAsync === 'function',
  };
}

/** The names of what the page operations and the processor cannot do without; empty means good to go. */
export function missingFeatures(features: Features): string[] {
  const needed = ['simd', 'bulkMemory', 'saturatingConversions'] as const;
  return needed.filter(name => !features[name]);
}

function validates(body: (code: Code) => void, shared = false): boolean {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared, maximum: 1 });
  m.define('probe', { params: [], results: [] }, body);
  return WebAssembly.validate(m.finish());
}

/** A page that isn't cross-origin isolated has the instructions but not the memory. */
function makesSharedMemory(): boolean {
  if (typeof SharedArrayBuffer === 'undefined') return false;
  try {
    return (
      new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true }).buffer instanceof SharedArrayBuffer
    );
  } catch {
    return false;
  }
}

/** The wait returns at once, as the word isn't 1, or throws where waiting is forbidden. */
function mayWait(): boolean {
  try {
    return Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 1, 0) === 'not-equal';
  } catch {
    return false;
  }
}
