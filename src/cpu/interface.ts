import type { Gfn, Pfn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';

// What the CPU needs and is handed: it knows neither mm nor kvm nor any device.

export type VcpuPtr = Ptr<'vcpu'>;

/** What a translation will be used for. The numbers are also the index of the TLB it goes to. */
export const Access = { Read: 0, Write: 1, Exec: 2 } as const;
export type Access = (typeof Access)[keyof typeof Access];

/** Why `resolve` has no frame. Negative, so that a result below zero is a miss. */
export const Miss = {
  /** No memory there: a device register, or nothing. */
  Mmio: -1,
  /** The page is on its way (user fault, remote store). Nothing happened; ask again after the wait. */
  Blocked: -2,
  /** The memory behind the slot can't be had: bad hva, poison, no memory left. */
  Fault: -3,
  /** A flush request arrived meanwhile: leave to the run loop, then translate again. */
  Again: -4,
} as const;

export type CpuPorts = {
  /**
   * The frame behind a guest frame, made present for `access`. It stays valid until the next stop-point
   * at which the vCPU serves its requests (J-7, J-8). Runs outside guest mode: the caller has stored
   * mode = Outside, and afterwards stores InGuest and tests `requests`, translating again if any is set.
   */
  resolve(vcpu: VcpuPtr, gfn: Gfn, access: Access): Pfn | number;
  /** The `time` CSR in timebase ticks; below 2^53. */
  time(vcpu: VcpuPtr): number;
};

/** Where a vCPU is; what a requester reads before it decides to wait for an acknowledgement (J-7). */
export const Mode = { Outside: 0, InGuest: 1, ExitingGuest: 2 } as const;

/** Bits of the vCPU's request word. Set by anyone, served by the runner at a stop-point. */
export const Request = {
  /** Drop every cached translation (TLBs, micro-TLBs, pointers into decoded pages). */
  FlushTlb: 1 << 0,
  /** Leave `run` soon; no other meaning. */
  Kick: 1 << 1,
  Pause: 1 << 2,
  Stop: 1 << 3,
  /** Drop what is cached of the frames that the VM's flush list names. */
  FlushPages: 1 << 4,
  /** Another hart's `fence.i`: fetch what was written before. */
  FenceI: 1 << 5,
  /** Another hart's `sfence.vma`, of everything. */
  FenceVma: 1 << 6,
  /** The same, of what the record's `fence` says. */
  FencePages: 1 << 7,
  /** A frame became code: drop the Write entries for the one in the record's `writes`. */
  DropWrites: 1 << 8,
  /** The same, of all frames. */
  DropAllWrites: 1 << 9,
} as const;
/** The requests of the host that ask to forget translations. */
export const FLUSHES = Request.FlushTlb | Request.FlushPages;
/** The requests of other harts, by way of SBI's RFENCE. */
export const FENCES = Request.FenceI | Request.FenceVma | Request.FencePages;
/** The requests of other vCPUs' fetches. */
export const WRITES = Request.DropWrites | Request.DropAllWrites;
/** What is served between two instructions, without leaving `run`. */
export const SERVED = FLUSHES | FENCES | WRITES;

/** Why `run` came back; the exit's data is in the vCPU's record. */
export const Exit = {
  /** The slice's instructions are used up. */
  Budget: 0,
  /** A request is pending. */
  Request: 1,
  /** `wfi` retired with nothing pending and enabled. */
  Wfi: 2,
  /** A device access: exitGpa, exitBytes, exitIsWrite, exitData. Finish with `completeMmio`. */
  Mmio: 3,
  /** `ecall` from S-mode: a7 extension, a6 function, a0-a5 arguments. pc is past it. */
  Sbi: 4,
  /** `resolve` said Blocked; nothing retired. Run again after the wait. */
  Blocked: 5,
  /** `resolve` said Fault at exitGpa; nothing retired. */
  MemoryFault: 6,
} as const;
export type Exit = (typeof Exit)[keyof typeof Exit];
