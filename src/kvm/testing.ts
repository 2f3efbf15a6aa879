import { Errno } from '../base/errno.ts';
import { PAGE_SIZE, type Vpn } from '../base/units.ts';
import { Access } from '../cpu/interface.ts';
import { VCPU_WORDS } from '../cpu/vcpu.ts';
import { initMm, type MmCore } from '../mm/index.ts';
import { Pte, pmdIsHuge, pteIsPresent, ptePfn } from '../mm/layout.ts';
import type { Advice } from '../mm/madvise.ts';
import { Arena } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { Sync } from '../sync/sync.ts';
import { productionWaiter } from '../sync/waiter.ts';
import { createPageOps } from '../wasm/page-ops.ts';
import type { KvmBreaks } from './breaks.ts';
import { checkVm, Kvm, Protocol, Vms } from './index.ts';
import { Spte } from './layout.ts';
import type { MemoryRegion } from './memslots.ts';
import type { MmPorts } from './ports.ts';

type Vm = Ptr<'vm'>;
type Mm = Ptr<'mm'>;

/** The first guest frame of slot 0. */
export const GFN = 16;
/** Pages that the rig's address space maps. */
export const PAGES = 64;

/** One VM over the real mm on one thread: private memory, zram, lock order checked, freed frames poisoned. */
export class KvmRig {
  readonly sync: Sync;
  readonly core: MmCore;
  readonly kvm: Kvm;
  readonly vms: Vms;
  /** Frames whose decoded instructions were dropped, in order. */
  readonly dropped: number[] = [];
  /** Called at each yield point, in the middle of what happens there. */
  at: (label: string) => void = () => {};
  /** After so many allocations from the heap there is no more. */
  allocations = Number.POSITIVE_INFINITY;
  /** Is there no address space left for memory of the VM's own? */
  mapFails = false;
  readonly mm: Mm;
  readonly vpn: Vpn;
  readonly vm: Vm;

  constructor(
    options: {
      protocol?: 0 | 1 | 2;
      code?: number;
      pages?: number;
      frames?: number;
      mapped?: number;
      breaks?: Partial<KvmBreaks>;
    } = {},
  ) {
    const arena = Arena.create({ frames: options.frames ?? 512, heapBytes: 1 << 20, shared: false });
    const waiter = { ...productionWaiter(arena), point: (label: string) => this.at(label) };
    this.sync = new Sync(arena, { lockdep: true, waiter });
    const pageOps = createPageOps(arena.memory, false);
    this.core = initMm(this.sync, { pageOps, poison: true, swap: { kind: 'zram', bytes: 256 * PAGE_SIZE } });
    this.kvm = new Kvm(
      this.sync,
      this.#ports(),
      { dropCode: (_code, pfn) => void this.dropped.push(pfn) },
      options.breaks,
    );
    this.vms = new Vms(this.kvm, this.core.notifiers);
    this.mm = this.core.createMm();
    this.vpn = this.core.mmap.map(this.mm, (options.mapped ?? PAGES) * PAGE_SIZE) / PAGE_SIZE;
    this.vm = this.vms.create({
      mm: this.mm,
      protocol: options.protocol ?? Protocol.Modern,
      code: options.code ?? 0,
    });
    if (options.pages !== 0) this.set({ pages: options.pages ?? 16 });
  }

  /** The mm's, but its heap and its address space may be told to run out. */
  #ports(): MmPorts {
    const { gup, uffdWaits, madvise, mmap, pages, pageAlloc, pageTable, heap } = this.core;
    const alloc = (words: number): number => {
      if (this.allocations-- <= 0) throw new Errno('ENOMEM', 'alloc');
      return heap.alloc(words);
    };
    return {
      gup,
      uffdWaits,
      madvise,
      mmap: {
        map: (mm, bytes) => {
          if (this.mapFails) throw new Errno('ENOMEM', 'mmap');
          return mmap.map(mm, bytes);
        },
        unmap: (mm, address, bytes) => mmap.unmap(mm, address, bytes),
      },
      pages,
      pageAlloc,
      pageTable,
      heap: { alloc, free: at => heap.free(at) },
    };
  }

  /** Sets a memslot in pages: `page` of the mapping at `gfn`. */
  set(r: { slot?: number; gfn?: number; page?: number; pages?: number; flags?: number; space?: number }) {
    this.kvm.memslots.set(this.vm, {
      slot: r.slot ?? 0,
      space: r.space ?? 0,
      flags: r.flags ?? 0,
      guestAddress: (r.gfn ?? GFN) * PAGE_SIZE,
      lengthBytes: (r.pages ?? 16) * PAGE_SIZE,
      hostAddress: (this.vpn + (r.page ?? 0)) * PAGE_SIZE,
    } satisfies MemoryRegion);
  }

  addVcpu(vm: Vm = this.vm): Ptr<'vcpu'> {
    const vcpu = this.core.heap.alloc(VCPU_WORDS) as Ptr<'vcpu'>;
    this.vms.addVcpu(vm, vcpu);
    return vcpu;
  }

  read = (gfn: number, space = 0): number => this.kvm.fault.resolve(this.vm, space, gfn, Access.Read);
  write = (gfn: number, space = 0): number => this.kvm.fault.resolve(this.vm, space, gfn, Access.Write);

  /** The leaf of a guest frame: 0 when there is none. */
  leaf(gfn: number, space = 0): number {
    const at = this.kvm.mmu.walk(this.vm, space, gfn);
    return at === 0 ? 0 : (this.sync.words[at] as number);
  }

  /** Guest frames of slot 0's first place that have a leaf. */
  present(from = GFN, pages = 16): number[] {
    return Array.from({ length: pages }, (_, i) => from + i).filter(g => (this.leaf(g) & Spte.Present) !== 0);
  }

  /** The memslots as plain values, in order, with what publication counts. */
  slots() {
    const { slot, slots, vm: v } = this.kvm.layout;
    const set = this.kvm.memslots.active(this.vm);
    const list = Array.from({ length: slots.count.get(set) }, (_, i) => {
      const s = this.kvm.memslots.at(set, i);
      const page = slot.vpn.get(s) - this.vpn;
      const [id, space, flags] = [slot.id.get(s), slot.space.get(s), slot.flags.get(s)];
      return { id, space, flags, gfn: slot.gfn.get(s), npages: slot.npages.get(s), page };
    });
    return {
      list,
      generation: v.generation.load(this.vm),
      leaves: v.pfFixed.load(this.vm) - v.mmuShadowZapped.load(this.vm),
    };
  }

  /** Frames and heap words that are in use. */
  usage(): { frames: number; heap: number } {
    this.core.lru.drainAll();
    return { frames: -this.core.pageAlloc.freeFrames, heap: this.core.heap.used };
  }

  /** V1, V2, V5 and the mm's invariants. */
  check(): void {
    checkVm(this.kvm, this.vm, vpn => {
      const entry = this.core.pageTable.entryOf(this.mm, vpn);
      if (!pteIsPresent(entry)) return undefined;
      return { pfn: ptePfn(entry), writable: (entry & Pte.Write) !== 0, huge: pmdIsHuge(entry) };
    });
    this.core.checkInvariants();
  }

  advise(advice: Advice, page: number, pages = 1): void {
    this.core.madvise.advise(this.mm, (this.vpn + page) * PAGE_SIZE, pages * PAGE_SIZE, advice);
  }
}
