import { Errno } from '../../base/errno.ts';
import { type Hva, PAGE_SIZE, type Vpn } from '../../base/units.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { MmBreaks } from '../breaks.ts';
import { type MmLayout, VmFlag, VmFlagHigh } from '../layout.ts';
import { VPN_MAX } from '../page-table.ts';
import type { Vmas } from '../vma.ts';
import type { VmaEdit } from '../vma-edit.ts';
import type { UffdContexts } from './contexts.ts';
import { UffdFeature, UffdIoctl, UffdMode } from './state.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;
const NONE = 0 as Uffd;

export type RegisterDeps = {
  readonly sync: Sync;
  readonly layout: MmLayout;
  readonly vmas: Vmas;
  readonly edit: VmaEdit;
  readonly uffds: UffdContexts;
  readonly breaks: MmBreaks;
};

/** Takes write protection and its markers off [start, end) of a VMA. Requires: mmap for write. */
export type Unprotect = (mm: Mm, vma: Vma, start: Vpn, end: Vpn) => void;

const LOW = VmFlag.UffdMissing | VmFlag.UffdWp;
const HIGH = VmFlagHigh.UffdMinor;

/** Which VMAs a context watches, and for what. Linux: userfaultfd_register, userfaultfd_unregister. */
export class UffdRegister {
  readonly #deps: RegisterDeps;
  #unprotect: Unprotect = () => {};

  constructor(deps: RegisterDeps) {
    this.#deps = deps;
  }

  /** What takes write protection off (writeprotect.ts). */
  wire(unprotect: Unprotect): void {
    this.#unprotect = unprotect;
  }

  /**
   * Registers the mapped parts of a range and returns the numbers of the calls that work there (V-11, V-12).
   * Throws EINVAL (mode, range, no VMA, one of the wrong type), ENOMEM (the mm is gone, a VMA can't be split),
   * EPERM (shared and never writable), EBUSY (another context's). Tests all VMAs before it changes one.
   */
  register(ctx: Uffd, address: Hva, bytes: number, mode: number): number[] {
    const all = UffdMode.Missing | UffdMode.Wp | UffdMode.Minor;
    if (mode === 0 || (mode & ~all) !== 0) throw new Errno('EINVAL', 'register', 'mode');
    const { start, end } = checkRange('register', address, bytes);
    this.#write(ctx, 'register', mm => {
      if (!this.#intersects(mm, start, end)) throw new Errno('EINVAL', 'register', 'nothing is mapped');
      this.#each(mm, start, end, (vma, from, to) => {
        this.#checkVma(ctx, vma, mode);
        if (this.#deps.breaks.registerOnePass) this.#arm(mm, ctx, vma, from, to, mode);
      });
      this.#each(mm, start, end, (vma, from, to) => this.#arm(mm, ctx, vma, from, to, mode));
    });
    return registered(mode);
  }

  #checkVma(ctx: Uffd, vma: Vma, mode: number): void {
    const { layout } = this.#deps;
    const flags = layout.vma.flags.get(vma);
    if (!this.#fits(ctx, vma, mode)) throw new Errno('EINVAL', 'register', 'the mapping is of another type');
    if ((flags & VmFlag.Shared) !== 0 && (flags & VmFlag.MayWrite) === 0)
      throw new Errno('EPERM', 'register', 'shared and never writable');
    const owner = layout.vma.uffd.get(vma);
    if (owner !== 0 && owner !== ctx) throw new Errno('EBUSY', 'register', 'registered elsewhere');
  }

  /** Linux: vma_can_userfault. */
  #fits(ctx: Uffd, vma: Vma, mode: number): boolean {
    const { layout } = this.#deps;
    const asyncWp = (layout.uffd.features.load(ctx) & UffdFeature.WpAsync) !== 0;
    if (asyncWp && mode === UffdMode.Wp) return true;
    const special = (layout.vma.flags.get(vma) & (VmFlag.PfnMap | VmFlag.Io)) !== 0;
    if (special) return false;
    // Shared memory takes MISSING and MINOR, anonymous memory MISSING and WP.
    return (mode & (layout.vma.ops.get(vma) === 0 ? UffdMode.Minor : UffdMode.Wp)) === 0;
  }

  /** A VMA that has all the modes already is left alone; otherwise they are replaced (V-11). */
  #arm(mm: Mm, ctx: Uffd, vma: Vma, from: Vpn, to: Vpn, mode: number): void {
    const { vmas, edit, layout } = this.#deps;
    const { lo, hi } = vmas.flags(vma);
    const [low, high] = modeFlags(mode);
    const same = layout.vma.uffd.get(vma) === ctx && (lo & low) === low && (hi & high) === high;
    if (same) return;
    if ((lo & VmFlag.UffdWp & ~low) !== 0) this.#unprotect(mm, vma, from, to);
    edit.setUffd(mm, from, to, (lo & ~LOW) | low, (hi & ~HIGH) | high, ctx, 'register');
  }

  /**
   * Ends the registration of a range; who sleeps there is woken, whatever the mode (V-14, B-34). Throws EINVAL
   * (range, no VMA, one of the wrong type or of another context) with nothing changed, and ENOMEM.
   */
  unregister(ctx: Uffd, address: Hva, bytes: number): void {
    const { uffds, layout, breaks } = this.#deps;
    const { start, end } = checkRange('unregister', address, bytes);
    this.#write(ctx, 'unregister', mm => {
      if (!this.#intersects(mm, start, end)) throw new Errno('EINVAL', 'unregister', 'nothing is mapped');
      const wasMode = (vma: Vma): number => (layout.vma.ops.get(vma) === 0 ? UffdMode.Wp : UffdMode.Minor);
      this.#each(mm, start, end, vma => {
        const owner = layout.vma.uffd.get(vma);
        if ((owner !== 0 && owner !== ctx) || !this.#fits(ctx, vma, wasMode(vma)))
          throw new Errno('EINVAL', 'unregister', 'not a mapping of this context');
      });
      this.#each(mm, start, end, (vma, from, to) => {
        if (layout.vma.uffd.get(vma) === 0) return;
        this.disarm(mm, vma, from, to, 'unregister');
        if (!breaks.unregisterWithoutWake) uffds.wakeRange(ctx, from, to);
      });
    });
  }

  /**
   * Makes a part of a VMA an ordinary one: context, modes and write protection go. VM_USERFAULT stays (F-30).
   * Requires: mmap for write. Throws ENOMEM, though never for a whole VMA.
   */
  disarm(mm: Mm, vma: Vma, from: Vpn, to: Vpn, call: string): Vma {
    const { lo, hi } = this.#deps.vmas.flags(vma);
    if ((lo & VmFlag.UffdWp) !== 0) this.#unprotect(mm, vma, from, to);
    return this.#deps.edit.setUffd(mm, from, to, lo & ~LOW, hi & ~HIGH, NONE, call);
  }

  /**
   * Register of 2014 (F-22): which VMAs a context hears of, VM_USERFAULT being the client's business. `end` is a
   * page number, exclusive. Throws ENOMEM, EINVAL, EBUSY with nothing changed, and ENOMEM for a split.
   */
  register14(ctx: Uffd, start: Vpn, end: Vpn): void {
    const { vmas, edit, layout } = this.#deps;
    this.#write14(ctx, start, end, 'register', mm => {
      this.#each(mm, start, end, (vma, from, to) => {
        if (layout.vma.uffd.get(vma) === ctx) return;
        const { lo, hi } = vmas.flags(vma);
        edit.setUffd(mm, from, to, lo, hi, ctx, 'register');
      });
    });
  }

  /** Unregister of 2014 (F-23): sleepers are woken, and find a hole that nobody hears of. Throws as register14. */
  unregister14(ctx: Uffd, start: Vpn, end: Vpn): void {
    const { uffds, layout } = this.#deps;
    this.#write14(ctx, start, end, 'unregister', mm => {
      this.#each(mm, start, end, (vma, from, to) => {
        if (layout.vma.uffd.get(vma) === 0) return;
        this.disarm(mm, vma, from, to, 'unregister');
        uffds.wakeRange(ctx, from, to);
      });
    });
  }

  #write14(ctx: Uffd, start: Vpn, end: Vpn, call: string, work: (mm: Mm) => void): void {
    const { vmas, layout } = this.#deps;
    if (end > VPN_MAX) throw new Errno('ENOMEM', call, 'beyond the address space');
    this.#write(ctx, call, mm => {
      const first = vmas.indexOf(mm, start);
      if (first === vmas.count(mm)) throw new Errno('ENOMEM', call, 'nothing is mapped there or above');
      if (!this.#intersects(mm, start, end)) throw new Errno('EINVAL', call, 'nothing is mapped there');
      if (this.#deps.breaks.registerOnePass) work(mm);
      this.#each(mm, start, end, vma => {
        const owner = layout.vma.uffd.get(vma);
        if (owner !== 0 && owner !== ctx) throw new Errno('EBUSY', call, 'registered elsewhere');
      });
      work(mm);
    });
  }

  #intersects(mm: Mm, start: Vpn, end: Vpn): boolean {
    const { vmas, layout } = this.#deps;
    const index = vmas.indexOf(mm, start);
    return index < vmas.count(mm) && layout.vma.start.get(vmas.at(mm, index)) < end;
  }

  /** Calls `work` for each mapped part of a range; it may split and merge there. */
  #each(mm: Mm, start: Vpn, end: Vpn, work: (vma: Vma, from: Vpn, to: Vpn) => void): void {
    const { vmas, layout } = this.#deps;
    for (let vpn = start; vpn < end; ) {
      const index = vmas.indexOf(mm, vpn);
      if (index === vmas.count(mm)) return;
      const vma = vmas.at(mm, index);
      const from = Math.max(vpn, layout.vma.start.get(vma));
      const to = Math.min(end, layout.vma.end.get(vma));
      if (from >= end) return;
      work(vma, from, to);
      vpn = to;
    }
  }

  /** With mmap for write, given back on every way out (F-24, B-22). Throws ENOMEM when the mm is gone (B-36). */
  #write(ctx: Uffd, call: string, work: (mm: Mm) => void): void {
    const { sync, layout, breaks } = this.#deps;
    const mm = layout.uffd.mm.get(ctx);
    sync.writeLock('mmap', mm + layout.mm.mmapLock.at);
    try {
      const alive = layout.mm.users.load(mm) > 0 || breaks.registerDead;
      if (!alive) throw new Errno('ENOMEM', call, 'the address space has exited');
      work(mm);
    } finally {
      sync.writeUnlock('mmap', mm + layout.mm.mmapLock.at);
    }
  }
}

function modeFlags(mode: number): [number, number] {
  const missing = (mode & UffdMode.Missing) !== 0 ? VmFlag.UffdMissing : 0;
  const wp = (mode & UffdMode.Wp) !== 0 ? VmFlag.UffdWp : 0;
  return [missing | wp, (mode & UffdMode.Minor) !== 0 ? VmFlagHigh.UffdMinor : 0];
}

/** V-12. */
function registered(mode: number): number[] {
  const { Wake, Copy, Zeropage, Move, Writeprotect, Continue, Poison } = UffdIoctl;
  const calls: number[] = [Wake, Copy, Zeropage, Move];
  if ((mode & UffdMode.Wp) !== 0) calls.push(Writeprotect);
  if ((mode & UffdMode.Minor) !== 0) calls.push(Continue);
  return [...calls, Poison];
}

/** V-10: the pages of a range, or EINVAL. */
export function checkRange(call: string, address: Hva, bytes: number): { start: Vpn; end: Vpn } {
  const [start, pages] = [address / PAGE_SIZE, bytes / PAGE_SIZE];
  const aligned = Number.isInteger(start) && Number.isInteger(pages);
  if (!aligned || start < 0 || pages <= 0 || start + pages > VPN_MAX)
    throw new Errno('EINVAL', call, 'not a range of pages');
  return { start, end: start + pages };
}
