import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import { alignUp } from '../base/units.ts';
import { Root } from '../sync/arena.ts';
import type { Sync } from '../sync/sync.ts';

// The heap is a row of blocks. A block is a granule of header, then its words:
//
//   header  word 0  size of the block in words, header included
//           word 1  USED or FREE
//           word 2  size of the block before, 0 for the first
//
// The first granule of the heap is its state: the lock, the lowest free block, words in use.
// Words of free blocks are zero, so that parts never used are never touched.

const GRANULE = 16;
/** Words cleared at a time: a page of the operating system's. */
const CHUNK = 1024;
const SIZE = 0;
const STATE = 1;
const BEFORE = 2;
const USED = 0x55534544;
const FREE = 0x46524545;
const LOCK = 0;
const LOWEST = 1;
const IN_USE = 2;

/**
 * First-fit allocator of the arena's heap: tables that live as long as a VM. One per thread over shared
 * state; its lock is of class 'zone', a leaf.
 */
export class Heap {
  readonly #sync: Sync;
  readonly #words: Int32Array;
  readonly #state: number;
  readonly #end: number;

  constructor(sync: Sync) {
    this.#sync = sync;
    this.#words = sync.words;
    this.#state = sync.arena.root(Root.heap);
    this.#end = sync.arena.heap + sync.arena.heapWords;
    assert(this.#state !== 0, 'Heap: the arena has no heap root');
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync): void {
    const { arena, words } = sync;
    const first = arena.heap + GRANULE;
    words[first + SIZE] = arena.heapWords - GRANULE;
    words[first + STATE] = FREE;
    words[arena.heap + LOWEST] = first;
    arena.setRoot(Root.heap, arena.heap);
  }

  /** Word index of `words` zeroed words, 64-byte aligned. Throws ENOMEM. No leaf lock may be held. */
  alloc(words: number): number {
    const size = GRANULE + alignUp(Math.max(words, 1), GRANULE);
    this.#sync.lock('zone', this.#state + LOCK);
    const block = this.#find(size);
    if (block !== 0) this.#take(block, size);
    this.#sync.unlock('zone', this.#state + LOCK);
    if (block === 0) throw new Errno('ENOMEM', 'heap', `no room for ${words} words`);
    return block + GRANULE;
  }

  /** Gives back what `alloc` returned; 0 does nothing. */
  free(at: number): void {
    if (at === 0) return;
    const block = at - GRANULE;
    assert(this.#words[block + STATE] === USED, 'heap: freed what is not in use');
    this.#clear(at, block + (this.#words[block + SIZE] as number));
    this.#sync.lock('zone', this.#state + LOCK);
    this.#words[this.#state + IN_USE] -= this.#words[block + SIZE] as number;
    const merged = this.#mergeBefore(this.#mergeAfter(block));
    this.#words[merged + STATE] = FREE;
    if (merged < (this.#words[this.#state + LOWEST] as number)) this.#words[this.#state + LOWEST] = merged;
    this.#sync.unlock('zone', this.#state + LOCK);
  }

  /** Makes words zero. What was never used is only read, so that a large table freed half empty costs no memory. */
  #clear(from: number, to: number): void {
    const words = this.#words;
    for (let at = from; at < to; at += CHUNK) {
      const end = Math.min(at + CHUNK, to);
      let used = at;
      while (used < end && words[used] === 0) used++;
      if (used < end) words.fill(0, used, end);
    }
  }

  /** Words in use, headers included. */
  get used(): number {
    return this.#words[this.#state + IN_USE] as number;
  }

  #find(size: number): number {
    const words = this.#words;
    let lowest = true;
    for (let at = words[this.#state + LOWEST] as number; at < this.#end; at += words[at + SIZE] as number) {
      if (words[at + STATE] !== FREE) continue;
      if ((words[at + SIZE] as number) >= size) return at;
      if (lowest) words[this.#state + LOWEST] = at;
      lowest = false;
    }
    return 0;
  }

  #take(block: number, size: number): void {
    const words = this.#words;
    const rest = (words[block + SIZE] as number) - size;
    if (rest >= 2 * GRANULE) {
      words[block + SIZE] = size;
      words[block + size + SIZE] = rest;
      words[block + size + STATE] = FREE;
      words[block + size + BEFORE] = size;
      if (block + size + rest < this.#end) words[block + size + rest + BEFORE] = rest;
    }
    words[block + STATE] = USED;
    words[this.#state + IN_USE] += words[block + SIZE] as number;
    if (words[this.#state + LOWEST] === block) words[this.#state + LOWEST] = block + words[block + SIZE]!;
  }

  #mergeAfter(block: number): number {
    const words = this.#words;
    const next = block + (words[block + SIZE] as number);
    if (next < this.#end && words[next + STATE] === FREE) this.#absorb(block, next);
    return block;
  }

  #mergeBefore(block: number): number {
    const words = this.#words;
    const before = words[block + BEFORE] as number;
    if (before === 0 || words[block - before + STATE] !== FREE) return block;
    this.#absorb(block - before, block);
    return block - before;
  }

  /** `next` becomes part of `block`, which it follows; its header becomes zero words. */
  #absorb(block: number, next: number): void {
    const words = this.#words;
    const size = (words[block + SIZE] as number) + (words[next + SIZE] as number);
    words.fill(0, next, next + 3);
    words[block + SIZE] = size;
    if (block + size < this.#end) words[block + size + BEFORE] = size;
  }
}
