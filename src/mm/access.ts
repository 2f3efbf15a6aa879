import { Errno, type ErrnoCode } from '../base/errno.ts';
import { type Hva, PAGE_SIZE, pageNumber } from '../base/units.ts';
import { type Arena, frameByte } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import type { MmBreaks } from './breaks.ts';
import {
  FAULT_OFFSET_SHIFT,
  FaultFlag,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
} from './fault-codes.ts';
import type { Gup } from './gup.ts';
import type { Pages } from './page.ts';

type Mm = Ptr<'mm'>;

export type AccessDeps = {
  readonly arena: Arena;
  readonly gup: Gup;
  readonly pages: Pages;
  readonly breaks: MmBreaks;
  readonly y: (label: string) => void;
};

/**
 * A direct access met a hole that nobody is asked to fill, and no handler filled it (U-20, U-22): SIGBUS with
 * BUS_ADRERR at the exact address. The access has not happened.
 */
export class UserFaultSigbus extends Errno {
  readonly address: Hva;
  readonly write: boolean;

  constructor(address: Hva, write: boolean) {
    super('EFAULT', 'access', `a user fault at 0x${address.toString(16)}`);
    this.address = address;
    this.write = write;
  }
}

/** A copy stopped half-way: `done` bytes were copied (M-25, U-23). */
export class CopyError extends Errno {
  readonly done: number;

  constructor(code: ErrnoCode, done: number, detail?: string) {
    super(code, 'access', detail);
    this.done = done;
  }
}

/**
 * What a thread does about SIGBUS, in place of a signal handler: fills the hole and says true, and the access
 * is made again, however often; false leaves it to the handler before.
 */
export type SigbusHandler = (mm: Mm, address: Hva, write: boolean) => boolean;

/**
 * How programs of the VMM read and write an address space by its addresses, faulting as they go (M-25). User
 * faults with a manager sleep until they are answered.
 *
 * A read holds its page by a reference: it gives what was there when it was looked up, as nobody else comes to write
 * to a page that is held. A store is a processor's: in force while the entry is, and waited for by who takes the
 * entry's rights.
 */
export class Access {
  readonly #deps: AccessDeps;
  #handlers: readonly SigbusHandler[] = [];

  constructor(deps: AccessDeps) {
    this.#deps = deps;
  }

  /** Lets a handler resolve the user faults of this thread's direct accesses. Returns how to take it off. */
  onSigbus(handler: SigbusHandler): () => void {
    this.#handlers = [handler, ...this.#handlers];
    return () => {
      this.#handlers = this.#handlers.filter(other => other !== handler);
    };
  }

  /** Writes bytes at an address, as a system call does. Throws CopyError: EFAULT, ENOMEM. */
  copyToUser(mm: Mm, address: Hva, bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) {
      const offset = (address + done) % PAGE_SIZE;
      const count = Math.min(bytes.length - done, PAGE_SIZE - offset);
      const held = this.#held(mm, address + done, this.#copyFlags(offset));
      if (held < 0) throw copyError(held, done, address + done);
      this.#deps.arena.bytes.set(bytes.subarray(done, done + count), frameByte(held) + offset);
      this.#landed(held);
      done += count;
    }
  }

  /** Fills `into` from an address. Throws as copyToUser. */
  copyFromUser(mm: Mm, address: Hva, into: Uint8Array): void {
    const { arena, gup, pages } = this.#deps;
    for (let done = 0; done < into.length; ) {
      const offset = (address + done) % PAGE_SIZE;
      const count = Math.min(into.length - done, PAGE_SIZE - offset);
      const result = gup.faultWait(mm, pageNumber(address + done), false, this.#copyFlags(offset));
      if (result < 0) throw copyError(result, done, address + done);
      const pfn = result & GUP_PFN_MASK;
      const at = frameByte(pfn) + offset;
      into.set(arena.bytes.subarray(at, at + count), done);
      pages.put(pfn);
      done += count;
    }
  }

  #copyFlags(offset: number): number {
    const waits = this.#deps.breaks.copyGivesUp ? FaultFlag.NoRetry : 0;
    return FaultFlag.Kernel | waits | (offset << FAULT_OFFSET_SHIFT);
  }

  /** The byte at an address. Throws EFAULT, ENOMEM, EHWPOISON or UserFaultSigbus. */
  read8(mm: Mm, address: Hva): number {
    const pfn = this.#page(mm, address, false);
    const value = this.#deps.arena.bytes[frameByte(pfn) + (address % PAGE_SIZE)] as number;
    this.#deps.pages.put(pfn);
    return value;
  }

  write8(mm: Mm, address: Hva, value: number): void {
    const pfn = this.#page(mm, address, true);
    this.#deps.arena.bytes[frameByte(pfn) + (address % PAGE_SIZE)] = value;
    this.#landed(pfn);
  }

  /** The word at an aligned address, read atomically. Throws as read8. */
  read32(mm: Mm, address: Hva): number {
    const pfn = this.#page(mm, address, false);
    const value = this.#deps.arena.atomics.load((frameByte(pfn) + (address % PAGE_SIZE)) / 4);
    this.#deps.pages.put(pfn);
    return value;
  }

  write32(mm: Mm, address: Hva, value: number): void {
    const pfn = this.#page(mm, address, true);
    this.#deps.arena.atomics.store((frameByte(pfn) + (address % PAGE_SIZE)) / 4, value);
    this.#landed(pfn);
  }

  /**
   * The word at an aligned address as a debugger sees it: never sleeps, and tells nobody of a user fault, which is
   * EFAULT at once, so that it does not hang on who might be the one it looks at (U-35). Throws as copyFromUser.
   */
  peek32(mm: Mm, address: Hva): number {
    const how = FaultFlag.Kernel | FaultFlag.NoRetry;
    const result = this.#deps.gup.fault(mm, pageNumber(address), false, how);
    if (result < 0) throw copyError(result, 0, address);
    const pfn = result & GUP_PFN_MASK;
    const value = Atomics.load(this.#deps.arena.words, (frameByte(pfn) + (address % PAGE_SIZE)) / 4);
    this.#deps.pages.put(pfn);
    return value;
  }

  /** For a read with a reference, so that the page stays while it is used; for a write held (`#held`). */
  #page(mm: Mm, address: Hva, write: boolean): number {
    const how = (address % PAGE_SIZE) << FAULT_OFFSET_SHIFT;
    for (;;) {
      const result = write
        ? this.#held(mm, address, how)
        : this.#deps.gup.faultWait(mm, pageNumber(address), false, how);
      if (result >= 0) return result & GUP_PFN_MASK;
      if (result !== GUP_SIGBUS || !this.#handled(mm, address, write))
        throw accessError(result, address, write);
    }
  }

  /**
   * A frame for one store, or a negative code. From here to `#landed` nothing sleeps, faults or takes a lock: who
   * takes the right to write away waits for it (V-36).
   */
  #held(mm: Mm, address: Hva, how: number): number {
    const { gup, breaks, y } = this.#deps;
    const held = breaks.storeUnheld
      ? gup.faultWait(mm, pageNumber(address), true, how)
      : gup.holdWait(mm, pageNumber(address), how);
    if (held < 0) return held;
    y('A.h');
    return held & GUP_PFN_MASK;
  }

  #landed(pfn: number): void {
    const { pages, breaks, y } = this.#deps;
    y('A.s');
    if (breaks.storeUnheld) pages.put(pfn);
    else pages.endHold(pfn);
  }

  /** U-21: as often as there is a handler that says it has done something. */
  #handled(mm: Mm, address: Hva, write: boolean): boolean {
    const handlers = this.#handlers;
    for (let i = 0; i < handlers.length; i++) if (handlers[i]!(mm, address, write)) return true;
    return false;
  }
}

function accessError(result: number, address: Hva, write: boolean): Errno {
  if (result === GUP_SIGBUS) return new UserFaultSigbus(address, write);
  if (result === GUP_NOMEM) return new Errno('ENOMEM', 'access');
  if (result === GUP_HWPOISON) return new Errno('EHWPOISON', 'access');
  return new Errno('EFAULT', 'access', `address 0x${address.toString(16)}`);
}

/** A system call says EFAULT for a lost page, too (V-60). */
function copyError(result: number, done: number, address: Hva): CopyError {
  return result === GUP_NOMEM
    ? new CopyError('ENOMEM', done)
    : new CopyError('EFAULT', done, `address 0x${address.toString(16)}`);
}
