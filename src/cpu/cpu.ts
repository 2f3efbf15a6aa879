import type { Pfn } from '../base/units.ts';
import type { Arena } from '../sync/arena.ts';
import type { CpuPorts, Exit, VcpuPtr } from './interface.ts';
import { type CodePtr, type Vcpu, vcpuStruct } from './vcpu.ts';

export type CpuOptions = {
  /** Zeroed words that live as long as the VM; a word index. */
  alloc(words: number): number;
  /** From `compileInterpreter`; compiled here when absent. Workers are handed the same one. */
  module?: WebAssembly.Module;
  /**
   * Returns when no other vCPU of the VM can use a translation or decoded page that it cached before the
   * call. Absent when the VM has one vCPU.
   */
  flushOthers?(vcpu: VcpuPtr): void;
};

export type ResetState = {
  hartId: number;
  /** Byte address, below 2^53. */
  pc: number;
  /** The device tree's physical address. */
  a1: number;
};

/** The processor: one per thread and arena, over any number of vCPU records. */
export class Cpu {
  readonly vcpu: Vcpu;

  constructor(arena: Arena, _ports: CpuPorts, _options: CpuOptions) {
    this.vcpu = vcpuStruct(arena.words);
  }

  /** A code cache; one per VM. `slots` decoded pages of 32 KiB each. */
  createCode(_slots = 1024): CodePtr {
    throw new Error('not yet');
  }

  /** A zeroed record that decodes into `code`; `reset` makes it runnable. */
  createVcpu(_code: CodePtr): VcpuPtr {
    throw new Error('not yet');
  }

  /** Supervisor mode, satp 0, interrupts off, a0 = hart id: how SBI enters a kernel. */
  reset(_vcpu: VcpuPtr, _state: ResetState): void {
    throw new Error('not yet');
  }

  /** Runs at most `budget` (1 .. 2^30) instructions. The exit's data is in the record; see `mmioExit`. */
  run(_vcpu: VcpuPtr, _budget: number): Exit {
    throw new Error('not yet');
  }

  /** Finishes a device access: a load's register gets the low `exitBytes` of `hi:lo`; pc moves on. */
  completeMmio(_vcpu: VcpuPtr, _lo: number, _hi: number): void {
    throw new Error('not yet');
  }

  /** Drops every cached translation of this vCPU. Only by the runner that holds it, outside `run`. */
  flushTlb(_vcpu: VcpuPtr): void {
    throw new Error('not yet');
  }

  /** Delivers an exception at the current pc: access faults for holes, say. Cause as in `scause`. */
  raise(_vcpu: VcpuPtr, _cause: number, _tvalLo: number, _tvalHi: number): void {
    throw new Error('not yet');
  }

  /**
   * Forgets what is decoded of a frame; before its bytes change by other means than this CPU's stores
   * (DMA, copies), and when it is zapped. From any thread. vCPUs notice at their next stop-point or fence.i.
   */
  dropCode(_code: CodePtr, _pfn: Pfn): void {
    throw new Error('not yet');
  }

  /** Instructions retired; exact, also from within `CpuPorts.time` and `resolve`. Below 2^53. */
  instret(_vcpu: VcpuPtr): number {
    throw new Error('not yet');
  }

  /** Low and high word of x1..x31. */
  xLo(_vcpu: VcpuPtr, _n: number): number {
    throw new Error('not yet');
  }

  xHi(_vcpu: VcpuPtr, _n: number): number {
    throw new Error('not yet');
  }

  setX(_vcpu: VcpuPtr, _n: number, _lo: number, _hi: number): void {
    throw new Error('not yet');
  }
}

export const createCpu = (arena: Arena, ports: CpuPorts, options: CpuOptions): Cpu =>
  new Cpu(arena, ports, options);
