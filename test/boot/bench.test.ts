import { spawnSync } from 'node:child_process';
import { expect, test } from 'vitest';
import { ensureImage } from '../../src/image/images.ts';
import { faultline } from './faultline.ts';

/** Why nothing can be measured here, if so. */
async function missing(): Promise<string | undefined> {
  if (spawnSync('riscv64-linux-gnu-gcc', ['--version']).error !== undefined)
    return 'no riscv64-linux-gnu-gcc';
  try {
    (await ensureImage('tiny')).close();
  } catch (error) {
    return (error as Error).message;
  }
}

test('`faultline bench` measures every test in a guest, and says what the host is', async ({ skip }) => {
  const why = await missing();
  if (why !== undefined) skip(`not run: ${why}`);
  const { code, stdout, stderr } = await faultline(['bench', '-q', '--json', '--seconds', '0.05']);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const { host, bootSeconds, tests } = JSON.parse(stdout);
  expect(host).toMatchObject({ node: process.versions.node, sharedMemory: true });
  expect(bootSeconds).toBeGreaterThan(0);
  expect(tests.map((t: { name: string; guest: number }) => [t.name, t.guest > 0])).toEqual([
    ['intmix', true],
    ['mandel', true],
    ['wordsum', true],
    ['syscall', true],
    ['pgfault', true],
  ]);
}, 300_000);
