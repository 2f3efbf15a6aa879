import { Command } from 'commander';
import { FaultlineError } from '../base/error.ts';
import { formatSize } from '../base/size.ts';
import { buildBase } from '../image/build-base.ts';
import type { BuildOptions, BuiltImage } from '../image/build-options.ts';
import { buildTiny } from '../image/build-tiny.ts';
import { listImages } from '../image/images.ts';
import { Progress } from './report.ts';

type BuildFlags = {
  include?: string;
  output?: string;
  mirror?: string;
  keyring?: string;
  force?: boolean;
  quiet?: boolean;
};

/** `faultline image build | list`. */
export function imageCommand(): Command {
  const image = new Command('image').description('guest images: build, list');
  image
    .command('build')
    .description(
      "build 'tiny', 'base', or 'debian:trixie' with packages of your choice; no root needed where tools allow",
    )
    .argument('<what>', "'tiny', 'base' or 'debian:trixie'")
    .option('--include <packages>', 'Debian packages to add, separated by commas')
    .option('-o, --output <name>', 'name of the image in the cache')
    .option('--mirror <url>', "a Debian mirror (default: FAULTLINE_DEBIAN_MIRROR, else this machine's apt)")
    .option(
      '--keyring <file>',
      "keys to trust (default: FAULTLINE_DEBIAN_KEYRING, else the archive's keyring)",
    )
    .option('--force', 'build even if it is there')
    .option('-q, --quiet', 'no progress')
    .action(async (what: string, flags: BuildFlags) => report(await build(what, flags)));
  image
    .command('list')
    .alias('ls')
    .description('the images there are')
    .option('--json', 'as JSON')
    .action((flags: { json?: boolean }) => list(flags));
  return image;
}

async function build(what: string, flags: BuildFlags): Promise<BuiltImage> {
  const progress = new Progress(flags.quiet ?? false);
  const include = flags.include?.split(',').filter(name => name !== '');
  const options: BuildOptions = {
    ...(include === undefined ? {} : { include }),
    ...(flags.output === undefined ? {} : { name: flags.output }),
    ...(flags.mirror === undefined ? {} : { mirror: flags.mirror }),
    ...(flags.keyring === undefined ? {} : { keyring: flags.keyring }),
    force: flags.force ?? false,
    onProgress: line => progress.update(`image ${what}  ${line}`),
  };
  try {
    if (what === 'tiny') return await buildTiny(options);
    if (what === 'base') return await buildBase(options);
    if (what === 'debian:trixie') return await buildBase({ name: nameFor(include), ...options });
  } finally {
    progress.done();
  }
  throw new FaultlineError('E_USAGE', `'${what}' is not something that can be built`, {
    hint: 'tiny, base or debian:trixie',
  });
}

/** What an image of these packages is called when nobody says. */
const nameFor = (include: readonly string[] | undefined): string =>
  include === undefined || include.length === 0 ? 'base' : include.join('-').slice(0, 60);

function report(image: BuiltImage): void {
  const did = image.built ? 'built' : 'is there already, from the same packages';
  process.stdout.write(`${image.name} ${did}: faultline run ${image.name} -- COMMAND\n`);
}

function list(flags: { json?: boolean }): void {
  const images = listImages();
  if (flags.json) {
    process.stdout.write(`${JSON.stringify(images, null, 2)}\n`);
    return;
  }
  if (images.length === 0) process.stdout.write('no images yet: faultline image build tiny\n');
  for (const i of images) {
    const bytes = i.kernel.bytes + i.initramfs.bytes + (i.disk?.bytes ?? 0);
    process.stdout.write(
      `${i.name.padEnd(16)} Debian ${i.release.version.padEnd(6)} kernel ${i.kernel.version.padEnd(24)} ${formatSize(bytes)}\n`,
    );
  }
}
