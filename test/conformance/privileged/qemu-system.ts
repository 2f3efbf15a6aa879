import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { DUMP_BYTES, type PrivilegedImage } from './image.ts';
import { FLASH_BYTES } from './layout.ts';

// The peer: QEMU's whole machine, with the image in place of its firmware and the tables in its flash.

const PROGRAM = 'qemu-system-riscv64';
/** What our hart doesn't have. */
const CPU = 'rv64,h=false,sstc=false,svinval=false,svpbmt=false,svnapot=false';
/** A program takes a second; this is for one that has lost its way. */
const TIMEOUT_MS = 60_000;

export const findQemuSystem = (): { program: string; version: string } | undefined => {
  const { stdout, error } = spawnSync(PROGRAM, ['--version'], { encoding: 'utf8' });
  return error === undefined ? { program: PROGRAM, version: stdout.split('\n')[0]! } : undefined;
};

const argumentsOf = (folder: string): string[] => [
  // With two harts atomics are atomic, and fault as stores do; with one, QEMU 7.2 loads first. The second
  // is parked.
  ...['-smp', '2', '-accel', 'tcg,thread=multi'],
  ...['-machine', 'virt', '-cpu', CPU, '-m', '128M', '-bios', join(folder, 'image')],
  ...['-drive', `if=pflash,unit=1,format=raw,readonly=on,file=${join(folder, 'flash')}`],
  ...['-semihosting-config', 'enable=on,target=native'],
  ...['-display', 'none', '-serial', 'none', '-monitor', 'none', '-no-reboot'],
];

/** Runs the image; the dump, or how it ended without one. */
export const runQemuSystem = async (
  image: PrivilegedImage,
): Promise<{ dump: Uint8Array } | { failure: string }> => {
  const folder = mkdtempSync(join(tmpdir(), 'faultline-privileged-'));
  try {
    writeFileSync(join(folder, 'image'), image.ram);
    writeFileSync(join(folder, 'flash'), image.flash);
    truncateSync(join(folder, 'flash'), FLASH_BYTES);
    const failure = await finish(folder);
    if (failure !== undefined) return { failure };
    const output = join(folder, 'output');
    if (!existsSync(output)) return { failure: 'trapped to machine mode' };
    const dump = new Uint8Array(readFileSync(output));
    return dump.length === DUMP_BYTES ? { dump } : { failure: `wrote ${dump.length} of ${DUMP_BYTES} bytes` };
  } finally {
    rmSync(folder, { recursive: true });
  }
};

const finish = (folder: string): Promise<string | undefined> =>
  new Promise((resolve, reject) => {
    const stdio = ['ignore', 'ignore', 'pipe'] as const;
    const child = spawn(PROGRAM, argumentsOf(folder), {
      cwd: folder,
      stdio: [...stdio],
      timeout: TIMEOUT_MS,
    });
    let said = '';
    child.stderr!.on('data', (text: Buffer) => {
      said += text.toString();
    });
    child.on('error', reject);
    child.on('close', (code, signal) => {
      resolve(code === 0 ? undefined : `ended by ${signal ?? `code ${code}`}: ${said.split('\n')[0]}`);
    });
  });
