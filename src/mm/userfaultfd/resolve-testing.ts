import { ERRNO, type ErrnoCode } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { Arena } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import { Sync } from '../../sync/sync.ts';
import { productionWaiter } from '../../sync/waiter.ts';
import { createPageOps } from '../../wasm/page-ops.ts';
import { attachMm, initMm, type MmConfig, type MmCore } from '../core.ts';
import { GUP_BLOCKED, GUP_FAULT, GUP_HWPOISON, GUP_NOMEM, GUP_PFN_MASK, GUP_SIGBUS } from '../fault-codes.ts';
import { VmFlag } from '../layout.ts';
import { UffdMode } from './state.ts';

export const PAGE = PAGE_SIZE;
export const DST = 0x20000000;
export const SRC = 0x30000000;

const GUP_NAMES: Record<number, string> = {
  [GUP_FAULT]: 'EFAULT',
  [GUP_NOMEM]: 'ENOMEM',
  [GUP_BLOCKED]: 'blocked',
  [GUP_HWPOISON]: 'EHWPOISON',
  [GUP_SIGBUS]: 'SIGBUS',
};

/** A page of one byte. */
export const page = (byte: number): Uint8Array => new Uint8Array(PAGE).fill(byte);

/** A name for what a system call returned. */
export function name(result: number): string | number {
  if (result >= 0) return result;
  const found = (Object.entries(ERRNO) as [ErrnoCode, number][]).find(([, value]) => value === -result);
  return found?.[0] ?? result;
}

/** The two faces of moving: what T-RAP's mark says is to be the same. */
export const FACES = ['remap', 'MOVE'] as const;
export type Face = (typeof FACES)[number];

type ResolvingConfig = { frames?: number; limitPages?: number } & Partial<MmConfig>;

/** An address space with a destination that a context has registered, and a source; both `pages` long. */
export class Resolving {
  readonly core: MmCore;
  readonly mm: Ptr<'mm'>;
  readonly ctx: Ptr<'uffd'>;
  readonly pages: number;
  /** Called at every named yield point of `core`. */
  at: (label: string) => void = () => {};
  readonly #config: MmConfig;

  constructor(pages: number, config: ResolvingConfig = {}) {
    const { frames = 4096, limitPages = 4096, ...rest } = config;
    const arena = Arena.create({ frames, heapBytes: 1 << 20, shared: true });
    this.#config = {
      ...{ pageOps: createPageOps(arena.memory, true), swap: { kind: 'zram', bytes: 1 << 20 }, poison: true },
      ...rest,
    };
    const waiter = { ...productionWaiter(arena), point: (label: string) => this.at(label) };
    this.core = initMm(new Sync(arena, { lockdep: true, waiter }), this.#config);
    this.mm = this.core.createMm({ limitPages });
    this.ctx = this.core.uffds.create(this.mm, 0);
    this.pages = pages;
    for (const address of [DST, SRC])
      this.core.mmap.map(this.mm, pages * PAGE, { address, fixed: 'exclusive' });
    this.arm(VmFlag.UffdMissing);
  }

  /** The VMA at an address belongs to the context with these modes (VmFlag), or to none. */
  arm(modes: number, address = DST): void {
    const { mmap, layout, uffdRegister } = this.core;
    const { start, end, uffd } = layout.vma;
    const vma = mmap.find(this.mm, address);
    const [from, bytes] = [start.get(vma) * PAGE, (end.get(vma) - start.get(vma)) * PAGE];
    if (uffd.get(vma) !== 0) uffdRegister.unregister(this.ctx, from, bytes);
    const mode =
      ((modes & VmFlag.UffdMissing) !== 0 ? UffdMode.Missing : 0) |
      ((modes & VmFlag.UffdWp) !== 0 ? UffdMode.Wp : 0);
    if (mode !== 0) uffdRegister.register(this.ctx, from, bytes, mode);
  }

  /** The same arena as another thread sees it. */
  thread(): MmCore {
    return attachMm(new Sync(this.core.sync.arena, { lockdep: true }), this.#config);
  }

  /** Calls `work` once, when `core` passes a point for the n-th time from now. */
  once(label: string, work: () => void, n = 1): void {
    this.at = passed => {
      if (passed !== label || --n > 0) return;
      this.at = () => {};
      work();
    };
  }

  /** What an access of a page comes to: a number means a page. */
  fault(address: number, write: boolean, how = 0): string {
    const result = this.core.gup.fault(this.mm, address / PAGE, write, how);
    if (result >= 0) this.core.pages.put(result & GUP_PFN_MASK);
    return result >= 0 ? 'page' : (GUP_NAMES[result] ?? String(result));
  }

  /** A fault that was queued: its flags, after which it is taken out. */
  message(): number | undefined {
    const { ticket } = this.core.gup;
    if (ticket === 0) return undefined;
    const flags = this.core.layout.uffdWait.flags.get(ticket);
    this.core.uffds.queues.finish(ticket);
    return flags;
  }

  /** What a call that fills returned, and what it wrote into its result field, by name. */
  said(code: number): [string | number, string | number | undefined] {
    const { result } = this.core.mfill;
    return [name(code), result === undefined ? undefined : name(result)];
  }

  usage(): number {
    return this.core.layout.memcg.usage.load(this.core.layout.mm.memcg.get(this.mm));
  }

  write(address: number, value: number): void {
    this.core.access.write32(this.mm, address, value);
  }

  read(address: number): number {
    return this.core.access.read32(this.mm, address);
  }

  /** Fills source pages [from, to) with 100, 101, … */
  fill(from = 0, to = this.pages): void {
    for (let i = from; i < to; i++) this.write(SRC + i * PAGE, 100 + i);
  }

  advise(address: number, pages: number, advice: 'dontneed' | 'pageout' | 'free' | 'dontfork'): void {
    this.core.madvise.advise(this.mm, address, pages * PAGE, advice);
  }

  /** Moves pages by number; what the call says, by name. */
  move(face: Face, dst: number, src: number, pages: number, holes = false): string | number {
    const { move } = this.core;
    if (face === 'remap')
      return name(
        move.remapAnonPages(this.mm, DST + dst * PAGE, SRC + src * PAGE, pages * PAGE, holes ? 1 : 0),
      );
    const mode = holes ? 2 : 0;
    const code = move.move(this.ctx, this.mm, DST + dst * PAGE, SRC + src * PAGE, pages * PAGE, mode);
    return code === 0 || (move.result ?? 0) > 0 ? (move.result as number) : name(code);
  }

  describe(): string {
    return this.core.describe(this.mm);
  }

  /** Entry of a page, to be looked at or, for a test, overwritten. */
  entry(address: number): number {
    const pte = this.core.pageTable.walk(this.mm, address / PAGE);
    return pte === 0 ? 0 : this.core.pageTable.load(pte);
  }

  /** Puts something into a hole that nothing here makes yet. */
  plant(address: number, entry: number): void {
    const { pageTable } = this.core;
    const pte = pageTable.alloc(this.mm, address / PAGE);
    pageTable.lock(pte);
    if (pageTable.held(pte) !== 0) pageTable.clear(pte);
    if (entry !== 0) pageTable.fill(pte, entry);
    pageTable.unlock(pte);
  }
}
