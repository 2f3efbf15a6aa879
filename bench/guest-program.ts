import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { FAULTLINE } from './lib.ts';

/** Compiles a program of bench/guest for the guest; undefined, with a line that says so, without the compiler. */
export function compileGuest(name: string, into: string): string | undefined {
  const out = join(into, name);
  const source = new URL(`./guest/${name}.c`, import.meta.url).pathname;
  const flags = ['-O2', '-static', '-fno-tree-vectorize'];
  const done = spawnSync('riscv64-linux-gnu-gcc', [...flags, '-o', out, source, '-lm'], { stdio: 'inherit' });
  if (done.error === undefined && done.status === 0) return out;
  console.log(
    'not run: riscv64-linux-gnu-gcc is missing (apt-get install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross)',
  );
  return undefined;
}

export type GuestRun = {
  exitCode: number | null;
  stdout: string;
  stderr: string;
  seconds: number;
  stats: Record<string, number & MemoryPart>;
};
type MemoryPart = { peakBytes: number; limitBytes: number };

/** Runs a command in `tiny` through the command line, with the program added, and reads the counters. */
export function runInGuest(flags: string[], program: string, command: string[]): GuestRun {
  const work = mkdtempSync(join(tmpdir(), 'faultline-'));
  const stats = join(work, 'stats.json');
  const start = performance.now();
  try {
    const add = ['--add', `${program}:${command[0]}`];
    const args = [FAULTLINE, 'run', '-q', '--stats', stats, ...flags, ...add, 'tiny', '--', ...command];
    const done = spawnSync(process.execPath, args, { encoding: 'utf8' });
    return {
      exitCode: done.status,
      stdout: done.stdout,
      stderr: done.stderr,
      seconds: (performance.now() - start) / 1000,
      stats: JSON.parse(readFileSync(stats, 'utf8')),
    };
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** A directory for the time of `use`. */
export async function withWork<T>(use: (directory: string) => T | Promise<T>): Promise<T> {
  const work = mkdtempSync(join(tmpdir(), 'faultline-'));
  try {
    return await use(work);
  } finally {
    rmSync(work, { recursive: true });
  }
}
