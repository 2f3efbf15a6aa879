import { assert } from '../../base/assert.ts';
import { Errno } from '../../base/errno.ts';
import { Root } from '../../sync/arena.ts';
import type { AtomicWords } from '../../sync/atomics.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { MAX_SWAP_SLOTS, type MmLayout } from '../layout.ts';
import { AreaFlag, MAX_SWAP_AREAS, type ReclaimLayout } from '../reclaim/reclaim-layout.ts';
import type { WordsPort } from '../reclaim/reclaim-ports.ts';
import type { SwapBackend } from './swap-backend.ts';

/** A swap slot's number, over all areas. */
export type Slot = number;

export type SwapSlotsDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly reclaim: ReclaimLayout;
  readonly heap: WordsPort;
};

/**
 * Swap areas and who names their slots. Linux: swapfile.c, `swap_map`. A slot's count is one for each swap
 * pte that names it and one for the swap cache; at zero the device forgets it and it is free.
 */
export class SwapSlots {
  readonly #deps: SwapSlotsDeps;
  readonly #atomics: AtomicWords;
  readonly #info: Ptr<'swap'>;
  /** By area: this thread's instance of the device. */
  readonly #backends: (SwapBackend | undefined)[] = [];

  constructor(deps: SwapSlotsDeps) {
    this.#deps = deps;
    this.#atomics = deps.sync.arena.atomics;
    this.#info = deps.sync.arena.root(Root.swap) as Ptr<'swap'>;
    assert(this.#info !== 0, 'SwapSlots: the arena has no swap root');
  }

  /** Makes the root record. Once per arena, before the first instance. */
  static init(deps: SwapSlotsDeps): void {
    deps.sync.arena.setRoot(Root.swap, deps.heap.alloc(deps.reclaim.swap.words));
  }

  /** Adds a device; areas are used in the order in which they came. Returns its number, for `attach`. */
  swapon(backend: SwapBackend): number {
    const { swap, area, slot } = this.#deps.reclaim;
    const index = swap.areas.load(this.#info);
    if (index === MAX_SWAP_AREAS) throw new Errno('EINVAL', 'swapon', 'too many swap areas');
    const base = swap.slots.load(this.#info);
    if (base + backend.slots > MAX_SWAP_SLOTS) throw new Errno('EINVAL', 'swapon', 'too many swap slots');
    const a = this.#deps.heap.alloc(area.words) as Ptr<'swapArea'>;
    area.base.set(a, base);
    area.slots.set(a, backend.slots);
    area.table.set(a, this.#deps.heap.alloc(backend.slots * slot.words));
    this.#atomics.store(this.#info + swap.area.at + index, a);
    this.#backends[index] = backend;
    swap.slots.add(this.#info, backend.slots);
    swap.areas.add(this.#info, 1);
    return index;
  }

  /** Gives this thread its instance of a device that another thread added. */
  attach(index: number, backend: SwapBackend): void {
    const { area } = this.#deps.reclaim;
    assert(area.slots.get(this.#area(index)) === backend.slots, 'attach: another device than was added');
    this.#backends[index] = backend;
  }

  lock(): void {
    this.#deps.sync.lock('swap', this.#info + this.#deps.reclaim.swap.lock.at);
  }

  unlock(): void {
    this.#deps.sync.unlock('swap', this.#info + this.#deps.reclaim.swap.lock.at);
  }

  #area(index: number): Ptr<'swapArea'> {
    return this.#atomics.load(this.#info + this.#deps.reclaim.swap.area.at + index) as Ptr<'swapArea'>;
  }

  #indexOf(slot: Slot): number {
    const { area, swap } = this.#deps.reclaim;
    for (let i = swap.areas.load(this.#info) - 1; i >= 0; i--) {
      if (slot >= area.base.get(this.#area(i))) return i;
    }
    assert(false, 'swap: a slot of no area');
  }

  /** The slot's record. */
  at(slot: Slot): Ptr<'swapSlot'> {
    const { area, slot: record } = this.#deps.reclaim;
    const a = this.#area(this.#indexOf(slot));
    const n = slot - area.base.get(a);
    assert(n >= 0 && n < area.slots.get(a), 'swap: a slot beyond its area');
    return (area.table.get(a) + n * record.words) as Ptr<'swapSlot'>;
  }

  backendOf(slot: Slot): SwapBackend {
    const backend = this.#backends[this.#indexOf(slot)];
    assert(backend !== undefined, 'swap: this thread has not attached the device');
    return backend;
  }

  /** The number of a slot within its device. */
  onDevice(slot: Slot): number {
    return slot - this.#deps.reclaim.area.base.get(this.#area(this.#indexOf(slot)));
  }

  mark(slot: Slot, flag: number): void {
    this.#deps.reclaim.area.flags.or(this.#area(this.#indexOf(slot)), flag);
  }

  get total(): number {
    return this.#deps.reclaim.swap.slots.load(this.#info);
  }

  get used(): number {
    return this.#deps.reclaim.swap.used.load(this.#info);
  }

  addCached(by: number): void {
    this.#deps.reclaim.swap.cached.add(this.#info, by);
  }

  get cached(): number {
    return this.#deps.reclaim.swap.cached.load(this.#info);
  }

  /** A hint: no area would give a slot now. */
  isFull(): boolean {
    const areas = this.#deps.reclaim.swap.areas.load(this.#info);
    for (let i = 0; i < areas; i++) if (this.#usable(this.#area(i))) return false;
    return true;
  }

  #usable(a: Ptr<'swapArea'>): boolean {
    const { area } = this.#deps.reclaim;
    return area.flags.load(a) === 0 && area.used.load(a) < area.slots.get(a);
  }

  /** A slot with count 1, the caller's, charged to `memcg`; -1 when there is none or the group's is used up. */
  alloc(memcg: Ptr<'memcg'>): Slot | -1 {
    if (!this.#charge(memcg)) return -1;
    this.lock();
    const slot = this.#take();
    if (slot >= 0) {
      const { slot: record } = this.#deps.reclaim;
      const s = this.at(slot);
      record.count.store(s, 1);
      record.link.set(s, 0);
      record.memcg.set(s, memcg);
    }
    this.unlock();
    if (slot < 0) this.#uncharge(memcg);
    return slot;
  }

  /** Requires: 'swap'. */
  #take(): Slot | -1 {
    const { area, slot, swap } = this.#deps.reclaim;
    const areas = swap.areas.load(this.#info);
    for (let i = 0; i < areas; i++) {
      const a = this.#area(i);
      if (!this.#usable(a)) continue;
      let n = area.free.get(a) - 1;
      if (n >= 0) area.free.set(a, slot.link.get((area.table.get(a) + n * slot.words) as Ptr<'swapSlot'>));
      else {
        n = area.bump.get(a);
        // All that were ever used are in use, or being retired: `used` counts those as well.
        assert(n < area.slots.get(a), 'swap: fewer slots in use than were handed out');
        area.bump.set(a, n + 1);
      }
      area.used.add(a, 1);
      swap.used.add(this.#info, 1);
      return area.base.get(a) + n;
    }
    return -1;
  }

  /** One more pte names the slot. False when nobody did (M-32: the caller restores its pte). */
  duplicate(slot: Slot): boolean {
    const { slot: record } = this.#deps.reclaim;
    this.lock();
    const s = this.at(slot);
    const live = record.count.load(s) > 0;
    if (live) record.count.add(s, 1);
    this.unlock();
    return live;
  }

  /** References to the slot: ptes, and one if it is in the swap cache. Exact under the page lock alone. */
  references(slot: Slot): number {
    return this.#deps.reclaim.slot.count.load(this.at(slot));
  }

  /**
   * Drops a reference. Requires: 'swap'; after unlocking, the caller passes a slot that reached zero to
   * `retire`. Returns what is left.
   */
  dropLocked(slot: Slot): number {
    const { slot: record } = this.#deps.reclaim;
    const s = this.at(slot);
    const before = record.count.load(s);
    assert(before > 0, 'swap: a reference dropped that nobody held');
    record.count.store(s, before - 1);
    return before - 1;
  }

  /**
   * Frees a slot whose count is zero. The device forgets it before anyone can get it again; in between it
   * is on no list, so only its last owner knows it. Requires: no leaf lock.
   */
  retire(slot: Slot): void {
    const { area, slot: record, swap } = this.#deps.reclaim;
    this.backendOf(slot).freeSlot(this.onDevice(slot));
    const s = this.at(slot);
    const a = this.#area(this.#indexOf(slot));
    this.lock();
    assert(record.count.load(s) === 0 && record.page.load(s) === 0, 'swap: a slot in use is freed');
    const memcg = record.memcg.get(s);
    record.memcg.set(s, 0 as Ptr<'memcg'>);
    record.link.set(s, area.free.get(a));
    area.free.set(a, slot - area.base.get(a) + 1);
    area.used.add(a, -1);
    area.flags.and(a, ~AreaFlag.Full);
    swap.used.add(this.#info, -1);
    this.unlock();
    this.#uncharge(memcg);
  }

  #charge(memcg: Ptr<'memcg'>): boolean {
    if (memcg === 0) return true;
    const { swapUsage, swapMax } = this.#deps.layout.memcg;
    for (;;) {
      const used = swapUsage.load(memcg);
      if (used >= swapMax.load(memcg)) return false;
      if (swapUsage.cas(memcg, used, used + 1) === used) return true;
    }
  }

  #uncharge(memcg: Ptr<'memcg'>): void {
    if (memcg === 0) return;
    const before = this.#deps.layout.memcg.swapUsage.add(memcg, -1);
    assert(before > 0, 'swap: more slots uncharged than charged');
  }
}
