import { Errno } from '../base/errno.ts';
import { MIB, PAGE_SIZE, pagesOf } from '../base/units.ts';
import type { Events, Translated } from '../cpu/counters.ts';
import { Cpu } from '../cpu/cpu.ts';
import { Access, Miss, type VcpuPtr } from '../cpu/interface.ts';
import { compileInterpreter } from '../cpu/interpreter.ts';
import type { Lockstep } from '../cpu/region/lockstep.ts';
import { POST_WORDS, Post, type PostPtr } from '../cpu/region/post.ts';
import { AT, type CodePtr } from '../cpu/vcpu.ts';
import { monotonicMs, sharedClockNs } from '../host/world.ts';
import type { BlockedSometimes } from '../kvm/guest-memory.ts';
import { Kvm } from '../kvm/kvm.ts';
import { Vms } from '../kvm/vm.ts';
import { GUP_HWPOISON, GUP_NOMEM, GUP_SIGBUS } from '../mm/fault-codes.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../mm/index.ts';
import { UNLIMITED } from '../mm/reclaim/memcontrol.ts';
import type { SwapFilePort } from '../mm/swap/swap-file.ts';
import { Zram } from '../mm/swap/zram.ts';
import { Arena } from '../sync/arena.ts';
import { ringWords } from '../sync/ring.ts';
import type { Ptr } from '../sync/struct.ts';
import { Sync } from '../sync/sync.ts';
import { createPageOps } from '../wasm/page-ops.ts';
import type { MachineBreaks } from './breaks.ts';
import type { MachineClock } from './clock.ts';
import { RAM_BASE } from './memory-map.ts';

export type SwapSpec =
  | { kind: 'none' }
  | { kind: 'zram'; bytes: number }
  | { kind: 'file'; path: string; fd: number; bytes: number };

/** Everything a Host is made from; plain data. */
export type HostConfig = {
  /** Frames that guests and tables may use, zram's pool included. */
  frames: number;
  shared: boolean;
  swap: SwapSpec;
  /** Heap beside the frames; `HEAP_BYTES` unless several guests share the Host. Untouched parts are free. */
  heapBytes?: number;
  /** Test: rules to switch off, by name. */
  breaks: readonly string[];
};

/** What a thread brings to the Host that cannot be sent to it. */
export type HostPorts = {
  /** The swap file that the Host's first thread opened as `fd`. Where there are no files, none. */
  swapFile?(fd: number): SwapFilePort;
  /** Compiles regions for a guest that boots, which want to start soon more than to be fast. */
  compile?(wasm: Uint8Array<ArrayBuffer>): WebAssembly.Module;
  /** Told of what this thread translates, for a process with the same code: Cpu.translator.know. */
  keepTranslation?(bytes: Uint8Array): void;
  /** Test: compares what regions do with the interpreter. One vCPU, on this thread, and memory enough for it. */
  lockstep?: Lockstep;
};

/** What another thread needs to attach. */
export type HostShare = {
  memory: WebAssembly.Memory;
  swap: SwapSpec;
  breaks: readonly string[];
  interpreter: WebAssembly.Module;
  housekeepWord: number;
  /** Where work for the translator's thread is left. */
  post: PostPtr;
};

/** A guest's pieces in the arena. */
export type Guest = { vm: Ptr<'vm'>; mm: Ptr<'mm'>; vcpus: readonly VcpuPtr[]; hva: number; bytes: number };

/** A guest's CPU in numbers that only rise, by the names that `--stats` has. */
export type CpuStat = { instret: number } & Translated & Events;

export type GuestOptions = {
  memoryBytes: number;
  /** Pages of it that may be in frames at once; unlimited when absent. */
  limitBytes?: number | undefined;
  /** Guests of one owner may share pages by content (KSM); `OWNER` unless told. */
  owner?: number | undefined;
  /** Its RAM may be merged with equal pages: of its owner's guests, or its own alone. */
  ksm?: 'self' | 'same-owner' | undefined;
  /** Harts, up to MAX_VCPUS; 1 unless told. */
  cpus?: number | undefined;
};

/** Whose guests these are, where nobody says otherwise: one owner per Host. */
const OWNER = 1;

const REST_MAX = 1023;
const BUSY_MS = 1;
const QUIET_MS = 50;
/** khugepaged looks at so many pages every so many milliseconds. */
const KHUGEPAGED_PAGES = 512;
const KHUGEPAGED_MS = 800;

/** Heap beside the frames: decode caches, vCPU records, reverse maps, swap tables. Untouched parts are free. */
export const HEAP_BYTES = 192 * MIB;

/**
 * One arena of frames with its mm, the hypervisor over it and the processor, as one thread sees them (design
 * 2). The first thread creates, the others attach; all state is in the arena.
 */
export class Host {
  readonly sync: Sync;
  readonly words: Int32Array;
  readonly mm: MmCore;
  readonly kvm: Kvm;
  readonly cpu: Cpu;
  readonly vms: Vms;
  readonly housekeepWord: number;
  readonly post: Post;
  /** Of the last page on this thread that could not be had: its guest physical address (U-24). */
  missedGpa = 0;
  missedWrite = false;
  readonly #share: HostShare;
  readonly #blocks = new Map<number, BlockedSometimes>();
  /** Test: rules of the machine that are off. */
  readonly breaks: Partial<MachineBreaks>;
  /** Of the guests whose vCPUs this thread runs. */
  readonly #clocks = new Map<number, MachineClock>();
  /** Steps of background reclaim to leave out, as the last ones found nothing to take. */
  #rest = 0;
  #fruitless = 0;
  /** When this thread next merges, and next makes huge pages. */
  #mergeAt = 0;
  #collapseAt = 0;

  private constructor(share: HostShare, mm: MmCore, sync: Sync, ports: HostPorts) {
    const { lockstep, keepTranslation, compile } = ports;
    this.sync = sync;
    this.words = sync.words;
    this.mm = mm;
    this.#share = share;
    this.breaks = chosen(share.breaks);
    this.housekeepWord = share.housekeepWord;
    this.post = new Post(sync.words, sync.waiter, share.post);
    this.cpu = new Cpu(
      sync.arena,
      {
        resolve: (vcpu, gfn, access) => this.#resolve(vcpu, gfn, access),
        time: vcpu => this.#clocks.get(this.words[vcpu + AT.vm] as number)?.ticks() ?? 0,
      },
      {
        alloc: words => mm.heap.alloc(words),
        free: at => mm.heap.free(at),
        module: share.interpreter,
        breaks: chosen(share.breaks),
        // One thread alone translates for itself.
        ...(sync.arena.shared && { post: this.post }),
        flushOthers: (vcpu, pfn) => {
          const vm = this.words[vcpu + AT.vm] as Ptr<'vm'>;
          if (this.kvm.layout.vm.vcpuCount.load(vm) > 1) this.kvm.requests.tellOfCode(vm, vcpu, pfn);
        },
        ...(lockstep && { lockstep, batch: 1 }),
        ...(keepTranslation && { keepTranslation }),
        ...(compile && { compile }),
      },
    );
    this.kvm = new Kvm(
      sync,
      mm,
      { dropCode: (code, pfn) => this.cpu.dropCode(code as CodePtr, pfn) },
      chosen(share.breaks),
    );
    this.vms = new Vms(this.kvm, mm.notifiers);
  }

  /** Makes the arena and everything in it. Throws ENOMEM. */
  static create(config: HostConfig, ports: HostPorts = {}): Host {
    const arena = Arena.create({
      frames: config.frames,
      heapBytes: config.heapBytes ?? HEAP_BYTES,
      shared: config.shared,
    });
    const sync = new Sync(arena);
    const mm = initMm(sync, mmConfig(arena, config.swap, config.breaks, ports));
    const share: HostShare = {
      memory: arena.memory,
      swap: config.swap,
      breaks: config.breaks,
      interpreter: ports.lockstep?.compile() ?? compileInterpreter(config.shared),
      housekeepWord: mm.heap.alloc(16),
      post: mm.heap.alloc(POST_WORDS) as PostPtr,
    };
    return new Host(share, mm, sync, ports);
  }

  static attach(share: HostShare, ports: HostPorts = {}): Host {
    const arena = Arena.attach(share.memory);
    const sync = new Sync(arena);
    return new Host(share, attachMm(sync, mmConfig(arena, share.swap, share.breaks, ports)), sync, ports);
  }

  share(): HostShare {
    return this.#share;
  }

  setClock(vm: Ptr<'vm'>, clock: MachineClock): void {
    this.#clocks.set(vm, clock);
  }

  blockFor(vm: Ptr<'vm'>, blocks: BlockedSometimes | undefined): void {
    if (blocks !== undefined) this.#blocks.set(vm, blocks);
  }

  #resolve(vcpu: VcpuPtr, gfn: number, access: Access): number {
    const vm = this.words[vcpu + AT.vm] as Ptr<'vm'>;
    if (this.#blocks.get(vm)?.()) return Miss.Blocked;
    const found = this.kvm.fault.resolve(vm, 0, gfn, access);
    if (found < 0) this.#missed(vcpu, gfn, access, found);
    return found;
  }

  /** What the run loop must know of a page that is not there. */
  #missed(vcpu: VcpuPtr, gfn: number, access: Access, miss: number): void {
    if (miss === Miss.Blocked) this.cpu.vcpu.ticket.set(vcpu, this.kvm.fault.ticket);
    this.missedGpa = gfn * PAGE_SIZE;
    this.missedWrite = access === Access.Write;
  }

  /**
   * An mm, in a group of its own, whose anonymous memory is the guest's RAM, memslot 0 over it, and its vCPUs.
   * Throws ENOMEM, with nothing left behind.
   */
  createGuest(options: GuestOptions): Guest {
    const { memoryBytes, limitBytes, owner = OWNER, cpus = 1 } = options;
    const limitPages = limitBytes === undefined ? UNLIMITED : pagesOf(limitBytes);
    const mm = this.mm.createMm({ limitPages, owner });
    const undo: (() => void)[] = [() => this.mm.exit(mm)];
    try {
      const hva = this.mm.mmap.map(mm, memoryBytes);
      if (options.ksm !== undefined) this.#mergeable(mm, hva, options);
      const code = this.cpu.createCode();
      const vcpus: VcpuPtr[] = [];
      undo.push(() => this.#destroyVcpus(vcpus, code));
      const vm = this.vms.create({ mm, code });
      undo.push(() => this.vms.destroy(vm));
      const slot = { slot: 0, guestAddress: RAM_BASE, lengthBytes: memoryBytes, hostAddress: hva };
      this.kvm.memslots.set(vm, slot);
      for (let hart = 0; hart < cpus; hart++) vcpus.push(this.#createVcpu(vm, code, hart));
      return { vm, mm, vcpus, hva, bytes: memoryBytes };
    } catch (error) {
      for (const step of undo.reverse()) step();
      throw error;
    }
  }

  #createVcpu(vm: Ptr<'vm'>, code: CodePtr, hart: number): VcpuPtr {
    const vcpu = this.cpu.createVcpu(code);
    this.words[vcpu + AT.vm] = vm;
    this.words[vcpu + AT.index] = hart;
    this.vms.addVcpu(vm, vcpu);
    return vcpu;
  }

  #destroyVcpus(vcpus: readonly VcpuPtr[], code: CodePtr): void {
    for (const vcpu of vcpus) this.cpu.destroyVcpu(vcpu);
    this.cpu.destroyCode(code);
  }

  /** A guest's vCPUs, by hart. */
  vcpus(vm: Ptr<'vm'>): VcpuPtr[] {
    const count = this.kvm.layout.vm.vcpuCount.load(vm);
    return Array.from({ length: count }, (_, hart) => this.kvm.requests.vcpu(vm, hart));
  }

  /** Nobody else has an mm's own number for an owner. */
  #mergeable(mm: Ptr<'mm'>, hva: number, { memoryBytes, ksm }: GuestOptions): void {
    if (ksm === 'self') this.mm.layout.mm.owner.set(mm, mm);
    this.mm.madvise.advise(mm, hva, memoryBytes, 'mergeable');
    this.mm.ksm.set('run', 1);
  }

  /** Stops the guest's vCPUs, waits until they are out, and gives back all that the guest had. From any thread. */
  destroyGuest(guest: Guest): void {
    const code = this.words[guest.vcpus[0]! + AT.code] as CodePtr;
    this.vms.destroy(guest.vm);
    this.mm.exit(guest.mm);
    this.#destroyVcpus(guest.vcpus, code);
    this.#blocks.delete(guest.vm);
    this.#clocks.delete(guest.vm);
  }

  /** A place for a byte ring of `bytes`. */
  allocRing(bytes: number): number {
    return this.mm.heap.alloc(ringWords(bytes));
  }

  /** The translator's thread, until the word at `control` is not zero and somebody rings. `atRest`: before it sleeps. */
  translate(control: number, atRest?: () => void): void {
    this.post.serve(true);
    try {
      for (;;) {
        const seen = this.post.jobs();
        if (Atomics.load(this.words, control) !== 0) return;
        this.post.work(code => this.cpu.translator.serve(code));
        atRest?.();
        this.post.sleep(seen);
      }
    } finally {
      this.post.serve(false);
    }
  }

  /** A bounded step of what goes on behind the guests; how many milliseconds may pass until the next. */
  housekeep(): number {
    const reclaimed = this.#reclaim();
    const now = monotonicMs();
    return Math.min(reclaimed ? BUSY_MS : QUIET_MS, this.#merge(now), this.#collapse(now));
  }

  /** kswapd: true if it did something and there may be more. */
  #reclaim(): boolean {
    if (this.#rest > 0) this.#rest--;
    else if (this.mm.vmscan.needsBackground()) return this.#reclaimStep();
    return false;
  }

  /** ksmd: its pages_to_scan every sleep_millisecs. */
  #merge(now: number): number {
    const { ksm } = this.mm;
    if (now < this.#mergeAt) return this.#mergeAt - now;
    const { run, sleep_millisecs: pause } = ksm.settings();
    if (run !== 1) return QUIET_MS;
    ksm.background();
    this.#mergeAt = now + pause;
    return pause;
  }

  /** khugepaged, where memory wants to be huge. */
  #collapse(now: number): number {
    if (now >= this.#collapseAt) {
      this.mm.khugepaged.step(KHUGEPAGED_PAGES);
      this.#collapseAt = now + KHUGEPAGED_MS;
    }
    return QUIET_MS;
  }

  /** Without swap there may be nothing to take, and to look for it over and over would starve the guest. */
  #reclaimStep(): boolean {
    const { vmscan } = this.mm;
    const more = vmscan.background();
    this.#fruitless = more || !vmscan.needsBackground() ? 0 : Math.min(2 * this.#fruitless + 1, REST_MAX);
    this.#rest = this.#fruitless;
    return more;
  }

  /** Why the last memory fault on this thread could not be served, for people. */
  lastFailure(): string {
    switch (this.kvm.fault.lastGup) {
      case GUP_NOMEM:
        return this.#share.swap.kind === 'none'
          ? 'the guest needs more memory than its limit, and there is no swap'
          : 'the guest needs more memory than its limit, and swap has no room left';
      case GUP_HWPOISON:
        return 'a page of the guest is lost: swap could not read it back, or whoever had to supply it has failed';
      case GUP_SIGBUS:
        return `nobody supplies the guest's page at 0x${this.missedGpa.toString(16)}`;
      default:
        return 'the memory behind the guest cannot be reached';
    }
  }

  #instret(vm: Ptr<'vm'>): number {
    let sum = 0;
    for (const vcpu of this.vcpus(vm)) {
      const at = vcpu + AT.instret;
      sum += (this.words[at]! >>> 0) + this.words[at + 1]! * 2 ** 32;
    }
    return sum;
  }

  /** What a guest's vCPUs have done since it was made, and what was translated for them. Requires: it has one. */
  cpuStat(vm: Ptr<'vm'>): CpuStat {
    const vcpus = this.vcpus(vm);
    const code = this.words[vcpus[0]! + AT.code] as CodePtr;
    const sums: Record<string, number> = { instret: this.#instret(vm), ...this.cpu.translated(code) };
    for (const vcpu of vcpus) addTo(sums, this.cpu.events(vcpu));
    return sums as CpuStat;
  }

  /** KVM's statistics by its names, summed over the VMs, and zram's when there is one. */
  counters(): Record<string, unknown> {
    const { vm: v } = this.kvm.layout;
    const cpus: Record<string, number> = { instret: 0 };
    const sums = {
      pf_taken: 0,
      pf_fixed: 0,
      pf_retried: 0,
      mmu_shadow_zapped: 0,
      remote_tlb_flush: 0,
      pages_4k: 0,
      pages_2m: 0,
    };
    this.vms.forEach(vm => {
      sums.pf_taken += v.pfFixed.load(vm) + v.pfRetried.load(vm);
      sums.pf_fixed += v.pfFixed.load(vm);
      sums.pf_retried += v.pfRetried.load(vm);
      sums.mmu_shadow_zapped += v.mmuShadowZapped.load(vm);
      sums.remote_tlb_flush += v.remoteTlbFlush.load(vm);
      sums.pages_2m += v.pages2m.get(vm);
      sums.pages_4k += v.pfFixed.load(vm) - v.mmuShadowZapped.load(vm) - v.pages2m.get(vm);
      if (v.vcpuCount.load(vm) > 0) addTo(cpus, this.cpuStat(vm));
    });
    const { swapDevice } = this.mm;
    return {
      ...sums,
      ...cpus,
      ksm: this.mm.ksm.stats(),
      ...(swapDevice instanceof Zram ? { zram_mm_stat: swapDevice.stats() } : {}),
    };
  }
}

function addTo(sums: Record<string, number>, more: Record<string, number>): void {
  for (const [name, value] of Object.entries(more)) sums[name] = (sums[name] ?? 0) + value;
}

function mmConfig(arena: Arena, swap: SwapSpec, breaks: readonly string[], ports: HostPorts): MmConfig {
  const pageOps = createPageOps(arena.memory, arena.shared);
  const port = swap.kind === 'file' ? ports.swapFile?.(swap.fd) : undefined;
  const swapFile = port === undefined ? {} : { swapFile: port };
  return { pageOps, swap, ...swapFile, clock: sharedClockNs, breaks: chosen(breaks) };
}

/** The rules that a test switches off, as the record that a core takes; names it doesn't know do nothing. */
const chosen = (breaks: readonly string[]): Record<string, boolean> =>
  Object.fromEntries(breaks.map(name => [name, true]));

/** Frames for a guest of `memoryBytes` under a limit, with tables, the zram pool and some slack. */
export function framesFor(memoryBytes: number, limitBytes: number | undefined, swap: SwapSpec): number {
  const guest = pagesOf(Math.min(limitBytes ?? memoryBytes, memoryBytes));
  const pool = swap.kind === 'zram' ? pagesOf(Math.min(swap.bytes, memoryBytes)) : 0;
  const frames = guest + pool + Math.ceil(pagesOf(memoryBytes) / 128) + 4096;
  if (frames * PAGE_SIZE + HEAP_BYTES > 4e9)
    throw new Errno('ENOMEM', 'Host.create', 'more than 4 GiB of frames');
  return frames;
}
