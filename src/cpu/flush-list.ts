import type { Pfn } from '../base/units.ts';
import { array, i32, type Ptr, struct } from '../sync/struct.ts';
import type { VcpuPtr } from './interface.ts';
import { AT } from './vcpu.ts';

// Which frames a FlushPages request is about. A list belongs to a VM and is a ring: a zap writes the name of
// its frame, then moves `head`; each vCPU reads from where it stopped, `flushSeen`, up to `head`. Nobody waits
// for a reader: one that is left behind finds that out and drops everything instead.
//
//   names    ... | seen -> p | p | p | <- head, the next to be written |  ...   position n lies at n mod N
//
// A writer stores a name before `head` says so. So what a reader has read is what was written there if, when
// it has read all, `head` is still less than N from `seen`: position seen + N is written over position seen.

/** Names that a list holds, less one: some batches of reclaim (design 11). A power of two. */
export const FLUSH_NAMES = 128;

/** What tests switch off. */
export type FlushListBreaks = {
  /** A reader that was left behind goes by what it finds. */
  forgetOverflow: boolean;
  /** A reader does not look whether it was overtaken while it read. */
  trustNames: boolean;
};

export type FlushListPtr = Ptr<'flushList'>;

/** One thread's view of every list of an arena. */
export class FlushList {
  readonly #words: Int32Array;
  readonly #names: number;
  readonly #fields;
  readonly #breaks: Partial<FlushListBreaks>;

  /** `names`: a power of two, the same on every thread. */
  constructor(words: Int32Array, names = FLUSH_NAMES, breaks: Partial<FlushListBreaks> = {}) {
    this.#words = words;
    this.#names = names;
    this.#fields = struct(words, 'flushList', { head: i32, names: array(names) });
    this.#breaks = breaks;
  }

  /** Words of a list; zeroed, it is empty. */
  get words(): number {
    return this.#fields.words;
  }

  #at(list: FlushListPtr, position: number): number {
    return list + this.#fields.names.at + (position & (this.#names - 1));
  }

  /** Names a frame whose translations must go. One writer at a time: the holder of 'mmu'. */
  add(list: FlushListPtr, pfn: Pfn): void {
    const head = this.#fields.head.load(list);
    Atomics.store(this.#words, this.#at(list, head), pfn);
    this.#fields.head.store(list, (head + 1) | 0);
  }

  /** Names more frames than a list holds: every reader is left behind, and drops everything. As `add`. */
  addAll(list: FlushListPtr): void {
    this.#fields.head.store(list, (this.#fields.head.load(list) + this.#names) | 0);
  }

  /** Ties a vCPU that has cached nothing to a list. */
  join(list: FlushListPtr, vcpu: VcpuPtr): void {
    Atomics.store(this.#words, vcpu + AT.flushSeen, this.#fields.head.load(list));
    Atomics.store(this.#words, vcpu + AT.flushList, list);
  }

  /** True if the list no longer holds all that was named since the vCPU looked. */
  overran(vcpu: VcpuPtr): boolean {
    const list = Atomics.load(this.#words, vcpu + AT.flushList) as FlushListPtr;
    return list === 0 || this.#ahead(list, vcpu) >= this.#names;
  }

  /** Names that wait for the vCPU; modulo 2^32, hence no more than that may come between two flushes. */
  #ahead(list: FlushListPtr, vcpu: VcpuPtr): number {
    return (this.#fields.head.load(list) - Atomics.load(this.#words, vcpu + AT.flushSeen)) >>> 0;
  }

  /**
   * Reads what was named since the vCPU last looked; returns how many into `into`, which has room for a list,
   * or -1 when they are too many, and everything must go. For the vCPU's runner, which has cleared the request
   * before: a name that is added later than that brings a request of its own.
   */
  take(vcpu: VcpuPtr, into: Int32Array): number {
    const list = Atomics.load(this.#words, vcpu + AT.flushList) as FlushListPtr;
    if (list === 0) return -1;
    const seen = Atomics.load(this.#words, vcpu + AT.flushSeen);
    const count = this.#ahead(list, vcpu);
    const { forgetOverflow, trustNames } = this.#breaks;
    if (count >= this.#names && !forgetOverflow) return this.#skip(list, vcpu);
    for (let i = 0; i < count; i++) into[i] = Atomics.load(this.#words, this.#at(list, seen + i));
    const overtaken = this.#ahead(list, vcpu) >= this.#names;
    if (overtaken && !trustNames && !forgetOverflow) return this.#skip(list, vcpu);
    Atomics.store(this.#words, vcpu + AT.flushSeen, (seen + count) | 0);
    return count;
  }

  /** Passes over what is named so far; for who is about to drop everything. */
  skip(vcpu: VcpuPtr): void {
    const list = Atomics.load(this.#words, vcpu + AT.flushList) as FlushListPtr;
    if (list !== 0) this.#skip(list, vcpu);
  }

  #skip(list: FlushListPtr, vcpu: VcpuPtr): number {
    Atomics.store(this.#words, vcpu + AT.flushSeen, this.#fields.head.load(list));
    return -1;
  }
}
