import { FaultlineError } from '../base/error.ts';

/** A file of an image directory. */
export type ImageFile = { readonly file: string; readonly bytes: number; readonly sha256: string };

/** `image.json`: all there is to know of an image before its files are opened. */
export type ImageManifest = {
  readonly format: 1;
  readonly name: string;
  /** The signed release that the packages are from. */
  readonly release: {
    readonly codename: string;
    readonly version: string;
    /** As the Release file has it. */
    readonly date: string;
  };
  readonly kernel: ImageFile & { readonly version: string };
  readonly initramfs: ImageFile;
  readonly commandLine: string;
  /** Modules and command line as the distribution ships them (`--pristine`). */
  readonly pristine: { readonly initramfs: ImageFile; readonly commandLine: string };
  /** A `ChunkedDisk`; `size` is the guest's view in bytes. */
  readonly disk?: ImageFile & { readonly size: number };
  /** Bytes of RAM below which the kernel panics before it prints. */
  readonly minMemory: number;
  /** Bytes of RAM that suit it. */
  readonly defaultMemory: number;
  /** Debian packages and their versions. */
  readonly packages: Readonly<Record<string, string>>;
  /** SHA-256 of what the build was made from; equal plans give equal guests. */
  readonly plan: string;
};

const IMAGE_NAME = /^[a-z0-9][a-z0-9.+_-]{0,63}$/;
const FILE_NAME = /^[a-z0-9][a-z0-9.-]{0,63}$/;

/** A name that is safe as a directory of the cache. */
export const isImageName = (name: string): boolean => IMAGE_NAME.test(name) && !name.includes('..');

/** Reads `image.json`. Throws E_NOT_AN_IMAGE, naming what is wrong. */
export function parseManifest(text: string): ImageManifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw notAnImage('image.json is not JSON', cause);
  }
  const m = record(value, 'image.json');
  if (m.format !== 1) throw notAnImage(`image.json has format ${String(m.format)}, this version reads 1`);
  const kernel = record(m.kernel, 'kernel');
  const pristine = record(m.pristine, 'pristine');
  const release = record(m.release, 'release');
  const manifest: ImageManifest = {
    format: 1,
    name: string(m.name, 'name'),
    release: {
      codename: string(release.codename, 'release.codename'),
      version: string(release.version, 'release.version'),
      date: string(release.date, 'release.date'),
    },
    kernel: { ...file(kernel, 'kernel'), version: string(kernel.version, 'kernel.version') },
    initramfs: file(m.initramfs, 'initramfs'),
    commandLine: string(m.commandLine, 'commandLine'),
    pristine: {
      initramfs: file(pristine.initramfs, 'pristine.initramfs'),
      commandLine: string(pristine.commandLine, 'pristine.commandLine'),
    },
    ...(m.disk === undefined ? {} : { disk: disk(m.disk) }),
    minMemory: bytes(m.minMemory, 'minMemory'),
    defaultMemory: bytes(m.defaultMemory, 'defaultMemory'),
    packages: packages(m.packages),
    plan: string(m.plan, 'plan'),
  };
  return manifest;
}

function disk(value: unknown): ImageFile & { size: number } {
  return { ...file(value, 'disk'), size: bytes(record(value, 'disk').size, 'disk.size') };
}

function file(value: unknown, where: string): ImageFile {
  const r = record(value, where);
  const name = string(r.file, `${where}.file`);
  const sha256 = string(r.sha256, `${where}.sha256`);
  // A name, never a path: an image must not reach outside its directory.
  if (!FILE_NAME.test(name)) throw notAnImage(`${where}.file is not a plain file name`);
  if (!/^[0-9a-f]{64}$/.test(sha256)) throw notAnImage(`${where}.sha256 is not a hash`);
  return { file: name, bytes: bytes(r.bytes, `${where}.bytes`), sha256 };
}

function packages(value: unknown): Record<string, string> {
  const entries = Object.entries(record(value, 'packages'));
  return Object.fromEntries(entries.map(([name, version]) => [name, string(version, `packages.${name}`)]));
}

function record(value: unknown, where: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw notAnImage(`${where} is no object`);
  return value as Record<string, unknown>;
}

function string(value: unknown, where: string): string {
  if (typeof value !== 'string') throw notAnImage(`${where} is no string`);
  return value;
}

function bytes(value: unknown, where: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0)
    throw notAnImage(`${where} is no size`);
  return value;
}

export const notAnImage = (why: string, cause?: unknown): FaultlineError =>
  new FaultlineError('E_NOT_AN_IMAGE', `not a Faultline image: ${why}`, {
    hint: 'faultline image list shows those there are',
    cause,
  });
