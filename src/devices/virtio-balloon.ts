import type { DeviceState } from './interface.ts';
import { StateReader } from './state.ts';
import { BLOCKED, BROKEN, type VirtioModel, type VirtioTransport } from './virtio.ts';
import type { VirtioRequest } from './virtio-request.ts';

// Memory balloon (virtio 1.2, 5.5) with free page reporting and without statistics or hinting. The guest names
// pages that it does without; the host takes them away, and they read as zero when they are used again (O-6).

const INFLATEQ = 0;
const DEFLATEQ = 1;

export const BalloonFeature = {
  /** The guest may take pages back when it runs out of memory. */
  DeflateOnOom: 1 << 2,
  /** The guest says what it fills freed pages with. */
  PagePoison: 1 << 4,
  /** Queue of what is free right now. */
  Reporting: 1 << 5,
} as const;

/** 5.5.4: offsets of the configuration. */
const Config = { numPages: 0, actual: 4, freePageHintId: 8, poison: 12, bytes: 16 } as const;
/** 5.5.6: a page of the balloon, whatever the guest's own are. */
const BALLOON_PAGE = 4096;
/** Page numbers that one request may carry; Linux sends 256. */
const PFNS_MAX = 4096;
const VERSION = 1;

export type BalloonPorts = {
  /**
   * The guest does without [gpa, gpa + length): whole pages of 4 KiB, perhaps not all of them memory. False
   * when that can't be done now, and nothing is said of how much was: it is asked again.
   */
  discard(gpa: number, length: number): boolean;
  /** The guest has told how large its balloon is, in bytes. */
  onActual?(bytes: number): void;
};

export class VirtioBalloon implements VirtioModel {
  readonly name = 'virtio-balloon';
  readonly deviceId = 5;
  readonly classCode = 0x00ff00;
  readonly features = BalloonFeature.DeflateOnOom | BalloonFeature.PagePoison | BalloonFeature.Reporting;
  /**
   * Inflate, deflate, and reporting thrice: its number is 4 in the standard, but 2 for a driver that counts only
   * the queues there are, as Linux before 6.11 does. All we don't offer in between is hence its place, too.
   */
  readonly queueSizes = [256, 256, 64, 64, 64];
  readonly #ports: BalloonPorts;
  #transport: VirtioTransport | undefined;
  #numPages = 0;
  #actual = 0;
  #poison = 0;

  constructor(ports: BalloonPorts) {
    this.#ports = ports;
  }

  attach(transport: VirtioTransport): void {
    this.#transport = transport;
  }

  /** How large the guest's balloon shall be; the guest is told, and follows in its own time. */
  setTarget(bytes: number): void {
    const pages = Math.min(Math.floor(bytes / BALLOON_PAGE), 0xffff_ffff);
    if (pages === this.#numPages) return;
    this.#numPages = pages;
    this.#transport?.configChanged();
  }

  get targetBytes(): number {
    return this.#numPages * BALLOON_PAGE;
  }

  /** What the guest says; not to be relied on. */
  get actualBytes(): number {
    return this.#actual * BALLOON_PAGE;
  }

  config(): Uint8Array {
    const bytes = new Uint8Array(Config.bytes);
    const view = new DataView(bytes.buffer);
    view.setUint32(Config.numPages, this.#numPages, true);
    view.setUint32(Config.actual, this.#actual, true);
    view.setUint32(Config.poison, this.#poison, true);
    return bytes;
  }

  /** `actual` and `poison_val` are the driver's to write, as whole words. */
  writeConfig(offset: number, bytes: number, value: number): void {
    if (bytes !== 4) return;
    if (offset === Config.poison) this.#poison = value >>> 0;
    if (offset !== Config.actual) return;
    this.#actual = value >>> 0;
    this.#ports.onActual?.(this.actualBytes);
  }

  wants(): boolean {
    return true;
  }

  /** What is reported must not be brought in first: its buffers are ranges to us, not bytes. */
  unpinned(queue: number): boolean {
    return queue > DEFLATEQ;
  }

  serve(queue: number, request: VirtioRequest): number {
    if (queue === INFLATEQ) return this.#inflate(request);
    // A page that leaves the balloon is memory like any other, and comes when it is touched.
    if (queue === DEFLATEQ) return 0;
    return this.#report(request);
  }

  #inflate(request: VirtioRequest): number {
    const count = request.readableLength / 4;
    if (!Number.isInteger(count) || count > PFNS_MAX) return BROKEN;
    const bytes = new Uint8Array(4 * count);
    request.read(0, bytes);
    return this.#discardPages(new DataView(bytes.buffer), count) ? 0 : BLOCKED;
  }

  /** Pages whose numbers follow one another, up or down, go together. */
  #discardPages(pfns: DataView, count: number): boolean {
    const sorted = Uint32Array.from({ length: count }, (_, i) => pfns.getUint32(4 * i, true)).sort();
    for (let i = 0; i < count; ) {
      const first = sorted[i]!;
      let next = first;
      while (i < count && (sorted[i] === next || sorted[i] === next - 1)) next = sorted[i++]! + 1;
      if (!this.#ports.discard(first * BALLOON_PAGE, (next - first) * BALLOON_PAGE)) return false;
    }
    return true;
  }

  /**
   * 5.5.6.6: the guest expects what was free to hold its poison afterwards, or what it held before. Fresh pages
   * hold zero, so with another poison they stay.
   */
  #report(request: VirtioRequest): number {
    if (this.#poison !== 0) return 0;
    for (const { gpa, length, write } of request.ranges) {
      if (!write) return BROKEN;
      const first = Math.ceil(gpa / BALLOON_PAGE) * BALLOON_PAGE;
      const end = Math.floor((gpa + length) / BALLOON_PAGE) * BALLOON_PAGE;
      if (end > first && !this.#ports.discard(first, end - first)) return BLOCKED;
    }
    return 0;
  }

  /** The driver has gone: the balloon is empty, as far as anyone knows. */
  reset(): void {
    this.#actual = 0;
    this.#poison = 0;
    this.#ports.onActual?.(0);
  }

  save(): DeviceState {
    return { version: VERSION, numPages: this.#numPages, actual: this.#actual, poison: this.#poison };
  }

  prepare(state: DeviceState): () => void {
    const reader = new StateReader(this.name, state, VERSION);
    const [numPages, actual] = [reader.number('numPages'), reader.number('actual')];
    const poison = reader.number('poison');
    return () => {
      [this.#numPages, this.#actual, this.#poison] = [numPages, actual, poison];
      this.#ports.onActual?.(this.actualBytes);
    };
  }
}
