import { Errno } from '../base/errno.ts';
import { PAGE_SIZE, type Pfn, pageNumber } from '../base/units.ts';
import { Miss, Request } from '../cpu/interface.ts';
import { FaultFlag, GUP_BLOCKED, GUP_PFN_MASK, GUP_SIGBUS } from '../mm/fault-codes.ts';
import { frameByte } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { Kvm } from './kvm.ts';
import { SlotFlag } from './layout.ts';

type Vm = Ptr<'vm'>;
type PinMiss = 'blocked' | 'fault';
type Pin = { readonly pieces: readonly Uint8Array[]; readonly pfns: readonly Pfn[] };

/** Decides, per page, whether a pin is answered `blocked` though the page is there: for tests (design 6). */
export type BlockedSometimes = () => boolean;

export type VmMemoryOptions = {
  readonly blocked?: BlockedSometimes | undefined;
  /**
   * A hole that nobody is asked to fill (U-23): fills it on this thread and says true, or leaves it, which is
   * the end of the device's work.
   */
  readonly sigbus?: ((gpa: number, write: boolean) => boolean) | undefined;
};

/**
 * Guest physical memory for devices: pages are found through the mm, and held by a reference while they are
 * pinned, so that reclaim leaves them alone (N-22). Has no side effect when it answers `blocked`.
 */
export class VmMemory {
  readonly #kvm: Kvm;
  readonly #vm: Vm;
  readonly #options: VmMemoryOptions;
  /** User faults of devices that are being answered, by guest frame (decision 5). */
  readonly #tickets = new Map<number, Ptr<'uffdWait'>>();
  /** A pin found no memory left, or lost content: the device that asked is broken, so the run must end. */
  failed = false;

  constructor(kvm: Kvm, vm: Vm, options: VmMemoryOptions = {}) {
    this.#kvm = kvm;
    this.#vm = vm;
    this.#options = options;
  }

  pin(gpa: number, length: number, access: 'read' | 'write'): Pin | PinMiss {
    const pieces: Uint8Array[] = [];
    const pfns: Pfn[] = [];
    let at = gpa;
    let left = length;
    while (left > 0) {
      const offset = at % PAGE_SIZE;
      const bytes = Math.min(left, PAGE_SIZE - offset);
      const pfn = this.#pinPage(pageNumber(at), access === 'write');
      if (pfn < 0) {
        for (const held of pfns) this.#kvm.mm.pages.put(held);
        return pfn === Miss.Blocked ? 'blocked' : 'fault';
      }
      pfns.push(pfn);
      const start = frameByte(pfn) + offset;
      pieces.push(this.#kvm.sync.arena.bytes.subarray(start, start + bytes));
      at += bytes;
      left -= bytes;
    }
    if (access === 'write') this.#written(pfns);
    return { pieces, pfns };
  }

  unpin(pin: { readonly pieces: readonly Uint8Array[] }): void {
    for (const pfn of (pin as Pin).pfns) this.#kvm.mm.pages.put(pfn);
  }

  /**
   * The guest does without [gpa, gpa + length), whole pages: MADV_DONTNEED of what backs them, so that they
   * are holes, which read as zero or ask whoever is armed there (O-6). What no slot backs is passed over. False:
   * not now, ask again.
   */
  discard(gpa: number, length: number): boolean {
    const { layout, srcu } = this.#kvm;
    const token = srcu.readLock(this.#vm + layout.vm.srcuIndex.at);
    try {
      return this.#discard(gpa, length);
    } finally {
      srcu.readUnlock(this.#vm + layout.vm.srcuIndex.at, token);
    }
  }

  /** Requires: slots held still by a read section. */
  #discard(gpa: number, length: number): boolean {
    const { layout, memslots, mm } = this.#kvm;
    const set = memslots.active(this.#vm);
    const [first, end] = [pageNumber(gpa), pageNumber(gpa + length)];
    for (let i = 0; i < layout.slots.count.get(set); i++) {
      const slot = memslots.at(set, i);
      const { gfn, npages, space, flags } = layout.slot;
      const from = Math.max(first, gfn.get(slot));
      const to = Math.min(end, gfn.get(slot) + npages.get(slot));
      if (from >= to || space.get(slot) !== 0 || (flags.get(slot) & SlotFlag.ReadOnly) !== 0) continue;
      const hva = memslots.vpnOf(slot, from) * PAGE_SIZE;
      if (
        !advised(() =>
          mm.madvise.advise(layout.vm.mm.get(this.#vm), hva, (to - from) * PAGE_SIZE, 'dontneed'),
        )
      )
        return false;
    }
    return true;
  }

  /** One page, with a reference; a negative Miss otherwise. */
  #pinPage(gfn: number, write: boolean): Pfn | number {
    const { layout, memslots, srcu } = this.#kvm;
    if (this.#options.blocked?.() || this.#isWaiting(gfn)) return Miss.Blocked;
    const token = srcu.readLock(this.#vm + layout.vm.srcuIndex.at);
    const slot = gfn < 2 ** 27 ? memslots.find(memslots.active(this.#vm), 0, gfn) : 0;
    let result: number = Miss.Fault;
    if (slot !== 0 && !(write && (layout.slot.flags.get(slot as Ptr<'slot'>) & SlotFlag.ReadOnly) !== 0)) {
      const vpn = memslots.vpnOf(slot as Ptr<'slot'>, gfn);
      result = this.#fault(gfn, vpn, write);
    }
    srcu.readUnlock(this.#vm + layout.vm.srcuIndex.at, token);
    return result;
  }

  #fault(gfn: number, vpn: number, write: boolean): number {
    const { layout, mm } = this.#kvm;
    for (;;) {
      const found = mm.gup.fault(layout.vm.mm.get(this.#vm), vpn, write, FaultFlag.Kernel);
      if (found >= 0) return found & GUP_PFN_MASK;
      if (found !== GUP_SIGBUS || !this.#options.sigbus?.(gfn * PAGE_SIZE, write))
        return this.#missed(gfn, found);
    }
  }

  /** What somebody of this guest's devices waits for, or 0. */
  get ticket(): Ptr<'uffdWait'> {
    for (const ticket of this.#tickets.values()) if (!this.#kvm.mm.uffdWaits.isOver(ticket)) return ticket;
    return 0 as Ptr<'uffdWait'>;
  }

  /** Is the frame asked for, and not here yet? What has come is done with. */
  #isWaiting(gfn: number): boolean {
    if (this.#tickets.size === 0) return false;
    const { uffdWaits } = this.#kvm.mm;
    for (const [at, ticket] of this.#tickets) {
      if (!uffdWaits.isOver(ticket)) continue;
      this.#tickets.delete(at);
      uffdWaits.finish(ticket);
    }
    return this.#tickets.has(gfn);
  }

  /** Sleeps until what blocked the last pin has come. */
  waitBlocked(): void {
    if (this.ticket !== 0) this.#kvm.mm.uffdWaits.wait(this.ticket);
  }

  /** Gives up waiting for pages. The guest is about to go. */
  close(): void {
    for (const ticket of this.#tickets.values()) this.#kvm.mm.uffdWaits.finish(ticket);
    this.#tickets.clear();
  }

  #missed(gfn: number, code: number): number {
    const { ticket } = this.#kvm.mm.gup;
    if (code === GUP_BLOCKED && ticket !== 0) this.#tickets.set(gfn, ticket);
    if (code === GUP_BLOCKED) return Miss.Blocked;
    this.failed = true;
    this.#kvm.fault.lastGup = code;
    return Miss.Fault;
  }

  /** DMA changes bytes behind the CPU's back: the page is dirty, and decoded instructions of it are stale. */
  #written(pfns: readonly Pfn[]): void {
    const { layout, cpu, mm, requests } = this.#kvm;
    const code = layout.vm.code.get(this.#vm);
    for (const pfn of pfns) {
      mm.pages.setDirty(pfn);
      if (code !== 0) cpu.dropCode(code, pfn);
    }
    if (code !== 0) requests.makeAll(this.#vm, Request.Kick);
  }
}

/** Advice that the mm has no use for, because what was there is gone or locked, is no failure. */
function advised(advise: () => void): boolean {
  try {
    advise();
    return true;
  } catch (error) {
    if (!(error instanceof Errno)) throw error;
    return error.code !== 'EAGAIN';
  }
}
