import type { BlockBackend, DeviceState } from './interface.ts';
import { StateReader } from './state.ts';
import { BROKEN, type VirtioModel } from './virtio.ts';
import type { VirtioRequest } from './virtio-request.ts';

// Block device (virtio 1.2, 5.2): one queue, synchronous, a request a time. A request's framing is free:
// the header is the first 16 bytes it sends, the status the last byte it has room for.

const SECTOR = 512;
const HEADER_BYTES = 16;
/** 126 segments of 32 KiB are the 4 MiB that a virtqueue pins at most. */
const SEGMENTS_MAX = 126;
const SEGMENT_BYTES_MAX = 32 * 1024;
const ID_BYTES = 20;

const Feature = { SizeMax: 1 << 1, SegMax: 1 << 2, Ro: 1 << 5, BlkSize: 1 << 6, Flush: 1 << 9 } as const;
const RequestType = { In: 0, Out: 1, Flush: 4, GetId: 8 } as const;
const Status = { Ok: 0, IoErr: 1, Unsupported: 2 } as const;
const VERSION = 1;

export class VirtioBlk implements VirtioModel {
  readonly name = 'virtio-blk';
  readonly deviceId = 2;
  readonly classCode = 0x018000;
  readonly features: number;
  /** 2 more than the segments of a request, for a driver without indirect tables. */
  readonly queueSizes = [128];
  readonly #backend: BlockBackend;
  readonly #serial: string;
  readonly #header = new Uint8Array(HEADER_BYTES);
  /** Data on its way, apart from memory that the guest writes meanwhile. Grows to the largest request. */
  #bounce = new Uint8Array(0);

  /** `serial` is what the guest finds in /sys/block/vda/serial; at most 20 ASCII characters. */
  constructor(backend: BlockBackend, serial: string) {
    this.#backend = backend;
    this.#serial = serial;
    const optional = backend.readOnly ? Feature.Ro : 0;
    this.features = Feature.SizeMax | Feature.SegMax | Feature.BlkSize | Feature.Flush | optional;
  }

  attach(): void {}

  /** 5.2.4 */
  config(): Uint8Array {
    const bytes = new Uint8Array(24);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, this.#backend.sectors, true);
    view.setUint32(4, Math.floor(this.#backend.sectors / 2 ** 32), true);
    view.setUint32(8, SEGMENT_BYTES_MAX, true);
    view.setUint32(12, SEGMENTS_MAX, true);
    view.setUint32(20, SECTOR, true);
    return bytes;
  }

  wants(): boolean {
    return true;
  }

  serve(_queue: number, request: VirtioRequest): number {
    if (request.readableLength < HEADER_BYTES || request.writableLength < 1) return BROKEN;
    request.read(0, this.#header);
    const view = new DataView(this.#header.buffer);
    const sector = view.getUint32(12, true) * 2 ** 32 + view.getUint32(8, true);
    const status = this.#answer(view.getUint32(0, true), sector, request);
    request.write(request.writableLength - 1, Uint8Array.of(status));
    // The status is the last byte; what comes before is as long as the driver made it.
    return request.writableLength;
  }

  #answer(type: number, sector: number, request: VirtioRequest): number {
    switch (type) {
      case RequestType.In:
        return this.#in(sector, request);
      case RequestType.Out:
        return this.#out(sector, request);
      case RequestType.Flush:
        return guard(() => this.#backend.flush());
      case RequestType.GetId:
        return this.#getId(request);
      default:
        return Status.Unsupported;
    }
  }

  #in(sector: number, request: VirtioRequest): number {
    const length = request.writableLength - 1;
    if (!this.#inside(sector, length)) return Status.IoErr;
    const data = this.#buffer(length);
    const status = guard(() => this.#backend.read(sector, data));
    if (status === Status.Ok) request.write(0, data);
    return status;
  }

  #out(sector: number, request: VirtioRequest): number {
    const length = request.readableLength - HEADER_BYTES;
    if (this.#backend.readOnly || !this.#inside(sector, length)) return Status.IoErr;
    const data = this.#buffer(length);
    request.read(HEADER_BYTES, data);
    return guard(() => this.#backend.write(sector, data));
  }

  #getId(request: VirtioRequest): number {
    const id = new Uint8Array(ID_BYTES);
    for (let i = 0; i < Math.min(this.#serial.length, ID_BYTES); i++) id[i] = this.#serial.charCodeAt(i);
    request.write(0, id.subarray(0, request.writableLength - 1));
    return Status.Ok;
  }

  /** Whole sectors inside the disk. */
  #inside(sector: number, length: number): boolean {
    return length % SECTOR === 0 && sector + length / SECTOR <= this.#backend.sectors;
  }

  #buffer(length: number): Uint8Array {
    if (this.#bounce.length < length) this.#bounce = new Uint8Array(length);
    return this.#bounce.subarray(0, length);
  }

  reset(): void {}

  /** A request is done whole or not at all, so there is nothing between two. */
  save(): DeviceState {
    return { version: VERSION, sectors: this.#backend.sectors };
  }

  /** The disk must be the size it was; its contents are the caller's to bring along. */
  prepare(state: DeviceState): () => void {
    const reader = new StateReader(this.name, state, VERSION);
    const expected = reader.number('sectors', Number.MAX_SAFE_INTEGER);
    if (expected !== this.#backend.sectors) reader.refuse('sectors');
    return () => {};
  }
}

/** Runs an operation of the backend. Failures with a code are the disk's; any other is a bug of ours. */
function guard(operation: () => void): number {
  try {
    operation();
    return Status.Ok;
  } catch (error) {
    if (error instanceof Error && 'code' in error) return Status.IoErr;
    throw error;
  }
}
