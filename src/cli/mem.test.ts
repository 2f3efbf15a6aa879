import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { publishStats } from '../host/node/stats-socket.ts';
import { mem } from './mem.ts';

let work: string;
let written = '';

beforeEach(() => {
  work = mkdtempSync(join(tmpdir(), 'faultline-mem-'));
  vi.stubEnv('XDG_RUNTIME_DIR', work);
  written = '';
  vi.spyOn(process.stdout, 'write').mockImplementation(text => {
    written += text;
    return true;
  });
});
afterEach(() => {
  vi.restoreAllMocks();
  vi.unstubAllEnvs();
  rmSync(work, { recursive: true });
});

test('--json --once is all that the only guest publishes, on one line', async () => {
  const stat = { residentBytes: 4096, atMs: 1, cpu: { instret: 7, tlb_misses: 3 } };
  const stop = publishStats(() => stat);
  try {
    expect(await mem(undefined, { json: true, once: true })).toBe(0);
  } finally {
    stop();
  }
  expect(written).toBe(`${JSON.stringify(stat)}\n`);
});

test('where no guest runs, or not the one that was named, is an error with what to try', async () => {
  await expect(mem(undefined, {})).rejects.toMatchObject({
    code: 'E_USAGE',
    message: 'no guest is running',
    hint: 'faultline run -it tiny, in another terminal',
  });
  await expect(mem('77', {})).rejects.toMatchObject({ message: 'no guest runs as process 77' });
  expect(written).toBe('');
});
