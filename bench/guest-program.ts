import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { atInterrupt } from './interrupt.ts';
import { FAULTLINE } from './lib.ts';

type Architecture = 'riscv64' | 'i386' | 'native';

const COMPILERS: Record<Architecture, { compiler: string; flags: string[]; packages: string }> = {
  riscv64: {
    compiler: 'riscv64-linux-gnu-gcc',
    flags: [],
    packages: 'gcc-riscv64-linux-gnu libc6-dev-riscv64-cross',
  },
  // As Debian builds for i386: x87 for floating point, no SSE.
  i386: {
    compiler: 'i686-linux-gnu-gcc',
    flags: ['-march=i686'],
    packages: 'gcc-i686-linux-gnu libc6-dev-i386-cross',
  },
  native: { compiler: 'gcc', flags: [], packages: 'gcc libc6-dev' },
};

/** Compiles a program of bench/guest, static; undefined, with a line that says so, without the compiler. */
export function compileProgram(name: string, architecture: Architecture, into: string): string | undefined {
  const { compiler, flags, packages } = COMPILERS[architecture];
  const out = join(into, `${name}-${architecture}`);
  const source = fileURLToPath(new URL(`./guest/${name}.c`, import.meta.url));
  const all = ['-O2', '-static', '-fno-tree-vectorize', ...flags, '-o', out, source, '-lm'];
  const done = spawnSync(compiler, all, { stdio: 'inherit' });
  if (done.error === undefined && done.status === 0) return out;
  console.log(`not run: ${compiler} is missing or fails (apt-get install ${packages})`);
  return undefined;
}

/** For the guest. */
export const compileGuest = (name: string, into: string): string | undefined =>
  compileProgram(name, 'riscv64', into);

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
  const remove = () => rmSync(work, { recursive: true, force: true });
  const forget = atInterrupt(remove);
  try {
    return await use(work);
  } finally {
    forget();
    remove();
  }
}
