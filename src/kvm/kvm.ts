import type { Vpn } from '../base/units.ts';
import { FLUSH_NAMES } from '../cpu/flush-list.ts';
import { Request } from '../cpu/interface.ts';
import { AT } from '../cpu/vcpu.ts';
import type { MmuNotifierOps } from '../mm/mmu-notifier-ops.ts';
import { Srcu } from '../sync/srcu.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Sync } from '../sync/sync.ts';
import { type KvmBreaks, MARK, NO_BREAKS } from './breaks.ts';
import { KvmFault } from './fault.ts';
import { type GfnRange, hvaRange } from './hva-range.ts';
import { type KvmLayout, kvmLayout, Spte, sptePfn } from './layout.ts';
import { Memslots } from './memslots.ts';
import { KvmMmu, nextArea } from './mmu.ts';
import { modernNotifier } from './notifier.ts';
import { Pins } from './pins.ts';
import type { CpuPortsForKvm, MmPorts } from './ports.ts';
import { Requests } from './requests.ts';
import { KvmRmap } from './rmap.ts';
import { seqlockNotifier } from './seqlock-notifier.ts';
import { ZapAll } from './zap-all.ts';

type Vm = Ptr<'vm'>;

/** One thread's view of every VM of an arena: the tables' classes, pointer first. Holds no shared state. */
export class Kvm {
  readonly sync: Sync;
  readonly words: Int32Array;
  readonly layout: KvmLayout;
  readonly mm: MmPorts;
  readonly cpu: CpuPortsForKvm;
  readonly breaks: KvmBreaks;
  readonly srcu: Srcu;
  readonly memslots: Memslots;
  readonly rmap: KvmRmap;
  readonly mmu: KvmMmu;
  readonly fault: KvmFault;
  readonly requests: Requests;
  readonly pins: Pins;
  readonly #zapAll: ZapAll;
  /** Word offsets of the vCPU fields that requesters touch. */
  readonly vcpuFields = { mode: AT.mode, requests: AT.requests, running: AT.running } as const;
  /** Notifier tables by protocol; register both with the mm's MmuNotifiers on every thread. */
  readonly modern: MmuNotifierOps;
  readonly seqlock: MmuNotifierOps;
  readonly #range: GfnRange = { slot: 0 as Ptr<'slot'>, first: 0, last: 0 };

  /** `flushNames`: see FlushList; another than the CPU's is for tests. */
  constructor(
    sync: Sync,
    mm: MmPorts,
    cpu: CpuPortsForKvm,
    breaks: Partial<KvmBreaks> = {},
    flushNames = FLUSH_NAMES,
  ) {
    this.sync = sync;
    this.words = sync.words;
    this.layout = kvmLayout(sync.words);
    this.mm = mm;
    this.cpu = cpu;
    this.breaks = { ...NO_BREAKS, ...breaks };
    this.srcu = new Srcu(sync);
    this.memslots = new Memslots(this);
    this.rmap = new KvmRmap(this);
    this.mmu = new KvmMmu(this);
    this.fault = new KvmFault(this);
    this.requests = new Requests(this, flushNames);
    this.pins = new Pins(this);
    this.#zapAll = new ZapAll(this);
    this.modern = modernNotifier(this);
    this.seqlock = seqlockNotifier(this);
  }

  /** Is a rule that is switched off so for this frame? For tests only. */
  isBroken(pfn: number): boolean {
    return !this.breaks.onlyMarked || Atomics.load(this.words, pfn * 1024) === MARK;
  }

  hvaRange(set: Ptr<'slots'>, n: number, start: Vpn, end: Vpn, into: GfnRange): Ptr<'slot'> {
    return hvaRange(this.words, this.layout, set, n, start, end, into);
  }

  /** True if any slot of the set is backed by a page of [start, end). */
  backs(set: Ptr<'slots'>, start: Vpn, end: Vpn): boolean {
    for (let i = 0; this.hvaRange(set, i, start, end, this.#range) !== 0; i++) {
      if (this.#range.first !== this.#range.last) return true;
    }
    return false;
  }

  /**
   * Were any leaves of [start, end) used? Asks all leaves of all slots, never stopping at the first (N-3);
   * clears their accessed bits if told; flushes if told and any was young (K-13, K-50).
   */
  age(vm: Vm, start: Vpn, end: Vpn, clear: boolean, flush: boolean): boolean {
    const { vm: v } = this.layout;
    if (v.noAccessed.get(vm) !== 0) return this.#ageByUnmapping(vm, start, end, clear);
    const token = this.srcu.readLock(vm + v.srcuIndex.at);
    this.sync.lock('mmu', vm + v.mmuLock.at);
    this.sync.y('A.l');
    const set = this.memslots.active(vm);
    let young = false;
    for (let i = 0; this.hvaRange(set, i, start, end, this.#range) !== 0; i++) {
      if (this.breaks.ageShortCircuit && young) break;
      young = this.#ageRange(vm, clear, flush) || young;
    }
    this.sync.y('A.z');
    if (clear && young) v.aged.add(vm, 1);
    if (this.breaks.ageMovesSequence) this.moveSequence(vm);
    this.sync.unlock('mmu', vm + v.mmuLock.at);
    this.sync.y('A.u');
    if (flush && young) this.requests.flushRemoteTlbs(vm);
    this.sync.y('A.f');
    this.srcu.readUnlock(vm + v.srcuIndex.at, token);
    return young;
  }

  /** Without accessed bits what is mapped counts as used, and goes: the next use is a fault (K-13). */
  #ageByUnmapping(vm: Vm, start: Vpn, end: Vpn, clear: boolean): boolean {
    const { vm: v } = this.layout;
    const keep = !clear || this.breaks.ageKeepsLeaves;
    const token = this.srcu.readLock(vm + v.srcuIndex.at);
    this.sync.lock('mmu', vm + v.mmuLock.at);
    this.pins.begin();
    const set = this.memslots.active(vm);
    let zapped = 0;
    let mapped = false;
    for (let i = 0; this.hvaRange(set, i, start, end, this.#range) !== 0; i++) {
      const { slot, first, last } = this.#range;
      if (keep) mapped = this.#isMapped(slot, first, last) || mapped;
      else zapped += this.mmu.zapRange(vm, slot, first, last, this.pins.remember);
    }
    if (zapped > 0) this.requests.flushRemoteTlbs(vm);
    this.sync.unlock('mmu', vm + v.mmuLock.at);
    this.pins.release(vm);
    this.srcu.readUnlock(vm + v.srcuIndex.at, token);
    return mapped || zapped > 0;
  }

  #isMapped(slot: Ptr<'slot'>, first: number, last: number): boolean {
    for (let gfn = first; gfn < last; gfn++)
      for (const level of [0, 1]) if (this.rmap.first(this.rmap.head(slot, gfn, level)) !== 0) return true;
    return false;
  }

  /** Whoever samples before and checks after begins again. Requires: 'mmu'. */
  moveSequence(vm: Vm): void {
    this.layout.vm.seq.add(vm, 1);
    this.layout.vm.invSeq.add(vm, 2);
  }

  #ageRange(vm: Vm, clear: boolean, flush: boolean): boolean {
    const { slot, first, last } = this.#range;
    let young = false;
    for (let gfn = first; gfn < last; gfn++) {
      if (this.breaks.ageShortCircuit && young) return true;
      young = this.#ageLeaves(vm, this.rmap.head(slot, gfn, 0), clear, flush) || young;
    }
    // A 2 MiB leaf has one bit for all that it maps (T-AGE-13).
    for (let gfn = first; gfn < last && !this.breaks.smallLeavesOnly; gfn = nextArea(gfn)) {
      if (this.breaks.ageShortCircuit && young) return true;
      young = this.#ageLeaves(vm, this.rmap.head(slot, gfn, 1), clear, flush) || young;
    }
    return young;
  }

  #ageLeaves(vm: Vm, head: number, clear: boolean, flush: boolean): boolean {
    let young = false;
    for (let n = 0, leaf = this.rmap.nth(head, 0); leaf !== 0; leaf = this.rmap.nth(head, ++n)) {
      if (this.breaks.ageShortCircuit && young) return true;
      const was = clear ? this.mmu.clearYoung(leaf) : this.mmu.isYoung(leaf);
      if (was && flush) this.#name(vm, Atomics.load(this.words, leaf));
      young = was || young;
    }
    return young;
  }

  #name(vm: Vm, leaf: number): void {
    if ((leaf & Spte.Huge) !== 0) this.requests.nameAll(vm);
    else this.requests.name(vm, sptePfn(leaf));
  }

  /**
   * Makes every vCPU refill its TLB once, without waiting: accessed bits are set at refill, so the hottest
   * pages, which never miss, would look oldest (design 11).
   */
  bumpTlbs(vm: Vm): void {
    if (this.breaks.noAgeingBump) return;
    this.layout.vm.tlbFlush.add(vm, 1);
    this.requests.makeAll(vm, Request.FlushTlb);
  }

  /** Zaps everything by generation (K-34). False, with nothing done, when there is no frame for new roots. */
  zapAll(vm: Vm): boolean {
    return this.#zapAll.run(vm);
  }

  /**
   * The mm is going away and its faults fail by now: those that have a frame in hand must notice, then
   * every leaf is dropped (N-19). Idempotent.
   */
  releaseMm(vm: Vm): void {
    const { vm: v } = this.layout;
    this.sync.lock('mmu', vm + v.mmuLock.at);
    this.moveSequence(vm);
    this.sync.unlock('mmu', vm + v.mmuLock.at);
    const token = this.srcu.readLock(vm + v.srcuIndex.at);
    const set = this.memslots.active(vm);
    const count = this.layout.slots.count.get(set);
    for (let i = 0; i < count; i++) this.mmu.zapSlot(vm, this.memslots.at(set, i));
    this.srcu.readUnlock(vm + v.srcuIndex.at, token);
  }
}
