import type { DeviceState, GuestMemory, Pin } from './interface.ts';
import { PinnedRange } from './pinned-range.ts';
import { StateReader } from './state.ts';
import { type Segment, VirtioRequest } from './virtio-request.ts';

// The device's side of a split virtqueue (virtio 1.2, 2.7). The rings and everything they name are
// written by the guest while we read, so each field is read once, checked, and never read again. A ring
// that breaks a rule is reported as `broken`; a page that is on its way as `blocked`, and then nothing has
// happened: the same request is popped again from the start.

const Flag = { Next: 1, Write: 2, Indirect: 4 } as const;
const AVAIL_NO_INTERRUPT = 1;
const DESC_BYTES = 16;
const USED_BYTES = 8;
/** Descriptors of one indirect table. */
const INDIRECT_MAX = 1024;
/** Bytes that one request may have us pin. */
export const REQUEST_BYTES_MAX = 4 * 1024 * 1024 + 64 * 1024;
/** And that one may name without having them pinned: as many as a guest may have. */
const UNPINNED_BYTES_MAX = 2 ** 40;
/** Upper address words from here on are past what a guest physical address can be. */
const ADDRESS_HIGH_MAX = 1 << 20;

const VERSION = 1;

type Rings = {
  readonly pins: Pin[];
  readonly desc: PinnedRange;
  readonly avail: PinnedRange;
  readonly used: PinnedRange;
};
/** A descriptor table to walk: the queue's own, or an indirect one. */
type Table = { readonly range: PinnedRange; readonly entries: number };

const ADDRESSES = ['descLo', 'descHi', 'driverLo', 'driverHi', 'deviceLo', 'deviceHi'] as const;

export class Virtqueue {
  readonly sizeMax: number;
  /** As the driver set it; checked when the queue is enabled. */
  size: number;
  enabled = false;
  descLo = 0;
  descHi = 0;
  /** The available ring. */
  driverLo = 0;
  driverHi = 0;
  /** The used ring. */
  deviceLo = 0;
  deviceHi = 0;
  readonly #memory: GuestMemory;
  #lastAvail = 0;
  #usedIndex = 0;
  #rings: Rings | undefined;
  #pushed = false;

  constructor(memory: GuestMemory, sizeMax: number) {
    this.#memory = memory;
    this.sizeMax = sizeMax;
    this.size = sizeMax;
  }

  /** Whether size, alignment and addresses obey 2.7: to be asked when the driver enables the queue. */
  get wellFormed(): boolean {
    const powerOfTwo = this.size > 0 && (this.size & (this.size - 1)) === 0;
    const aligned = this.descLo % 16 === 0 && this.driverLo % 2 === 0 && this.deviceLo % 4 === 0;
    const high = Math.max(this.descHi, this.driverHi, this.deviceHi);
    return powerOfTwo && this.size <= this.sizeMax && aligned && high < ADDRESS_HIGH_MAX;
  }

  /** Pins the rings for a run of pops; `end` must follow when it says `ready`. */
  begin(): 'ready' | 'blocked' | 'broken' {
    const pins: Pin[] = [];
    const desc = this.#pin(pins, this.descHi, this.descLo, DESC_BYTES * this.size, 'read');
    const avail =
      typeof desc === 'string'
        ? desc
        : this.#pin(pins, this.driverHi, this.driverLo, 4 + 2 * this.size, 'read');
    const used =
      typeof avail === 'string'
        ? avail
        : this.#pin(pins, this.deviceHi, this.deviceLo, 4 + USED_BYTES * this.size, 'write');
    if (typeof desc === 'string' || typeof avail === 'string' || typeof used === 'string') {
      this.#unpinAll(pins);
      return used as 'blocked' | 'broken';
    }
    this.#rings = { pins, desc, avail, used };
    this.#pushed = false;
    return 'ready';
  }

  #pin(pins: Pin[], high: number, low: number, length: number, access: 'read' | 'write') {
    const pin = this.#memory.pin(high * 2 ** 32 + low, length, access);
    if (pin === 'blocked') return 'blocked';
    if (pin === 'fault') return 'broken';
    pins.push(pin);
    return new PinnedRange(pin.pieces);
  }

  #unpinAll(pins: readonly Pin[]): void {
    for (const pin of pins) this.#memory.unpin(pin);
  }

  /**
   * The next request, with all it names pinned unless told otherwise. `push` or `abandon` it before the next
   * pop.
   */
  pop(options: { indirect: boolean; unpinned?: boolean }): VirtioRequest | 'empty' | 'blocked' | 'broken' {
    const { avail } = this.#rings!;
    const waiting = (avail.atomicU16(2) - this.#lastAvail) & 0xffff;
    if (waiting === 0) return 'empty';
    if (waiting > this.size) return 'broken';
    const head = avail.u16(4 + 2 * (this.#lastAvail & (this.size - 1)));
    const { indirect, unpinned = false } = options;
    const segments = this.#walk(head, indirect, unpinned ? UNPINNED_BYTES_MAX : REQUEST_BYTES_MAX);
    if (typeof segments === 'string') return segments;
    return unpinned ? new VirtioRequest(head, [], [], [], segments) : this.#pinSegments(head, segments);
  }

  /** Returns the request's buffers to the driver with `written` bytes in them. */
  push(request: VirtioRequest, written: number): void {
    const { used } = this.#rings!;
    this.#unpinAll(request.pins);
    const at = 4 + USED_BYTES * (this.#usedIndex & (this.size - 1));
    used.setU32(at, request.head);
    used.setU32(at + 4, written);
    this.#usedIndex = (this.#usedIndex + 1) & 0xffff;
    this.#lastAvail = (this.#lastAvail + 1) & 0xffff;
    // After the entry, so that a driver which sees the index sees the entry and the buffers.
    used.setAtomicU16(2, this.#usedIndex);
    this.#pushed = true;
  }

  /** Leaves the request where it is. */
  abandon(request: VirtioRequest): void {
    this.#unpinAll(request.pins);
  }

  /** Unpins the rings. True if the driver is to be interrupted. */
  end(): boolean {
    const rings = this.#rings!;
    const interrupt = this.#pushed && (rings.avail.atomicU16(0) & AVAIL_NO_INTERRUPT) === 0;
    this.#unpinAll(rings.pins);
    this.#rings = undefined;
    return interrupt;
  }

  /** The chain from `head` as segments, those of length zero left out. */
  #walk(head: number, indirect: boolean, bytesMax: number): Segment[] | 'blocked' | 'broken' {
    const table: Table = { range: this.#rings!.desc, entries: this.size };
    if (head >= table.entries) return 'broken';
    const first = readDescriptor(table, head);
    if ((first.flags & Flag.Indirect) === 0) return chain(table, head, bytesMax);
    if (!indirect || (first.flags & Flag.Next) !== 0) return 'broken';
    return this.#walkIndirect(first, bytesMax);
  }

  #walkIndirect(descriptor: Descriptor, bytesMax: number): Segment[] | 'blocked' | 'broken' {
    const entries = descriptor.length / DESC_BYTES;
    if (!Number.isInteger(entries) || entries === 0 || entries > INDIRECT_MAX) return 'broken';
    if (descriptor.high >= ADDRESS_HIGH_MAX) return 'broken';
    const pins: Pin[] = [];
    const range = this.#pin(pins, descriptor.high, descriptor.low, descriptor.length, 'read');
    if (typeof range === 'string') return range;
    const segments = chain({ range, entries }, 0, bytesMax);
    this.#unpinAll(pins);
    return segments;
  }

  #pinSegments(head: number, segments: readonly Segment[]): VirtioRequest | 'blocked' | 'broken' {
    const pins: Pin[] = [];
    const readable: Uint8Array[] = [];
    const writable: Uint8Array[] = [];
    for (const { gpa, length, write } of segments) {
      const pin = this.#memory.pin(gpa, length, write ? 'write' : 'read');
      if (typeof pin === 'string') {
        this.#unpinAll(pins);
        return pin === 'blocked' ? 'blocked' : 'broken';
      }
      pins.push(pin);
      (write ? writable : readable).push(...pin.pieces);
    }
    return new VirtioRequest(head, pins, readable, writable, segments);
  }

  save(): DeviceState {
    const addresses = Object.fromEntries(ADDRESSES.map(name => [name, this[name]]));
    const { size, enabled } = this;
    return {
      version: VERSION,
      size,
      enabled,
      ...addresses,
      lastAvail: this.#lastAvail,
      usedIndex: this.#usedIndex,
    };
  }

  /** Checks a saved record and returns what puts it in force; throws EINVAL. */
  prepare(state: DeviceState): () => void {
    const reader = new StateReader('virtqueue', state, VERSION);
    const size = reader.number('size', 0xffff);
    const enabled = reader.flag('enabled');
    const addresses = ADDRESSES.map(name => reader.number(name));
    const [lastAvail, usedIndex] = [reader.number('lastAvail', 0xffff), reader.number('usedIndex', 0xffff)];
    return () => {
      this.size = size;
      ADDRESSES.forEach((name, index) => {
        this[name] = addresses[index]!;
      });
      this.enabled = enabled && this.wellFormed;
      this.#lastAvail = lastAvail;
      this.#usedIndex = usedIndex;
    };
  }

  reset(): void {
    this.size = this.sizeMax;
    this.enabled = false;
    for (const name of ADDRESSES) this[name] = 0;
    this.#lastAvail = 0;
    this.#usedIndex = 0;
  }
}

type Descriptor = { low: number; high: number; length: number; flags: number; next: number };

function readDescriptor(table: Table, index: number): Descriptor {
  const at = index * DESC_BYTES;
  const { range } = table;
  return {
    low: range.u32(at),
    high: range.u32(at + 4),
    length: range.u32(at + 8),
    flags: range.u16(at + 12),
    next: range.u16(at + 14),
  };
}

/** Follows a chain; a loop shows as more descriptors than the table has. */
function chain(table: Table, head: number, bytesMax: number): Segment[] | 'broken' {
  const segments: Segment[] = [];
  let bytes = 0;
  let writing = false;
  let index = head;
  for (let count = 0; count < table.entries; count++) {
    if (index >= table.entries) return 'broken';
    const descriptor = readDescriptor(table, index);
    const write = (descriptor.flags & Flag.Write) !== 0;
    // 2.7.4.2: what the device reads comes before what it writes. An indirect table does not nest.
    if ((descriptor.flags & Flag.Indirect) !== 0 || (writing && !write)) return 'broken';
    writing = write;
    bytes += descriptor.length;
    if (bytes > bytesMax || descriptor.high >= ADDRESS_HIGH_MAX) return 'broken';
    const gpa = descriptor.high * 2 ** 32 + descriptor.low;
    if (descriptor.length > 0) segments.push({ gpa, length: descriptor.length, write });
    if ((descriptor.flags & Flag.Next) === 0) return segments;
    index = descriptor.next;
  }
  return 'broken';
}
