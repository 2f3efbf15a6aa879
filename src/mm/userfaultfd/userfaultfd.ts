import { Errno } from '../../base/errno.ts';
import { type Hva, PAGE_SIZE } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { MESSAGE_BYTES, type UffdMessage } from './read.ts';
import { checkRange } from './register.ts';
import {
  Poll,
  UFFD_API,
  UffdEvent,
  UffdFault,
  UffdFeature,
  UffdFlag,
  UffdIoctl,
  UffdState,
} from './state.ts';

// How a program is asked for pages:
//
//   const userfault = Userfaultfd.create(core, mm, { closePolicy: 'poison' });
//   userfault.api(UffdFeature.EventRemove);
//   userfault.register(address, bytes, UffdMode.Missing);
//   for await (const event of userfault) …             a page's or a server's main thread
//   userfault.read()                                   a worker; sleeps until there is something
//   userfault.serveInline(event => …)                  the thread that faults is the manager, too
//   core.mfill.copy(userfault.ctx, …)                  answers (mfill.ts, move.ts, writeprotect.ts)
//   userfault.close()                                  what is left becomes what closePolicy says
//
// Who faults asks `core.gup.fault(mm, vpn, write, how)`. After GUP_BLOCKED it owns `core.gup.ticket`: it waits by
// `core.uffdWaits` (wait, waitFor, waitAsync, or isOver from time to time), calls `finish` once, on every way out,
// and faults again from the start. `core.gup.faultWait` does all that for a thread that may sleep.

type Mm = Ptr<'mm'>;
type Uffd = Ptr<'uffd'>;

/** What holes become when the last descriptor closes (V-29). */
export type ClosePolicy = 'mainline' | 'poison' | 'hang';

export type UserfaultfdOptions = {
  nonBlock?: boolean;
  closeOnExec?: boolean;
  /** Faults made by system calls and by KVM are refused (V-1). */
  userModeOnly?: boolean;
  closePolicy?: ClosePolicy;
};

/** What a manager is told. Addresses and lengths are bytes. */
export type UserfaultEvent =
  | { event: 'pagefault'; address: Hva; write: boolean; wp: boolean; minor: boolean; thread: number }
  | { event: 'fork'; child: Userfaultfd }
  | { event: 'remap'; from: Hva; to: Hva; bytes: number }
  | { event: 'remove' | 'unmap'; start: Hva; end: Hva };

/** V-3: what is there. Nothing of hugetlbfs, no write protection of shmem. */
export const UFFD_FEATURES =
  UffdFeature.PagefaultFlagWp |
  UffdFeature.EventFork |
  UffdFeature.EventRemap |
  UffdFeature.EventRemove |
  UffdFeature.EventUnmap |
  UffdFeature.MissingShmem |
  UffdFeature.MinorShmem |
  UffdFeature.Sigbus |
  UffdFeature.ThreadId |
  UffdFeature.ExactAddress |
  UffdFeature.WpUnpopulated |
  UffdFeature.Poison |
  UffdFeature.WpAsync |
  UffdFeature.Move;
/** In `uffd.features`: the handshake is made (V-6). */
const NEGOTIATED = 1 << 31;

/**
 * A descriptor of today's userfaultfd, for one thread: the context is shared, and each thread, and each process
 * that has a copy, has a reference of its own. Errors are thrown as Errno. Linux: fs/userfaultfd.c.
 */
export class Userfaultfd {
  /** The context: what resolvers are called with. */
  readonly ctx: Uffd;
  readonly #core: MmCore;
  #open = true;

  /** Takes over a reference to a context. */
  constructor(core: MmCore, ctx: Uffd) {
    this.#core = core;
    this.ctx = ctx;
  }

  /** Throws ENOMEM, and ESRCH for an mm that has exited. */
  static create(core: MmCore, mm: Mm, options: UserfaultfdOptions = {}): Userfaultfd {
    return new Userfaultfd(core, core.uffds.create(mm, descriptorFlags(options)));
  }

  /** Another descriptor of the same context, for another thread or process. */
  dup(core: MmCore = this.#core): Userfaultfd {
    this.#live();
    this.#core.uffds.get(this.ctx);
    return new Userfaultfd(core, this.ctx);
  }

  get isOpen(): boolean {
    return this.#open;
  }

  #live(): void {
    if (!this.#open) throw new Errno('EBADF', 'userfaultfd', 'closed');
  }

  /** V-2: nothing but the handshake works before the handshake. */
  #running(call: string): void {
    this.#live();
    if (this.#core.layout.uffd.features.load(this.ctx) === 0)
      throw new Errno('EINVAL', call, 'before the handshake');
  }

  /**
   * The handshake, once (V-3): asks for features; returns those there are and the calls that work. Throws EINVAL
   * (another version, unknown features, a second time), EPERM (fork events without privilege).
   */
  api(requested = 0, { api = UFFD_API, privileged = true } = {}): { features: number; ioctls: number[] } {
    this.#live();
    const { features, state } = this.#core.layout.uffd;
    if (api !== UFFD_API) throw new Errno('EINVAL', 'api', 'unknown version');
    if ((requested & UffdFeature.EventFork) !== 0 && !privileged)
      throw new Errno('EPERM', 'api', 'fork events need privilege');
    if ((requested & ~UFFD_FEATURES) !== 0) throw new Errno('EINVAL', 'api', 'unknown features');
    const implied = (requested & UffdFeature.WpAsync) !== 0 ? UffdFeature.WpUnpopulated : 0;
    if (features.cas(this.ctx, 0, requested | implied | NEGOTIATED) !== 0)
      throw new Errno('EINVAL', 'api', 'negotiated already');
    state.cas(this.ctx, UffdState.Ask, UffdState.Running);
    return { features: UFFD_FEATURES, ioctls: [UffdIoctl.Api, UffdIoctl.Register, UffdIoctl.Unregister] };
  }

  /** See UffdRegister.register; `mode` is of UffdMode. Returns the numbers of the calls that work there. */
  register(address: Hva, bytes: number, mode: number): number[] {
    this.#running('register');
    return this.#held('register', () => this.#core.uffdRegister.register(this.ctx, address, bytes, mode));
  }

  unregister(address: Hva, bytes: number): void {
    this.#running('unregister');
    this.#held('unregister', () => this.#core.uffdRegister.unregister(this.ctx, address, bytes));
  }

  /** A reference for the time of a call: another thread may close the descriptor (T-LIFE-04). */
  #held<T>(call: string, work: () => T): T {
    const { uffds, breaks } = this.#core;
    if (breaks.callWithoutReference) return work();
    if (!uffds.tryGet(this.ctx)) throw new Errno('EBADF', call, 'closed');
    try {
      return work();
    } finally {
      uffds.put(this.ctx);
    }
  }

  /** Wakes who sleeps in a fault of the range, read or not; nobody does is no error (V-15). Throws EINVAL. */
  wake(address: Hva, bytes: number): void {
    this.#running('wake');
    const { start, end } = checkRange('wake', address, bytes);
    this.#core.uffds.wakeRange(this.ctx, start, end);
  }

  /** The next event, or undefined when there is none. */
  tryRead(): UserfaultEvent | undefined {
    this.#running('read');
    const { uffdRead } = this.#core;
    return uffdRead.next(this.ctx) ? this.#event(uffdRead.message) : undefined;
  }

  /** The next event. Sleeps for it, unless the descriptor is non-blocking: EAGAIN. */
  read(): UserfaultEvent {
    for (;;) {
      const seen = this.#core.uffdRead.seen(this.ctx);
      const event = this.tryRead();
      if (event !== undefined) return event;
      if (this.#nonBlock) throw new Errno('EAGAIN', 'read');
      this.#core.uffdRead.wait(this.ctx, seen);
    }
  }

  /**
   * As many messages of 32 bytes as there are and `into` has room for (V-25); the number of bytes. `installFd`
   * gives the child of a fork event its number, and may throw: then what came before is returned, or else that is
   * thrown, and the event stays. Throws EINVAL (less room than one), EAGAIN. `copied` is called with each message
   * and throws where it can't be copied out; the same holds.
   */
  readBytes(
    into: Uint8Array,
    { installFd, copied }: { installFd?: (ctx: Uffd) => number; copied?: (at: number) => void } = {},
  ): number {
    this.#running('read');
    if (into.length < MESSAGE_BYTES) throw new Errno('EINVAL', 'read', 'no room for a message');
    let done = 0;
    const deliver = (message: UffdMessage): void => {
      const fd = message.event === UffdEvent.Fork ? (installFd?.(message.child) ?? 0) : 0;
      message.encode(into, done, fd);
      copied?.(done);
    };
    while (done + MESSAGE_BYTES <= into.length) {
      const seen = this.#core.uffdRead.seen(this.ctx);
      try {
        if (this.#core.uffdRead.next(this.ctx, deliver)) done += MESSAGE_BYTES;
        else if (done > 0) return done;
        else if (this.#nonBlock) throw new Errno('EAGAIN', 'read');
        else this.#core.uffdRead.wait(this.ctx, seen);
      } catch (error) {
        if (done > 0 && error instanceof Errno) return done;
        throw error;
      }
    }
    return done;
  }

  #event(m: UffdMessage): UserfaultEvent {
    const [start, end] = [m.vpn * PAGE_SIZE, m.end * PAGE_SIZE];
    switch (m.event) {
      case UffdEvent.Pagefault:
        return {
          event: 'pagefault',
          address: start + m.offset,
          write: (m.flags & UffdFault.Write) !== 0,
          wp: (m.flags & UffdFault.Wp) !== 0,
          minor: (m.flags & UffdFault.Minor) !== 0,
          thread: m.thread,
        };
      case UffdEvent.Fork:
        return { event: 'fork', child: new Userfaultfd(this.#core, m.child) };
      case UffdEvent.Remap:
        return { event: 'remap', from: start, to: m.to * PAGE_SIZE, bytes: end - start };
      default:
        return { event: m.event === UffdEvent.Remove ? 'remove' : 'unmap', start, end };
    }
  }

  get #nonBlock(): boolean {
    return (this.#core.layout.uffd.flags.get(this.ctx) & UffdFlag.NonBlock) !== 0;
  }

  /** Bits of Poll (V-2, V-26). A blocking descriptor always says ERR. */
  poll(): number {
    this.#live();
    const negotiated = this.#core.layout.uffd.features.load(this.ctx) !== 0;
    if (!this.#nonBlock || !negotiated) return Poll.Err;
    return this.#core.uffds.queues.hasUnread(this.ctx) ? Poll.In : 0;
  }

  /** As /proc/pid/fdinfo shows it (V-6). */
  fdinfo(): string {
    const { pending, read } = this.#core.uffds.queues.counts(this.ctx);
    const features = (this.#core.layout.uffd.features.load(this.ctx) >>> 0).toString(16);
    return `pending:\t${pending}\ntotal:\t${pending + read}\nAPI:\t${UFFD_API.toString(16)}:${features}:80000000000001ff\n`;
  }

  /**
   * Makes this thread the manager: before it would sleep in a fault, `handle` is called with what there is to
   * read. Returns how to end that.
   */
  serveInline(handle: (event: UserfaultEvent) => void): () => void {
    return this.#core.uffdWaits.serveInline(this.ctx, () => {
      let worked = false;
      for (let event = this.tryRead(); event !== undefined; event = this.tryRead()) {
        handle(event);
        worked = true;
      }
      return worked;
    });
  }

  /** Events until the descriptor is closed, without blocking the thread. */
  async *[Symbol.asyncIterator](): AsyncGenerator<UserfaultEvent, void> {
    while (this.#open) {
      const seen = this.#core.uffdRead.seen(this.ctx);
      const event = this.tryRead();
      if (event !== undefined) yield event;
      else await this.#core.uffdRead.waitAsync(this.ctx, seen);
    }
  }

  /** With the last descriptor the context is released (V-29). */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    // An iteration of ours may sleep on it, and others may have references.
    this.#core.uffds.queues.announce(this.ctx);
    this.#core.uffds.put(this.ctx);
  }
}

export function descriptorFlags(options: UserfaultfdOptions): number {
  const { nonBlock, closeOnExec, userModeOnly, closePolicy = 'mainline' } = options;
  return (
    (nonBlock ? UffdFlag.NonBlock : 0) |
    (closeOnExec ? UffdFlag.CloseOnExec : 0) |
    (userModeOnly ? UffdFlag.UserModeOnly : 0) |
    (closePolicy === 'poison' ? UffdFlag.ClosePoison : 0) |
    (closePolicy === 'hang' ? UffdFlag.CloseHang : 0)
  );
}
