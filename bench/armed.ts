// What it costs that memory could be reclaimed, though it never is: a guest with a limit that it does not reach and swap
// behind it, so that every notifier is armed, against one with neither. By processor time, as a few per cent of
// wall time are lost in what else the machine does.

import { withWork } from './guest-program.ts';
import { bar, median } from './lib.ts';
import { Peers } from './peers.ts';
import { compare, parseRounds } from './two-guests.ts';

const ARMED = ['--memory-limit', '512M', '--swap', 'zram:256M'];
/** Under three per cent slower. */
const RATE = { atLeast: 0.97, goal: 0.99 };

/** `npm run bench -- armed [--tests a,b] [--rounds N] [--seconds S]`. */
export async function run(args: string[]): Promise<boolean | undefined> {
  const options = parseRounds(args);
  return withWork(async work => {
    const peers = new Peers(work);
    const [armed, plain] = [await peers.faultline(ARMED, 'armed'), await peers.faultline([], 'plain')];
    try {
      if (armed === undefined || plain === undefined) return undefined;
      const pair = {
        what: 'armed to plain',
        side: { guest: armed, processes: 1 },
        other: { guest: plain, processes: 1 },
      };
      const ratios = await compare(pair, options, 'cpu');
      return bar('rate with notifiers armed', median(ratios), RATE);
    } finally {
      await armed?.stop();
      await plain?.stop();
    }
  });
}
