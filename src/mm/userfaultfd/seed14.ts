import { Errno } from '../../base/errno.ts';
import { type Hva, isPageAligned, PAGE_SIZE, pageNumber } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { WORD_BYTES } from './read.ts';
import { Poll, UFFD_API, UffdFlag, UffdState } from './state.ts';
import { descriptorFlags } from './userfaultfd.ts';

type Mm = Ptr<'mm'>;
type Uffd = Ptr<'uffd'>;

/** Where a read puts its bytes, or a write finds them: a buffer of ours, or memory of an address space. */
export type Buffer14 = Uint8Array | { readonly mm: Mm; readonly address: Hva; readonly bytes: number };

const COMMAND_BYTES = 16;
const Command = { Wake: 0, Register: 1, Unregister: 2 } as const;
const UNKNOWN = new Uint8Array(WORD_BYTES).fill(0xff);

/**
 * A descriptor of the 2014 series: words of 64 bits, written and read (part F). States change by compare-exchange,
 * after what goes with the change is done, so that two callers never make it twice (F-3). Errors are thrown.
 */
export class Userfaultfd2014 {
  readonly ctx: Uffd;
  readonly #core: MmCore;
  #open = true;

  /** Takes over a reference to a context. */
  constructor(core: MmCore, ctx: Uffd) {
    this.#core = core;
    this.ctx = ctx;
  }

  /** F-1. Throws ENOMEM, and ESRCH for an mm that has exited. */
  static create(
    core: MmCore,
    mm: Mm,
    options: { nonBlock?: boolean; closeOnExec?: boolean } = {},
  ): Userfaultfd2014 {
    return new Userfaultfd2014(core, core.uffds.create(mm, descriptorFlags(options) | UffdFlag.Seed14));
  }

  /** What a fork child inherits: a copy that goes on speaking for the parent's mm (F-37). */
  dup(core: MmCore = this.#core): Userfaultfd2014 {
    this.#live();
    this.#core.uffds.get(this.ctx);
    return new Userfaultfd2014(core, this.ctx);
  }

  #live(): void {
    if (!this.#open) throw new Errno('EBADF', 'userfaultfd', 'closed');
  }

  get #state() {
    return this.#core.layout.uffd.state;
  }

  /**
   * The handshake, then commands (F-2, F-20); the bytes taken. Throws EINVAL, EFAULT, ERANGE, ENOENT (a wake that
   * woke nobody, F-21), ENOMEM, EBUSY (F-22).
   */
  write(from: Buffer14): number {
    this.#live();
    for (;;) {
      const state = this.#state.load(this.ctx);
      if (state === UffdState.Running) return this.#command(from);
      if (state !== UffdState.Ask) throw new Errno('EINVAL', 'write', 'an answer is to be read first');
      if (sizeOf(from) < WORD_BYTES) throw new Errno('EINVAL', 'write', 'less than a word');
      const [low, high] = wordAt(this.#copyIn(from, WORD_BYTES), 0);
      const next = low === UFFD_API && high === 0 ? UffdState.AckOk : UffdState.AckUnknown;
      if (this.#state.cas(this.ctx, state, next) === state) return this.#moved(WORD_BYTES);
    }
  }

  /**
   * The answer of the handshake, or the address of one fault, its page's first byte (F-10): 8 bytes. Throws EINVAL
   * (less room, nothing asked yet), EFAULT with the state, and the fault, as before (B-25), EAGAIN.
   */
  read(into: Buffer14): number {
    this.#live();
    if (sizeOf(into) < WORD_BYTES) throw new Errno('EINVAL', 'read', 'less than a word');
    for (;;) {
      const state = this.#state.load(this.ctx);
      if (state === UffdState.Running) return this.#readFault(into);
      if (state !== UffdState.AckOk && state !== UffdState.AckUnknown)
        throw new Errno('EINVAL', 'read', 'nothing was asked');
      const known = state === UffdState.AckOk;
      const next = known ? UffdState.Running : UffdState.Ask;
      if (this.#core.breaks.takeBeforeCopy) this.#state.store(this.ctx, next);
      this.#copyOut(into, known ? word(UFFD_API) : UNKNOWN);
      if (this.#state.cas(this.ctx, state, next) === state) return this.#moved(WORD_BYTES);
    }
  }

  #moved(bytes: number): number {
    this.#core.uffds.queues.announce(this.ctx);
    return bytes;
  }

  #readFault(into: Buffer14): number {
    const { uffdRead, layout } = this.#core;
    for (;;) {
      const seen = uffdRead.seen(this.ctx);
      const read = uffdRead.next(this.ctx, m => this.#copyOut(into, word(m.vpn * PAGE_SIZE)));
      if (read) return this.#moved(WORD_BYTES);
      if ((layout.uffd.flags.get(this.ctx) & UffdFlag.NonBlock) !== 0) throw new Errno('EAGAIN', 'read');
      uffdRead.wait(this.ctx, seen);
    }
  }

  /** F-20, in its order. */
  #command(from: Buffer14): number {
    if (sizeOf(from) < COMMAND_BYTES) throw new Errno('EINVAL', 'write', 'less than a command');
    const bytes = this.#copyIn(from, COMMAND_BYTES);
    const command = bytes[0]! & 3;
    const start = numberAt(bytes, 0) - command;
    const end = numberAt(bytes, 8);
    if (command > Command.Unregister) throw new Errno('EINVAL', 'write', 'no such command');
    if (!isPageAligned(start) || !isPageAligned(end)) throw new Errno('EINVAL', 'write', 'unaligned');
    if (start >= end) throw new Errno('ERANGE', 'write', 'an empty range');
    this.#run(command, pageNumber(start), pageNumber(end));
    return COMMAND_BYTES;
  }

  #run(command: number, start: number, end: number): void {
    const { uffds, uffdRegister, breaks } = this.#core;
    if (command === Command.Wake) {
      if (uffds.queues.wake(this.ctx, start, end, !breaks.wakeUnread14) === 0)
        throw new Errno('ENOENT', 'write', 'nobody to wake');
    } else if (command === Command.Register) uffdRegister.register14(this.ctx, start, end);
    else uffdRegister.unregister14(this.ctx, start, end);
  }

  /** Bits of Poll (F-2). */
  poll(): number {
    this.#live();
    const state = this.#state.load(this.ctx);
    if (state === UffdState.Ask) return Poll.Out;
    if (state !== UffdState.Running) return Poll.In;
    const { pending, read } = this.#core.uffds.queues.counts(this.ctx);
    return (pending > 0 ? Poll.In : 0) | (read > 0 ? Poll.Out : 0);
  }

  /** As /proc/pid/fdinfo shows it (F-31). */
  fdinfo(): string {
    const { pending, read } = this.#core.uffds.queues.counts(this.ctx);
    return `pending:\t${pending}\ntotal:\t${pending + read}\nprotocols:\t${UFFD_API.toString(16)}\n`;
  }

  /** With the last descriptor the context is released, and everybody is woken (F-30). */
  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#core.uffds.put(this.ctx);
  }

  #copyOut(into: Buffer14, bytes: Uint8Array): void {
    if (into instanceof Uint8Array) into.set(bytes);
    else this.#core.access.copyToUser(into.mm, into.address, bytes);
  }

  #copyIn(from: Buffer14, bytes: number): Uint8Array {
    if (from instanceof Uint8Array) return from.subarray(0, bytes);
    const copy = new Uint8Array(bytes);
    this.#core.access.copyFromUser(from.mm, from.address, copy);
    return copy;
  }
}

const sizeOf = (buffer: Buffer14): number => (buffer instanceof Uint8Array ? buffer.length : buffer.bytes);

function wordAt(bytes: Uint8Array, at: number): [number, number] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return [view.getUint32(at, true), view.getUint32(at + 4, true)];
}

function numberAt(bytes: Uint8Array, at: number): number {
  const [low, high] = wordAt(bytes, at);
  return high * 2 ** 32 + low;
}

/** A number as eight bytes, in the order of the host. */
function word(value: number): Uint8Array {
  const bytes = new Uint8Array(WORD_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, value % 2 ** 32, true);
  view.setUint32(4, Math.floor(value / 2 ** 32), true);
  return bytes;
}
