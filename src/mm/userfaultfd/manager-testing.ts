import { PAGE_SIZE, type Vpn } from '../../base/units.ts';
import { frameByte, frameWord } from '../../sync/arena.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmBreaks } from '../breaks.ts';
import type { MmCore } from '../core.ts';
import { GUP_BLOCKED } from '../fault-codes.ts';
import { mkPte, Pte, VmFlag } from '../layout.ts';
import { NEW_ANON } from '../memory.ts';
import { testMm } from '../testing.ts';
import type { Ticket } from './queues.ts';
import { UffdMode } from './state.ts';
import { Userfaultfd, type UserfaultfdOptions } from './userfaultfd.ts';

type Uffd = Ptr<'uffd'>;
export const PAGE = PAGE_SIZE;
export const AT = 0x20000000;
export const VPN = AT / PAGE;

export type Provided = 'ok' | 'EAGAIN' | 'ENOENT' | 'EEXIST' | 'ENOMEM';

/** The least that a resolver does (decision 5, V-30, V-31): a page whose first word is `value`, then a wake. */
export function provide(core: MmCore, ctx: Uffd, vpn: Vpn, value: number, wake = true): Provided {
  const { sync, layout, uffds } = core;
  const mm = layout.uffd.mm.get(ctx);
  if (uffds.isChanging(ctx)) return 'EAGAIN';
  sync.readLock('mmap', mm + layout.mm.mmapLock.at);
  let result: Provided = 'EAGAIN';
  if (uffds.tryEnter(ctx)) {
    result = install(core, mm, vpn, value);
    uffds.leave(ctx);
  }
  sync.readUnlock('mmap', mm + layout.mm.mmapLock.at);
  if (result === 'ok') sync.y('V.u');
  if (result === 'ok' && wake) uffds.wakeRange(ctx, vpn, vpn + 1);
  return result;
}

function install(core: MmCore, mm: Ptr<'mm'>, vpn: Vpn, value: number): Provided {
  const { vmas, layout, pageTable, pageOps, pages, sync } = core;
  const vma = vmas.find(mm, vpn);
  sync.y('V.v');
  if (vma === 0 || layout.vma.uffd.get(vma) === 0) return 'ENOENT';
  const pte = pageTable.alloc(mm, vpn);
  const pfn = core.anonVmas.prepare(vma) === 0 || pte <= 0 ? -1 : core.memory.newPage(mm, 1, NEW_ANON);
  if (pfn < 0) return 'ENOMEM';
  pageOps.zero(frameByte(pfn));
  core.sync.words[frameWord(pfn)] = value;
  pageTable.lock(pte);
  sync.y('V.t');
  if (pageTable.held(pte) !== 0) {
    pageTable.unlock(pte);
    pages.put(pfn);
    return 'EEXIST';
  }
  core.rmap.addNew(pfn, vma, vpn);
  const write = (layout.vma.flags.get(vma) & VmFlag.Write) !== 0 ? Pte.Write : 0;
  pageTable.fill(pte, mkPte(pfn, write | Pte.Young | Pte.Dirty));
  layout.mm.anonPages.add(mm, 1);
  sync.y('V.i');
  pageTable.unlock(pte);
  core.lru.add(pfn);
  return 'ok';
}

/** An address space whose pages [AT, AT + pages) a context has registered. */
export class Managed {
  readonly core: MmCore;
  readonly mm: Ptr<'mm'>;
  readonly userfault: Userfaultfd;
  readonly pages: number;

  constructor(
    options: UserfaultfdOptions & {
      pages?: number;
      features?: number;
      mode?: number;
      core?: Parameters<typeof testMm>[0];
    } = {},
  ) {
    this.core = testMm(options.core);
    this.mm = this.core.createMm({ limitPages: 256 });
    this.pages = options.pages ?? 16;
    this.core.mmap.map(this.mm, this.pages * PAGE, { address: AT, fixed: 'exclusive' });
    this.userfault = Userfaultfd.create(this.core, this.mm, { nonBlock: true, ...options });
    this.userfault.api(options.features ?? 0);
    this.userfault.register(AT, this.pages * PAGE, options.mode ?? UffdMode.Missing);
  }

  get ctx(): Uffd {
    return this.userfault.ctx;
  }

  /** A fault that must come to wait. */
  sleeper(page: number, write = true, how = 0): Ticket {
    const result = this.core.gup.fault(this.mm, VPN + page, write, how);
    if (result !== GUP_BLOCKED || this.core.gup.ticket === 0) throw new Error(`no sleeper: ${result}`);
    return this.core.gup.ticket;
  }

  isWoken(ticket: Ticket): boolean {
    return this.core.uffdWaits.isOver(ticket);
  }

  finish(...tickets: Ticket[]): void {
    for (const ticket of tickets) this.core.uffdWaits.finish(ticket);
  }

  provide(page: number, value = 1, wake = true): Provided {
    return provide(this.core, this.ctx, VPN + page, value, wake);
  }

  /** Answers every fault with `value(page)`, in this thread. */
  serve(value: (page: number) => number): () => void {
    return this.userfault.serveInline(event => {
      if (event.event !== 'pagefault') return;
      const page = (event.address - AT) / PAGE;
      this.provide(page, value(page));
    });
  }
}

/** The work holds, and with the rule switched off it does not: so it is a test of the rule. */
export function proven(broken: Partial<MmBreaks>, work: (breaks: Partial<MmBreaks>) => void): void {
  work({});
  let caught: unknown;
  try {
    work(broken);
  } catch (error) {
    caught = error;
  }
  if (caught === undefined) throw new Error(`the test passes with ${Object.keys(broken).join()} broken`);
}

/** The code of what a call throws; undefined if it doesn't. */
export function codeOf(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return (error as { code?: string }).code ?? String(error);
  }
}
