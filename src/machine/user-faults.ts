import { assert } from '../base/assert.ts';
import { ERRNO, Errno, type ErrnoCode } from '../base/errno.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { type ClosePolicy, UffdFeature, UffdMode, type UserfaultEvent, Userfaultfd } from '../mm/index.ts';
import { UffdFill } from '../mm/userfaultfd/mfill.ts';
import { UffdWriteProtect } from '../mm/userfaultfd/writeprotect.ts';
import type { Guest, Host } from './host.ts';
import { RAM_BASE } from './memory-map.ts';

/** A guest, or a device of it, needs a page that we have to supply. Addresses are guest physical. */
export type GuestFault = { address: number; write: boolean; wp: boolean };

export type UserFaultMode = 'missing' | 'wp' | 'minor';

/**
 * One thread's management of the user faults of a guest: what it is asked, by guest physical address, and how it
 * answers. What the guest gives away (balloon, free page reporting) is known from then on to be empty, and filled
 * with zeros without asking, never from the source again (V-56, S-11).
 */
export class GuestUserFaults {
  readonly #host: Host;
  readonly #guest: Guest;
  readonly #fd: Userfaultfd;
  /** Read, and not handed on yet. */
  readonly #waiting: GuestFault[] = [];
  /** A bit for each page of RAM that was given away. */
  readonly #empty: Uint8Array;
  readonly #endServing: () => void;
  #handle: ((fault: GuestFault) => void) | undefined;
  #open = true;
  /** Faults read so far. */
  count = 0;

  /** Throws ENOMEM and ESRCH. `closePolicy`: what holes become when the manager goes (V-29). */
  constructor(host: Host, guest: Guest, closePolicy: ClosePolicy = 'poison') {
    this.#host = host;
    this.#guest = guest;
    this.#fd = Userfaultfd.create(host.mm, guest.mm, { nonBlock: true, closePolicy });
    this.#fd.api(UffdFeature.EventRemove | UffdFeature.WpUnpopulated);
    this.#empty = new Uint8Array(Math.ceil(guest.bytes / PAGE_SIZE / 8));
    this.#endServing = host.mm.uffdWaits.serveInline(this.#fd.ctx, () => this.serve());
  }

  /** Asks for what [address, address + length) is missing, or for writes to it. Throws by V-11, EINVAL first. */
  arm(address: number, length: number, mode: UserFaultMode): void {
    const modes = { missing: UffdMode.Missing, wp: UffdMode.Wp, minor: UffdMode.Minor };
    if (modes[mode] === undefined) throw new Errno('EINVAL', 'register', 'unknown mode');
    this.#fd.register(this.#hva(address, length), length, modes[mode]);
    if (mode === 'wp') this.writeprotect(address, length, true);
  }

  /** Who answers; called by `serve`, and when this thread itself would sleep in a fault. */
  onFault(handle: (fault: GuestFault) => void): void {
    this.#handle = handle;
  }

  /**
   * Reads what there is and hands it to the handler; true if there was anything. While the guest is changing what
   * it has, faults wait for their turn, since answers would be refused (V-54).
   */
  serve(): boolean {
    if (!this.#open) return false;
    let worked = this.#drain();
    const { uffds } = this.#host.mm;
    while (this.#open && this.#handle !== undefined && !uffds.isChanging(this.#fd.ctx)) {
      const fault = this.#waiting.shift();
      if (fault === undefined) break;
      worked = true;
      this.#answer(fault, this.#handle);
    }
    return worked;
  }

  /** True if faults wait for a change to end. */
  get deferred(): boolean {
    return this.#waiting.length > 0;
  }

  #drain(): boolean {
    let worked = false;
    for (let event = this.#fd.tryRead(); event !== undefined; event = this.#fd.tryRead()) {
      this.#take(event);
      worked = true;
    }
    return worked;
  }

  #take(event: UserfaultEvent): void {
    if (event.event === 'pagefault') {
      this.count++;
      this.#waiting.push({ address: this.#gpa(event.address), write: event.write, wp: event.wp });
    } else if (event.event === 'remove' && !this.#host.breaks.forgetRemoved) {
      const first = (this.#gpa(event.start) - RAM_BASE) / PAGE_SIZE;
      const end = (this.#gpa(event.end) - RAM_BASE) / PAGE_SIZE;
      for (let page = first; page < end; page++) this.#empty[page >>> 3]! |= 1 << (page & 7);
    }
  }

  #answer(fault: GuestFault, handle: (fault: GuestFault) => void): void {
    if (fault.wp || !this.isEmpty(fault.address)) {
      handle(fault);
      return;
    }
    try {
      this.zeropage(fault.address, PAGE_SIZE);
    } catch (error) {
      if (!(error instanceof Errno && ['EEXIST', 'EAGAIN'].includes(error.code))) throw error;
      if (error.code === 'EAGAIN') this.#waiting.push(fault);
    }
  }

  /** To be handed on again: it could not be answered yet. */
  putBack(fault: GuestFault): void {
    this.#waiting.push(fault);
  }

  /** The guest has given this page away: nobody's source has its content any more. */
  isEmpty(address: number): boolean {
    const page = Math.floor((address - RAM_BASE) / PAGE_SIZE);
    return (this.#empty[page >>> 3]! & (1 << (page & 7))) !== 0;
  }

  /** Fills holes with `bytes`, whole pages of them. Throws Errno by V-30, V-31: EEXIST where a page is. */
  copy(address: number, source: Uint8Array, { wp = false }: { wp?: boolean } = {}): void {
    const { mfill } = this.#host.mm;
    const mode = wp ? UffdFill.Wp : 0;
    this.#fill('copy', address, source.length, (at, length, done) =>
      mfill.copy(this.#fd.ctx, at, source, length, mode, done),
    );
  }

  zeropage(address: number, length: number): void {
    const { mfill } = this.#host.mm;
    this.#fill('zeropage', address, length, (at, rest) => mfill.zeropage(this.#fd.ctx, at, rest));
  }

  /** Content that is lost: whoever touches it fails (V-34). */
  poison(address: number, length: number): void {
    const { mfill } = this.#host.mm;
    this.#fill('poison', address, length, (at, rest) => mfill.poison(this.#fd.ctx, at, rest));
  }

  /** EINVAL, as RAM is anonymous memory (V-33). */
  continue(address: number, length: number): void {
    const { mfill } = this.#host.mm;
    this.#fill('continue', address, length, (at, rest) => mfill.continue(this.#fd.ctx, at, rest));
  }

  /** Asks for writes to a range, or lets them through and wakes who waits (V-36). */
  writeprotect(address: number, length: number, on: boolean): void {
    this.#live();
    const at = this.#hva(address, length);
    const mode = on ? UffdWriteProtect.Wp : 0;
    for (;;) {
      const code = this.#host.mm.writeProtect.protect(this.#fd.ctx, at, length, mode);
      if (code === 0) return;
      if (code !== -ERRNO.EAGAIN || !this.#settle()) throw errnoOf('writeprotect', code);
    }
  }

  wake(address: number, length: number): void {
    this.#live();
    this.#fd.wake(this.#hva(address, length), length);
  }

  /** As far as it goes, then on from there; what was done stays done. */
  #fill(
    call: string,
    address: number,
    length: number,
    fill: (at: number, length: number, done: number) => number,
  ): void {
    this.#live();
    const at = this.#hva(address, length);
    for (let done = 0; ; ) {
      const code = fill(at + done, length - done, done);
      if (code === 0) return;
      const { result = 0 } = this.#host.mm.mfill;
      if (code !== -ERRNO.EAGAIN || (result <= 0 && !this.#settle())) throw errnoOf(call, code);
      done += Math.max(result, 0);
    }
  }

  /** The guest changes what it has: hears of it, and gives it a moment. False when it takes longer. */
  #settle(): boolean {
    const { uffds, sync, layout } = this.#host.mm;
    const { ctx } = this.#fd;
    this.#drain();
    if (!sync.arena.shared) return !uffds.isChanging(ctx);
    for (let tries = 0; tries < 50 && uffds.isChanging(ctx); tries++) {
      const at = ctx + layout.uffd.mmapChanging.at;
      sync.waiter.wait(at, Atomics.load(sync.words, at), 0.2);
      this.#drain();
    }
    return !uffds.isChanging(ctx);
  }

  /** A number that changes when there may be more to read. */
  seen(): number {
    return this.#host.mm.uffdRead.seen(this.#fd.ctx);
  }

  /** Resolves when there may be more than at `seen`. */
  more(seen: number): Promise<void> {
    return this.#host.mm.uffdRead.waitAsync(this.#fd.ctx, seen);
  }

  get open(): boolean {
    return this.#open;
  }

  /** The manager goes; what is still missing becomes what the policy says, and nobody waits any more. */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#endServing();
    this.#fd.close();
  }

  #live(): void {
    if (!this.#open) throw new Errno('EBADF', 'userfaultfd', 'closed');
  }

  #gpa(hva: number): number {
    return hva - this.#guest.hva + RAM_BASE;
  }

  /** Throws EINVAL for what is not in RAM; alignment is left to the calls. */
  #hva(address: number, length: number): number {
    const offset = address - RAM_BASE;
    if (!(offset >= 0 && length >= 0 && offset + length <= this.#guest.bytes))
      throw new Errno('EINVAL', 'userfaultfd', 'the range is not in RAM');
    return this.#guest.hva + offset;
  }
}

function errnoOf(call: string, code: number): Errno {
  const name = (Object.keys(ERRNO) as ErrnoCode[]).find(key => ERRNO[key] === -code);
  assert(name !== undefined, 'userfaultfd: an error without a name');
  return new Errno(name, call);
}
