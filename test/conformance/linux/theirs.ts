import { spawn } from 'node:child_process';
import { formatScript, type Script } from './script.ts';

// Scripts on this machine's kernel.

/** What driver.c says last of a script during which there was no huge page to be had. */
export const NO_HUGE_PAGE = 'no huge page';
const TRIES = 4;

/**
 * Runs scripts on the kernel; outcomes in their order. One during which it had no huge page to give, to whomever, is
 * run again a few times; undefined: it never had.
 */
export async function runTheirs(
  program: string,
  scripts: readonly Script[],
): Promise<(string[] | undefined)[]> {
  const found: (string[] | undefined)[] = await runOnce(program, scripts);
  for (let tries = 1; tries <= TRIES; tries++) {
    const starved = [...found.keys()].filter(i => found[i]?.at(-1) === NO_HUGE_PAGE);
    if (starved.length === 0) break;
    const again =
      tries < TRIES
        ? await runOnce(
            program,
            starved.map(i => scripts[i]!),
          )
        : [];
    for (const [at, i] of starved.entries()) found[i] = again[at];
  }
  return found;
}

async function runOnce(program: string, scripts: readonly Script[]): Promise<string[][]> {
  const child = spawn(program, { stdio: ['pipe', 'pipe', 'inherit'] });
  const chunks: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
  const closed = new Promise(resolve => child.on('close', resolve));
  child.stdin.end(scripts.map(script => `${formatScript(script)}\n`).join(''));
  await closed;
  const lines = Buffer.concat(chunks).toString().split('\n');
  return scripts.map((_, i) => (lines[i] ?? '').split(';').slice(0, -1).map(expanded));
}

/** driver.c tells pages that say the same once, with how many there are. */
export const expanded = (outcome: string): string =>
  outcome.replaceAll(/ ([\w,]+)\*(\d+)/g, (_, page, count) => ` ${page}`.repeat(count));

/** As driver.c tells it, for people. */
export const compact = (outcome: string): string =>
  outcome.replaceAll(
    / ([\w,]+)(?: \1(?![\w,]))+/g,
    (run, page) => ` ${page}*${run.length / (page.length + 1)}`,
  );
