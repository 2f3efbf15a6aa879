import { expect, test } from 'vitest';
import { PAGE_SIZE } from '../../base/units.ts';
import { testMm } from '../testing.ts';
import { proven } from '../userfaultfd/manager-testing.ts';
import { MAP, MREMAP, PROT } from './abi.ts';
import { Syscalls } from './syscalls.ts';
import { UffdCalls } from './uffd-calls.ts';

const AT = 0x20000000;
const FIXED = MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED;

test('U-4, A-3, T-FLG-05: 18 and 19 arm and disarm in the numbers of the seed, and mean no such thing in those of today; without the rule it fails', () => {
  proven({ abiIgnored: true }, breaks => {
    const core = testMm({ breaks });
    const mm = core.createMm();
    const [seed14, modern] = [new Syscalls(core, 'seed14'), new Syscalls(core, 'modern')];
    expect(modern.mmap(mm, AT, PAGE_SIZE, PROT.READ | PROT.WRITE, FIXED)).toBe(AT);
    const armed = () => core.vmas.flagsHigh(core.mmap.find(mm, AT)) === 1;
    expect([modern.madvise(mm, AT, PAGE_SIZE, 18), armed()]).toEqual([-22, false]);
    expect([seed14.madvise(mm, AT, PAGE_SIZE, 18), armed()]).toEqual([0, true]);
    expect([seed14.madvise(mm, AT, PAGE_SIZE, 19), armed()]).toEqual([0, false]);
    expect([seed14.madvise(mm, AT, PAGE_SIZE, 21), modern.madvise(mm, AT, PAGE_SIZE, 21)]).toEqual([-22, 0]);
  });
});

test('calls answer with negative error numbers, and the space is as it was', () => {
  const core = testMm();
  const mm = core.createMm();
  const calls = new Syscalls(core);
  calls.mmap(mm, AT, 2 * PAGE_SIZE, PROT.READ, FIXED);
  const before = core.describe(mm);
  expect([
    calls.mmap(mm, AT + 1, PAGE_SIZE, PROT.READ, FIXED),
    calls.mmap(mm, AT, 0, PROT.READ, FIXED),
    calls.mmap(mm, AT, PAGE_SIZE, PROT.READ, MAP.PRIVATE | MAP.ANONYMOUS | MAP.FIXED_NOREPLACE),
    calls.munmap(mm, AT, 0),
    calls.mprotect(mm, AT, PAGE_SIZE, 0x40),
    calls.mremap(mm, AT, PAGE_SIZE, PAGE_SIZE, 8, 0),
    calls.mremap(mm, AT, PAGE_SIZE, PAGE_SIZE, MREMAP.FIXED, AT),
    calls.madvise(mm, AT, PAGE_SIZE, 99),
    calls.mincore(mm, AT + 1, PAGE_SIZE, new Uint8Array(1)),
    calls.mincore(mm, AT, 3 * PAGE_SIZE, new Uint8Array(3)),
  ]).toEqual([-22, -22, -17, -22, -22, -22, -22, -22, -22, -12]);
  expect(core.describe(mm)).toBe(before);
});

test('shared memory by number: what is populated is clean, and there for who has not touched it', () => {
  const core = testMm();
  const mm = core.createMm();
  const calls = new Syscalls(core);
  const flags = MAP.SHARED | MAP.ANONYMOUS | MAP.FIXED;
  expect(calls.mmap(mm, AT, PAGE_SIZE, PROT.READ, flags | MAP.PRIVATE)).toBe(-22);
  expect(calls.mmap(mm, AT, 2 * PAGE_SIZE, PROT.READ | PROT.WRITE, flags | MAP.POPULATE)).toBe(AT);
  expect(core.describe(mm)).not.toContain('dirty');
  const child = core.fork(mm);
  const resident = () => {
    const vector = new Uint8Array(2);
    return [calls.mincore(child, AT, 2 * PAGE_SIZE, vector), ...vector];
  };
  expect(resident()).toEqual([0, 1, 1]);
  expect(calls.madvise(mm, AT, PAGE_SIZE, 9)).toBe(0);
  expect(resident()).toEqual([0, 0, 1]);
  core.checkInvariants();
});

test('V-2, V-4: the calls of a descriptor by number; nothing works before the handshake', () => {
  const core = testMm();
  const mm = core.createMm();
  new Syscalls(core).mmap(mm, AT, 4 * PAGE_SIZE, PROT.READ | PROT.WRITE, FIXED);
  const calls = new UffdCalls(core);
  expect(calls.open(mm, 4)).toBe(-22);
  const fd = calls.open(mm, 0x800);
  if (typeof fd === 'number') throw new Error('not opened');
  expect(calls.register(fd, AT, PAGE_SIZE, 1)).toEqual({ result: -22, field: undefined });
  expect(calls.zeropage(fd, AT, PAGE_SIZE, 0)).toEqual({ result: -22, field: undefined });
  expect([calls.api(fd, 0xab, 0), calls.api(fd, 0xaa, 0), calls.api(fd, 0xaa, 0)]).toEqual([-22, 0, -22]);
  // WAKE 2, COPY 3, ZEROPAGE 4, MOVE 5, POISON 8.
  expect(calls.register(fd, AT, 2 * PAGE_SIZE, 1)).toEqual({ result: 0, field: 0x13c });
  expect(calls.zeropage(fd, AT, 2 * PAGE_SIZE, 0)).toEqual({ result: 0, field: 2 * PAGE_SIZE });
  expect(calls.zeropage(fd, AT, PAGE_SIZE, 0)).toEqual({ result: -17, field: -17 });
  expect(calls.writeprotect(fd, AT, PAGE_SIZE, 1)).toBe(-2);
  expect(calls.read(fd, new Uint8Array(32))).toBe(-11);
  fd.close();
  expect([calls.zeropage(fd, AT, PAGE_SIZE, 0).result, calls.writeprotect(fd, AT, PAGE_SIZE, 1)]).toEqual([
    -9, -9,
  ]);
  core.checkInvariants();
});
