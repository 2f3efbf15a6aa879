import { Arena } from '../sync/arena.ts';
import { type Cpu, type CpuOptions, createCpu } from './cpu.ts';
import { type CpuPorts, Miss, type VcpuPtr } from './interface.ts';
import type { CodePtr } from './vcpu.ts';

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
};

/** A vCPU over flat memory: what tests and benchmarks run programs on. */
export class FlatMachine {
  readonly arena: Arena;
  readonly cpu: Cpu;
  readonly code: CodePtr;
  readonly vcpu: VcpuPtr;
  readonly pages: number;
  ticks = 0;

  constructor(options: FlatOptions = {}) {
    this.pages = options.pages ?? 64;
    const slots = options.slots ?? 32;
    const heapBytes = slots * 36864 + 512 * 1024;
    this.arena = Arena.create({ frames: this.pages, heapBytes, shared: options.shared ?? false });
    const inner: CpuPorts = {
      resolve: (_vcpu, gfn) => this.#resolve(gfn),
      time: () => this.ticks,
    };
    const cpuOptions: CpuOptions = { alloc: this.#allocator() };
    if (options.module !== undefined) cpuOptions.module = options.module;
    this.cpu = createCpu(this.arena, options.ports?.(inner) ?? inner, cpuOptions);
    this.code = this.cpu.createCode(slots);
    this.vcpu = this.cpu.createVcpu(this.code);
    this.cpu.reset(this.vcpu, { hartId: 0, pc: RAM_BASE, a1: 0 });
  }

  #resolve(gfn: number): number {
    const page = gfn - RAM_BASE / 4096;
    return page >= 0 && page < this.pages ? this.arena.firstFrame + page : Miss.Mmio;
  }

  #allocator(): (words: number) => number {
    let next = this.arena.heap;
    return words => {
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

  x(n: number): bigint {
    const lo = BigInt(this.cpu.xLo(this.vcpu, n) >>> 0);
    return (BigInt(this.cpu.xHi(this.vcpu, n) >>> 0) << 32n) | lo;
  }

  setX(n: number, value: bigint): void {
    this.cpu.setX(this.vcpu, n, Number(BigInt.asIntN(32, value)), Number(BigInt.asIntN(32, value >> 32n)));
  }
}
