import type { MemoryOp } from '../wasm/code.ts';
import { I32, ModuleBuilder } from '../wasm/encoder.ts';

// `Atomics.load` and its siblings are calls of built-in functions: 7 to 9 ns each, most of them spent on checks of the
// array, and a fault has forty. A generated function of one instruction does the same in 3 ns, as the engine inlines the
// way into it. So what is hot goes through these; the meaning is that of `Atomics`, sequentially consistent.

/** What `Atomics` does to 32-bit words, by word index. An index outside the memory throws. */
export type AtomicWords = {
  load(at: number): number;
  store(at: number, value: number): void;
  /** Each of these returns the value from before. */
  add(at: number, value: number): number;
  sub(at: number, value: number): number;
  and(at: number, bits: number): number;
  or(at: number, bits: number): number;
  exchange(at: number, value: number): number;
  cas(at: number, from: number, to: number): number;
  /** Takes an idle reader/writer lock for reading: 1; 0 when somebody has it or a writer waits (`sync.ts`). */
  enterIdle(at: number): number;
  /** A reader leaves: how many there were, LAST_READER when it was the last and a writer waits. */
  leave(at: number): number;
};

/** What `leave` answers for the last reader, when a writer waits. */
export const LAST_READER = -2;

/** By the buffer of a memory, so that whoever has a view of it has them: one set for each memory and thread. */
const byBuffer = new WeakMap<ArrayBufferLike, AtomicWords>();

/** How this thread reaches a memory: by generated functions, or by `Atomics`, which the explorer watches. */
export type AtomicsKind = 'generated' | 'built-in';

/** Makes the operations of a memory, unless this thread has them. */
export function bindAtomics(memory: WebAssembly.Memory, shared: boolean, kind: AtomicsKind): AtomicWords {
  const known = byBuffer.get(memory.buffer);
  if (known !== undefined) return known;
  const made = kind === 'generated' ? generated(memory, shared) : builtIn(new Int32Array(memory.buffer));
  byBuffer.set(memory.buffer, made);
  return made;
}

function generated(memory: WebAssembly.Memory, shared: boolean): AtomicWords {
  const module = new WebAssembly.Module(atomicsModule(shared));
  const { exports } = new WebAssembly.Instance(module, { env: { memory } });
  return { ...exports } as unknown as AtomicWords;
}

/** The operations of a view's memory; those of `Atomics` for a buffer that is no arena's. */
export function atomicsOf(words: Int32Array): AtomicWords {
  return byBuffer.get(words.buffer) ?? builtIn(words);
}

/** `Atomics` is looked up at each call, as the explorer replaces it. */
function builtIn(words: Int32Array): AtomicWords {
  return {
    load: at => Atomics.load(words, at),
    store: (at, value) => void Atomics.store(words, at, value),
    add: (at, value) => Atomics.add(words, at, value),
    sub: (at, value) => Atomics.sub(words, at, value),
    and: (at, bits) => Atomics.and(words, at, bits),
    or: (at, bits) => Atomics.or(words, at, bits),
    exchange: (at, value) => Atomics.exchange(words, at, value),
    cas: (at, from, to) => Atomics.compareExchange(words, at, from, to),
    enterIdle: at =>
      Atomics.load(words, at + 1) === 0 && Atomics.compareExchange(words, at, 0, 1) === 0 ? 1 : 0,
    leave(at) {
      const before = Atomics.sub(words, at, 1);
      return before === 1 && Atomics.load(words, at + 1) !== 0 ? LAST_READER : before;
    },
  };
}

/** One function an operation, of the word index and its operands. */
function atomicsModule(shared: boolean): Uint8Array<ArrayBuffer> {
  const m = new ModuleBuilder();
  m.importMemory('env', 'memory', { shared, maximum: 65536 });
  const define = (name: string, op: MemoryOp, operands: number, results: readonly (typeof I32)[] = [I32]) =>
    m.define(name, { params: new Array(1 + operands).fill(I32), results }, c => {
      c.get(0).i32(2).op('i32_shl');
      for (let i = 1; i <= operands; i++) c.get(i);
      c.mem(op);
    });
  define('load', 'i32_atomic_load', 0);
  define('store', 'i32_atomic_store', 1, []);
  define('add', 'i32_atomic_rmw_add', 1);
  define('sub', 'i32_atomic_rmw_sub', 1);
  define('and', 'i32_atomic_rmw_and', 1);
  define('or', 'i32_atomic_rmw_or', 1);
  define('exchange', 'i32_atomic_rmw_xchg', 1);
  define('cas', 'i32_atomic_rmw_cmpxchg', 2);
  m.define('enterIdle', { params: [I32], results: [I32] }, c => {
    c.get(0).i32(2).op('i32_shl').tee(0).mem('i32_atomic_load', 4);
    c.if(() => c.i32(0).op('return_'), undefined, { likely: false });
    c.get(0).i32(0).i32(1).mem('i32_atomic_rmw_cmpxchg').op('i32_eqz');
  });
  m.define('leave', { params: [I32], results: [I32] }, c => {
    const before = c.local(I32);
    c.get(0).i32(2).op('i32_shl').tee(0).i32(1).mem('i32_atomic_rmw_sub').tee(before);
    c.i32(1).op('i32_ne');
    c.if(() => c.get(before).op('return_'), undefined, { likely: false });
    c.i32(LAST_READER).i32(1).get(0).mem('i32_atomic_load', 4).op('select');
  });
  return m.finish();
}
