import type { Fence } from '../cpu/fence-requests.ts';
import type { GuestMemory } from '../devices/interface.ts';

// RISC-V Supervisor Binary Interface 2.0, answered by the host. The vCPU loop hands over the registers of
// an `ecall` from S-mode and puts the answer back; nothing here keeps state.

export const SbiExtension = {
  Base: 0x10,
  Time: 0x54494d45,
  Ipi: 0x735049,
  Rfence: 0x52464e43,
  Hsm: 0x48534d,
  Srst: 0x53525354,
  Dbcn: 0x4442434e,
} as const;

/** Chapter 3, standard error codes. */
export const SbiError = {
  Success: 0,
  Failed: -1,
  NotSupported: -2,
  InvalidParam: -3,
  Denied: -4,
  InvalidAddress: -5,
  AlreadyAvailable: -6,
  AlreadyStarted: -7,
  AlreadyStopped: -8,
} as const;
export type SbiError = (typeof SbiError)[keyof typeof SbiError];

export type SbiCall = {
  readonly hart: number;
  /** Low 32 bits of a7 and a6. */
  readonly ext: number;
  readonly fid: number;
  /** a0 to a5 as 32-bit words, low word first: 12 of them, signed or not. */
  readonly args: ArrayLike<number>;
};

export type SbiFence = { readonly kind: 'instruction' } | ({ readonly kind: 'address' } & Readonly<Fence>);

/** HSM, table of hart states. */
export const HartState = { Started: 0, Stopped: 1, StartPending: 2, StopPending: 3, Suspended: 4 } as const;
export type HartState = (typeof HartState)[keyof typeof HartState];

/** Where a hart begins. Words low first. */
export type HartStart = { addressLo: number; addressHi: number; opaqueLo: number; opaqueHi: number };

export type SbiPorts = {
  /** Hart ids are 0 to harts - 1. */
  readonly harts: number;
  readonly memory: GuestMemory;
  readonly console: {
    write(bytes: Uint8Array): void;
    /** Takes at most `max` bytes of input that is there now; empty if none. */
    read(max: number): Uint8Array;
  };
  /** Sets the hart's timer to fire at `ticks` of the time CSR, Infinity for never, and clears its STIP. */
  setTimer(hart: number, ticks: number): void;
  /** Sets SSIP of the hart. */
  sendIpi(hart: number): void;
  /** Returns when the harts, of which the calling one may be one, have fenced. */
  remoteFence(harts: readonly number[], fence: SbiFence): void;
  hartState(hart: number): HartState;
  /** Starts a stopped hart: pc, a0 = hart id, a1 = opaque, satp 0. False if another hart was first. */
  hartStart(hart: number, start: HartStart): boolean;
};

export type SbiOutcome =
  /** a0 = error, a1 = value, both sign-extended; `value` is a safe integer. */
  | { readonly kind: 'return'; readonly error: SbiError; readonly value: number }
  /** A page is on its way. Nothing happened: make the same call again after the wait. */
  | { readonly kind: 'blocked' }
  /** The machine stops or starts over. `failed` is the guest's own word (reason 1). */
  | {
      readonly kind: 'reset';
      readonly type: 'shutdown' | 'cold-reboot' | 'warm-reboot';
      readonly failed: boolean;
    }
  /** The calling hart is stopped (HSM) and waits for hartStart. */
  | { readonly kind: 'hart-stop' }
  /** As `wfi`, then return success with value 0 (HSM default retentive suspend). */
  | { readonly kind: 'suspend' };

const SPEC_VERSION = 0x0200_0000;
/** Not in the register of implementations. */
const IMPLEMENTATION_ID = 0x464c;
const IMPLEMENTATION_VERSION = 1;
/** A debug console call does at most this much; the specification lets it stop short. */
const CONSOLE_BYTES_MAX = 4096;
const NEVER_HIGH = 0x20_0000;

/** Answers one call. Every unknown extension and function is NOT_SUPPORTED. */
export function handleSbi(call: SbiCall, ports: SbiPorts): SbiOutcome {
  switch (call.ext) {
    case SbiExtension.Base:
      return base(call);
    case SbiExtension.Time:
      return time(call, ports);
    case SbiExtension.Ipi:
      return ipi(call, ports);
    case SbiExtension.Rfence:
      return rfence(call, ports);
    case SbiExtension.Hsm:
      return hsm(call, ports);
    case SbiExtension.Srst:
      return srst(call);
    case SbiExtension.Dbcn:
      return dbcn(call, ports);
    default:
      return NOT_SUPPORTED;
  }
}

const NOT_SUPPORTED: SbiOutcome = { kind: 'return', error: SbiError.NotSupported, value: 0 };
const INVALID_PARAM: SbiOutcome = { kind: 'return', error: SbiError.InvalidParam, value: 0 };
const BLOCKED: SbiOutcome = { kind: 'blocked' };
const OFFERED: ReadonlySet<number> = new Set(Object.values(SbiExtension));

function success(value = 0): SbiOutcome {
  return { kind: 'return', error: SbiError.Success, value };
}

function low(call: SbiCall, index: number): number {
  return call.args[index * 2]! >>> 0;
}

function high(call: SbiCall, index: number): number {
  return call.args[index * 2 + 1]! >>> 0;
}

/** An argument as a number; Infinity from 2^53 on. */
function wide(call: SbiCall, index: number): number {
  const hi = high(call, index);
  return hi >= NEVER_HIGH ? Number.POSITIVE_INFINITY : hi * 2 ** 32 + low(call, index);
}

/** Chapter 4. */
function base(call: SbiCall): SbiOutcome {
  switch (call.fid) {
    case 0:
      return success(SPEC_VERSION);
    case 1:
      return success(IMPLEMENTATION_ID);
    case 2:
      return success(IMPLEMENTATION_VERSION);
    case 3:
      return success(high(call, 0) === 0 && OFFERED.has(low(call, 0)) ? 1 : 0);
    case 4: // mvendorid
    case 5: // marchid
    case 6: // mimpid
      return success(0);
    default:
      return NOT_SUPPORTED;
  }
}

/** Chapter 6. A time in the far future, such as -1, means never. */
function time(call: SbiCall, ports: SbiPorts): SbiOutcome {
  if (call.fid !== 0) return NOT_SUPPORTED;
  ports.setTimer(call.hart, wide(call, 0));
  return success();
}

/** The harts that a mask names (chapter 3); undefined if one of them does not exist. */
function hartMask(call: SbiCall, ports: SbiPorts): number[] | undefined {
  const all = low(call, 1) === 0xffff_ffff && high(call, 1) === 0xffff_ffff;
  if (all) return Array.from({ length: ports.harts }, (_, hart) => hart);
  const first = wide(call, 1);
  const harts: number[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const word = bit < 32 ? low(call, 0) : high(call, 0);
    if (((word >>> (bit & 31)) & 1) === 0) continue;
    if (first + bit >= ports.harts) return undefined;
    harts.push(first + bit);
  }
  return harts;
}

/** Chapter 7. */
function ipi(call: SbiCall, ports: SbiPorts): SbiOutcome {
  if (call.fid !== 0) return NOT_SUPPORTED;
  const harts = hartMask(call, ports);
  if (harts === undefined) return INVALID_PARAM;
  for (const hart of harts) ports.sendIpi(hart);
  return success();
}

/** Chapter 8. The hypervisor fences (3 to 6) are not offered. */
function rfence(call: SbiCall, ports: SbiPorts): SbiOutcome {
  if (call.fid > 2) return NOT_SUPPORTED;
  const harts = hartMask(call, ports);
  if (harts === undefined) return INVALID_PARAM;
  ports.remoteFence(harts, fenceOf(call));
  return success();
}

function fenceOf(call: SbiCall): SbiFence {
  if (call.fid === 0) return { kind: 'instruction' };
  const [startLo, startHi, length] = [low(call, 2), high(call, 2), wide(call, 3)];
  // Start and size 0, or size -1, mean the whole address space.
  const whole = startLo === 0 && startHi === 0 && length === 0;
  return {
    kind: 'address',
    startLo,
    startHi,
    length: whole ? Number.POSITIVE_INFINITY : length,
    asid: call.fid === 2 ? low(call, 4) : undefined,
  };
}

/** Chapter 9. */
function hsm(call: SbiCall, ports: SbiPorts): SbiOutcome {
  switch (call.fid) {
    case 0:
      return hartStart(call, ports);
    case 1:
      return { kind: 'hart-stop' };
    case 2: {
      const hart = wide(call, 0);
      return hart < ports.harts ? success(ports.hartState(hart)) : INVALID_PARAM;
    }
    case 3: {
      const type = low(call, 0);
      if (type === 0) return { kind: 'suspend' };
      return type === 0x8000_0000 ? NOT_SUPPORTED : INVALID_PARAM;
    }
    default:
      return NOT_SUPPORTED;
  }
}

function hartStart(call: SbiCall, ports: SbiPorts): SbiOutcome {
  const hart = wide(call, 0);
  if (hart >= ports.harts) return INVALID_PARAM;
  const state = ports.hartState(hart);
  if (state !== HartState.Stopped) {
    const error = state === HartState.Started ? SbiError.AlreadyAvailable : SbiError.Failed;
    return { kind: 'return', error, value: 0 };
  }
  const started = ports.hartStart(hart, {
    addressLo: low(call, 1),
    addressHi: high(call, 1),
    opaqueLo: low(call, 2),
    opaqueHi: high(call, 2),
  });
  return started ? success() : { kind: 'return', error: SbiError.Failed, value: 0 };
}

const RESET_TYPES = ['shutdown', 'cold-reboot', 'warm-reboot'] as const;

/** Chapter 10. */
function srst(call: SbiCall): SbiOutcome {
  if (call.fid !== 0) return NOT_SUPPORTED;
  const type = RESET_TYPES[low(call, 0)];
  const reason = low(call, 1);
  // Reasons: 0 none, 1 system failure; from 0xe000_0000 on they are the vendor's.
  if (type === undefined || (reason > 1 && reason < 0xe000_0000)) return INVALID_PARAM;
  return { kind: 'reset', type, failed: reason === 1 };
}

/** Chapter 12. */
function dbcn(call: SbiCall, ports: SbiPorts): SbiOutcome {
  switch (call.fid) {
    case 0:
      return consoleWrite(call, ports);
    case 1:
      return consoleRead(call, ports);
    case 2:
      ports.console.write(Uint8Array.of(low(call, 0) & 0xff));
      return success();
    default:
      return NOT_SUPPORTED;
  }
}

function pinArgument(call: SbiCall, ports: SbiPorts, access: 'read' | 'write') {
  const length = Math.min(wide(call, 0), CONSOLE_BYTES_MAX);
  const gpa = wide(call, 1);
  // a2 is the address above XLEN bits, so nothing but 0 is memory here.
  if (wide(call, 2) !== 0) return 'fault';
  return gpa + length > Number.MAX_SAFE_INTEGER ? 'fault' : ports.memory.pin(gpa, length, access);
}

function consoleWrite(call: SbiCall, ports: SbiPorts): SbiOutcome {
  if (wide(call, 0) === 0) return success();
  const pin = pinArgument(call, ports, 'read');
  if (pin === 'blocked') return BLOCKED;
  if (pin === 'fault') return INVALID_PARAM;
  let written = 0;
  for (const piece of pin.pieces) {
    // A copy: the bytes behind a pin are shared, and few consumers take shared memory.
    ports.console.write(piece.slice());
    written += piece.length;
  }
  ports.memory.unpin(pin);
  return success(written);
}

/** Input is taken only once its place is pinned, so that a blocked call loses none. */
function consoleRead(call: SbiCall, ports: SbiPorts): SbiOutcome {
  if (wide(call, 0) === 0) return success();
  const pin = pinArgument(call, ports, 'write');
  if (pin === 'blocked') return BLOCKED;
  if (pin === 'fault') return INVALID_PARAM;
  let taken = 0;
  for (const piece of pin.pieces) {
    const bytes = ports.console.read(piece.length);
    piece.set(bytes);
    taken += bytes.length;
    if (bytes.length < piece.length) break;
  }
  ports.memory.unpin(pin);
  return success(taken);
}
