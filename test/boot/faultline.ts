import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The built command, as a user has it. */
const COMMAND = fileURLToPath(new URL('../../dist/bundle/main.js', import.meta.url));
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

export type Running = {
  /** Resolves when what was printed so far ends in, or holds, the pattern. */
  printed(pattern: RegExp): Promise<void>;
  type(text: string): void;
  /** The exit code; null if it had to be killed. */
  readonly code: Promise<number | null>;
};

/** `faultline` on pipes, to talk to. */
export function startFaultline(args: readonly string[]): Running {
  const child = spawn(process.execPath, [COMMAND, ...args], { stdio: ['pipe', 'pipe', 'ignore'] });
  const timer = setTimeout(() => child.kill('SIGKILL'), LIMIT_MS);
  let text = '';
  let look = (): void => {};
  child.stdout.on('data', (b: Buffer) => {
    // Of the whole text: a chunk may end inside the sequence.
    text = (text + b.toString()).replaceAll(ASK_CURSOR, '');
    look();
  });
  const code = new Promise<number | null>(resolve => {
    child.on('close', c => {
      clearTimeout(timer);
      resolve(c);
    });
  });
  return {
    code,
    type: typed => void child.stdin.write(typed),
    printed(pattern) {
      const seen = new Promise<void>(resolve => {
        look = () => {
          if (pattern.test(text)) resolve();
        };
        look();
      });
      const ended = code.then(() => {
        throw new Error(`ended before it printed ${pattern}: ${text.slice(-300)}`);
      });
      return Promise.race([seen, ended]);
    },
  };
}

/** What a shell sends to learn where the cursor is. */
const ASK_CURSOR = `${String.fromCharCode(27)}[6n`;
