import { expect, test } from 'vitest';
import type { MmBreaks } from '../breaks.ts';
import { GUP_FAULT, GUP_SIGBUS } from '../fault-codes.ts';
import { AT, codeOf, Managed, PAGE, proven, provide, VPN } from './manager-testing.ts';
import { UffdFeature, UffdMode } from './state.ts';
import { type UserfaultEvent, Userfaultfd } from './userfaultfd.ts';

const { EventFork, EventRemap, EventRemove, EventUnmap } = UffdFeature;

/** A managed space whose manager, in the same thread, notes what it hears and what is mapped at that moment. */
function listening(
  features: number,
  also: (event: UserfaultEvent, m: Managed) => void = () => {},
  breaks: Partial<MmBreaks> = {},
) {
  const m = new Managed({ features, core: { breaks } });
  const heard: unknown[] = [];
  m.userfault.serveInline(event => {
    heard.push(event.event === 'fork' ? { event: 'fork' } : event);
    also(event, m);
  });
  return { m, heard };
}

test('V-52, C-13: REMOVE is read before the pages go, and the gate is shut until they are gone', () => {
  const seen: unknown[] = [];
  const { m, heard } = listening(EventRemove, (_event, { core, ctx, mm, provide: _ }) => {
    seen.push([core.access.read32(mm, AT + PAGE), provide(core, ctx, VPN + 5, 9)]);
  });
  m.provide(1, 7);
  m.core.madvise.advise(m.mm, AT, 2 * PAGE, 'dontneed');
  expect(heard).toEqual([{ event: 'remove', start: AT, end: AT + 2 * PAGE }]);
  expect(seen).toEqual([[7, 'EAGAIN']]);
  expect(m.provide(5)).toBe('ok');
  m.finish(m.sleeper(1)); // a hole
  m.core.checkInvariants();
});

test('V-52: the mapping is looked up anew after REMOVE: gone is ENOMEM, shorter asks again for the rest', () => {
  const gone = listening(EventRemove, (event, { core, mm }) => {
    if (event.event === 'remove') core.mmap.unmap(mm, AT, 16 * PAGE);
  });
  expect(codeOf(() => gone.m.core.madvise.advise(gone.m.mm, AT, 4 * PAGE, 'free'))).toBe('ENOMEM');
  gone.m.core.checkInvariants();
  let cut = false;
  const shorter = listening(EventRemove, (event, { core, mm }) => {
    if (event.event === 'remove' && !cut) core.mmap.protect(mm, AT + 2 * PAGE, PAGE, { read: true });
    cut = true;
  });
  shorter.m.core.madvise.advise(shorter.m.mm, AT, 3 * PAGE, 'dontneed');
  expect(shorter.heard).toEqual([
    { event: 'remove', start: AT, end: AT + 3 * PAGE },
    { event: 'remove', start: AT + 2 * PAGE, end: AT + 3 * PAGE },
  ]);
  shorter.m.core.checkInvariants();
});

test('V-53, V-57, T-LIFE-01: munmap wakes who sleeps there, and tells afterwards if asked to; without the rule it fails', () => {
  proven({ unmapWithoutWake: true }, breaks => {
    for (const features of [0, EventUnmap]) {
      const gone = (_event: UserfaultEvent, { core, mm }: Managed) => {
        expect(core.gup.fault(mm, VPN + 1, true)).toBe(GUP_FAULT); // it is gone already
      };
      const { m, heard } = listening(features, gone, breaks);
      const [inside, outside] = [m.sleeper(1), m.sleeper(9)];
      m.userfault.read();
      m.userfault.read();
      m.core.mmap.unmap(m.mm, AT, 4 * PAGE);
      expect([m.isWoken(inside), m.isWoken(outside)]).toEqual([true, false]);
      expect(heard).toEqual(features === 0 ? [] : [{ event: 'unmap', start: AT, end: AT + 4 * PAGE }]);
      m.finish(inside, outside);
      m.core.checkInvariants();
    }
  });
});

test('V-51, T-LIFE-11: a mapping that moves takes its context along and tells where it went, or loses it; without the rule it fails', () => {
  proven({ remapKeepsContext: true }, breaks => {
    const told = listening(EventRemap | EventUnmap, () => {}, breaks);
    const sleeper = told.m.sleeper(2);
    told.m.userfault.read();
    told.m.provide(3, 8);
    const to = told.m.core.mremap.remap(told.m.mm, AT, 16 * PAGE, 16 * PAGE, { mayMove: true, to: AT * 2 });
    expect(told.heard).toEqual([
      { event: 'remap', from: AT, to, bytes: 16 * PAGE },
      { event: 'unmap', start: AT, end: AT + 16 * PAGE },
    ]);
    expect(told.m.isWoken(sleeper)).toBe(true);
    told.m.finish(sleeper);
    expect(told.m.core.gup.fault(told.m.mm, VPN + 2, true)).toBe(GUP_FAULT);
    expect(told.m.core.access.read32(told.m.mm, to + 3 * PAGE)).toBe(8);
    expect(provide(told.m.core, told.m.ctx, to / PAGE + 2, 6)).toBe('ok');
    told.m.core.checkInvariants();
    const silent = listening(0, () => {}, breaks);
    const at = silent.m.core.mremap.remap(silent.m.mm, AT, 16 * PAGE, 16 * PAGE, {
      mayMove: true,
      to: AT * 2,
    });
    expect(silent.m.core.access.read32(silent.m.mm, at)).toBe(0);
    expect(silent.m.core.describe(silent.m.mm)).not.toContain('um');
    silent.m.core.checkInvariants();
  });
});

test('V-51: what a move overwrites is told before the move', () => {
  const { m, heard } = listening(EventRemap | EventUnmap);
  m.core.mremap.remap(m.mm, AT, 4 * PAGE, 4 * PAGE, { mayMove: true, to: AT + 8 * PAGE });
  expect(heard.map(event => (event as UserfaultEvent).event)).toEqual(['unmap', 'remap', 'unmap']);
  m.core.checkInvariants();
});

test('T-FRK-05, V-50: a fork waits until its event is read; each descriptor sees its own address space', () => {
  const children: Userfaultfd[] = [];
  const { m, heard } = listening(EventFork, event => {
    if (event.event === 'fork') children.push(event.child);
  });
  m.provide(0, 5);
  const child = m.core.fork(m.mm);
  expect(heard).toEqual([{ event: 'fork' }]);
  const [userfault] = children as [Userfaultfd];
  expect(m.core.layout.uffd.mm.get(userfault.ctx)).toBe(child);
  expect(m.core.access.read32(child, AT)).toBe(5);
  m.core.gup.fault(child, VPN + 1, false);
  const ticket = m.core.gup.ticket;
  expect(m.core.uffds.queues.counts(m.ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  expect(userfault.tryRead()).toMatchObject({ event: 'pagefault', address: AT + PAGE });
  expect(provide(m.core, userfault.ctx, VPN + 1, 6)).toBe('ok');
  expect(m.isWoken(ticket)).toBe(true);
  m.finish(ticket, m.sleeper(1)); // still a hole of the parent
  m.core.checkInvariants();
  userfault.close();
  m.core.exit(child);
  m.core.checkInvariants();
});

test('T-FRK-08, U-31: without fork events the child has neither context nor modes, and its holes are zeros; without the rule it fails', () => {
  proven({ forkKeepsContext: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    m.provide(0, 5);
    const child = m.core.fork(m.mm);
    expect(m.core.describe(child)).not.toContain('um');
    expect([0, 1].map(page => m.core.access.read32(child, AT + page * PAGE))).toEqual([5, 0]);
    m.finish(m.sleeper(1));
    m.core.checkInvariants();
  });
});

test('T-FRK-02: a fork goes on while a thread sleeps in a fault, and the sleeper is served later; without the rule it fails', () => {
  proven({ forkKeepsContext: true }, breaks => {
    const m = new Managed({ core: { breaks } });
    const ticket = m.sleeper(3);
    const child = m.core.fork(m.mm);
    expect(m.core.describe(child)).not.toContain('um');
    expect(m.core.access.read32(child, AT + 3 * PAGE)).toBe(0);
    m.provide(3, 4);
    expect(m.isWoken(ticket)).toBe(true);
    m.finish(ticket);
    expect(m.core.access.read32(m.mm, AT + 3 * PAGE)).toBe(4);
    m.core.checkInvariants();
  });
});

test('T-FRK-06, T-DN-07, V-55: when the manager closes instead of reading, the mutator goes on', () => {
  const m = new Managed({ features: EventFork | EventRemove | EventUnmap });
  let closed = false;
  m.core.uffdWaits.serveInline(m.ctx, () => {
    if (closed) return false;
    m.userfault.close();
    closed = true;
    return true;
  });
  const child = m.core.fork(m.mm);
  expect(m.core.access.read32(child, AT)).toBe(0);
  expect(m.core.describe(child)).not.toContain('um');
  m.core.checkInvariants();
  const other = new Managed({ features: EventRemove | EventUnmap });
  other.core.uffdWaits.serveInline(other.ctx, () => {
    other.userfault.close();
    return true;
  });
  other.core.madvise.advise(other.mm, AT, PAGE, 'dontneed');
  other.core.mmap.unmap(other.mm, AT, PAGE);
  other.core.checkInvariants();
});

test('T-FRK-07: a fork that fails gives its contexts back, and opens the gate; without the rule it fails', () => {
  proven({ forkLeavesGate: true }, breaks => {
    for (let failAt = 1; ; failAt++) {
      const { m, heard } = listening(EventFork, () => {}, breaks);
      for (let page = 0; page < 16; page++) m.provide(page, page);
      const used = m.core.slabs.uffd.used;
      m.core.pageAlloc.failAt(failAt, 1);
      const code = codeOf(() => m.core.fork(m.mm));
      const failed = m.core.pageAlloc.failuresLeft === 0;
      m.core.pageAlloc.failAt(0, 0);
      m.core.checkInvariants();
      if (!failed) {
        expect(failAt).toBeGreaterThan(3);
        break;
      }
      if (code === undefined) continue; // it could do without that frame
      expect([code, heard, m.core.slabs.uffd.used, m.core.uffds.isChanging(m.ctx)]).toEqual([
        'ENOMEM',
        [],
        used,
        false,
      ]);
    }
  });
});

test('T-FRK-10, V-54: a resolver meets a shut gate while a fork waits, and succeeds afterwards', () => {
  const tried: unknown[] = [];
  const { m } = listening(EventFork, (_event, managed) => {
    tried.push(managed.provide(0, 3));
  });
  m.core.fork(m.mm);
  // The gate opens when the fork runs again, a little after the read.
  expect([tried, m.provide(0, 3)]).toEqual([['EAGAIN'], 'ok']);
});

test('OR-5: whoever cannot wait for its manager leaves the gate open, and no entry behind', () => {
  const m = new Managed({ features: EventRemove | EventUnmap | EventFork | EventRemap });
  expect(() => m.core.madvise.advise(m.mm, AT, PAGE, 'dontneed')).toThrow('one-worker');
  expect(() => m.core.mmap.unmap(m.mm, AT, PAGE)).toThrow('one-worker');
  expect(() => m.core.fork(m.mm)).toThrow('one-worker');
  m.core.checkInvariants();
  expect(m.core.slabs.uffdWait.used).toBe(0);
});

test('V-22: a page fault is read before an event that is older', () => {
  const m = new Managed({ features: EventUnmap });
  const order: string[] = [];
  m.core.uffdWaits.serveInline(m.ctx, () => {
    if (order.length > 0) return false;
    const ticket = m.sleeper(8);
    for (let event = m.userfault.tryRead(); event !== undefined; event = m.userfault.tryRead())
      order.push(event.event);
    m.finish(ticket);
    return true;
  });
  m.core.mmap.unmap(m.mm, AT, PAGE);
  expect(order).toEqual(['pagefault', 'unmap']);
});

test('C-12: SIGBUS stays the rule of a child that VM_USERFAULT was set for', () => {
  const m = new Managed();
  m.core.madvise.advise(m.mm, AT, 16 * PAGE, 'userfault');
  const child = m.core.fork(m.mm);
  expect(m.core.gup.fault(child, VPN, false)).toBe(GUP_SIGBUS);
});

test('V-29, V-55: with the policy to hang nobody is told of a change any more; what was told ends unread', () => {
  const m = new Managed({ features: EventRemove | EventUnmap | EventFork, closePolicy: 'hang' });
  m.provide(1);
  let closes = 0;
  const end = m.core.uffdWaits.serveInline(m.ctx, () => {
    closes++;
    m.userfault.close();
    return true;
  });
  m.core.madvise.advise(m.mm, AT, 2 * PAGE, 'dontneed');
  end();
  expect(closes).toBe(1);
  m.core.madvise.advise(m.mm, AT, 2 * PAGE, 'dontneed');
  m.core.exit(m.core.fork(m.mm));
  const sleeper = m.sleeper(3);
  m.core.mmap.unmap(m.mm, AT, PAGE);
  m.core.checkInvariants();
  m.core.exit(m.mm);
  expect(m.isWoken(sleeper)).toBe(true);
  m.finish(sleeper);
  expect(m.core.slabs.uffd.used).toBe(0);
});

test('a manager in line that throws at one event leaves no gate shut: the others are told theirs', () => {
  const m = new Managed({ features: EventUnmap });
  const other = Userfaultfd.create(m.core, m.mm, { nonBlock: true });
  other.api(EventUnmap);
  m.userfault.unregister(AT + 8 * PAGE, 8 * PAGE);
  other.register(AT + 8 * PAGE, 8 * PAGE, UffdMode.Missing);
  const heard: string[] = [];
  m.userfault.serveInline(() => {
    throw new Error('the manager fails');
  });
  other.serveInline(event => void heard.push(event.event));
  expect(() => m.core.mmap.unmap(m.mm, AT, 16 * PAGE)).toThrow('the manager fails');
  expect([heard, m.core.uffds.isChanging(m.ctx), m.core.uffds.isChanging(other.ctx)]).toEqual([
    ['unmap'],
    false,
    false,
  ]);
  m.core.checkInvariants();
});
