import { expect, test } from 'vitest';
import { Arena } from '../sync/arena.ts';
import { i32, type Ptr, struct } from '../sync/struct.ts';
import { Sync } from '../sync/sync.ts';
import { hookAtomics } from './atomics-hook.ts';

/** What the hook sees of a lock and of a field's operations. */
function watched(arena: Arena): string[] {
  const sync = new Sync(arena);
  const record = struct(arena.words, 'record', { lock: i32, count: i32 });
  const at = arena.heap as Ptr<'record'>;
  const seen: string[] = [];
  const unhook = hookAtomics(arena.memory.buffer, operation => seen.push(operation));
  sync.lock('zone', at + record.lock.at);
  record.count.add(at, 1);
  sync.unlock('zone', at + record.lock.at);
  unhook();
  record.count.load(at);
  return seen;
}

test('E1: every atomic access of an actor can be a point, as its arena is attached with the built-in atomics', () => {
  const { memory } = Arena.create({ frames: 16, heapBytes: 4096, shared: true });
  const other = new WebAssembly.Memory({ initial: 4, maximum: 4, shared: true });
  new Uint8Array(other.buffer).set(new Uint8Array(memory.buffer).subarray(0, other.buffer.byteLength));
  expect(watched(Arena.attach(other, 'built-in'))).toEqual(['compareExchange', 'add', 'exchange']);
  // Production's are not seen: so the kind matters.
  expect(watched(Arena.attach(memory))).toEqual([]);
});
