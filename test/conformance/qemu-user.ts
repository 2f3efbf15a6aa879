import { spawn, spawnSync } from 'node:child_process';
import { chmodSync, closeSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { elfOf, type Image } from './image.ts';

// The peer: QEMU's user-mode emulation.

const PROGRAMS = ['qemu-riscv64-static', 'qemu-riscv64'];

/** The program's name and version, or undefined when this machine has none. */
export const findQemuUser = (): { program: string; version: string } | undefined => {
  for (const program of PROGRAMS) {
    const { stdout, error } = spawnSync(program, ['--version'], { encoding: 'utf8' });
    if (error === undefined) return { program, version: stdout.split('\n')[0]! };
  }
  return undefined;
};

export type PeerResult = { data: Uint8Array } | { failure: string };

/** Runs the image; the data that it wrote, or how it died. */
export const runQemuUser = async (program: string, image: Image): Promise<PeerResult> => {
  const folder = mkdtempSync(join(tmpdir(), 'faultline-isa-'));
  const [file, output] = [join(folder, 'program'), join(folder, 'output')];
  try {
    writeFileSync(file, elfOf(image));
    chmodSync(file, 0o755);
    const out = openSync(output, 'w');
    const end = await finish(program, file, out);
    closeSync(out);
    if (end !== undefined) return { failure: end };
    const data = new Uint8Array(readFileSync(output));
    if (data.length === image.dataBytes) return { data };
    return { failure: `wrote ${data.length} of ${image.dataBytes} bytes` };
  } finally {
    rmSync(folder, { recursive: true });
  }
};

/** Resolves to undefined when the program exits with 0. */
const finish = (program: string, file: string, out: number): Promise<string | undefined> =>
  new Promise((resolve, reject) => {
    const child = spawn(program, [file], { stdio: ['ignore', out, 'ignore'] });
    child.on('error', reject);
    child.on('exit', (code, signal) =>
      resolve(code === 0 ? undefined : `ended by ${signal ?? `code ${code}`}`),
    );
  });
