import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { cacheDirectory } from '../host/node/cache-dir.ts';
import { buildBase } from './build-base.ts';
import type { BuildOptions } from './build-options.ts';
import { buildTiny } from './build-tiny.ts';
import type { ChunkedDisk } from './chunked-disk.ts';
import { readKernelHeader } from './kernel-image.ts';
import { type ImageFile, type ImageManifest, isImageName, notAnImage, parseManifest } from './manifest.ts';
import { openDisk } from './open-disk.ts';

/** Images this version knows how to build when they are missing. */
export const KNOWN_IMAGES = ['tiny', 'base'] as const;

/** An image, checked and ready to boot. `close` it to let go of the disk's file. */
export type OpenImage = {
  readonly directory: string;
  readonly manifest: ImageManifest;
  readonly commandLine: string;
  kernel(): Uint8Array<ArrayBuffer>;
  initramfs(): Uint8Array<ArrayBuffer>;
  readonly disk?: ChunkedDisk;
  /** The disk's file, for a thread that opens it itself (`openDisk`). */
  readonly diskPath?: string;
  close(): void;
};

export type ImageLocation = {
  /** Default: `cacheDirectory()`. */
  readonly cache?: string;
};

export type OpenOptions = ImageLocation & {
  /** Modules and command line as shipped. */
  readonly pristine?: boolean;
};

/** Where the image of that name lies, or would. */
export const imageDirectory = (name: string, location: ImageLocation = {}): string =>
  join(location.cache ?? cacheDirectory(), 'images', name);

/** Images in the cache by name; what is not one is passed over. */
export function listImages(location: ImageLocation = {}): ImageManifest[] {
  const directory = join(location.cache ?? cacheDirectory(), 'images');
  if (!existsSync(directory)) return [];
  const found: ImageManifest[] = [];
  for (const name of readdirSync(directory).filter(isImageName).sort()) {
    try {
      found.push(readManifest(join(directory, name)));
    } catch {
      // Half of an older version, or not ours: `openImage` says why when it is asked for.
    }
  }
  return found;
}

/**
 * Opens an image by name, or by path where the argument has a slash. Kernel and initramfs are read and
 * their SHA-256 checked here (some 0.1 s); the disk is checked chunk by chunk as it is read. Throws
 * E_IMAGE_NOT_FOUND, E_NOT_AN_IMAGE, E_KERNEL_TRUNCATED.
 */
export function openImage(nameOrPath: string, options: OpenOptions = {}): OpenImage {
  const directory = locate(nameOrPath, options);
  const manifest = readManifest(directory);
  const kernel = readChecked(directory, manifest.kernel, 'E_KERNEL_TRUNCATED');
  readKernelHeader(kernel);
  const chosen = options.pristine === true ? manifest.pristine : manifest;
  const initramfs = readChecked(directory, chosen.initramfs, 'E_NOT_AN_IMAGE');
  const diskPath = manifest.disk === undefined ? undefined : join(directory, manifest.disk.file);
  if (diskPath !== undefined && !existsSync(diskPath)) throw notAnImage(`${diskPath} is missing`);
  const disk = diskPath === undefined ? undefined : openDisk(diskPath);
  return {
    directory,
    manifest,
    commandLine: chosen.commandLine,
    kernel: () => kernel,
    initramfs: () => initramfs,
    ...(disk === undefined || diskPath === undefined ? {} : { disk, diskPath }),
    close: () => disk?.close(),
  };
}

/** Opens an image, building it first if it is one that is known and missing. Progress by `onProgress`. */
export async function ensureImage(
  name: string,
  options: BuildOptions & OpenOptions = {},
): Promise<OpenImage> {
  if (!name.includes('/') && !existsSync(join(imageDirectory(name, options), 'image.json'))) {
    if (name === 'tiny') await buildTiny(options);
    else if (name === 'base') await buildBase(options);
  }
  return openImage(name, options);
}

function locate(nameOrPath: string, location: ImageLocation): string {
  const isPath = nameOrPath.includes('/');
  const directory = isPath ? nameOrPath : imageDirectory(nameOrPath, location);
  if ((isPath || isImageName(nameOrPath)) && existsSync(directory)) {
    if (!statSync(directory).isDirectory())
      throw notAnImage(`${nameOrPath} is a file; an image is a directory`);
    return directory;
  }
  const names = [...new Set([...KNOWN_IMAGES, ...listImages(location).map(m => m.name)])];
  throw new FaultlineError('E_IMAGE_NOT_FOUND', `there is no image '${nameOrPath}'`, {
    hint: `one of ${names.join(', ')}, or build one: faultline image build debian:trixie -o NAME`,
  });
}

function readManifest(directory: string): ImageManifest {
  let text: string;
  try {
    text = readFileSync(join(directory, 'image.json'), 'utf8');
  } catch (cause) {
    throw notAnImage(`${directory} has no image.json`, cause);
  }
  return parseManifest(text);
}

function readChecked(
  directory: string,
  file: ImageFile,
  short: 'E_KERNEL_TRUNCATED' | 'E_NOT_AN_IMAGE',
): Uint8Array<ArrayBuffer> {
  const hint = 'faultline image build again';
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = readFileSync(join(directory, file.file));
  } catch (cause) {
    throw notAnImage(`${file.file} cannot be read`, cause);
  }
  if (bytes.length < file.bytes) {
    throw new FaultlineError(short, `${file.file} is cut short: ${bytes.length} of ${file.bytes} bytes`, {
      hint,
    });
  }
  if (createHash('sha256').update(bytes).digest('hex') !== file.sha256) {
    throw new FaultlineError('E_NOT_AN_IMAGE', `${file.file} is not what the image was built with`, { hint });
  }
  return bytes;
}
