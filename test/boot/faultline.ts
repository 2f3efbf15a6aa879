import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The built command, as a user has it. */
const COMMAND = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const LIMIT_MS = 240_000;

export type Outcome = {
  code: number | null;
  stdout: string;
  stderr: string;
  stats?: Record<string, unknown>;
};

/** Runs `faultline` to its end, or kills it after four minutes. */
export function faultline(args: readonly string[], input = ''): Promise<Outcome> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [COMMAND, ...args], { stdio: 'pipe' });
    const text = { stdout: '', stderr: '' };
    const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
    child.stdout.on('data', (b: Buffer) => {
      text.stdout += b.toString();
    });
    child.stderr.on('data', (b: Buffer) => {
      text.stderr += b.toString();
    });
    child.on('error', reject);
    child.on('close', code => {
      clearTimeout(timer);
      resolve({ code, ...text });
    });
    child.stdin.on('error', () => {});
    child.stdin.end(input);
  });
}

/** As `faultline run -q ARGS`, with the counters at exit. */
export async function run(
  args: readonly string[],
  input = '',
): Promise<Outcome & { stats: Record<string, never> }> {
  const work = mkdtempSync(join(tmpdir(), 'faultline-test-'));
  const stats = join(work, 'stats.json');
  try {
    const outcome = await faultline(['run', '-q', '--stats', stats, ...args], input);
    return { ...outcome, stats: JSON.parse(readFileSync(stats, 'utf8')) };
  } finally {
    rmSync(work, { recursive: true });
  }
}
