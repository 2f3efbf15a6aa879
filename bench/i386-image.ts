// The nearest Debian that v86 boots, which is of 32 bits: bookworm's i686 kernel, busybox in its initramfs.

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultlineError } from '../src/base/error.ts';
import { publishDirectory } from '../src/host/node/atomic-file.ts';
import { cacheDirectory } from '../src/host/node/cache-dir.ts';
import { BOOKWORM_I386 } from '../src/image/apt.ts';
import { type CpioEntry, writeCpio } from '../src/image/cpio.ts';
import { readDeb } from '../src/image/deb-package.ts';
import { readApplets } from '../src/image/initramfs.ts';
import { withApt } from './bench-apt.ts';
import { programArchive } from './bench-image.ts';

/** Where Debian's package puts the BIOS. */
export const SEABIOS = '/usr/share/seabios';

const INIT = `#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
exec setsid cttyhack sh
`;
/** Names what is cached: another recipe is another directory. */
const RECIPE = createHash('sha256').update(INIT).digest('hex').slice(0, 12);

/** Kernel and initramfs with programs added, from the cache or the mirror; undefined, with a line, without them. */
export async function i386Image(
  work: string,
  programs: Record<string, string>,
): Promise<{ kernel: string; initrd: string } | undefined> {
  if (!existsSync(join(SEABIOS, 'bios.bin'))) {
    console.log('not run: v86 wants a BIOS (apt-get install seabios)');
    return undefined;
  }
  const target = join(cacheDirectory(), 'bench', `i386-${RECIPE}`);
  try {
    if (!existsSync(target)) await build(target);
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    console.log(`not run: no i386 guest: ${error.message}`);
    return undefined;
  }
  const initrd = join(work, 'i386.cpio');
  writeFileSync(initrd, Buffer.concat([readFileSync(join(target, 'initrd')), programArchive(programs)]));
  return { kernel: join(target, 'kernel'), initrd };
}

async function build(target: string): Promise<void> {
  const onProgress = (line: string) => console.log(`  i386 guest: ${line}`);
  await withApt({ target: BOOKWORM_I386, onProgress }, async (apt, work) => {
    const kernel = (await apt.dependsOf('linux-image-686')).find(name => /^linux-image-\d/.test(name));
    if (kernel === undefined) throw new FaultlineError('E_MIRROR', 'the mirror has no i686 kernel');
    const [kernelDeb, busyboxDeb] = await apt.fetch([kernel, 'busybox-static']);
    const [image] = await readDeb(kernelDeb!.path, path => path.startsWith('boot/vmlinuz-'));
    const [busybox] = await readDeb(busyboxDeb!.path, path => /(^|\/)bin\/busybox$/.test(path));
    const out = join(work, 'out');
    mkdirSync(out);
    writeFileSync(join(out, 'kernel'), image!.data);
    writeFileSync(join(out, 'initrd'), initramfs(busybox!.data));
    publishDirectory(out, target);
  });
}

function initramfs(busybox: Uint8Array): Uint8Array {
  const applets = readApplets(busybox).filter(name => name !== 'busybox');
  return writeCpio([
    ...['bin', 'dev', 'proc', 'sys', 'root', 'tmp'].map((path): CpioEntry => ({ path, type: 'directory' })),
    { path: 'dev/console', type: 'device', major: 5, minor: 1 },
    { path: 'init', type: 'file', mode: 0o755, data: new TextEncoder().encode(INIT) },
    { path: 'bin/busybox', type: 'file', mode: 0o755, data: busybox },
    ...applets.map((name): CpioEntry => ({ path: `bin/${name}`, type: 'symlink', target: 'busybox' })),
  ]);
}
