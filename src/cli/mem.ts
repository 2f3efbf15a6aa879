import { FaultlineError } from '../base/error.ts';
import { publishedGuests, readStats } from '../host/node/stats-socket.ts';
import { type GuestStat, memHeader, memText } from './mem-text.ts';

const EVERY_MS = 1000;

/** `faultline mem`: two lines a second about a running guest: its memory, and its CPU. */
export async function mem(
  pid: string | undefined,
  flags: { json?: boolean; once?: boolean },
): Promise<number> {
  const guest = pid === undefined ? await onlyGuest() : Number(pid);
  let before = await look(guest);
  if (!flags.json) process.stdout.write(memHeader());
  for (let first = true; ; first = false) {
    if (!first) await new Promise(resolve => setTimeout(resolve, EVERY_MS));
    const now = first ? before : ((await readStats(guest)) as GuestStat | undefined);
    if (now === undefined) return 0;
    process.stdout.write(flags.json ? `${JSON.stringify(now)}\n` : memText(now, before));
    before = now;
    if (flags.once) return 0;
  }
}

async function onlyGuest(): Promise<number> {
  const alive: number[] = [];
  for (const pid of publishedGuests()) if ((await readStats(pid)) !== undefined) alive.push(pid);
  if (alive.length === 1) return alive[0]!;
  const hint =
    alive.length === 0
      ? 'faultline run -it tiny, in another terminal'
      : `faultline mem PID, one of ${alive.join(' ')}`;
  throw new FaultlineError(
    'E_USAGE',
    alive.length === 0 ? 'no guest is running' : 'several guests are running',
    { hint },
  );
}

async function look(pid: number): Promise<GuestStat> {
  const stat = (await readStats(pid)) as GuestStat | undefined;
  if (stat === undefined)
    throw new FaultlineError('E_USAGE', `no guest runs as process ${pid}`, {
      hint: 'faultline mem, without a number',
    });
  return stat;
}
