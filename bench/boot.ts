// Debian's own command line, from process start to the shell's prompt, against QEMU TCG on the same files.

import { openImage } from '../src/image/images.ts';
import { FAULTLINE, PROMPT, pairs, qemuVersion, session, verdict } from './lib.ts';

const LIMIT_SECONDS = 120;
const CEILING = 2.5;

export async function run(args: string[]): Promise<boolean | undefined> {
  const qemu = await qemuVersion();
  if (qemu === undefined) return undefined;
  console.log(`  peer: ${qemu}, TCG, -accel tcg,thread=single`);
  const image = openImage('tiny', { pristine: true });
  const rounds = Number(args[args.indexOf('--pairs') + 1] || 5) || 5;
  const ours = () =>
    timePrompt(process.execPath, [FAULTLINE, 'run', 'tiny', '--quiet', '--memory', '256M', '--pristine']);
  const theirs = () => timePrompt('qemu-system-riscv64', qemuArgs(image.directory, image.manifest));
  return verdict('boot', await pairs(rounds, ours, theirs), { atMost: CEILING });
}

function qemuArgs(directory: string, manifest: ReturnType<typeof openImage>['manifest']): string[] {
  const append = `${manifest.pristine.commandLine} faultline.console=shell`;
  return [
    ...['-M', 'virt', '-m', '256M', '-nographic', '-accel', 'tcg,thread=single', '-no-reboot'],
    ...[
      '-kernel',
      `${directory}/${manifest.kernel.file}`,
      '-initrd',
      `${directory}/${manifest.pristine.initramfs.file}`,
    ],
    ...['-append', append],
  ];
}

async function timePrompt(command: string, args: string[]): Promise<number> {
  const guest = session(command, args);
  try {
    return await guest.until(PROMPT, LIMIT_SECONDS);
  } finally {
    await guest.stop();
  }
}
