import { Errno } from '../base/errno.ts';
import { FaultlineError } from '../base/error.ts';
import { PAGE_SIZE } from '../base/units.ts';
import type { Guest, Host } from '../machine/host.ts';
import { type GuestFault, GuestUserFaults, type UserFaultMode } from '../machine/user-faults.ts';

/** Bytes of guest physical memory, from `start` on. RAM begins at `memory.ram.start`. */
export type Range = { start: number; length: number };

/** A page that the guest needs. */
export type UserFault = {
  /** Guest physical, of the page. */
  address: number;
  write: boolean;
  /** The page is there, and protected against this write. */
  wp: boolean;
  /** What a machine that starts finds in this page: kernel, initrd, device tree or zeros. */
  readonly initial: Uint8Array;
};

/** Supplies pages, at once or later. What it throws ends the manager, and mostly the guest. */
export type FaultHandler = (fault: UserFault, uffd: Uffd) => void | Promise<void>;

export type UserfaultOptions = {
  mode?: UserFaultMode;
  /** A fault that is not answered within this is a manager that has died; 30 s unless told. */
  answerMs?: number;
  /** What missing pages become when the manager goes: lost (`poison`), zeros, or waited for for ever (V-29). */
  closePolicy?: 'poison' | 'mainline' | 'hang';
};

const ANSWER_MS = 30_000;
const LOOK_MS = 100;
/** Faults are held back while the guest changes what it has; then looked at again after this. */
const DEFERRED_MS = 1;

/**
 * Answers to user faults, and the manager behind them. Throws Errno by Linux's codes: EEXIST for a page that
 * is there, EINVAL for what is not whole pages, EAGAIN while the guest gives memory away, EBADF when closed.
 */
export class Uffd {
  readonly #faults: GuestUserFaults;
  readonly #handler: FaultHandler;
  readonly #initial: (address: number) => Uint8Array;
  readonly #answerMs: number;
  readonly #timer: ReturnType<typeof setInterval>;
  /** When the oldest question about a page was handed to the handler. */
  readonly #asked = new Map<number, number>();
  /** Why the manager has died; undefined while it lives and when it was closed in order. */
  failure: FaultlineError | undefined;

  /** By `Memory.userfault`. */
  constructor(
    host: Host,
    guest: Guest,
    handler: FaultHandler,
    initial: (address: number) => Uint8Array,
    options: UserfaultOptions,
  ) {
    checkOptions(handler, options);
    this.#faults = new GuestUserFaults(host, guest, options.closePolicy);
    this.#handler = handler;
    this.#initial = initial;
    this.#answerMs = options.answerMs ?? ANSWER_MS;
    this.#faults.onFault(fault => this.#ask(fault));
    this.#timer = setInterval(() => this.#look(), LOOK_MS);
    this.#timer.unref?.();
  }

  /** By `Memory.userfault`: from here on the guest asks. */
  arm(range: Range, mode: UserFaultMode): void {
    this.#faults.arm(range.start, range.length, mode);
    void this.#serve();
  }

  /** Faults that were read so far. */
  get count(): number {
    return this.#faults.count;
  }

  /** Fills missing pages with `source`, whole pages of it, and wakes who waits; `wp`: protected against writes. */
  copy(address: number, source: Uint8Array, options: { wp?: boolean } = {}): void {
    if (!(source instanceof Uint8Array)) throw new Errno('EINVAL', 'copy', 'the source is not a Uint8Array');
    this.#faults.copy(address, source, options);
    this.#answered(address, source.length);
  }

  zeropage(address: number, length: number): void {
    this.#faults.zeropage(address, length);
    this.#answered(address, length);
  }

  /** Throws EINVAL: RAM is anonymous memory. */
  continue(address: number, length: number): void {
    this.#faults.continue(address, length);
  }

  /** Content that is lost: the guest ends if it touches it. */
  poison(address: number, length: number): void {
    this.#faults.poison(address, length);
    this.#answered(address, length);
  }

  writeprotect(range: Range, on: boolean): void {
    this.#faults.writeprotect(range.start, range.length, on);
    if (!on) this.#answered(range.start, range.length);
  }

  wake(range: Range): void {
    this.#faults.wake(range.start, range.length);
    this.#answered(range.start, range.length);
  }

  /** Ends the manager; pages still missing become what the policy says. */
  close(): void {
    clearInterval(this.#timer);
    this.#asked.clear();
    this.#faults.close();
  }

  async #serve(): Promise<void> {
    while (this.#faults.open) {
      const seen = this.#faults.seen();
      try {
        this.#faults.serve();
      } catch (error) {
        // A page that the guest gave away could not be had again, for lack of memory.
        this.#fail(`an empty page cannot be filled: ${String(error)}`, error);
        return;
      }
      if (this.#faults.deferred) await new Promise(resolve => setTimeout(resolve, DEFERRED_MS));
      else if (this.#faults.open) await this.#faults.more(seen);
    }
  }

  #ask(fault: GuestFault): void {
    const { address, write, wp } = fault;
    if (!this.#asked.has(address)) this.#asked.set(address, performance.now());
    const initial = this.#initial;
    const asked: UserFault = {
      ...{ address, write, wp },
      get initial() {
        return initial(address);
      },
    };
    try {
      const answering = this.#handler(asked, this);
      if (answering instanceof Promise) answering.catch((error: unknown) => this.#threw(fault, error));
    } catch (error) {
      this.#threw(fault, error);
    }
  }

  /**
   * Two answers to one question are none too few, but a page that is there is no answer to a write that is protected:
   * the guest would ask for ever. Anything else the handler should have caught.
   */
  #threw(fault: GuestFault, error: unknown): void {
    if (!this.#faults.open) return;
    const code = error instanceof Errno ? error.code : undefined;
    if (code === 'EEXIST' && !fault.wp) this.wake({ start: fault.address, length: PAGE_SIZE });
    else if (code === 'EAGAIN') this.#faults.putBack(fault);
    else this.#fail(`the handler failed at 0x${fault.address.toString(16)}: ${String(error)}`, error);
  }

  #answered(address: number, length: number): void {
    for (let at = address; at < address + length && this.#asked.size > 0; at += PAGE_SIZE)
      this.#asked.delete(at);
  }

  /** Nobody waits for ever. The map is in order of asking. */
  #look(): void {
    for (const [address, since] of this.#asked) {
      if (performance.now() - since < this.#answerMs) return;
      this.#fail(`nobody answered at 0x${address.toString(16)} within ${this.#answerMs} ms`);
      return;
    }
  }

  #fail(message: string, cause?: unknown): void {
    this.failure ??= new FaultlineError('E_USER_FAULT', `user faults: ${message}`, {
      ...(cause === undefined ? {} : { cause }),
      hint: 'answer each fault with copy, zeropage or poison',
    });
    this.close();
  }
}

/** A policy that is none would be Linux's, which is zeros in the place of content. Throws E_USAGE. */
function checkOptions(
  handler: FaultHandler,
  { closePolicy = 'poison', answerMs = 1 }: UserfaultOptions,
): void {
  const usage = (message: string): never => {
    throw new FaultlineError('E_USAGE', `user faults: ${message}`, {
      hint: "userfault(range, (fault, uffd) => uffd.copy(fault.address, page), { closePolicy: 'poison' })",
    });
  };
  if (typeof handler !== 'function') usage('the handler is not a function');
  if (!['poison', 'mainline', 'hang'].includes(closePolicy)) usage(`'${closePolicy}' is no closePolicy`);
  if (!(answerMs > 0)) usage(`answerMs: ${answerMs} is no time`);
}
