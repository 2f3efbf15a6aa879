import type { MmPorts } from '../kvm/ports.ts';
import type { Sync } from '../sync/sync.ts';

/** A kvm's mm for cases that use nothing of it but its heap, which only grows. */
export function heapOnly(sync: Sync): MmPorts {
  let next = sync.arena.heap;
  const alloc = (words: number): number => {
    next += words;
    return next - words;
  };
  return { heap: { alloc, free() {} } } as unknown as MmPorts;
}
