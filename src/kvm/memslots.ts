import { assert } from '../base/assert.ts';
import { Errno } from '../base/errno.ts';
import { type Gfn, isPageAligned, PAGE_SIZE, type Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { ADDRESS_SPACES, MAX_SLOTS, SlotFlag } from './layout.ts';

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
  /** Host virtual address in the VM's mm. */
  hostAddress: number;
};

const MAX_PAGES = 2 ** 31 - 1;
/** Guest physical addresses reach below 512 GiB: three levels of tables. */
const GPA_END = 2 ** 39;
const HVA_END = 2 ** 39;

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

  vpnOf(s: Slot, gfn: Gfn): Vpn {
    const { slot } = this.#kvm.layout;
    return slot.vpn.get(s) + (gfn - slot.gfn.get(s));
  }

  /**
   * KVM_SET_USER_MEMORY_REGION: CREATE, DELETE (length 0), MOVE or FLAGS_ONLY (L-10). Throws EINVAL or
   * EEXIST in L-11's order, with nothing changed; ENOMEM when a table can't be had.
   */
  set(vm: Vm, region: MemoryRegion): void {
    this.#validate(region);
    const { vm: v } = this.#kvm.layout;
    this.#kvm.sync.lock('slots', vm + v.slotsLock.at);
    try {
      this.#change(vm, region);
    } finally {
      this.#kvm.sync.unlock('slots', vm + v.slotsLock.at);
    }
  }

  #validate(r: MemoryRegion): void {
    const bad = (why: string): never => {
      throw new Errno('EINVAL', 'setUserMemoryRegion', why);
    };
    if (((r.flags ?? 0) & ~(SlotFlag.LogDirty | SlotFlag.ReadOnly)) !== 0) bad('unknown flags');
    for (const [name, value] of [
      ['length', r.lengthBytes],
      ['guest address', r.guestAddress],
      ['host address', r.hostAddress],
    ] as const) {
      if (!Number.isSafeInteger(value) || value < 0 || !isPageAligned(value))
        bad(`${name} is not page aligned`);
    }
    if (r.hostAddress + r.lengthBytes > HVA_END) bad('host address out of range');
    if ((r.space ?? 0) < 0 || (r.space ?? 0) >= ADDRESS_SPACES) bad('address space out of range');
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
      const same = slot.npages.get(old) === npages && slot.vpn.get(old) === r.hostAddress / PAGE_SIZE;
      const readOnly = ((slot.flags.get(old) ^ (r.flags ?? 0)) & SlotFlag.ReadOnly) === 0;
      if (!same || !readOnly)
        throw new Errno('EINVAL', 'setUserMemoryRegion', 'size, host address and READONLY are fixed');
      if (slot.gfn.get(old) === gfn && slot.flags.get(old) === (r.flags ?? 0)) return;
    }
    if (this.#overlaps(this.active(vm), r.space ?? 0, gfn, npages, old)) {
      throw new Errno('EEXIST', 'setUserMemoryRegion', 'guest range overlaps another slot');
    }
    if (old !== 0 && slot.gfn.get(old) !== gfn) this.#move(vm, old, this.#newSlot(r));
    else this.#publishWith(vm, old, this.#newSlot(r, old));
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

  /** A record for the region; takes over the rmap of `old` when only flags change. */
  #newSlot(r: MemoryRegion, old: Slot = 0 as Slot): Slot {
    const { slot } = this.#kvm.layout;
    const npages = r.lengthBytes / PAGE_SIZE;
    const s = this.#kvm.mm.heap.alloc(slot.words) as Slot;
    slot.id.set(s, r.slot);
    slot.space.set(s, r.space ?? 0);
    slot.flags.set(s, r.flags ?? 0);
    slot.gfn.set(s, r.guestAddress / PAGE_SIZE);
    slot.npages.set(s, npages);
    slot.vpn.set(s, r.hostAddress / PAGE_SIZE);
    slot.userAlloc.set(s, 1);
    slot.rmap.set(s, old === 0 ? this.#kvm.mm.heap.alloc(npages) : slot.rmap.get(old));
    slot.rmapHuge.set(s, old === 0 ? this.#kvm.mm.heap.alloc((npages >>> 9) + 2) : slot.rmapHuge.get(old));
    return s;
  }

  /** CREATE and FLAGS_ONLY: one phase. */
  #publishWith(vm: Vm, old: Slot, s: Slot): void {
    const before = this.active(vm);
    this.#publish(vm, this.#copy(before, old, s));
    this.#kvm.mm.heap.free(before);
    if (old !== 0) this.#kvm.mm.heap.free(old);
  }

  /** Two phases (L-14): hide the slot so that faults retry, zap its leaves, publish without it. */
  #deleteSlot(vm: Vm, old: Slot): void {
    this.#hide(vm, old);
    const hidden = this.active(vm);
    const invalid = this.#invalidCopyOf(hidden, old);
    this.#publish(vm, this.#copy(hidden, invalid, 0 as Slot));
    this.#kvm.mm.heap.free(hidden);
    this.#freeSlot(invalid);
    this.#kvm.mm.heap.free(old);
  }

  #move(vm: Vm, old: Slot, s: Slot): void {
    this.#hide(vm, old);
    const hidden = this.active(vm);
    const invalid = this.#invalidCopyOf(hidden, old);
    this.#publish(vm, this.#copy(hidden, invalid, s));
    this.#kvm.mm.heap.free(hidden);
    this.#freeSlot(invalid);
    this.#kvm.mm.heap.free(old);
  }

  #hide(vm: Vm, old: Slot): void {
    const { slot } = this.#kvm.layout;
    const invalid = this.#kvm.mm.heap.alloc(slot.words) as Slot;
    for (let i = 0; i < slot.words; i++) this.#kvm.words[invalid + i] = this.#kvm.words[old + i] as number;
    slot.flags.set(invalid, slot.flags.get(old) | SlotFlag.Invalid);
    const before = this.active(vm);
    this.#publish(vm, this.#copy(before, old, invalid));
    this.#kvm.mm.heap.free(before);
    if (!this.#kvm.breaks.deleteKeepsLeaves) this.#kvm.mmu.zapSlot(vm, invalid);
  }

  #invalidCopyOf(set: Slots, old: Slot): Slot {
    const { slot } = this.#kvm.layout;
    const found = this.#byId(set, slot.space.get(old), slot.id.get(old));
    assert(
      found !== 0 && (slot.flags.get(found) & SlotFlag.Invalid) !== 0,
      'memslots: the hidden slot is gone',
    );
    return found;
  }

  #freeSlot(s: Slot): void {
    const { slot } = this.#kvm.layout;
    this.#kvm.mm.heap.free(slot.rmap.get(s));
    this.#kvm.mm.heap.free(slot.rmapHuge.get(s));
    this.#kvm.mm.heap.free(s);
  }

  /** A new set like `set`, with `old` replaced by `s` (either may be 0). */
  #copy(set: Slots, old: Slot, s: Slot): Slots {
    const { slots } = this.#kvm.layout;
    const copy = this.#kvm.mm.heap.alloc(slots.words) as Slots;
    let n = 0;
    for (let i = 0; i < slots.count.get(set); i++) {
      const entry = this.at(set, i);
      if (entry !== old) this.#kvm.words[copy + slots.entries.at + n++] = entry;
    }
    if (s !== 0) {
      if (n === MAX_SLOTS) throw new Errno('ENOMEM', 'setUserMemoryRegion', 'too many slots');
      this.#kvm.words[copy + slots.entries.at + n++] = s;
    }
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
    v.generation.add(vm, 1);
    sync.y('G.gen');
  }
}
