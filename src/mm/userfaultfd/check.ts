import { AssertionError } from '../../base/assert.ts';
import type { Ptr } from '../../sync/struct.ts';
import type { MmCore } from '../core.ts';
import { Pte, VmFlag, VmFlagHigh, withoutUffdWp } from '../layout.ts';
import { nextTable } from '../page-table.ts';
import { UffdFlag, WaitState } from './state.ts';

type Mm = Ptr<'mm'>;
type Uffd = Ptr<'uffd'>;

function must(condition: boolean, rule: string, ...details: unknown[]): asserts condition {
  if (!condition) throw new AssertionError([rule, ...details].join(' '));
}

/**
 * Proves the invariants of README.md for the contexts of one mm, which must be at rest: sleepers may be asleep, but
 * no resolver, reader or mutator is under way. Part of `checkInvariants`.
 */
export function checkUffds(core: MmCore, mm: Mm): void {
  const live = new Set<Uffd>();
  const u = core.layout.uffd;
  for (let ctx = core.layout.mm.uffds.get(mm); ctx !== 0; ctx = u.next.get(ctx)) {
    must(!live.has(ctx), 'U4: a context is once on the list of its mm', ctx);
    live.add(ctx);
    checkContext(core, mm, ctx);
  }
  for (let i = 0; i < core.vmas.count(mm); i++) {
    checkVma(core, core.vmas.at(mm, i), live);
    checkProtection(core, mm, core.vmas.at(mm, i));
  }
}

function checkProtection(core: MmCore, mm: Mm, vma: Ptr<'vma'>): void {
  const { start, end, flags } = core.layout.vma;
  const registered = (flags.get(vma) & VmFlag.UffdWp) !== 0;
  for (let vpn = start.get(vma); vpn < end.get(vma); vpn++) {
    const pte = core.pageTable.walk(mm, vpn);
    if (pte === 0) vpn = nextTable(vpn) - 1;
    const entry = pte === 0 ? 0 : core.pageTable.entryOf(mm, vpn);
    if (withoutUffdWp(entry) === entry) continue;
    must(registered, 'U9: what is write-protected is registered for it', vpn, entry);
    must(
      (entry & (Pte.Present | Pte.Write)) !== (Pte.Present | Pte.Write),
      'U9: protected and writable',
      vpn,
    );
  }
}

function checkContext(core: MmCore, mm: Mm, ctx: Uffd): void {
  const u = core.layout.uffd;
  must(u.mm.get(ctx) === mm, 'U4: a context names its mm', ctx);
  must(!core.uffds.isReleased(ctx), 'U4: a released context is on no list', ctx);
  must(u.refs.load(ctx) > 0 || (u.flags.get(ctx) & UffdFlag.CloseHang) !== 0, 'U4: a context is held', ctx);
  must(u.mmapChanging.load(ctx) === 0, 'U5: the gate is open at rest (OR-5)', ctx);
  must(core.sync.words[ctx + u.mapChanging.at] === 0, 'U5: nobody is inside the gate at rest', ctx);
  must(core.sync.words[ctx + u.lock.at] === 0, 'U2: the lock of the queues is free at rest', ctx);
  const pending = checkQueue(core, ctx, 'pending', WaitState.Pending);
  const read = checkQueue(core, ctx, 'fault', WaitState.Read);
  const events = checkQueue(core, ctx, 'event', WaitState.Pending);
  must(u.waiters.load(ctx) === pending + read, 'U3: waiters is the number of faults', pending, read);
  must(u.count.load(ctx) === 1 + pending + read + events, 'U2: each entry keeps the context', ctx);
}

function checkQueue(core: MmCore, ctx: Uffd, name: 'pending' | 'fault' | 'event', state: number): number {
  const { uffd: u, uffdWait: w } = core.layout;
  let [entries, last] = [0, 0];
  for (let at = u[`${name}Head`].get(ctx); at !== 0; at = w.next.get(at)) {
    must(w.ctx.get(at) === ctx, 'U2: an entry names its context', at);
    must(w.prev.get(at) === last, 'U2: a queue is linked both ways', name, at);
    must(w.state.load(at) === state, 'U2: an entry is in the queue that its state says', name, at);
    last = at;
    entries++;
  }
  must(u[`${name}Tail`].get(ctx) === last, 'U2: the tail of a queue is its last entry', name);
  return entries;
}

function checkVma(core: MmCore, vma: Ptr<'vma'>, live: ReadonlySet<Uffd>): void {
  const ctx = core.layout.vma.uffd.get(vma);
  const { lo, hi } = core.vmas.flags(vma);
  const modes = (lo & (VmFlag.UffdMissing | VmFlag.UffdWp)) | (hi & VmFlagHigh.UffdMinor);
  must(ctx === 0 || live.has(ctx), 'U4: a VMA names a live context of its mm', vma);
  must(ctx !== 0 || modes === 0, 'U4: a VMA without a context has no modes', vma);
}
