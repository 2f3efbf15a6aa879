import { spawn } from 'node:child_process';
import { loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';

/** The built command, as a user has it. */
export const FAULTLINE = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] as number;
}

export const load = (): string =>
  loadavg()
    .map(l => l.toFixed(2))
    .join(' ');

export type Pair = { ours: number; theirs: number };

/** Measures both sides in turn, so that what else the machine does hits them alike. */
export async function pairs(
  count: number,
  ours: () => Promise<number>,
  theirs: () => Promise<number>,
): Promise<Pair[]> {
  const all: Pair[] = [];
  for (let i = 0; i < count; i++) {
    const pair = { ours: await ours(), theirs: await theirs() };
    all.push(pair);
    console.log(
      `  pair ${i + 1}: ours ${pair.ours.toFixed(3)}  theirs ${pair.theirs.toFixed(3)}  ratio ${(pair.ours / pair.theirs).toFixed(3)}  load ${load()}`,
    );
  }
  return all;
}

/** The median ratio of the pairs against a floor or ceiling; prints and returns whether it is met. */
export function verdict(
  name: string,
  all: readonly Pair[],
  bar: { atMost?: number; atLeast?: number },
): boolean {
  const ratio = median(all.map(p => p.ours / p.theirs));
  const met =
    (bar.atMost === undefined || ratio <= bar.atMost) && (bar.atLeast === undefined || ratio >= bar.atLeast);
  const limit = bar.atMost === undefined ? `at least ${bar.atLeast}` : `at most ${bar.atMost}`;
  console.log(`${name}: median ratio ${ratio.toFixed(3)}, bar ${limit}: ${met ? 'met' : 'NOT MET'}`);
  return met;
}

export type Session = {
  /** Resolves when `pattern` has been printed, with the seconds since the start; rejects at the end or limit. */
  until(pattern: RegExp, limitSeconds: number): Promise<number>;
  type(text: string): void;
  /** All that was printed. */
  readonly text: string;
  stop(): Promise<void>;
};

/** What busybox's shell sends to learn where the cursor is. */
const ASK_CURSOR = `${String.fromCharCode(27)}[6n`;
/** A root shell's prompt is the last that was printed. */
export const PROMPT = /\n[^\n]*# $/;

/** A program on pipes, watched for what it prints. */
export function session(command: string, args: readonly string[]): Session {
  const start = performance.now();
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  let text = '';
  let check: (() => void) | undefined;
  let over: string | undefined;
  child.stdout.on('data', (bytes: Buffer) => {
    text += bytes.toString('latin1').replaceAll(ASK_CURSOR, '');
    check?.();
  });
  child.on('error', error => {
    over = error.message;
    check?.();
  });
  child.on('exit', code => {
    over ??= `${command} ended with ${code}`;
    check?.();
  });
  return {
    get text() {
      return text;
    },
    type: line => void child.stdin.write(line),
    until(pattern, limitSeconds) {
      return new Promise((resolve, reject) => {
        const timer = setTimeout(
          () => reject(new Error(`no ${pattern} within ${limitSeconds} s; last: ${text.slice(-300)}`)),
          limitSeconds * 1000,
        );
        check = () => {
          if (!pattern.test(text) && over === undefined) return;
          clearTimeout(timer);
          check = undefined;
          if (pattern.test(text)) resolve((performance.now() - start) / 1000);
          else reject(new Error(`${over}; last: ${text.slice(-300)}`));
        };
        check();
      });
    },
    stop() {
      return new Promise(resolve => {
        if (child.exitCode !== null || child.signalCode !== null) resolve();
        child.on('exit', () => resolve());
        child.kill('SIGKILL');
      });
    },
  };
}

/** QEMU's system emulator for the same guest, or undefined with a line that says so. */
export async function qemuVersion(): Promise<string | undefined> {
  return new Promise(resolve => {
    const child = spawn('qemu-system-riscv64', ['--version'], { stdio: ['ignore', 'pipe', 'ignore'] });
    let text = '';
    child.stdout.on('data', (b: Buffer) => {
      text += b.toString();
    });
    child.on('error', () => {
      console.log('not run: qemu-system-riscv64 is missing (apt-get install qemu-system-misc)');
      resolve(undefined);
    });
    child.on('exit', () => resolve(text.split('\n')[0]));
  });
}
