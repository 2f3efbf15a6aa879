import type { Pfn, Vpn } from '../base/units.ts';
import type { Ptr } from '../sync/struct.ts';

/** What kvm asks of the mm; `MmCore` satisfies it. Result codes are mm/gup's. */
export type MmPorts = {
  readonly gup: {
    /** pfn | GUP_WRITABLE | GUP_HUGE with a reference held, or a negative GUP_ code. `how` is of FaultFlag. */
    fault(mm: Ptr<'mm'>, vpn: Vpn, write: boolean, how?: number): number;
    /** After GUP_BLOCKED: what to wait for and then `finish`; the caller owns it (decision 5). */
    readonly ticket: Ptr<'uffdWait'>;
  };
  readonly uffdWaits: {
    isOver(ticket: Ptr<'uffdWait'>): boolean;
    finish(ticket: Ptr<'uffdWait'>): void;
    /** Sleeps until the ticket is over; managers of this thread work first. */
    wait(ticket: Ptr<'uffdWait'>): void;
    /** As `wait`, for at most so long; true if the ticket is over. */
    waitFor(ticket: Ptr<'uffdWait'>, timeoutMs: number): boolean;
  };
  readonly madvise: {
    /** Throws Errno; see mm/madvise.ts. */
    advise(mm: Ptr<'mm'>, address: number, bytes: number, advice: 'dontneed'): void;
  };
  readonly mmap: {
    /** Anonymous memory, readable and writable; its address. Throws ENOMEM. Takes 'mmap'. */
    map(mm: Ptr<'mm'>, bytes: number): number;
    unmap(mm: Ptr<'mm'>, address: number, bytes: number): void;
  };
  readonly pageTable: {
    /** Does a huge entry map the page, to this frame (any: -1)? Lockless; an invalidation in progress may be about it. */
    mapsHuge(mm: Ptr<'mm'>, vpn: Vpn, pfn: Pfn): boolean;
    /** pfn | GUP_WRITABLE of a page that a 4 KiB entry maps, or -1. As lockless. */
    mapped(mm: Ptr<'mm'>, vpn: Vpn): number;
  };
  readonly pages: {
    put(pfn: Pfn): void;
    setDirty(pfn: Pfn): void;
    setReferenced(pfn: Pfn): void;
  };
  /** For a test that breaks a rule. */
  readonly lru?: {
    /** Reclaim takes the page next. */
    deactivate(pfn: Pfn): void;
  };
  readonly pageAlloc: {
    /** A frame for kernel use, or -1. */
    alloc(): Pfn;
    free(pfn: Pfn): void;
  };
  readonly heap: {
    /** Word index of `words` zeroed words. Throws ENOMEM. */
    alloc(words: number): number;
    free(at: number): void;
  };
};

/** What kvm asks of the CPU. */
export type CpuPortsForKvm = {
  /** Forgets decoded instructions of a frame. Callable from any thread. */
  dropCode(code: number, pfn: Pfn): void;
  /** A slot was published that was not there; may throw, and then it is withdrawn (L-2). Under 'slots'. */
  commitSlot?(vm: Ptr<'vm'>, slot: Ptr<'slot'>): void;
};
