import type { DeviceState } from './interface.ts';
import { StateReader } from './state.ts';
import type { VirtioModel } from './virtio.ts';
import type { VirtioRequest } from './virtio-request.ts';

/** What one request gets at most; a driver asks again. */
const CHUNK_BYTES = 4096;
const VERSION = 1;

/** Entropy device (virtio 1.2, 5.4): its one queue is filled with random bytes. */
export class VirtioRng implements VirtioModel {
  readonly name = 'virtio-rng';
  readonly deviceId = 4;
  readonly classCode = 0x00ff00;
  readonly features = 0;
  readonly queueSizes = [8];
  readonly #fill: (into: Uint8Array) => void;

  constructor(fill: (into: Uint8Array) => void) {
    this.#fill = fill;
  }

  attach(): void {}

  config(): Uint8Array {
    return new Uint8Array(0);
  }

  wants(): boolean {
    return true;
  }

  serve(_queue: number, request: VirtioRequest): number {
    const bytes = new Uint8Array(Math.min(request.writableLength, CHUNK_BYTES));
    if (bytes.length > 0) this.#fill(bytes);
    request.write(0, bytes);
    return bytes.length;
  }

  reset(): void {}

  save(): DeviceState {
    return { version: VERSION };
  }

  prepare(state: DeviceState): () => void {
    new StateReader(this.name, state, VERSION);
    return () => {};
  }
}
