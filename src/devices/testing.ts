import { assert } from '../base/assert.ts';
import { Random } from '../base/random.ts';
import type { CharBackend, Clock, GuestMemory, IrqLine, Pin, PinMiss } from './interface.ts';
import { VirtioStatus } from './virtio.ts';

// What the tests of devices stand on: guest memory whose pages are scattered in the host and may be away,
// and a virtio driver that finds its device as a kernel does, through ECAM and capabilities.

const PAGE = 4096;
export const TEST_RAM = 0x8000_0000;

/** Guest memory in reversed pages, so that neighbours in the guest are never neighbours in the host. */
export class TestMemory implements GuestMemory {
  readonly length: number;
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  /** Pages that are on their way: a pin says `blocked`. */
  readonly away = new Set<number>();
  /** One pin in so many is blocked, as if the page had left just before. */
  blockedOneIn: number | undefined;
  readonly random = new Random(1);
  /** Pins taken and not given back; 0 between operations. */
  pinned = 0;
  #next = TEST_RAM;

  constructor(pages: number) {
    this.length = pages * PAGE;
    // Shared, as the arena is: what refuses shared memory fails here first.
    this.#bytes = new Uint8Array(new SharedArrayBuffer(this.length));
    this.#view = new DataView(this.#bytes.buffer);
  }

  pin(gpa: number, length: number, _access: 'read' | 'write'): Pin | PinMiss {
    if (gpa < TEST_RAM || length < 1 || gpa + length > TEST_RAM + this.length) return 'fault';
    if (this.blockedOneIn !== undefined && this.random.oneIn(this.blockedOneIn)) return 'blocked';
    const pieces: Uint8Array[] = [];
    for (let at = gpa; at < gpa + length; at = Math.floor(at / PAGE) * PAGE + PAGE) {
      if (this.away.has(Math.floor(at / PAGE))) return 'blocked';
      const end = Math.min(gpa + length, Math.floor(at / PAGE) * PAGE + PAGE);
      pieces.push(this.#bytes.subarray(this.#host(at), this.#host(at) + (end - at)));
    }
    this.pinned++;
    return { pieces };
  }

  unpin(_pin: Pin): void {
    this.pinned--;
    assert(this.pinned >= 0, 'testing: a pin is given back once');
  }

  #host(gpa: number): number {
    const offset = gpa - TEST_RAM;
    const page = Math.floor(offset / PAGE);
    return (this.length / PAGE - 1 - page) * PAGE + (offset % PAGE);
  }

  /** A fresh piece of guest memory. */
  allocate(bytes: number, align = 16): number {
    const at = Math.ceil(this.#next / align) * align;
    this.#next = at + bytes;
    assert(this.#next <= TEST_RAM + this.length, 'testing: the guest has memory left');
    return at;
  }

  bytes(gpa: number, length: number): Uint8Array {
    return Uint8Array.from({ length }, (_, i) => this.#bytes[this.#host(gpa + i)]!);
  }

  put(gpa: number, bytes: ArrayLike<number>): void {
    for (let i = 0; i < bytes.length; i++) this.#bytes[this.#host(gpa + i)] = bytes[i]!;
  }

  u16(gpa: number): number {
    return this.#view.getUint16(this.#host(gpa), true);
  }

  u32(gpa: number): number {
    return this.#view.getUint32(this.#host(gpa), true);
  }

  setU16(gpa: number, value: number): void {
    this.#view.setUint16(this.#host(gpa), value, true);
  }

  setU32(gpa: number, value: number): void {
    this.#view.setUint32(this.#host(gpa), value, true);
  }

  setU64(gpa: number, value: number): void {
    this.setU32(gpa, value >>> 0);
    this.setU32(gpa + 4, Math.floor(value / 2 ** 32));
  }

  /** All of memory, to compare two guests. */
  contents(): Uint8Array {
    return this.#bytes.slice();
  }

  /** A copy in the same state. */
  clone(): TestMemory {
    const copy = new TestMemory(this.length / PAGE);
    copy.#bytes.set(this.#bytes);
    copy.#next = this.#next;
    return copy;
  }
}

/** A line that remembers its level. */
export class TestLine implements IrqLine {
  level = false;
  set(level: boolean): void {
    this.level = level;
  }
}

/** A backend that keeps what it was given. */
export class TestOutput implements CharBackend {
  bytes: number[] = [];
  write(bytes: Uint8Array): void {
    this.bytes.push(...bytes);
  }
  get text(): string {
    return new TextDecoder().decode(Uint8Array.from(this.bytes));
  }
}

export class TestClock implements Clock {
  ns = 0;
  pausedNs = 0;
  readonly epochSeconds = 1_700_000_000;
  now(): number {
    return this.ns;
  }
  paused(): number {
    return this.pausedNs;
  }
}

export const ascii = (text: string): Uint8Array => new TextEncoder().encode(text);

/** What a driver reaches: loads and stores of guest physical addresses. */
export type TestBus = {
  read(gpa: number, bytes: number): number;
  write(gpa: number, bytes: number, value: number): unknown;
};

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;

export type Completion = { head: number; length: number; data: Uint8Array };

/** The driver's side of one split queue. */
export class TestQueue {
  readonly size: number;
  readonly desc: number;
  readonly avail: number;
  readonly used: number;
  readonly #memory: TestMemory;
  readonly #notify: () => void;
  readonly #open = new Map<number, { buffers: { gpa: number; length: number }[]; descriptors: number[] }>();
  #free: number[];
  #availIndex = 0;
  #seen = 0;

  constructor(memory: TestMemory, size: number, notify: () => void) {
    this.#memory = memory;
    this.size = size;
    this.#notify = notify;
    this.#free = Array.from({ length: size }, (_, index) => size - 1 - index);
    this.desc = memory.allocate(16 * size, 16);
    this.avail = memory.allocate(6 + 2 * size, 2);
    this.used = memory.allocate(6 + 8 * size, 4);
  }

  descriptor(
    table: number,
    index: number,
    fields: { gpa: number; length: number; flags: number; next?: number },
  ): void {
    const at = table + 16 * index;
    this.#memory.setU64(at, fields.gpa);
    this.#memory.setU32(at + 8, fields.length);
    this.#memory.setU16(at + 12, fields.flags);
    this.#memory.setU16(at + 14, fields.next ?? 0);
  }

  /** Makes a chain available: bytes to send, then room to receive. */
  add(send: readonly Uint8Array[], room: readonly number[], options: { indirect?: boolean } = {}): number {
    const parts = [
      ...send.map(bytes => ({ gpa: this.#copy(bytes), length: bytes.length, flags: 0 })),
      ...room.map(length => ({ gpa: this.#memory.allocate(length, 1), length, flags: WRITE })),
    ];
    const indirect = options.indirect ?? false;
    const descriptors = Array.from({ length: indirect ? 1 : parts.length }, () => this.#free.pop()!);
    const table = indirect ? this.#memory.allocate(16 * parts.length) : this.desc;
    parts.forEach((part, i) => {
      const last = i === parts.length - 1;
      const next = last ? 0 : indirect ? i + 1 : descriptors[i + 1]!;
      this.descriptor(table, indirect ? i : descriptors[i]!, {
        ...part,
        flags: part.flags | (last ? 0 : NEXT),
        next,
      });
    });
    const head = descriptors[0]!;
    if (indirect)
      this.descriptor(this.desc, head, { gpa: table, length: 16 * parts.length, flags: INDIRECT });
    this.#open.set(head, { buffers: parts.filter(part => part.flags === WRITE), descriptors });
    this.offer(head);
    return head;
  }

  #copy(bytes: Uint8Array): number {
    const gpa = this.#memory.allocate(bytes.length, 1);
    this.#memory.put(gpa, bytes);
    return gpa;
  }

  /** Puts any head into the available ring. */
  offer(head: number): void {
    this.#memory.setU16(this.avail + 4 + 2 * (this.#availIndex % this.size), head);
    this.#availIndex = (this.#availIndex + 1) & 0xffff;
    this.#memory.setU16(this.avail + 2, this.#availIndex);
  }

  kick(): void {
    this.#notify();
  }

  /** What the device gave back since last asked. */
  reap(): Completion[] {
    const done: Completion[] = [];
    while (this.#seen !== this.#memory.u16(this.used + 2)) {
      const at = this.used + 4 + 8 * (this.#seen % this.size);
      const [head, length] = [this.#memory.u32(at), this.#memory.u32(at + 4)];
      this.#seen = (this.#seen + 1) & 0xffff;
      const { buffers, descriptors } = this.#open.get(head)!;
      this.#open.delete(head);
      this.#free.push(...descriptors);
      const data = buffers.flatMap(buffer => [...this.#memory.bytes(buffer.gpa, buffer.length)]);
      done.push({ head, length, data: Uint8Array.from(data) });
    }
    return done;
  }

  /** Sends one request and returns its only completion. */
  call(
    send: readonly Uint8Array[],
    room: readonly number[],
    options: { indirect?: boolean } = {},
  ): Completion {
    this.add(send, room, options);
    this.kick();
    const done = this.reap();
    assert(done.length === 1, 'testing: the device answered at once');
    return done[0]!;
  }
}

/** A virtio-pci driver: finds the device in a slot of the ECAM, gives its BAR an address, and runs it. */
export class TestDriver {
  readonly bus: TestBus;
  readonly memory: TestMemory;
  readonly config: number;
  readonly #regions = new Map<number, number>();
  #notifyMultiplier = 0;
  queues: TestQueue[] = [];

  constructor(options: { bus: TestBus; memory: TestMemory; ecam: number; window: number; slot: number }) {
    this.bus = options.bus;
    this.memory = options.memory;
    this.config = options.ecam + options.slot * 0x8000;
    const bar = options.window + options.slot * 0x10_0000;
    this.bus.write(this.config + 0x10, 4, bar);
    this.bus.write(this.config + 0x04, 2, 0x6);
    this.#findRegions(bar);
  }

  #findRegions(bar: number): void {
    let at = this.bus.read(this.config + 0x34, 1);
    while (at !== 0) {
      const type = this.bus.read(this.config + at + 3, 1);
      this.#regions.set(type, bar + this.bus.read(this.config + at + 8, 4));
      if (type === 2) this.#notifyMultiplier = this.bus.read(this.config + at + 16, 4);
      at = this.bus.read(this.config + at + 1, 1);
    }
  }

  common(offset: number, bytes: number): number {
    return this.bus.read(this.#regions.get(1)! + offset, bytes);
  }

  setCommon(offset: number, bytes: number, value: number): void {
    this.bus.write(this.#regions.get(1)! + offset, bytes, value);
  }

  isr(): number {
    return this.bus.read(this.#regions.get(3)!, 1);
  }

  deviceConfig(offset: number, bytes: number): number {
    return this.bus.read(this.#regions.get(4)! + offset, bytes);
  }

  get status(): number {
    return this.common(0x14, 1);
  }

  set status(value: number) {
    this.setCommon(0x14, 1, value);
  }

  notify(queue: number): void {
    this.setCommon(0x16, 2, queue);
    const offset = this.common(0x1e, 2) * this.#notifyMultiplier;
    this.bus.write(this.#regions.get(2)! + offset, 2, queue);
  }

  /** 3.1.1: reset, features, queues, go. Takes every feature offered. */
  start(options: { queueSize?: number } = {}): this {
    this.status = 0;
    this.status = VirtioStatus.Acknowledge;
    this.status |= VirtioStatus.Driver;
    this.negotiate();
    const count = this.common(0x12, 2);
    this.queues = Array.from({ length: count }, (_, index) => this.#setUp(index, options.queueSize));
    this.status |= VirtioStatus.DriverOk;
    return this;
  }

  negotiate(): void {
    for (const select of [0, 1]) {
      this.setCommon(0x00, 4, select);
      this.setCommon(0x08, 4, select);
      this.setCommon(0x0c, 4, this.common(0x04, 4));
    }
    this.status |= VirtioStatus.FeaturesOk;
    assert((this.status & VirtioStatus.FeaturesOk) !== 0, 'testing: the device accepts its own features');
  }

  #setUp(index: number, size: number | undefined): TestQueue {
    this.setCommon(0x16, 2, index);
    const queue = new TestQueue(this.memory, size ?? this.common(0x18, 2), () => this.notify(index));
    this.setCommon(0x18, 2, queue.size);
    [queue.desc, queue.avail, queue.used].forEach((gpa, i) => {
      this.setCommon(0x20 + 8 * i, 4, gpa >>> 0);
      this.setCommon(0x24 + 8 * i, 4, Math.floor(gpa / 2 ** 32));
    });
    this.setCommon(0x1c, 2, 1);
    return queue;
  }
}
