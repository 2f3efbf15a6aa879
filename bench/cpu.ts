// bench.c's tests in the guest, against the same program in the same guest under QEMU TCG.

import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { writeCpio } from '../src/image/cpio.ts';
import { openImage } from '../src/image/images.ts';
import { FAULTLINE, PROMPT, pairs, qemuVersion, session, verdict } from './lib.ts';

const FLOOR = 0.1;

/** The rate that bench.c printed for a test. */
const rate = (text: string, test: string): number => {
  const match = new RegExp(`BENCH ${test}\\s+([0-9.]+)`).exec(text);
  if (match === null) throw new Error(`no figure for ${test} in: ${text.slice(-300)}`);
  return Number(match[1]);
};

export async function run(args: string[]): Promise<boolean | undefined> {
  const qemu = await qemuVersion();
  if (qemu === undefined) return undefined;
  const tests = args.filter(a => /^[a-z0-9]+$/.test(a) && a !== 'qemu');
  const test = tests[0] ?? 'intmix';
  const work = mkdtempSync(join(tmpdir(), 'faultline-bench-'));
  try {
    const program = compile(work);
    if (program === undefined) return undefined;
    console.log(`  peer: ${qemu}; ${test}, rates are larger is better`);
    const all = await pairs(
      5,
      () => ours(program, test),
      () => theirs(work, program, test),
    );
    return verdict(`cpu ${test}`, all, { atLeast: FLOOR });
  } finally {
    rmSync(work, { recursive: true });
  }
}

function compile(work: string): string | undefined {
  const out = join(work, 'bench');
  const source = new URL('./guest/bench.c', import.meta.url).pathname;
  const done = spawnSync(
    'riscv64-linux-gnu-gcc',
    ['-O2', '-static', '-fno-tree-vectorize', '-o', out, source, '-lm'],
    { stdio: 'inherit' },
  );
  if (done.error === undefined && done.status === 0) return out;
  console.log(
    'not run: riscv64-linux-gnu-gcc is missing (apt-get install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross)',
  );
  return undefined;
}

async function ours(program: string, test: string): Promise<number> {
  const args = [FAULTLINE, 'run', 'tiny', '-q', '--add', `${program}:/bin/bench`, '--', '/bin/bench', test];
  const done = spawnSync(process.execPath, args, { encoding: 'utf8' });
  return rate(done.stdout, test);
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
