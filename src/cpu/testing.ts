import { Errno } from '../base/errno.ts';
import { Arena } from '../sync/arena.ts';
import { assemble } from './assemble.ts';
import { type Cpu, type CpuOptions, createCpu } from './cpu.ts';
import { type CpuPorts, type Exit, Miss, type VcpuPtr } from './interface.ts';
import type { RegionLimits } from './region/layout.ts';
import type { Lockstep } from './region/lockstep.ts';
import type { Post } from './region/post.ts';
import { ARCH_WORDS, type CodePtr, Privilege, Status } from './vcpu.ts';

/** Where flat memory begins, as RAM does on the board. */
export const RAM_BASE = 0x80000000;

export type FlatOptions = {
  /** 4 KiB pages of RAM from RAM_BASE; frame n of the arena is page n. */
  pages?: number;
  slots?: number;
  shared?: boolean;
  module?: WebAssembly.Module;
  /** Wraps the ports, to block or count. */
  ports?(inner: CpuPorts): CpuPorts;
  flushOthers?(vcpu: VcpuPtr, pfn: number): void;
  /** While true, nothing can be allocated. */
  isFull?(): boolean;
  /** As of CpuOptions. */
  batch?: number;
  lockstep?: Lockstep;
  limits?: RegionLimits;
  compile?(wasm: Uint8Array<ArrayBuffer>): WebAssembly.Module;
  /** Hot places are left to the translator's thread, which is `secondCpu` when a test says so. */
  post?: (arena: Arena, alloc: (words: number) => number) => Post;
};

/** A vCPU over flat memory: what tests and benchmarks run programs on. */
export class FlatMachine {
  readonly arena: Arena;
  readonly cpu: Cpu;
  readonly code: CodePtr;
  readonly vcpu: VcpuPtr;
  readonly pages: number;
  readonly #isFull: (() => boolean) | undefined;
  ticks = 0;
  readonly #alloc: (words: number) => number;
  readonly #ports: CpuPorts;

  constructor(options: FlatOptions = {}) {
    this.pages = options.pages ?? 64;
    this.#isFull = options.isFull;
    const slots = options.slots ?? 32;
    const heapBytes = slots * 40960 + 12 * 1024 * 1024;
    this.arena = Arena.create({ frames: this.pages, heapBytes, shared: options.shared ?? false });
    this.#alloc = this.#allocator();
    const inner: CpuPorts = {
      resolve: (_vcpu, gfn) => this.#resolve(gfn),
      time: () => this.ticks,
    };
    const cpuOptions: CpuOptions = { alloc: this.#alloc };
    if (options.module !== undefined) cpuOptions.module = options.module;
    if (options.batch !== undefined) cpuOptions.batch = options.batch;
    if (options.lockstep !== undefined) cpuOptions.lockstep = options.lockstep;
    if (options.limits !== undefined) cpuOptions.limits = options.limits;
    if (options.compile !== undefined) cpuOptions.compile = options.compile;
    const post = options.post?.(this.arena, this.#alloc);
    if (post !== undefined) cpuOptions.post = post;
    if (options.flushOthers !== undefined) cpuOptions.flushOthers = options.flushOthers;
    this.#ports = options.ports?.(inner) ?? inner;
    this.cpu = createCpu(this.arena, this.#ports, cpuOptions);
    this.code = this.cpu.createCode(slots);
    this.vcpu = this.cpu.createVcpu(this.code);
    this.cpu.reset(this.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  }

  /** A processor of another thread, over the same memory and code. */
  secondCpu(options: Omit<CpuOptions, 'alloc'>): Cpu {
    return createCpu(this.arena, this.#ports, { alloc: this.#alloc, ...options });
  }

  #resolve(gfn: number): number {
    const page = gfn - RAM_BASE / 4096;
    return page >= 0 && page < this.pages ? this.arena.firstFrame + page : Miss.Mmio;
  }

  #allocator(): (words: number) => number {
    let next = this.arena.heap;
    return words => {
      if (this.#isFull?.()) throw new Errno('ENOMEM', 'heap');
      const at = next;
      next += words;
      if (next > this.arena.heap + this.arena.heapWords) throw new Error('the test heap is too small');
      return at;
    };
  }

  /** Arena byte address of a guest physical one. */
  byte(gpa: number): number {
    return this.arena.firstFrame * 4096 + gpa - RAM_BASE;
  }

  /** Copies 32-bit words to memory. */
  poke(gpa: number, words: ArrayLike<number>): void {
    this.arena.words.set(Int32Array.from(words), this.byte(gpa) / 4);
  }

  /** A program at RAM_BASE, and pc there. */
  program(source: string): this {
    this.poke(RAM_BASE, assemble(source, RAM_BASE));
    this.cpu.dropCode(this.code, this.arena.firstFrame);
    this.cpu.setPc(this.vcpu, RAM_BASE);
    return this;
  }

  /** Runs until an exit that is not Budget, at most `limit` instructions. */
  run(limit = 10_000): Exit {
    return this.cpu.run(this.vcpu, limit);
  }

  /** A 64-bit field of the record. */
  field(at: number): bigint {
    const words = this.arena.words;
    return (BigInt(words[this.vcpu + at + 1]! >>> 0) << 32n) | BigInt(words[this.vcpu + at]! >>> 0);
  }

  setField(at: number, value: bigint): void {
    this.arena.words[this.vcpu + at] = Number(BigInt.asIntN(32, value));
    this.arena.words[this.vcpu + at + 1] = Number(BigInt.asIntN(32, value >> 32n));
  }

  /** A 64-bit word of memory. */
  peek(gpa: number): bigint {
    const at = this.byte(gpa) / 4;
    return (BigInt(this.arena.words[at + 1]! >>> 0) << 32n) | BigInt(this.arena.words[at]! >>> 0);
  }

  /** The guest's whole state, for comparing machines. */
  state(): { record: string; memory: string } {
    const { words } = this.arena;
    const record = Array.from(words.subarray(this.vcpu, this.vcpu + ARCH_WORDS), w => (w >>> 0).toString(16));
    const from = this.byte(RAM_BASE) / 4;
    let hash = 0;
    for (let i = from; i < from + this.pages * 1024; i++) hash = (Math.imul(hash, 31) + words[i]!) | 0;
    return { record: record.join(' '), memory: hash.toString(16) };
  }

  x(n: number): bigint {
    const lo = BigInt(this.cpu.xLo(this.vcpu, n) >>> 0);
    return (BigInt(this.cpu.xHi(this.vcpu, n) >>> 0) << 32n) | lo;
  }

  setX(n: number, value: bigint): void {
    this.cpu.setX(this.vcpu, n, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
  }
}

/** Bits of a page-table entry. */
export const PTE = { V: 1, R: 2, W: 4, X: 8, U: 16, G: 32, A: 64, D: 128 } as const;

/** Sv39 tables in the last pages of a flat machine's RAM. */
export class TestTables {
  readonly #m: FlatMachine;
  readonly root: number;
  #next: number;

  constructor(m: FlatMachine) {
    this.#m = m;
    this.#next = RAM_BASE + m.pages * 4096;
    this.root = this.#table();
  }

  #table(): number {
    this.#next -= 4096;
    this.#m.poke(this.#next, new Uint32Array(1024));
    return this.#next;
  }

  /** What to write to satp. */
  get satp(): bigint {
    return (8n << 60n) | BigInt(this.root / 4096);
  }

  /** Guest physical address of the entry that maps `va` at `level`, making tables on the way. */
  entry(va: bigint, level = 0): number {
    let table = this.root;
    for (let at = 2; ; at--) {
      const entry = table + 8 * Number((va >> BigInt(12 + 9 * at)) & 511n);
      if (at === level) return entry;
      const low = this.#m.arena.words[this.#m.byte(entry) / 4]!;
      if ((low & PTE.V) === 0) this.write(entry, this.#table(), PTE.V);
      table = (this.#m.arena.words[this.#m.byte(entry) / 4]! >>> 10) * 4096;
    }
  }

  write(entry: number, gpa: number, flags: number, high = 0): void {
    const ppn = gpa / 4096;
    this.#m.poke(entry, [((ppn & 0x3fffff) << 10) | flags, Math.floor(ppn / 0x400000) | high]);
  }

  map(va: bigint, gpa: number, flags: number, level = 0): void {
    this.write(this.entry(va, level), gpa, flags);
  }
}

/** What the privileged manual says of a leaf with these flags; `status` as in sstatus. */
export function permitted(
  kind: 'read' | 'write' | 'exec',
  flags: number,
  privilege: number,
  status: number,
): boolean {
  const { V, R, W, X, U, A, D } = PTE;
  if ((flags & V) === 0 || (flags & (R | W)) === W || (flags & (R | W | X)) === 0) return false;
  if ((flags & A) === 0) return false;
  const user = (flags & U) !== 0;
  if (privilege === Privilege.User && !user) return false;
  if (privilege === Privilege.Supervisor && user && (kind === 'exec' || (status & Status.SUM) === 0))
    return false;
  if (kind === 'exec') return (flags & X) !== 0;
  if (kind === 'write') return (flags & (W | D)) === (W | D);
  return (flags & R) !== 0 || ((status & Status.MXR) !== 0 && (flags & X) !== 0);
}
