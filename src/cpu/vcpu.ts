import { array, i32, type Ptr, ptr, type Struct, struct, u64 } from '../sync/struct.ts';
import type { VcpuPtr } from './interface.ts';
import { CONTEXTS } from './tlb-layout.ts';

// One vCPU is one record in the arena, so that any runner can pick it up (design 3.4). The first part is
// what the guest can see, hence what a snapshot keeps; the rest is ours and starts from zero.
//
// Writers: the runner that holds the vCPU, plainly; except `pending`, `requests`, `mode`, `running` and
// the words from `vm` on, which other threads touch too and which are atomic everywhere.

/** Privilege levels, as `sstatus.SPP` has them. */
export const Privilege = { User: 0, Supervisor: 1 } as const;

/** Bits of `pending` and `sie`: the interrupts of supervisor level. */
export const Interrupt = { Software: 1 << 1, Timer: 1 << 5, External: 1 << 9 } as const;

/** Fields of the low word of `sstatus`. */
export const Status = {
  SIE: 1 << 1,
  SPIE: 1 << 5,
  SPP: 1 << 8,
  FS: 3 << 13,
  SUM: 1 << 18,
  MXR: 1 << 19,
} as const;

/**
 * Instructions that straddle two pages are decoded into this many private places: whose it is, at CROSS_RECORD the
 * decoded record, and behind that what leads on.
 */
export const CROSS_ENTRIES = 16;
export const CROSS_WORDS = 8;
export const CROSS_RECORD = 3;

/** Words for a context of the TLB. */
export const CONTEXT_WORDS = 3;

const FIELDS = {
  // What the guest sees.
  x: array(64), //        x0..x31, low word first; x0 stays zero
  f: array(64), //        f0..f31, singles NaN-boxed
  pc: u64,
  sepc: u64,
  scause: u64,
  stval: u64,
  stvec: u64,
  sscratch: u64,
  satp: u64,
  timecmp: u64, //        the host's timer compare (SBI TIME); ticks
  instret: u64, //        as of the last `run`; see Cpu.instret
  privilege: i32,
  sstatus: i32, //        low word; UXL and SD are made on reading
  sie: i32,
  pending: i32, //        SSIP, STIP, SEIP: set and cleared by anyone, atomically
  scounteren: i32,
  senvcfg: i32,
  fflags: i32,
  frm: i32,
  hartId: i32,
  // Up to here a snapshot keeps it: ARCH_WORDS.
  reservation: i32, //    LR's host byte address, 0 when there is none
  reservedValue: u64,
  reservedBytes: i32,
  mode: i32, //           Mode, atomic (J-7)
  requests: i32, //       Request, atomic
  ticket: ptr('uffdWait'), // the user fault that it waits for, or 0
  running: i32, //        1 while a runner is inside `run`, its calls of `resolve` included; atomic
  // The exit record.
  leave: i32, //          0 while inside, else 1 + Exit
  exitGpa: u64, //        bytes
  exitData: u64, //       what a store wrote
  exitBytes: i32,
  exitIsWrite: i32,
  mmioRd: i32, //         byte offset of the register that a load fills
  mmioExtend: i32, //     Extend
  mmioLength: i32, //     bytes of the instruction
  // How far the slice is.
  budget: i32, //         instructions of the slice that were handed out so far: portions.ts
  left: i32, //           of which not begun yet; exact whenever wasm is not running
  portion: i32, //        the last portion of them
  rest: i32, //           instructions of the slice that were not handed out yet
  unretired: i32, //      begun, but trapped or left
  // The access that the slow path is asked to make.
  ea: u64,
  data: u64,
  bounce: array(4), //    bytes of a load that straddles two pages
  // Translation.
  tlb: i32, //            word index of the TLB sets, 0 before the first run
  tlbBase: i32, //        byte address of the set in use
  tlbBorrow: i32, //      bytes back to the set whose entries are valid in this one too
  tlbSum: i32, //         bytes from the supervisor's set to its set with SUM
  context: i32, //        the current one of the contexts
  contextClock: i32, //   counts changes of context
  contexts: array(CONTEXTS * CONTEXT_WORDS), // { satp low, satp high, contextClock when entered }
  tlbLocal: i32, //       1 when the supervisor set has entries of pages that are not global
  code: ptr('code'),
  codeSeen: i32, //       the code cache's generation that the X-TLB agrees with
  entries: i32, //        the VM's region entries, byte address
  heat: i32, //           counts of arrivals by place, byte address
  visits: i32, //         counts of visits by region entry, byte address: region/layout.ts
  visitsEpoch: i32, //    of the regions that these are of
  firstRegion: i32, //    where this thread's function table has the VM's regions
  lookups: u64, //        regions left for what is at another place, ...
  interprets: u64, //     ... and for the interpreter to execute an instruction
  interpreted: u64, //    calls of the interpreter, these and those where there is no region
  tlbFills: u64, //       accesses of regions that their micro entry had not, ...
  tlbMisses: u64, //      ... that the set in use had not, of the interpreter's too and for fetches, ...
  tlbAsked: u64, //       ... and of these, that TypeScript was asked for
  stint: i32, //          what was left of the slice when the interpreter was last called; portions count as they are handed out
  step: i32, //           1: the interpreter executes one instruction though a region begins there
  codeAdded: array(2), // frames that became code since requests were last tested
  crossed: i32, //        1 when any of them is in use
  cross: array(CROSS_ENTRIES * CROSS_WORDS),
  dummy: u64, //          what writes to x0 fall into
  // kvm's and the machine's.
  vm: i32,
  index: i32,
  hartState: i32, //      SBI's state of the hart; atomic
  waiting: i32, //        1 after a `wfi` that nothing has ended yet; atomic
  wake: i32, //           the word that its runner sleeps on when none of its vCPUs can run; 0 if it never does
  flushList: ptr('flushList'), // the VM's, 0 when there is none
  flushSeen: i32, //      names of it that this vCPU has read
  handoff: i32, //        what waits for the thread that owns the devices; atomic
  fence: array(5), //     the one remote fence of pages that may be under way (fence-requests.ts); atomic
  writes: i32, //         the one frame that became code and is to be told of; 0 when there is none; atomic
  space: i32, //          the ASID in satp, as other harts see it; atomic: owed-fences.ts
  owed: i32, //           fences to make before satp changes; atomic
  spare: array(1),
} as const;

export type Vcpu = Struct<'vcpu', typeof FIELDS>;
export type CodePtr = Ptr<'code'>;

const LAYOUT = struct(new Int32Array(0), 'vcpu', FIELDS);
/** Word offsets of the fields, for generated code and hot paths; frozen, so that they fold as constants. */
export const AT: typeof LAYOUT.offsets = Object.freeze({ ...LAYOUT.offsets });
/** Words of a record; a multiple of 16, and records are to be 64-byte aligned. */
export const VCPU_WORDS = Math.ceil(LAYOUT.words / 16) * 16;
/** The words from the record's start that the guest's state consists of. */
export const ARCH_WORDS = AT.reservation;

/** The vCPU record over an arena's words. */
export const vcpuStruct = (words: Int32Array): Vcpu => struct(words, 'vcpu', FIELDS, VCPU_WORDS);

/** A device access that `run` came back with. */
export type MmioExit = { gpa: number; bytes: number; isWrite: boolean; lo: number; hi: number };

/** Allocates nothing but the result; not for hot loops. */
export function mmioExit(words: Int32Array, vcpu: VcpuPtr): MmioExit {
  return {
    gpa: (words[vcpu + AT.exitGpa]! >>> 0) + words[vcpu + AT.exitGpa + 1]! * 2 ** 32,
    bytes: words[vcpu + AT.exitBytes]!,
    isWrite: words[vcpu + AT.exitIsWrite]! !== 0,
    lo: words[vcpu + AT.exitData]!,
    hi: words[vcpu + AT.exitData + 1]!,
  };
}
