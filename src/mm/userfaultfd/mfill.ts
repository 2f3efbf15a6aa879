import { ERRNO, Errno } from '../../base/errno.ts';
import { type Hva, PAGE_SIZE, type Pfn, pageNumber, type Vpn } from '../../base/units.ts';
import { frameByte } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { Sync } from '../../sync/sync.ts';
import type { Access } from '../access.ts';
import { GUP_PFN_MASK } from '../fault-codes.ts';
import type { Gup } from '../gup.ts';
import { isMarker, type MmLayout, mkPte, PageFlag, POISON_ENTRY, Pte, VmFlag } from '../layout.ts';
import { type Memory, type MemoryDeps, NEW_ANON } from '../memory.ts';
import type { Pages } from '../page.ts';
import { HUGE, type PageTable, type PteAt, VPN_MAX } from '../page-table.ts';
import type { UffdContexts } from './contexts.ts';
import { isRange } from './move.ts';
import { NEW_SHMEM, type ShmemFill } from './shmem-fill.ts';

type Mm = Ptr<'mm'>;
type Vma = Ptr<'vma'>;
type Uffd = Ptr<'uffd'>;

export type MfillDeps = Omit<MemoryDeps, 'swap' | 'notifiers'> & {
  readonly sync: Sync;
  readonly memory: Memory;
  readonly gup: Gup;
  readonly access: Access;
  readonly uffds: UffdContexts;
  /** Has this thread a fatal signal? Asked after each page. */
  readonly killed?: (() => boolean) | undefined;
  /** V-39: a VMA is filled through the context alone that has registered it. */
  readonly strictOwner?: boolean;
  readonly shmemFill: ShmemFill;
};

/** Mode bits of COPY and CONTINUE; ZEROPAGE and POISON know the first alone. */
export const UffdFill = { DontWake: 1, Wp: 2 } as const;

type Kind = 'copy' | 'zeropage' | 'poison' | 'continue';
/** Internal: the source can't be read without sleeping. */
const SLEEP = 1;

/**
 * Fills holes of armed memory: COPY, ZEROPAGE, POISON, CONTINUE (V-30 to V-34, V-38). Each answers as the
 * ioctl does: 0, or a negative error number, EAGAIN when it stopped half-way. Nothing is ever replaced but,
 * by COPY, a marker. Linux: mfill_atomic.
 */
export class Mfill {
  readonly #deps: MfillDeps;
  readonly #layout: MmLayout;
  readonly #pageTable: PageTable;
  readonly #pages: Pages;
  readonly #arenaBuffer: ArrayBufferLike;
  /** What the last call wrote into the result field of its struct; undefined if it left it alone (V-30). */
  result: number | undefined;
  // Of the call under way. A call may be made within another one's `#sleepFor`, which keeps these.
  #kind: Kind = 'copy';
  #bytes: Uint8Array | undefined;
  /** `#bytes` are a part of the arena. Kept, as to ask for a buffer costs. */
  #inArena = false;
  #sourceMm = 0 as Mm;
  /** Of the source: an offset in `#bytes`, or an address of `#sourceMm`. */
  #source = 0;
  #mode = 0;
  #done = 0;
  /** A page that was filled while no lock was held, or -1. */
  #ready: Pfn | -1 = -1;

  constructor(deps: MfillDeps) {
    this.#deps = deps;
    this.#layout = deps.layout;
    this.#pageTable = deps.pageTable;
    this.#pages = deps.pages;
    this.#arenaBuffer = deps.sync.arena.bytes.buffer;
  }

  /** COPY of `length` bytes at `from` of `bytes`. A source that is too short is EINVAL. Requires: no lock of the mm. */
  copy(ctx: Uffd, dst: Hva, bytes: Uint8Array, length: number, mode = 0, from = 0): number {
    const bad = from < 0 || from + length > bytes.length;
    if (bytes !== this.#bytes) this.#inArena = bytes.buffer === this.#arenaBuffer;
    this.#bytes = bytes;
    this.#source = from;
    return this.#call(ctx, 'copy', dst, length, mode, UffdFill.DontWake | UffdFill.Wp, bad);
  }

  /** COPY from an address of `mm`, which needs no alignment; it may sleep for it (T-UF-18). As `copy`. */
  copyFrom(ctx: Uffd, dst: Hva, mm: Mm, source: Hva, length: number, mode = 0): number {
    const bad = !(source >= 0) || source + length > VPN_MAX * PAGE_SIZE;
    this.#bytes = undefined;
    this.#sourceMm = mm;
    this.#source = source;
    return this.#call(ctx, 'copy', dst, length, mode, UffdFill.DontWake | UffdFill.Wp, bad);
  }

  zeropage(ctx: Uffd, dst: Hva, length: number, mode = 0): number {
    return this.#call(ctx, 'zeropage', dst, length, mode, UffdFill.DontWake, false);
  }

  /** Holes whose access fails as that of lost memory does (V-60). */
  poison(ctx: Uffd, dst: Hva, length: number, mode = 0): number {
    return this.#call(ctx, 'poison', dst, length, mode, UffdFill.DontWake, false);
  }

  /** Maps what is in the page cache; EINVAL for anonymous memory (V-33). */
  continue(ctx: Uffd, dst: Hva, length: number, mode = 0): number {
    return this.#call(ctx, 'continue', dst, length, mode, UffdFill.DontWake | UffdFill.Wp, false);
  }

  /** The order of V-30: gate, ranges, mode. */
  #call(ctx: Uffd, kind: Kind, dst: Hva, length: number, mode: number, modes: number, bad: boolean): number {
    const { uffds } = this.#deps;
    this.result = undefined;
    // The gate comes first; when the arguments are good, it is enough to ask on the way through it.
    if (bad || !isRange(dst, length) || (mode & ~modes) !== 0)
      return uffds.isChanging(ctx) ? this.#end(-ERRNO.EAGAIN, length) : -ERRNO.EINVAL;
    this.#kind = kind;
    this.#mode = mode;
    this.#done = 0;
    const start = pageNumber(dst);
    const code = this.#fill(ctx, start, length / PAGE_SIZE);
    const done = this.#done;
    if (done > 0 && (mode & UffdFill.DontWake) === 0) uffds.wakeRange(ctx, start, start + done);
    return code === -ERRNO.ESRCH ? code : this.#end(done > 0 ? done * PAGE_SIZE : code, length);
  }

  #end(result: number, length: number): number {
    this.result = result;
    if (result < 0) return result;
    return result === length ? 0 : -ERRNO.EAGAIN;
  }

  /** 0 or the error that stopped it; `#done` pages were filled. */
  #fill(ctx: Uffd, start: Vpn, pages: number): number {
    let code = this.#round(ctx, start, pages);
    while (code === SLEEP) {
      code = this.#sleepFor();
      if (code === 0) code = this.#round(ctx, start, pages);
    }
    if (this.#ready >= 0) this.#dropReady();
    return code;
  }

  /** As far as it goes under one hold of the locks. Everything is looked at anew each time (V-31). */
  #round(ctx: Uffd, start: Vpn, pages: number): number {
    const { sync, uffds } = this.#deps;
    const mm = this.#layout.uffd.mm.get(ctx);
    const lock = mm + this.#layout.mm.mmapLock.at;
    sync.readLock('mmap', lock);
    let code: number = -ERRNO.ESRCH;
    if (this.#layout.mm.users.load(mm) > 0) {
      code = -ERRNO.EAGAIN;
      if (uffds.tryEnter(ctx)) {
        code = this.#range(ctx, mm, start, pages);
        uffds.leave(ctx);
      }
    }
    sync.readUnlock('mmap', lock);
    return code;
  }

  /** Requires: mmap for read, inside the gate. */
  #range(ctx: Uffd, mm: Mm, start: Vpn, pages: number): number {
    const { vmas, anonVmas, killed } = this.#deps;
    const vma = vmas.find(mm, start);
    // Before anything is refused, as in Linux: what it may merge with depends on it (M-2).
    const isPrivate = vma !== 0 && (this.#layout.vma.flags.get(vma) & VmFlag.Shared) === 0;
    if (isPrivate && anonVmas.prepare(vma) === 0) return -ERRNO.ENOMEM;
    const refused = this.#refuse(ctx, vma, start, pages);
    if (refused !== 0) return refused;
    this.#deps.y('V.v');
    while (this.#done < pages) {
      const code = this.#one(mm, vma, start + this.#done);
      if (code !== 0) return code;
      this.#done++;
      if (killed?.()) return -ERRNO.EINTR;
    }
    return 0;
  }

  /** V-38. */
  #refuse(ctx: Uffd, vma: Vma, start: Vpn, pages: number): number {
    const v = this.#layout.vma;
    if (vma === 0 || start + pages > v.end.get(vma)) return -ERRNO.ENOENT;
    const owner = v.uffd.get(vma);
    if (owner === 0 || (this.#deps.strictOwner && owner !== ctx)) return -ERRNO.ENOENT;
    const flags = v.flags.get(vma);
    if ((this.#mode & UffdFill.Wp) !== 0 && (flags & VmFlag.UffdWp) === 0) return -ERRNO.EINVAL;
    const ofInode = v.ops.get(vma) !== 0;
    if (ofInode) return 0;
    return this.#kind === 'continue' || (flags & VmFlag.Shared) !== 0 ? -ERRNO.EINVAL : 0;
  }

  #one(mm: Mm, vma: Vma, vpn: Vpn): number {
    const shared = this.#layout.vma.ops.get(vma) !== 0;
    // What was filled while we slept was meant for another kind of mapping.
    if (this.#ready >= 0 && this.#pages.has(this.#ready, PageFlag.Shmem) !== shared) this.#dropReady();
    if (this.#kind === 'continue') return this.#deps.shmemFill.continuePage(mm, vma, vpn, this.#wpBit());
    let pte = this.#pageTable.peek(mm, vpn);
    if (pte === 0) pte = this.#pageTable.alloc(mm, vpn);
    if (pte === 0) return -ERRNO.ENOMEM;
    if (pte === HUGE) return -ERRNO.EEXIST;
    if (shared && this.#kind !== 'poison') return this.#shmemPage(mm, vma, vpn, pte);
    if (this.#kind === 'copy') return this.#copyPage(mm, vma, vpn, pte);
    return this.#install(pte, this.#kind === 'poison' ? POISON_ENTRY : this.#zeroEntry(vma));
  }

  #wpBit(): number {
    return (this.#mode & UffdFill.Wp) !== 0 ? Pte.UffdWp : 0;
  }

  /**
   * COPY and ZEROPAGE of a mapping of an inode: a page of the cache, whatever marker is there (V-31, V-32). Here too
   * a source that can't be read is found before a page that is there already.
   */
  #shmemPage(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt): number {
    const { memory, pageOps, shmemFill } = this.#deps;
    let pfn = this.#ready;
    if (pfn >= 0) this.#ready = -1;
    else {
      pfn = memory.newPage(mm, 1, NEW_SHMEM);
      if (pfn < 0) return -ERRNO.ENOMEM;
      if (this.#kind === 'zeropage') pageOps.zero(frameByte(pfn));
      else if (!this.#tryRead(pfn)) {
        this.#ready = pfn;
        return SLEEP;
      }
    }
    return shmemFill.install(mm, vma, vpn, pte, pfn, this.#wpBit());
  }

  #zeroEntry(vma: Vma): number {
    return mkPte(this.#pages.zeroPage, Pte.Zero | Pte.Young | (this.#rights(vma) & Pte.ProtNone));
  }

  /** What needs no page goes into none alone (V-32, V-34). */
  #install(pte: PteAt, entry: number): number {
    const { y } = this.#deps;
    this.#pageTable.lock(pte);
    y('V.t');
    const hole = this.#pageTable.held(pte) === 0;
    if (hole) {
      this.#pageTable.fill(pte, entry);
      y('V.i');
    }
    this.#pageTable.unlock(pte);
    y('V.u');
    return hole ? 0 : -ERRNO.EEXIST;
  }

  #rights(vma: Vma): number {
    const flags = this.#layout.vma.flags.get(vma);
    const protect = (this.#mode & UffdFill.Wp) !== 0;
    if ((flags & VmFlag.Write) !== 0) return protect ? Pte.UffdWp : Pte.Write;
    const rights = (flags & VmFlag.Read) !== 0 ? 0 : Pte.ProtNone;
    return protect ? rights | Pte.UffdWp : rights;
  }

  /**
   * The page is charged, filled and only then brought under the ptl (C-11): so a source that can't be read is
   * found before a page that is there already.
   */
  #copyPage(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt): number {
    let pfn = this.#ready;
    if (pfn >= 0) this.#ready = -1;
    else {
      pfn = this.#deps.memory.newPage(mm, 1, NEW_ANON | PageFlag.LruPending);
      if (pfn < 0) return -ERRNO.ENOMEM;
      if (!this.#tryRead(pfn)) {
        this.#ready = pfn;
        return SLEEP;
      }
    }
    this.#deps.y('V.c');
    return this.#mapPage(mm, vma, vpn, pte, pfn);
  }

  #mapPage(mm: Mm, vma: Vma, vpn: Vpn, pte: PteAt, pfn: Pfn): number {
    const { rmap, lru, breaks, y } = this.#deps;
    const pageTable = this.#pageTable;
    pageTable.lock(pte);
    y('V.t');
    const held = pageTable.held(pte);
    if (held !== 0 && !isMarker(held) && !breaks.fillWithoutRecheck) {
      pageTable.unlock(pte);
      this.#pages.put(pfn); // its charge goes with it
      return -ERRNO.EEXIST;
    }
    rmap.addNew(pfn, vma, vpn);
    const entry = mkPte(pfn, this.#rights(vma) | Pte.Young | Pte.Dirty);
    if (held === 0) pageTable.fill(pte, entry);
    else pageTable.replace(pte, entry);
    this.#layout.mm.anonPages.add(mm, 1);
    y('V.i');
    pageTable.unlock(pte);
    y('V.u');
    lru.addPending(pfn);
    return 0;
  }

  /** Fills a page with its part of the source, unless that would fault: false. May be called under locks. */
  #tryRead(pfn: Pfn): boolean {
    const at = this.#source + this.#done * PAGE_SIZE;
    const bytes = this.#bytes;
    if (bytes === undefined) return this.#tryAddress(frameByte(pfn), at);
    const { pageOps, sync } = this.#deps;
    if (this.#inArena) pageOps.copy(frameByte(pfn), bytes.byteOffset + at);
    else if (bytes.length === PAGE_SIZE) sync.arena.bytes.set(bytes, frameByte(pfn));
    else sync.arena.bytes.set(bytes.subarray(at, at + PAGE_SIZE), frameByte(pfn));
    return true;
  }

  /** A page's worth from an address: one page or two, looked up without a lock. */
  #tryAddress(into: number, address: Hva): boolean {
    const offset = address % PAGE_SIZE;
    const page = pageNumber(address);
    if (!this.#tryPart(into, page, offset, PAGE_SIZE - offset)) return false;
    return offset === 0 || this.#tryPart(into + PAGE_SIZE - offset, page + 1, 0, offset);
  }

  #tryPart(into: number, page: Vpn, offset: number, length: number): boolean {
    const { gup, pageOps } = this.#deps;
    const found = gup.fast(this.#sourceMm, page, false);
    if (found < 0) return false;
    const pfn = found & GUP_PFN_MASK;
    if (length === PAGE_SIZE) pageOps.copy(into, frameByte(pfn));
    else pageOps.move(into, frameByte(pfn) + offset, length);
    this.#pages.put(pfn);
    return true;
  }

  /**
   * Fills the page in hand with no lock held, as the source has to be faulted in. EFAULT: it can't be read.
   * A manager may be given a turn meanwhile, on this thread, and resolve something else.
   */
  #sleepFor(): number {
    const { sync, access } = this.#deps;
    const [kind, mode, done, pfn] = [this.#kind, this.#mode, this.#done, this.#ready];
    const [mm, source] = [this.#sourceMm, this.#source];
    this.#ready = -1;
    let filled = false;
    try {
      const into = sync.arena.bytes.subarray(frameByte(pfn), frameByte(pfn) + PAGE_SIZE);
      access.copyFromUser(mm, source + done * PAGE_SIZE, into);
      filled = true;
    } catch (error) {
      if (!(error instanceof Errno)) throw error;
    } finally {
      if (!filled) this.#pages.put(pfn);
    }
    [this.#kind, this.#mode, this.#done, this.#source] = [kind, mode, done, source];
    this.#bytes = undefined;
    this.#sourceMm = mm;
    if (!filled) return -ERRNO.EFAULT;
    this.#ready = pfn;
    sync.y('V.slept');
    return 0;
  }

  #dropReady(): void {
    this.#pages.put(this.#ready);
    this.#ready = -1;
  }
}
