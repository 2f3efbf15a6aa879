import { ERRNO } from '../../base/errno.ts';
import { type Hva, isPageAligned, PAGE_SIZE, pageNumber, type Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import { VmFlag } from '../layout.ts';
import { NotifyEvent, NotifyFlag } from '../mmu-notifier-ops.ts';
import { HUGE_FRAMES } from '../page-alloc.ts';
import { nextTable, VPN_MAX } from '../page-table.ts';
import type { Vmas } from '../vma.ts';
import type { UffdContexts } from './contexts.ts';
import { MoveHuge, type MoveHugeDeps, SMALL } from './move-huge.ts';
import { AGAIN, MOVED, MoveFlag, MovePage } from './move-page.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type MoveDeps = MoveHugeDeps & {
  readonly sync: Sync;
  readonly vmas: Vmas;
  readonly uffds: UffdContexts;
  /** Has this thread a fatal signal? Asked after each page. */
  readonly killed?: (() => boolean) | undefined;
};

/** */
export const RAP_ALLOW_SRC_HOLES = 1;
/** Mode bits of UFFDIO_MOVE. */
export const UffdMove = { DontWake: 1, AllowSrcHoles: 2 } as const;

const ACCESS = VmFlag.Read | VmFlag.Write | VmFlag.Exec;

/**
 * Moves pages by their entries alone, without a copy: remap_anon_pages of 2014 and UFFDIO_MOVE of today.
 * Both answer as system calls do, with negative error numbers. Linux: mm/userfaultfd.c, move_pages.
 */
export class Move {
  readonly #deps: MoveDeps;
  readonly #page: MovePage;
  readonly #huge: MoveHuge;
  /** What stopped the last chunk of pages. */
  #error = 0;
  /** What the last `move` wrote into the `move` field of its struct; undefined if it left it alone (V-30). */
  result: number | undefined;

  constructor(deps: MoveDeps) {
    this.#deps = deps;
    this.#page = new MovePage(deps);
    this.#huge = new MoveHuge(deps, this.#page);
  }

  /**
   * remap_anon_pages: bytes moved, or, when there were none, the negative error number: EINVAL, ENOMEM
   * EEXIST, ENOENT, EBUSY, EFAULT, EINTR. Wakes nobody. Requires: no lock of the mm.
   */
  remapAnonPages(mm: Mm, dst: Hva, src: Hva, length: number, flags: number): number {
    const { sync, layout } = this.#deps;
    if ((flags & ~RAP_ALLOW_SRC_HOLES) !== 0) return -ERRNO.EINVAL;
    if (!isRange(dst, length) || !isRange(src, length)) return -ERRNO.EINVAL;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const [to, from, pages] = [pageNumber(dst), pageNumber(src), length / PAGE_SIZE];
    const refused = this.#refuse14(mm, to, from, pages);
    const how = (flags & RAP_ALLOW_SRC_HOLES) !== 0 ? MoveFlag.AllowHoles : 0;
    const result = refused !== 0 ? refused : this.#run(mm, to, from, pages, how);
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    return result;
  }

  /** The destination needs no flag. */
  #refuse14(mm: Mm, dst: Vpn, src: Vpn, pages: number): number {
    const { vmas, layout, breaks } = this.#deps;
    if (layout.mm.users.load(mm) === 0) return -ERRNO.EINVAL;
    const [into, outOf] = [vmas.find(mm, dst), vmas.find(mm, src)];
    if (into === 0 || outOf === 0) return -ERRNO.EINVAL;
    if (breaks.moveWantsArmed && vmas.flagsHigh(into) === 0) return -ERRNO.EINVAL;
    return this.#differ(into, outOf, dst, src, pages) ? -ERRNO.EINVAL : 0;
  }

  /** Ranges that leave their VMA, or VMAs that pages may not pass between. Requires: mmap. */
  #differ(into: Vma, outOf: Vma, dst: Vpn, src: Vpn, pages: number): boolean {
    const { flags, end, ops } = this.#deps.layout.vma;
    const [a, b] = [flags.get(into), flags.get(outOf)];
    if (this.#deps.breaks.moveUnchecked) return false;
    if (dst + pages > end.get(into) || src + pages > end.get(outOf)) return true;
    if (((a | b) & VmFlag.Shared) !== 0 || ops.get(into) !== 0 || ops.get(outOf) !== 0) return true;
    return ((a ^ b) & (ACCESS | VmFlag.Locked)) !== 0;
  }

  /**
   * UFFDIO_MOVE through a context, by a program of `caller`: 0, or a negative error number, EAGAIN when it
   * stopped half-way (V-30, V-35). Requires: no lock of the mm.
   */
  move(ctx: Uffd, caller: Mm, dst: Hva, src: Hva, length: number, mode: number): number {
    const { uffds, layout, sync } = this.#deps;
    this.result = undefined;
    if (uffds.isChanging(ctx)) return this.#done(-ERRNO.EAGAIN, length);
    const mm = layout.uffd.mm.get(ctx);
    if (mm !== caller || !isRange(dst, length) || !isRange(src, length)) return -ERRNO.EINVAL;
    if ((mode & ~(UffdMove.DontWake | UffdMove.AllowSrcHoles)) !== 0) return -ERRNO.EINVAL;
    sync.readLock('mmap', mm + layout.mm.mmapLock.at);
    const [to, from, pages] = [pageNumber(dst), pageNumber(src), length / PAGE_SIZE];
    const lives = layout.mm.users.load(mm) > 0;
    const result = lives ? this.#gated(ctx, mm, to, from, pages, mode) : -ERRNO.EINVAL;
    sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
    if (!lives) return result;
    if (result > 0 && (mode & UffdMove.DontWake) === 0) uffds.wakeRange(ctx, to, to + result / PAGE_SIZE);
    return this.#done(result, length);
  }

  #done(result: number, length: number): number {
    this.result = result;
    if (result < 0) return result;
    return result === length ? 0 : -ERRNO.EAGAIN;
  }

  /** Requires: mmap for read. */
  #gated(ctx: Uffd, mm: Mm, dst: Vpn, src: Vpn, pages: number, mode: number): number {
    const { uffds, y } = this.#deps;
    if (!uffds.tryEnter(ctx)) return -ERRNO.EAGAIN;
    const refused = this.#refuse(ctx, mm, dst, src, pages);
    if (refused === 0) y('V.v');
    const holes = (mode & UffdMove.AllowSrcHoles) !== 0 ? MoveFlag.AllowHoles : 0;
    const result = refused !== 0 ? refused : this.#run(mm, dst, src, pages, MoveFlag.Modern | holes);
    uffds.leave(ctx);
    return result;
  }

  /** V-35. */
  #refuse(ctx: Uffd, mm: Mm, dst: Vpn, src: Vpn, pages: number): number {
    const { vmas, layout, anonVmas } = this.#deps;
    const [into, outOf] = [vmas.find(mm, dst), vmas.find(mm, src)];
    // Before anything else is refused, as in Linux: what it may merge with depends on it (M-2).
    if (into !== 0 && anonVmas.prepare(into) === 0) return -ERRNO.ENOMEM;
    if (into === 0 || outOf === 0) return -ERRNO.ENOENT;
    if (this.#differ(into, outOf, dst, src, pages)) return -ERRNO.EINVAL;
    const writable = (layout.vma.flags.get(outOf) & VmFlag.Write) !== 0;
    return writable && layout.vma.uffd.get(into) === ctx ? 0 : -ERRNO.EINVAL;
  }

  /** Bytes moved or counted, or the error that stopped the first page. Requires: mmap for read. */
  #run(mm: Mm, dst: Vpn, src: Vpn, pages: number, how: number): number {
    const { vmas, anonVmas, breaks } = this.#deps;
    const vma = vmas.find(mm, dst);
    if (anonVmas.prepare(vma) === 0) return -ERRNO.ENOMEM;
    let done = 0;
    while (done < pages) {
      const stop = Math.min(pages, nextTable(src + done) - src);
      const moved = this.#bracketed(mm, vma, dst + done, src + done, stop - done, how);
      done += moved;
      if (this.#error < 0) break;
    }
    if (breaks.moveForgetsProgress && this.#error < 0) return this.#error;
    return done > 0 || breaks.moveSaysNothing ? done * PAGE_SIZE : this.#error;
  }

  /** The secondaries have let go of the source before the first entry changes, for both faces. */
  #bracketed(mm: Mm, vma: Vma, dst: Vpn, src: Vpn, pages: number, how: number): number {
    const { notifiers, breaks, y } = this.#deps;
    const [start, end] = [src, src + pages];
    if (!breaks.moveWithoutBracket) notifiers.start(mm, start, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    if (!breaks.moveWithoutBracket) notifiers.unpinRange(mm, start, end, NotifyEvent.Clear);
    const moved = this.#chunk(mm, vma, dst, src, pages, how);
    if (breaks.moveWithoutBracket) {
      y('V.late');
      notifiers.start(mm, start, end, NotifyEvent.Clear, NotifyFlag.Blockable);
    }
    notifiers.end(mm, start, end, NotifyEvent.Clear);
    return moved;
  }

  #chunk(mm: Mm, vma: Vma, dst: Vpn, src: Vpn, pages: number, how: number): number {
    const { killed, breaks, y } = this.#deps;
    for (let done = 0; done < pages; ) {
      const [to, from] = [dst + done, src + done];
      const whole = to % HUGE_FRAMES === 0 && from % HUGE_FRAMES === 0 && pages - done >= HUGE_FRAMES;
      this.#error = whole ? this.#huge.move(mm, vma, to, from, how) : SMALL;
      const step = this.#error === SMALL ? 1 : HUGE_FRAMES;
      if (this.#error === SMALL) this.#error = this.#page.move(mm, vma, to, from, how);
      if (this.#error < 0) return done;
      if (this.#error === AGAIN) y('V.again');
      if (this.#error === MOVED) done += step;
      if (killed?.() && !breaks.moveUnkillable) {
        this.#error = -ERRNO.EINTR;
        return done;
      }
    }
    return pages;
  }
}

/** V-10, R-2: whole pages inside the address space, at least one. */
export function isRange(start: Hva, length: number): boolean {
  if (!isPageAligned(start) || !isPageAligned(length)) return false;
  return length > 0 && start >= 0 && (start + length) / PAGE_SIZE <= VPN_MAX;
}
