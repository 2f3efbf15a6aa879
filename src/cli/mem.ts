import { FaultlineError } from '../base/error.ts';
import { formatSize } from '../base/size.ts';
import { publishedGuests, readStats } from '../host/node/stats-socket.ts';
import type { GuestMemoryStat } from '../sdk/memory.ts';

const EVERY_MS = 1000;

/** `faultline mem`: a line a second about a running guest's memory. */
export async function mem(
  pid: string | undefined,
  flags: { json?: boolean; once?: boolean },
): Promise<number> {
  const guest = pid === undefined ? await onlyGuest() : Number(pid);
  let before = await look(guest);
  if (!flags.json) process.stdout.write(`${HEADER}\n`);
  for (let first = true; ; first = false) {
    if (!first) await new Promise(resolve => setTimeout(resolve, EVERY_MS));
    const now = first ? before : ((await readStats(guest)) as GuestMemoryStat | undefined);
    if (now === undefined) return 0;
    process.stdout.write(`${flags.json ? JSON.stringify(now) : line(now, before)}\n`);
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

async function look(pid: number): Promise<GuestMemoryStat> {
  const stat = (await readStats(pid)) as GuestMemoryStat | undefined;
  if (stat === undefined)
    throw new FaultlineError('E_USAGE', `no guest runs as process ${pid}`, {
      hint: 'faultline mem, without a number',
    });
  return stat;
}

const COLUMNS = [
  'resident',
  'limit',
  'young',
  'old',
  'swapped',
  'zero',
  'huge',
  'merged',
  'balloon',
  'psi %',
  'faults/s',
  'asked/s',
  'major/s',
  'in/s',
  'out/s',
] as const;
const HEADER = COLUMNS.map(name => name.padStart(9)).join('');

function line(now: GuestMemoryStat, before: GuestMemoryStat): string {
  const seconds = Math.max(0.001, (now.atMs - before.atMs) / 1000);
  const rate = (key: 'pgfault' | 'userfaults' | 'pgmajfault' | 'pswpin' | 'pswpout') =>
    now.atMs === before.atMs ? '-' : String(Math.round((now[key] - before[key]) / seconds));
  const limit = now.limitBytes === undefined ? 'none' : formatSize(now.limitBytes);
  return [
    formatSize(now.residentBytes),
    limit,
    formatSize(now.youngBytes),
    formatSize(now.oldBytes),
    formatSize(now.swappedBytes),
    formatSize(now.zeroBytes),
    formatSize(now.anonHugeBytes),
    formatSize(now.mergedBytes),
    formatSize(now.balloonBytes),
    now.pressureSome.toFixed(1),
    rate('pgfault'),
    rate('userfaults'),
    rate('pgmajfault'),
    rate('pswpin'),
    rate('pswpout'),
  ]
    .map(text => text.padStart(9))
    .join('');
}
