import { expect, test } from 'vitest';
import type { MmBreaks } from '../breaks.ts';
import { ptePfn, VmFlag } from '../layout.ts';
import { Checker, Shadow } from '../notifier-testing.ts';
import { DST, name, PAGE, page, Resolving, SRC } from './resolve-testing.ts';
import { UffdFault, UffdFeature } from './state.ts';

const WP = 1;

/** Registered for write protection alone, with content, the zero page, swap and a hole; features as asked. */
function protectable(features = 0, modes: number = VmFlag.UffdWp, breaks: Partial<MmBreaks> = {}): Resolving {
  const at = new Resolving(5, { breaks });
  at.arm(0);
  for (const i of [0, 1, 4]) at.write(DST + i * PAGE, 10 + i);
  at.read(DST + 2 * PAGE);
  at.advise(DST + PAGE, 1, 'pageout');
  at.arm(modes);
  at.core.layout.uffd.features.store(at.ctx, features);
  return at;
}

const protect = (at: Resolving, pages: number, mode: number, from = DST): string | number =>
  name(at.core.writeProtect.protect(at.ctx, from, pages * PAGE, mode));

test('V-36, V-13: WRITEPROTECT marks pages, the zero page and swap entries; holes with WP_UNPOPULATED alone', () => {
  for (const features of [0, UffdFeature.WpUnpopulated]) {
    const at = protectable(features);
    const before = at.describe();
    expect(protect(at, 5, WP)).toBe(0);
    expect(at.describe()).toBe(`0x20000000-0x20005000 rw- anon uw
  0x20000000 page wp dirty
  0x20001000 swap exclusive wp
  0x20002000 zero wp
${features === 0 ? '' : '  0x20003000 hole wp\n'}  0x20004000 page wp dirty
0x30000000-0x30005000 rw- anon`);
    at.core.checkInvariants();
    expect(protect(at, 5, 0)).toBe(0);
    expect(at.describe()).toBe(before);
    at.core.checkInvariants();
  }
});

test('V-36: a write to what is protected is a WP message, reads are not; taking it off wakes and lets the write on', () => {
  const at = protectable();
  const { core } = at;
  protect(at, 5, WP);
  expect(at.fault(DST, false)).toBe('page');
  expect(at.fault(DST, true)).toBe('blocked');
  const ticket = core.gup.ticket;
  expect(core.layout.uffdWait.flags.get(ticket)).toBe(UffdFault.Wp | UffdFault.Write);
  expect(protect(at, 1, 2)).toBe(0);
  expect(core.uffdWaits.isOver(ticket)).toBe(false); // DONTWAKE
  expect(protect(at, 1, 0)).toBe(0);
  expect(core.uffdWaits.isOver(ticket)).toBe(true);
  core.uffds.queues.finish(ticket);
  expect(at.fault(DST, true)).toBe('page');
  at.write(DST, 77);
  expect(at.read(DST)).toBe(77);
  core.checkInvariants();
});

test('V-63: a write to the protected zero page is first a WP message, then the copy', () => {
  const at = protectable();
  protect(at, 5, WP);
  expect([at.fault(DST + 2 * PAGE, true), at.message()]).toEqual(['blocked', UffdFault.Wp | UffdFault.Write]);
  expect(at.describe()).toContain('0x20002000 zero wp');
  protect(at, 5, 0);
  at.write(DST + 2 * PAGE, 5);
  expect(at.describe()).toContain('0x20002000 page writable dirty');
  at.core.checkInvariants();
});

test('T-SWP-11, V-62: protection goes out to swap and comes back, and through mprotect; dropped there, a write goes unheard', () => {
  const at = protectable();
  const { core, mm } = at;
  protect(at, 5, WP);
  at.advise(DST, 1, 'pageout');
  expect(at.describe()).toContain('0x20000000 swap exclusive wp ×2');
  expect(at.fault(DST, true)).toBe('blocked');
  expect(at.message()).toBe(UffdFault.Wp | UffdFault.Write);
  expect(at.describe()).toContain('0x20000000 page cached wp');
  core.mmap.protect(mm, DST, PAGE, { read: true });
  core.mmap.protect(mm, DST, PAGE, { read: true, write: true });
  expect([at.fault(DST, true), at.message()]).toEqual(['blocked', UffdFault.Wp | UffdFault.Write]);
  expect(at.read(DST)).toBe(10);
  core.checkInvariants();
  const broken = protectable(0, VmFlag.UffdWp, { swapDropsUffdWp: true });
  protect(broken, 5, WP);
  broken.advise(DST, 1, 'pageout');
  expect(broken.fault(DST, true)).toBe('page');
});

/** What fork copies to a child whose VMA has lost its context, as it does without EVENT_FORK (U-31). */
test('T-FRK-12, V-62: a child without a context has pages, swap entries and holes without protection', () => {
  const at = protectable(UffdFeature.WpUnpopulated);
  const { core, mm } = at;
  protect(at, 5, WP);
  const child = core.fork(mm);
  const uw = core.describe(child).includes(' uw');
  expect(core.describe(child).includes(' wp')).toBe(uw);
  expect(at.describe()).toContain('hole wp');
  core.checkInvariants();
});

test('V-14, V-62: what unregister calls takes bits and markers off, also of swap entries', () => {
  const at = protectable(UffdFeature.WpUnpopulated);
  const before = at.describe();
  protect(at, 5, WP);
  const { core, mm } = at;
  core.sync.writeLock('mmap', mm + core.layout.mm.mmapLock.at);
  core.writeProtect.clear(mm, core.mmap.find(mm, DST), DST / PAGE, DST / PAGE + 5);
  core.sync.writeUnlock('mmap', mm + core.layout.mm.mmapLock.at);
  expect(at.describe()).toBe(before);
  at.arm(0);
  core.checkInvariants();
});

test('V-36: a protected hole of a WP-only VMA: a read maps the zero page, a write a page, both protected', () => {
  const at = protectable(UffdFeature.WpUnpopulated);
  protect(at, 5, WP);
  expect(at.fault(DST + 3 * PAGE, false)).toBe('page');
  expect(at.describe()).toContain('0x20002000 zero wp ×2');
  at.advise(DST + 3 * PAGE, 1, 'dontneed');
  expect(at.entry(DST + 3 * PAGE)).toBe(0);
  protect(at, 5, WP);
  expect([at.fault(DST + 3 * PAGE, true), at.message()]).toEqual(['blocked', UffdFault.Wp | UffdFault.Write]);
  expect(at.describe()).toContain('0x20003000 page wp dirty ×2');
  at.core.checkInvariants();
});

test('V-36, M-4: a protected hole that is registered missing is a MISSING message, and a plain COPY drops the protection', () => {
  for (const mode of [0, 2]) {
    const at = protectable(UffdFeature.WpUnpopulated, VmFlag.UffdWp | VmFlag.UffdMissing);
    protect(at, 5, WP);
    expect([at.fault(DST + 3 * PAGE, true), at.message()]).toEqual(['blocked', UffdFault.Write]);
    expect([at.fault(DST + 3 * PAGE, false), at.message()]).toEqual(['blocked', 0]);
    expect(name(at.core.mfill.copy(at.ctx, DST + 3 * PAGE, page(1), PAGE, mode))).toBe(0);
    expect(at.describe()).toContain(`0x20003000 page ${mode === 0 ? 'writable' : 'wp'} dirty`);
    at.core.checkInvariants();
  }
});

test('V-37: with WP_ASYNC the first write takes the bit and goes on; who asks learns what was written', () => {
  const at = protectable(UffdFeature.WpUnpopulated | UffdFeature.WpAsync);
  const { core, mm, ctx } = at;
  protect(at, 5, WP);
  expect(core.writeProtect.written(mm, DST, 5 * PAGE)).toEqual([]);
  for (const i of [0, 1, 2, 3]) at.write(DST + i * PAGE, i);
  expect(core.writeProtect.written(mm, DST, 5 * PAGE)).toEqual([0, 1, 2, 3].map(i => DST + i * PAGE));
  at.advise(DST, 1, 'pageout');
  expect(core.writeProtect.written(mm, DST, 5 * PAGE)).toHaveLength(4);
  expect(core.uffds.queues.counts(ctx)).toEqual({ pending: 0, read: 0, events: 0 });
  protect(at, 5, WP);
  expect(core.writeProtect.written(mm, DST, 5 * PAGE)).toEqual([]);
  core.checkInvariants();
});

test('V-36: EAGAIN, EINVAL, ENOENT in this order; at a VMA that is not registered those before it are changed, gaps skipped', () => {
  const at = protectable();
  const { core, ctx, mm } = at;
  core.uffds.beginChange(ctx);
  expect(protect(at, 0, 9)).toBe('EAGAIN');
  core.uffds.endChange(ctx);
  expect([protect(at, 0, WP), protect(at, 1, 4), protect(at, 1, 3), protect(at, 1, WP, DST + 1)]).toEqual(
    Array(4).fill('EINVAL'),
  );
  expect([protect(at, 1, WP, SRC), protect(at, 1, WP, 0x50000000)]).toEqual(['ENOENT', 'ENOENT']);
  core.mmap.unmap(mm, DST + PAGE, PAGE);
  expect(protect(at, 5, WP)).toBe(0);
  expect(at.describe()).toContain('0x20000000 page wp dirty');
  protect(at, 5, 0);
  core.mmap.map(mm, PAGE, { address: DST + PAGE, fixed: 'exclusive' });
  expect(protect(at, 5, WP)).toBe('ENOENT');
  expect(at.describe()).toContain('0x20000000 page wp dirty');
  expect(at.describe()).toContain('0x20004000 page writable dirty');
  core.checkInvariants();
  at.arm(0);
  for (const i of [2, 3, 4]) core.mmap.unmap(mm, DST + i * PAGE, PAGE);
  core.exit(mm);
  expect(protect(at, 5, WP)).toBe('ESRCH');
});

function notified(pins: boolean, breaks: Partial<MmBreaks>): { heard: string[]; check: () => void } {
  const at = protectable(0, VmFlag.UffdWp, breaks);
  const { core, mm } = at;
  const checker = new Checker(core, DST / PAGE);
  const shadow = new Shadow(core, pins);
  core.notifiers.register(mm, core.notifiers.registerOps(checker.ops()), 0);
  core.notifiers.register(mm, core.notifiers.registerOps(shadow.ops()), 0);
  shadow.fill(mm, DST / PAGE, true);
  checker.heard();
  protect(at, 5, WP);
  protect(at, 5, 0);
  const heard = checker.heard();
  protect(at, 5, WP);
  return { heard, check: () => shadow.check(mm) };
}

test.each([false, true])(
  'V-36: secondaries hear of setting, not of taking off; unheard, one could write on. Pinning: %s',
  pins => {
    const { heard, check } = notified(pins, {});
    expect(heard).toEqual(['start ProtectionVma 0-5', 'end ProtectionVma 0-5']);
    check();
    expect(notified(pins, { protectWithoutNotify: true }).check).toThrow('OR-3');
  },
);

test('V-36: a page that fork shares is protected and unprotected without becoming writable', () => {
  const at = protectable();
  const child = at.core.fork(at.mm);
  protect(at, 5, WP);
  protect(at, 5, 0);
  at.core.checkInvariants();
  const pfn = ptePfn(at.entry(DST));
  at.write(DST, 99);
  expect([ptePfn(at.entry(DST)) === pfn, at.core.access.read32(child, DST)]).toEqual([false, 10]);
  at.core.checkInvariants();
});

test('V-36, V-62: 2 MiB are protected and released whole, through fork too; a write is asked for; a part splits', () => {
  const at = new Resolving(512, { frames: 4096 });
  const { core, mm } = at;
  at.arm(0);
  core.madvise.advise(mm, DST, 512 * PAGE, 'hugepage');
  at.write(DST + 7 * PAGE, 70);
  at.arm(VmFlag.UffdWp);
  const before = at.describe();
  expect(protect(at, 512, WP)).toBe(0);
  expect(at.describe()).toContain('0x20000000 huge page wp dirty ×512');
  const child = core.fork(mm);
  expect(core.describe(child)).not.toContain('wp');
  core.exit(child);
  expect(at.fault(DST + 7 * PAGE, false)).toBe('page');
  expect(at.fault(DST + 7 * PAGE, true)).toBe('blocked');
  core.uffds.wakeRange(at.ctx, DST / PAGE, DST / PAGE + 512);
  core.uffds.queues.finish(core.gup.ticket);
  expect(at.describe()).toContain('0x20000000 huge page wp dirty ×512');
  expect(protect(at, 512, 0)).toBe(0);
  at.write(DST + 7 * PAGE, 71);
  expect(at.describe()).toBe(before);
  expect(protect(at, 3, WP)).toBe(0);
  expect(at.describe()).toContain('0x20000000 page wp dirty ×3\n  0x20003000 page writable dirty ×509');
  core.checkInvariants();
});
