import { expect, test } from 'vitest';
import { FaultFlag, GUP_BLOCKED, GUP_SIGBUS } from '../fault-codes.ts';
import { testMm } from '../testing.ts';
import { AT, codeOf, PAGE, proven, VPN } from './manager-testing.ts';
import { Userfaultfd2014 } from './seed14.ts';
import { Poll } from './state.ts';

const words = (...values: number[]): Uint8Array => {
  const bytes = new Uint8Array(8 * values.length);
  const view = new DataView(bytes.buffer);
  values.forEach((value, i) => void view.setBigUint64(8 * i, BigInt(value), true));
  return bytes;
};
const wordOf = (bytes: Uint8Array): number => Number(new DataView(bytes.buffer).getBigUint64(0, true));
const [WAKE, REGISTER, UNREGISTER] = [0, 1, 2];

/** 16 pages with VM_USERFAULT that a descriptor, past its handshake, has registered. */
function seed14(options: Parameters<typeof testMm>[0] = {}) {
  const core = testMm(options);
  const mm = core.createMm();
  core.mmap.map(mm, 16 * PAGE, { address: AT, fixed: 'exclusive' });
  core.madvise.advise(mm, AT, 16 * PAGE, 'userfault');
  const fd = Userfaultfd2014.create(core, mm, { nonBlock: true });
  const shake = () => {
    fd.write(words(0xaa));
    fd.read(new Uint8Array(8));
  };
  const command = (cmd: number, start: number, end: number) =>
    codeOf(() => fd.write(words(start | cmd, end)));
  const sleeper = (page: number, how = 0) => {
    expect(core.gup.fault(mm, VPN + page, true, how)).toBe(GUP_BLOCKED);
    return core.gup.ticket;
  };
  const read = () => {
    const into = new Uint8Array(8);
    fd.read(into);
    return wordOf(into);
  };
  return { core, mm, fd, shake, command, sleeper, read };
}

// B-21: no state of the handshake is an assertion, whatever is written or read in it.
test('F-2: the handshake answers by state, and an unknown version can be followed by a known one', () => {
  const { fd } = seed14();
  expect([fd.poll(), codeOf(() => fd.read(new Uint8Array(8)))]).toEqual([Poll.Out, 'EINVAL']);
  expect(codeOf(() => fd.write(new Uint8Array(7)))).toBe('EINVAL');
  expect(fd.write(words(0xab, 5))).toBe(8);
  expect([fd.poll(), codeOf(() => fd.write(words(0xaa)))]).toEqual([Poll.In, 'EINVAL']);
  const answer = new Uint8Array(16);
  expect([fd.read(answer), answer]).toEqual([
    8,
    Uint8Array.from([...Array(8).fill(255), ...Array(8).fill(0)]),
  ]);
  expect(fd.poll()).toBe(Poll.Out);
  fd.write(words(0xaa));
  expect(codeOf(() => fd.read(new Uint8Array(7)))).toBe('EINVAL');
  expect([fd.read(answer), wordOf(answer.slice(0, 8))]).toEqual([8, 0xaa]);
  expect(fd.poll()).toBe(0);
  expect(codeOf(() => fd.read(answer))).toBe('EAGAIN');
});

test('T-UF-25, F-20, F-22, F-24: each row of the command table, in its order; without the rule it fails', () => {
  proven({ registerOnePass: true }, breaks => {
    const { core, mm, shake, command, fd } = seed14({ breaks });
    shake();
    const before = core.describe(mm);
    expect(codeOf(() => fd.write(words(AT)))).toBe('EINVAL');
    const rows = [
      [3, AT, AT + PAGE, 'EINVAL'],
      [3, AT + 8, AT, 'EINVAL'],
      [REGISTER, AT + 8, AT + PAGE, 'EINVAL'],
      [REGISTER, AT, AT + 8, 'EINVAL'],
      [REGISTER, AT, AT, 'ERANGE'],
      [UNREGISTER, AT + PAGE, AT, 'ERANGE'],
      [WAKE, AT, AT + PAGE, 'ENOENT'],
      [WAKE, 2 ** 50, 2 ** 50 + PAGE, 'ENOENT'],
      [REGISTER, AT, 2 ** 40, 'ENOMEM'],
      [REGISTER, AT + 16 * PAGE, AT + 17 * PAGE, 'ENOMEM'],
      [REGISTER, PAGE, AT, 'EINVAL'],
    ] as const;
    for (const [cmd, start, end, code] of rows) {
      const low = cmd === 3 && start === AT + 8 ? words(AT + 8 + 3, end) : undefined;
      const result = low === undefined ? code14(fd, start, cmd, end) : codeOf(() => fd.write(low));
      expect([cmd, start, end, result]).toEqual([cmd, start, end, code]);
    }
    expect(core.describe(mm)).toBe(before);
    expect(fd.write(words(AT | REGISTER, AT + PAGE, 7))).toBe(16); // what follows the 16 bytes is not looked at
    const other = Userfaultfd2014.create(core, mm, { nonBlock: true });
    other.write(words(0xaa));
    other.read(new Uint8Array(8));
    const registered = core.describe(mm);
    core.mmap.map(mm, PAGE, { address: AT - PAGE, fixed: 'exclusive' });
    const both = core.describe(mm);
    expect(code14(other, AT - PAGE, REGISTER, AT + PAGE)).toBe('EBUSY');
    expect(core.describe(mm)).toBe(both); // two passes (B-26)
    expect(both).toContain(registered);
    expect(command(UNREGISTER, AT - PAGE, AT + PAGE)).toBe(undefined);
    core.checkInvariants(); // and no lock is held (B-22)
    core.exit(mm);
    expect(code14(fd, AT, REGISTER, AT + PAGE)).toBe('ENOMEM');
  });
});

function code14(fd: Userfaultfd2014, start: number, cmd: number, end: number): string | undefined {
  return codeOf(() => fd.write(words(start + cmd, end)));
}

test('U-25, U-26, F-12: flag, context, release and what the caller allows decide', () => {
  const { core, mm, fd, shake, command, sleeper } = seed14();
  shake();
  expect(core.gup.fault(mm, VPN, true)).toBe(GUP_SIGBUS); // no context
  command(REGISTER, AT, AT + 8 * PAGE);
  expect(core.gup.fault(mm, VPN, true, FaultFlag.NoRetry)).toBe(GUP_SIGBUS);
  expect(core.gup.fault(mm, VPN, true, FaultFlag.NoWait)).toBe(GUP_BLOCKED);
  expect([core.gup.ticket, core.uffds.queues.counts(fd.ctx).pending]).toEqual([0, 0]);
  const ticket = sleeper(0);
  core.madvise.advise(mm, AT + 4 * PAGE, PAGE, 'nouserfault');
  expect(core.access.read32(mm, AT + 4 * PAGE)).toBe(0); // U-26
  fd.close();
  expect(core.uffdWaits.isOver(ticket)).toBe(true); // unread, and woken all the same (F-30)
  core.uffdWaits.finish(ticket);
  expect(core.gup.fault(mm, VPN, true)).toBe(GUP_SIGBUS);
  core.checkInvariants();
});

test('F-10, F-11, F-31, T-UF-21: one word a fault, first in first out, the page whatever the address', () => {
  const { core, fd, shake, command, sleeper, read, mm } = seed14();
  shake();
  command(REGISTER, AT, AT + 16 * PAGE);
  const tickets = [3, 1, 3].map(page => sleeper(page, 77 << 8));
  expect([fd.poll(), fd.fdinfo()]).toEqual([Poll.In, 'pending:\t3\ntotal:\t3\nprotocols:\taa\n']);
  expect([read(), fd.poll()]).toEqual([AT + 3 * PAGE, Poll.In | Poll.Out]);
  expect([read(), read(), fd.poll()]).toEqual([AT + PAGE, AT + 3 * PAGE, Poll.Out]);
  expect(fd.fdinfo()).toBe('pending:\t0\ntotal:\t3\nprotocols:\taa\n');
  for (const ticket of tickets) core.uffdWaits.finish(ticket);
  expect(core.describe(mm)).toContain('registered');
  core.checkInvariants();
});

test('T-UF-24, T-UF-06, F-21: a wake finds what was read, once; the unread stays, is read, and then woken; without the rule it fails', () => {
  proven({ wakeUnread14: true }, breaks => {
    const { core, shake, command, sleeper, read } = seed14({ breaks });
    shake();
    command(REGISTER, AT, AT + 16 * PAGE);
    const [a, b] = [sleeper(0), sleeper(1)] as const;
    read();
    expect(command(WAKE, AT, AT + PAGE)).toBe(undefined);
    expect(command(WAKE, AT, AT + PAGE)).toBe('ENOENT');
    expect(command(WAKE, AT + PAGE, AT + 2 * PAGE)).toBe('ENOENT');
    expect(command(WAKE, 4 * PAGE, 5 * PAGE)).toBe('ENOENT');
    expect([a, b].map(t => core.uffdWaits.isOver(t))).toEqual([true, false]);
    expect(read()).toBe(AT + PAGE);
    expect(command(WAKE, AT, AT + 16 * PAGE)).toBe(undefined);
    for (const ticket of [a, b]) core.uffdWaits.finish(ticket);
    core.checkInvariants();
  });
});

test('T-UF-23, F-3, B-25: a read into memory that is not there changes no state and loses no fault; without the rule it fails', () => {
  proven({ takeBeforeCopy: true }, breaks => {
    const { core, mm, fd, sleeper, command } = seed14({ breaks });
    const nowhere = { mm, address: 64 * PAGE, bytes: 8 };
    core.mmap.map(mm, PAGE, { address: AT - PAGE, fixed: 'exclusive' });
    const buffer = { mm, address: AT - PAGE, bytes: 8 };
    const readsAfterFailure = () => {
      expect(codeOf(() => fd.read(nowhere))).toBe('EFAULT');
      fd.read(buffer);
      return core.access.read32(mm, AT - PAGE);
    };
    expect(codeOf(() => fd.write(nowhere))).toBe('EFAULT');
    fd.write(words(1));
    expect(readsAfterFailure()).toBe(-1);
    fd.write(words(0xaa));
    expect(readsAfterFailure()).toBe(0xaa);
    command(REGISTER, AT, AT + PAGE);
    const ticket = sleeper(0);
    expect(readsAfterFailure()).toBe(AT);
    expect(codeOf(() => fd.write({ mm, address: 64 * PAGE, bytes: 16 }))).toBe('EFAULT');
    core.uffdWaits.finish(ticket);
    core.checkInvariants();
  });
});

test('F-12, M-21, T-UF-09: under the rule of 2014 an access that was woken for nothing is SIGBUS', () => {
  const results = (['2014', 'modern'] as const).map(retryRule => {
    const { core, mm, shake, command, fd } = seed14({ retryRule });
    shake();
    command(REGISTER, AT, AT + PAGE);
    let asked = 0;
    core.uffdWaits.serveInline(fd.ctx, () => {
      if (codeOf(() => fd.read(new Uint8Array(8))) !== undefined) return false;
      if (++asked === 2) core.madvise.advise(mm, AT, PAGE, 'nouserfault');
      fd.write(words(AT, AT + PAGE));
      return true;
    });
    return [codeOf(() => core.access.read32(mm, AT)), asked];
  });
  expect(results).toEqual([
    ['EFAULT', 1],
    [undefined, 2],
  ]);
});

test('T-LIFE-02, F-23: unregister wakes, and the woken find a hole that nobody hears of', () => {
  const { core, mm, shake, command, sleeper } = seed14();
  shake();
  command(REGISTER, AT, AT + 4 * PAGE);
  const ticket = sleeper(1);
  command(UNREGISTER, AT, AT + 2 * PAGE);
  expect(core.uffdWaits.isOver(ticket)).toBe(true);
  core.uffdWaits.finish(ticket);
  expect(core.gup.fault(mm, VPN + 1, true)).toBe(GUP_SIGBUS);
  core.uffdWaits.finish(sleeper(2));
  core.checkInvariants();
});

// B-20
test('T-FRK-01, T-FRK-13, U-30, F-37: the child has the flag and no context; its copy speaks for the parent; without the rule it fails', () => {
  proven({ forkKeepsContext: true }, breaks => {
    for (const parentFirst of [true, false]) {
      const { core, mm, fd, shake, command, sleeper } = seed14({ breaks });
      shake();
      command(REGISTER, AT, AT + 4 * PAGE);
      const child = core.fork(mm);
      const inherited = fd.dup();
      expect(core.gup.fault(child, VPN, true)).toBe(GUP_SIGBUS);
      const ticket = sleeper(0);
      const into = new Uint8Array(8);
      inherited.read(into);
      expect(wordOf(into)).toBe(AT);
      expect(code14(inherited, AT + 4 * PAGE, REGISTER, AT + 5 * PAGE)).toBe(undefined);
      expect(core.describe(child)).not.toContain('registered');
      const [first, last] = parentFirst ? [fd, inherited] : [inherited, fd];
      first.close();
      expect(core.uffdWaits.isOver(ticket)).toBe(false);
      last.close();
      expect(core.uffdWaits.isOver(ticket)).toBe(true);
      core.uffdWaits.finish(ticket);
      expect(core.describe(mm)).not.toContain('registered');
      core.checkInvariants();
    }
  });
});

test('F-34: after the address space is gone reads find nothing and wakes nobody', () => {
  const { core, mm, fd, shake, command } = seed14();
  shake();
  core.exit(mm);
  expect(codeOf(() => fd.read(new Uint8Array(8)))).toBe('EAGAIN');
  expect(command(WAKE, AT, AT + PAGE)).toBe('ENOENT');
  expect(command(UNREGISTER, AT, AT + PAGE)).toBe('ENOMEM');
  fd.close();
  expect([core.slabs.mm.used, core.slabs.uffd.used]).toEqual([0, 0]);
});
