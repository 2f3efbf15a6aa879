import { FaultlineError } from '../base/error.ts';
import { alignDown, alignUp, MIB, PAGE_SIZE } from '../base/units.ts';
import type { GuestMemory } from '../devices/interface.ts';
import { buildDeviceTree } from './device-tree.ts';
import { RAM_BASE } from './memory-map.ts';

// Where a kernel, its initrd and its device tree go in guest RAM, and how they get there.

export type BootFiles = { kernel: Uint8Array; initrd?: Uint8Array };
export type Placement = {
  kernel: number;
  initrd: number;
  initrdBytes: number;
  deviceTree: number;
  end: number;
};

/** The device tree has the last 2 MiB; the kernel maps it with one superpage. */
const TREE_ROOM = 2 * MIB;
/** Below this Debian's kernel panics: its mem_section array alone takes 32 MiB. */
export const MEMORY_MIN = 88 * MIB;
const IMAGE_MAGIC_AT = 0x38;
const IMAGE_SIZE_AT = 0x10;

/** Bytes that a RISC-V Image needs in RAM, from its header. Throws E_NOT_AN_IMAGE, E_KERNEL_TRUNCATED. */
export function kernelBytes(image: Uint8Array): number {
  const view = new DataView(image.buffer, image.byteOffset, image.byteLength);
  if (image.length < 64 || view.getUint32(IMAGE_MAGIC_AT, true) !== 0x05435352) {
    throw new FaultlineError('E_NOT_AN_IMAGE', 'the kernel is not a RISC-V Linux Image', {
      hint: 'an uncompressed vmlinux Image, such as /boot/vmlinux-* of Debian riscv64',
    });
  }
  const size = view.getUint32(IMAGE_SIZE_AT, true);
  // image_size counts .bss too, so a whole file is somewhat shorter; a truncated one is much shorter.
  if (image.length < size * 0.75) {
    throw new FaultlineError('E_KERNEL_TRUNCATED', `the kernel has ${image.length} of about ${size} bytes`, {
      hint: 'build the image again: faultline image build tiny --force',
    });
  }
  return Math.max(size, image.length);
}

/** Throws E_MEMORY_TOO_SMALL when they don't fit. */
export function place(files: BootFiles, memoryBytes: number): Placement {
  const end = RAM_BASE + memoryBytes;
  const deviceTree = alignDown(end - TREE_ROOM, TREE_ROOM);
  const initrdBytes = files.initrd?.length ?? 0;
  const initrd = alignDown(deviceTree - initrdBytes, 4096);
  const kernelEnd = RAM_BASE + alignUp(kernelBytes(files.kernel), 2 * MIB);
  if (memoryBytes < MEMORY_MIN || initrd < kernelEnd) {
    throw new FaultlineError(
      'E_MEMORY_TOO_SMALL',
      `${Math.floor(memoryBytes / MIB)} MiB is too little to boot this kernel`,
      {
        hint: '--memory 256M (the least that boots is 88M)',
      },
    );
  }
  return { kernel: RAM_BASE, initrd, initrdBytes, deviceTree, end };
}

/** Where a vCPU begins, and what it finds in RAM: pieces in order of address; all else is zero. */
export type BootPlan = {
  entry: { pc: number; a1: number };
  pieces: readonly { gpa: number; bytes: Uint8Array }[];
};

/** Puts kernel, initrd and device tree into RAM, on paper. `rngSeed`: 64 random bytes. Throws as `place`. */
export function planBoot(
  files: BootFiles,
  config: { memoryBytes: number; commandLine: string; cpus?: number },
  rngSeed: Uint8Array,
): BootPlan {
  const at = place(files, config.memoryBytes);
  const tree = buildDeviceTree({
    memoryBytes: config.memoryBytes,
    bootargs: config.commandLine,
    harts: config.cpus ?? 1,
    rngSeed,
    ...(at.initrdBytes > 0 ? { initrd: { start: at.initrd, end: at.initrd + at.initrdBytes } } : {}),
  });
  const initrd = files.initrd === undefined ? [] : [{ gpa: at.initrd, bytes: files.initrd }];
  return {
    entry: { pc: at.kernel, a1: at.deviceTree },
    pieces: [{ gpa: at.kernel, bytes: files.kernel }, ...initrd, { gpa: at.deviceTree, bytes: tree }],
  };
}

/** A page of RAM as a machine that starts finds it. */
export function bootPage(plan: BootPlan, gpa: number): Uint8Array {
  const page = new Uint8Array(PAGE_SIZE);
  const start = alignDown(gpa, PAGE_SIZE);
  for (const piece of plan.pieces) {
    const from = Math.max(start, piece.gpa);
    const to = Math.min(start + PAGE_SIZE, piece.gpa + piece.bytes.length);
    if (from < to) page.set(piece.bytes.subarray(from - piece.gpa, to - piece.gpa), from - start);
  }
  return page;
}

/** Memory that can be waited for. */
type LoadMemory = GuestMemory & { waitBlocked?(): void };

/** Bytes that are pinned at once: few enough for any memory limit. */
const PIECE_MAX = 16 * PAGE_SIZE;

/** Copies bytes into guest RAM, some pages at a time. A page of zeros is what untouched memory reads as already. */
export function load(memory: LoadMemory, gpa: number, bytes: Uint8Array): void {
  let from = 0;
  for (let at = 0; at < bytes.length; ) {
    const end = Math.min(alignDown(gpa + at, PAGE_SIZE) + PAGE_SIZE - gpa, bytes.length);
    const isGap = isZero(bytes.subarray(at, end));
    if (isGap || end - from > PIECE_MAX) {
      if (at > from) loadPiece(memory, gpa + from, bytes.subarray(from, at));
      from = isGap ? end : at;
    }
    at = end;
  }
  if (from < bytes.length) loadPiece(memory, gpa + from, bytes.subarray(from));
}

function isZero(bytes: Uint8Array): boolean {
  if (bytes[0] !== 0) return false;
  const all = (bytes.byteOffset | bytes.length) % 4 === 0 ? wordsOf(bytes) : bytes;
  for (let i = 0; i < all.length; i++) if (all[i] !== 0) return false;
  return true;
}

const wordsOf = (bytes: Uint8Array): Int32Array =>
  new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);

function loadPiece(memory: LoadMemory, gpa: number, piece: Uint8Array): void {
  for (let tries = 0; tries < 1000; tries++) {
    const pin = memory.pin(gpa, piece.length, 'write');
    if (pin === 'blocked') {
      memory.waitBlocked?.();
      continue;
    }
    if (pin === 'fault') break;
    let at = 0;
    for (const part of pin.pieces) {
      part.set(piece.subarray(at, at + part.length));
      at += part.length;
    }
    memory.unpin(pin);
    return;
  }
  throw new FaultlineError('E_OUT_OF_MEMORY', 'no memory for the kernel and its initrd', {
    hint: 'a larger --memory-limit, or --swap zram',
  });
}
