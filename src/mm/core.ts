import type { Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import type { PageOps } from '../wasm/page-ops.ts';
import { Access } from './access.ts';
import { AnonVmas } from './anon-vma.ts';
import { type MmBreaks, NO_MM_BREAKS } from './breaks.ts';
import { describe } from './describe.ts';
import { Fork } from './fork.ts';
import { Gup } from './gup.ts';
import { Heap } from './heap.ts';
import { HugeAdvice } from './huge/huge-advice.ts';
import { HugeMemory } from './huge/huge-memory.ts';
import { HugeMove } from './huge/huge-move.ts';
import { HugePmd } from './huge/huge-pmd.ts';
import { Khugepaged } from './huge/khugepaged.ts';
import { TransparentHugepage } from './huge/transparent-hugepage.ts';
import { checkInvariants } from './invariants.ts';
import { Ksm } from './ksm/ksm.ts';
import { type MmLayout, mmLayout } from './layout.ts';
import { Madvise } from './madvise.ts';
import { Memory, type MemoryDeps } from './memory.ts';
import { Mlock } from './mlock.ts';
import { MlockPages } from './mlock-page.ts';
import { Mmap } from './mmap.ts';
import { type MmOptions, Mms } from './mms.ts';
import { MmuNotifiers } from './mmu-notifier.ts';
import { Mremap } from './mremap.ts';
import { Numa } from './numa.ts';
import { Pages } from './page.ts';
import { PageAlloc } from './page-alloc.ts';
import { PageCache } from './page-cache.ts';
import { PageTable } from './page-table.ts';
import type { Lru } from './reclaim/lru.ts';
import type { MemcgFiles } from './reclaim/memcg-files.ts';
import type { Memcontrol } from './reclaim/memcontrol.ts';
import { OomReaper } from './reclaim/oom-reaper.ts';
import type { Psi } from './reclaim/psi.ts';
import { createReclaim, initReclaim } from './reclaim/reclaim.ts';
import { UnmapBatch } from './reclaim/unmap-batch.ts';
import type { Vmscan } from './reclaim/vmscan.ts';
import { Rmap } from './rmap.ts';
import { Shmem } from './shmem.ts';
import { ShmemUnmap } from './shmem-unmap.ts';
import { Slabs } from './slab.ts';
import type { Swap } from './swap/swap.ts';
import type { SwapBackend } from './swap/swap-backend.ts';
import { openSwap, type SwapConfig } from './swap/swap-config.ts';
import type { SwapFilePort } from './swap/swap-file.ts';
import { SwapIn } from './swap/swap-in.ts';
import { Zram, type ZramStats } from './swap/zram.ts';
import { UffdContexts } from './userfaultfd/contexts.ts';
import { UffdEvents } from './userfaultfd/events.ts';
import { UffdHandle } from './userfaultfd/handle.ts';
import { Mfill } from './userfaultfd/mfill.ts';
import { Move } from './userfaultfd/move.ts';
import { UffdRead } from './userfaultfd/read.ts';
import { UffdRegister } from './userfaultfd/register.ts';
import { UffdRelease } from './userfaultfd/release.ts';
import { ShmemFill } from './userfaultfd/shmem-fill.ts';
import { UffdWaits } from './userfaultfd/waits.ts';
import { WriteProtect } from './userfaultfd/writeprotect.ts';
import { Vmas } from './vma.ts';
import { VmaEdit } from './vma-edit.ts';
import { Vmstat } from './vmstat.ts';
import { Zap } from './zap.ts';

type Mm = Ptr<'mm'>;

export type MmConfig = {
  readonly pageOps: PageOps;
  /** By default there is none, and anonymous memory is never taken away. */
  readonly swap?: SwapConfig;
  /** This thread's port to the swap file. */
  readonly swapFile?: SwapFilePort;
  /** Nanoseconds of a clock that all threads share, for memory pressure; without it none is measured. */
  readonly clock?: () => number;
  /** Processors that the tasks of this arena run on. */
  readonly processors?: number;
  /** Fills freed frames with FRAME_POISON, so that a use after free shows (J-9). */
  readonly poison?: boolean;
  /** What messages of userfaultfd call this thread (THREAD_ID). */
  readonly thread?: number;
  /** M-21: how often a user fault of one access may be delivered. By default as often as it must. */
  readonly retryRule?: '2014' | 'modern';
  /** U-14: allocate before the test of an armed hole, as 2014 did. For T-CHG. */
  readonly strictSeedOrder?: boolean;
  /** V-39: memory is filled through the context alone that has registered it. */
  readonly strictOwner?: boolean;
  /** Has this thread a fatal signal? Long calls ask after each page, and stop. */
  readonly killed?: () => boolean;
  /** N-4: false makes an mm without notifiers, to which no secondary MMU can subscribe. */
  readonly notifiers?: boolean;
  /** For tests. */
  readonly breaks?: Partial<MmBreaks>;
};

/**
 * One thread's mm over an arena: the tables' classes, pointer first, wired together. It holds no shared
 * state; several of them over one arena are several threads of one mm.
 */
export class MmCore {
  readonly sync: Sync;
  readonly pageOps: PageOps;
  readonly breaks: MmBreaks;
  readonly layout: MmLayout;
  readonly heap: Heap;
  readonly vmstat: Vmstat;
  readonly pageAlloc: PageAlloc;
  readonly pages: Pages;
  readonly slabs: Slabs;
  readonly vmas: Vmas;
  readonly anonVmas: AnonVmas;
  readonly uffds: UffdContexts;
  readonly pageTable: PageTable;
  readonly notifiers: MmuNotifiers;
  readonly lru: Lru;
  readonly swap: Swap;
  /** The device that this thread swaps to. */
  readonly swapDevice: SwapBackend | undefined;
  /** The Host's settings of transparent huge pages. */
  readonly thp: TransparentHugepage;
  readonly hugePmd: HugePmd;
  readonly hugeMove: HugeMove;
  readonly huge: HugeMemory;
  readonly khugepaged: Khugepaged;
  readonly rmap: Rmap;
  readonly memcontrol: Memcontrol;
  readonly memcgFiles: MemcgFiles;
  readonly psi: Psi;
  readonly vmscan: Vmscan<UnmapBatch>;
  readonly memory: Memory;
  readonly uffdHandle: UffdHandle;
  readonly uffdWaits: UffdWaits;
  readonly uffdEvents: UffdEvents;
  readonly uffdRead: UffdRead;
  readonly uffdRegister: UffdRegister;
  readonly uffdRelease: UffdRelease;
  readonly retryRule: '2014' | 'modern';
  readonly strictSeedOrder: boolean;
  readonly gup: Gup;
  readonly zap: Zap;
  readonly oomReaper: OomReaper;
  readonly pageCache: PageCache;
  readonly shmem: Shmem;
  readonly mlockPages: MlockPages;
  readonly mlock: Mlock;
  readonly mmap: Mmap;
  readonly mremap: Mremap;
  readonly mms: Mms;
  readonly move: Move;
  readonly mfill: Mfill;
  readonly writeProtect: WriteProtect;
  readonly ksm: Ksm;
  readonly numa: Numa;
  readonly madvise: Madvise;
  readonly access: Access;
  readonly #fork: Fork;
  readonly #stallReclaim: (memcg: Ptr<'memcg'>, pages: number) => number;

  /** Use `initMm` or `attachMm`. */
  constructor(sync: Sync, config: MmConfig) {
    this.sync = sync;
    this.pageOps = config.pageOps;
    this.breaks = { ...NO_MM_BREAKS, ...config.breaks };
    this.layout = mmLayout(sync.words);
    const { layout, pageOps, breaks } = this;
    this.heap = new Heap(sync);
    this.vmstat = new Vmstat(sync, this.heap);
    this.pageAlloc = new PageAlloc(sync, layout, { poison: config.poison ? pageOps : undefined });
    this.pages = new Pages(sync, layout, this.pageAlloc);
    this.slabs = new Slabs(sync, layout, this.pageAlloc);
    this.vmas = new Vmas(sync, layout, breaks);
    this.anonVmas = new AnonVmas(sync, layout, this.slabs, this.vmas);
    this.uffds = new UffdContexts({
      ...{ sync, layout, breaks, slabs: this.slabs, dropMm: mm => this.mms.drop(mm) },
    });
    this.pageTable = new PageTable(this);
    this.notifiers = new MmuNotifiers({
      ...{ sync, layout, breaks, slabs: this.slabs, dropMm: mm => this.mms.drop(mm) },
      ...{ ...Mms.shared(sync), enabled: config.notifiers ?? true },
    });
    const reclaim = createReclaim({
      ...{ sync, layout, breaks, heap: this.heap, pages: this.pages, vmstat: this.vmstat },
      ...{ clock: config.clock, processors: config.processors },
    });
    this.lru = reclaim.lru;
    this.swap = reclaim.swap;
    this.memcontrol = reclaim.memcontrol;
    this.memcgFiles = reclaim.files;
    this.psi = reclaim.psi;
    this.#stallReclaim = reclaim.stallReclaim;
    this.swapDevice = openSwap(
      { ...this.#swapDeps(), swapFile: config.swapFile },
      config.swap ?? { kind: 'none' },
    );
    this.thp = new TransparentHugepage(sync, this.vmstat);
    this.hugePmd = new HugePmd(this);
    this.hugeMove = new HugeMove(this);
    this.rmap = new Rmap(this);
    this.vmscan = reclaim.connect({
      ...{ rmap: this.rmap, breaks, batch: new UnmapBatch(this.notifiers, breaks) },
      passEnd: memcg => this.mms.tryForEach(memcg, mm => this.notifiers.ageingPassEnd(mm)),
      zoneIsLow: () => this.pageAlloc.isLow(),
    });
    this.pages.wire({
      lruRemove: pfn => this.lru.remove(pfn),
      putAnonVma: anonVma => this.anonVmas.put(anonVma),
      uncharge: (memcg, pages) => this.memcontrol.uncharge(memcg, pages),
    });
    this.retryRule = config.retryRule ?? 'modern';
    this.strictSeedOrder = config.strictSeedOrder ?? false;
    this.uffdHandle = new UffdHandle({
      ...{ sync, layout, pageTable: this.pageTable, uffds: this.uffds, breaks, y: sync.y },
      thread: config.thread ?? 0,
    });
    this.uffdWaits = new UffdWaits({ sync, layout, breaks, queues: this.uffds.queues });
    this.huge = new HugeMemory({
      ...{ sync, layout, breaks, pageOps, vmas: this.vmas, thp: this.thp, hugePmd: this.hugePmd },
      ...{ pages: this.pages, pageAlloc: this.pageAlloc, pageTable: this.pageTable, lru: this.lru },
      ...{ anonVmas: this.anonVmas, notifiers: this.notifiers, vmstat: this.vmstat },
      memcontrol: this.memcontrol,
      ...{ strictSeedOrder: this.strictSeedOrder, uffdHandle: this.uffdHandle },
      reclaim: pages => this.#stallReclaim(0 as Ptr<'memcg'>, pages),
    });
    this.uffdEvents = new UffdEvents({
      ...{ sync, layout, breaks, vmas: this.vmas, uffds: this.uffds, waits: this.uffdWaits },
    });
    const { uffdEvents } = this;
    this.uffdRead = new UffdRead({ sync, layout, breaks, uffds: this.uffds });
    this.zap = new Zap({ ...this, y: sync.y });
    this.oomReaper = new OomReaper(this);
    this.pageCache = new PageCache(this);
    this.shmem = new Shmem({
      ...{ sync, layout, breaks, pageOps, slabs: this.slabs, pages: this.pages, pageTable: this.pageTable },
      ...{ pageCache: this.pageCache, anonVmas: this.anonVmas, vmstat: this.vmstat },
      unmap: new ShmemUnmap(this),
      newPage: (mm, refs, flags) => this.memory.newPage(mm, refs, flags),
    });
    this.mlockPages = new MlockPages(this);
    const memoryDeps = this.#memoryDeps();
    this.memory = new Memory(memoryDeps);
    this.memory.wire(new SwapIn(memoryDeps, this.memory));
    this.gup = new Gup(this);
    const edit = new VmaEdit(this);
    this.uffdRegister = new UffdRegister({ sync, layout, breaks, vmas: this.vmas, edit, uffds: this.uffds });
    this.uffdRelease = new UffdRelease({
      ...{ sync, layout, breaks, vmas: this.vmas, pageTable: this.pageTable, uffds: this.uffds },
      register: this.uffdRegister,
    });
    this.uffds.wire(ctx => this.uffdRelease.release(ctx));
    this.mlock = new Mlock({ ...memoryDeps, sync, edit, gup: this.gup });
    const populate = (mm: Mm, start: Vpn, end: Vpn, how?: number): void =>
      this.mlock.populateQuietly(mm, start, end, how);
    this.mmap = new Mmap({ ...memoryDeps, sync, edit, uffdEvents, zap: this.zap, populate });
    this.mremap = new Mremap({ ...memoryDeps, sync, edit, uffdEvents, mmap: this.mmap, populate });
    this.mms = new Mms(this);
    this.move = new Move({
      ...{ ...memoryDeps, sync, hugeMove: this.hugeMove, uffds: this.uffds, killed: config.killed },
    });
    this.khugepaged = new Khugepaged(this);
    this.numa = new Numa(this);
    this.ksm = new Ksm({
      ...{ ...memoryDeps, sync, slabs: this.slabs, memory: this.memory },
      afterMm: mm => this.mms.after(mm),
    });
    const reclaimPages = (pfns: Int32Array, count: number): number => this.vmscan.reclaimPages(pfns, count);
    this.madvise = new Madvise({
      ...memoryDeps,
      sync,
      edit,
      uffdEvents,
      zap: this.zap,
      gup: this.gup,
      ksm: this.ksm,
      ...{ hugeAdvice: new HugeAdvice(this), reclaimPages },
    });
    this.access = new Access({ arena: sync.arena, gup: this.gup, pages: this.pages, breaks, y: sync.y });
    this.writeProtect = new WriteProtect({ ...memoryDeps, sync, uffds: this.uffds });
    this.uffdRegister.wire((mm, vma, from, to) => this.writeProtect.clear(mm, vma, from, to));
    this.mfill = new Mfill({
      ...{ ...memoryDeps, sync, memory: this.memory, gup: this.gup, access: this.access },
      shmemFill: new ShmemFill(this),
      ...{ uffds: this.uffds, killed: config.killed, strictOwner: config.strictOwner ?? false },
    });
    this.#fork = new Fork({
      ...memoryDeps,
      ...{ sync, edit, uffdEvents, pageOps, breaks, memory: this.memory, thp: this.thp },
      createLike: mm => this.mms.createLike(mm),
      exit: mm => this.mms.exit(mm),
    });
  }

  #swapDeps() {
    const { sync, heap, pages, pageOps, pageAlloc, swap } = this;
    return { sync, heap, pages, pageOps, pageAlloc, swap };
  }

  #memoryDeps(): MemoryDeps & { hugePmd: HugePmd } {
    const { layout, pageOps, pages, pageAlloc, pageTable, vmas, anonVmas, rmap, notifiers } = this;
    const {
      memcontrol,
      psi,
      lru,
      swap,
      shmem,
      mlockPages,
      vmstat,
      uffdHandle,
      strictSeedOrder,
      breaks,
      huge,
      hugePmd,
    } = this;
    return {
      ...{ layout, pageOps, pages, pageAlloc, pageTable, vmas, anonVmas, rmap, notifiers },
      ...{
        memcontrol,
        psi,
        lru,
        swap,
        shmem,
        mlockPages,
        vmstat,
        uffdHandle,
        strictSeedOrder,
        breaks,
        y: this.sync.y,
      },
      ...{ huge, hugePmd },
      reclaim: pages => this.#stallReclaim(0 as Ptr<'memcg'>, pages),
    };
  }

  /** An empty address space. Throws ENOMEM, and EINVAL for a limit that can't work. */
  createMm(options: MmOptions = {}): Mm {
    return this.mms.create(options);
  }

  /** A copy that shares every page until one side writes. Throws ENOMEM. */
  fork(mm: Mm): Mm {
    return this.#fork.fork(mm);
  }

  /** A user of the address space goes; with the last, everything it maps is freed. */
  exit(mm: Mm): void {
    this.mms.exit(mm);
  }

  /** Figures of the compressed pool, counted apart from what is charged; none without zram. */
  zramStats(): ZramStats | undefined {
    return this.swapDevice instanceof Zram ? this.swapDevice.stats() : undefined;
  }

  /** Proves every invariant from scratch; the mm must be at rest. For tests. */
  checkInvariants(): void {
    checkInvariants(this);
  }

  /** What an address space maps, as text: for tests and people. */
  describe(mm: Mm): string {
    return describe(this, mm);
  }

  /** This thread leaves the mm: what it has collected goes back. The instance is dead. */
  close(): void {
    this.lru.close();
  }
}

/** Makes the mm of a new arena, on the first thread. Throws ENOMEM when the arena is too small. */
export function initMm(sync: Sync, config: MmConfig): MmCore {
  const layout = mmLayout(sync.words);
  Heap.init(sync);
  const heap = new Heap(sync);
  PageAlloc.init(sync, heap);
  Pages.init(sync, layout, new PageAlloc(sync, layout), config.pageOps);
  Slabs.init(sync, heap);
  TransparentHugepage.init(sync, heap);
  Mms.init(sync, heap);
  Ksm.init(sync, heap);
  Shmem.init(sync, heap);
  initReclaim({ sync, layout, heap });
  return new MmCore(sync, config);
}

/** Another thread's mm over an arena that `initMm` has made; `config` says what that thread brings. */
export function attachMm(sync: Sync, config: MmConfig): MmCore {
  return new MmCore(sync, config);
}
