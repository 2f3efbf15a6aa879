import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import { alignUp, PAGE_SHIFT, PAGE_SIZE, PAGE_WORDS, type Pfn } from '../base/units.ts';
import { type AtomicsKind, type AtomicWords, bindAtomics } from './atomics.ts';

// The arena is the one memory that every thread of a Host shares. From its first byte:
//
//   page 0          header: see HEADER below, then 64 named roots
//   page 1 …        struct page array, PAGE_STRUCT_WORDS words a frame
//   heap            tables that live as long as a VM: rmap arrays, vCPU records, decode caches
//   frames          what page_alloc hands out; each 4 KiB, numbered by pfn = byte address / 4096
//
// A pointer (`Ptr`) is a word index, never a byte address. Word 0 is the header's magic, so 0 is null.

const MAGIC = 0x464c5431; // "FLT1"
/** Words of one `struct page`. */
export const PAGE_STRUCT_WORDS = 16;
const HEADER = { magic: 0, firstFrame: 1, frames: 2, pageArray: 3, heap: 4, heapWords: 5 } as const;
const ROOTS_AT = 64;
const ROOTS = 64;

/** Where singletons live: each is a word of the header that holds a pointer. */
export const Root = {
  zone: 0,
  lru: 1,
  swap: 2,
  zram: 3,
  vmstat: 4,
  heap: 5,
  zeroPage: 6,
  mmList: 7,
  memcgList: 8,
  vmList: 9,
  slabs: 10,
  swapfile: 11,
  psi: 12,
  ksm: 14,
  inodes: 15,
  /** Not a pointer but the lock, class 'vm', of the list at `vmList`. */
  vmListLock: 20,
  thp: 13,
} as const;

export type ArenaOptions = {
  /** 4 KiB frames to hand out. */
  frames: number;
  /** Bytes of the heap; untouched parts cost no memory. */
  heapBytes: number;
  /** True when several threads share it; a private memory is the one-worker mode (J-4). */
  shared: boolean;
};

/** The shared memory of a Host, and the views through which the core reaches it. */
export class Arena {
  readonly memory: WebAssembly.Memory;
  readonly words: Int32Array;
  readonly bytes: Uint8Array;
  readonly shared: boolean;
  /** How its words are reached atomically. */
  readonly atomics: AtomicWords;
  readonly atomicsKind: AtomicsKind;
  readonly firstFrame: Pfn;
  readonly frames: number;
  /** Word index of the struct page array. */
  readonly pageArray: number;
  readonly heap: number;
  readonly heapWords: number;

  private constructor(memory: WebAssembly.Memory, atomics: AtomicsKind) {
    this.memory = memory;
    this.words = new Int32Array(memory.buffer);
    this.bytes = new Uint8Array(memory.buffer);
    this.shared = typeof SharedArrayBuffer !== 'undefined' && memory.buffer instanceof SharedArrayBuffer;
    this.atomics = bindAtomics(memory, this.shared, atomics);
    this.atomicsKind = atomics;
    this.firstFrame = this.words[HEADER.firstFrame] as number;
    this.frames = this.words[HEADER.frames] as number;
    this.pageArray = this.words[HEADER.pageArray] as number;
    this.heap = this.words[HEADER.heap] as number;
    this.heapWords = this.words[HEADER.heapWords] as number;
  }

  /** Makes a new arena. Throws ENOMEM when the engine won't give that much. */
  static create(options: ArenaOptions): Arena {
    const arrayPages = Math.ceil((options.frames * PAGE_STRUCT_WORDS) / PAGE_WORDS);
    const heapPages = Math.ceil(options.heapBytes / PAGE_SIZE);
    const firstFrame = 1 + arrayPages + heapPages;
    const bytes = alignUp((firstFrame + options.frames) * PAGE_SIZE, 65536);
    const memory = newMemory(bytes, options.shared);
    const words = new Int32Array(memory.buffer);
    words[HEADER.firstFrame] = firstFrame;
    words[HEADER.frames] = options.frames;
    words[HEADER.pageArray] = PAGE_WORDS;
    words[HEADER.heap] = (1 + arrayPages) * PAGE_WORDS;
    words[HEADER.heapWords] = heapPages * PAGE_WORDS;
    words[HEADER.magic] = MAGIC;
    return new Arena(memory, 'generated');
  }

  /** The arena that another thread made. */
  static attach(memory: WebAssembly.Memory, atomics: AtomicsKind = 'generated'): Arena {
    assert(new Int32Array(memory.buffer)[HEADER.magic] === MAGIC, 'attach: not an arena');
    return new Arena(memory, atomics);
  }

  root(name: number): number {
    assert(name < ROOTS, 'root: out of range');
    return this.words[ROOTS_AT + name] as number;
  }

  setRoot(name: number, value: number): void {
    this.words[ROOTS_AT + name] = value;
  }

  /** Word index of a root, for those that change it atomically. */
  rootAt(name: number): number {
    return ROOTS_AT + name;
  }

  /** True for a number of a frame that page_alloc owns. */
  isFrame(pfn: Pfn): boolean {
    return pfn >= this.firstFrame && pfn < this.firstFrame + this.frames;
  }
}

function newMemory(bytes: number, shared: boolean): WebAssembly.Memory {
  const pages = bytes / 65536;
  if (pages > 65536) throw new Errno('ENOMEM', 'Arena.create', 'an arena is at most 4 GiB');
  try {
    return new WebAssembly.Memory({ initial: pages, maximum: pages, shared });
  } catch (cause) {
    throw new Errno('ENOMEM', 'Arena.create', `${bytes} bytes: ${String(cause)}`);
  }
}

/** Word index of a frame's first word. */
export const frameWord = (pfn: Pfn): number => pfn * PAGE_WORDS;
/** Byte address of a frame in the arena; unsigned, up to 2^32. */
export const frameByte = (pfn: Pfn): number => (pfn << PAGE_SHIFT) >>> 0;
