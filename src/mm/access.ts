import { Errno } from '../base/errno.ts';
import { type Hva, PAGE_SIZE, pageNumber } from '../base/units.ts';
import { type Arena, frameByte } from '../sync/arena.ts';
import type { Ptr } from '../sync/struct.ts';
import { GUP_HWPOISON, GUP_NOMEM, GUP_PFN_MASK } from './fault-codes.ts';
import type { Gup } from './gup.ts';
import type { Pages } from './page.ts';

type Mm = Ptr<'mm'>;

export type AccessDeps = { readonly arena: Arena; readonly gup: Gup; readonly pages: Pages };

/** How programs of the VMM read and write an address space by its addresses, faulting as they go (M-25). */
export class Access {
  readonly #deps: AccessDeps;

  constructor(deps: AccessDeps) {
    this.#deps = deps;
  }

  /** Writes bytes at an address. Throws EFAULT, ENOMEM or EHWPOISON; what came before is written. */
  copyToUser(mm: Mm, address: Hva, bytes: Uint8Array): void {
    this.#each(mm, address, bytes.length, true, (at, done, count) => {
      this.#deps.arena.bytes.set(bytes.subarray(done, done + count), at);
    });
  }

  /** Fills `into` from an address. Throws as copyToUser. */
  copyFromUser(mm: Mm, address: Hva, into: Uint8Array): void {
    this.#each(mm, address, into.length, false, (at, done, count) => {
      into.set(this.#deps.arena.bytes.subarray(at, at + count), done);
    });
  }

  /** The byte at an address. Throws as copyToUser. */
  read8(mm: Mm, address: Hva): number {
    const pfn = this.#page(mm, address, false);
    const value = this.#deps.arena.bytes[frameByte(pfn) + (address % PAGE_SIZE)] as number;
    this.#deps.pages.put(pfn);
    return value;
  }

  write8(mm: Mm, address: Hva, value: number): void {
    const pfn = this.#page(mm, address, true);
    this.#deps.arena.bytes[frameByte(pfn) + (address % PAGE_SIZE)] = value;
    this.#deps.pages.put(pfn);
  }

  /** The word at an aligned address, read atomically. Throws as copyToUser. */
  read32(mm: Mm, address: Hva): number {
    const pfn = this.#page(mm, address, false);
    const value = Atomics.load(this.#deps.arena.words, (frameByte(pfn) + (address % PAGE_SIZE)) / 4);
    this.#deps.pages.put(pfn);
    return value;
  }

  write32(mm: Mm, address: Hva, value: number): void {
    const pfn = this.#page(mm, address, true);
    Atomics.store(this.#deps.arena.words, (frameByte(pfn) + (address % PAGE_SIZE)) / 4, value);
    this.#deps.pages.put(pfn);
  }

  #each(
    mm: Mm,
    address: Hva,
    bytes: number,
    write: boolean,
    work: (at: number, done: number, count: number) => void,
  ): void {
    for (let done = 0; done < bytes; ) {
      const offset = (address + done) % PAGE_SIZE;
      const count = Math.min(bytes - done, PAGE_SIZE - offset);
      const pfn = this.#page(mm, address + done, write);
      work(frameByte(pfn) + offset, done, count);
      this.#deps.pages.put(pfn);
      done += count;
    }
  }

  /** With a reference, so that the page stays while it is used. */
  #page(mm: Mm, address: Hva, write: boolean): number {
    const result = this.#deps.gup.fault(mm, pageNumber(address), write);
    if (result >= 0) return result & GUP_PFN_MASK;
    if (result === GUP_NOMEM) throw new Errno('ENOMEM', 'access');
    if (result === GUP_HWPOISON) throw new Errno('EHWPOISON', 'access');
    throw new Errno('EFAULT', 'access', `address 0x${address.toString(16)}`);
  }
}
