import type { Pfn } from '../base/units.ts';
import type { CodeCache } from './code-cache.ts';
import { FenceRequests } from './fence-requests.ts';
import { FLUSH_NAMES, FlushList } from './flush-list.ts';
import { FENCES, FLUSHES, Request, type VcpuPtr, WRITES } from './interface.ts';
import type { Tlb } from './tlb.ts';
import { AT, type CodePtr } from './vcpu.ts';

/**
 * Serves FlushTlb and FlushPages for the runner that holds the vCPU, between two instructions. `AT.codeAdded`
 * names the frames that became code since requests were last tested.
 */
export class FlushRequests {
  readonly #words: Int32Array;
  readonly #tlb: Tlb;
  readonly #cache: CodeCache;
  readonly #list: FlushList;
  readonly #fences: FenceRequests;
  readonly #names = new Int32Array(FLUSH_NAMES);

  readonly #relink: (code: CodePtr) => void;

  /** `relink`: has this thread forget regions that were dropped. */
  constructor(words: Int32Array, tlb: Tlb, cache: CodeCache, relink: (code: CodePtr) => void) {
    this.#relink = relink;
    this.#words = words;
    this.#tlb = tlb;
    this.#cache = cache;
    this.#list = new FlushList(words);
    this.#fences = new FenceRequests(words);
  }

  /**
   * A cleared bit is the acknowledgement. FlushTlb goes last, with the TLB still empty. FlushPages goes first:
   * what was named by then is dropped before this vCPU makes another access, and for what is named from now
   * on the bit is set anew.
   */
  serve(vcpu: VcpuPtr, requests: number): void {
    if ((requests & WRITES) !== 0) this.#dropWrites(vcpu, requests);
    if ((requests & FENCES) !== 0) this.#fence(vcpu, requests);
    if ((requests & FLUSHES) !== 0) this.#flush(vcpu, requests);
  }

  /** All bits go first, and before the fence is read: for one that comes later the bit is set anew. */
  #fence(vcpu: VcpuPtr, requests: number): void {
    Atomics.and(this.#words, vcpu + AT.requests, ~(requests & FENCES));
    if ((requests & Request.FenceI) !== 0) {
      this.noticeDrops(vcpu);
      this.#relink(this.#words[vcpu + AT.code]! as CodePtr);
    }
    if ((requests & Request.FenceVma) !== 0) this.#tlb.flush(vcpu);
    if ((requests & Request.FencePages) !== 0) this.#fences.serve(vcpu, this.#tlb);
  }

  /** The bits first, as in `#fence`. */
  #dropWrites(vcpu: VcpuPtr, requests: number): void {
    Atomics.and(this.#words, vcpu + AT.requests, ~(requests & WRITES));
    const pfn = Atomics.exchange(this.#words, vcpu + AT.writes, 0);
    if ((requests & Request.DropAllWrites) !== 0) this.#tlb.dropAllWrites(vcpu);
    else if (pfn !== 0) this.#tlb.dropWrites(vcpu, pfn);
  }

  #flush(vcpu: VcpuPtr, requests: number): void {
    if ((requests & Request.FlushPages) !== 0) {
      Atomics.and(this.#words, vcpu + AT.requests, ~Request.FlushPages);
    }
    if ((requests & Request.FlushTlb) === 0) {
      this.#dropNamed(vcpu);
      return;
    }
    this.#list.skip(vcpu);
    this.#tlb.flushHost(vcpu);
    this.#dropAdded(vcpu, -1);
    Atomics.and(this.#words, vcpu + AT.requests, ~Request.FlushTlb);
  }

  #dropNamed(vcpu: VcpuPtr): void {
    const count = this.#list.take(vcpu, this.#names);
    // A page that another vCPU made of a frame in the moment of its zap came too late for the zap's own drop.
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    for (let i = 0; i < count; i++) this.#cache.drop(code, this.#names[i]!);
    if (count < 0) this.#tlb.flushHost(vcpu);
    else if (count > 0) this.#tlb.dropFrames(vcpu, this.#names, count);
    this.#dropAdded(vcpu, count);
    this.noticeDrops(vcpu);
  }

  /** Drops Exec entries if decoded pages were dropped by others since the last look; a zap does so to its frame's. */
  noticeDrops(vcpu: VcpuPtr): void {
    const code = this.#words[vcpu + AT.code]! as CodePtr;
    const generation = this.#cache.generation(code);
    if (this.#words[vcpu + AT.codeSeen] === generation) return;
    this.#words[vcpu + AT.codeSeen] = generation;
    this.#tlb.flushExec(vcpu);
  }

  /**
   * Drops the pages, of those named, that became code since requests were last tested. A frame zapped in
   * between may be among them: its drop found nothing, but its flush request is the one that is served now.
   */
  #dropAdded(vcpu: VcpuPtr, count: number): void {
    for (let i = 0; i < 2; i++) {
      const pfn = this.#words[vcpu + AT.codeAdded + i]!;
      const named = count < 0 || this.#isNamed(pfn, count);
      if (pfn !== 0 && named) this.#cache.drop(this.#words[vcpu + AT.code]! as CodePtr, pfn);
    }
    this.forgetAdded(vcpu);
  }

  #isNamed(pfn: Pfn, count: number): boolean {
    for (let i = 0; i < count; i++) if (this.#names[i] === pfn) return true;
    return false;
  }

  /** Requests were tested, and there were none. */
  forgetAdded(vcpu: VcpuPtr): void {
    this.#words[vcpu + AT.codeAdded] = 0;
    this.#words[vcpu + AT.codeAdded + 1] = 0;
  }
}

/** The bit of `requests` by which a vCPU is asked to drop its Write entries for a frame. From any thread. */
export function askWrites(words: Int32Array, vcpu: VcpuPtr, pfn: Pfn): number {
  const taken = Atomics.compareExchange(words, vcpu + AT.writes, 0, pfn) !== 0;
  return taken ? Request.DropAllWrites : Request.DropWrites;
}
