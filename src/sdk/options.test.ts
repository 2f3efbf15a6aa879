import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { MIB } from '../base/units.ts';
import { type SandboxOptions, sizesOf } from './options.ts';
import { LIMIT_MIN } from './size.ts';

const work = mkdtempSync(join(tmpdir(), 'faultline-options-'));
afterAll(() => rmSync(work, { recursive: true }));

/** Without what gives a swap file back. */
function sizes(options: SandboxOptions) {
  const { closeSwap, ...rest } = sizesOf(options, 256 * MIB);
  closeSwap();
  return rest;
}

test('nothing asked for is the default memory, no limit and no swap', () => {
  expect(sizes({})).toEqual({ memoryBytes: 256 * MIB, limitBytes: undefined, swap: { kind: 'none' } });
});

test('sizes may be numbers or text, and mean the same', () => {
  const expected = {
    memoryBytes: 512 * MIB,
    limitBytes: 64 * MIB,
    swap: { kind: 'zram', bytes: 512 * MIB },
  };
  expect(sizes({ memory: '512M', memoryLimit: '64MiB' })).toEqual(expected);
  expect(sizes({ memory: 512 * MIB, memoryLimit: 64 * MIB })).toEqual(expected);
  expect(sizes({ memory: '0.5G', memoryLimit: '65536K', swap: 'zram' })).toEqual(expected);
});

test('swap is on by default only for a guest that may not have all of its memory', () => {
  expect(sizes({ memoryLimit: '256M' }).swap).toEqual({ kind: 'none' });
  expect(sizes({ memoryLimit: '255M' }).swap).toEqual({ kind: 'zram', bytes: 256 * MIB });
  expect(sizes({ memoryLimit: '64M', swap: 'none' }).swap).toEqual({ kind: 'none' });
  expect(sizes({ swap: 'zram:32M' }).swap).toEqual({ kind: 'zram', bytes: 32 * MIB });
});

test('a swap file has room for all of guest memory and no name that stays', () => {
  const path = join(work, 'swap');
  const { swap } = sizes({ memory: '4M', swap: `file:${path}` });
  expect(swap).toMatchObject({ kind: 'file', path, bytes: 4 * MIB });
  expect(readdirSync(work)).toEqual([]);
});

const ERRORS: [string, SandboxOptions, string, string | RegExp][] = [
  ['a memory that is no size', { memory: 'lots' }, 'E_USAGE', /'lots' is not a size/],
  ['a memory that is not pages', { memory: 4097 }, 'E_USAGE', /whole number of pages/],
  ['a memory that is no number', { memory: Number.NaN }, 'E_USAGE', /whole number of bytes/],
  ['a memory beyond the board', { memory: '16G' }, 'E_USAGE', /more than the board/],
  ['a limit that is no size', { memoryLimit: '-1M' }, 'E_USAGE', /is not a size/],
  [
    'a limit below the minimum',
    { memoryLimit: LIMIT_MIN - 1 },
    'E_MEMORY_LIMIT',
    /below the working minimum/,
  ],
  ['a limit that is no number', { memoryLimit: Number.NaN }, 'E_USAGE', /./],
  ['nine harts', { cpus: 9 }, 'E_USAGE', /1 to 8 harts/],
  ['a swap that is not known', { swap: 'paper' }, 'E_USAGE', /--swap paper/],
  ['no swap of a size', { swap: 'none:1M' }, 'E_USAGE', /--swap none:1M/],
  ['zram of no size', { swap: 'zram:' }, 'E_USAGE', /is not a size/],
  ['zram of nothing', { swap: 'zram:0' }, 'E_USAGE', /./],
  ['a file without a name', { swap: 'file:' }, 'E_USAGE', /--swap file:/],
  ['a file in no directory', { swap: `file:${join(work, 'no', 'swap')}` }, 'E_SWAP', /./],
  ['a file with something in it', { swap: `file:${join(work, 'full')}` }, 'E_SWAP', /./],
];

test.each(ERRORS)('%s is one line with a code and a hint', (_what, options, code, message) => {
  writeFileSync(join(work, 'full'), 'precious');
  let thrown: unknown;
  try {
    sizes(options);
  } catch (error) {
    thrown = error;
  }
  expect(thrown).toMatchObject({ name: 'FaultlineError', code, hint: expect.stringMatching(/./) });
  expect((thrown as Error).message).toMatch(message);
  expect((thrown as Error).message).not.toMatch(/\n|NaN/);
});

test('a word that is none is E_USAGE, not taken for another', () => {
  for (const options of [{ ksm: 'slef' }, { balloon: 'on' }] as unknown as SandboxOptions[])
    expect(() => sizes(options)).toThrow(/is not one of off/);
});
