import { assert } from '../base/assert.ts';
import type { Pfn } from '../base/units.ts';
import type { Arena } from '../sync/arena.ts';
import { SlowAccess } from './access.ts';
import type { CpuBreaks } from './breaks.ts';
import { CodeCache } from './code-cache.ts';
import { type Events, readEvents, readTranslated, type Translated } from './counters.ts';
import { Csrs, instret } from './csr.ts';
import { KNOWN, KNOWN_BYTES } from './decoded.ts';
import { Decoder } from './decoder.ts';
import { FlushRequests } from './flush-requests.ts';
import { HostTlb, hostBytes } from './host-tlb.ts';
import { Extend } from './instruction.ts';
import { type CpuPorts, Exit, Mode, type VcpuPtr } from './interface.ts';
import { type Callbacks, compileInterpreter } from './interpreter.ts';
import type { Fills } from './interpreter-fills.ts';
import { Mmu } from './mmu.ts';
import { OwedFences } from './owed-fences.ts';
import { beginSlice, endSlice } from './portions.ts';
import { type RegionLimits, VISITS_BYTES } from './region/layout.ts';
import { type Compile, Linker } from './region/linker.ts';
import type { Lockstep } from './region/lockstep.ts';
import type { Post } from './region/post.ts';
import { BATCH, Translator } from './region/translator.ts';
import { SlowInstructions } from './slow.ts';
import { type Fill, Tlb, type TlbOps } from './tlb.ts';
import { HEAT_BYTES, HOST_AT } from './tlb-layout.ts';
import { Traps } from './trap.ts';
import { AT, type CodePtr, Privilege, VCPU_WORDS, type Vcpu, vcpuStruct } from './vcpu.ts';

export type CpuOptions = {
  /** Zeroed words that live as long as the VM; a word index, on a cache line of 16 words. */
  alloc(words: number): number;
  /** Takes back what `alloc` gave. Needed by whoever calls `destroyVcpu` or `destroyCode`. */
  free?(at: number): void;
  /** From `compileInterpreter`; compiled here when absent. Workers are handed the same one. */
  module?: WebAssembly.Module;
  /**
   * Returns when no other vCPU of the VM can store to the frame by a Write entry that it had before the call
   * (`askWrites` asks for it), or, for frame 0, execute from a page that was dropped (Request.FenceI). The vCPU is
   * outside meanwhile. Absent when VMs have one vCPU.
   */
  flushOthers?(vcpu: VcpuPtr, pfn: Pfn | 0): void;
  /** Test: rules to switch off. */
  breaks?: Partial<CpuBreaks>;
  /** Hot places that are translated at once; 0 keeps all to the interpreter. */
  batch?: number;
  /** Leads to the thread that translates for this one, if there is one. */
  post?: Post;
  /** Compiles regions for a VM that boots, which want to start soon more than to be fast. */
  compile?: Compile;
  /** Told of what this thread translates: Translator.know takes it. */
  keepTranslation?(bytes: Uint8Array): void;
  /** Test: less room for regions than there is. */
  limits?: RegionLimits;
  /** Test: compares each run of a region with the interpreter; `module` was compiled `watched`. */
  lockstep?: Lockstep;
};

export type ResetState = {
  hartId: number;
  /** Byte address, below 2^53. */
  pc: number;
  /** The device tree's physical address. */
  a1: number;
};

type Exports = TlbOps &
  Fills & {
    run: (cpu: number) => void;
    unlinked: () => number;
    copy64: (to: number, from: number) => void;
    /** Where the module is watched. */
    interpret(cpu: number): void;
  };

/** Decoded pages of 20 KiB each that a VM may have at once. */
const CODE_SLOTS = 1792;
const MAX_BUDGET = 2 ** 30;
const CACHE_LINE_WORDS = 16;

/**
 * The processor: one per thread and arena, over any number of vCPU records. Every method that takes a
 * record, but `dropCode` and what only reads, belongs to the runner that holds it.
 */
export class Cpu {
  readonly vcpu: Vcpu;
  /** What translated code imports. */
  readonly fills: Fills;
  readonly #words: Int32Array;
  readonly #alloc: (words: number) => number;
  readonly #free: ((at: number) => void) | undefined;
  readonly #cache: CodeCache;
  readonly #tlb: Tlb;
  readonly #traps: Traps;
  readonly #flushes: FlushRequests;
  readonly #owed: OwedFences;
  readonly #mmu: Mmu;
  readonly #access: SlowAccess;
  /** Of the arena, and those before them. */
  readonly #frames: number;
  readonly #linker: Linker;
  readonly translator: Translator;
  readonly #translates: boolean;
  readonly #post: Post | undefined;
  /** Code caches that were made, where no other thread makes any. */
  #codes = 0;
  /** Counts slices, so that regions are looked over now and then. */
  #runs = 0;
  readonly #lockstep: Lockstep | undefined;
  readonly #enter: (cpu: number) => void;

  constructor(arena: Arena, ports: CpuPorts, options: CpuOptions) {
    const words = arena.words;
    this.vcpu = vcpuStruct(words);
    this.#words = words;
    this.#alloc = options.alloc;
    this.#free = options.free;
    this.#lockstep = options.lockstep;
    const willWrite = this.#watch();
    const fill: Fill = (at, value, bytes) => exports.fill(at, value, bytes);
    const host = new HostTlb(words);
    this.#frames = arena.firstFrame + arena.frames;
    this.#tlb = new Tlb(
      words,
      {
        fill,
        dropMatching: (first, end, mask, sum) => exports.dropMatching(first, end, mask, sum),
        dropFrames: (first, end, filter) => exports.dropFrames(first, end, filter),
        dropRegion: (first, end, lo, hi, shift) => exports.dropRegion(first, end, lo, hi, shift),
        dropPage: (set, lo, hi) => exports.dropPage(set, lo, hi),
      },
      host,
      this.#frames,
    );
    this.#traps = new Traps(words, this.#tlb);
    this.#owed = new OwedFences(words);
    this.#cache = new CodeCache(arena, fill);
    this.#flushes = new FlushRequests(words, this.#tlb, this.#cache, code => {
      if (this.#translates) this.#linker.firstRegion(code);
    });
    const { flushes, traps, tlb } = { flushes: this.#flushes, traps: this.#traps, tlb: this.#tlb };
    this.#mmu = new Mmu(words, ports, { tlb, host, traps, flushes, breaks: options.breaks });
    const decoder = new Decoder(arena, this.#cache);
    const own = { mmu: this.#mmu, tlb: this.#tlb, traps: this.#traps, cache: this.#cache };
    const parts = { arena, words, flushes: this.#flushes, ...own };
    const copy64 = (to: number, from: number) => exports.copy64(to, from);
    const { flushOthers } = options;
    this.#access = new SlowAccess({ ...parts, decoder, flushOthers, copy64, willWrite });
    const csrs = new Csrs(words, ports, this.#tlb);
    const slow = new SlowInstructions({ ...parts, csrs, decoder, access: this.#access });
    this.#linker = new Linker(arena, this.#cache, this.#lockstep, options.compile);
    this.translator = new Translator({
      arena,
      cache: this.#cache,
      decoder,
      linker: this.#linker,
      alloc: options.alloc,
      free: options.free,
      batch: options.batch ?? BATCH,
      post: options.post,
      keepTranslation: options.keepTranslation,
      limits: options.limits,
      watched: this.#lockstep !== undefined,
      quiesce: vcpu => {
        this.#tlb.flushExec(vcpu);
        if (options.flushOthers !== undefined) this.#mmu.outside(vcpu, () => options.flushOthers!(vcpu, 0));
      },
    });
    this.#translates = options.batch !== 0;
    this.#post = options.post;
    const module = options.module ?? compileInterpreter(arena.shared);
    const callbacks = { ...this.#callbacks(decoder, slow), ...(willWrite && { willWrite }) };
    const env = { memory: arena.memory, regions: this.#linker.table, ...callbacks };
    const exports = new WebAssembly.Instance(module, { env }).exports as Exports;
    this.#linker.use({ ...exports, memory: arena.memory, ...(willWrite && { willWrite }) });
    this.#lockstep?.attach({ words, interpret: exports.interpret });
    this.#enter = exports.run;
    const { fillRead, fillWrite, translate } = exports;
    this.fills = { fillRead, fillWrite, translate };
  }

  #watch() {
    const lockstep = this.#lockstep;
    return lockstep && ((at: number, bytes: number) => lockstep.willWrite(at, bytes));
  }

  #callbacks(decoder: Decoder, slow: SlowInstructions): Callbacks {
    const access = this.#access;
    const words = this.#words;
    // Addresses come as signed i32.
    const at = (cpu: number) => (cpu >>> 2) as VcpuPtr;
    return {
      fetch: cpu => access.fetch(at(cpu)),
      load: (cpu, bytes) => access.load(at(cpu), bytes),
      store: (cpu, bytes) => access.store(at(cpu), bytes),
      amo: (cpu, bytes, kind) => access.atomic(at(cpu), bytes, kind as 0 | 1),
      refill: (cpu, kind) => {
        this.#lockstep?.asked();
        return access.refill(at(cpu), kind as 0 | 1);
      },
      slow: (cpu, dp) => slow.execute(at(cpu), dp),
      decode: (cpu, dp) => decoder.decodeAt(words[(cpu >>> 2) + AT.code] as CodePtr, dp),
      know: (cpu, raw) => decoder.tell((words[(cpu >>> 2) + AT.heat]! + HEAT_BYTES) >>> 0, raw),
      cross: cpu => access.cross(at(cpu)),
      hot: (cpu, dp) => {
        if (this.#translates && this.#lockstep?.replays !== true) this.translator.hot(at(cpu), dp);
      },
      link: (cpu, id) => this.#linker.link(words[(cpu >>> 2) + AT.code] as CodePtr, id),
    };
  }

  /** A code cache; one per VM. `slots` decoded pages of 20 KiB each; they cost memory once used. */
  createCode(slots = CODE_SLOTS): CodePtr {
    return this.#cache.create(this.#alloc, slots, this.#post?.numberCode() ?? ++this.#codes);
  }

  /** A zeroed record that decodes into `code`; `reset` makes it runnable. */
  createVcpu(code: CodePtr): VcpuPtr {
    const vcpu = this.#allocAligned(VCPU_WORDS) as VcpuPtr;
    this.vcpu.code.set(vcpu, code);
    this.#cache.code.vcpus.add(code, 1);
    return vcpu;
  }

  #allocAligned(words: number): number {
    const at = this.#alloc(words + CACHE_LINE_WORDS);
    return Math.ceil(at / CACHE_LINE_WORDS) * CACHE_LINE_WORDS;
  }

  /** Frees a record and its TLB. No runner holds it, and its VM is gone. */
  destroyVcpu(vcpu: VcpuPtr): void {
    assert(Atomics.load(this.#words, vcpu + AT.running) === 0, 'destroyVcpu: the vCPU runs');
    this.#release(this.#words[vcpu + AT.tlb]!);
    this.#release(vcpu);
  }

  /** Frees a code cache, after the vCPUs that decode into it. */
  destroyCode(code: CodePtr): void {
    this.#linker.forget(code);
    this.translator.forget(code);
    this.translator.freeModules(code, at => this.#release(at));
    this.#cache.destroy(code, at => this.#release(at));
  }

  #release(at: number): void {
    assert(this.#free !== undefined, 'destroy: the CPU was made without a way to free');
    if (at !== 0) this.#free(at);
  }

  /** Supervisor mode, satp 0, interrupts off, a0 = hart id: how SBI enters a kernel. */
  reset(vcpu: VcpuPtr, state: ResetState): void {
    this.#words.fill(0, vcpu, vcpu + AT.mode);
    this.#words[vcpu + AT.privilege] = Privilege.Supervisor;
    this.#words[vcpu + AT.hartId] = state.hartId;
    // No timer is set.
    this.#words.fill(-1, vcpu + AT.timecmp, vcpu + AT.timecmp + 2);
    this.setPc(vcpu, state.pc);
    this.setX(vcpu, 10, state.hartId, 0);
    this.setX(vcpu, 11, state.a1 | 0, Math.floor(state.a1 / 2 ** 32));
    this.flushTlb(vcpu);
  }

  /**
   * Runs at most `budget` (1 .. 2^30) instructions. The exit's data is in the record; see `mmioExit`.
   * Mode is InGuest meanwhile, and Outside during calls of `resolve` (J-7).
   */
  run(vcpu: VcpuPtr, budget: number): Exit {
    assert(budget >= 1 && budget <= MAX_BUDGET, 'run: budget out of range');
    const w = this.#words;
    if (w[vcpu + AT.tlb] === 0) this.#allocTlb(vcpu);
    // Before the requests are read: who asked to stop and finds 0 here knows that it will not run again.
    Atomics.store(w, vcpu + AT.running, 1);
    Atomics.store(w, vcpu + AT.mode, Mode.InGuest);
    w[vcpu + AT.leave] = 0;
    if (this.#mmu.serve(vcpu)) {
      this.#flushes.noticeDrops(vcpu);
      this.#traps.interrupt(vcpu);
      beginSlice(w, vcpu, budget, this.#isAlone(vcpu));
      if (this.#translates) this.translator.attend(vcpu);
      w[vcpu + AT.firstRegion] = this.#linker.firstRegion(w[vcpu + AT.code]! as CodePtr);
      this.#enter(vcpu << 2);
      if (this.#translates) this.#lookOver(vcpu);
    }
    Atomics.store(w, vcpu + AT.mode, Mode.Outside);
    this.#retire(vcpu);
    Atomics.store(w, vcpu + AT.running, 0);
    return (w[vcpu + AT.leave]! - 1) as Exit;
  }

  /** Whether the VM has no other vCPU. */
  #isAlone(vcpu: VcpuPtr): boolean {
    return this.#cache.code.vcpus.load(this.#words[vcpu + AT.code]! as CodePtr) === 1;
  }

  /** After a slice: what the interpreter was at, and now and then whether regions pay. */
  #lookOver(vcpu: VcpuPtr): void {
    if (this.#words[vcpu + AT.leave] === 1 + Exit.Budget) this.translator.sample(vcpu);
    if ((++this.#runs & 63) !== 0) return;
    this.translator.review(vcpu);
    this.#linker.settle(this.#words[vcpu + AT.code]! as CodePtr);
  }

  #allocTlb(vcpu: VcpuPtr): void {
    const heatAt = HOST_AT + hostBytes(this.#frames);
    const visitsAt = heatAt + HEAT_BYTES + KNOWN * KNOWN_BYTES;
    const at = this.#allocAligned((visitsAt + VISITS_BYTES) / 4);
    this.#words[vcpu + AT.tlb] = at;
    this.#words[vcpu + AT.heat] = (at * 4 + heatAt) | 0;
    this.#words[vcpu + AT.visits] = (at * 4 + visitsAt) | 0;
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    this.#words[vcpu + AT.entries] = (this.#cache.code.entries.get(code) * 4) | 0;
    this.#tlb.flushHost(vcpu);
    this.#tlb.select(vcpu);
  }

  /** Moves the slice's count into `instret`. */
  #retire(vcpu: VcpuPtr): void {
    this.#setInstret(vcpu, instret(this.#words, vcpu));
    endSlice(this.#words, vcpu);
  }

  #setInstret(vcpu: VcpuPtr, count: number): void {
    this.#words[vcpu + AT.instret] = count | 0;
    this.#words[vcpu + AT.instret + 1] = Math.floor(count / 2 ** 32);
  }

  /** Finishes a device access: a load's register gets the low `exitBytes` of `hi:lo`; pc moves on. */
  completeMmio(vcpu: VcpuPtr, lo: number, hi: number): void {
    const w = this.#words;
    if (w[vcpu + AT.exitIsWrite] === 0) this.#completeLoad(vcpu, lo | 0, hi | 0);
    const pc = (w[vcpu + AT.pc]! >>> 0) + w[vcpu + AT.mmioLength]!;
    w[vcpu + AT.pc] = pc;
    if (pc > 0xffffffff) w[vcpu + AT.pc + 1]!++;
    this.#setInstret(vcpu, instret(w, vcpu) + 1);
  }

  #completeLoad(vcpu: VcpuPtr, lo: number, hi: number): void {
    const w = this.#words;
    const bytes = w[vcpu + AT.exitBytes]!;
    const extend = w[vcpu + AT.mmioExtend]!;
    const rd = vcpu + w[vcpu + AT.mmioRd]! / 4;
    if (extend === Extend.Box) this.vcpu.sstatus.set(vcpu, w[vcpu + AT.sstatus]! | (3 << 13));
    if (bytes < 8) {
      const unused = 32 - 8 * bytes;
      lo = extend === Extend.Sign ? (lo << unused) >> unused : ((lo << unused) >>> unused) | 0;
      if (extend === Extend.Box) hi = -1;
      else hi = extend === Extend.Sign ? lo >> 31 : 0;
    }
    w[rd] = lo;
    w[rd + 1] = hi;
  }

  /** Drops every cached translation of this vCPU, and its reservation. Outside `run`. */
  flushTlb(vcpu: VcpuPtr): void {
    this.#owed.reset(vcpu);
    this.#tlb.flushHost(vcpu);
    if (this.#words[vcpu + AT.tlb] !== 0) this.#tlb.select(vcpu);
  }

  /** Delivers an exception at the current pc: access faults for holes, say. Cause as in `scause`. */
  raise(vcpu: VcpuPtr, cause: number, tvalLo: number, tvalHi: number): void {
    this.#traps.enter(vcpu, cause, false, tvalLo, tvalHi);
  }

  /**
   * Forgets what is decoded of a frame: after its bytes changed by other means than this CPU's stores (DMA,
   * copies), and between zapping it and asking the vCPUs to flush. From any thread; one atomic load when
   * there is nothing. vCPUs notice at their next slice, at fence.i, and before a page is reused.
   */
  dropCode(code: CodePtr, pfn: Pfn): void {
    this.#cache.drop(code, pfn);
  }

  /** Instructions retired; also from within `CpuPorts`, where the one in progress counts. Below 2^53. */
  instret(vcpu: VcpuPtr): number {
    return instret(this.#words, vcpu);
  }

  /** What was translated of a VM's code so far. */
  translated(code: CodePtr): Translated {
    return readTranslated(this.#cache.code, code);
  }

  /** What a vCPU has counted since it was made: exits of regions by their reason, misses of its TLB. */
  events(vcpu: VcpuPtr): Events {
    return readEvents(this.#words, vcpu);
  }

  /** Low word of x0..x31, signed. */
  xLo(vcpu: VcpuPtr, n: number): number {
    return this.#words[vcpu + AT.x + 2 * n]!;
  }

  xHi(vcpu: VcpuPtr, n: number): number {
    return this.#words[vcpu + AT.x + 2 * n + 1]!;
  }

  /** Sets x1..x31. */
  setX(vcpu: VcpuPtr, n: number, lo: number, hi: number): void {
    assert(n > 0, 'setX: x0 is zero');
    this.#words[vcpu + AT.x + 2 * n] = lo;
    this.#words[vcpu + AT.x + 2 * n + 1] = hi;
  }

  /** A byte address below 2^53. */
  setPc(vcpu: VcpuPtr, pc: number): void {
    this.#words[vcpu + AT.pc] = pc | 0;
    this.#words[vcpu + AT.pc + 1] = Math.floor(pc / 2 ** 32);
  }
}

export const createCpu = (arena: Arena, ports: CpuPorts, options: CpuOptions): Cpu =>
  new Cpu(arena, ports, options);
