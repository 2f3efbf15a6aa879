import type { DeviceState } from './interface.ts';
import type { VirtioRequest } from './virtio-request.ts';

// What is common to virtio devices whatever they are attached by (virtio 1.2, chapters 2 and 3).

/** 2.1 */
export const VirtioStatus = {
  Acknowledge: 1,
  Driver: 2,
  DriverOk: 4,
  FeaturesOk: 8,
  NeedsReset: 0x40,
  Failed: 0x80,
} as const;

/** Feature bits of the low word (6). */
export const VIRTIO_F_INDIRECT_DESC = 1 << 28;
/** Bit 32, as a bit of the high word. */
export const VIRTIO_F_VERSION_1_HIGH = 1 << 0;

/** `serve` answers this for a request that breaks the device's protocol: the device then needs a reset. */
export const BROKEN = -1;
/** `serve` answers this when it can't be done now: the request stays in the ring, and `poll` begins it again. */
export const BLOCKED = -2;

/** What the transport offers the device model. */
export type VirtioTransport = {
  /** There is something to do for this queue now, such as input for its buffers. */
  kick(queue: number): void;
  /** The device's own configuration changed. */
  configChanged(): void;
};

/** A device without its transport: what the requests of its queues mean. */
export interface VirtioModel {
  readonly name: string;
  /** virtio 1.2, chapter 5. */
  readonly deviceId: number;
  /** 24 bits, for the PCI header. */
  readonly classCode: number;
  /** Feature bits 0 to 23, and no others. */
  readonly features: number;
  /** The most descriptors of each queue; powers of two. */
  readonly queueSizes: readonly number[];
  attach(transport: VirtioTransport): void;
  /** The device-specific configuration, as it is now. */
  config(): Uint8Array;
  /** False while requests of this queue shall wait in the ring, such as for input. */
  wants(queue: number): boolean;
  /** The driver writes to the configuration. Absent where no field is the driver's. */
  writeConfig?(offset: number, bytes: number, value: number): void;
  /** True for a queue whose buffers are named but not looked at: they are not pinned, and may lie anywhere. */
  unpinned?(queue: number): boolean;
  /** Does a request, all of it, now. Returns the bytes written to it, BROKEN or BLOCKED. */
  serve(queue: number, request: VirtioRequest): number;
  reset(): void;
  save(): DeviceState;
  /** Checks a saved record and returns what puts it in force; throws EINVAL. */
  prepare(state: DeviceState): () => void;
}
