import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FaultlineError } from '../base/error.ts';
import { listImages, openImage } from '../image/images.ts';
import { AgentClient, type AgentExit, DEFAULT_ENVIRONMENT } from './agent-client.ts';

// The agent under another machine than ours. Not run where there is no QEMU or no image yet.
const QEMU = 'qemu-system-riscv64';
const hasQemu = spawnSync(QEMU, ['--version']).status === 0;
const images = new Set(hasQemu ? listImages().map(i => i.name) : []);

type Guest = { client: AgentClient; qemu: ChildProcess; left: Promise<number | null>; directory: string };

/** Boots an image under QEMU, its agent's channel on the emulator's stdin and stdout. */
function boot(name: string, extra: readonly string[] = []): Guest {
  const image = openImage(name);
  const directory = mkdtempSync(join(tmpdir(), 'agent-test-'));
  const args = ['-M', 'virt', '-m', '256M', '-display', 'none', '-monitor', 'none', '-no-reboot'];
  args.push('-kernel', join(image.directory, image.manifest.kernel.file));
  args.push('-initrd', join(image.directory, image.manifest.initramfs.file));
  args.push('-append', image.commandLine, '-serial', `file:${join(directory, 'console')}`);
  args.push('-chardev', 'stdio,id=agent,signal=off', '-device', 'virtio-serial-pci');
  args.push('-device', 'virtconsole,chardev=agent', ...extra);
  const qemu = spawn(QEMU, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  const client = new AgentClient(bytes => qemu.stdin!.write(bytes));
  qemu.stdout!.on('data', (bytes: Uint8Array) => client.receive(bytes));
  qemu.stdin!.on('error', () => {});
  const left = new Promise<number | null>(resolve => {
    qemu.on('exit', code => {
      const text = readFileSync(join(directory, 'console'), 'utf8');
      client.close(new FaultlineError('E_AGENT', `the guest has left: ${text}`));
      resolve(code);
    });
  });
  image.close();
  return { client, qemu, left, directory };
}

/** The image's disk as the raw file that QEMU reads. */
function rawDisk(name: string, directory: string): string {
  const path = join(directory, 'disk.raw');
  const image = openImage(name);
  const sectors = image.disk!.sectors;
  const file = openSync(path, 'w');
  for (let at = 0; at < sectors; at += 2048) {
    const piece = new Uint8Array(Math.min(2048, sectors - at) * 512);
    image.disk!.read(at, piece);
    writeSync(file, piece);
  }
  closeSync(file);
  image.close();
  return path;
}

type Ran = AgentExit & { stdout: string; stderr: string };

async function run(
  client: AgentClient,
  argv: readonly string[],
  options: {
    input?: string | Uint8Array;
    env?: string[];
    cwd?: string;
    tty?: { rows: number; columns: number };
  } = {},
): Promise<Ran> {
  const out: Uint8Array[] = [];
  const err: Uint8Array[] = [];
  const { input, ...rest } = options;
  const env = Object.entries(DEFAULT_ENVIRONMENT).map(([name, value]) => `${name}=${value}`);
  const running = client.exec(
    { argv, ...rest, env: [...env, ...(rest.env ?? [])] },
    { stdout: bytes => out.push(bytes), stderr: bytes => err.push(bytes) },
  );
  if (input !== undefined) await running.write(typeof input === 'string' ? Buffer.from(input) : input);
  running.closeInput();
  const exit = await running.exit;
  return {
    ...exit,
    stdout: Buffer.concat(out).toString('latin1'),
    stderr: Buffer.concat(err).toString('latin1'),
  };
}

describe.skipIf(!images.has('tiny'))('the agent of tiny under QEMU', () => {
  let guest: Guest;

  beforeAll(async () => {
    guest = boot('tiny');
    await guest.client.ready;
  }, 120_000);

  afterAll(() => {
    guest.qemu.kill('SIGKILL');
    rmSync(guest.directory, { recursive: true, force: true });
  });

  test('a command gives its output, its errors and its code', async () => {
    expect(await run(guest.client, ['uname', '-m'])).toEqual({
      code: 0,
      signal: 0,
      stdout: 'riscv64\n',
      stderr: '',
    });
    const failing = await run(guest.client, ['sh', '-c', 'echo out; echo err >&2; exit 3']);
    expect(failing).toEqual({ code: 3, signal: 0, stdout: 'out\n', stderr: 'err\n' });
  });

  test('arguments, variables and the directory arrive as they were given', async () => {
    const long = 'x'.repeat(20_000);
    const ran = await run(guest.client, ['sh', '-c', 'pwd; echo "$V"; expr length "$1"', 'sh', long], {
      cwd: '/tmp',
      env: ['V=a  b'],
    });
    expect(ran.stdout).toBe('/tmp\na  b\n20000\n');
  });

  test('input of any bytes, more than any window, comes back whole', async () => {
    const bytes = Uint8Array.from({ length: 200_000 }, (_, i) => (i * 7 + (i >> 8)) & 0xff);
    const ran = await run(guest.client, ['cat'], { input: bytes });
    expect(ran.code).toBe(0);
    expect(Buffer.from(ran.stdout, 'latin1').equals(bytes)).toBe(true);
  });

  test('a command that never reads its input holds up neither itself nor others', async () => {
    const sleeper = guest.client.exec({ argv: ['/bin/sleep', '1000'], env: [] });
    await sleeper.started;
    const written = sleeper.write(new Uint8Array(100_000));
    expect((await run(guest.client, ['echo', 'still here'])).stdout).toBe('still here\n');
    sleeper.kill(9);
    expect(await sleeper.exit).toEqual({ code: 137, signal: 9 });
    await written;
  });

  test('what is not there is 127, what cannot be run 126', async () => {
    expect((await run(guest.client, ['no-such-command'])).code).toBe(127);
    expect((await run(guest.client, ['/no/such/file'])).code).toBe(127);
    expect((await run(guest.client, ['/etc/passwd'])).code).toBe(126);
    expect((await run(guest.client, ['true'], { cwd: '/nowhere' })).code).toBe(127);
  });

  test('ten commands at once each get their own output', async () => {
    const numbers = Array.from({ length: 10 }, (_, i) => i);
    const all = await Promise.all(
      numbers.map(i => run(guest.client, ['sh', '-c', `cat; echo ${i}`], { input: `${i} ` })),
    );
    expect(all.map(r => r.stdout)).toEqual(numbers.map(i => `${i} ${i}\n`));
  });

  test('one command too many is refused, and the others live', async () => {
    const sleepers = Array.from({ length: 32 }, () =>
      guest.client.exec({ argv: ['/bin/sleep', '1000'], env: [] }),
    );
    await Promise.all(sleepers.map(s => s.started));
    expect((await run(guest.client, ['true'])).code).toBe(126);
    for (const s of sleepers) s.kill(15);
    expect((await Promise.all(sleepers.map(s => s.exit))).map(e => e.signal)).toEqual(Array(32).fill(15));
    expect((await run(guest.client, ['true'])).code).toBe(0);
  });

  test('a daemon that keeps the pipe open does not keep the command', async () => {
    expect((await run(guest.client, ['sh', '-c', 'sleep 1000 & echo started'])).stdout).toBe('started\n');
  });

  test('a terminal has the size asked for, and follows a resize', async () => {
    const sized = await run(guest.client, ['sh', '-c', 'stty size; test -t 0 && echo terminal'], {
      tty: { rows: 33, columns: 101 },
    });
    expect(sized.stdout).toBe('33 101\r\nterminal\r\n');
    let seen = '';
    const shell = guest.client.exec(
      { argv: ['/bin/sh', '-c', 'read line; stty size'], env: [], tty: { rows: 24, columns: 80 } },
      { stdout: bytes => (seen += Buffer.from(bytes).toString()) },
    );
    await shell.started;
    shell.resize(50, 132);
    await shell.write(Buffer.from('go\n'));
    await shell.exit;
    expect(seen).toContain('50 132');
  });

  test('a power-off ends the machine', async () => {
    guest.client.powerOff();
    expect(await guest.left).toBe(0);
    expect(() => guest.client.exec({ argv: ['true'], env: [] })).toThrow('the guest has left');
  });
});

describe.skipIf(!images.has('base'))('the agent of base under QEMU', () => {
  let guest: Guest;
  const directory = mkdtempSync(join(tmpdir(), 'agent-disk-'));

  beforeAll(async () => {
    const drive = `if=none,format=raw,readonly=on,id=root,file=${rawDisk('base', directory)}`;
    guest = boot('base', ['-drive', drive, '-device', 'virtio-blk-pci,drive=root']);
    await guest.client.ready;
  }, 120_000);

  afterAll(() => {
    guest.qemu.kill('SIGKILL');
    for (const path of [guest.directory, directory]) rmSync(path, { recursive: true, force: true });
  });

  test('perl runs from the disk', async () => {
    expect((await run(guest.client, ['perl', '-e', 'print 6*7'])).stdout).toBe('42');
  });

  test('the root is an overlay that can be written, of packages that are configured', async () => {
    const script =
      'echo hello > /etc/motd && cat /etc/motd && stat -f -c %T / && dpkg --audit && id -un && hostname';
    expect((await run(guest.client, ['bash', '-c', script])).stdout).toBe(
      'hello\noverlayfs\nroot\nfaultline\n',
    );
  });

  test('every file of the disk can be read', async () => {
    const ran = await run(guest.client, [
      'bash',
      '-c',
      'find / -xdev -type f -print0 | xargs -0 cat | wc -c',
    ]);
    expect(ran).toMatchObject({ code: 0, stderr: '' });
    expect(Number(ran.stdout)).toBeGreaterThan(40e6);
  });

  test('a power-off ends the machine', async () => {
    guest.client.powerOff();
    expect(await guest.left).toBe(0);
  });
});
