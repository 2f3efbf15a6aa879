import { assert } from '../../base/assert.ts';
import { PAGE_SIZE, type Pfn } from '../../base/units.ts';
import { type Arena, frameByte, Root } from '../../sync/arena.ts';
import { array, i32, type Ptr, struct } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { LZ4_SCRATCH_WORDS, type PageOps } from '../../wasm/page-ops.ts';
import { FrameStash } from './frame-stash.ts';
import type { FramePort, HeapPort, SwapBackend, SwapRead, SwapWrite } from './swap-backend.ts';
import { type ZsHandle, Zsmalloc } from './zsmalloc.ts';

// Swap in compressed memory. Linux: drivers/block/zram. The whole device is in the arena under its lock,
// class 'zram'; compression and decompression happen outside it.

const zramLayout = (words: Int32Array) =>
  struct(words, 'zram', {
    lock: i32,
    slots: i32,
    /** Frames the pool may take; 0 is no limit. */
    limit: i32,
    /** Word index of the slot table. */
    table: i32,
    /** Frames of incompressible pages; the zspages' are the pool's own count. */
    hugePages: i32,
    hugePagesSince: i32,
    framesMax: i32,
    stored: i32,
    samePages: i32,
    /** Bytes, unsigned. */
    compressed: i32,
    compacted: i32,
    /** The record of `Zsmalloc`. */
    pool: array(Zsmalloc.wordsNeeded()),
  });
type Layout = ReturnType<typeof zramLayout>;

// A slot is three words. Word 0: what it holds, and the compressed length in bits 4 and up.
const SLOT_WORDS = 3;
const EMPTY = 0;
/** Words 1 and 2: the 64-bit word that fills the page (O-5). */
const SAME = 1;
/** Word 1: an object of the pool. */
const OBJECT = 2;
/** Word 1: the frame that holds the page as it is. */
const HUGE = 3;
const KIND = 3;
/** Somebody reads the object without the lock, so it may not move. */
const PINNED = 4;
const LENGTH_SHIFT = 4;

/** Words of scratch that each thread has: the compressor's table, and a page. */
const SCRATCH_WORDS = LZ4_SCRATCH_WORDS + PAGE_SIZE / 4;

/** Names and units (bytes and pages) are those of Linux's `zram_mm_stat`. */
export type ZramStats = {
  orig_data_size: number;
  compr_data_size: number;
  mem_used_total: number;
  mem_limit: number;
  mem_used_max: number;
  same_pages: number;
  pages_compacted: number;
  huge_pages: number;
  huge_pages_since: number;
};

/** What a `Zram` works with; the frame port's calls are made under no lock of the pool. */
export type ZramParts = { arena: Arena; sync: Sync; ops: PageOps; heap: HeapPort; frames: FramePort };

/** Compressed memory as a swap device; one object per thread over the one device of the arena. */
export class Zram implements SwapBackend {
  readonly name = 'zram';
  readonly slots: number;
  readonly #sync: Sync;
  readonly #words: Int32Array;
  readonly #ops: PageOps;
  readonly #zram: Layout;
  readonly #p: Ptr<'zram'>;
  readonly #pool: Zsmalloc;
  readonly #stash: FrameStash;
  /** Byte addresses of this thread's scratch. */
  readonly #lz4Table: number;
  readonly #bounce: number;

  private constructor(parts: ZramParts) {
    const { arena, sync, ops, heap, frames } = parts;
    this.#sync = sync;
    this.#words = arena.words;
    this.#ops = ops;
    this.#zram = zramLayout(arena.words);
    this.#p = arena.root(Root.zram) as Ptr<'zram'>;
    assert(this.#p !== 0, 'zram: no device in this arena');
    this.#pool = new Zsmalloc(arena.words, ops, this.#p + this.#zram.pool.at);
    this.#stash = new FrameStash(frames);
    this.#lz4Table = heap.alloc(SCRATCH_WORDS) * 4;
    this.#bounce = this.#lz4Table + LZ4_SCRATCH_WORDS * 4;
    this.slots = this.#zram.slots.get(this.#p);
  }

  /** Makes the arena's device. `memLimitBytes`: most memory the pool may take; 0 is no limit. Throws ENOMEM. */
  static create(parts: ZramParts, options: { slots: number; memLimitBytes?: number }): Zram {
    const { arena, heap } = parts;
    assert(arena.root(Root.zram) === 0, 'zram: one device per arena');
    const layout = zramLayout(arena.words);
    const p = heap.alloc(layout.words) as Ptr<'zram'>;
    layout.slots.set(p, options.slots);
    layout.limit.set(p, Math.floor((options.memLimitBytes ?? 0) / PAGE_SIZE));
    layout.table.set(p, heap.alloc(options.slots * SLOT_WORDS));
    arena.setRoot(Root.zram, p);
    return new Zram(parts);
  }

  /** Another thread's view of the device that `create` made. */
  static attach(parts: ZramParts): Zram {
    return new Zram(parts);
  }

  writePage(slot: number, pfn: Pfn): SwapWrite {
    const page = frameByte(pfn);
    if (this.#ops.sameFilled(page)) return this.#writeSame(slot, page >>> 2);
    const length = this.#ops.lz4Compress(page, this.#bounce, this.#pool.objectMax, this.#lz4Table);
    const outcome = this.#store(slot, page, length);
    this.#stash.drain();
    return outcome;
  }

  readPage(slot: number, pfn: Pfn): SwapRead {
    const page = frameByte(pfn);
    const at = this.#slot(slot);
    this.#lock();
    const state = this.#words[at];
    const value = this.#words[at + 1];
    const high = this.#words[at + 2];
    if ((state & KIND) === OBJECT) this.#words[at] = state | PINNED;
    this.#unlock();
    switch (state & KIND) {
      case SAME:
        this.#fill(page, value, high);
        return 'ok';
      case HUGE:
        this.#ops.copy(page, frameByte(value));
        return 'ok';
      case OBJECT:
        return this.#decompress(at, value, state >>> LENGTH_SHIFT, page);
      default:
        // Nobody stored anything here: handing out some page's old content would be worse.
        return 'error';
    }
  }

  freeSlot(slot: number): void {
    this.#lock();
    this.#emptyLocked(slot);
    this.#unlock();
    this.#stash.drain();
  }

  /**
   * Moves objects together and gives the frames that become empty back, at least `frames` of them if that
   * many can be gained. Linux: writing to `compact`. Returns how many.
   */
  compact(frames: number): number {
    let gained = 0;
    while (gained < frames) {
      const got = this.#compactOne();
      if (got === 0) break;
      this.#stash.drain();
      gained += got;
    }
    return gained;
  }

  stats(): ZramStats {
    const { zram, p } = { zram: this.#zram, p: this.#p };
    this.#lock();
    const stats = {
      orig_data_size: zram.stored.get(p) * PAGE_SIZE,
      compr_data_size: zram.compressed.get(p) >>> 0,
      mem_used_total: this.#framesLocked() * PAGE_SIZE,
      mem_limit: zram.limit.get(p) * PAGE_SIZE,
      mem_used_max: zram.framesMax.get(p) * PAGE_SIZE,
      same_pages: zram.samePages.get(p),
      pages_compacted: zram.compacted.get(p),
      huge_pages: zram.hugePages.get(p),
      huge_pages_since: zram.hugePagesSince.get(p),
    };
    this.#unlock();
    return stats;
  }

  /** Frames that the pool has now, for whoever adds up where the arena's frames are. */
  frames(): number {
    this.#lock();
    const frames = this.#framesLocked();
    this.#unlock();
    return frames;
  }

  /** Keeps the `length` bytes at `#bounce`, or the page itself when that is 0. */
  #store(slot: number, page: number, length: number): SwapWrite {
    const need = length === 0 ? 1 : this.#pool.framesFor(length);
    for (;;) {
      this.#lock();
      this.#emptyLocked(slot);
      const outcome = length === 0 ? this.#storeHugeLocked(slot, page) : this.#storeLocked(slot, length);
      this.#unlock();
      if (outcome === 'ok') return 'ok';
      // Each further turn has frames that it lacked before, or follows a compaction that shrank the pool.
      if (outcome === 'again') {
        if (!this.#stash.fill(need) && !this.#compactFor(need)) return 'nomem';
      } else {
        if (this.#compactOne() === 0) return outcome;
        this.#stash.drain();
      }
    }
  }

  #writeSame(slot: number, pageWord: number): SwapWrite {
    const at = this.#slot(slot);
    this.#lock();
    this.#emptyLocked(slot);
    this.#words[at] = SAME;
    this.#words[at + 1] = this.#words[pageWord];
    this.#words[at + 2] = this.#words[pageWord + 1];
    this.#add('stored', 1);
    this.#add('samePages', 1);
    this.#unlock();
    this.#stash.drain();
    return 'ok';
  }

  /** `full` at the limit; `again` when it takes frames that the stash doesn't have. */
  #storeLocked(slot: number, length: number): 'ok' | 'full' | 'again' {
    let handle = this.#pool.malloc(slot, length);
    if (handle === 0) {
      const need = this.#pool.framesFor(length);
      if (!this.#mayGrowLocked(need)) return 'full';
      if (this.#stash.count < need) return 'again';
      handle = this.#pool.mallocIn(slot, length, this.#stash);
      this.#noteFramesLocked();
    }
    this.#pool.write(handle, this.#bounce, length);
    this.#setSlotLocked(slot, OBJECT | (length << LENGTH_SHIFT), handle);
    this.#add('compressed', length);
    return 'ok';
  }

  /** Keeps an incompressible page in a frame of its own. */
  #storeHugeLocked(slot: number, page: number): 'ok' | 'full' | 'again' {
    if (!this.#mayGrowLocked(1)) return 'full';
    if (this.#stash.count < 1) return 'again';
    const frame = this.#stash.take();
    this.#ops.copy(frameByte(frame), page);
    this.#setSlotLocked(slot, HUGE, frame);
    this.#add('hugePages', 1);
    this.#add('hugePagesSince', 1);
    this.#add('compressed', PAGE_SIZE);
    this.#noteFramesLocked();
    return 'ok';
  }

  #setSlotLocked(slot: number, state: number, value: number): void {
    const at = this.#slot(slot);
    this.#words[at] = state;
    this.#words[at + 1] = value;
    this.#add('stored', 1);
  }

  #emptyLocked(slot: number): void {
    const at = this.#slot(slot);
    const state = this.#words[at];
    assert((state & PINNED) === 0, 'Z3: a slot is read and freed by turns');
    if (state === EMPTY) return;
    const kind = state & KIND;
    if (kind === SAME) this.#add('samePages', -1);
    if (kind === OBJECT) {
      this.#pool.free(this.#words[at + 1], this.#stash);
      this.#add('compressed', -(state >>> LENGTH_SHIFT));
    }
    if (kind === HUGE) {
      this.#stash.put(this.#words[at + 1]);
      this.#add('hugePages', -1);
      this.#add('compressed', -PAGE_SIZE);
    }
    this.#words[at] = EMPTY;
    this.#add('stored', -1);
  }

  #fill(page: number, low: number, high: number): void {
    if (low === 0 && high === 0) this.#ops.zero(page);
    else this.#ops.fillWords(page, low, high);
  }

  /**
   * Reads a pinned object, then lets it go. What says where the object lies doesn't change while the
   * object is in its place, so the lock isn't needed for it.
   */
  #decompress(at: number, handle: ZsHandle, length: number, page: number): SwapRead {
    const from = this.#pool.map(handle, length, this.#bounce);
    const got = this.#ops.lz4Decompress(from, length, page, PAGE_SIZE);
    this.#lock();
    this.#words[at] &= ~PINNED;
    this.#unlock();
    return got === PAGE_SIZE ? 'ok' : 'error';
  }

  /** Gains frames by compaction, until the stash has `need`. */
  #compactFor(need: number): boolean {
    while (this.#stash.count < need) if (this.#compactOne() === 0) return false;
    return true;
  }

  /** One step of compaction; what it set free is in the stash. The compressed page in `#bounce` survives. */
  #compactOne(): number {
    this.#lock();
    const got = this.#pool.compactOne(this.#owner, this.#stash, this.#lz4Table);
    this.#add('compacted', got);
    this.#unlock();
    return got;
  }

  readonly #owner = {
    isMovable: (slot: number): boolean => (this.#words[this.#slot(slot)] & PINNED) === 0,
    moved: (slot: number, to: ZsHandle): void => {
      this.#words[this.#slot(slot) + 1] = to;
    },
  };

  #framesLocked(): number {
    return this.#pool.frames + this.#zram.hugePages.get(this.#p);
  }

  #mayGrowLocked(by: number): boolean {
    const limit = this.#zram.limit.get(this.#p);
    return limit === 0 || this.#framesLocked() + by <= limit;
  }

  #noteFramesLocked(): void {
    const frames = this.#framesLocked();
    if (frames > this.#zram.framesMax.get(this.#p)) this.#zram.framesMax.set(this.#p, frames);
  }

  #add(
    field: 'stored' | 'samePages' | 'hugePages' | 'hugePagesSince' | 'compressed' | 'compacted',
    by: number,
  ): void {
    this.#zram[field].set(this.#p, this.#zram[field].get(this.#p) + by);
  }

  /** Word index of a slot's record. */
  #slot(slot: number): number {
    assert(slot >= 0 && slot < this.slots, 'zram: slot out of range');
    return this.#zram.table.get(this.#p) + slot * SLOT_WORDS;
  }

  #lock(): void {
    this.#sync.lock('zram', this.#zram.lock.at + this.#p);
  }

  #unlock(): void {
    this.#sync.unlock('zram', this.#zram.lock.at + this.#p);
  }
}
