import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StressBreaks } from './stress-host.ts';

const fromRoot = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** The command as users have it: `sim` is below `sdk`, so it is driven from outside. */
const CLI = fromRoot('dist/cli/main.js');
const SOURCE = fromRoot('bench/guest/fill.c');
const COMPILER = 'riscv64-linux-gnu-gcc';
/** Twice what may be in frames: every page goes to swap, and comes back twice. */
const FLAGS = ['--memory', '256M', '--memory-limit', '64M', '--swap', 'zram:256M'];
const FILL_MIB = 120;
/** Boot, fill and two rounds take a good build some ten seconds; one that takes this long hangs. It is not cut off earlier. */
const HANGS_SECONDS = 45;
/** The guest's last words, when it did not come to an answer. */
const LAST_WORDS = 160;

/** `wrong` and `dead` are losses: words that differ, and a guest that crashed or hung because of it. */
export type GuestVerdict = { kind: 'right' | 'wrong' | 'dead' | 'not run'; detail: string };
export type GuestStress = { seconds: number; seed: number; breaks: StressBreaks };

/** Names of the rules to switch off, as the command line takes them; undefined if it can't take one. */
function ruleNames({ mm, kvm, noRetranslate }: StressBreaks): string[] | undefined {
  return noRetranslate ? undefined : [...Object.keys(mm), ...Object.keys(kvm)];
}

/**
 * Fills and verifies memory in a running Debian whose RAM is taken away under it, with other seeds until
 * a write is lost or the time is over. Needs the built command, the image and a compiler for the guest.
 */
export async function stressGuest({ seconds, seed, breaks }: GuestStress): Promise<GuestVerdict> {
  const rules = ruleNames(breaks);
  if (rules === undefined) return { kind: 'not run', detail: 'this rule is of the test, not of the product' };
  if (!existsSync(CLI)) return { kind: 'not run', detail: 'the command is not built (npm run build)' };
  const work = mkdtempSync(join(tmpdir(), 'faultline-stress-'));
  try {
    const fill = compileFill(work);
    if (fill === undefined) {
      const packages = 'apt-get install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross';
      return { kind: 'not run', detail: `${COMPILER} is missing (${packages})` };
    }
    return await untilLost(fill, rules, seconds, seed);
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** Run after run, as long as one more fits into the time. */
async function untilLost(
  fill: string,
  rules: string[],
  seconds: number,
  seed: number,
): Promise<GuestVerdict> {
  const start = performance.now();
  for (let runs = 1; ; runs++) {
    const verdict = await runFill(fill, rules, seed + runs - 1);
    const spent = (performance.now() - start) / 1000;
    const done = verdict.kind !== 'right' || spent * (1 + 1 / runs) > seconds;
    if (done) return { ...verdict, detail: `run ${runs}, after ${spent.toFixed(0)} s: ${verdict.detail}` };
  }
}

function compileFill(work: string): string | undefined {
  const out = join(work, 'fill');
  const done = spawnSync(COMPILER, ['-O2', '-static', '-fno-tree-vectorize', '-o', out, SOURCE], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return done.status === 0 ? out : undefined;
}

function runFill(fill: string, rules: string[], seed: number): Promise<GuestVerdict> {
  const args = ['run', '-q', ...FLAGS, ...rules.flatMap(rule => ['--break', rule])];
  args.push('--add', `${fill}:/bin/fill`, 'tiny', '--', 'fill', `${FILL_MIB}`, `${seed}`);
  return new Promise(resolve => {
    const child = spawn(process.execPath, [CLI, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
    let text = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', chunk => (text += chunk));
    let hung = false;
    const timer = setTimeout(() => {
      hung = true;
      child.kill('SIGKILL');
    }, HANGS_SECONDS * 1000);
    child.on('close', code => {
      clearTimeout(timer);
      resolve(hung ? { kind: 'dead', detail: `no answer for ${HANGS_SECONDS} s` } : judge(code, text));
    });
  });
}

function judge(code: number | null, text: string): GuestVerdict {
  const answer = /fill: .* (\d+) wrong words/.exec(text);
  if (answer === null) {
    const words = text.trim().replace(/\s+/g, ' ').slice(-LAST_WORDS);
    return { kind: 'dead', detail: `the guest went down (exit ${code}): ${words}` };
  }
  return { kind: answer[1] === '0' ? 'right' : 'wrong', detail: answer[0] };
}
