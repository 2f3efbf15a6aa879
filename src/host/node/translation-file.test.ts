import {
  appendFileSync,
  chmodSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { MAX_BYTES, TranslationFile } from './translation-file.ts';

let work: string;
let path: string;
beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'faultline-regions-'));
  path = join(work, 'cache', 'regions', 'build');
  vi.stubEnv('FAULTLINE_CACHE', join(work, 'cache'));
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(work, { recursive: true });
});

const [ONE, TWO] = [Uint8Array.of(1, 2, 3), new Uint8Array(5000).fill(7)];
const read = () =>
  TranslationFile.at(path)
    .read()
    .map(bytes => Uint8Array.from(bytes));

test('what processes append is read by the next, in the order of its coming', () => {
  expect(read()).toEqual([]);
  TranslationFile.at(path).append(ONE);
  const second = TranslationFile.at(path);
  second.append(TWO);
  second.append(new Uint8Array(0));
  expect(read()).toEqual([ONE, TWO, new Uint8Array(0)]);
  expect(statSync(path).mode & 0o777).toBe(0o600);
});

test('what was cut short goes, and what is appended then is found', () => {
  const file = TranslationFile.at(path);
  file.append(ONE);
  const whole = statSync(path).size;
  file.append(TWO);
  for (const size of [whole + 1, whole + 9, whole + 100]) {
    const bytes = Buffer.from(encode(ONE, TWO)).subarray(0, size);
    writeFileSync(path, bytes, { mode: 0o600 });
    expect(read()).toEqual([ONE]);
    expect([statSync(path).size, statSync(path).mode & 0o777]).toEqual([whole, 0o600]);
    TranslationFile.at(path).append(ONE);
    expect(read()).toEqual([ONE, ONE]);
  }
});

/** As the file has them. */
function encode(...records: Uint8Array[]): Uint8Array {
  const at = join(work, 'scratch');
  rmSync(at, { force: true });
  for (const record of records) TranslationFile.at(at).append(record);
  return TranslationFile.at(at).read().length === records.length ? readAll(at) : new Uint8Array(0);
}
const readAll = (at: string): Uint8Array => {
  const fs = process.getBuiltinModule('node:fs');
  return fs.readFileSync(at);
};

test('a record whose bytes changed is not read, nor what follows it', () => {
  const bytes = Buffer.from(encode(ONE, TWO, ONE));
  bytes[100] = bytes[100]! ^ 1;
  TranslationFile.at(path).append(ONE);
  writeFileSync(path, bytes, { mode: 0o600 });
  expect(read()).toEqual([ONE]);
});

test('a file to which others may write is not read', () => {
  TranslationFile.at(path).append(ONE);
  chmodSync(path, 0o620);
  expect(read()).toEqual([]);
});

test('one that has grown too large is begun anew', () => {
  TranslationFile.at(path).append(ONE);
  appendFileSync(path, new Uint8Array(48 * 2 ** 20));
  expect(read()).toEqual([]);
  TranslationFile.at(path).append(TWO);
  expect(read()).toEqual([TWO]);
});

test('one that a process fills takes no more', () => {
  const file = TranslationFile.at(path);
  const large = new Uint8Array(MAX_BYTES / 3);
  for (let i = 0; i < 6; i++) file.append(large);
  expect(statSync(path).size).toBeLessThan(1.4 * MAX_BYTES);
  expect(read()).toEqual([]);
  TranslationFile.at(path).append(TWO);
  expect(read()).toEqual([TWO]);
});

test('nothing is kept for a user who says so', () => {
  const script = join(work, 'a.cjs');
  writeFileSync(script, 'a');
  vi.stubEnv('FAULTLINE_KEEP_CODE', '0');
  expect(TranslationFile.of(pathToFileURL(script).href)).toBe(undefined);
});

test('a place that cannot be written costs nothing but the translations', () => {
  writeFileSync(join(work, 'cache'), 'a file where the directory should be');
  const file = TranslationFile.at(path);
  file.append(ONE);
  file.append(TWO);
  expect(read()).toEqual([]);
});

test('each build of ours has its own, and few of other builds stay', () => {
  const names = ['a', 'b', 'c', 'd', 'e', 'f'];
  const scripts = names.map(name => join(work, `${name}.cjs`));
  for (const [i, script] of scripts.entries()) {
    writeFileSync(script, `${names[i]}`);
    const file = TranslationFile.of(pathToFileURL(script).href)!;
    file.append(ONE);
    expect(file.read()).toHaveLength(1);
    const files = readdirSync(join(work, 'cache', 'regions')).map(name =>
      join(work, 'cache', 'regions', name),
    );
    const newest = files.reduce((a, b) => (statSync(a).mtimeMs > statSync(b).mtimeMs ? a : b));
    utimesSync(newest, i, i);
  }
  expect(readdirSync(join(work, 'cache', 'regions'))).toHaveLength(4);
  expect(TranslationFile.of(pathToFileURL(scripts[5]!).href)!.read()).toHaveLength(1);
  expect(TranslationFile.of(pathToFileURL(join(work, 'source.ts')).href)).toBe(undefined);
  expect(TranslationFile.of(pathToFileURL(join(work, 'missing.cjs')).href)).toBe(undefined);
});
