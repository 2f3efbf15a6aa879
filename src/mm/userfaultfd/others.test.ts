import { expect, test } from 'vitest';
import { GUP_FAULT, GUP_PFN_MASK } from '../fault-codes.ts';
import { POISON_ENTRY, VmFlag, WP_MARKER } from '../layout.ts';
import { UffdCalls } from '../syscalls/uffd-calls.ts';
import { testMm } from '../testing.ts';
import { AT, codeOf, Managed, PAGE, proven, VPN } from './manager-testing.ts';
import { DST, FACES, name, page, Resolving, SRC } from './resolve-testing.ts';

// What the rest of the mm sees of user faults, and they of it.

test('U-35: another process that copies sleeps and gets the page; a debugger gets EFAULT at once, with no message', () => {
  const m = new Managed();
  const { core, mm, ctx } = m;
  expect(codeOf(() => core.access.peek32(mm, AT))).toBe('EFAULT');
  expect(core.uffds.queues.counts(ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  const stop = m.serve(n => n + 7);
  const bytes = new Uint8Array(4);
  core.access.copyFromUser(mm, AT + PAGE, bytes);
  stop();
  expect([bytes[0], core.access.peek32(mm, AT + PAGE)]).toEqual([8, 8]);
  m.userfault.close();
  core.madvise.advise(mm, AT, PAGE, 'userfault'); // SIGBUS mode
  expect(codeOf(() => core.access.copyFromUser(mm, AT, bytes))).toBe('EFAULT');
  core.checkInvariants();
});

test('U-8: an armed mapping is protected, swapped, forked, hinted and merged as any other', () => {
  const states = [false, true].map(armed => {
    const core = testMm({ swap: { kind: 'zram', bytes: 1 << 20 } });
    const mm = core.createMm({ limitPages: 64 });
    core.mmap.map(mm, 8 * PAGE, { address: AT, fixed: 'exclusive' });
    for (let i = 0; i < 6; i++) core.access.write32(mm, AT + i * PAGE, 9);
    if (armed) core.madvise.advise(mm, AT, 8 * PAGE, 'userfault');
    core.madvise.advise(mm, AT, PAGE, 'pageout');
    core.madvise.advise(mm, AT + PAGE, 3 * PAGE, 'mergeable');
    core.ksm.fullScans(3);
    core.mmap.protect(mm, AT + 4 * PAGE, PAGE, { read: true });
    const child = core.fork(mm);
    core.access.write32(child, AT + 5 * PAGE, 10);
    const text = [core.describe(mm), core.describe(child)].join('\n').replaceAll(' uf', '');
    const { usage } = core.layout.memcg;
    core.checkInvariants();
    return [text, usage.load(core.layout.mm.memcg.get(mm)), core.layout.mm.anonPages.load(mm)];
  });
  expect(states[1]).toEqual(states[0]);
});

test('V-1: flags are checked after privilege, and who has none may watch what user mode touches alone', () => {
  const core = testMm();
  const mm = core.createMm();
  const [NONBLOCK, CLOEXEC, USER_MODE_ONLY] = [0x800, 0x80000, 1];
  const root = new UffdCalls(core);
  const user = new UffdCalls(core, { privileged: false });
  const lenient = new UffdCalls(core, { privileged: false, unprivilegedUserfaultfd: true });
  const open = (calls: UffdCalls, flags: number) => {
    const fd = calls.open(mm, flags);
    if (typeof fd === 'number') return name(fd);
    fd.close();
    return 'fd';
  };
  expect([open(root, NONBLOCK | CLOEXEC), open(root, 2), open(root, USER_MODE_ONLY)]).toEqual([
    'fd',
    'EINVAL',
    'fd',
  ]);
  expect([open(user, NONBLOCK), open(user, 2), open(user, USER_MODE_ONLY | 2)]).toEqual([
    'EPERM',
    'EPERM',
    'EINVAL',
  ]);
  expect([open(user, USER_MODE_ONLY), open(lenient, NONBLOCK), open(lenient, 2)]).toEqual([
    'fd',
    'fd',
    'EINVAL',
  ]);
  expect(core.slabs.uffd.used).toBe(0);
});

test('V-23: who is queued waits for a hole or a marker, and not for what sorts itself out', () => {
  const waits = (entry: number): string => {
    const at = new Resolving(1);
    at.arm(VmFlag.UffdMissing | VmFlag.UffdWp);
    let again = 0;
    at.at = label => {
      if (label === 'U.e' && again++ === 0 && entry !== 0) at.plant(DST, entry);
    };
    const said = at.fault(DST, true);
    const queued = at.message() !== undefined;
    at.plant(DST, 0);
    at.core.checkInvariants();
    return `${said} ${queued} ${again}`;
  };
  expect(waits(0)).toBe('blocked true 1');
  expect(waits(WP_MARKER)).toBe('blocked true 1');
  expect(waits(POISON_ENTRY).startsWith('EHWPOISON')).toBe(true);
});

test('V-28: a signal takes a sleeper out of its queue, and the access that is made again is a new message', () => {
  const m = new Managed();
  const first = m.sleeper(2);
  expect(m.userfault.read()).toMatchObject({ event: 'pagefault', address: AT + 2 * PAGE });
  m.finish(first); // the signal's handler runs
  expect(m.core.uffds.queues.counts(m.ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  const second = m.sleeper(2);
  expect(m.userfault.read()).toMatchObject({ event: 'pagefault', address: AT + 2 * PAGE });
  m.finish(second);
  m.core.checkInvariants();
});

test('F-14: an access that is woken looks everything up anew: the mapping may be gone', () => {
  const m = new Managed();
  const ticket = m.sleeper(0);
  m.core.mmap.unmap(m.mm, AT, PAGE);
  expect(m.isWoken(ticket)).toBe(true);
  m.finish(ticket);
  expect(m.core.gup.fault(m.mm, VPN, true)).toBe(GUP_FAULT);
  m.core.checkInvariants();
});

test('R-9: a page that moves is the same frame, dirty, with the rights of where it goes; nothing is counted anew', () => {
  for (const face of FACES) {
    const at = new Resolving(2);
    const { core, mm } = at;
    at.fill();
    core.lru.drainAll();
    const accounts = () => [core.layout.mm.anonPages.load(mm), at.usage(), core.pageAlloc.freeFrames];
    at.plant(DST, WP_MARKER);
    at.plant(DST, 0); // the table is there
    const [before, entry] = [accounts(), at.entry(SRC)];
    expect(at.move(face, 0, 0, 1)).toBe(PAGE);
    expect([accounts(), at.entry(SRC), at.entry(DST) >>> 12]).toEqual([before, 0, entry >>> 12]);
    expect(at.describe()).toContain('0x20000000 page writable dirty');
    core.checkInvariants();
  }
});

test('R-21: mmap is held while pages move, and discards come in between', () => {
  const at = new Resolving(2);
  const { core, mm } = at;
  at.fill();
  const other = at.thread();
  let held = false;
  at.once('V.p', () => {
    held = core.sync.words[mm + core.layout.mm.mmapLock.at] !== 0;
    other.madvise.advise(mm, SRC, PAGE, 'dontneed');
  });
  expect([at.move('remap', 0, 0, 1), held]).toEqual(['ENOENT', true]);
  expect(core.sync.words[mm + core.layout.mm.mmapLock.at]).toBe(0);
  core.checkInvariants();
});

test('T-UF-04: without the second look a message for a page that is there is delivered, COPY is EEXIST, and the wake releases', () => {
  proven({ queueWithoutRecheck: true, wakeOnlyRead: true }, broken => {
    const breaks = { queueWithoutRecheck: true, wakeOnlyRead: broken.wakeOnlyRead ?? false };
    const at = new Resolving(1, { breaks });
    const other = at.thread();
    at.once('U.e', () => void other.mfill.copy(at.ctx, DST, page(1), PAGE));
    expect(at.fault(DST, true)).toBe('blocked');
    const ticket = at.core.gup.ticket;
    expect(at.core.uffds.queues.counts(at.ctx).pending).toBe(1);
    expect(name(other.mfill.copy(at.ctx, DST, page(2), PAGE))).toBe('EEXIST');
    expect(at.core.uffdWaits.isOver(ticket)).toBe(false);
    at.core.uffds.wakeRange(at.ctx, DST / PAGE, DST / PAGE + 1);
    expect(at.core.uffdWaits.isOver(ticket)).toBe(true);
    at.core.uffds.queues.finish(ticket);
    expect(at.read(DST)).toBe(0x01010101);
  });
});

test('T-SWP-02: COPY and remap onto a swapped-out page are EEXIST, and its data is intact; without the rule they are not', () => {
  proven({ fillWithoutRecheck: true }, breaks => {
    const at = new Resolving(2, { breaks });
    at.fill();
    expect(name(at.core.mfill.copy(at.ctx, DST, page(5), PAGE))).toBe(0);
    at.advise(DST, 1, 'pageout');
    expect(at.describe()).toContain('0x20000000 swap');
    expect(name(at.core.mfill.copy(at.ctx, DST, page(6), PAGE))).toBe('EEXIST');
    for (const face of FACES) expect(at.move(face, 0, 0, 1)).toBe('EEXIST');
    expect([at.read(DST), at.read(SRC)]).toEqual([0x05050505, 100]);
    at.core.checkInvariants();
  });
});

test('T-FRK-12: with every state in one VMA the child without a context has each, none of it protected; without the rule it is', () => {
  proven({ forkKeepsProtection: true }, breaks => {
    const at = new Resolving(6, { breaks });
    const { core, ctx, mm } = at;
    at.arm(VmFlag.UffdMissing | VmFlag.UffdWp);
    for (const i of [0, 1, 2]) core.mfill.copy(ctx, DST + i * PAGE, page(i + 1), PAGE, 2);
    core.mfill.zeropage(ctx, DST + 3 * PAGE, PAGE);
    at.advise(DST + PAGE, 1, 'pageout');
    at.plant(DST + 4 * PAGE, WP_MARKER);
    expect(at.describe()).toContain(' wp');
    const child = core.fork(mm);
    expect(core.describe(child)).not.toContain(' wp');
    const words = [0, 1, 2, 3, 5].map(i => core.access.read32(child, DST + i * PAGE));
    expect(words).toEqual([0x01010101, 0x02020202, 0x03030303, 0, 0]);
    core.access.write32(child, DST, 9);
    expect([core.access.read32(child, DST), at.read(DST)]).toEqual([9, 0x01010101]);
    core.checkInvariants();
  });
});

test('T-FRK-11: a page that somebody holds is copied at fork, and stays the parent’s; shared, the device’s write is the child’s too', () => {
  proven({ forkSharesPinned: true }, breaks => {
    const core = testMm({ breaks });
    const mm = core.createMm();
    core.mmap.map(mm, PAGE, { address: AT, fixed: 'exclusive' });
    core.access.write32(mm, AT, 1);
    const pfn = core.gup.fault(mm, VPN, true) & GUP_PFN_MASK;
    const child = core.fork(mm);
    core.sync.words[pfn * 1024] = 2; // what a device does
    expect([core.access.read32(mm, AT), core.access.read32(child, AT)]).toEqual([2, 1]);
    core.access.write32(mm, AT, 3);
    expect(core.sync.words[pfn * 1024]).toBe(3);
    core.pages.put(pfn);
    core.checkInvariants();
  });
});

test('T-FRK-09, R-18: fork between fill and move makes it EBUSY, unless the source is not forked; without the rule it fails', () => {
  proven({ moveShared: true }, breaks => {
    for (const dontfork of [false, true]) {
      const at = new Resolving(2, { breaks });
      at.fill();
      if (dontfork) at.advise(SRC, 2, 'dontfork');
      at.core.fork(at.mm);
      for (const face of FACES)
        expect(at.move(face, FACES.indexOf(face), FACES.indexOf(face), 1)).toBe(dontfork ? PAGE : 'EBUSY');
      at.core.checkInvariants();
    }
  });
});

test('T-DN-06: in seed14 a late resolver fills again what was given up; with an event the gate stops it, without the gate it does not', () => {
  const late = new Resolving(1);
  late.fill();
  late.arm(0);
  late.core.madvise.advise(late.mm, DST, PAGE, 'userfault');
  late.write(SRC, 7);
  late.advise(DST, 1, 'dontneed'); // nobody is told
  expect([late.move('remap', 0, 0, 1), late.read(DST)]).toEqual([PAGE, 7]);
  proven({ skipGate: true }, breaks => {
    const at = new Resolving(1, { breaks });
    at.core.uffds.beginChange(at.ctx);
    expect(name(at.core.mfill.copy(at.ctx, DST, page(1), PAGE))).toBe('EAGAIN');
    at.core.uffds.endChange(at.ctx);
  });
});

test('T-RAP-23, U-21: a handler of SIGBUS moves in 2 MiB page by page, then 8 MiB by 2 MiB; filled by the mm it would read zeros', () => {
  proven({ fillArmed: true }, breaks => {
    for (const pages of [1, 512]) {
      const total = pages === 1 ? 512 : 2048;
      const at = new Resolving(total, { frames: 8192, limitPages: 8192, breaks });
      const { core, mm } = at;
      at.arm(0);
      core.madvise.advise(mm, DST, total * PAGE, 'userfault');
      if (pages > 1) core.madvise.advise(mm, SRC, total * PAGE, 'hugepage');
      let calls = 0;
      core.access.onSigbus((_mm, address) => {
        const first = Math.floor((address - DST) / PAGE / pages) * pages;
        for (let i = first; i < first + pages; i++) at.write(SRC + i * PAGE, i + 1);
        calls++;
        return at.move('remap', first, first, pages) === pages * PAGE;
      });
      for (let i = 0; i < total; i++) {
        const value = at.read(DST + i * PAGE);
        if (value !== i + 1) throw new Error(`page ${i} is ${value}`);
      }
      expect(calls).toBe(total / pages);
      expect(core.vmstat.read('thp_fault_alloc')).toBe(pages > 1 ? total / 512 : 0);
      core.checkInvariants();
    }
  });
});

test('F-1: a descriptor of 2014 takes two flags, begins with the handshake, and keeps the structure of its mm', () => {
  const core = testMm();
  const calls = new UffdCalls(core);
  const mm = core.createMm();
  for (const bad of [1, 2, 0x40000]) expect(name(calls.open14(mm, bad) as number)).toBe('EINVAL');
  const [a, b] = [calls.open14(mm, 0x800 | 0x80000), calls.open14(mm, 0x800)];
  if (typeof a === 'number' || typeof b === 'number') throw new Error('no descriptor');
  expect([a.poll(), codeOf(() => a.read(new Uint8Array(8)))]).toEqual([4, 'EINVAL']);
  core.exit(mm);
  expect(core.slabs.mm.used).toBe(1);
  a.close();
  b.close();
  expect([core.slabs.mm.used, core.slabs.uffd.used]).toEqual([0, 0]);
});

test('H-4: a huge entry over anything but none is an assertion', () => {
  const at = new Resolving(1024, { frames: 4096 });
  const { core, mm } = at;
  at.write(SRC, 1);
  const pmd = core.pageTable.pmd(mm, SRC / PAGE);
  const table = core.pageTable.newTable();
  core.pageTable.lock(pmd);
  expect(() => core.pageTable.fillHuge(pmd, 1, table)).toThrow('H-4');
  core.pageTable.unlock(pmd);
  core.pageAlloc.free(table);
  expect(at.read(SRC)).toBe(1);
});
