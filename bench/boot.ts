// Debian's own command line, from process start to the shell's prompt, against QEMU TCG with the same files and
// the same devices (a virtio rng and a virtio console).

import { type OpenImage, openImage } from '../src/image/images.ts';
import { FAULTLINE, pairs, qemuVersion, verdict } from './lib.ts';
import { PROMPT, Session } from './session.ts';

const LIMIT_SECONDS = 120;
const CEILING = 2.5;
const PLAIN = 'console=ttyS0 quiet';
const OURS = ['run', '--quiet', '--memory', '256M', '--cmdline', PLAIN, 'tiny'];

export async function run(): Promise<boolean | undefined> {
  const qemu = await qemuVersion();
  if (qemu === undefined) return undefined;
  console.log(`  peer: ${qemu}, TCG, one thread`);
  const image = openImage('tiny');
  const ours = () => timePrompt(process.execPath, [FAULTLINE, ...OURS]);
  const theirs = () => timePrompt('qemu-system-riscv64', qemuArgs(image));
  return verdict('boot', await pairs(5, ours, theirs), { atMost: CEILING });
}

function qemuArgs({ directory, manifest }: OpenImage): string[] {
  return [
    ...['-M', 'virt', '-m', '256M', '-nographic', '-accel', 'tcg,thread=single', '-no-reboot'],
    ...['-device', 'virtio-rng-pci', '-device', 'virtio-serial-pci'],
    ...['-chardev', 'null,id=agent', '-device', 'virtconsole,chardev=agent'],
    ...['-kernel', `${directory}/${manifest.kernel.file}`],
    ...['-initrd', `${directory}/${manifest.initramfs.file}`],
    ...['-append', `${PLAIN} faultline.console=shell`],
  ];
}

async function timePrompt(command: string, args: string[]): Promise<number> {
  const guest = new Session(command, args);
  try {
    return await guest.until(PROMPT, LIMIT_SECONDS);
  } finally {
    await guest.stop();
  }
}
