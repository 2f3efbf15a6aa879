import { join } from 'node:path';
import { FaultlineError } from '../base/error.ts';
import { MIB } from '../base/units.ts';
import type { Apt } from './apt.ts';
import {
  buildImage,
  describeFile,
  kernelPackageName,
  putFile,
  type Recipe,
  versionsOf,
} from './build-image.ts';
import type { BuildOptions, BuiltImage } from './build-options.ts';
import { DEVICE_MODULES } from './build-tiny.ts';
import { DEFAULT_COMMAND_LINE, PRISTINE_COMMAND_LINE, ROOT_DISK } from './command-line.ts';
import { compileAgent } from './compile-agent.ts';
import { buildInitramfs } from './initramfs.ts';
import { readKernelPackage } from './kernel-package.ts';
import { compressDisk } from './node-codec.ts';
import { buildRootDisk } from './root-file-system.ts';

/** What mmdebstrap calls minbase, and what was asked for. The kernel comes first. */
async function plan(apt: Apt, include: readonly string[]): Promise<string[]> {
  const kernel = await apt.versions([await kernelPackageName(apt)]);
  const minbase = await apt.packagesWhere(stanza => /^(Essential: yes|Priority: required)$/m.test(stanza));
  return [...kernel, ...(await apt.solve([...new Set([...minbase, 'apt', ...include])])).sort()];
}

function recipe(include: readonly string[]): Recipe {
  return {
    name: 'base',
    plan: apt => plan(apt, include),
    async build(context, packages) {
      const [kernelDeb, ...debs] = await context.apt.fetch(packages);
      const disk = await buildRootDisk(context, debs, include);
      context.progress('compressing the disk');
      const size = compressDisk(disk, join(context.out, 'disk.chunks'));
      context.progress('unpacking the kernel');
      const kernel = await readKernelPackage(kernelDeb!.path);
      const agent = await compileAgent(context.work);
      const parts = { agent, modules: await kernel.modules([...DEVICE_MODULES, 'erofs', 'overlay']) };
      const initramfs = putFile(context, 'initramfs.cpio', buildInitramfs(parts));
      const shipped = putFile(context, 'pristine.cpio', buildInitramfs({ ...parts, pristine: true }));
      return {
        kernel: { ...putFile(context, 'kernel', kernel.image), version: kernel.version },
        initramfs,
        commandLine: `${DEFAULT_COMMAND_LINE} ${ROOT_DISK}`,
        pristine: { initramfs: shipped, commandLine: `${PRISTINE_COMMAND_LINE} ${ROOT_DISK}` },
        disk: { ...describeFile(context, 'disk.chunks'), size },
        minMemory: 96 * MIB,
        defaultMemory: 256 * MIB,
        packages: versionsOf([kernelDeb!, ...debs]),
      };
    },
  };
}

/**
 * Builds `base`, or `options.name`: Debian's minbase with `options.include` on a compressed disk, an
 * overlay in memory above it. Throws E_USAGE for what is no package, and all that `buildImage` does.
 */
export async function buildBase(options: BuildOptions = {}): Promise<BuiltImage> {
  const include = [...new Set(options.include ?? [])].sort();
  const wrong = include.find(name => !/^[a-z0-9][a-z0-9+.-]+$/.test(name));
  if (wrong !== undefined) throw new FaultlineError('E_USAGE', `'${wrong}' is no name of a package`);
  return buildImage(recipe(include), options);
}
