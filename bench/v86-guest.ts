// v86 with its serial port on standard input and output: `v86-guest.ts KERNEL INITRD SEABIOS`.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { V86 } from 'v86';

const MIB = 1 << 20;
const [kernel, initrd, seabios] = process.argv.slice(2) as [string, string, string];
const build = dirname(createRequire(import.meta.url).resolve('v86'));

function file(path: string): { buffer: ArrayBuffer } {
  const bytes = readFileSync(path);
  return { buffer: bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) };
}

const machine = new V86({
  wasm_path: join(build, 'v86.wasm'),
  memory_size: 256 * MIB,
  vga_memory_size: 2 * MIB,
  bios: file(join(seabios, 'bios.bin')),
  vga_bios: file(join(seabios, 'vgabios-stdvga.bin')),
  bzimage: file(kernel),
  initrd: file(initrd),
  cmdline: 'console=ttyS0 quiet',
  autostart: true,
  disable_keyboard: true,
  disable_mouse: true,
  disable_speaker: true,
});
machine.add_listener('serial0-output-byte', (byte: number) => {
  process.stdout.write(Uint8Array.of(byte));
});
process.stdin.on('data', (bytes: Buffer) => machine.serial0_send(bytes.toString('latin1')));
