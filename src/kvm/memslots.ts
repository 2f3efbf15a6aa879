import { Errno } from '../base/errno.ts';
import { type Gfn, isPageAligned, PAGE_SIZE, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { ADDRESS_SPACES, GENERATION_MASK, HUGE_GFNS, MAX_SLOTS, Protocol, SlotFlag } from './layout.ts';

type Vm = Ptr<'vm'>;
type Slots = Ptr<'slots'>;
type Slot = Ptr<'slot'>;

export type MemoryRegion = {
  slot: number;
  /** Address space; its own root. */
  space?: number;
  flags?: number;
  guestAddress: number;
  lengthBytes: number;
  /** Host virtual address in the VM's mm; without it the memory is mapped here, for the kernel's use (L-4). */
  hostAddress?: number;
};

const MAX_PAGES = 2 ** 31 - 1;
/** Guest physical addresses reach below 512 GiB: three levels of tables. */
const GPA_END = 2 ** 39;
const HVA_END = 2 ** 39;

type Three = [number, number, number];
type Four = [...Three, number];
/** What DELETE and MOVE publish: the set with the slot hidden, the set after it, and the hidden slot. */
type Phases = [hidden: Slots, after: Slots, invalid: Slot];

/** Areas of 2 MiB that a slot touches, at most: it may begin and end inside one. */
export const hugeAreas = (npages: number): number => (npages >>> 9) + 2;

/** Words of a slot's reverse maps: a leaf per page, and per 2 MiB, with a parked table. */
const rmapWords = (r: MemoryRegion): [number, number] => {
  const npages = r.lengthBytes / PAGE_SIZE;
  return [npages, 2 * hugeAreas(npages)];
};

/** A VM's memslots: which host virtual pages are behind which guest frames (L). */
export class Memslots {
  readonly #kvm: Kvm;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
  }

  /** The published set. Readers hold the VM's SRCU, or 'mmu', or 'slots'. */
  active(vm: Vm): Slots {
    return this.#kvm.layout.vm.slots.load(vm);
  }

  at(set: Slots, index: number): Slot {
    return this.#kvm.words[set + this.#kvm.layout.slots.entries.at + index] as Slot;
  }

  /** The slot of a guest frame, or 0. */
  find(set: Slots, space: number, gfn: Gfn): Slot {
    const { slot, slots } = this.#kvm.layout;
    const count = slots.count.get(set);
    for (let i = 0; i < count; i++) {
      const s = this.at(set, i);
      const offset = gfn - slot.gfn.get(s);
      if (offset >= 0 && offset < slot.npages.get(s) && slot.space.get(s) === space) return s;
    }
    return 0 as Slot;
  }

  /** May the slot be mapped 2 MiB at a time around a gfn (K-4 (i))? */
  allowsHuge(s: Slot, gfn: Gfn): boolean {
    const { slot } = this.#kvm.layout;
    const start = slot.gfn.get(s);
    const first = gfn - (gfn % HUGE_GFNS);
    const inside = first >= start && first + HUGE_GFNS <= start + slot.npages.get(s);
    const aligned = (start ^ slot.vpn.get(s)) % HUGE_GFNS === 0;
    const logged = (slot.flags.get(s) & SlotFlag.LogDirty) !== 0;
    return inside && aligned && (!logged || this.#kvm.breaks.hugeWhileLogged);
  }

  vpnOf(s: Slot, gfn: Gfn): Vpn {
    const { slot } = this.#kvm.layout;
    return slot.vpn.get(s) + (gfn - slot.gfn.get(s));
  }

  /**
   * KVM_SET_USER_MEMORY_REGION: CREATE, DELETE (length 0), MOVE or FLAGS_ONLY (L-10). Throws EINVAL or
   * EEXIST in L-11's order, with nothing changed; ENOMEM when a table can't be had.
   */
  set(vm: Vm, region: MemoryRegion): void {
    this.#validate(vm, region);
    const { vm: v } = this.#kvm.layout;
    this.#kvm.sync.lock('slots', vm + v.slotsLock.at);
    try {
      this.#change(vm, region);
    } finally {
      this.#kvm.sync.unlock('slots', vm + v.slotsLock.at);
    }
  }

  #validate(vm: Vm, r: MemoryRegion): void {
    const bad = (why: string): never => {
      throw new Errno('EINVAL', 'setUserMemoryRegion', why);
    };
    if (((r.flags ?? 0) & ~(SlotFlag.LogDirty | SlotFlag.ReadOnly)) !== 0) bad('unknown flags');
    for (const [name, value] of [
      ['length', r.lengthBytes],
      ['guest address', r.guestAddress],
      ['host address', r.hostAddress ?? 0],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 0 || !isPageAligned(value))
        bad(`${name} is not page aligned`);
    }
    if ((r.hostAddress ?? 0) + r.lengthBytes > HVA_END) bad('host address out of range');
    // Address 0 means "not visible yet" to the notifier of 2008 (L-3, B-9); today's asks who allocated.
    if (r.hostAddress === 0 && this.#kvm.layout.vm.protocol.get(vm) === Protocol.SeqlockPin)
      bad('host address 0');
    if (!(Number.isInteger(r.space ?? 0) && (r.space ?? 0) >= 0 && (r.space ?? 0) < ADDRESS_SPACES))
      bad('address space out of range');
    if (!Number.isInteger(r.slot) || r.slot < 0 || r.slot > 32766) bad('slot id out of range');
    if (r.guestAddress + r.lengthBytes > GPA_END) bad('guest address wraps');
    if (r.lengthBytes / PAGE_SIZE > MAX_PAGES) bad('too many pages');
  }

  #change(vm: Vm, r: MemoryRegion): void {
    const { slot } = this.#kvm.layout;
    const old = this.#byId(this.active(vm), r.space ?? 0, r.slot);
    const npages = r.lengthBytes / PAGE_SIZE;
    if (npages === 0) {
      if (old === 0) throw new Errno('EINVAL', 'setUserMemoryRegion', 'no such slot to delete');
      this.#deleteSlot(vm, old);
      return;
    }
    const gfn = r.guestAddress / PAGE_SIZE;
    if (old !== 0) {
      const same = slot.npages.get(old) === npages && this.#isAt(old, r.hostAddress);
      const readOnly = ((slot.flags.get(old) ^ (r.flags ?? 0)) & SlotFlag.ReadOnly) === 0;
      if (!same || !readOnly)
        throw new Errno('EINVAL', 'setUserMemoryRegion', 'size, host address and READONLY are fixed');
      if (slot.gfn.get(old) === gfn && slot.flags.get(old) === (r.flags ?? 0)) return;
    }
    const unchecked = this.#kvm.breaks.overlapUnchecked;
    if (!unchecked && this.#overlaps(this.active(vm), r.space ?? 0, gfn, npages, old)) {
      throw new Errno('EEXIST', 'setUserMemoryRegion', 'guest range overlaps another slot');
    }
    if (old === 0) this.#create(vm, r);
    else if (slot.gfn.get(old) === gfn) this.#changeFlags(vm, r, old);
    else this.#move(vm, r, old);
  }

  /** A slot keeps its address; the caller may leave it out where it never named it (L-5). */
  #isAt(s: Slot, hostAddress: number | undefined): boolean {
    const { slot } = this.#kvm.layout;
    if (hostAddress === undefined) return slot.userAlloc.get(s) === 0;
    return slot.vpn.get(s) === hostAddress / PAGE_SIZE;
  }

  #byId(set: Slots, space: number, id: number): Slot {
    const { slot, slots } = this.#kvm.layout;
    for (let i = 0; i < slots.count.get(set); i++) {
      const s = this.at(set, i);
      if (slot.id.get(s) === id && slot.space.get(s) === space) return s;
    }
    return 0 as Slot;
  }

  #overlaps(set: Slots, space: number, gfn: Gfn, npages: number, except: Slot): boolean {
    const { slot, slots } = this.#kvm.layout;
    for (let i = 0; i < slots.count.get(set); i++) {
      const s = this.at(set, i);
      if (s === except || slot.space.get(s) !== space) continue;
      if (gfn < slot.gfn.get(s) + slot.npages.get(s) && slot.gfn.get(s) < gfn + npages) return true;
    }
    return false;
  }

  /** CREATE: one phase; then, for some, what may fail after it. */
  #create(vm: Vm, r: MemoryRegion): void {
    const { slot, slots } = this.#kvm.layout;
    const before = this.active(vm);
    if (slots.count.get(before) === MAX_SLOTS)
      throw new Errno('ENOMEM', 'setUserMemoryRegion', 'too many slots');
    const [set, s, rmap, rmapHuge] = this.#allocAll(slots.words, slot.words, ...rmapWords(r)) as Four;
    this.#fill(s as Slot, r, rmap, rmapHuge);
    if (r.hostAddress === undefined || this.#kvm.cpu.commitSlot !== undefined) {
      this.#createInSteps(vm, r, set as Slots, s as Slot);
      return;
    }
    this.#publish(vm, this.#copyInto(set as Slots, before, 0 as Slot, s as Slot));
    this.#kvm.mm.heap.free(before);
  }

  /**
   * A slot that may yet fail once it is published: its memory is mapped, outside mmu_lock (L-4), or the CPU says no.
   * Then it goes as in DELETE, with whatever a fault has made through it meanwhile, and the set is as before (L-2).
   * What that takes is there before the slot is.
   */
  #createInSteps(vm: Vm, r: MemoryRegion, set: Slots, s: Slot): void {
    const { slot, slots } = this.#kvm.layout;
    const { heap } = this.#kvm.mm;
    let steps: number[];
    try {
      steps = this.#allocAll(slots.words, slots.words, slot.words);
    } catch (error) {
      this.#freeSlot(s);
      heap.free(set);
      throw error;
    }
    const before = this.active(vm);
    this.#publish(vm, this.#copyInto(set, before, 0 as Slot, s));
    heap.free(before);
    try {
      this.#kvm.cpu.commitSlot?.(vm, s);
      if (r.hostAddress !== undefined) for (const at of steps) heap.free(at);
      else this.#mapMemory(vm, r, s, steps);
    } catch (error) {
      if (!this.#kvm.breaks.keepHook) this.#replace(vm, s, 0 as Slot, steps as Phases);
      throw error;
    }
  }

  /** Maps the memory of a slot that is published without, and publishes it with its address (L-4). */
  #mapMemory(vm: Vm, r: MemoryRegion, s: Slot, [set, spare, visible]: number[]): void {
    const { slot, vm: v } = this.#kvm.layout;
    const { heap, mmap } = this.#kvm.mm;
    this.#kvm.sync.y('G.map');
    const address = mmap.map(v.mm.get(vm), r.lengthBytes);
    heap.free(spare as number);
    this.#kvm.words.copyWithin(visible as number, s, s + slot.words);
    slot.vpn.set(visible as Slot, address / PAGE_SIZE);
    const before = this.active(vm);
    this.#publish(vm, this.#copyInto(set as Slots, before, s, visible as Slot));
    heap.free(before);
    heap.free(s);
  }

  /** The memory of a slot of the kernel's goes with it. That it can't be unmapped is nobody's error (L-4). */
  #unmapMemory(vm: Vm, vpn: number, npages: number): void {
    const { mm, layout } = this.#kvm;
    try {
      mm.mmap.unmap(layout.vm.mm.get(vm), vpn * PAGE_SIZE, npages * PAGE_SIZE);
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
    }
  }

  #freeSlot(s: Slot): void {
    const { slot } = this.#kvm.layout;
    const { heap } = this.#kvm.mm;
    heap.free(slot.rmap.get(s));
    heap.free(slot.rmapHuge.get(s));
    heap.free(s);
  }

  /** FLAGS_ONLY: one phase. The new record takes over the reverse map. */
  #changeFlags(vm: Vm, r: MemoryRegion, old: Slot): void {
    const { slot, slots } = this.#kvm.layout;
    const before = this.active(vm);
    const [set, s] = this.#allocAll(slots.words, slot.words) as [Slots, Slot];
    this.#fill(s, r, slot.rmap.get(old), slot.rmapHuge.get(old));
    this.#keepAddress(s, old);
    this.#publish(vm, this.#copyInto(set, before, old, s));
    this.#kvm.mm.heap.free(before);
    this.#kvm.mm.heap.free(old);
  }

  #deleteSlot(vm: Vm, old: Slot): void {
    const { slot, slots } = this.#kvm.layout;
    const [hidden, after, invalid] = this.#allocAll(slots.words, slots.words, slot.words) as Phases;
    const [vpn, npages] = [slot.vpn.get(old), slot.npages.get(old)];
    const ours = slot.userAlloc.get(old) === 0;
    this.#replace(vm, old, 0 as Slot, [hidden, after, invalid]);
    if (ours) this.#unmapMemory(vm, vpn, npages);
  }

  #move(vm: Vm, r: MemoryRegion, old: Slot): void {
    const { slot, slots } = this.#kvm.layout;
    const sizes = [slots.words, slots.words, slot.words, slot.words, ...rmapWords(r)];
    const [hidden, after, invalid, s, rmap, rmapHuge] = this.#allocAll(...sizes) as [...Phases, ...Three];
    this.#fill(s as Slot, r, rmap, rmapHuge);
    this.#keepAddress(s as Slot, old);
    if (this.#kvm.breaks.editInPlace) this.#editInPlace(vm, old, s as Slot);
    else this.#replace(vm, old, s as Slot, [hidden, after, invalid]);
  }

  /**
   * DELETE and MOVE, in two phases (L-14): hide the slot so that faults retry, zap its leaves, publish without
   * it. All that either phase needs is there before the first, so that no error comes between them.
   */
  #replace(vm: Vm, old: Slot, s: Slot, [hidden, after, invalid]: Phases): void {
    const { slot } = this.#kvm.layout;
    const { heap } = this.#kvm.mm;
    const before = this.active(vm);
    this.#kvm.words.copyWithin(invalid, old, old + slot.words);
    slot.flags.set(invalid, slot.flags.get(old) | SlotFlag.Invalid);
    this.#publish(vm, this.#copyInto(hidden, before, old, invalid));
    heap.free(before);
    if (!this.#kvm.breaks.deleteKeepsLeaves) this.#kvm.mmu.zapSlot(vm, invalid);
    this.#publish(vm, this.#copyInto(after, hidden, invalid, s));
    heap.free(hidden);
    this.#freeSlot(invalid);
    heap.free(old);
  }

  /** For the mutant of T-SLOT-03 alone: word by word, under the eyes of who walks. */
  #editInPlace(vm: Vm, old: Slot, s: Slot): void {
    const { slot } = this.#kvm.layout;
    this.#kvm.mmu.zapSlot(vm, old);
    for (const field of [slot.gfn, slot.rmap, slot.rmapHuge]) {
      field.set(old, field.get(s));
      this.#kvm.sync.y('G.edit');
    }
  }

  /** Zeroed words of each size, or ENOMEM and none at all. */
  #allocAll(...sizes: number[]): number[] {
    const { heap } = this.#kvm.mm;
    const got: number[] = [];
    try {
      for (const words of sizes) got.push(heap.alloc(words));
    } catch (error) {
      for (const at of got) heap.free(at);
      throw error;
    }
    return got;
  }

  #fill(s: Slot, r: MemoryRegion, rmap: number, rmapHuge: number): void {
    const { slot } = this.#kvm.layout;
    slot.id.set(s, r.slot);
    slot.space.set(s, r.space ?? 0);
    slot.flags.set(s, r.flags ?? 0);
    slot.gfn.set(s, r.guestAddress / PAGE_SIZE);
    slot.npages.set(s, r.lengthBytes / PAGE_SIZE);
    slot.vpn.set(s, (r.hostAddress ?? 0) / PAGE_SIZE);
    slot.userAlloc.set(s, r.hostAddress === undefined ? 0 : 1);
    slot.rmap.set(s, rmap);
    slot.rmapHuge.set(s, rmapHuge);
  }

  #keepAddress(s: Slot, old: Slot): void {
    const { slot } = this.#kvm.layout;
    slot.vpn.set(s, slot.vpn.get(old));
    slot.userAlloc.set(s, slot.userAlloc.get(old));
  }

  /** Makes `copy` a set like `set`, with `old` replaced by `s` (either may be 0). There is room for it. */
  #copyInto(copy: Slots, set: Slots, old: Slot, s: Slot): Slots {
    const { slots } = this.#kvm.layout;
    let n = 0;
    for (let i = 0; i < slots.count.get(set); i++) {
      const entry = this.at(set, i);
      if (entry !== old) this.#kvm.words[copy + slots.entries.at + n++] = entry;
    }
    if (s !== 0) this.#kvm.words[copy + slots.entries.at + n++] = s;
    slots.count.set(copy, n);
    slots.generation.set(copy, slots.generation.get(set) + 1);
    return copy;
  }

  /**
   * Swaps the active set when no invalidation is between its start and its end, so that both see the same
   * slots (L-12), then waits for readers of the old one. Requires: 'slots' held.
   */
  #publish(vm: Vm, set: Slots): void {
    const { vm: v } = this.#kvm.layout;
    const { sync } = this.#kvm;
    v.generation.or(vm, 1);
    for (;;) {
      sync.y('G.w');
      sync.lock('mnInvalidate', vm + v.mnLock.at);
      const active = v.mnActive.load(vm);
      if (active === 0 || this.#kvm.breaks.publishAtOnce) break;
      sync.unlock('mnInvalidate', vm + v.mnLock.at);
      sync.waiter.wait(vm + v.mnActive.at, active);
    }
    v.slots.store(vm, set);
    sync.unlock('mnInvalidate', vm + v.mnLock.at);
    sync.y('G.pub');
    this.#kvm.srcu.synchronize(vm + v.srcuIndex.at);
    sync.y('G.sync');
    // Clears the in-progress bit and moves on to the next even number.
    const generation = v.generation.add(vm, 1) + 1;
    if ((generation & GENERATION_MASK) === 0) this.#kvm.mmu.forgetMmio(vm);
    sync.y('G.gen');
  }
}
