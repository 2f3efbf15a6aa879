import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureImage } from '../image/images.ts';
import { Sandbox } from './sandbox.ts';

// The memory of a running Debian guest, seen and moved from outside.

const MIB = 2 ** 20;
let missing: string | undefined;
let vm: Sandbox;

beforeAll(async () => {
  try {
    (await ensureImage('tiny')).close();
    vm = await Sandbox.create('tiny', { memory: '160M', swap: 'zram:256M' });
  } catch (error) {
    missing = String((error as Error).message);
    console.warn(`not run: the guest image can't be built here: ${missing}`);
  }
}, 600_000);

afterAll(() => vm?.kill());

/** Fills a file in the guest and answers its sum. */
const sum = (command: string): Promise<string> =>
  vm.commands.run(`${command} md5sum < /tmp/x`).then(r => r.stdout);

describe('memory of a guest', () => {
  test('is told in the words of Linux, and the figures agree', ({ skip }) => {
    if (missing) skip();
    const stat = vm.memory.stat();
    const [ram] = vm.memory.smaps().filter(m => m.end - m.start === 160 * MIB);
    expect(ram).toMatchObject({ rights: 'rw-p', sizes: { Size: 160 * MIB, KernelPageSize: 4096 } });
    expect(Math.abs(ram!.sizes.Rss! - stat.residentBytes)).toBeLessThan(4 * MIB);
    expect(vm.memory.read('smaps')).toMatch(/^[0-9a-f]{8,}-[0-9a-f]{8,} rw-p 00000000 00:00 0 /);
    expect(vm.memory.read('memory.max')).toBe('max\n');
    expect(vm.memory.read('memory.pressure')).toMatch(/^some avg10=.*\nfull avg10=.*\n$/);
    expect(vm.memory.read('vmstat')).toMatch(/^pgfault \d+$/m);
    expect(vm.memory.pressure()).toMatchObject({ some: { avg10: expect.any(Number) }, full: {} });
    expect(() => vm.memory.read('memory.nonsense')).toThrow('there is no file');
  });

  test("the CPU's counts rise while the guest runs, on whichever thread, and are those of the Host's only guest", async ({
    skip,
  }) => {
    if (missing) skip();
    const before = vm.cpuStat()!;
    await vm.commands.run('i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done');
    const after = vm.cpuStat()!;
    expect(after.instret - before.instret).toBeGreaterThan(100_000);
    expect(after.tlb_misses).toBeGreaterThan(before.tlb_misses);
    expect(after.interpreter_calls).toBeGreaterThan(before.interpreter_calls);
    expect(after.tlb_asked).toBeLessThanOrEqual(after.tlb_misses);
    const { instret, regions } = vm.memory.counters() as typeof after;
    expect(instret).toBeGreaterThanOrEqual(after.instret);
    expect(regions).toBeGreaterThanOrEqual(after.regions);
  });

  test('is taken and limited while the guest runs, and no byte is lost', async ({ skip }) => {
    if (missing) skip();
    const before = await sum('dd if=/dev/urandom of=/tmp/x bs=1M count=30 2>/dev/null;');
    const resident = vm.memory.stat().residentBytes;
    const freed = await vm.memory.reclaim('20M');
    expect(freed).toBeGreaterThan(16 * MIB);
    expect(vm.memory.stat().residentBytes).toBeLessThan(resident - 8 * MIB);
    await vm.memory.setLimit('48M');
    expect(vm.memory.stat()).toMatchObject({ limitBytes: 48 * MIB });
    expect(vm.memory.stat().residentBytes).toBeLessThanOrEqual(48 * MIB);
    expect(vm.memory.read('memory.max')).toBe(`${48 * MIB}\n`);
    expect(await sum('')).toBe(before);
    await expect(vm.memory.setLimit('1M')).rejects.toMatchObject({ code: 'E_MEMORY_LIMIT' });
    await vm.memory.setLimit('160M');
    await vm.memory.advise(vm.memory.ram, 'pageout');
    expect(vm.memory.stat().swappedBytes).toBeGreaterThan(20 * MIB);
    expect(await sum('')).toBe(before);
  });

  test('takes advice on ranges that are there', async ({ skip }) => {
    if (missing) skip();
    const { start, length } = vm.memory.ram;
    await vm.memory.advise({ start: start + 32 * MIB, length: 64 * MIB }, 'mergeable');
    expect(vm.memory.smaps().some(m => m.flags.includes('mg'))).toBe(true);
    await vm.memory.advise({ start, length }, 'unmergeable');
    expect(vm.memory.smaps().some(m => m.flags.includes('mg'))).toBe(false);
    for (const range of [
      { start: 0, length: 4096 },
      { start, length: length + 4096 },
      { start: start + 1, length: 4096 },
      { start: start + 4096, length: -1 },
      { start: Number.NaN, length: 4096 },
    ])
      await expect(vm.memory.advise(range, 'cold')).rejects.toMatchObject({ code: 'EINVAL' });
  });
});

test('O-6, V-56, S-11 a guest in RAM from a handler gives pages away, and its source is not asked for them again', async ({
  skip,
}) => {
  if (missing) skip();
  const seen = new Map<number, number>();
  const guest = await Sandbox.create('tiny', {
    // Linux reports only while 64 MiB and more are free.
    memory: '256M',
    async userfault(fault, uffd) {
      seen.set(fault.address, (seen.get(fault.address) ?? 0) + 1);
      uffd.copy(fault.address, fault.initial);
    },
  });
  try {
    const fill = 'dd if=/dev/zero of=/tmp/x bs=1M count=90 2>/dev/null; md5sum < /tmp/x; rm /tmp/x';
    const first = await guest.commands.run(fill);
    const before = guest.memory.stat().residentBytes;
    for (let i = 0; i < 150 && guest.memory.stat().residentBytes > before - 50 * MIB; i++)
      await new Promise(resolve => setTimeout(resolve, 100));
    expect(guest.memory.stat().residentBytes).toBeLessThan(before - 50 * MIB);
    expect((await guest.commands.run(fill)).stdout).toBe(first.stdout);
    expect(Math.max(...seen.values())).toBe(1);
  } finally {
    await guest.kill();
  }
});

test('V-29 a guest whose handler dies ends with the reason, and commands say so', async ({ skip }) => {
  if (missing) skip();
  let dead = false;
  const guest = await Sandbox.create('tiny', {
    memory: '128M',
    userfault(fault, uffd) {
      if (dead) throw new Error('the store is gone');
      uffd.copy(fault.address, fault.initial);
    },
  });
  dead = true;
  await expect(guest.commands.run('dd if=/dev/zero of=/tmp/x bs=1M count=30')).rejects.toMatchObject({
    code: 'E_USER_FAULT',
    message: expect.stringMatching(/the store is gone/),
  });
  await guest.kill();
});
