import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureImage } from '../image/images.ts';
import { Host } from './host.ts';
import { Sandbox } from './sandbox.ts';

// A stock Debian guest that is stopped in the middle of its work. Skipped, and says so, where its image can't be built.

let missing: string | undefined;
const open: Host[] = [];

beforeAll(async () => {
  try {
    (await ensureImage('tiny')).close();
  } catch (error) {
    missing = String((error as Error).message);
    console.warn(`not run: the guest image can't be built here: ${missing}`);
  }
}, 600_000);

afterAll(async () => {
  for (const host of open) await host.close();
});

const sleep = (ms: number): Promise<void> => new Promise(resolve => setTimeout(resolve, ms));

/** Instructions that each hart of the Host's guests has retired. */
function retired({ machineHost: host }: Host): number[] {
  const counts: number[] = [];
  host.vms.forEach(vm => {
    for (const vcpu of host.vcpus(vm)) counts.push(host.cpu.instret(vcpu));
  });
  return counts;
}

async function until(holds: () => boolean): Promise<void> {
  for (let i = 0; i < 3000 && !holds(); i++) await sleep(10);
  expect(holds()).toBe(true);
}

/** Two loops that count, one a hart, and then what they came to. */
const count = (to: number): string =>
  `for n in 1 2; do (i=0; while [ $i -lt ${to} ]; do i=$((i+1)); done; echo $i) & done; wait`;

describe.each([
  ['on workers', {}],
  ['on one thread', { runners: 0 }],
])('a guest with two harts %s', (_name, mode) => {
  const start = async (): Promise<{ host: Host; vm: Sandbox }> => {
    const host = await Host.create({ memory: '256M', ...mode });
    open.push(host);
    return { host, vm: await Sandbox.create('tiny', { host, memory: '128M', cpus: 2 }) };
  };

  test('retires nothing while paused, has its memory reclaimed, and goes on to the right answer', async ({
    skip,
  }) => {
    if (missing) skip();
    const { host, vm } = await start();
    const boot = retired(host);
    const done = vm.commands.run(count(60_000));
    await until(() => retired(host).every((n, hart) => n > boot[hart]! + 1e6));
    for (let i = 0; i < 3; i++) {
      await vm.pause();
      const before = retired(host);
      const taken = await vm.memory.reclaim('4M');
      expect(taken).toBeGreaterThan(0);
      await sleep(50);
      expect(retired(host)).toEqual(before);
      await vm.resume();
      await until(() => retired(host).every((n, hart) => n > before[hart]!));
    }
    expect((await done).stdout).toBe('60000\n60000\n');
    await vm.kill();
    host.machineHost.mm.checkInvariants();
  });

  test('keeps what it is sent while paused, and does not count that time', async ({ skip }) => {
    if (missing) skip();
    const { host, vm } = await start();
    const uptime = async () => Number((await vm.commands.run('cat /proc/uptime')).stdout.split(' ')[0]);
    await vm.pause();
    await vm.pause();
    const first = uptime();
    const before = retired(host);
    await sleep(50);
    expect(retired(host)).toEqual(before);
    const begun = performance.now();
    await vm.resume();
    await vm.resume();
    const from = await first;
    await vm.pause();
    const stopped = performance.now();
    await sleep(3000);
    const away = performance.now() - stopped;
    await vm.resume();
    const passed = (await uptime()) - from;
    // However slow this host is: the first reading came after `begun`. Uptime is in centiseconds.
    expect(passed).toBeLessThan((performance.now() - begun - away) / 1000 + 0.02);
    await vm.kill();
  });

  test('is killed, or shut down, while paused; then it can be neither paused nor resumed', async ({
    skip,
  }) => {
    if (missing) skip();
    const { host, vm } = await start();
    await vm.pause();
    await vm.kill();
    await expect(vm.pause()).rejects.toMatchObject({ code: 'E_AGENT' });
    await expect(vm.resume()).rejects.toMatchObject({ code: 'E_AGENT' });
    const other = await Sandbox.create('tiny', { host, memory: '128M' });
    await other.pause();
    await other.shutdown();
    expect(await other.ended).toEqual({ kind: 'shutdown' });
    const left = host.machineHost;
    left.mm.lru.drainAll();
    expect(left.sync.arena.frames - left.mm.pageAlloc.freeFrames).toBeLessThan(64);
  });
});

test('a guest that waits for a page from a handler is paused, and goes on when it has come', async ({
  skip,
}) => {
  if (missing) skip();
  let asked = 0;
  let hold: Promise<void> | undefined;
  const host = await Host.create({ memory: '256M' });
  open.push(host);
  const vm = await Sandbox.create('tiny', {
    host,
    memory: '128M',
    cpus: 2,
    userfault: async (fault, uffd) => {
      asked++;
      await hold;
      uffd.copy(fault.address, fault.initial);
    },
  });
  let letGo = (): void => {};
  hold = new Promise(resolve => {
    letGo = resolve;
  });
  const before = asked;
  const done = vm.commands.run('dd if=/dev/zero of=/tmp/x bs=1M count=8 2>/dev/null; wc -c < /tmp/x');
  await until(() => asked > before);
  await vm.pause();
  const counts = retired(host);
  hold = undefined;
  letGo();
  await sleep(50);
  expect(retired(host)).toEqual(counts);
  await vm.resume();
  expect((await done).stdout).toBe('8388608\n');
  await vm.kill();
});
