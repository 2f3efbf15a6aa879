import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { ensureImage } from '../../src/image/images.ts';
import { faultline, run, startFaultline } from './faultline.ts';

// The stock Debian kernel, through the built command. What builds images is apt; where it can't, these are
// skipped and say so.

let work: string;
let missing: string | undefined;

beforeAll(async () => {
  work = mkdtempSync(join(tmpdir(), 'faultline-boot-'));
  try {
    (await ensureImage('tiny')).close();
  } catch (error) {
    missing = String((error as Error).message);
    console.warn(`not run: the guest image can't be built here: ${missing}`);
  }
}, 600_000);

afterAll(() => rmSync(work, { recursive: true }));

const compile = (source: string, name: string, flags: string[]): string | undefined => {
  const out = join(work, name);
  const done = spawnSync('riscv64-linux-gnu-gcc', ['-O2', '-static', ...flags, '-o', out, source]);
  return done.status === 0 ? out : undefined;
};

describe('tiny', () => {
  test('a command runs on a worker, and its output and exit code come out', async ({ skip }) => {
    if (missing) skip();
    expect(await run(['tiny', '--', 'uname', '-m'])).toMatchObject({
      code: 0,
      stdout: 'riscv64\n',
      stderr: '',
    });
    const mixed = await run([
      '-e',
      'A=b c',
      '-w',
      '/tmp',
      'tiny',
      '--',
      'sh',
      '-c',
      'echo "$A"; pwd; echo err >&2; exit 3',
    ]);
    expect(mixed).toMatchObject({ code: 3, stdout: 'b c\n/tmp\n', stderr: 'err\n' });
  });

  test.each([
    ['by turns on one thread', ['--runners', '0']],
    ['on their runners', []],
  ])('two harts boot %s, and the guest counts them', async (_name, flags) => {
    if (missing) return;
    const look =
      'nproc; grep -c ^processor /proc/cpuinfo; for c in 0 1; do taskset $((c + 1)) echo on $c; done';
    const done = await run([...flags, '--cpus', '2', 'tiny', '--', 'sh', '-c', look]);
    expect(done).toMatchObject({ code: 0, stdout: '2\n2\non 0\non 1\n' });
  });

  test('programs in user mode read the clock through the vDSO', async ({ skip }) => {
    const source = join(work, 'clock.c');
    writeFileSync(
      source,
      `#include <time.h>
       int main(void) { struct timespec a, b; clock_gettime(CLOCK_MONOTONIC, &a); do clock_gettime(CLOCK_MONOTONIC, &b);
         while (b.tv_nsec == a.tv_nsec); return b.tv_sec < a.tv_sec; }`,
    );
    const clock = compile(source, 'clock', []);
    if (missing || clock === undefined) skip();
    expect((await run(['--add', `${clock}:/bin/clock`, 'tiny', '--', 'clock'])).code).toBe(0);
  });

  test('what does not exist is 127, what is not executable 126, and a signal 128 and its number', async ({
    skip,
  }) => {
    if (missing) skip();
    expect((await run(['tiny', '--', 'no-such-program'])).code).toBe(127);
    expect((await run(['tiny', '--', '/etc/passwd'])).code).toBe(126);
    expect((await run(['tiny', '--', 'sh', '-c', 'kill -9 $$'])).code).toBe(137);
  });

  test('standard input reaches the command with -i, all of it', async ({ skip }) => {
    if (missing) skip();
    const text = Array.from({ length: 20_000 }, (_, i) => `line ${i}\n`).join('');
    const done = await run(['-i', 'tiny', '--', 'sh', '-c', 'wc -c; echo done'], text);
    expect(done).toMatchObject({ code: 0, stdout: `${text.length}\ndone\n` });
  });

  test('a shell on the console runs what is typed, and poweroff ends it', async ({ skip }) => {
    if (missing) skip();
    const guest = startFaultline(['run', '-q', 'tiny']);
    // What is typed before the shell opens the terminal is lost, as on any console.
    await guest.printed(/# $/);
    guest.type('echo $((6*7))x\n');
    await guest.printed(/42x/);
    guest.type('poweroff -f\n');
    expect(await guest.code).toBe(0);
  });

  test('two boots under --clock instret agree in every byte and every counter', async ({ skip }) => {
    if (missing) skip();
    const args = ['--runners', '0', '--clock', 'instret', '--seed', '5', '--console', 'tiny', '--'];
    const command = [
      'sh',
      '-c',
      'dmesg; cat /proc/uptime /proc/interrupts /proc/vmstat; cat /proc/sys/kernel/random/boot_id',
    ];
    const [a, b] = [await run([...args, ...command]), await run([...args, ...command])];
    expect(a.stdout.length).toBeGreaterThan(5000);
    expect(b.stdout).toBe(a.stdout);
    expect(b.stderr).toBe(a.stderr);
    expect(withoutTimes(b.stats)).toEqual(withoutTimes(a.stats));
  });

  test('a boot in which one page lookup in thirty answers blocked prints the same console', async ({
    skip,
  }) => {
    if (missing) skip();
    const args = [
      '--runners',
      '0',
      '--clock',
      'instret',
      '--seed',
      '5',
      '--append',
      'ignore_loglevel',
      '--console',
    ];
    const command = ['tiny', '--', 'sh', '-c', 'ls -lR /bin | md5sum'];
    const plain = await run([...args, ...command]);
    const blocked = await run([...args, '--blocked-one-in', '30', ...command]);
    expect(plain.stderr.length).toBeGreaterThan(5000);
    expect(blocked.stdout).toBe(plain.stdout);
    // Virtual time moves while a page is awaited, so the kernel's time stamps may differ by some ticks.
    expect(withoutStamps(blocked.stderr)).toBe(withoutStamps(plain.stderr));
  });

  test('a guest squeezed to a quarter of its RAM keeps every byte and never exceeds its limit', async ({
    skip,
  }) => {
    const fill = compile(new URL('../../bench/guest/fill.c', import.meta.url).pathname, 'fill', []);
    if (missing || fill === undefined) skip();
    for (const runners of ['0', '1']) {
      const done = await run([
        ...['--runners', runners, '--memory', '128M', '--memory-limit', '32M', '--swap', 'zram:128M'],
        ...['--add', `${fill}:/bin/fill`, 'tiny', '--', 'fill', '40', '11'],
      ]);
      expect(done).toMatchObject({ code: 0, stdout: 'fill: 40 MiB, 2 rounds, 0 wrong words\n' });
      const { memory, pswpin, pswpout } = done.stats as unknown as Counters;
      expect(memory.peakBytes).toBeLessThanOrEqual(32 << 20);
      expect(Math.min(pswpin, pswpout)).toBeGreaterThan(5000);
    }
  });

  test('a swap file takes what does not fit', async ({ skip }) => {
    const fill = compile(new URL('../../bench/guest/fill.c', import.meta.url).pathname, 'fill', []);
    if (missing || fill === undefined) skip();
    const done = await run([
      ...['--memory', '128M', '--memory-limit', '32M', '--swap', `file:${join(work, 'swap')}`],
      ...['--add', `${fill}:/bin/fill`, 'tiny', '--', 'fill', '30', '3'],
    ]);
    expect(done).toMatchObject({ code: 0, stdout: 'fill: 30 MiB, 2 rounds, 0 wrong words\n' });
  });
});

type Counters = { memory: { peakBytes: number }; pswpin: number; pswpout: number };

/**
 * Without what the host's clock has a say in: what was worth translating, how often regions were left, and, as they have
 * entries of their own, what the TLB was asked for.
 */
const withoutTimes = (stats: Record<string, unknown>) => ({
  ...Object.fromEntries(
    Object.entries(stats).filter(([name]) => !/^region|^tlb_|^interpreter_calls$/.test(name)),
  ),
  memory: { ...(stats.memory as Record<string, unknown>), atMs: 0 },
});
const withoutStamps = (text: string): string => text.replace(/^\[ *\d+\.\d+\] /gm, '');

describe('bad input', () => {
  const refused = (code: string) =>
    expect.stringMatching(new RegExp(`^faultline: error: .*\\(code ${code}\\)\n(    try: .+\n)?$`));

  test('each ends in one line with a code and exit 125', async ({ skip }) => {
    if (missing) skip();
    const cases: [string[], string][] = [
      [['no-such-image'], 'E_IMAGE_NOT_FOUND'],
      [['/etc'], 'E_NOT_AN_IMAGE'],
      [['--memory', '64M', 'tiny', '--', 'true'], 'E_MEMORY_TOO_SMALL'],
      [['--memory', 'lots', 'tiny', '--', 'true'], 'E_USAGE'],
      [['--memory-limit', '1M', 'tiny', '--', 'true'], 'E_MEMORY_LIMIT'],
      [['--swap', 'tape', 'tiny', '--', 'true'], 'E_USAGE'],
      [['--swap', 'file:/no/such/dir/swap', '--memory-limit', '64M', 'tiny', '--', 'true'], 'E_SWAP'],
      [['--cpus', '9', 'tiny', '--', 'true'], 'E_USAGE'],
      [['--memory-limit', '32M', '--swap', 'none', 'tiny', '--', 'true'], 'E_OUT_OF_MEMORY'],
      [['--bare', '/etc/passwd'], 'E_ELF'],
      [['--bare', '/no/such/file'], 'E_USAGE'],
    ];
    for (const [args, code] of cases) {
      const done = await faultline(['run', '-q', ...args]);
      expect([args.join(' '), done.code, done.stderr]).toEqual([args.join(' '), 125, refused(code)]);
    }
  });

  test('a guest that jumps to nowhere or touches what is not there faults inside, and the host goes on', async ({
    skip,
  }) => {
    const source = join(work, 'wild.c');
    writeFileSync(
      source,
      `int main(int c, char **v) { switch (*v[1]) {
        case 'j': ((void (*)(void))0x123456789aul)(); break;
        case 'w': *(volatile int *)0xffffffff80000000ul = 1; break;
        case 'i': __asm__(".word 0"); } return 0; }`,
    );
    const wild = compile(source, 'wild', []);
    if (missing || wild === undefined) skip();
    const done = await run([
      '--add',
      `${wild}:/bin/wild`,
      'tiny',
      '--',
      'sh',
      '-c',
      'for k in j w i; do wild $k; echo $?; done',
    ]);
    expect(done).toMatchObject({ code: 0, stdout: '139\n139\n132\n' });
  });
});

describe('bare programs', () => {
  const BARE =
    '-nostdlib -nostartfiles -ffreestanding -mcmodel=medany -fno-pic -no-pie -Wl,-Ttext=0x80000000,--build-id=none,-N'.split(
      ' ',
    );

  test('an ELF is entered in supervisor mode, and its store to tohost is the exit code', async ({ skip }) => {
    const source = join(work, 'bare.c');
    writeFileSync(
      source,
      `volatile unsigned long tohost __attribute__((section(".data"))) = 0;
       __attribute__((naked, section(".text.start"))) void _start(void) { __asm__("la sp, stack_top; call start"); }
       static char stack[4096] __attribute__((used)); __asm__(".set stack_top, stack + 4096");
       static void put(char c) { register long a0 __asm__("a0") = c, a6 __asm__("a6") = 2, a7 __asm__("a7") = 0x4442434e;
         __asm__ volatile("ecall" : "+r"(a0) : "r"(a6), "r"(a7) : "a1", "memory"); }
       void start(void) { put('o'); put('k'); put('\\n'); tohost = (42 << 1) | 1; for (;;); }`,
    );
    const elf = compile(source, 'bare', BARE);
    if (elf === undefined) skip();
    for (const runners of ['0', '1']) {
      const done = await faultline(['run', '-q', '--runners', runners, '--bare', elf as string]);
      expect(done).toEqual({ code: 42, stdout: 'ok\n', stderr: '' });
    }
  });
});
