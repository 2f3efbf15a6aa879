import { expect, test } from 'vitest';
import { testMm } from '../testing.ts';
import { Managed } from './manager-testing.ts';
import { UffdEvent, WaitState } from './state.ts';

function context() {
  const mm = testMm();
  const space = mm.createMm();
  const ctx = mm.uffds.create(space, 0);
  const queue = (vpn: number) => {
    const entry = mm.uffds.queues.alloc(ctx, UffdEvent.Pagefault);
    mm.layout.uffdWait.vpn.set(entry, vpn);
    mm.uffds.queues.enqueueFault(ctx, entry);
    return entry;
  };
  const take = (): number => {
    let [vpn, serial] = [-1, 0];
    const entry = mm.uffds.queues.peek(ctx, at => {
      vpn = mm.layout.uffdWait.vpn.get(at);
      serial = mm.layout.uffdWait.serial.get(at);
    });
    return entry !== 0 && mm.uffds.queues.taken(ctx, entry, serial) ? vpn : -1;
  };
  const state = (entry: ReturnType<typeof queue>) => mm.layout.uffdWait.state.load(entry);
  return { mm, space, ctx, queue, take, state };
}

test('T-UF-21: faults are read in the order in which they were queued', () => {
  const { mm, ctx, queue, take } = context();
  const entries = [7, 3, 9, 3].map(queue);
  expect([take(), take(), take(), take(), take()]).toEqual([7, 3, 9, 3, -1]);
  for (const entry of entries) mm.uffds.queues.finish(entry);
  expect(mm.uffds.queues.counts(ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  mm.uffds.put(ctx);
  mm.checkInvariants();
});

test('T-UF-06, V-15: a wake takes read and unread entries of its range, and leaves others; broken, it leaves the unread', () => {
  for (const wakeOnlyRead of [false, true]) {
    const mm = testMm({ breaks: { wakeOnlyRead } });
    const ctx = mm.uffds.create(mm.createMm(), 0);
    const { queues } = mm.uffds;
    const entries = [4, 5, 6].map(vpn => {
      const entry = queues.alloc(ctx, UffdEvent.Pagefault);
      mm.layout.uffdWait.vpn.set(entry, vpn);
      queues.enqueueFault(ctx, entry);
      return entry;
    });
    const first = queues.peek(ctx, () => {});
    queues.taken(ctx, first, mm.layout.uffdWait.serial.get(first));
    expect(mm.uffds.wakeRange(ctx, 4, 6)).toBe(wakeOnlyRead ? 1 : 2);
    const states = entries.map(entry => mm.layout.uffdWait.state.load(entry));
    const { Woken, Pending } = WaitState;
    expect(states).toEqual(wakeOnlyRead ? [Woken, Pending, Pending] : [Woken, Woken, Pending]);
    for (const entry of entries) queues.finish(entry);
    mm.uffds.put(ctx);
  }
});

test('V-54: the gate is shut from the beginning of a change to its end, however many there are', () => {
  const { mm, ctx } = context();
  const { uffds } = mm;
  expect(uffds.tryEnter(ctx)).toBe(true);
  uffds.leave(ctx);
  uffds.beginChange(ctx);
  uffds.beginChange(ctx);
  uffds.endChange(ctx);
  expect([uffds.isChanging(ctx), uffds.tryEnter(ctx)]).toEqual([true, false]);
  uffds.endChange(ctx);
  expect([uffds.isChanging(ctx), uffds.tryEnter(ctx)]).toEqual([false, true]);
  uffds.leave(ctx);
  uffds.put(ctx);
});

test('T-LIFE-05: the mm exits between the last close and its release: one of them ends the context', () => {
  const m = new Managed();
  const { core, mm } = m;
  const sleeper = m.sleeper(1);
  core.uffds.wire(ctx => {
    core.exit(mm);
    core.uffdRelease.release(ctx);
  });
  m.userfault.close();
  expect(m.isWoken(sleeper)).toBe(true);
  m.finish(sleeper);
  core.checkInvariants();
  expect([core.slabs.uffd.used, core.slabs.mm.used]).toEqual([0, 0]);
});
