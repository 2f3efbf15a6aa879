import { assert } from '../../base/assert.ts';
import { PAGE_SIZE, type Pfn } from '../../base/units.ts';
import { frameByte, frameWord } from '../../sync/arena.ts';
import type { PageOps } from '../../wasm/page-ops.ts';
import type { FrameStash } from './frame-stash.ts';
import { OBJECT_HEADER, type SizeClass, sizeClasses, ZSPAGE_HEADER } from './zs-classes.ts';

// Compressed objects in frames. Linux: mm/zsmalloc.c. All of it is in the arena and under one lock of
// class 'zram', the caller's; a method takes no lock itself.
//
//   pool    word 0      frames of all zspages
//           word 1 + c  first zspage of class c that is emptier than 3/4 but not empty
//           …           then, per class, first zspage that is fuller but not full
//           …           then, per class, zspages; then, per class, objects in use
//   zspage  a header in its first frame, then objects; known by the pfn of its first frame
//           word 0      class
//           word 1      objects in use; never 0 between calls
//           word 2      first free object, or -1
//           word 3, 4   previous and next zspage of its list; 0 ends it (no frame has number 0)
//           word 5-7    the other frames
//   object  one header word: owner * 2 + 1 when in use, else (next free object + 1) * 2; then the data
//
// A full zspage is on no list.
//
//   Z1  An object fits its class, and a class's objects fit its zspage.
//   Z2  An object is on its zspage's free list, or has an owner who knows its handle.
//   Z3  A slot is written, read and freed by turns (the swap cache's page lock; zram.ts).
//   Z4  Compaction starts on a zspage only when its objects have room elsewhere, and none is being read.

const CLASS = 0;
const IN_USE = 1;
const FREE = 2;
const PREV = 3;
const NEXT = 4;
const FRAMES = 5;

/** Zspages that compaction compares before it picks one. */
const COMPACT_LOOKS = 16;

const INDEX_BITS = 9;
const INDEX_MASK = (1 << INDEX_BITS) - 1;

/** Names an object: the first frame of its zspage and its index there. 0 is none. */
export type ZsHandle = number;
const handleOf = (zspage: Pfn, index: number): ZsHandle => (zspage << INDEX_BITS) | index;

/** What compaction asks of, and tells, whoever the objects belong to. */
export type ZsOwner = {
  /** True unless the object's place is in use at the moment. */
  isMovable(owner: number): boolean;
  moved(owner: number, to: ZsHandle): void;
};

/** Compressed objects in frames; one view of it per thread. */
export class Zsmalloc {
  /** Bytes that an object may have; what is longer deserves a frame of its own. */
  readonly objectMax: number;
  readonly #classes: readonly SizeClass[];
  /** Class by size in units of 16 bytes. */
  readonly #classOf: Uint8Array;
  readonly #words: Int32Array;
  readonly #ops: PageOps;
  readonly #pool: number;

  /** `pool`: word index of `wordsNeeded` words, zeroed when the pool is new. */
  constructor(words: Int32Array, ops: PageOps, pool: number) {
    this.#words = words;
    this.#ops = ops;
    this.#pool = pool;
    this.#classes = sizeClasses();
    const largest = this.#classes.at(-1)!.size;
    this.#classOf = new Uint8Array(largest / 16 + 1);
    for (let i = 0, c = 0; i < this.#classOf.length; i++) {
      if (i * 16 > this.#classes[c].size) c++;
      this.#classOf[i] = c;
    }
    this.objectMax = largest - OBJECT_HEADER;
  }

  static wordsNeeded(): number {
    return 1 + 4 * sizeClasses().length;
  }

  get frames(): number {
    return this.#words[this.#pool] as number;
  }

  /** How many frames an allocation needs when `malloc` finds no free object. */
  framesFor(length: number): number {
    return this.#classes[this.#classIndex(length)].frames;
  }

  /** An object of `length` bytes for `owner` in a zspage that has room, or 0. */
  malloc(owner: number, length: number): ZsHandle {
    const c = this.#classIndex(length);
    const zspage = this.#head(c, true) || this.#head(c, false);
    return zspage === 0 ? 0 : this.#take(zspage, owner);
  }

  /** As `malloc`, in a new zspage of `framesFor(length)` frames of the stash. */
  mallocIn(owner: number, length: number, stash: FrameStash): ZsHandle {
    return this.#take(this.#createZspage(this.#classIndex(length), stash), owner);
  }

  /** Ends an object. Frames that become free go to the stash. */
  free(handle: ZsHandle, stash: FrameStash): void {
    const zspage = handle >>> INDEX_BITS;
    const index = handle & INDEX_MASK;
    const at = this.#objectWord(zspage, index);
    assert((this.#words[at] & 1) === 1, 'Z2: a freed object is in use');
    const header = frameWord(zspage);
    const before = this.#listOf(zspage);
    this.#words[at] = (this.#words[header + FREE] + 1) << 1;
    this.#words[header + FREE] = index;
    this.#words[header + IN_USE]--;
    this.#count(zspage, -1);
    if (this.#words[header + IN_USE] === 0) {
      this.#unlink(zspage, before);
      this.#destroyZspage(zspage, stash);
    } else this.#relist(zspage, before);
  }

  /** Copies `length` bytes from byte address `from` into the object. */
  write(handle: ZsHandle, from: number, length: number): void {
    const offset = this.#dataOffset(handle);
    const first = Math.min(length, PAGE_SIZE - (offset % PAGE_SIZE));
    this.#ops.move(this.#byteAt(handle, offset), from, first);
    if (first < length) this.#ops.move(this.#byteAt(handle, offset + first), from + first, length - first);
  }

  /** Byte address of the object's data in one piece: in place, or copied to `bounce` if it straddles frames. */
  map(handle: ZsHandle, length: number, bounce: number): number {
    const offset = this.#dataOffset(handle);
    const first = PAGE_SIZE - (offset % PAGE_SIZE);
    const at = this.#byteAt(handle, offset);
    if (first >= length) return at;
    this.#ops.move(bounce, at, first);
    this.#ops.move(bounce + first, this.#byteAt(handle, offset + first), length - first);
    return bounce;
  }

  /**
   * Empties at most one zspage by moving its objects to others of its class; returns the frames that this
   * set free, which are in the stash, or 0 when nothing can be gained. `bounce`: a page of scratch.
   */
  compactOne(owner: ZsOwner, stash: FrameStash, bounce: number): number {
    for (let c = 0; c < this.#classes.length; c++) {
      const { objects, frames } = this.#classes[c];
      const room = this.#zspages(c) * objects - this.#objects(c);
      if (room < objects) continue;
      const source = this.#movableSource(c, owner);
      if (source === 0) continue;
      this.#evacuate(source, owner, stash, bounce);
      return frames;
    }
    return 0;
  }

  /** A zspage of the class that is rather empty and whose objects all may move now; 0 if there is none. */
  #movableSource(c: number, owner: ZsOwner): Pfn {
    return this.#emptiest(this.#head(c, false), owner) || this.#emptiest(this.#head(c, true), owner);
  }

  /** The best of the first few of a list; few, because the lock is held. */
  #emptiest(head: Pfn, owner: ZsOwner): Pfn {
    let best = 0;
    let looks = COMPACT_LOOKS;
    for (let z = head; z !== 0 && looks > 0; z = this.#words[frameWord(z) + NEXT], looks--) {
      const better = best === 0 || this.#words[frameWord(z) + IN_USE] < this.#words[frameWord(best) + IN_USE];
      if (better && this.#allMovable(z, owner)) best = z;
    }
    return best;
  }

  #allMovable(zspage: Pfn, owner: ZsOwner): boolean {
    const { objects } = this.#classOfZspage(zspage);
    for (let i = 0; i < objects; i++) {
      const tag = this.#words[this.#objectWord(zspage, i)];
      if ((tag & 1) === 1 && !owner.isMovable(tag >>> 1)) return false;
    }
    return true;
  }

  /** The class has room for all of them elsewhere. */
  #evacuate(source: Pfn, owner: ZsOwner, stash: FrameStash, bounce: number): void {
    const { objects, size } = this.#classOfZspage(source);
    // Off its list, so that it isn't found as a target.
    this.#unlink(source, this.#listOf(source));
    for (let i = 0; i < objects; i++) {
      const tag = this.#words[this.#objectWord(source, i)];
      if ((tag & 1) === 0) continue;
      const length = size - OBJECT_HEADER;
      const from = this.map(handleOf(source, i), length, bounce);
      const to = this.malloc(tag >>> 1, length);
      assert(to !== 0, 'Z4: compaction moves objects only where there is room');
      this.write(to, from, length);
      owner.moved(tag >>> 1, to);
      this.#count(source, -1);
    }
    this.#destroyZspage(source, stash);
  }

  #createZspage(c: number, stash: FrameStash): Pfn {
    const { frames, objects } = this.#classes[c];
    const zspage = stash.take();
    const header = frameWord(zspage);
    this.#words[header + CLASS] = c;
    this.#words[header + IN_USE] = 0;
    this.#words[header + FREE] = 0;
    for (let i = 1; i < frames; i++) this.#words[header + FRAMES + i - 1] = stash.take();
    for (let i = 0; i < objects; i++) {
      this.#words[this.#objectWord(zspage, i)] = i + 1 < objects ? (i + 2) << 1 : 0;
    }
    this.#words[this.#zspagesAt(c)]++;
    this.#words[this.#pool] += frames;
    // Listed by `#take`, whose object is its first.
    return zspage;
  }

  #destroyZspage(zspage: Pfn, stash: FrameStash): void {
    const header = frameWord(zspage);
    const { frames } = this.#classOfZspage(zspage);
    this.#words[this.#zspagesAt(this.#words[header + CLASS])]--;
    this.#words[this.#pool] -= frames;
    for (let i = 1; i < frames; i++) stash.put(this.#words[header + FRAMES + i - 1]);
    stash.put(zspage);
  }

  #take(zspage: Pfn, owner: number): ZsHandle {
    const header = frameWord(zspage);
    const before = this.#listOf(zspage);
    const index = this.#words[header + FREE];
    const at = this.#objectWord(zspage, index);
    assert((this.#words[at] & 1) === 0, 'Z2: an object on the free list is free');
    this.#words[header + FREE] = (this.#words[at] >>> 1) - 1;
    this.#words[at] = (owner << 1) | 1;
    this.#words[header + IN_USE]++;
    this.#count(zspage, 1);
    this.#relist(zspage, before);
    return handleOf(zspage, index);
  }

  // Lists. 0: none (full, or not listed yet); otherwise the word that holds the list's head.

  #listOf(zspage: Pfn): number {
    const header = frameWord(zspage);
    const inUse = this.#words[header + IN_USE];
    const { objects } = this.#classOfZspage(zspage);
    if (inUse === 0 || inUse === objects) return 0;
    return this.#headAt(this.#words[header + CLASS], inUse * 4 >= objects * 3);
  }

  #relist(zspage: Pfn, before: number): void {
    const now = this.#listOf(zspage);
    if (now === before) return;
    this.#unlink(zspage, before);
    if (now === 0) return;
    const header = frameWord(zspage);
    const next = this.#words[now];
    this.#words[header + PREV] = 0;
    this.#words[header + NEXT] = next;
    if (next !== 0) this.#words[frameWord(next) + PREV] = zspage;
    this.#words[now] = zspage;
  }

  #unlink(zspage: Pfn, list: number): void {
    if (list === 0) return;
    const header = frameWord(zspage);
    const prev = this.#words[header + PREV];
    const next = this.#words[header + NEXT];
    if (prev !== 0) this.#words[frameWord(prev) + NEXT] = next;
    else this.#words[list] = next;
    if (next !== 0) this.#words[frameWord(next) + PREV] = prev;
  }

  // Where things are.

  #classIndex(length: number): number {
    assert(length > 0 && length <= this.objectMax, 'Z1: an object fits a class');
    return this.#classOf[(length + OBJECT_HEADER + 15) >>> 4] as number;
  }

  #classOfZspage(zspage: Pfn): SizeClass {
    return this.#classes[this.#words[frameWord(zspage) + CLASS]];
  }

  #headAt(c: number, fuller: boolean): number {
    return this.#pool + 1 + c + (fuller ? this.#classes.length : 0);
  }

  #head(c: number, fuller: boolean): Pfn {
    return this.#words[this.#headAt(c, fuller)] as number;
  }

  #zspagesAt(c: number): number {
    return this.#pool + 1 + 2 * this.#classes.length + c;
  }

  #zspages(c: number): number {
    return this.#words[this.#zspagesAt(c)] as number;
  }

  #objects(c: number): number {
    return this.#words[this.#zspagesAt(c) + this.#classes.length] as number;
  }

  #count(zspage: Pfn, by: number): void {
    const c = this.#words[frameWord(zspage) + CLASS];
    this.#words[this.#zspagesAt(c) + this.#classes.length] += by;
  }

  #offset(zspage: Pfn, index: number): number {
    return ZSPAGE_HEADER + index * this.#classOfZspage(zspage).size;
  }

  /** The frame of the zspage that holds byte `offset`. */
  #frameAt(zspage: Pfn, offset: number): Pfn {
    const i = Math.floor(offset / PAGE_SIZE);
    return i === 0 ? zspage : (this.#words[frameWord(zspage) + FRAMES + i - 1] as number);
  }

  /** Objects start at multiples of 16, so that the header word never straddles. */
  #objectWord(zspage: Pfn, index: number): number {
    const offset = this.#offset(zspage, index);
    return frameWord(this.#frameAt(zspage, offset)) + (offset % PAGE_SIZE) / 4;
  }

  #dataOffset(handle: ZsHandle): number {
    return this.#offset(handle >>> INDEX_BITS, handle & INDEX_MASK) + OBJECT_HEADER;
  }

  #byteAt(handle: ZsHandle, offset: number): number {
    return frameByte(this.#frameAt(handle >>> INDEX_BITS, offset)) + (offset % PAGE_SIZE);
  }
}
