// What a second hart is worth: bench.c twice at once in a guest of two harts, against once in a guest of one.

import { spawnSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import type { BenchGuest } from './bench-guest.ts';
import { withWork } from './guest-program.ts';
import { bar, FAULTLINE, median } from './lib.ts';
import { Peers } from './peers.ts';
import { comparePairs, type Pair, parseRounds } from './two-guests.ts';

const MEDIAN = { atLeast: 1.7, goal: 1.9 };
const BEST = { atLeast: 1.8 };
/**
 * Of both guests. Below 512 MiB Linux has no huge pages (hugepage_init). What a buffer of 16 MiB is worth then depends
 * on whether its pages ascend or descend in memory, by a factor of two; two processes at once get a mixture.
 */
const MEMORY = ['--memory', '1G'];

/** `npm run bench -- smp [--tests a,b] [--rounds N] [--seconds S]`. */
export async function run(args: string[]): Promise<boolean | undefined> {
  const options = parseRounds(args);
  if (availableParallelism() < 2) return notRun('this machine has one core');
  const refused = refusal();
  if (refused !== undefined) return notRun(refused);
  return withWork(async work => {
    const peers = new Peers(work);
    const one = await peers.faultline(MEMORY, 'one hart', 'own');
    const two = await peers.faultline([...MEMORY, '--cpus', '2'], 'two harts', 'own');
    const native = await peers.start('native');
    try {
      if (one === undefined || two === undefined) return undefined;
      const pairs = [
        { what: 'ours', side: { guest: two, processes: 2 }, other: { guest: one, processes: 1 } },
      ];
      // What this machine gives two programs at once that share nothing: no guest can have more.
      if (native !== undefined) pairs.push(pairOf('native', native));
      const ratios = (await comparePairs(pairs, options, 'wall'))[0]!;
      const met = bar('two harts against one, median', median(ratios), MEDIAN);
      return bar('two harts against one, best', Math.max(...ratios), BEST) && met;
    } finally {
      await native?.stop();
      await one?.stop();
      await two?.stop();
    }
  });
}

const pairOf = (what: string, guest: BenchGuest): Pair => ({
  what,
  side: { guest, processes: 2 },
  other: { guest, processes: 1 },
});

function notRun(why: string): undefined {
  console.log(`not run: ${why}`);
}

/** Why the command line won't have two harts, if so. */
function refusal(): string | undefined {
  const args = [FAULTLINE, 'run', '-q', '--cpus', '2', 'tiny', '--', 'nproc'];
  const done = spawnSync(process.execPath, args, { encoding: 'utf8' });
  if (done.status === 0 && done.stdout.trim() === '2') return undefined;
  return done.status === 0 ? `nproc says ${done.stdout.trim()}` : done.stderr.trim().split('\n')[0]!;
}
