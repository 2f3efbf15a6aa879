import { existsSync, mkdtempSync, openSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openSwapFile, swapFilePort } from './swap-file.ts';

const PAGE = 4096;
let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'swap-file-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A page in shared memory, as an arena has it. */
const sharedPage = (fill: number): Uint8Array => {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  return new Uint8Array(memory.buffer, PAGE, PAGE).fill(fill);
};

test('pages go from shared memory to the file and back, through any thread’s port', () => {
  const file = openSwapFile(join(dir, 'swap'), 16 * PAGE);
  for (const slot of [0, 7, 15]) expect(file.writeAt(slot * PAGE, sharedPage(slot + 1))).toBe(PAGE);
  const page = sharedPage(0);
  const port = swapFilePort(file.fd);
  for (const slot of [15, 0, 7]) {
    expect(port.readAt(slot * PAGE, page)).toBe(PAGE);
    expect(page.every(byte => byte === slot + 1)).toBe(true);
  }
  expect(file.readAt(16 * PAGE, page)).toBe(0);
  file.close();
});

test('the file has no name, so that it cannot outlive the process', () => {
  const path = join(dir, 'swap');
  const file = openSwapFile(path, PAGE);
  expect(existsSync(path)).toBe(false);
  const second = openSwapFile(path, PAGE);
  file.writeAt(0, sharedPage(1));
  const page = sharedPage(9);
  second.readAt(0, page);
  expect(page[0]).toBe(0);
  file.close();
  second.close();
});

test('an empty file that somebody prepared is used, and is empty again', () => {
  const path = join(dir, 'prepared');
  writeFileSync(path, '');
  const file = openSwapFile(path, 4 * PAGE);
  expect(statSync(path).size).toBe(4 * PAGE);
  expect(() => openSwapFile(path, PAGE)).toThrow(/is not empty/);
  file.close();
  expect(statSync(path).size).toBe(0);
});

test('a file that holds something is refused and untouched', () => {
  const path = join(dir, 'thesis');
  writeFileSync(path, 'chapter 1');
  expect(() => openSwapFile(path, PAGE)).toThrow(
    expect.objectContaining({ code: 'E_SWAP', hint: expect.any(String) }),
  );
  expect(statSync(path).size).toBe(9);
});

test('a path that cannot be is one line with a code and a hint', () => {
  writeFileSync(join(dir, 'file'), 'x');
  for (const path of [join(dir, 'no', 'such'), dir, join(dir, 'file', 'x'), '/dev/null']) {
    let error: unknown;
    try {
      openSwapFile(path, PAGE);
    } catch (caught) {
      error = caught;
    }
    expect(error, path).toMatchObject({
      code: 'E_SWAP',
      message: expect.stringContaining(path),
      hint: expect.any(String),
    });
  }
});

test('a size beyond the disk is E_DISK_FULL and leaves no file behind', () => {
  const path = join(dir, 'huge');
  expect(() => openSwapFile(path, 2 ** 52)).toThrow(expect.objectContaining({ code: 'E_DISK_FULL' }));
  expect(existsSync(path)).toBe(false);
});

test('a full disk is ENOSPC and a closed file EIO', () => {
  const file = openSwapFile(join(dir, 'swap'), PAGE);
  file.close();
  expect(() => file.writeAt(0, sharedPage(1))).toThrow(expect.objectContaining({ code: 'EIO' }));
  // Linux has a disk that is always full.
  if (!existsSync('/dev/full')) return;
  const port = swapFilePort(openSync('/dev/full', 'r+'));
  expect(() => port.writeAt(0, sharedPage(1))).toThrow(expect.objectContaining({ code: 'ENOSPC' }));
});
