import type { Pfn } from '../../base/units.ts';
import { Arena, PAGE_STRUCT_WORDS } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { Sync } from '../../sync/sync.ts';
import { type MmBreaks, NO_MM_BREAKS } from '../breaks.ts';
import { mmLayout, PageFlag } from '../layout.ts';
import type { Swap } from '../swap/swap.ts';
import type { SwapBackend, SwapRead, SwapWrite } from '../swap/swap-backend.ts';
import type { Slot } from '../swap/swap-slots.ts';
import type { Lru } from './lru.ts';
import type { Memcontrol } from './memcontrol.ts';
import { createReclaim, initReclaim } from './reclaim.ts';
import { reclaimLayout } from './reclaim-layout.ts';
import type { PagesPort, RmapPort, UnmapBatchPort } from './reclaim-ports.ts';
import type { Vmscan } from './vmscan.ts';

/** A swap device that keeps its pages in a Map, and fails when told. */
export class MapDevice implements SwapBackend {
  readonly name = 'map';
  readonly slots: number;
  readonly kept = new Map<number, Int32Array>();
  readonly #words: Int32Array;
  readonly #log: string[];
  answer: SwapWrite = 'ok';
  reading: SwapRead = 'ok';
  writes = 0;

  constructor(words: Int32Array, slots: number, log: string[] = []) {
    this.#words = words;
    this.#log = log;
    this.slots = slots;
  }

  writePage(slot: number, pfn: Pfn): SwapWrite {
    this.writes++;
    this.#log.push('write');
    this.kept.delete(slot);
    if (this.answer === 'ok') this.kept.set(slot, this.#words.slice(pfn * 1024, pfn * 1024 + 1024));
    return this.answer;
  }

  readPage(slot: number, pfn: Pfn): SwapRead {
    const kept = this.kept.get(slot);
    if (kept === undefined || this.reading === 'error') return 'error';
    this.#words.set(kept, pfn * 1024);
    return 'ok';
  }

  freeSlot(slot: number): void {
    this.kept.delete(slot);
  }
}

/** A batch that writes down what reclaim did with it. */
export class LogBatch implements UnmapBatchPort {
  readonly log: string[];
  open = 0;

  constructor(log: string[]) {
    this.log = log;
  }

  flush(): void {
    if (this.open > 0) this.log.push(`flush ${this.open}`);
  }

  end(): void {
    if (this.open > 0) this.log.push(`end ${this.open}`);
    this.open = 0;
  }
}

/** Reclaim over pages that are mapped by one imaginary pte each. */
export class ReclaimRig {
  readonly arena: Arena;
  readonly sync: Sync;
  readonly layout;
  readonly reclaim;
  readonly pages: PagesPort;
  readonly lru: Lru;
  readonly swap: Swap;
  readonly memcontrol: Memcontrol;
  readonly vmscan: Vmscan<LogBatch>;
  readonly device: MapDevice;
  readonly log: string[] = [];
  readonly freed: Pfn[] = [];
  /** How often a page was used since it was last asked. */
  readonly young = new Map<Pfn, number>();
  /** The swap entry that took the place of a page's pte. */
  readonly entries = new Map<Pfn, Slot>();
  readonly counters = new Map<string, number>();
  passes = 0;
  #next: Pfn;
  #heap: number;

  constructor(options: { slots?: number; breaks?: Partial<MmBreaks>; frames?: number } = {}) {
    this.arena = Arena.create({ frames: options.frames ?? 512, heapBytes: 1 << 18, shared: true });
    this.sync = new Sync(this.arena, { lockdep: true });
    this.layout = mmLayout(this.arena.words);
    this.reclaim = reclaimLayout(this.arena.words);
    this.#next = this.arena.firstFrame;
    this.#heap = this.arena.heap;
    const heap = { alloc: (words: number) => (this.#heap += Math.ceil(words / 16) * 16) - words };
    this.pages = this.#pagesPort();
    const { sync, layout, pages } = this;
    initReclaim({ sync, layout, heap });
    const vmstat = { add: (name: string, by: number) => this.#count(name, by) };
    const core = createReclaim({ sync, layout, heap, pages, vmstat });
    this.lru = core.lru;
    this.swap = core.swap;
    this.memcontrol = core.memcontrol;
    this.device = new MapDevice(this.arena.words, options.slots ?? 256, this.log);
    if (this.device.slots > 0) this.swap.swapon(this.device);
    this.vmscan = core.connect({
      rmap: this.#rmapPort(),
      batch: new LogBatch(this.log),
      breaks: { ...NO_MM_BREAKS, ...options.breaks },
      passEnd: () => ++this.passes > 0,
    });
  }

  #count(name: string, by: number): void {
    this.counters.set(name, (this.counters.get(name) ?? 0) + by);
  }

  #pagesPort(): PagesPort {
    const { page } = this.layout;
    const at = (pfn: Pfn) =>
      (this.arena.pageArray + (pfn - this.arena.firstFrame) * PAGE_STRUCT_WORDS) as Ptr<'page'>;
    return {
      at,
      get: pfn => void page.refcount.add(at(pfn), 1),
      tryGet: pfn => page.refcount.load(at(pfn)) > 0 && page.refcount.add(at(pfn), 1) > 0,
      put: pfn => {
        if (page.refcount.add(at(pfn), -1) === 1) this.#free(pfn);
      },
      lock: pfn => this.sync.lock('page', at(pfn) + page.lock.at),
      tryLock: pfn => this.sync.tryLock('page', at(pfn) + page.lock.at),
      unlock: pfn => this.sync.unlock('page', at(pfn) + page.lock.at),
    };
  }

  #free(pfn: Pfn): void {
    const p = this.pages.at(pfn);
    this.lru.remove(pfn);
    this.memcontrol.uncharge(this.layout.page.memcg.load(p), 1);
    this.layout.page.memcg.store(p, 0 as Ptr<'memcg'>);
    this.layout.page.flags.store(p, PageFlag.Free);
    this.arena.words.fill(0xdead, pfn * 1024, pfn * 1024 + 1024);
    this.freed.push(pfn);
  }

  #rmapPort(): RmapPort<LogBatch> {
    return {
      pageReferenced: pfn => {
        const young = this.young.get(pfn) ?? 0;
        this.young.delete(pfn);
        return young;
      },
      tryToUnmap: (pfn, batch) => {
        const p = this.pages.at(pfn);
        const slot = this.layout.page.swap.load(p) - 1;
        if (!this.swap.duplicate(slot)) return 'busy';
        batch.open++;
        this.entries.set(pfn, slot);
        this.layout.page.mapcount.store(p, 0);
        this.pages.put(pfn);
        return 'unmapped';
      },
    };
  }

  /** A new page, mapped once, charged and on the LRU, filled with `value`. */
  page(memcg: Ptr<'memcg'>, value: number): Pfn {
    if (!this.memcontrol.charge(memcg, 1)) throw new Error('out of memory');
    const pfn = this.freed.pop() ?? this.#next++;
    const p = this.pages.at(pfn);
    this.layout.page.flags.store(p, 0);
    this.layout.page.refcount.store(p, 1);
    this.layout.page.mapcount.store(p, 1);
    this.layout.page.memcg.store(p, memcg);
    this.arena.words.fill(value, pfn * 1024, pfn * 1024 + 1024);
    this.lru.add(pfn);
    return pfn;
  }

  /** The list from newest to oldest. */
  list(memcg: Ptr<'memcg'>, active: boolean): Pfn[] {
    const { lruvec, page } = this.layout;
    const lv = this.lru.lruvecOf(memcg);
    const pfns: Pfn[] = [];
    for (let pfn = (active ? lruvec.activeHead : lruvec.inactiveHead).get(lv); pfn !== 0; ) {
      pfns.push(pfn);
      pfn = page.next.get(this.pages.at(pfn));
    }
    return pfns;
  }

  has(pfn: Pfn, flag: number): boolean {
    return (this.layout.page.flags.load(this.pages.at(pfn)) & flag) !== 0;
  }
}
