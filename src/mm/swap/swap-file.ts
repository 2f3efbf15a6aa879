import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE, type Pfn } from '../../base/units.ts';
import { type Arena, frameByte, Root } from '../../sync/arena.ts';
import { i32, type Ptr, struct } from '../../sync/struct.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import type { HeapPort, SwapBackend, SwapRead, SwapWrite } from './swap-backend.ts';

/**
 * A file at byte offsets; the host has it. Both calls are positional, so threads may share the file, and
 * `bytes` is a view of the arena, which may be shared memory. Each returns how many bytes it moved, which
 * may be fewer than asked for, and throws `Errno`: ENOSPC when the disk is full, EIO for the rest.
 */
export type SwapFilePort = {
  /** 0 at the end of the file. */
  readAt(offset: number, bytes: Uint8Array): number;
  writeAt(offset: number, bytes: Uint8Array): number;
};

const layout = (words: Int32Array) =>
  struct(words, 'swapfile', {
    slots: i32,
    /** Word index of one word a slot: what it holds. */
    table: i32,
  });

// A slot's word. Atomic: only the slot's user touches it, but that changes from thread to thread.
const EMPTY = 0;
/** Nothing is in the file for it (O-5). Linux: swap_zeromap. */
const ZERO = 1;
const STORED = 2;

/** What a `SwapFile` works with. */
export type SwapFileParts = { arena: Arena; ops: PageOps; heap: HeapPort; file: SwapFilePort };

/** A file as a swap device: slot n is the file's n-th page. One object per thread; takes no lock. */
export class SwapFile implements SwapBackend {
  readonly name = 'file';
  readonly slots: number;
  readonly #bytes: Uint8Array;
  readonly #words: Int32Array;
  readonly #ops: PageOps;
  readonly #file: SwapFilePort;
  readonly #table: number;

  private constructor({ arena, ops, file }: Omit<SwapFileParts, 'heap'>) {
    const swapfile = layout(arena.words);
    const p = arena.root(Root.swapfile) as Ptr<'swapfile'>;
    assert(p !== 0, 'swap file: none in this arena');
    this.#bytes = arena.bytes;
    this.#words = arena.words;
    this.#ops = ops;
    this.#file = file;
    this.slots = swapfile.slots.get(p);
    this.#table = swapfile.table.get(p);
  }

  /** Makes the arena's swap file of `slots` pages. Throws ENOMEM. */
  static create(parts: SwapFileParts, slots: number): SwapFile {
    const { arena, heap } = parts;
    assert(arena.root(Root.swapfile) === 0, 'swap file: one per arena');
    const swapfile = layout(arena.words);
    const p = heap.alloc(swapfile.words) as Ptr<'swapfile'>;
    swapfile.slots.set(p, slots);
    swapfile.table.set(p, heap.alloc(slots));
    arena.setRoot(Root.swapfile, p);
    return new SwapFile(parts);
  }

  /** Another thread's view; `file` is that thread's port to the same file. */
  static attach(parts: Omit<SwapFileParts, 'heap'>): SwapFile {
    return new SwapFile(parts);
  }

  writePage(slot: number, pfn: Pfn): SwapWrite {
    const at = this.#slot(slot);
    const page = frameByte(pfn);
    Atomics.store(this.#words, at, EMPTY);
    const zero = this.#ops.isZero(page);
    const outcome = zero ? 'ok' : this.#write(slot, page);
    if (outcome === 'ok') Atomics.store(this.#words, at, zero ? ZERO : STORED);
    return outcome;
  }

  readPage(slot: number, pfn: Pfn): SwapRead {
    const page = frameByte(pfn);
    switch (Atomics.load(this.#words, this.#slot(slot))) {
      case STORED:
        return this.#read(slot, page);
      case ZERO:
        this.#ops.zero(page);
        return 'ok';
      default:
        // Nobody stored anything here: handing out some page's old content would be worse.
        return 'error';
    }
  }

  /** The file keeps its size: the next page in this slot overwrites the old one. */
  freeSlot(slot: number): void {
    Atomics.store(this.#words, this.#slot(slot), EMPTY);
  }

  #write(slot: number, page: number): SwapWrite {
    try {
      for (let done = 0; done < PAGE_SIZE; ) {
        const moved = this.#file.writeAt(
          slot * PAGE_SIZE + done,
          this.#bytes.subarray(page + done, page + PAGE_SIZE),
        );
        if (moved <= 0) return 'error';
        done += moved;
      }
      return 'ok';
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      return error.code === 'ENOSPC' ? 'full' : 'error';
    }
  }

  #read(slot: number, page: number): SwapRead {
    try {
      for (let done = 0; done < PAGE_SIZE; ) {
        const moved = this.#file.readAt(
          slot * PAGE_SIZE + done,
          this.#bytes.subarray(page + done, page + PAGE_SIZE),
        );
        if (moved <= 0) return 'error';
        done += moved;
      }
      return 'ok';
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
      return 'error';
    }
  }

  #slot(slot: number): number {
    assert(slot >= 0 && slot < this.slots, 'swap file: slot out of range');
    return this.#table + slot;
  }
}
