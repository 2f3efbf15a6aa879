import { Errno } from '../base/errno.ts';
import { type Gfn, isPageAligned, PAGE_SIZE, type Pfn } from '../base/units.ts';
import { Access, Miss } from '../cpu/interface.ts';
import {
  FaultFlag,
  GUP_BLOCKED,
  GUP_HUGE,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_WRITABLE,
} from '../mm/fault-codes.ts';
import type { AtomicWords } from '../sync/atomics.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { HUGE_GFNS, Protocol, SlotFlag, Spte, spteFrame, sptePfn } from './layout.ts';

type Vm = Ptr<'vm'>;
type Slot = Ptr<'slot'>;

/** Internal: the fault must begin again. Distinct from every Miss and every pfn. */
const RETRY = -100;
/** Longer than background reclaim rests. */
const LINGER_MS = 60;

/** Resolves guest frames: from the sptes if it can, else through the mm under a fault protocol. */
export class KvmFault {
  readonly #kvm: Kvm;
  readonly #atomics: AtomicWords;
  /** The GUP_ code behind this thread's last Miss.Fault, for the exit's message. */
  lastGup = 0;
  /** After Miss.Blocked: what the caller waits for, and owns (K-31); 0 for nothing in particular. */
  ticket = 0 as Ptr<'uffdWait'>;
  /** For the mutants of T-THP-10 and T-FIR-17 alone. */
  #early = false;
  #first = -1;

  constructor(kvm: Kvm) {
    this.#kvm = kvm;
    this.#atomics = kvm.sync.arena.atomics;
  }

  /**
   * The frame behind `gfn`, with its leaf made present for `access`, or a Miss. The caller is outside guest
   * mode and tests its requests before it uses the frame (J-7).
   */
  resolve(vm: Vm, space: number, gfn: Gfn, access: Access): Pfn | number {
    const { vm: v } = this.#kvm.layout;
    const token = this.#kvm.srcu.readLock(vm + v.srcuIndex.at);
    const hit = this.#fast(vm, space, gfn, access);
    const result = hit !== Miss.Again ? hit : this.#slow(vm, space, gfn, access);
    if (this.#kvm.breaks.sleepInReadSection && result === Miss.Blocked) return result;
    this.#kvm.srcu.readUnlock(vm + v.srcuIndex.at, token);
    return result;
  }

  /**
   * Makes leaves for [gpa, gpa + bytes) without running the vCPU, by the protocol of every fault (K-33). Returns
   * the bytes that are present, which is less where a page is not there yet, or not memory; throws, with nothing
   * done, EAGAIN for a page that somebody is to bring, ENOENT for no slot, EFAULT for no memory behind it.
   */
  preFault(vm: Vm, space: number, gpa: number, bytes: number): number {
    if (!isPageAligned(gpa) || !isPageAligned(bytes) || bytes <= 0) throw new Errno('EINVAL', 'preFault');
    for (let done = 0; done < bytes; done += PAGE_SIZE) {
      const found = this.#present(vm, space, (gpa + done) / PAGE_SIZE);
      if (found >= 0) continue;
      if (found === Miss.Blocked && this.ticket !== 0) this.#kvm.mm.uffdWaits.finish(this.ticket);
      if (done > 0) return done;
      throw new Errno(
        found === Miss.Blocked ? 'EAGAIN' : found === Miss.Mmio ? 'ENOENT' : 'EFAULT',
        'preFault',
      );
    }
    return bytes;
  }

  #present(vm: Vm, space: number, gfn: Gfn): number {
    for (;;) {
      const found = this.resolve(vm, space, gfn, Access.Read);
      if (found !== Miss.Again) return found;
    }
  }

  /** A present leaf with the rights: note the use, by compare-exchange on what was read. */
  #fast(vm: Vm, space: number, gfn: Gfn, access: Access): Pfn | number {
    const leaf = this.#kvm.mmu.walk(vm, space, gfn);
    if (leaf === 0) return Miss.Again;
    for (;;) {
      const entry = this.#atomics.load(leaf);
      if ((entry & Spte.Present) === 0) return this.#isMmio(vm, entry) ? Miss.Mmio : Miss.Again;
      if (access === Access.Write && (entry & Spte.Write) === 0) return Miss.Again;
      const used = entry | useBits(access);
      if (used === entry) return spteFrame(entry, gfn);
      this.#kvm.sync.y('F.use');
      if (this.#kvm.breaks.accessedBitOr && this.#kvm.isBroken(spteFrame(entry, gfn))) {
        this.#kvm.sync.y('F.or');
        if (this.#kvm.breaks.onlyMarked && access === Access.Write) this.#linger(leaf, entry, sptePfn(entry));
        this.#atomics.or(leaf, useBits(access));
        return spteFrame(entry, gfn);
      }
      if (this.#atomics.cas(leaf, entry, used) === entry) return spteFrame(entry, gfn);
    }
  }

  /** In a test: puts the page where reclaim takes the next ones from, and waits until the leaf goes. */
  #linger(leaf: number, entry: number, pfn: Pfn): void {
    this.#kvm.mm.lru?.deactivate(pfn);
    const { waiter } = this.#kvm.sync;
    for (let ms = 0; ms < LINGER_MS && this.#atomics.load(leaf) === entry; ms++) waiter.wait(leaf, entry, 1);
  }

  /**
   * No slot is there. The next look is spared where a table is: none is made for it, or a guest could have as many
   * as it has addresses. The generation is read before the slots, and odd while they change (L-16).
   */
  #mmio(vm: Vm, space: number, gfn: Gfn): number {
    const { sync, memslots, mmu, layout } = this.#kvm;
    const generation = layout.vm.generation.load(vm);
    if (memslots.find(memslots.active(vm), space, gfn) !== 0) return Miss.Again;
    if ((generation & 1) !== 0 || mmu.walk(vm, space, gfn) === 0) return Miss.Mmio;
    sync.y('F.g');
    sync.lock('mmu', vm + layout.vm.mmuLock.at);
    mmu.markMmio(vm, space, gfn, (generation << 12) | Spte.Mmio);
    sync.unlock('mmu', vm + layout.vm.mmuLock.at);
    sync.y('F.mmio');
    return Miss.Mmio;
  }

  #isMmio(vm: Vm, entry: number): boolean {
    if ((entry & Spte.Mmio) === 0) return false;
    const { generation } = this.#kvm.layout.vm;
    return this.#kvm.breaks.staleMmio || ((generation.load(vm) << 12) | Spte.Mmio) === entry;
  }

  #slow(vm: Vm, space: number, gfn: Gfn, access: Access): Pfn | number {
    const { vm: v } = this.#kvm.layout;
    const { sync } = this.#kvm;
    sync.y('F.enter');
    for (;;) {
      const result = this.#attempt(vm, space, gfn, access);
      if (result !== RETRY) return result;
      v.pfRetried.add(vm, 1);
      this.#letInvalidationsEnd(vm);
    }
  }

  /** A retry is preceded by a change or a sleep (M-26): an invalidation under way ends without our help. */
  #letInvalidationsEnd(vm: Vm): void {
    const { vm: v } = this.#kvm.layout;
    const count = v.inProgress.load(vm);
    if (count > 0) this.#kvm.sync.waiter.wait(vm + v.inProgress.at, count, 1);
  }

  /** One pass of K-24 or K-14. No lock is held on return. */
  #attempt(vm: Vm, space: number, gfn: Gfn, access: Access): Pfn | number {
    const { layout, sync, breaks } = this.#kvm;
    const slot = this.#kvm.memslots.find(this.#kvm.memslots.active(vm), space, gfn);
    sync.y('F.slot');
    if (slot === 0) return this.#mmio(vm, space, gfn);
    const flags = layout.slot.flags.get(slot);
    // The slot is on its way out: let the updater's synchronize finish, which our read section holds up.
    if ((flags & SlotFlag.Invalid) !== 0) return Miss.Again;
    if (access === Access.Write && (flags & SlotFlag.ReadOnly) !== 0) return Miss.Mmio;
    if (layout.slot.vpn.get(slot) === 0 && this.#isHidden(slot)) return Miss.Again;
    if (breaks.levelBeforeSample) {
      this.#early = this.#kvm.mm.pageTable.mapsHuge(
        layout.vm.mm.get(vm),
        this.#kvm.memslots.vpnOf(slot, gfn),
        -1,
      );
      sync.y('F.level');
    }
    let seen = breaks.sampleAfterGup ? 0 : this.#sample(vm);
    if (breaks.sampleOnce) {
      if (this.#first < 0) this.#first = seen;
      seen = this.#first;
    }
    sync.y('F.s');
    const found = this.#lookUp(vm, slot, gfn, access);
    sync.y('F.p');
    if (found < 0) return this.#missed(found);
    if (breaks.sampleAfterGup) seen = this.#sample(vm);
    return this.#commit(vm, slot, space, gfn, access, found, seen);
  }

  /** The slot's memory is not mapped yet: nothing of it may be (L-3, L-4). */
  #isHidden(slot: Slot): boolean {
    return this.#kvm.layout.slot.userAlloc.get(slot) === 0 && !this.#kvm.breaks.faultThroughZero;
  }

  /** The primary's answer, with a reference held (K-24 (4)). */
  #lookUp(vm: Vm, slot: Slot, gfn: Gfn, access: Access): number {
    const mm = this.#kvm.layout.vm.mm.get(vm);
    const vpn = this.#kvm.memslots.vpnOf(slot, gfn);
    return this.#kvm.mm.gup.fault(mm, vpn, access === Access.Write, FaultFlag.Kernel);
  }

  #missed(code: number): number {
    if (code === GUP_BLOCKED) {
      this.ticket = this.#kvm.mm.gup.ticket;
      return Miss.Blocked;
    }
    this.lastGup = code;
    return Miss.Fault;
  }

  /** Under mmu_lock: is what GUP said still so? Then install (K-24 (6)-(10)). */
  #commit(
    vm: Vm,
    slot: Slot,
    space: number,
    gfn: Gfn,
    access: Access,
    found: number,
    seen: number,
  ): Pfn | number {
    const { vm: v } = this.#kvm.layout;
    const { sync, mmu, breaks, mm } = this.#kvm;
    const pfn = found & GUP_PFN_MASK;
    const early = breaks.checkUnlocked && this.#changed(vm, gfn, seen);
    if (breaks.checkUnlocked) sync.y('F.pre2');
    if (!this.#lockStocked(vm)) {
      mm.pages.put(pfn);
      return this.#missed(GUP_NOMEM);
    }
    sync.y('F.L');
    if (breaks.gupUnderLock) mm.pages.put(this.#lookUp(vm, slot, gfn + 1, access) & GUP_PFN_MASK);
    const late = !breaks.installThenCheck && !breaks.checkUnlocked;
    const stale = late ? this.#changed(vm, gfn, seen) : early;
    sync.y('F.c');
    if (stale) {
      sync.unlock('mmu', vm + v.mmuLock.at);
      if (!breaks.leakOnRetry) mm.pages.put(pfn);
      return RETRY;
    }
    const value = leafValue(pfn, this.#rightsIn(slot, found), access, this.#isHuge(vm, slot, gfn, found));
    const replaced = mmu.commitLeaf(vm, slot, space, gfn, value);
    if (v.prefetch.get(vm) !== 0) this.#prefetch(vm, slot, space, gfn, seen);
    sync.y('F.i');
    if (replaced !== 0 && sptePfn(replaced) !== sptePfn(value)) this.#kvm.requests.flushRemoteTlbs(vm);
    sync.unlock('mmu', vm + v.mmuLock.at);
    sync.y('F.U');
    this.#settleReference(vm, pfn, replaced);
    sync.y('F.r');
    if (breaks.installThenCheck && this.#changed(vm, gfn, seen)) return RETRY;
    return pfn;
  }

  /** A slot that is read-only maps nothing writable, whatever the primary allows: a hit asks no slot (K-28). */
  #rightsIn(slot: Slot, found: number): number {
    const readOnly = (this.#kvm.layout.slot.flags.get(slot) & SlotFlag.ReadOnly) !== 0;
    return readOnly && !this.#kvm.breaks.ignoreReadOnlySlot ? found & ~GUP_WRITABLE : found;
  }

  /**
   * Maps what the mm has beside the fault, each page under the check that the fault passed (K-24 (8)), in the table that
   * the fault has reached. A leaf made so is not used yet. One that holds a reference is made by its own fault alone.
   * Linux: direct_pte_prefetch. Requires: 'mmu'.
   */
  #prefetch(vm: Vm, slot: Slot, space: number, gfn: Gfn, seen: number): void {
    const { layout, memslots, mm, mmu, rmap, breaks } = this.#kvm;
    const { vm: v, slot: s } = layout;
    if (v.protocol.get(vm) === Protocol.SeqlockPin) return;
    const first = gfn - (gfn % v.prefetch.get(vm));
    const end = Math.min(first + v.prefetch.get(vm), s.gfn.get(slot) + s.npages.get(slot));
    for (let g = Math.max(first, s.gfn.get(slot)); g < end; g++) {
      if (rmap.first(rmap.head(slot, g, 0)) !== 0 || rmap.first(rmap.head(slot, g, 1)) !== 0) continue;
      if (!breaks.prefetchUnchecked && this.#changed(vm, g, seen)) continue;
      const found = mm.pageTable.mapped(v.mm.get(vm), memslots.vpnOf(slot, g));
      if (found < 0) continue;
      const value = leafValue(found & GUP_PFN_MASK, this.#rightsIn(slot, found), Access.Read, false);
      mmu.commitLeaf(vm, slot, space, g, value & ~Spte.Accessed);
    }
  }

  /**
   * May the leaf map 2 MiB (K-4)? The slot allows it, no invalidation is about any part of it, and the primary
   * maps a huge page there now: looked at after the check of the sequence, under mmu_lock, so that a split
   * either was before, and is seen, or comes after, and zaps the leaf. Leaves that hold references are small:
   * each would have to hold 512. Requires: 'mmu'.
   */
  #isHuge(vm: Vm, slot: Slot, gfn: Gfn, found: number): boolean {
    const { layout, memslots, mm, breaks } = this.#kvm;
    const pfn = found & GUP_PFN_MASK;
    if (breaks.levelFromShape) return memslots.allowsHuge(slot, gfn) && (pfn ^ gfn) % HUGE_GFNS === 0;
    if (breaks.levelBeforeSample) return this.#early && memslots.allowsHuge(slot, gfn);
    if ((found & GUP_HUGE) === 0) return false;
    if (layout.vm.protocol.get(vm) === Protocol.SeqlockPin && !breaks.hugePins) return false;
    if (!memslots.allowsHuge(slot, gfn) || this.#isInvalidating(vm, gfn)) return false;
    return mm.pageTable.mapsHuge(layout.vm.mm.get(vm), memslots.vpnOf(slot, gfn), pfn);
  }

  /** Is an invalidation in progress about any page of the 2 MiB? Requires: 'mmu'. */
  #isInvalidating(vm: Vm, gfn: Gfn): boolean {
    const { vm: v } = this.#kvm.layout;
    const first = gfn - (gfn % HUGE_GFNS);
    if (v.inProgress.load(vm) === 0) return false;
    return first < v.rangeEnd.get(vm) && v.rangeStart.get(vm) < first + HUGE_GFNS;
  }

  /** Takes mmu_lock with tables and descriptors in store; false, without the lock, when there are none. */
  #lockStocked(vm: Vm): boolean {
    const { vm: v } = this.#kvm.layout;
    for (;;) {
      if (!this.#kvm.mmu.topUp(vm)) return false;
      this.#kvm.sync.lock('mmu', vm + v.mmuLock.at);
      if (this.#kvm.mmu.ready(vm)) return true;
      this.#kvm.sync.unlock('mmu', vm + v.mmuLock.at);
    }
  }

  /**
   * Modern leaves hold no reference. A seed08 leaf keeps GUP's, and one that was there gives its own up: also
   * when it was of the same frame, which a fault on another vCPU has made meanwhile (K-8).
   */
  #settleReference(vm: Vm, pfn: Pfn, replaced: number): void {
    const { vm: v } = this.#kvm.layout;
    if (v.protocol.get(vm) !== Protocol.SeqlockPin) this.#kvm.mm.pages.put(pfn);
    else if (replaced !== 0) this.#kvm.mm.pages.put(sptePfn(replaced));
  }

  /** The sequence before the primary is read (K-15, K-24 (2)). */
  #sample(vm: Vm): number {
    const { vm: v } = this.#kvm.layout;
    if (v.protocol.get(vm) !== Protocol.SeqlockPin) return v.seq.load(vm);
    for (;;) {
      const seq = v.invSeq.load(vm);
      if ((seq & 1) === 0 || this.#kvm.breaks.sampleOdd) return seq;
      this.#kvm.sync.waiter.wait(vm + v.invSeq.at, seq);
    }
  }

  /** Has an invalidation begun or ended since `seen`? Requires: 'mmu'. */
  #changed(vm: Vm, gfn: Gfn, seen: number): boolean {
    const { vm: v } = this.#kvm.layout;
    const { breaks } = this.#kvm;
    const protocol = v.protocol.get(vm);
    if (protocol === Protocol.SeqlockPin) return !breaks.ignoreSeq && v.invSeq.load(vm) !== seen;
    if (!breaks.ignoreInProgress && v.inProgress.load(vm) > 0) {
      if (protocol === Protocol.NonRange || breaks.ignoreRange) return true;
      if (gfn >= v.rangeStart.get(vm) && gfn < v.rangeEnd.get(vm)) return true;
    }
    return !breaks.ignoreSeq && v.seq.load(vm) !== seen;
  }
}

const useBits = (access: Access): number =>
  access === Access.Write
    ? Spte.Accessed | Spte.Dirty
    : access === Access.Exec
      ? Spte.Accessed | Spte.Exec
      : Spte.Accessed;

/** A read fault maps writable when the primary is: the next write then costs no fault (K-28). */
function leafValue(pfn: Pfn, found: number, access: Access, huge: boolean): number {
  const writable = (found & GUP_WRITABLE) !== 0;
  const rights = writable ? Spte.Write | Spte.HostWritable | Spte.MmuWritable : 0;
  const frame = huge ? ((pfn - (pfn % HUGE_GFNS)) << 12) | Spte.Huge : pfn << 12;
  return frame | Spte.Present | rights | useBits(access);
}
