import { execFileSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { ensureImage } from '../src/image/images.ts';

/** Runs an example against the built package, as a user does, and returns what it prints. */
const run = (name: string): string =>
  execFileSync(
    process.execPath,
    ['--import', 'tsx', fileURLToPath(new URL(`../examples/${name}`, import.meta.url))],
    {
      encoding: 'utf8',
    },
  );

test('examples/mm.ts maps, forks, copies on write, and is told of it', () => {
  expect(run('mm.ts')).toBe(`touched:
0x10000000-0x10010000 rw- anon
  0x10000000 zero
  0x10001000 page writable dirty
told: pages 0 to 15 change
told: pages 1 to 1 change
parent 43, child 42
`);
});

test('examples/kvm.ts loses its spte to swap, and finds the bytes again', () => {
  expect(run('kvm.ts')).toBe(`before:    spte none
written:   spte present
paged out: spte none, 1 page in swap
read:      spte present, 'elastic'
`);
});

test('examples/paged-from-file.ts reads a GiB of a file through 512 frames, every page right', () => {
  expect(run('paged-from-file.ts')).toBe('wrong: 0, most frames at once: 512\n');
});

test('examples/supplied-guest.ts boots Debian in RAM that a handler supplies', async ({ skip }) => {
  try {
    (await ensureImage('tiny')).close();
  } catch (error) {
    console.warn(`not run: the guest image can't be built here: ${String((error as Error).message)}`);
    skip();
  }
  expect(run('supplied-guest.ts')).toBe('Linux riscv64\n42\nall pages were asked for: true\n');
});
