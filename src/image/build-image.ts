import { createHash } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { publishDirectory, withTemporaryDirectory } from '../host/node/atomic-file.ts';
import { cacheDirectory } from '../host/node/cache-dir.ts';
import { Apt, type Package } from './apt.ts';
import type { BuildOptions, BuiltImage } from './build-options.ts';
import { agentSourceHash } from './compile-agent.ts';
import { findKeyring, findMirror } from './debian-mirror.ts';
import { type ImageFile, type ImageManifest, isImageName, parseManifest } from './manifest.ts';

/** Grows whenever the recipe changes what comes out of the same packages. */
const RECIPE = 5;

export type BuildContext = {
  readonly name: string;
  readonly apt: Apt;
  /** Gone when the build is over. */
  readonly work: string;
  /** Becomes the image. */
  readonly out: string;
  readonly progress: (line: string) => void;
};

export type Recipe = {
  readonly name: string;
  /** What the image is made of: packages `name=version`, in a fixed order. */
  plan(apt: Apt): Promise<readonly string[]>;
  /** Fills `context.out`; gives all of the manifest but what is common. */
  build(
    context: BuildContext,
    plan: readonly string[],
  ): Promise<Omit<ImageManifest, 'format' | 'name' | 'release' | 'plan'>>;
};

/**
 * Runs a recipe: finds the mirror, solves the plan, and builds unless the image that is there was built
 * from the same plan. The image appears whole or not at all; of two builds at once the last one stays.
 */
export async function buildImage(recipe: Recipe, options: BuildOptions): Promise<BuiltImage> {
  const cache = options.cache ?? cacheDirectory(options.env);
  const progress = options.onProgress ?? (() => {});
  const name = options.name ?? recipe.name;
  if (!isImageName(name)) throw new FaultlineError('E_USAGE', `'${name}' is no name for an image`);
  const target = join(cache, 'images', name);
  const mirror = await findMirror(options);
  const keyring = findKeyring(options);
  makeCache(cache);
  return withTemporaryDirectory(join(cache, 'tmp'), async work => {
    const aptDirectory = join(work, 'apt');
    const apt = await Apt.open({
      directory: aptDirectory,
      archives: join(cache, 'debs'),
      mirror,
      keyring,
      onProgress: progress,
    });
    progress(`Debian ${apt.release.version} ${apt.release.codename}, signed, of ${apt.release.date}`);
    const packages = await recipe.plan(apt);
    const plan = sha256(JSON.stringify([RECIPE, recipe.name, agentSourceHash(), packages]));
    if (options.force !== true && planOf(target) === plan) return { name, directory: target, built: false };
    const out = join(work, 'image');
    mkdirSync(out);
    const parts = await recipe.build({ name, apt, work, out, progress }, packages);
    const { suite: _, ...release } = apt.release;
    const manifest: ImageManifest = { format: 1, name, release, ...parts, plan };
    writeFileSync(join(out, 'image.json'), `${JSON.stringify(manifest, null, 2)}\n`);
    publishDirectory(out, target);
    progress(`image ${name} is ready: ${target}`);
    return { name, directory: target, built: true };
  });
}

function makeCache(cache: string): void {
  try {
    mkdirSync(join(cache, 'images'), { recursive: true });
  } catch (cause) {
    throw new FaultlineError('E_IO', `cannot make the cache directory ${cache}`, {
      hint: 'FAULTLINE_CACHE=DIRECTORY that can be written',
      cause,
    });
  }
}

/** The plan of the image that is there, if it is one this version can read. */
function planOf(directory: string): string | undefined {
  try {
    return parseManifest(readFileSync(join(directory, 'image.json'), 'utf8')).plan;
  } catch {
    return undefined;
  }
}

const sha256 = (bytes: Uint8Array | string): string => createHash('sha256').update(bytes).digest('hex');

/** Writes a file of the image and describes it. */
export function putFile(context: BuildContext, file: string, bytes: Uint8Array): ImageFile {
  writeFileSync(join(context.out, file), bytes);
  return describeFile(context, file);
}

/** Describes a file of the image that is there already. */
export function describeFile(context: BuildContext, file: string): ImageFile {
  const bytes = readFileSync(join(context.out, file));
  return { file, bytes: bytes.length, sha256: sha256(bytes) };
}

/** The versions of packages, for the manifest. */
export const versionsOf = (packages: readonly Package[]): Record<string, string> =>
  Object.fromEntries(packages.map(p => [p.name, p.version]));

/** The kernel package behind Debian's meta package, as `name=version` is asked for. */
export async function kernelPackageName(apt: Apt): Promise<string> {
  const names = await apt.dependsOf('linux-image-riscv64');
  const kernel = names.find(name => /^linux-image-\d/.test(name));
  if (kernel === undefined) throw new FaultlineError('E_MIRROR', 'the mirror has no riscv64 kernel');
  return kernel;
}
