import { ERRNO, Errno } from '../../base/errno.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { Userfaultfd2014 } from '../userfaultfd/seed14.ts';
import { UffdFlag } from '../userfaultfd/state.ts';
import { Userfaultfd } from '../userfaultfd/userfaultfd.ts';

type Mm = Ptr<'mm'>;

const O_NONBLOCK = 0x800;
const O_CLOEXEC = 0x80000;

/** A call's result, and what it left in the result field of its struct; undefined: it was not written. */
export type Done = { result: number; field: number | undefined };

/** What a process may do. The second is the sysctl vm.unprivileged_userfaultfd, off as in Linux. */
export type UffdPrivilege = { readonly privileged: boolean; readonly unprivilegedUserfaultfd?: boolean };

/** userfaultfd(2) and its ioctls by their numbers: 0 or a negative errno (V-1 to V-36). */
export class UffdCalls {
  readonly #core: MmCore;
  readonly #process: UffdPrivilege;

  constructor(core: MmCore, process: UffdPrivilege = { privileged: true }) {
    this.#core = core;
    this.#process = process;
  }

  /** A descriptor, or a negative errno: EPERM before EINVAL (V-1). */
  open(mm: Mm, flags: number): Userfaultfd | number {
    const { privileged, unprivilegedUserfaultfd = false } = this.#process;
    const allowed = privileged || unprivilegedUserfaultfd || (flags & UffdFlag.UserModeOnly) !== 0;
    if (!allowed) return -ERRNO.EPERM;
    if ((flags & ~(O_NONBLOCK | O_CLOEXEC | UffdFlag.UserModeOnly)) !== 0) return -ERRNO.EINVAL;
    const userModeOnly = (flags & UffdFlag.UserModeOnly) !== 0;
    const nonBlock = (flags & O_NONBLOCK) !== 0;
    try {
      return Userfaultfd.create(this.#core, mm, { userModeOnly, nonBlock });
    } catch (error) {
      return errnoOf(error);
    }
  }

  /** As in 2014 (F-1): two flags, no privilege. */
  open14(mm: Mm, flags: number): Userfaultfd2014 | number {
    if ((flags & ~(O_NONBLOCK | O_CLOEXEC)) !== 0) return -ERRNO.EINVAL;
    const options = { nonBlock: (flags & O_NONBLOCK) !== 0, closeOnExec: (flags & O_CLOEXEC) !== 0 };
    try {
      return Userfaultfd2014.create(this.#core, mm, options);
    } catch (error) {
      return errnoOf(error);
    }
  }

  api(fd: Userfaultfd, api: number, features: number): number {
    return attempt(() => fd.api(features, { api, privileged: this.#process.privileged }));
  }

  /** `field` is the bit mask of the calls that work there. */
  register(fd: Userfaultfd, address: number, bytes: number, mode: number): Done {
    let field: number | undefined;
    const result = attempt(() => {
      field = fd.register(address, bytes, mode).reduce((mask, call) => mask | (1 << call), 0);
    });
    return { result, field };
  }

  unregister(fd: Userfaultfd, address: number, bytes: number): number {
    return attempt(() => fd.unregister(address, bytes));
  }

  wake(fd: Userfaultfd, address: number, bytes: number): number {
    return attempt(() => fd.wake(address, bytes));
  }

  /** `source` is an address of the caller's. */
  copy(fd: Userfaultfd, caller: Mm, dst: number, source: number, bytes: number, mode: number): Done {
    const { mfill } = this.#core;
    return this.#fill(fd, () => mfill.copyFrom(fd.ctx, dst, caller, source, bytes, mode), mfill);
  }

  zeropage(fd: Userfaultfd, address: number, bytes: number, mode: number): Done {
    const { mfill } = this.#core;
    return this.#fill(fd, () => mfill.zeropage(fd.ctx, address, bytes, mode), mfill);
  }

  poison(fd: Userfaultfd, address: number, bytes: number, mode: number): Done {
    const { mfill } = this.#core;
    return this.#fill(fd, () => mfill.poison(fd.ctx, address, bytes, mode), mfill);
  }

  continue(fd: Userfaultfd, address: number, bytes: number, mode: number): Done {
    const { mfill } = this.#core;
    return this.#fill(fd, () => mfill.continue(fd.ctx, address, bytes, mode), mfill);
  }

  move(fd: Userfaultfd, caller: Mm, dst: number, src: number, bytes: number, mode: number): Done {
    const { move } = this.#core;
    return this.#fill(fd, () => move.move(fd.ctx, caller, dst, src, bytes, mode), move);
  }

  writeprotect(fd: Userfaultfd, address: number, bytes: number, mode: number): number {
    const refused = this.#refuse(fd);
    if (refused !== 0) return refused;
    return this.#core.writeProtect.protect(fd.ctx, address, bytes, mode);
  }

  #fill(fd: Userfaultfd, call: () => number, resolver: { result: number | undefined }): Done {
    const refused = this.#refuse(fd);
    if (refused !== 0) return { result: refused, field: undefined };
    const result = call();
    return { result, field: resolver.result };
  }

  /** EBADF once closed, when the context may be another's; V-2: EINVAL before the handshake. */
  #refuse(fd: Userfaultfd): number {
    if (!fd.isOpen) return -ERRNO.EBADF;
    return this.#core.layout.uffd.features.load(fd.ctx) === 0 ? -ERRNO.EINVAL : 0;
  }

  /** Bytes read, or a negative errno. */
  read(fd: Userfaultfd, into: Uint8Array): number {
    let bytes = 0;
    const result = attempt(() => {
      bytes = fd.readBytes(into);
    });
    return result < 0 ? result : bytes;
  }
}

function attempt(work: () => unknown): number {
  try {
    work();
    return 0;
  } catch (error) {
    return errnoOf(error);
  }
}

function errnoOf(error: unknown): number {
  if (error instanceof Errno) return error.errno;
  throw error;
}
