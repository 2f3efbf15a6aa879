// bench.c's tests in the guest, against the same program in the same guest under QEMU TCG.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { writeCpio } from '../src/image/cpio.ts';
import { openImage } from '../src/image/images.ts';
import { compileGuest, runInGuest, withWork } from './guest-program.ts';
import { PROMPT, pairs, qemuVersion, session, verdict } from './lib.ts';

const FLOOR = 0.1;

/** `npm run bench -- cpu [TEST...]`; intmix unless told. */
export async function run(args: string[]): Promise<boolean | undefined> {
  const qemu = await qemuVersion();
  if (qemu === undefined) return undefined;
  const named = args.filter(a => !a.startsWith('-') && a !== 'qemu');
  return withWork(async work => {
    const program = compileGuest('bench', work);
    if (program === undefined) return undefined;
    console.log(`  peer: ${qemu}; rates, larger is better`);
    let met = true;
    for (const test of named.length > 0 ? named : ['intmix']) {
      const all = await pairs(
        5,
        () => ours(program, test),
        () => theirs(work, program, test),
      );
      met = verdict(`cpu ${test}`, all, { atLeast: FLOOR }) && met;
    }
    return met;
  });
}

/** The rate that bench.c printed for a test. */
function rate(text: string, test: string): number {
  const match = new RegExp(`BENCH ${test}\\s+([0-9.]+)`).exec(text);
  if (match === null) throw new Error(`no figure for ${test} in: ${text.slice(-300)}`);
  return Number(match[1]);
}

async function ours(program: string, test: string): Promise<number> {
  return rate(runInGuest(['--memory', '256M'], program, ['/bin/bench', test]).stdout, test);
}

async function theirs(work: string, program: string, test: string): Promise<number> {
  const image = openImage('tiny');
  const extra = writeCpio([{ path: 'bin/bench', type: 'file', mode: 0o755, data: readFileSync(program) }]);
  const initrd = join(work, 'initrd');
  writeFileSync(initrd, Buffer.concat([image.initramfs(), extra]));
  const guest = session('qemu-system-riscv64', [
    ...['-M', 'virt', '-m', '256M', '-nographic', '-accel', 'tcg,thread=single', '-no-reboot'],
    ...['-kernel', `${image.directory}/${image.manifest.kernel.file}`, '-initrd', initrd],
    ...['-append', `${image.commandLine} faultline.console=shell`],
  ]);
  try {
    await guest.until(PROMPT, 120);
    guest.type(`/bin/bench ${test}; echo DO"NE"\n`);
    await guest.until(/DONE/, 300);
    return rate(guest.text, test);
  } finally {
    await guest.stop();
  }
}
