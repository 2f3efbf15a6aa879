import type { Gpa } from '../base/units.ts';

// What devices see of the world: registers, an interrupt line, a clock, and guest memory by pins.
// A device is single-threaded: its owner (the device worker) makes every call.

/** A plain, versioned, structured-cloneable record: all there is to know of a device. */
export type DeviceState = { readonly version: number } & Record<string, unknown>;

export interface Device {
  readonly name: string;
  save(): DeviceState;
  /** Throws EINVAL for a state of another version or shape, before anything changes. */
  load(state: DeviceState): void;
  reset(): void;
}

/** A device that answers at a range of guest physical addresses. Values are unsigned numbers. */
export interface MmioDevice extends Device {
  /** Bytes of the register window. */
  readonly length: number;
  /** `bytes` is 1, 2, 4 or 8; an 8-byte access comes as two of 4, low first. */
  read(offset: number, bytes: number): number;
  write(offset: number, bytes: number, value: number): void;
}

/** A level-triggered line into the interrupt controller. */
export interface IrqLine {
  set(level: boolean): void;
}

export interface Clock {
  /** Nanoseconds since the machine started; the guest's monotonic time. Below 2^53. */
  now(): number;
  /** Seconds since 1970 at which the machine started, for the RTC. */
  readonly epochSeconds: number;
  /** Nanoseconds for which the guest was paused: `now` leaves them out, the RTC does not. */
  paused?(): number;
}

/** Why a pin can't be had now. */
export type PinMiss = 'blocked' | 'fault';
/** Host memory behind guest memory: pieces in order, as the guest's pages need not be neighbours. */
export type Pin = { readonly pieces: readonly Uint8Array[] };

/**
 * Guest physical memory, as DMA sees it. `pin` has no side effect when it answers `blocked`: the request
 * is dropped and begun again from the start when the page is there, so pin all, then work, then unpin.
 */
export interface GuestMemory {
  pin(gpa: Gpa, length: number, access: 'read' | 'write'): Pin | PinMiss;
  unpin(pin: Pin): void;
}

/** Bytes by sector, for block devices; synchronous, as the device worker may block. */
export interface BlockBackend {
  readonly sectors: number;
  readonly readOnly: boolean;
  /** Fills `into`, whose length is a multiple of 512. Throws EIO. */
  read(sector: number, into: Uint8Array): void;
  /** Throws EIO, ENOSPC. */
  write(sector: number, from: Uint8Array): void;
  flush(): void;
}

/** A byte stream to the outside: a terminal, the agent channel. */
export interface CharBackend {
  /** Takes all of `bytes`; the caller may reuse them afterwards. */
  write(bytes: Uint8Array): void;
}
