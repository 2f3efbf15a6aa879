import { expect, test } from 'vitest';
import type { Errno } from '../base/errno.ts';
import { PAGE_SIZE } from '../base/units.ts';
import { CopyError } from './access.ts';
import type { MmCore } from './core.ts';
import {
  FaultFlag,
  GUP_BLOCKED,
  GUP_FAULT,
  GUP_HWPOISON,
  GUP_NOMEM,
  GUP_PFN_MASK,
  GUP_SIGBUS,
  GUP_WRITABLE,
} from './fault-codes.ts';
import { VmFlagHigh } from './layout.ts';
import { testMm } from './testing.ts';
import { UffdMode } from './userfaultfd/state.ts';
import { Userfaultfd } from './userfaultfd/userfaultfd.ts';

const AT = 0x20000000;
const VPN = AT / PAGE_SIZE;

/** Eight pages; `armed`: a context asks for the first four. */
function mapped(armed: boolean, limitPages = 64) {
  const core = testMm();
  const mm = core.createMm({ limitPages });
  core.mmap.map(mm, 8 * PAGE_SIZE, { address: AT, fixed: 'exclusive' });
  const uffd = Userfaultfd.create(core, mm, { nonBlock: true });
  uffd.api();
  if (armed) uffd.register(AT, 4 * PAGE_SIZE, UffdMode.Missing);
  return { core, mm, uffd };
}

const code = (work: () => void): string => {
  try {
    work();
    return 'ok';
  } catch (error) {
    return (error as Errno).code;
  }
};

const pageOf = (core: MmCore, byte: number): [Uint8Array, number] => {
  core.checkInvariants();
  return [new Uint8Array(PAGE_SIZE).fill(byte), PAGE_SIZE];
};

test('M-20, M-23: each way in which a fault ends has its answer; a frame comes with one reference', () => {
  const { core, mm, uffd } = mapped(true, 32);
  const { gup, mmap, mfill, madvise, pages } = core;
  const got = gup.fault(mm, VPN + 5, true);
  expect([got & GUP_WRITABLE, pages.refcount(got & GUP_PFN_MASK)]).toEqual([GUP_WRITABLE, 2]);
  pages.put(got & GUP_PFN_MASK);
  mfill.poison(uffd.ctx, AT, PAGE_SIZE);
  mmap.protect(mm, AT + 6 * PAGE_SIZE, PAGE_SIZE, { read: true });
  madvise.advise(mm, AT + 7 * PAGE_SIZE, PAGE_SIZE, 'userfault');
  core.access.write32(mm, AT + 4 * PAGE_SIZE, 1);
  const answers = [
    gup.fault(mm, VPN - 1, false),
    gup.fault(mm, VPN + 6, true),
    gup.fault(mm, VPN, false),
    gup.fault(mm, VPN + 7, true),
    gup.fault(mm, VPN + 1, false, FaultFlag.NoWait),
    gup.fault(mm, VPN + 1, false, FaultFlag.NoRetry),
  ];
  expect(answers).toEqual([GUP_FAULT, GUP_FAULT, GUP_HWPOISON, GUP_SIGBUS, GUP_BLOCKED, GUP_SIGBUS]);
  // Beyond the limit of its group, with nothing to swap to.
  const more = mmap.map(mm, 40 * PAGE_SIZE) / PAGE_SIZE;
  const results = Array.from({ length: 40 }, (_, i) => gup.fault(mm, more + i, true));
  for (const result of results) if (result >= 0) pages.put(result & GUP_PFN_MASK);
  expect([results[0]! >= 0, results[39]]).toEqual([true, GUP_NOMEM]);
  core.checkInvariants();
});

test('M-22, M-24: who is to wait holds no lock and has one entry; who may not sleep has queued nothing', () => {
  const { core, mm, uffd } = mapped(true);
  expect([core.gup.fault(mm, VPN, true, FaultFlag.NoWait), core.gup.ticket]).toEqual([GUP_BLOCKED, 0]);
  expect(core.uffds.queues.counts(uffd.ctx).pending).toBe(0);
  expect(core.gup.fault(mm, VPN, true)).toBe(GUP_BLOCKED);
  const ticket = core.gup.ticket;
  expect(core.uffds.queues.counts(uffd.ctx).pending).toBe(1);
  // Takes mmap for write, which in one-worker mode would be an assertion if it were held.
  core.mmap.map(mm, PAGE_SIZE);
  expect(core.mfill.copy(uffd.ctx, AT, ...pageOf(core, 3))).toBe(0);
  expect(core.uffdWaits.isOver(ticket)).toBe(true);
  core.uffdWaits.finish(ticket);
  expect(core.access.read8(mm, AT)).toBe(3);
  core.checkInvariants();
});

test('M-25: a copy that meets a bad page is EFAULT, and says how many bytes it did before', () => {
  const { core, mm } = mapped(false);
  const bytes = new Uint8Array(3 * PAGE_SIZE).fill(7);
  let error: unknown;
  try {
    core.access.copyToUser(mm, AT + 6 * PAGE_SIZE + 100, bytes);
  } catch (caught) {
    error = caught;
  }
  expect(error).toBeInstanceOf(CopyError);
  expect([(error as CopyError).code, (error as CopyError).done]).toEqual(['EFAULT', 2 * PAGE_SIZE - 100]);
  expect([
    core.access.read8(mm, AT + 6 * PAGE_SIZE + 99),
    core.access.read8(mm, AT + 8 * PAGE_SIZE - 1),
  ]).toEqual([0, 7]);
});

test('V-27, V-40: answers come in any order, and wake whose address is in their range', () => {
  const { core, mm, uffd } = mapped(true);
  const tickets = [0, 1, 3].map(page => {
    expect(core.gup.fault(mm, VPN + page, false)).toBe(GUP_BLOCKED);
    return core.gup.ticket;
  });
  const over = (): boolean[] => tickets.map(ticket => core.uffdWaits.isOver(ticket));
  core.mfill.copy(uffd.ctx, AT + 3 * PAGE_SIZE, ...pageOf(core, 1));
  expect(over()).toEqual([false, false, true]);
  uffd.wake(AT + PAGE_SIZE, 2 * PAGE_SIZE);
  expect(over()).toEqual([false, true, true]);
  core.mfill.zeropage(uffd.ctx, AT, 4 * PAGE_SIZE); // stops at what is there
  expect(over()).toEqual([true, true, true]);
  for (const ticket of tickets) core.uffdWaits.finish(ticket);
  core.checkInvariants();
});

test('R-1, R-19: remap_anon_pages knows one flag, and wakes nobody', () => {
  const { core, mm, uffd } = mapped(true);
  core.access.write32(mm, AT + 4 * PAGE_SIZE, 9);
  expect(core.gup.fault(mm, VPN, false)).toBe(GUP_BLOCKED);
  const ticket = core.gup.ticket;
  const remap = (flags: number) => core.move.remapAnonPages(mm, AT, AT + 4 * PAGE_SIZE, PAGE_SIZE, flags);
  expect([remap(2), remap(-2), remap(0)]).toEqual([-22, -22, PAGE_SIZE]);
  expect(core.uffdWaits.isOver(ticket)).toBe(false);
  uffd.wake(AT, PAGE_SIZE);
  core.uffdWaits.finish(ticket);
  expect(core.access.read32(mm, AT)).toBe(9);
  core.checkInvariants();
});

test('F-33: a context watches many mappings, a mapping has one context', () => {
  const { core, mm, uffd } = mapped(true);
  core.mmap.protect(mm, AT + 4 * PAGE_SIZE, PAGE_SIZE, { read: true });
  uffd.register(AT, 8 * PAGE_SIZE, UffdMode.Missing);
  const other = Userfaultfd.create(core, mm, { nonBlock: true });
  other.api();
  expect(code(() => other.register(AT + PAGE_SIZE, PAGE_SIZE, UffdMode.Missing))).toBe('EBUSY');
  const owners = [0, 4, 7].map(page => core.layout.vma.uffd.get(core.mmap.find(mm, AT + page * PAGE_SIZE)));
  expect(owners).toEqual([uffd.ctx, uffd.ctx, uffd.ctx]);
  core.checkInvariants();
});

test('H-25, U-5: advice on huge pages and user faults is kept apart; the latter is bit 32', () => {
  const { core, mm } = mapped(false);
  const flags = () => core.vmas.flags(core.mmap.find(mm, AT));
  const plain = flags();
  for (const advice of ['hugepage', 'userfault'] as const) core.madvise.advise(mm, AT, 8 * PAGE_SIZE, advice);
  expect([flags().hi, VmFlagHigh.UserFault]).toEqual([1, 1]);
  core.madvise.advise(mm, AT, 8 * PAGE_SIZE, 'nohugepage');
  expect(flags().hi).toBe(1);
  core.madvise.advise(mm, AT, 8 * PAGE_SIZE, 'nouserfault');
  expect([flags().hi, flags().lo !== plain.lo]).toEqual([0, true]);
});

test('U-34: exit asks for nothing', () => {
  const { core, mm, uffd } = mapped(true);
  core.exit(mm);
  expect(core.uffds.queues.counts(uffd.ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  uffd.close();
  core.checkInvariants();
});
