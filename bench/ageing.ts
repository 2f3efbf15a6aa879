// Accessed bits are set when a TLB is filled, so the hottest pages, which never miss, would look oldest. Each ageing
// pass ends with a flush of every vCPU's TLB; this counts the refaults with it and without. The hot part fits the
// TLB, and is half of what the limit allows: as much as reclaim can keep when it sees that it is used.

import { compileGuest, type GuestRun, runInGuest, withWork } from './guest-program.ts';
import { median } from './lib.ts';

const ROUNDS = 5;
const FLAGS = ['--memory', '256M', '--memory-limit', '8M', '--swap', 'zram:256M'];
const COMMAND = ['/bin/hotcold', '3840', '32', '600'];

export async function run(): Promise<boolean | undefined> {
  return withWork(work => {
    const program = compileGuest('hotcold', work);
    if (program === undefined) return undefined;
    const refaults = { with: [] as number[], without: [] as number[] };
    for (let i = 0; i < ROUNDS; i++) {
      refaults.with.push(perMillion(runInGuest(FLAGS, program, COMMAND)));
      refaults.without.push(perMillion(runInGuest([...FLAGS, '--break', 'noAgeingBump'], program, COMMAND)));
      console.log(
        `  pair ${i + 1}: refaults per million touches: with ${refaults.with.at(-1)}, without ${refaults.without.at(-1)}`,
      );
    }
    const met = median(refaults.with) < median(refaults.without);
    console.log(
      `ageing: median ${median(refaults.with)} with the bump, ${median(refaults.without)} without: ${met ? 'met' : 'NOT MET'}`,
    );
    return met;
  });
}

/** Pages that came back from swap, for each million of the guest's touches. */
function perMillion(r: GuestRun): number {
  const touches = Number(/hotcold: (\d+) touches/.exec(r.stdout)?.[1]);
  if (r.exitCode !== 0 || !(touches > 0)) throw new Error(`hotcold failed: ${r.stdout}${r.stderr}`);
  return Math.round((r.stats.pswpin! / touches) * 1e6);
}
