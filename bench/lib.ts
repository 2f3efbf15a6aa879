import { spawn } from 'node:child_process';
import { loadavg } from 'node:os';
import { fileURLToPath } from 'node:url';

/** The built command, as a user has it. */
export const FAULTLINE = fileURLToPath(new URL('../dist/bundle/main.js', import.meta.url));

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] as number;
}

/** Infinite or NaN where a value is. */
export const geometricMean = (values: readonly number[]): number =>
  Math.exp(values.reduce((sum, v) => sum + Math.log(v), 0) / values.length);

/** Says whether a figure keeps to its bar, and returns it. */
export function bar(
  name: string,
  value: number,
  { atMost, atLeast, goal, unit = 'x' }: { atMost?: number; atLeast?: number; goal?: number; unit?: string },
): boolean {
  const met = (atMost === undefined || value <= atMost) && (atLeast === undefined || value >= atLeast);
  const limit = atMost === undefined ? `at least ${atLeast}` : `at most ${atMost}`;
  const further = goal === undefined ? '' : ` (goal ${goal})`;
  console.log(`  ${name}: ${value.toFixed(3)} ${unit}, bar ${limit}${further}: ${met ? 'met' : 'NOT MET'}`);
  return met;
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
