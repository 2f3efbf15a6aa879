import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { publishedGuests, publishStats, readStats } from './stats-socket.ts';

let work: string;
let directory: string;
beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'faultline-stats-'));
  directory = join(work, `faultline-${userInfo().uid}`);
  vi.stubEnv('XDG_RUNTIME_DIR', work);
});
afterEach(() => {
  vi.unstubAllEnvs();
  rmSync(work, { recursive: true });
});

/** Something that is not one of ours listens there. */
async function stranger(pid: number, answer: string): Promise<() => void> {
  mkdirSync(directory, { recursive: true });
  const server = createServer(socket => socket.end(answer));
  await new Promise<void>(resolve => server.listen(join(directory, `${pid}.sock`), resolve));
  return () => server.close();
}

test('what a guest offers is what a look returns, as it is at that moment', async () => {
  let looks = 0;
  const stop = publishStats(() => ({ residentBytes: 4096, looks: ++looks }));
  expect(publishedGuests()).toEqual([process.pid]);
  expect(await readStats(process.pid)).toEqual({ residentBytes: 4096, looks: 1 });
  expect(await readStats(process.pid)).toEqual({ residentBytes: 4096, looks: 2 });
  stop();
  expect(publishedGuests()).toEqual([]);
  expect(await readStats(process.pid)).toBe(undefined);
});

test('no guest has ever run: there is none, and that is no error', async () => {
  expect(publishedGuests()).toEqual([]);
  expect(await readStats(1)).toBe(undefined);
});

test('a socket that a killed guest left is passed over, and cleaned away', async () => {
  mkdirSync(directory);
  writeFileSync(join(directory, '77.sock'), '');
  writeFileSync(join(directory, 'README'), 'not a socket');
  expect(publishedGuests()).toEqual([77]);
  expect(await readStats(77)).toBe(undefined);
  expect(publishedGuests()).toEqual([]);
});

test('a guest that ends in the middle of an answer counts as gone', async () => {
  for (const answer of ['', '{"residentBytes": 40']) {
    const stop = await stranger(78, answer);
    expect(await readStats(78)).toBe(undefined);
    stop();
  }
});

test('figures that cannot be read do not bring the guest down', async () => {
  const stop = publishStats(() => {
    throw new Error('no figures');
  });
  expect(await readStats(process.pid)).toBe(undefined);
  stop();
});

test('a directory that cannot be made costs only the looking', () => {
  vi.stubEnv('XDG_RUNTIME_DIR', join(work, 'file'));
  writeFileSync(join(work, 'file'), '');
  publishStats(() => ({}))();
  expect(publishedGuests()).toEqual([]);
});
