// What an idle guest at its prompt costs: CPU time of the whole process, all threads, as a share of one core.

import { spawn } from 'node:child_process';
import { FAULTLINE } from './lib.ts';
import { cpuSeconds } from './session.ts';

const SETTLE_MS = 8_000;
const WATCH_MS = 20_000;
const CEILING = 0.02;

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

export async function run(): Promise<boolean> {
  const child = spawn(process.execPath, [FAULTLINE, 'run', '-q', '--memory', '256M', 'tiny'], {
    stdio: ['pipe', 'ignore', 'inherit'],
  });
  try {
    await sleep(SETTLE_MS);
    const before = cpuSeconds(child.pid!);
    await sleep(WATCH_MS);
    const share = (cpuSeconds(child.pid!) - before) / (WATCH_MS / 1000);
    const met = share <= CEILING;
    console.log(
      `idle: ${(share * 100).toFixed(2)} % of a core, bar at most ${CEILING * 100} %: ${met ? 'met' : 'NOT MET'}`,
    );
    return met;
  } finally {
    child.kill('SIGKILL');
  }
}
