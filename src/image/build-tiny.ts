import { MIB } from '../base/units.ts';
import { buildImage, kernelPackageName, putFile, type Recipe, versionsOf } from './build-image.ts';
import type { BuildOptions, BuiltImage } from './build-options.ts';
import { DEFAULT_COMMAND_LINE, PRISTINE_COMMAND_LINE } from './command-line.ts';
import { compileAgent } from './compile-agent.ts';
import { readDeb } from './deb-package.ts';
import { buildInitramfs } from './initramfs.ts';
import { readKernelPackage } from './kernel-package.ts';

/** Drivers of devices that a machine may have; loaded where they are. */
export const DEVICE_MODULES = ['virtio_blk', 'virtio_net', 'virtio_rng', 'virtio_balloon'] as const;

const tiny: Recipe = {
  name: 'tiny',
  plan: async apt => apt.versions([await kernelPackageName(apt), 'busybox-static']),
  async build(context, plan) {
    const [kernelDeb, busyboxDeb] = await context.apt.fetch(plan);
    context.progress('unpacking the kernel');
    const kernel = await readKernelPackage(kernelDeb!.path);
    const [busybox] = await readDeb(busyboxDeb!.path, path => /(^|\/)bin\/busybox$/.test(path));
    const agent = await compileAgent(context.work);
    const parts = { agent, modules: await kernel.modules(DEVICE_MODULES), busybox: busybox!.data };
    const initramfs = putFile(context, 'initramfs.cpio', buildInitramfs(parts));
    const shipped = putFile(context, 'pristine.cpio', buildInitramfs({ ...parts, pristine: true }));
    return {
      kernel: { ...putFile(context, 'kernel', kernel.image), version: kernel.version },
      initramfs,
      commandLine: DEFAULT_COMMAND_LINE,
      pristine: { initramfs: shipped, commandLine: PRISTINE_COMMAND_LINE },
      minMemory: 88 * MIB,
      defaultMemory: 128 * MIB,
      packages: versionsOf([kernelDeb!, busyboxDeb!]),
    };
  },
};

/** Builds `tiny`: Debian's kernel and busybox in memory, no disk. */
export const buildTiny = (options: BuildOptions = {}): Promise<BuiltImage> => buildImage(tiny, options);
