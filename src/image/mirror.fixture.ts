import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { buildElf } from './elf.fixture.ts';
import { kernelFixture } from './image.fixture.ts';

const gpg = (home: string, ...args: string[]) =>
  execFileSync('gpg', ['--homedir', home, '--batch', '--quiet', '--pinentry-mode', 'loopback', ...args], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });

/** A throwaway key; gives the file with its public half. */
export function makeKey(directory: string, name: string): { home: string; keyring: string } {
  const home = join(directory, `gnupg-${name}`);
  mkdirSync(home, { mode: 0o700 });
  gpg(home, '--passphrase', '', '--quick-generate-key', `${name}@localhost`, 'ed25519', 'sign', 'never');
  const keyring = join(directory, `${name}.gpg`);
  writeFileSync(keyring, gpg(home, '--export'));
  return { home, keyring };
}

/** gpg leaves an agent behind for each home. */
export const endKeyAgent = (home: string): void => {
  execFileSync('gpgconf', ['--homedir', home, '--kill', 'gpg-agent'], { stdio: 'ignore' });
};

type Files = Readonly<Record<string, Uint8Array | string>>;

/** Builds one riscv64 package into the mirror's pool. */
function addPackage(mirror: string, name: string, version: string, depends: string, files: Files): void {
  const tree = join(mirror, '..', `tree-${name}`);
  const put = (path: string, data: Uint8Array | string) => {
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    writeFileSync(join(tree, path), data);
  };
  const fields = [
    `Package: ${name}`,
    `Version: ${version}`,
    'Architecture: riscv64',
    'Maintainer: T <t@localhost>',
  ];
  if (depends !== '') fields.push(`Depends: ${depends}`);
  put('DEBIAN/control', `${fields.join('\n')}\nDescription: of a test\n`);
  for (const [path, data] of Object.entries(files)) put(path, data);
  mkdirSync(join(mirror, 'pool'), { recursive: true });
  const deb = join(mirror, 'pool', `${name}_${version}_riscv64.deb`);
  execFileSync('dpkg-deb', ['--root-owner-group', '-Znone', '-b', tree, deb], { stdio: 'ignore' });
}

const moduleFile = (name: string) =>
  buildElf([{ name: '.modinfo', data: Buffer.from(`name=${name}\0depends=\0`) }]);

/** A mirror with what `tiny` needs, in miniature; not yet signed. */
export function makeMirror(directory: string): string {
  const mirror = join(directory, 'mirror');
  const modules = ['virtio_blk', 'virtio_net', 'virtio_rng', 'virtio_balloon'];
  const lib = 'usr/lib/modules/6.1-test/kernel';
  addPackage(mirror, 'linux-image-riscv64', '1', 'linux-image-6.1-test', {});
  addPackage(mirror, 'linux-image-6.1-test', '6.1-1', '', {
    'boot/vmlinux-6.1-test': kernelFixture(),
    ...Object.fromEntries(modules.map(name => [`${lib}/${name}.ko`, moduleFile(name)])),
  });
  addPackage(mirror, 'busybox-static', '1.37', '', { 'usr/bin/busybox': '\x7fELF [\0[[\0cat\0sh\0\0' });
  return mirror;
}

const sha256 = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

function packagesIndex(mirror: string): string {
  const stanzas = readdirSync(join(mirror, 'pool'))
    .sort()
    .map(file => {
      const deb = readFileSync(join(mirror, 'pool', file));
      const control = execFileSync('dpkg-deb', ['-f', join(mirror, 'pool', file)])
        .toString()
        .trimEnd();
      return `${control}\nFilename: pool/${file}\nSize: ${deb.length}\nSHA256: ${sha256(deb)}\n`;
    });
  return stanzas.join('\n');
}

/** Indexes the pool as a suite, and signs that. */
export function publishSuite(mirror: string, home: string, suite: string, codename = 'trixie'): void {
  const dists = join(mirror, 'dists', suite);
  const plain = Buffer.from(packagesIndex(mirror));
  const index = gzipSync(plain);
  mkdirSync(join(dists, 'main/binary-riscv64'), { recursive: true });
  writeFileSync(join(dists, 'main/binary-riscv64/Packages.gz'), index);
  const release = [
    `Suite: ${suite}`,
    `Codename: ${codename}`,
    'Version: 13.99',
    'Date: Sat, 12 Sep 2026 07:55:41 UTC',
    'Architectures: riscv64',
    'Components: main',
    'SHA256:',
    ` ${sha256(index)} ${index.length} main/binary-riscv64/Packages.gz`,
    // apt takes no index whose plain form the release does not name, though it fetches the compressed one.
    ` ${sha256(plain)} ${plain.length} main/binary-riscv64/Packages`,
  ];
  writeFileSync(join(dists, 'Release'), `${release.join('\n')}\n`);
  gpg(home, '--yes', '--clearsign', '-o', join(dists, 'InRelease'), join(dists, 'Release'));
}
