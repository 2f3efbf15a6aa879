// From process start to the shell's prompt: Debian's own command line against QEMU TCG with the same files and the same
// devices (a virtio rng and a virtio console), and our command line by the clock.

import { type OpenImage, openImage } from '../src/image/images.ts';
import { bar, FAULTLINE, median, pairs, qemuVersion, verdict } from './lib.ts';
import { PROMPT, Session } from './session.ts';

const LIMIT_SECONDS = 120;
const ROUNDS = 5;
/** Ours over QEMU's; the goal is half of its time. */
const AGAINST_QEMU = { atMost: 1 };
/** Seconds. */
const OUR_COMMAND_LINE = { atMost: 1.5, goal: 0.8 };
const PLAIN = 'console=ttyS0 quiet';

export async function run(): Promise<boolean> {
  const command = await ourCommandLine();
  const image = openImage('tiny');
  const against = await againstQemu(image);
  return command && against !== false;
}

async function ourCommandLine(): Promise<boolean> {
  const seconds: number[] = [];
  for (let round = 1; round <= ROUNDS; round++) {
    seconds.push(await boot([]));
    console.log(`  our command line, round ${round}: ${seconds.at(-1)!.toFixed(2)} s`);
  }
  return bar('boot with our command line', median(seconds), { ...OUR_COMMAND_LINE, unit: 's' });
}

async function againstQemu(image: OpenImage): Promise<boolean | undefined> {
  const qemu = await qemuVersion();
  if (qemu === undefined) return undefined;
  console.log(`  Debian's command line; peer: ${qemu}, TCG, one thread; seconds`);
  const ours = () => boot(['--cmdline', PLAIN]);
  const theirs = () => timePrompt('qemu-system-riscv64', qemuArgs(image));
  return verdict('boot', await pairs(ROUNDS, ours, theirs), AGAINST_QEMU);
}

const boot = (flags: string[]): Promise<number> =>
  timePrompt(process.execPath, [FAULTLINE, 'run', '--quiet', '--memory', '256M', ...flags, 'tiny']);

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
