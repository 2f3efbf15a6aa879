import { assert } from '../base/assert.ts';
import { PAGE_WORDS } from '../base/units.ts';
import { frameWord, PAGE_STRUCT_WORDS, Root } from '../sync/arena.ts';
import { i32, type Ptr, struct } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { Heap } from './heap.ts';
import { type MmLayout, PageFlag } from './layout.ts';
import type { PageAlloc } from './page-alloc.ts';

const cacheLayout = (words: Int32Array) =>
  struct(words, 'slabCache', {
    lock: i32, //  class 'zone', a leaf
    free: i32, //  first free record, linked by its word 0; under the lock
    used: i32, //  under the lock
    total: i32, // under the lock
  });

const KINDS = [
  'mm',
  'vma',
  'anonVma',
  'avc',
  'notifier',
  'uffd',
  'uffdWait',
  'ksmItem',
  'ksmNode',
  'inode',
  'intervals',
  'interval',
] as const;
type Kind = (typeof KINDS)[number];
const CACHE_WORDS = 16;

/** Records of one kind, carved from frames that stay with the cache. Linux: kmem_cache. */
export class SlabCache<N extends Kind> {
  readonly #sync: Sync;
  readonly #words: Int32Array;
  readonly #pageAlloc: PageAlloc;
  readonly #cache: ReturnType<typeof cacheLayout>;
  readonly #c: Ptr<'slabCache'>;
  readonly #size: number;
  readonly #pageFlags: MmLayout['page']['flags'];

  constructor(sync: Sync, layout: MmLayout, pageAlloc: PageAlloc, kind: N) {
    this.#sync = sync;
    this.#words = sync.words;
    this.#pageAlloc = pageAlloc;
    this.#cache = cacheLayout(sync.words);
    const caches = sync.arena.root(Root.slabs);
    assert(caches !== 0, 'SlabCache: the arena has no slabs');
    this.#c = (caches + KINDS.indexOf(kind) * CACHE_WORDS) as Ptr<'slabCache'>;
    this.#size = layout[kind].words;
    this.#pageFlags = layout.page.flags;
  }

  /** A zeroed record, or 0 when there is no frame. No leaf lock may be held. */
  alloc(): Ptr<N> {
    for (;;) {
      const record = this.#pop();
      if (record !== 0) return record;
      if (!this.#grow()) return 0 as Ptr<N>;
    }
  }

  /** Gives a record back. Nobody may reach it any more. */
  free(record: Ptr<N>): void {
    const { lock, free, used } = this.#cache;
    this.#words.fill(0, record, record + this.#size);
    this.#sync.lock('zone', this.#c + lock.at);
    this.#words[record] = free.get(this.#c);
    free.set(this.#c, record);
    used.set(this.#c, used.get(this.#c) - 1);
    this.#sync.unlock('zone', this.#c + lock.at);
  }

  /** Records in use; a hint. */
  get used(): number {
    return this.#cache.used.get(this.#c);
  }

  #pop(): Ptr<N> {
    const { lock, free, used } = this.#cache;
    this.#sync.lock('zone', this.#c + lock.at);
    const record = free.get(this.#c);
    if (record !== 0) {
      free.set(this.#c, this.#words[record] as number);
      used.set(this.#c, used.get(this.#c) + 1);
    }
    this.#sync.unlock('zone', this.#c + lock.at);
    if (record !== 0) this.#words[record] = 0;
    return record as Ptr<N>;
  }

  #grow(): boolean {
    const { lock, free, total } = this.#cache;
    const pfn = this.#pageAlloc.alloc();
    if (pfn < 0) return false;
    const { arena } = this.#sync;
    const page = arena.pageArray + (pfn - arena.firstFrame) * PAGE_STRUCT_WORDS;
    this.#pageFlags.or(page as Ptr<'page'>, PageFlag.Slab);
    const start = frameWord(pfn);
    this.#words.fill(0, start, start + PAGE_WORDS);
    const count = Math.floor(PAGE_WORDS / this.#size);
    this.#sync.lock('zone', this.#c + lock.at);
    for (let i = count - 1; i >= 0; i--) {
      this.#words[start + i * this.#size] = free.get(this.#c);
      free.set(this.#c, start + i * this.#size);
    }
    total.set(this.#c, total.get(this.#c) + count);
    this.#sync.unlock('zone', this.#c + lock.at);
    return true;
  }
}

/** The record caches of the mm. */
export class Slabs {
  readonly mm: SlabCache<'mm'>;
  readonly vma: SlabCache<'vma'>;
  readonly anonVma: SlabCache<'anonVma'>;
  readonly avc: SlabCache<'avc'>;
  readonly notifier: SlabCache<'notifier'>;
  readonly uffd: SlabCache<'uffd'>;
  readonly uffdWait: SlabCache<'uffdWait'>;
  readonly ksmItem: SlabCache<'ksmItem'>;
  readonly ksmNode: SlabCache<'ksmNode'>;
  readonly inode: SlabCache<'inode'>;
  readonly intervals: SlabCache<'intervals'>;
  readonly interval: SlabCache<'interval'>;

  constructor(sync: Sync, layout: MmLayout, pageAlloc: PageAlloc) {
    this.mm = new SlabCache(sync, layout, pageAlloc, 'mm');
    this.vma = new SlabCache(sync, layout, pageAlloc, 'vma');
    this.anonVma = new SlabCache(sync, layout, pageAlloc, 'anonVma');
    this.avc = new SlabCache(sync, layout, pageAlloc, 'avc');
    this.notifier = new SlabCache(sync, layout, pageAlloc, 'notifier');
    this.uffd = new SlabCache(sync, layout, pageAlloc, 'uffd');
    this.uffdWait = new SlabCache(sync, layout, pageAlloc, 'uffdWait');
    this.ksmItem = new SlabCache(sync, layout, pageAlloc, 'ksmItem');
    this.ksmNode = new SlabCache(sync, layout, pageAlloc, 'ksmNode');
    this.inode = new SlabCache(sync, layout, pageAlloc, 'inode');
    this.intervals = new SlabCache(sync, layout, pageAlloc, 'intervals');
    this.interval = new SlabCache(sync, layout, pageAlloc, 'interval');
  }

  /** Once per arena, before the first instance. */
  static init(sync: Sync, heap: Heap): void {
    sync.arena.setRoot(Root.slabs, heap.alloc(KINDS.length * CACHE_WORDS));
  }
}
