import { expect, test } from 'vitest';
import { Errno } from '../../base/errno.ts';
import { PAGE_SIZE } from '../../base/units.ts';
import { GUP_HWPOISON } from '../fault-codes.ts';
import { Swapping } from './swapping-testing.ts';

/** Swaps to a file whose reads fail on demand. Three pages: two go out, the second of them shared with a child. */
function failing(readErrorRetried = false) {
  const data = new Uint8Array(64 * PAGE_SIZE);
  let broken = false;
  const swapFile = {
    readAt: (offset: number, bytes: Uint8Array): number => {
      if (broken) throw new Errno('EIO', 'read');
      bytes.set(data.subarray(offset, offset + bytes.length));
      return bytes.length;
    },
    writeAt: (offset: number, bytes: Uint8Array): number => {
      data.set(bytes, offset);
      return bytes.length;
    },
  };
  const swap = { kind: 'file', bytes: data.length } as const;
  const world = new Swapping({ swap, swapFile, breaks: { readErrorRetried } });
  const { mm, at } = world.map(3);
  for (let i = 0; i < 3; i++) world.mm.access.write32(mm, at + i * PAGE_SIZE, 7 + i);
  world.pageOut(mm, at);
  world.pageOut(mm, at + PAGE_SIZE);
  const child = world.mm.fork(mm);
  const breakIt = (now: boolean) => {
    broken = now;
  };
  return { world, core: world.mm, mm, child, at, breakIt };
}

test('O-4: what swap can not read back is poison for good, in each address space that asks; the rest is as it was', () => {
  const { world, core, mm, child, at, breakIt } = failing();
  breakIt(true);
  for (const write of [true, false]) {
    expect(core.gup.fault(mm, at / PAGE_SIZE + 1, write)).toBe(GUP_HWPOISON);
  }
  expect(() => core.access.read32(mm, at + PAGE_SIZE)).toThrow('EHWPOISON');
  expect(() => core.access.copyFromUser(mm, at + PAGE_SIZE, new Uint8Array(4))).toThrow('EFAULT');
  breakIt(false);
  // The slot is not asked again, and its other user has it still.
  expect(() => core.access.read32(mm, at + PAGE_SIZE)).toThrow('EHWPOISON');
  expect([core.access.read32(mm, at), core.access.read32(child, at + PAGE_SIZE)]).toEqual([7, 8]);
  expect(core.describe(mm)).toBe(`0x10000000-0x10003000 rw- anon
  0x10000000 page cached
  0x10001000 poison
  0x10002000 page shared×2 dirty`);
  core.checkInvariants();
  core.madvise.advise(mm, at + PAGE_SIZE, PAGE_SIZE, 'dontneed');
  core.access.write32(mm, at + PAGE_SIZE, 1);
  core.exit(mm);
  core.exit(child);
  expect(world.leftovers()).toBe('slots 0, cached 0, frames 0, heap 0');
});

test('O-4: an entry left as it is would be content again when the device recovers, after the loss was told', () => {
  const { core, mm, at, breakIt } = failing(true);
  breakIt(true);
  expect(() => core.access.read32(mm, at)).toThrow('EHWPOISON');
  breakIt(false);
  expect(core.access.read32(mm, at)).toBe(7);
});
