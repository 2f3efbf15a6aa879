import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeCpio } from '../src/image/cpio.ts';
import { ensureImage } from '../src/image/images.ts';

/** An image's files, for our own machine by its directory and for QEMU by themselves. */
export type BenchImage = { directory: string; kernel: string; initrd: string; commandLine: string };

/** `tiny` with programs added to its initramfs: the same kernel and the same files for whoever boots it. */
export async function imageWith(work: string, programs: Record<string, string>): Promise<BenchImage> {
  const image = await ensureImage('tiny', { onProgress: line => console.log(`  image tiny: ${line}`) });
  const { manifest, commandLine } = image;
  const directory = join(work, 'image');
  mkdirSync(directory);
  const initramfs = Buffer.concat([image.initramfs(), programArchive(programs)]);
  writeFileSync(join(directory, 'initramfs.cpio'), initramfs);
  for (const { file } of [manifest.kernel, manifest.pristine.initramfs])
    symlinkSync(join(image.directory, file), join(directory, file));
  const sha256 = createHash('sha256').update(initramfs).digest('hex');
  const changed = { ...manifest, initramfs: { file: 'initramfs.cpio', bytes: initramfs.length, sha256 } };
  writeFileSync(join(directory, 'image.json'), JSON.stringify(changed));
  return {
    directory,
    kernel: join(directory, manifest.kernel.file),
    initrd: join(directory, 'initramfs.cpio'),
    commandLine,
  };
}

/** Programs by their place in the guest, as an archive that is unpacked over the first. */
export const programArchive = (programs: Record<string, string>): Uint8Array =>
  writeCpio(
    Object.entries(programs).map(([path, file]) => ({
      path: path.replace(/^\//, ''),
      type: 'file',
      mode: 0o755,
      data: readFileSync(file),
    })),
  );
