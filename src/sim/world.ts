import { assert } from '../base/assert.ts';
import { type Gfn, PAGE_SIZE, type Pfn, type Vpn } from '../base/units.ts';
import { VCPU_WORDS } from '../cpu/vcpu.ts';
import { checkVm, Kvm, type KvmBreaks, Protocol, Vms } from '../kvm/index.ts';
import { Spte } from '../kvm/layout.ts';
import type { MmBreaks } from '../mm/breaks.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../mm/index.ts';
import { checkInvariants } from '../mm/invariants.ts';
import { PageFlag, Pte, pmdIsHuge, pteIsPresent, ptePfn } from '../mm/layout.ts';
import { FRAME_POISON } from '../mm/page-alloc.ts';
import { frameByte, frameWord, Root } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import { createPageOpsTwin } from '../wasm/page-ops-twin.ts';
import { checkReferences } from './accounts.ts';
import type { CoreOptions } from './case.ts';
import { probeOps, refuserOps } from './probe.ts';
import { VcpuActor, type VcpuBreaks } from './vcpu-actor.ts';

/** Rules of every layer that a mutant may switch off. */
export type WorldBreaks = {
  mm: Partial<MmBreaks>;
  kvm: Partial<KvmBreaks>;
  vcpu: Partial<VcpuBreaks>;
};

/** The first guest frame of slot 0. */
export const GFN = 16;
export const PROFILES = ['seed08', 'modern', 'nonrange'] as const;

const PROTOCOL: Record<string, number> = {
  seed08: Protocol.SeqlockPin,
  modern: Protocol.Modern,
  nonrange: Protocol.NonRange,
};

/** A VM over an mm, as plain data: pointers into the arena. */
export type Guest = {
  mm: Ptr<'mm'>;
  vm: Ptr<'vm'>;
  vcpus: Ptr<'vcpu'>[];
  vpn: Vpn;
  pages: number;
  /** Further VMs over the same mm. */
  others?: Guest[];
};

export type GuestShape = { pages: number; vcpus: number; mm?: Ptr<'mm'>; vpn?: Vpn };

/** mm and kvm over one arena, as one actor sees them: real parts, with frames poisoned when freed. */
export class World {
  readonly sync: Sync;
  readonly mm: MmCore;
  readonly kvm: Kvm;
  readonly vms: Vms;
  readonly profile: string;
  /** Numbers of the test subscribers, alike on every thread. */
  readonly probeOps: number;
  readonly refuserOps: number;
  readonly #breaks: Partial<WorldBreaks>;

  constructor(sync: Sync, { profile, breaks }: CoreOptions<WorldBreaks>) {
    this.sync = sync;
    this.profile = profile;
    this.#breaks = breaks;
    const config = mmConfig(sync, breaks.mm ?? {});
    this.mm = sync.arena.root(Root.zone) === 0 ? initMm(sync, config) : attachMm(sync, config);
    this.kvm = new Kvm(sync, this.mm, { dropCode() {} }, breaks.kvm ?? {});
    this.vms = new Vms(this.kvm, this.mm.notifiers);
    this.probeOps = this.mm.notifiers.registerOps(probeOps(sync));
    this.refuserOps = this.mm.notifiers.registerOps(refuserOps());
  }

  /** A VM with slot 0 at GFN over fresh anonymous memory, or over memory of an mm that is there already. */
  createGuest(shape: GuestShape): Guest {
    const mm = shape.mm ?? this.mm.createMm({});
    const vpn = shape.vpn ?? this.mm.mmap.map(mm, shape.pages * PAGE_SIZE) / PAGE_SIZE;
    const vm = this.vms.create({ mm, protocol: PROTOCOL[this.profile] as 0 });
    this.setSlot(vm, 0, GFN, vpn, shape.pages);
    const vcpus: Ptr<'vcpu'>[] = [];
    for (let i = 0; i < shape.vcpus; i++) {
      const vcpu = this.mm.heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>;
      this.vms.addVcpu(vm, vcpu);
      vcpus.push(vcpu);
    }
    return { mm, vm, vcpus, vpn, pages: shape.pages };
  }

  setSlot(vm: Ptr<'vm'>, slot: number, gfn: Gfn, vpn: Vpn, pages: number, space = 0): void {
    this.kvm.memslots.set(vm, {
      slot,
      space,
      guestAddress: gfn * PAGE_SIZE,
      lengthBytes: pages * PAGE_SIZE,
      hostAddress: vpn * PAGE_SIZE,
    });
  }

  vcpu(guest: Guest, index = 0, space = 0): VcpuActor {
    return new VcpuActor(this.kvm, guest.vm, guest.vcpus[index]!, {
      space,
      canary: pfn => this.canary(pfn),
      breaks: this.#breaks.vcpu ?? {},
    });
  }

  /** Makes the leaf of a guest frame present, as a fault of the guest would. For setups. */
  touch(guest: Guest, gfn: Gfn, access: 0 | 1 | 2, space = 0): void {
    const pfn = this.kvm.fault.resolve(guest.vm, space, gfn, access);
    assert(pfn >= 0, 'world: the setup cannot reach the page');
  }

  /** OR-1: a frame that a vCPU accesses has an owner (J-9). */
  canary(pfn: Pfn): void {
    const free = this.mm.pages.has(pfn, PageFlag.Free) || this.mm.pages.refcount(pfn) === 0;
    assert(!free || pfn === this.mm.pages.zeroPage, 'OR-1: a vCPU accesses a frame that was freed');
  }

  /** What the primary maps at a page. */
  primary(mm: Ptr<'mm'>, vpn: Vpn): { pfn: Pfn; writable: boolean; huge: boolean } | undefined {
    const entry = this.mm.pageTable.entryOf(mm, vpn);
    if (!pteIsPresent(entry)) return undefined;
    return { pfn: ptePfn(entry), writable: (entry & Pte.Write) !== 0, huge: pmdIsHuge(entry) };
  }

  /** How the VMM reads a word of its memory. */
  hostLoad(mm: Ptr<'mm'>, vpn: Vpn, word = 0): number {
    const pfn = this.grab(mm, vpn, false);
    const value = Atomics.load(this.sync.words, frameWord(pfn) + word);
    this.mm.pages.put(pfn);
    return value;
  }

  hostStore(mm: Ptr<'mm'>, vpn: Vpn, value: number, word = 0): void {
    const pfn = this.grab(mm, vpn, true);
    Atomics.store(this.sync.words, frameWord(pfn) + word, value);
    this.mm.pages.setDirty(pfn);
    this.mm.pages.put(pfn);
  }

  /** MADV_DONTNEED: the pages go, fresh ones are zero. */
  discard(guest: Guest, page: number, count = 1): void {
    const { mm, vpn } = guest;
    this.mm.madvise.advise(mm, (vpn + page) * PAGE_SIZE, count * PAGE_SIZE, 'dontneed');
  }

  /** MADV_PAGEOUT: reclaim takes the pages, whatever their age. */
  swapOut(guest: Guest, page: number, count = 1): void {
    const { mm, vpn } = guest;
    this.mm.madvise.advise(mm, (vpn + page) * PAGE_SIZE, count * PAGE_SIZE, 'pageout');
  }

  /** Reclaim takes a page on its own, holding no lock of the mm. Returns how many it freed. */
  reclaim(guest: Guest, page: number): number {
    const { lru, vmscan } = this.mm;
    const pfn = this.primary(guest.mm, guest.vpn + page)?.pfn;
    lru.drainAll();
    if (pfn === undefined || !lru.isolatePage(pfn)) return 0;
    return vmscan.reclaimPages(Int32Array.of(pfn), 1);
  }

  /** Reclaim's reference check of a page: was it used? Clears every young bit (M-34). */
  age(guest: Guest, page: number): boolean {
    const { pages, rmap } = this.mm;
    const pfn = this.primary(guest.mm, guest.vpn + page)?.pfn;
    if (pfn === undefined || !pages.tryGet(pfn)) return false;
    pages.lock(pfn);
    const used = rmap.pageReferenced(pfn) > 0;
    pages.unlock(pfn);
    pages.put(pfn);
    return used;
  }

  /** Gives back what this thread keeps for itself, so that the setup's snapshot holds everything. */
  settle(): void {
    this.mm.lru.drainAll();
    this.mm.lru.close();
  }

  /** A page of the VMM's, with a reference held. */
  grab(mm: Ptr<'mm'>, vpn: Vpn, write: boolean): Pfn {
    const found = this.mm.gup.fault(mm, vpn, write);
    assert(found >= 0, 'world: the VMM cannot reach its own page');
    return found & 0xffffff;
  }

  /** The oracles that need no case: containment, accounting, quiescence, poison (OR-1, OR-3, OR-4, OR-5). */
  check(...guests: readonly Guest[]): void {
    for (const guest of guests.flatMap(g => [g, ...(g.others ?? [])])) {
      checkVm(this.kvm, guest.vm, vpn => this.primary(guest.mm, vpn));
      this.#checkNoGhosts(guest);
    }
    const vms = guests.flatMap(g => [g, ...(g.others ?? [])]).map(g => g.vm);
    checkInvariants(this.mm);
    checkReferences(this.mm, this.kvm, vms);
    this.checkPoison();
  }

  /** A leaf that was zapped is wholly zero: nobody brought a bit of it back (mm-figures B.2). */
  #checkNoGhosts({ vm, pages }: Guest): void {
    for (let gfn = GFN; gfn < GFN + pages; gfn++) {
      const leaf = this.kvm.mmu.walk(vm, 0, gfn);
      const entry = leaf === 0 ? 0 : (this.sync.words[leaf] as number);
      assert(entry === 0 || (entry & (Spte.Present | Spte.Mmio)) !== 0, 'V2: a zapped leaf came back');
    }
  }

  /** OR-1, seen from the frames: nobody wrote to one after it was freed. */
  checkPoison(): void {
    const { arena } = this.sync;
    for (let pfn = arena.firstFrame; pfn < arena.firstFrame + arena.frames; pfn++) {
      if (!this.mm.pages.has(pfn, PageFlag.Free)) continue;
      const bytes = arena.bytes.subarray(frameByte(pfn), frameByte(pfn) + 64);
      assert(
        bytes.every(byte => byte === FRAME_POISON),
        'OR-1: a freed frame was written',
      );
    }
  }
}

function mmConfig(sync: Sync, breaks: Partial<MmBreaks>): MmConfig {
  return {
    pageOps: createPageOpsTwin(sync.arena.memory),
    swap: { kind: 'zram', bytes: 64 * PAGE_SIZE },
    breaks,
    poison: true,
  };
}
