import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gunzipSync, gzipSync } from 'node:zlib';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { buildTiny } from './build-tiny.ts';
import { openImage } from './images.ts';
import { endKeyAgent, makeKey, makeMirror, publishSuite } from './mirror.fixture.ts';

// A mirror made on the spot, with a key that is thrown away. Not run where a tool is missing.
const TOOLS = ['gpg', 'gpgconf', 'dpkg-deb', 'apt-get', 'riscv64-linux-gnu-gcc'];
const hasTools = TOOLS.every(tool => spawnSync(tool, ['--version']).status === 0);

describe.skipIf(!hasTools)('building from a mirror', () => {
  let directory: string;
  let cache: string;
  let mirror: string;
  let key: { home: string; keyring: string };
  let homes: string[];
  let progress: string[];

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'mirror-test-'));
    cache = join(directory, 'cache');
    mirror = makeMirror(directory);
    key = makeKey(directory, 'archive');
    homes = [key.home];
    progress = [];
    publishSuite(mirror, key.home, 'trixie');
  });

  afterEach(() => {
    homes.forEach(endKeyAgent);
    rmSync(directory, { recursive: true, force: true });
  });

  const build = (options: { mirror?: string; keyring?: string; name?: string } = {}) =>
    buildTiny({
      cache,
      mirror: `copy:${mirror}`,
      keyring: key.keyring,
      onProgress: line => progress.push(line),
      ...options,
    });
  const index = (suite: string) => join(mirror, 'dists', suite, 'main/binary-riscv64/Packages.gz');
  /** Nothing of a build that failed is left where images are. */
  const expectNothingBuilt = () => {
    expect(readdirSync(join(cache, 'images'))).toEqual([]);
    expect(readdirSync(join(cache, 'tmp'))).toEqual([]);
  };

  test('an honest one gives an image that opens, and is not built twice', async () => {
    expect(await build()).toMatchObject({ name: 'tiny', built: true });
    const image = openImage('tiny', { cache });
    expect(image.manifest.packages).toEqual({ 'linux-image-6.1-test': '6.1-1', 'busybox-static': '1.37' });
    expect(image.manifest.release.version).toBe('13.99');
    image.close();
    expect(await build()).toMatchObject({ built: false });
  });

  test('two builds at once both end well, and leave one image', async () => {
    const built = await Promise.all([build(), build()]);
    expect(built.map(b => b.built)).toEqual([true, true]);
    openImage('tiny', { cache }).close();
    expect(readdirSync(join(cache, 'images'))).toEqual(['tiny']);
  });

  test('a release signed with a key that is not trusted is refused', async () => {
    const other = makeKey(directory, 'stranger');
    homes.push(other.home);
    await expect(build({ keyring: other.keyring })).rejects.toMatchObject({ code: 'E_SIGNATURE' });
    expectNothingBuilt();
  });

  test('a bad signature is never worth another name of the release', async () => {
    publishSuite(mirror, key.home, 'stable');
    const path = join(mirror, 'dists/trixie/InRelease');
    writeFileSync(path, readFileSync(path, 'utf8').replace('Version: 13.99', 'Version: 13.98'));
    await expect(build()).rejects.toMatchObject({ code: 'E_SIGNATURE' });
    expect(progress.filter(line => line.includes('stable'))).toEqual([]);
    expectNothingBuilt();
  });

  test('an unsigned release is refused', async () => {
    rmSync(join(mirror, 'dists/trixie/InRelease'));
    await expect(build()).rejects.toMatchObject({ code: 'E_SIGNATURE' });
    expectNothingBuilt();
  });

  test('a package that is not what the index says is refused', async () => {
    const path = join(mirror, 'pool/busybox-static_1.37_riscv64.deb');
    const bytes = readFileSync(path);
    bytes[bytes.length - 600]! ^= 1;
    writeFileSync(path, bytes);
    await expect(build()).rejects.toMatchObject({ code: 'E_SIGNATURE' });
    expectNothingBuilt();
  });

  test('an index that is not what the release says is refused', async () => {
    const altered = gunzipSync(readFileSync(index('trixie')))
      .toString()
      .replace('1.37', '1.36');
    writeFileSync(index('trixie'), gzipSync(altered));
    await expect(build()).rejects.toMatchObject({ code: 'E_SIGNATURE' });
    expectNothingBuilt();
  });

  test('an index out of step is passed over for the same release by its other name, aloud', async () => {
    publishSuite(mirror, key.home, 'stable');
    appendFileSync(index('trixie'), 'x');
    expect(await build()).toMatchObject({ built: true });
    expect(progress).toContain("the mirror's index of trixie does not match its signed release file");
    expect(progress).toContain('reading the index of Debian stable');
  });

  test('the other name is of no use when it is another release', async () => {
    publishSuite(mirror, key.home, 'stable', 'forky');
    appendFileSync(index('trixie'), 'x');
    await expect(build()).rejects.toMatchObject({
      code: 'E_SIGNATURE',
      message: "the mirror's 'stable' is 'forky', not trixie",
    });
    expectNothingBuilt();
  });

  test('a mirror that does not answer is said to be unusable', async () => {
    await expect(build({ mirror: 'http://127.0.0.1:9/debian' })).rejects.toMatchObject({ code: 'E_MIRROR' });
    await expect(build({ mirror: 'a mirror' })).rejects.toMatchObject({ code: 'E_USAGE' });
    expectNothingBuilt();
  });

  test('a cached package that rotted is fetched again', async () => {
    await build();
    const path = join(cache, 'debs/busybox-static_1.37_riscv64.deb');
    writeFileSync(path, 'rot');
    expect(await build({ name: 'again' })).toMatchObject({ built: true });
    expect(
      readFileSync(path).equals(readFileSync(join(mirror, 'pool/busybox-static_1.37_riscv64.deb'))),
    ).toBe(true);
  });
});
