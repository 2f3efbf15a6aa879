import { expect, test } from 'vitest';
import { FaultFlag, GUP_BLOCKED, GUP_FAULT, GUP_SIGBUS } from '../fault-codes.ts';
import { testMm } from '../testing.ts';
import { AT, codeOf, Managed, PAGE, proven, provide, VPN } from './manager-testing.ts';
import { Poll, UffdFeature, UffdMode } from './state.ts';
import { UFFD_FEATURES, Userfaultfd } from './userfaultfd.ts';

test('J-5, V-21: in one worker a manager answers in line, and every page is what it gave', () => {
  const m = new Managed();
  const seen: string[] = [];
  m.userfault.serveInline(event => {
    if (event.event !== 'pagefault') return;
    seen.push(`${(event.address - AT) / PAGE} ${event.write ? 'write' : 'read'}`);
    provide(m.core, m.ctx, event.address / PAGE, 7);
  });
  expect(m.core.access.read32(m.mm, AT + 3 * PAGE)).toBe(7);
  m.core.access.write32(m.mm, AT + PAGE, 5);
  expect(m.core.access.read32(m.mm, AT + PAGE)).toBe(5);
  expect(seen).toEqual(['3 read', '1 write']);
  m.core.checkInvariants();
});

test('V-20, U-24: who is refused gets SIGBUS: the feature, a kernel access to a user-mode context, no retry', () => {
  const sigbus = new Managed({ features: UffdFeature.Sigbus });
  expect(sigbus.core.gup.fault(sigbus.mm, VPN, true)).toBe(GUP_SIGBUS);
  const user = new Managed({ userModeOnly: true });
  expect(user.core.gup.fault(user.mm, VPN, true, FaultFlag.Kernel)).toBe(GUP_SIGBUS);
  expect(codeOf(() => user.core.access.copyToUser(user.mm, AT, new Uint8Array(4)))).toBe('EFAULT');
  user.finish(user.sleeper(0));
  const any = new Managed();
  expect(any.core.gup.fault(any.mm, VPN, true, FaultFlag.NoRetry)).toBe(GUP_SIGBUS);
  for (const { core } of [sigbus, user, any]) core.checkInvariants();
});

test('T-UF-14: who does not want to wait is told so with nothing queued; without the rule it fails', () => {
  proven({ queueNoWait: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    expect(m.core.gup.fault(m.mm, VPN, true, FaultFlag.NoWait)).toBe(GUP_BLOCKED);
    expect(m.core.gup.ticket).toBe(0);
    expect(m.core.uffds.queues.counts(m.ctx)).toEqual({ pending: 0, read: 0, events: 0 });
    const ticket = m.sleeper(0);
    expect(m.core.uffds.queues.counts(m.ctx)).toEqual({ pending: 1, read: 0, events: 0 });
    m.finish(ticket);
  });
});

test('V-5, V-21, T-UF-20: a message tells page, kind and thread; exactly where only if asked to; without the rule it fails', () => {
  proven({ alwaysExact: true }, breaks => {
    const core = { thread: 42, breaks };
    const plain = new Managed({ core });
    const exact = new Managed({ core, features: UffdFeature.ExactAddress | UffdFeature.ThreadId });
    const read = (m: Managed) => {
      const stop = m.userfault.serveInline(event => {
        events.push(event);
        m.provide(2);
      });
      m.core.access.read8(m.mm, AT + 2 * PAGE + 77);
      stop();
    };
    const events: unknown[] = [];
    for (const m of [plain, exact]) read(m);
    const fault = { event: 'pagefault', write: false, wp: false, minor: false };
    expect(events).toEqual([
      { ...fault, address: AT + 2 * PAGE, thread: 0 },
      { ...fault, address: AT + 2 * PAGE + 77, thread: 42 },
    ]);
  });
});

test('V-25, B-25: messages of 32 bytes, as many as fit; one that cannot be copied out stays', () => {
  const m = new Managed({ features: UffdFeature.EventUnmap });
  const tickets = [4, 9, 1].map(page => m.sleeper(page, page !== 9));
  expect(codeOf(() => m.userfault.readBytes(new Uint8Array(31)))).toBe('EINVAL');
  const refuse = () => {
    throw Object.assign(new Error('EFAULT'), { code: 'EFAULT' });
  };
  expect(codeOf(() => m.userfault.readBytes(new Uint8Array(64), { copied: refuse }))).toBe('EFAULT');
  const bytes = new Uint8Array(80);
  expect(m.userfault.readBytes(bytes)).toBe(64);
  const view = new DataView(bytes.buffer);
  const words = (at: number) => [0, 8, 16, 24].map(o => Number(view.getBigUint64(at + o, true)));
  expect([words(0), words(32)]).toEqual([
    [0x12, 1, AT + 4 * PAGE, 0],
    [0x12, 0, AT + 9 * PAGE, 0],
  ]);
  expect(m.userfault.readBytes(bytes)).toBe(32);
  expect(codeOf(() => m.userfault.readBytes(bytes))).toBe('EAGAIN');
  m.finish(...tickets);
  m.core.checkInvariants();
});

test('V-2, V-3: the handshake is made once, in its order of errors, and nothing works before it', () => {
  const core = testMm();
  const mm = core.createMm();
  const userfault = Userfaultfd.create(core, mm, { nonBlock: true });
  for (const call of ['read', 'register', 'wake', 'unregister'] as const) {
    const work = { read: () => userfault.tryRead(), register: () => userfault.register(AT, PAGE, 1) };
    const other = { wake: () => userfault.wake(AT, PAGE), unregister: () => userfault.unregister(AT, PAGE) };
    expect([call, codeOf({ ...work, ...other }[call])]).toEqual([call, 'EINVAL']);
  }
  expect(userfault.poll()).toBe(Poll.Err);
  expect(codeOf(() => userfault.api(UffdFeature.EventFork, { api: 0xab, privileged: false }))).toBe('EINVAL');
  expect(codeOf(() => userfault.api((1 << 20) | UffdFeature.EventFork, { privileged: false }))).toBe('EPERM');
  expect(codeOf(() => userfault.api(UffdFeature.MinorHugetlbfs))).toBe('EINVAL');
  expect(userfault.api(UffdFeature.WpAsync)).toEqual({ features: UFFD_FEATURES, ioctls: [0x3f, 0, 1] });
  const features = core.layout.uffd.features.load(userfault.ctx);
  expect(features & UffdFeature.WpUnpopulated).not.toBe(0);
  expect(codeOf(() => userfault.api(0))).toBe('EINVAL');
  const blocking = Userfaultfd.create(core, mm);
  blocking.api(0);
  expect(blocking.poll()).toBe(Poll.Err);
  userfault.close();
  expect(codeOf(() => userfault.poll())).toBe('EBADF');
});

test('V-6, V-26: fdinfo counts unread and read faults, poll says IN while something is unread', () => {
  const m = new Managed();
  expect(m.userfault.poll()).toBe(0);
  const tickets = [m.sleeper(0), m.sleeper(1)];
  expect(m.userfault.poll()).toBe(Poll.In);
  m.userfault.read();
  expect(m.userfault.fdinfo()).toBe('pending:\t1\ntotal:\t2\nAPI:\taa:80000000:80000000000001ff\n');
  m.userfault.read();
  expect(m.userfault.poll()).toBe(0);
  m.finish(...tickets);
});

test('V-15, T-UF-08, T-UF-09: a wake reaches read and unread sleepers of its range, resolved or not; without the rule it fails', () => {
  proven({ wakeOnlyRead: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    const [a, b, c] = [m.sleeper(1), m.sleeper(2), m.sleeper(3)] as const;
    m.userfault.read();
    expect(m.provide(2, 9, false)).toBe('ok'); // DONTWAKE
    expect([a, b, c].map(t => m.isWoken(t))).toEqual([false, false, false]);
    m.userfault.wake(AT + PAGE, 2 * PAGE);
    expect([a, b, c].map(t => m.isWoken(t))).toEqual([true, true, false]);
    m.finish(a, b, c);
    const again = m.sleeper(1); // T-UF-09: woken without a page, it faults anew, with another message
    expect(m.userfault.read()).toMatchObject({ address: AT + PAGE });
    expect(m.core.access.read32(m.mm, AT + 2 * PAGE)).toBe(9);
    m.userfault.wake(0, PAGE); // nothing mapped, nobody there: no error
    expect(codeOf(() => m.userfault.wake(AT + 1, PAGE))).toBe('EINVAL');
    expect(codeOf(() => m.userfault.wake(AT, 0))).toBe('EINVAL');
    m.finish(again);
    m.core.checkInvariants();
  });
});

test('T-UF-15: of a thousand sleepers over 512 pages a wake of a part wakes exactly those in it; without the rule it fails', () => {
  proven({ wakeWholeQueue: true }, breaks => {
    const m = new Managed({ pages: 512, core: { frames: 2048, breaks } });
    const tickets = Array.from({ length: 1000 }, (_, i) => ({
      page: (i * 37) % 512,
      at: m.sleeper((i * 37) % 512),
    }));
    m.userfault.wake(AT + 100 * PAGE, 57 * PAGE);
    for (const { page, at } of tickets) expect(m.isWoken(at)).toBe(page >= 100 && page < 157);
    m.finish(...tickets.map(t => t.at));
    m.core.checkInvariants();
  });
});

test('T-UF-19, F-35: a manager that sleeps in a fault of its own context is found out; without the rule it fails', () => {
  proven({ managerMaySleep: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    m.userfault.serveInline(() => void m.core.access.read32(m.mm, AT + 5 * PAGE));
    expect(() => m.core.access.read32(m.mm, AT)).toThrow('F-35');
    m.core.checkInvariants(); // both entries are gone
  });
});

test('V-10, V-11, V-12: register says what is wrong in its order, and changes nothing then', () => {
  const m = new Managed({ pages: 4 });
  const { core, mm, userfault } = m;
  const other = Userfaultfd.create(core, mm, { nonBlock: true });
  other.api(0);
  const before = core.describe(mm);
  const tries = [
    other.register.bind(other, AT, PAGE, 0),
    other.register.bind(other, AT, PAGE, 8),
    other.register.bind(other, AT + 1, PAGE, 1),
    other.register.bind(other, AT, 0, 1),
    other.register.bind(other, 0, 2 ** 39 + PAGE, 1),
    other.register.bind(other, AT + 8 * PAGE, PAGE, 1),
    other.register.bind(other, AT, PAGE, UffdMode.Minor),
    other.register.bind(other, AT + 3 * PAGE, 8 * PAGE, 1),
  ];
  expect(tries.map(work => codeOf(work))).toEqual([...Array(7).fill('EINVAL'), 'EBUSY']);
  core.mmap.map(mm, PAGE, { address: AT - 2 * PAGE, fixed: 'exclusive' });
  expect(codeOf(() => other.register(AT - 2 * PAGE, 4 * PAGE, 1))).toBe('EBUSY');
  expect(core.describe(mm)).toContain(before); // two passes: the VMA before is not registered
  expect(userfault.register(AT, PAGE, UffdMode.Missing | UffdMode.Wp)).toEqual([2, 3, 4, 5, 6, 8]);
  expect(userfault.register(AT + PAGE, PAGE, UffdMode.Missing)).toEqual([2, 3, 4, 5, 8]);
  core.checkInvariants();
});

// B-38: what a call changes merges within each VMA that it covers, and no further.
test('V-11, F-36: a registration splits and merges its VMAs; the same modes again change nothing, others replace', () => {
  const m = new Managed({ pages: 8 });
  const { core, mm, userfault } = m;
  userfault.unregister(AT, 8 * PAGE);
  core.mmap.map(mm, PAGE, { address: AT + 10 * PAGE, fixed: 'exclusive' });
  userfault.register(AT + 2 * PAGE, 20 * PAGE, UffdMode.Missing | UffdMode.Wp);
  const line = (from: number, to: number, text: string) =>
    `0x${(AT + from * PAGE).toString(16)}-0x${(AT + to * PAGE).toString(16)} rw- anon${text}`;
  const lines = [line(0, 2, ''), line(2, 8, ' um uw'), line(10, 11, ' um uw')];
  expect(core.describe(mm)).toBe(lines.join('\n'));
  userfault.register(AT + 3 * PAGE, PAGE, UffdMode.Missing); // a subset: nothing is dropped
  expect(core.describe(mm)).toBe(lines.join('\n'));
  core.mmap.map(mm, 2 * PAGE, { address: AT + 8 * PAGE, fixed: 'exclusive' }); // never merges into a registered one
  expect(core.describe(mm)).toContain(line(8, 10, ''));
  core.mmap.unmap(mm, AT + 8 * PAGE, 2 * PAGE);
  userfault.unregister(AT + 10 * PAGE, PAGE);
  userfault.register(AT + 10 * PAGE, PAGE, UffdMode.Missing);
  userfault.register(AT + 10 * PAGE, PAGE, UffdMode.Wp);
  expect(core.describe(mm)).toContain(line(10, 11, ' uw'));
  userfault.unregister(AT, 20 * PAGE);
  expect(core.describe(mm)).toBe([line(0, 8, ''), line(10, 11, '')].join('\n'));
  core.checkInvariants();
});

test('V-14, T-LIFE-02: unregister wakes sleepers whatever the mode, and the range is ordinary again; without the rule it fails', () => {
  proven({ unregisterWithoutWake: true }, breaks => {
    for (const mode of [UffdMode.Missing, UffdMode.Missing | UffdMode.Wp]) {
      const m = new Managed({ mode, core: { breaks } });
      const [inside, outside] = [m.sleeper(2), m.sleeper(9)];
      m.userfault.unregister(AT, 4 * PAGE);
      expect([m.isWoken(inside), m.isWoken(outside)]).toEqual([true, false]);
      expect(m.core.access.read32(m.mm, AT + 2 * PAGE)).toBe(0);
      m.finish(inside, outside);
      m.core.checkInvariants();
    }
  });
});

test('V-14: unregister of another context is refused with nothing changed, of nothing as well', () => {
  const m = new Managed();
  const other = Userfaultfd.create(m.core, m.mm, { nonBlock: true });
  other.api(0);
  m.core.mmap.map(m.mm, PAGE, { address: AT - PAGE, fixed: 'exclusive' });
  other.register(AT - PAGE, PAGE, UffdMode.Missing);
  const before = m.core.describe(m.mm);
  expect(codeOf(() => other.unregister(AT - PAGE, 2 * PAGE))).toBe('EINVAL');
  expect(codeOf(() => other.unregister(AT + 16 * PAGE, PAGE))).toBe('EINVAL');
  expect(m.core.describe(m.mm)).toBe(before);
});

test('T-LIFE-12: protected to read-only, a write that sleeps sleeps on; woken, it is refused; without the rule it fails', () => {
  proven({ holeBeforeRights: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    const ticket = m.sleeper(0);
    m.core.mmap.protect(m.mm, AT, PAGE, { read: true });
    expect(m.isWoken(ticket)).toBe(false);
    m.userfault.wake(AT, PAGE);
    expect(m.isWoken(ticket)).toBe(true);
    m.finish(ticket);
    expect(m.core.gup.fault(m.mm, VPN, true)).toBe(GUP_FAULT);
    expect(m.provide(0, 3)).toBe('ok');
    expect(m.core.gup.fault(m.mm, VPN, true)).toBe(GUP_FAULT);
    expect(m.core.access.read32(m.mm, AT)).toBe(3);
    m.core.checkInvariants();
  });
});

test('T-ZERO-01, V-16: a read of a hole maps the zero page only where nobody is to be asked; without the rule it fails', () => {
  proven({ fillArmed: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    const zeros = () => m.core.vmstat.read('zero_page_map');
    const ticket = m.sleeper(0, false);
    expect(zeros()).toBe(0);
    m.userfault.close(); // mainline: ordinary memory
    expect(m.isWoken(ticket)).toBe(true);
    m.finish(ticket);
    expect(m.core.access.read32(m.mm, AT)).toBe(0);
    expect(zeros()).toBe(1);
    m.core.madvise.advise(m.mm, AT, 16 * PAGE, 'userfault');
    expect(m.core.gup.fault(m.mm, VPN + 1, false)).toBe(GUP_SIGBUS);
    expect(zeros()).toBe(1);
    m.core.checkInvariants();
  });
});

// B-32: poison, for a VM, rather than zeros.
test('T-LIFE-10, V-29: after the last close holes are memory, or poison, or wait for ever, as the policy says; without the rule it fails', () => {
  proven({ closeForgetsPolicy: true }, breaks => {
    const after = (closePolicy: 'mainline' | 'poison' | 'hang') => {
      const m = new Managed({ closePolicy, pages: 3, core: { breaks } });
      m.provide(1, 9);
      const copy = m.userfault.dup();
      const ticket = m.sleeper(0);
      m.userfault.close();
      expect(m.isWoken(ticket)).toBe(false); // not the last
      copy.close();
      const woken = m.isWoken(ticket);
      m.finish(ticket);
      const result = m.core.gup.fault(m.mm, VPN, true);
      if (result === GUP_BLOCKED) m.finish(m.core.gup.ticket);
      expect(m.core.access.read32(m.mm, AT + PAGE)).toBe(9);
      m.core.checkInvariants();
      m.core.exit(m.mm);
      expect([m.core.slabs.uffd.used, m.core.slabs.uffdWait.used, m.core.slabs.mm.used]).toEqual([0, 0, 0]);
      m.core.checkInvariants();
      return [woken, result >= 0 ? 'page' : result];
    };
    expect(after('mainline')).toEqual([true, 'page']);
    expect(after('poison')).toEqual([true, -4]);
    expect(after('hang')).toEqual([false, GUP_BLOCKED]);
  });
});

// B-36
test('T-LIFE-05, F-34: a descriptor outlives its address space, whose memory it does not keep; without the rule it fails', () => {
  proven({ registerDead: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    m.provide(0, 1);
    const free = m.core.pageAlloc.freeFrames;
    m.core.exit(m.mm);
    expect(m.core.pageAlloc.freeFrames).toBeGreaterThan(free);
    expect(codeOf(() => m.userfault.register(AT, PAGE, 1))).toBe('ENOMEM');
    expect(codeOf(() => m.userfault.unregister(AT, PAGE))).toBe('ENOMEM');
    expect(codeOf(() => m.userfault.read())).toBe('EAGAIN');
    m.userfault.wake(AT, PAGE);
    expect(m.core.slabs.mm.used).toBe(1);
    m.userfault.close();
    expect([m.core.slabs.mm.used, m.core.slabs.uffd.used]).toEqual([0, 0]);
    m.core.checkInvariants();
  });
});

test('decision 5: events are iterated without a thread that sleeps, until the descriptor is closed', async () => {
  const m = new Managed();
  const pages: number[] = [];
  const manager = (async () => {
    for await (const event of m.userfault) {
      if (event.event !== 'pagefault') continue;
      pages.push((event.address - AT) / PAGE);
      m.provide(pages.at(-1)!, 5);
    }
  })();
  for (const page of [3, 0]) {
    const ticket = m.sleeper(page);
    await m.core.uffdWaits.waitAsync(ticket);
    m.finish(ticket);
    expect(m.core.access.read32(m.mm, AT + page * PAGE)).toBe(5);
  }
  m.userfault.close();
  await manager;
  expect(pages).toEqual([3, 0]);
});

test('T-UF-16, U-23: a copy over holes with a manager sleeps for each and completes; without the rule it fails', () => {
  proven({ copyGivesUp: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    m.serve(page => page + 1);
    const bytes = new Uint8Array(3 * PAGE).fill(9);
    m.core.access.copyToUser(m.mm, AT + 100, bytes);
    expect(m.core.access.read8(m.mm, AT)).toBe(1);
    const back = new Uint8Array(3 * PAGE);
    m.core.access.copyFromUser(m.mm, AT + 100, back);
    expect(back).toEqual(bytes);
    m.core.access.copyFromUser(m.mm, AT + 8 * PAGE, back.subarray(0, 4));
    expect(back[0]).toBe(9);
    m.core.checkInvariants();
  });
});
