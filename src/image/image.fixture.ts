import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ImageManifest } from './manifest.ts';
import { compressDisk } from './node-codec.ts';

/** The smallest file with the headers of an EFI-stub RISC-V Image: one section, data to the end. */
export function kernelFixture(): Uint8Array<ArrayBuffer> {
  const file = new Uint8Array(8192);
  const view = new DataView(file.buffer);
  view.setUint16(0, 0x5a4d, true);
  view.setUint32(0x08, 0x200000, true);
  view.setUint32(0x10, 0x10000, true);
  view.setUint32(0x20, 2, true);
  file.set(new TextEncoder().encode('RISCV\0\0\0RSC\x05'), 0x30);
  view.setUint32(0x3c, 0x40, true);
  view.setUint32(0x40, 0x00004550, true);
  view.setUint16(0x46, 1, true);
  const section = 0x40 + 24;
  view.setUint32(section + 16, file.length - 4096, true);
  view.setUint32(section + 20, 4096, true);
  return file;
}

const describe = (file: string, bytes: Uint8Array) => ({
  file,
  bytes: bytes.length,
  sha256: createHash('sha256').update(bytes).digest('hex'),
});

/** Writes an image of next to nothing, with a disk of 3 sectors, into a cache directory. */
export function writeImageFixture(cache: string, name: string): string {
  const directory = join(cache, 'images', name);
  mkdirSync(directory, { recursive: true });
  const put = (file: string, bytes: Uint8Array) => {
    writeFileSync(join(directory, file), bytes);
    return describe(file, bytes);
  };
  writeFileSync(join(cache, `${name}.raw`), Buffer.alloc(1536, name));
  const size = compressDisk(join(cache, `${name}.raw`), join(directory, 'disk.chunks'));
  const manifest: ImageManifest = {
    format: 1,
    name,
    release: { codename: 'trixie', version: '13.0', date: 'a day' },
    kernel: { ...put('kernel', kernelFixture()), version: '6.12' },
    initramfs: put('initramfs.cpio', Buffer.from('stripped')),
    commandLine: 'quick',
    pristine: { initramfs: put('pristine.cpio', Buffer.from('as shipped')), commandLine: 'plain' },
    disk: { ...describe('disk.chunks', new Uint8Array(0)), size },
    minMemory: 1,
    defaultMemory: 2,
    packages: { 'busybox-static': '1' },
    plan: 'p',
  };
  writeFileSync(join(directory, 'image.json'), JSON.stringify(manifest));
  return directory;
}
