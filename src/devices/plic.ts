import { assert } from '../base/assert.ts';
import type { DeviceState, IrqLine, MmioDevice } from './interface.ts';
import { StateReader } from './state.ts';

// RISC-V Platform-Level Interrupt Controller 1.0.0, as `sifive,plic-1.0.0`: 95 level-triggered sources,
// and two contexts a hart, machine then supervisor. All state is in the words below, so that any runner
// may build a Plic of its own over the same piece of the arena and operate it under the irqchip lock.
//
//   words   0..95   priority of each source; 0 never interrupts
//          96..98   level    what the devices drive, a bit a source
//         99..101   pending  the gateway passed a request on, nobody claimed it
//        102..104   claimed  claimed and not completed: the gateway is closed
//        105..      for each context: enable (3 words), threshold, output (what setExternal was last told)

/** Sources, with the reserved source 0. */
export const PLIC_SOURCES = 96;
const BIT_WORDS = PLIC_SOURCES / 32;
const PRIORITY_MAX = 7;

const PRIORITY = 0;
const LEVEL = PLIC_SOURCES;
const PENDING = LEVEL + BIT_WORDS;
const CLAIMED = PENDING + BIT_WORDS;
const CONTEXTS = CLAIMED + BIT_WORDS;
/** Word offsets inside a context. */
const THRESHOLD = BIT_WORDS;
const OUTPUT = BIT_WORDS + 1;
const CONTEXT_WORDS = BIT_WORDS + 2;

/** Byte offsets of the register window: PLIC specification, chapter 3. */
const PENDING_AT = 0x1000;
const ENABLE_AT = 0x2000;
const ENABLE_STRIDE = 0x80;
const CONTEXT_AT = 0x20_0000;
const CONTEXT_STRIDE = 0x1000;

const VERSION = 1;

export type PlicPorts = {
  /** Harts, each with an M and an S context. */
  readonly harts: number;
  /** Drives SEIP of a hart. Called under the lock, only on a change, and after `load`. */
  setExternal(hart: number, level: boolean): void;
  /** Taken around every operation; none when one thread does all. */
  readonly lock?: { acquire(): void; release(): void };
};

/** The interrupt controller. Holds no state but the words it is given. */
export class Plic implements MmioDevice {
  readonly name = 'plic';
  readonly length = 0x60_0000;
  readonly #words: Int32Array;
  readonly #ports: PlicPorts;
  readonly #contexts: number;

  /** Words of state for so many harts. */
  static words(harts: number): number {
    return CONTEXTS + harts * 2 * CONTEXT_WORDS;
  }

  /** Over words that are zero, or that another Plic works on already. */
  constructor(words: Int32Array, ports: PlicPorts) {
    assert(words.length === Plic.words(ports.harts), 'plic: the words do not fit the harts');
    this.#words = words;
    this.#ports = ports;
    this.#contexts = ports.harts * 2;
  }

  /** Drives one source's level; from the device worker, or any runner. */
  setLevel(source: number, level: boolean): void {
    assert(source > 0 && source < PLIC_SOURCES, 'plic: no such source');
    this.#locked(() => {
      this.#setBit(LEVEL, source, level);
      this.#gateway(source);
    });
  }

  line(source: number): IrqLine {
    return { set: level => this.setLevel(source, level) };
  }

  read(offset: number, bytes: number): number {
    // Specification 3: registers are 32 bits wide; other accesses read zero.
    if (bytes !== 4 || offset % 4 !== 0) return 0;
    return this.#locked(() => this.#readLocked(offset)) >>> 0;
  }

  write(offset: number, bytes: number, value: number): void {
    if (bytes !== 4 || offset % 4 !== 0) return;
    this.#locked(() => this.#writeLocked(offset, value));
  }

  save(): DeviceState {
    return this.#locked(() => ({ version: VERSION, words: Int32Array.from(this.#words) }));
  }

  load(state: DeviceState): void {
    const words = new StateReader(this.name, state, VERSION).words('words', this.#words.length);
    this.#locked(() => {
      this.#words.set(words);
      this.#announce();
    });
  }

  /** Forgets everything but the levels, which belong to the devices. */
  reset(): void {
    this.#locked(() => {
      this.#words.fill(0, PRIORITY, LEVEL);
      this.#words.fill(0, PENDING);
      for (let word = 0; word < BIT_WORDS; word++) this.#words[PENDING + word] = this.#words[LEVEL + word]!;
      this.#announce();
    });
  }

  #locked<T>(operation: () => T): T {
    const lock = this.#ports.lock;
    if (lock === undefined) return operation();
    lock.acquire();
    try {
      return operation();
    } finally {
      lock.release();
    }
  }

  #readLocked(offset: number): number {
    if (offset < PENDING_AT) return this.#priority(offset / 4);
    if (offset < ENABLE_AT) return this.#bitWord(PENDING, (offset - PENDING_AT) / 4);
    if (offset < CONTEXT_AT) {
      const at = offset - ENABLE_AT;
      const context = Math.floor(at / ENABLE_STRIDE);
      return context < this.#contexts ? this.#bitWord(contextAt(context), (at % ENABLE_STRIDE) / 4) : 0;
    }
    const context = Math.floor((offset - CONTEXT_AT) / CONTEXT_STRIDE);
    if (context >= this.#contexts) return 0;
    const register = (offset - CONTEXT_AT) % CONTEXT_STRIDE;
    if (register === 0) return this.#words[contextAt(context) + THRESHOLD]!;
    return register === 4 ? this.#claim(context) : 0;
  }

  #writeLocked(offset: number, value: number): void {
    if (offset < PENDING_AT) this.#setPriority(offset / 4, value);
    else if (offset < ENABLE_AT)
      return; // pending bits are read-only
    else if (offset < CONTEXT_AT) {
      const at = offset - ENABLE_AT;
      this.#setEnable(Math.floor(at / ENABLE_STRIDE), (at % ENABLE_STRIDE) / 4, value);
    } else {
      const at = offset - CONTEXT_AT;
      this.#writeContext(Math.floor(at / CONTEXT_STRIDE), at % CONTEXT_STRIDE, value);
    }
  }

  #writeContext(context: number, register: number, value: number): void {
    if (context >= this.#contexts) return;
    if (register === 0) {
      this.#words[contextAt(context) + THRESHOLD] = value & PRIORITY_MAX;
      this.#update();
    } else if (register === 4) this.#complete(context, value >>> 0);
  }

  #priority(source: number): number {
    return source < PLIC_SOURCES ? this.#words[PRIORITY + source]! : 0;
  }

  #setPriority(source: number, value: number): void {
    if (source === 0 || source >= PLIC_SOURCES) return;
    this.#words[PRIORITY + source] = value & PRIORITY_MAX;
    this.#update();
  }

  #bitWord(base: number, index: number): number {
    return index < BIT_WORDS ? this.#words[base + index]! : 0;
  }

  #setEnable(context: number, index: number, value: number): void {
    if (context >= this.#contexts || index >= BIT_WORDS) return;
    this.#words[contextAt(context) + index] = index === 0 ? value & ~1 : value | 0;
    this.#update();
  }

  #bit(base: number, source: number): boolean {
    return ((this.#words[base + (source >>> 5)]! >>> (source & 31)) & 1) === 1;
  }

  #setBit(base: number, source: number, on: boolean): void {
    const bit = 1 << (source & 31);
    if (on) this.#words[base + (source >>> 5)]! |= bit;
    else this.#words[base + (source >>> 5)]! &= ~bit;
  }

  /**
   * Specification 2: a level-triggered gateway passes one request on and then waits for completion. A
   * request once made stays pending when the level falls; its handler finds nothing to do.
   */
  #gateway(source: number): void {
    if (this.#bit(LEVEL, source) && !this.#bit(CLAIMED, source)) this.#setBit(PENDING, source, true);
    this.#update();
  }

  /** The pending, enabled source of highest priority above `floor`; the lowest number wins a tie. */
  #best(context: number, floor: number): number {
    let best = 0;
    let highest = floor;
    for (let word = 0; word < BIT_WORDS; word++) {
      let bits = this.#words[PENDING + word]! & this.#words[contextAt(context) + word]!;
      while (bits !== 0) {
        const source = word * 32 + (31 - Math.clz32(bits & -bits));
        bits &= bits - 1;
        if (this.#words[PRIORITY + source]! <= highest) continue;
        highest = this.#words[PRIORITY + source]!;
        best = source;
      }
    }
    return best;
  }

  /** Specification 8: the threshold masks the notification, not the claim. */
  #claim(context: number): number {
    const source = this.#best(context, 0);
    if (source === 0) return 0;
    this.#setBit(PENDING, source, false);
    this.#setBit(CLAIMED, source, true);
    this.#update();
    return source;
  }

  /** Specification 9: a completion for a source that the context has not enabled is ignored. */
  #complete(context: number, source: number): void {
    if (source === 0 || source >= PLIC_SOURCES || !this.#bit(contextAt(context), source)) return;
    this.#setBit(CLAIMED, source, false);
    this.#gateway(source);
  }

  #wanted(hart: number): boolean {
    const context = hart * 2 + 1;
    return this.#best(context, this.#words[contextAt(context) + THRESHOLD]!) !== 0;
  }

  #update(): void {
    for (let hart = 0; hart < this.#ports.harts; hart++) {
      const at = contextAt(hart * 2 + 1) + OUTPUT;
      const wanted = this.#wanted(hart);
      if (wanted === (this.#words[at] === 1)) continue;
      this.#words[at] = wanted ? 1 : 0;
      this.#ports.setExternal(hart, wanted);
    }
  }

  /** Tells every hart, changed or not: the other side may know nothing yet. */
  #announce(): void {
    for (let hart = 0; hart < this.#ports.harts; hart++) {
      const wanted = this.#wanted(hart);
      this.#words[contextAt(hart * 2 + 1) + OUTPUT] = wanted ? 1 : 0;
      this.#ports.setExternal(hart, wanted);
    }
  }
}

function contextAt(context: number): number {
  return CONTEXTS + context * CONTEXT_WORDS;
}
