import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { StressBreaks } from './stress-host.ts';

const fromRoot = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/** The command as users have it: `sim` is below `sdk`, so it is driven from outside. */
const CLI = fromRoot('dist/bundle/main.js');
const FILL = fromRoot('bench/guest/fill.c');
const HAMMER = fromRoot('bench/guest/hammer.c');
const COMPILER = 'riscv64-linux-gnu-gcc';
const FLAGS = ['--memory', '256M', '--memory-limit', '64M'];
/** Twice what may be in frames: every page goes to swap, and comes back twice. */
const FILL_MIB = 120;
/**
 * Rules that can be switched off for the program's own pages, so that the guest's kernel lives to tell: hot KiB,
 * cold MiB, seconds, milliseconds of a burst on the hot part, MiB read between a page's read and write; and what else helps to lose a write.
 */
const HAMMERED: Readonly<Record<string, { shape: string[]; with: string[] }>> = {
  // Pages are read, then written: only the leaf's dirty bit tells.
  dropDirty: { shape: ['1024', '96', '20', '0'], with: [] },
  // Bursts long enough for the housekeeper to take what is in use.
  flushWithoutAck: { shape: ['3000', '96', '35', '20'], with: ['evictUsed'] },
  unmapWithoutNotify: { shape: ['3000', '96', '35', '20'], with: ['evictUsed'] },
  // Pages that were read long ago, and are clean, are written once.
  accessedBitOr: { shape: ['0', '96', '45', '0', '60'], with: ['evictUsed'] },
};
/** Boot, fill and two rounds take a good build some ten seconds; one that takes this long hangs. It is not cut off earlier. */
const HANGS_SECONDS = 75;
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
 * Writes and verifies memory in a running Debian whose RAM is taken away under it, until a write is lost or
 * the time is over. Needs the built command, the image and a compiler for the guest.
 */
export async function stressGuest({ seconds, seed, breaks }: GuestStress): Promise<GuestVerdict> {
  const rules = ruleNames(breaks);
  if (rules === undefined) return { kind: 'not run', detail: 'this rule is of the test, not of the product' };
  if (!existsSync(CLI)) return { kind: 'not run', detail: 'the command is not built (npm run build)' };
  const work = mkdtempSync(join(tmpdir(), 'faultline-stress-'));
  try {
    const hammered = HAMMERED[rules.find(rule => rule in HAMMERED) ?? ''];
    const program = compile(hammered === undefined ? FILL : HAMMER, work);
    if (program === undefined) {
      const packages = 'apt-get install gcc-riscv64-linux-gnu libc6-dev-riscv64-cross';
      return { kind: 'not run', detail: `${COMPILER} is missing (${packages})` };
    }
    const run =
      hammered === undefined
        ? fillRun(program, rules)
        : hammerRun(program, [...rules, ...hammered.with], hammered.shape, work);
    return await untilLost(run, seconds, seed);
  } finally {
    rmSync(work, { recursive: true });
  }
}

/** The command line of a run with a seed. */
type Run = (seed: number) => string[];

const switchedOff = (rules: readonly string[]): string[] => rules.flatMap(rule => ['--break', rule]);

const fillRun =
  (program: string, rules: readonly string[]): Run =>
  seed => [
    ...[...FLAGS, '--swap', 'zram:256M', ...switchedOff(rules), '--add', `${program}:/bin/fill`],
    ...['tiny', '--', 'fill', `${FILL_MIB}`, `${seed}`],
  ];

/** Swap is a file: zram's pool takes frames, and what is written to one that was freed would spoil it. */
const hammerRun =
  (program: string, rules: readonly string[], shape: readonly string[], work: string): Run =>
  () => [
    ...[...FLAGS, '--swap', `file:${join(work, 'swap')}`, ...switchedOff([...rules, 'onlyMarked'])],
    ...['--add', `${program}:/bin/hammer`, 'tiny', '--', 'hammer', ...shape],
  ];

/** Run after run, as long as one more fits into the time. */
async function untilLost(run: Run, seconds: number, seed: number): Promise<GuestVerdict> {
  const start = performance.now();
  for (let runs = 1; ; runs++) {
    const verdict = await runGuest(run(seed + runs - 1));
    const spent = (performance.now() - start) / 1000;
    const done = verdict.kind !== 'right' || spent * (1 + 1 / runs) > seconds;
    if (done) return { ...verdict, detail: `run ${runs}, after ${spent.toFixed(0)} s: ${verdict.detail}` };
  }
}

function compile(source: string, work: string): string | undefined {
  const out = join(work, 'program');
  const done = spawnSync(COMPILER, ['-O2', '-static', '-fno-tree-vectorize', '-o', out, source], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  return done.status === 0 ? out : undefined;
}

function runGuest(args: string[]): Promise<GuestVerdict> {
  return new Promise(resolve => {
    const child = spawn(process.execPath, [CLI, 'run', '-q', ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
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
  const answer = /(?:fill|hammer): .* (\d+) wrong words/.exec(text);
  if (answer === null) {
    const words = text.trim().replace(/\s+/g, ' ').slice(-LAST_WORDS);
    return { kind: 'dead', detail: `the guest went down (exit ${code}): ${words}` };
  }
  return { kind: answer[1] === '0' ? 'right' : 'wrong', detail: answer[0] };
}
