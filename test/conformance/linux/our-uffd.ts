import { ERRNO } from '../../../src/base/errno.ts';
import { PAGE_SIZE } from '../../../src/base/units.ts';
import type { MmCore } from '../../../src/mm/core.ts';
import { type Done, UffdCalls } from '../../../src/mm/syscalls/uffd-calls.ts';
import type { UserfaultEvent, Userfaultfd } from '../../../src/mm/userfaultfd/userfaultfd.ts';
import type { Ptr } from '../../../src/sync/struct.ts';
import { WINDOW, WINDOW_BYTES } from './script.ts';

/** What driver.c puts into a result field, and finds there when nobody wrote it. */
const UNTOUCHED = -77;
const O_NONBLOCK = 0x800;
/** Where copies come from, outside the window. */
const SOURCE = 0x38000000;
const Policy = { Copy: 1, Zero: 2, Poison: 3 } as const;

type Answer = (args: readonly number[]) => string;

/** The descriptor of one process, and what driver.c tells of calls to it. */
export class OurUffd {
  readonly #core: MmCore;
  readonly #mm: Ptr<'mm'>;
  readonly #calls: UffdCalls;
  #fd: Userfaultfd | undefined;
  #stop: (() => void) | undefined;
  #log = '';

  constructor(core: MmCore, mm: Ptr<'mm'>) {
    this.#core = core;
    this.#mm = mm;
    this.#calls = new UffdCalls(core);
  }

  /** The outcome; undefined when there is no such call. */
  call(name: string, args: readonly number[]): string | undefined {
    return this.#table[name]?.(args);
  }

  readonly #table: Readonly<Record<string, Answer>> = {
    uffd: ([flags = 0]) => this.#open(flags),
    handler: ([policy = 0, features = 0]) => this.#serve(policy, features),
    log: () => this.#takeLog(),
    api: ([api = 0, features = 0]) => this.#plain(fd => this.#calls.api(fd, api, features)),
    register: ([a = 0, bytes = 0, mode = 0]) => this.#register(WINDOW + a, bytes, mode),
    unregister: ([a = 0, bytes = 0]) => this.#plain(fd => this.#calls.unregister(fd, WINDOW + a, bytes)),
    wake: ([a = 0, bytes = 0]) => this.#plain(fd => this.#calls.wake(fd, WINDOW + a, bytes)),
    copy: ([a = 0, bytes = 0, mode = 0, value = 0]) => this.#copyValue(a, bytes, mode, value),
    copyfrom: ([a = 0, bytes = 0, mode = 0, from = 0]) =>
      this.#done(fd => this.#calls.copy(fd, this.#mm, WINDOW + a, WINDOW + from, bytes, mode)),
    zeropage: ([a = 0, bytes = 0, mode = 0]) =>
      this.#done(fd => this.#calls.zeropage(fd, WINDOW + a, bytes, mode)),
    poison: ([a = 0, bytes = 0, mode = 0]) =>
      this.#done(fd => this.#calls.poison(fd, WINDOW + a, bytes, mode)),
    continue: ([a = 0, bytes = 0, mode = 0]) =>
      this.#done(fd => this.#calls.continue(fd, WINDOW + a, bytes, mode)),
    move: ([a = 0, from = 0, bytes = 0, mode = 0]) =>
      this.#done(fd => this.#calls.move(fd, this.#mm, WINDOW + a, WINDOW + from, bytes, mode)),
    writeprotect: ([a = 0, bytes = 0, mode = 0]) =>
      this.#plain(fd => this.#calls.writeprotect(fd, WINDOW + a, bytes, mode)),
    uread: ([bytes = 256]) => this.#plain(fd => this.#calls.read(fd, new Uint8Array(bytes))),
    poll: () => (this.#fd === undefined ? '0' : this.#fd.poll().toString(16)),
    close: () => this.#closed(),
  };

  #open(flags: number): string {
    this.close();
    const opened = this.#calls.open(this.#mm, flags);
    if (typeof opened === 'number') return String(opened);
    this.#fd = opened;
    return '0';
  }

  #plain(call: (fd: Userfaultfd) => number): string {
    return String(this.#fd === undefined ? -ERRNO.EBADF : call(this.#fd));
  }

  #done(call: (fd: Userfaultfd) => Done): string {
    if (this.#fd === undefined) return `${-ERRNO.EBADF} ${UNTOUCHED}`;
    const { result, field } = call(this.#fd);
    return `${result} ${field ?? UNTOUCHED}`;
  }

  #register(address: number, bytes: number, mode: number): string {
    if (this.#fd === undefined) return String(-ERRNO.EBADF);
    const { result, field } = this.#calls.register(this.#fd, address, bytes, mode);
    return result < 0 ? String(result) : `0 ${field!.toString(16)}`;
  }

  #copyValue(a: number, bytes: number, mode: number, value: number): string {
    const { mmap, access } = this.#core;
    const length = Math.max(PAGE_SIZE, Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE);
    mmap.map(this.#mm, length, { address: SOURCE, fixed: 'replace' });
    for (let at = 0; at < length; at += PAGE_SIZE)
      access.write32(this.#mm, SOURCE + at, value + at / PAGE_SIZE);
    const text = this.#done(fd => this.#calls.copy(fd, this.#mm, WINDOW + a, SOURCE, bytes, mode));
    mmap.unmap(this.#mm, SOURCE, length);
    return text;
  }

  /** As driver.c's thread, but in ours: it is asked before we would sleep. */
  #serve(policy: number, features: number): string {
    this.#open(O_NONBLOCK);
    this.#log = '';
    const fd = this.#fd!;
    const result = this.#calls.api(fd, 0xaa, features);
    if (result === 0) this.#stop = fd.serveInline(event => this.#answer(fd, policy, event));
    else this.close();
    return String(result);
  }

  #answer(fd: Userfaultfd, policy: number, event: UserfaultEvent): void {
    this.#log += describe(event);
    if (event.event === 'fork') event.child.close();
    if (event.event !== 'pagefault') return;
    const at = event.address - (event.address % PAGE_SIZE);
    const { mfill, writeProtect } = this.#core;
    if (event.wp) writeProtect.protect(fd.ctx, at, PAGE_SIZE, 0);
    else if (event.minor) mfill.continue(fd.ctx, at, PAGE_SIZE);
    else if (policy === Policy.Zero) mfill.zeropage(fd.ctx, at, PAGE_SIZE);
    else if (policy === Policy.Poison) mfill.poison(fd.ctx, at, PAGE_SIZE);
    else mfill.copy(fd.ctx, at, pageOf(7000 + (at - WINDOW) / PAGE_SIZE), PAGE_SIZE);
  }

  #takeLog(): string {
    const log = `log${this.#log}`;
    this.#log = '';
    return log;
  }

  #closed(): string {
    const was = this.#fd;
    this.close();
    return String(was === undefined ? -ERRNO.EBADF : 0);
  }

  close(): void {
    this.#stop?.();
    this.#stop = undefined;
    this.#fd?.close();
    this.#fd = undefined;
  }
}

function pageOf(value: number): Uint8Array {
  const bytes = new Uint8Array(PAGE_SIZE);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
}

const hex = (address: number): string =>
  address >= WINDOW && address <= WINDOW + WINDOW_BYTES ? (address - WINDOW).toString(16) : 'elsewhere';

function describe(event: UserfaultEvent): string {
  switch (event.event) {
    case 'pagefault': {
      const flags = (event.write ? 1 : 0) | (event.wp ? 2 : 0) | (event.minor ? 4 : 0);
      return ` fault ${flags.toString(16)} ${hex(event.address)}`;
    }
    case 'remap':
      return ` remap ${hex(event.from)} ${hex(event.to)} ${event.bytes.toString(16)}`;
    case 'fork':
      return ' event 13';
    default:
      return ` ${event.event} ${hex(event.start)} ${hex(event.end)}`;
  }
}
