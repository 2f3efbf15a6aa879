import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { kernelFixture, writeImageFixture } from './image.fixture.ts';
import { ensureImage, listImages, openImage } from './images.ts';
import { parseManifest } from './manifest.ts';

let cache: string;
beforeEach(() => {
  cache = mkdtempSync(join(tmpdir(), 'images-test-'));
});
afterEach(() => rmSync(cache, { recursive: true, force: true }));

const failure = (work: () => unknown): string => {
  try {
    work();
    return 'none';
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    expect(error.hint).toBeDefined();
    return `${error.code}: ${error.message}`;
  }
};

describe('opening an image', () => {
  test('gives its kernel, its initramfs, its disk and its command line', () => {
    writeImageFixture(cache, 'mine');
    const image = openImage('mine', { cache });
    const sector = new Uint8Array(512);
    image.disk!.read(2, sector);
    expect(image.kernel()).toEqual(Buffer.from(kernelFixture()));
    expect(Buffer.from(image.initramfs()).toString()).toBe('stripped');
    expect(image.commandLine).toBe('quick');
    expect(Buffer.from(sector.subarray(0, 8)).toString()).toBe('minemine');
    image.close();
  });

  test('pristine gives what the distribution ships', () => {
    const image = openImage(writeImageFixture(cache, 'mine'), { pristine: true });
    expect([Buffer.from(image.initramfs()).toString(), image.commandLine]).toEqual(['as shipped', 'plain']);
    image.close();
  });

  test('a name that is not there is told the names that are', () => {
    writeImageFixture(cache, 'mine');
    const hint = /one of tiny, base, mine/;
    for (const name of ['other', '..', 'a b', '']) {
      expect(() => openImage(name, { cache })).toThrow(`there is no image '${name}'`);
      try {
        openImage(name, { cache });
      } catch (error) {
        expect((error as FaultlineError).hint).toMatch(hint);
      }
    }
  });

  test('a file, an empty directory and an image of tomorrow are said to be none', () => {
    const directory = writeImageFixture(cache, 'mine');
    const manifest = join(directory, 'image.json');
    expect(failure(() => openImage(manifest))).toMatch(
      /^E_NOT_AN_IMAGE: .* is a file; an image is a directory$/,
    );
    expect(failure(() => openImage(`${cache}/images`))).toMatch(/^E_NOT_AN_IMAGE: .* has no image.json$/);
    writeFileSync(manifest, readFileSync(manifest, 'utf8').replace('"format":1', '"format":2'));
    expect(failure(() => openImage('mine', { cache }))).toMatch(/format 2, this version reads 1$/);
  });

  test('a truncated kernel, a changed initramfs and a missing disk are each said', () => {
    truncateSync(join(writeImageFixture(cache, 'a'), 'kernel'), 5000);
    expect(failure(() => openImage('a', { cache }))).toBe(
      'E_KERNEL_TRUNCATED: kernel is cut short: 5000 of 8192 bytes',
    );
    writeFileSync(join(writeImageFixture(cache, 'b'), 'initramfs.cpio'), 'replaced');
    expect(failure(() => openImage('b', { cache }))).toBe(
      'E_NOT_AN_IMAGE: initramfs.cpio is not what the image was built with',
    );
    rmSync(join(writeImageFixture(cache, 'c'), 'disk.chunks'));
    expect(failure(() => openImage('c', { cache }))).toMatch(/E_NOT_AN_IMAGE: .*disk.chunks is missing$/);
  });

  test('ensuring an image that is there builds nothing', async () => {
    writeImageFixture(cache, 'tiny');
    const image = await ensureImage('tiny', { cache, mirror: 'not even a URL' });
    expect(image.manifest.name).toBe('tiny');
    image.close();
  });

  test('ensuring an image that nobody knows says so', async () => {
    await expect(ensureImage('unknown', { cache })).rejects.toMatchObject({ code: 'E_IMAGE_NOT_FOUND' });
  });
});

test('listing passes over what is no image', () => {
  expect(listImages({ cache })).toEqual([]);
  writeImageFixture(cache, 'b');
  writeImageFixture(cache, 'a');
  writeFileSync(join(writeImageFixture(cache, 'broken'), 'image.json'), '{');
  expect(listImages({ cache }).map(i => i.name)).toEqual(['a', 'b']);
});

describe('a manifest', () => {
  test('cannot name a file outside its directory', () => {
    const text = readFileSync(join(writeImageFixture(cache, 'a'), 'image.json'), 'utf8');
    for (const path of ['../kernel', '/etc/passwd', '..', 'a/b', '.hidden']) {
      expect(() => parseManifest(text.replace('"file":"kernel"', `"file":${JSON.stringify(path)}`))).toThrow(
        'kernel.file is not a plain file name',
      );
    }
  });

  test('of any JSON is read or refused in words', () => {
    const whole = JSON.parse(readFileSync(join(writeImageFixture(cache, 'a'), 'image.json'), 'utf8'));
    const path = fc.constantFrom(...Object.keys(whole));
    fc.assert(
      fc.property(path, fc.jsonValue(), (key, value) => {
        try {
          parseManifest(JSON.stringify({ ...whole, [key]: value }));
        } catch (error) {
          expect(error).toMatchObject({ code: 'E_NOT_AN_IMAGE' });
        }
      }),
      { seed: 10, numRuns: 300 },
    );
  });
});
