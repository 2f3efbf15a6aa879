import { ByteQueue } from './byte-queue.ts';
import type { CharBackend, DeviceState } from './interface.ts';
import { StateReader } from './state.ts';
import type { VirtioModel, VirtioTransport } from './virtio.ts';
import type { VirtioRequest } from './virtio-request.ts';

// Console device with a single port (virtio 1.2, 5.3): queue 0 takes input to the guest, queue 1 output.

const RECEIVEQ = 0;
const TRANSMITQ = 1;
const VIRTIO_CONSOLE_F_SIZE = 1 << 0;
const RX_CAPACITY = 64 * 1024;
const VERSION = 1;

export type VirtioConsolePorts = {
  readonly output: CharBackend;
  /** The input buffer was full and has room again. */
  readonly onRoom?: () => void;
};

export class VirtioConsole implements VirtioModel {
  readonly name = 'virtio-console';
  readonly deviceId = 3;
  readonly classCode = 0x078000;
  readonly features = VIRTIO_CONSOLE_F_SIZE;
  /** Linux fills the first with a page a descriptor. */
  readonly queueSizes = [32, 32];
  readonly #ports: VirtioConsolePorts;
  readonly #rx = new ByteQueue(RX_CAPACITY);
  #transport: VirtioTransport | undefined;
  #columns = 80;
  #rows = 24;

  constructor(ports: VirtioConsolePorts) {
    this.#ports = ports;
  }

  attach(transport: VirtioTransport): void {
    this.#transport = transport;
  }

  /** Input for the guest. Takes as many as fit; returns how many. */
  receive(bytes: Uint8Array): number {
    const taken = this.#rx.push(bytes);
    if (taken > 0) this.#transport?.kick(RECEIVEQ);
    return taken;
  }

  /** The terminal has another size; the guest is told. */
  resize(columns: number, rows: number): void {
    this.#columns = columns & 0xffff;
    this.#rows = rows & 0xffff;
    this.#transport?.configChanged();
  }

  /** 5.3.4: cols, rows, then fields of features not offered. */
  config(): Uint8Array {
    const bytes = new Uint8Array(12);
    const view = new DataView(bytes.buffer);
    view.setUint16(0, this.#columns, true);
    view.setUint16(2, this.#rows, true);
    view.setUint32(4, 1, true);
    return bytes;
  }

  wants(queue: number): boolean {
    return queue !== RECEIVEQ || this.#rx.length > 0;
  }

  serve(queue: number, request: VirtioRequest): number {
    return queue === TRANSMITQ ? this.#transmit(request) : this.#fill(request);
  }

  #transmit(request: VirtioRequest): number {
    // A copy: pinned memory is shared, and few consumers take shared memory.
    const bytes = new Uint8Array(request.readableLength);
    request.read(0, bytes);
    if (bytes.length > 0) this.#ports.output.write(bytes);
    return 0;
  }

  #fill(request: VirtioRequest): number {
    const wasFull = this.#rx.room === 0;
    const bytes = new Uint8Array(Math.min(request.writableLength, this.#rx.length));
    this.#rx.take(bytes);
    request.write(0, bytes);
    if (wasFull && bytes.length > 0) this.#ports.onRoom?.();
    return bytes.length;
  }

  /** Input that waits belongs to the outside, and stays. */
  reset(): void {}

  save(): DeviceState {
    return { version: VERSION, columns: this.#columns, rows: this.#rows, rx: this.#rx.contents() };
  }

  prepare(state: DeviceState): () => void {
    const reader = new StateReader(this.name, state, VERSION);
    const [columns, rows] = [reader.number('columns', 0xffff), reader.number('rows', 0xffff)];
    const rx = reader.bytes('rx', { max: RX_CAPACITY });
    return () => {
      this.#columns = columns;
      this.#rows = rows;
      this.#rx.restore(rx);
    };
  }
}
