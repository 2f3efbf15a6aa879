import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureImage } from '../image/images.ts';
import { Host } from './host.ts';
import { Sandbox } from './sandbox.ts';

// Several stock Debian guests in one arena. Where the image can't be built these are skipped, and say so.

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

async function create(options: Parameters<typeof Host.create>[0]): Promise<Host> {
  const host = await Host.create(options);
  open.push(host);
  return host;
}

/** Frames and words of the heap that are in use. */
function usage(host: Host): { frames: number; heap: number } {
  const { mm, sync } = host.machineHost;
  mm.lru.drainAll();
  return { frames: sync.arena.frames - mm.pageAlloc.freeFrames, heap: mm.heap.used };
}

const hello = (vm: Sandbox): Promise<string> =>
  vm.commands.run('echo $((6*7)); uname -m').then(r => r.stdout);

describe.each([
  ['on workers', {}],
  ['on one thread', { runners: 0 }],
])('two guests in one Host %s', (_name, mode) => {
  test('both run, and one that goes gives its frames back while the other works on', async ({ skip }) => {
    if (missing) skip();
    const host = await create({ memory: '512M', ...mode });
    const options = { host, memory: '128M' };
    const [a, b] = await Promise.all([Sandbox.create('tiny', options), Sandbox.create('tiny', options)]);
    expect(await Promise.all([hello(a), hello(b)])).toEqual(['42\nriscv64\n', '42\nriscv64\n']);
    const stat = host.stat();
    expect(stat).toMatchObject({ guests: 2, memoryBytes: 512 * 2 ** 20 });
    expect(a.memory.stat().residentBytes + b.memory.stat().residentBytes).toBeLessThanOrEqual(
      stat.memoryBytes - stat.freeBytes,
    );
    const [working] = await Promise.all([
      b.commands.run('i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo $i'),
      a.kill(),
    ]);
    expect(working.stdout).toBe('20000\n');
    expect(a.memory.stat()).toMatchObject({ residentBytes: 0, swappedBytes: 0 });
    expect(host.stat().guests).toBe(1);
    expect(await hello(b)).toBe('42\nriscv64\n');
    await b.kill();
    // What is left is what a Host has before its first guest, and rows that count for threads.
    const { frames } = usage(host);
    expect(frames).toBeLessThan(64);
    host.machineHost.mm.checkInvariants();
  });

  test('guests that come and go leave the same behind, however many', async ({ skip }) => {
    if (missing) skip();
    const host = await create({ memory: '256M', ...mode });
    const round = async () => {
      const vm = await Sandbox.create('tiny', { host, memory: '128M' });
      await vm.kill();
      return usage(host);
    };
    const first = await round();
    const second = await round();
    expect(second.frames).toBe(first.frames);
    // Each thread leaves a row of counters and its scratch for compression.
    expect(second.heap - first.heap).toBeLessThan(4096);
  });
});

test('two guests with more memory together than there are frames swap, and stay right', async ({ skip }) => {
  if (missing) skip();
  const host = await create({ memory: '104M', swap: 'zram:512M' });
  const options = { host, memory: '128M' };
  const [a, b] = await Promise.all([Sandbox.create('tiny', options), Sandbox.create('tiny', options)]);
  const work =
    'dd if=/dev/urandom of=/tmp/x bs=1M count=24 2>&1 | tail -1 >&2; md5sum < /tmp/x; md5sum < /tmp/x';
  const sums = await Promise.all([a.commands.run(work), b.commands.run(work)]);
  for (const { stdout } of sums) {
    const [one, two] = stdout.trim().split('\n');
    expect(one).toBe(two);
  }
  expect(host.vmstat().pswpout).toBeGreaterThan(1000);
  await host.close();
  await expect(a.commands.run('true')).rejects.toMatchObject({ code: 'E_AGENT' });
  await expect(Sandbox.create('tiny', options)).rejects.toMatchObject({ code: 'E_USAGE' });
});

test('O-6 what a guest frees or gives to its balloon goes back to the Host', async ({ skip }) => {
  if (missing) skip();
  const host = await create({ memory: '512M', swap: 'none' });
  const vm = await Sandbox.create('tiny', { host, memory: '192M' });
  const until = async (holds: () => boolean) => {
    for (let i = 0; i < 300 && !holds(); i++) await new Promise(resolve => setTimeout(resolve, 100));
    expect(holds()).toBe(true);
  };
  await vm.commands.run('dd if=/dev/zero of=/tmp/x bs=1M count=60');
  const touched = vm.memory.stat().residentBytes;
  const free = host.stat().freeBytes;
  await vm.commands.run('rm /tmp/x');
  await until(() => vm.memory.stat().residentBytes < touched - 50 * 2 ** 20);
  expect(host.stat().freeBytes).toBeGreaterThan(free + 50 * 2 ** 20);
  vm.memory.setBalloon('32M');
  await until(() => vm.memory.stat().balloonBytes === 32 * 2 ** 20);
  vm.memory.setBalloon(0);
  await until(() => vm.memory.stat().balloonBytes === 0);
  expect(await hello(vm)).toBe('42\nriscv64\n');
  expect(() => vm.memory.setBalloon('1G')).toThrow('a balloon of');
  await vm.kill();
  const without = await Sandbox.create('tiny', { host, memory: '128M', balloon: 'off' });
  expect(() => without.memory.setBalloon('1M')).toThrow('a balloon of');
  const devices = await without.commands.run('cat /proc/modules; cat /sys/bus/virtio/devices/*/device');
  expect(devices.stdout).not.toMatch(/balloon|0x0005/);
});

test('equal pages of the guests of a Host are merged, and each still writes its own', async ({ skip }) => {
  if (missing) skip();
  const host = await create({ memory: '512M', swap: 'none' });
  host.machineHost.mm.ksm.set('pages_to_scan', 2000);
  const options = { host, memory: '128M', ksm: 'same-owner' } as const;
  const [a, b] = await Promise.all([Sandbox.create('tiny', options), Sandbox.create('tiny', options)]);
  const merged = () => a.memory.stat().mergedBytes;
  for (let i = 0; i < 600 && merged() < 40 * 2 ** 20; i++)
    await new Promise(resolve => setTimeout(resolve, 100));
  expect(merged()).toBeGreaterThanOrEqual(40 * 2 ** 20);
  // Each page counts in every guest that maps it, and has one frame.
  const { memoryBytes, freeBytes, residentBytes } = host.stat();
  expect(memoryBytes - freeBytes).toBeLessThan(residentBytes - 30 * 2 ** 20);
  expect(a.memory.smaps().some(m => m.flags.includes('mg'))).toBe(true);
  const own = (vm: Sandbox, text: string) =>
    vm.commands.run(`for i in $(seq 500); do echo ${text} $i; done > /tmp/${text}; md5sum < /tmp/${text}`);
  const sums = await Promise.all([own(a, 'same'), own(b, 'same'), own(a, 'other')]);
  expect(sums[0].stdout).toBe(sums[1].stdout);
  expect(sums[2].stdout).not.toBe(sums[1].stdout);
  await host.close();
});

test('a Host refuses what makes no sense', async () => {
  await expect(Host.create({ memory: '8G' })).rejects.toMatchObject({ code: 'E_USAGE' });
  await expect(Host.create({ memory: '1M' })).rejects.toMatchObject({ code: 'E_USAGE' });
  await expect(Host.create({ swap: 'floppy' })).rejects.toMatchObject({ code: 'E_USAGE' });
  const host = await create({ memory: '64M' });
  await expect(Sandbox.create('tiny', { host, swap: 'zram' })).rejects.toMatchObject({ code: 'E_USAGE' });
  await expect(Sandbox.create('tiny', { host, runners: 0 })).rejects.toMatchObject({ code: 'E_USAGE' });
});
