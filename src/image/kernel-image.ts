import { FaultlineError } from '../base/error.ts';

/** What the 64-byte header of a RISC-V Image says (Documentation/arch/riscv/boot-image-header). */
export type KernelImageHeader = {
  /** Offset from the start of RAM at which the kernel likes to lie; a hint. */
  readonly textOffset: number;
  /** Bytes the kernel takes in memory, bss included: at least the file's length. */
  readonly imageSize: number;
  readonly versionMajor: number;
  readonly versionMinor: number;
};

const HEADER_BYTES = 64;
/** "RISCV\0\0\0" at 0x30 is deprecated; "RSC\x05" at 0x38 is the one to test. */
const MAGIC2 = 0x05435352;
const HINT = 'faultline image build debian:trixie, or another kernel';

/** Checks a kernel file before it is loaded. Throws E_NOT_AN_IMAGE, E_KERNEL_TRUNCATED. */
export function readKernelHeader(file: Uint8Array): KernelImageHeader {
  if (file.length < HEADER_BYTES) {
    throw new FaultlineError(
      'E_KERNEL_TRUNCATED',
      `the kernel has ${file.length} bytes, less than a header`,
      {
        hint: HINT,
      },
    );
  }
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (view.getUint32(0x38, true) !== MAGIC2) throw notAnImage(view);
  const header = {
    textOffset: read64(view, 0x08),
    imageSize: read64(view, 0x10),
    versionMajor: view.getUint16(0x22, true),
    versionMinor: view.getUint16(0x20, true),
  };
  if (header.imageSize < HEADER_BYTES || header.imageSize > 2 ** 32 || header.textOffset > 2 ** 32) {
    throw new FaultlineError('E_NOT_AN_IMAGE', 'the kernel header states sizes that cannot be', {
      hint: HINT,
    });
  }
  // The difference between file and image is bss; a file cut short shows as a PE header beyond its end.
  const end = peEnd(view);
  if (end > file.length) {
    throw new FaultlineError(
      'E_KERNEL_TRUNCATED',
      `the kernel is cut short: ${file.length} of ${end} bytes`,
      {
        hint: HINT,
      },
    );
  }
  return header;
}

/**
 * End of the last section's data by the PE header that an EFI-stub kernel carries; 0 without one. Every
 * field is a stranger's: bounds first.
 */
function peEnd(view: DataView): number {
  if (view.getUint16(0, true) !== 0x5a4d) return 0;
  const pe = view.getUint32(0x3c, true);
  if (pe + 24 > view.byteLength) return pe + 24;
  if (view.getUint32(pe, true) !== 0x00004550) return 0;
  const sections = view.getUint16(pe + 6, true);
  const table = pe + 24 + view.getUint16(pe + 20, true);
  if (table + sections * 40 > view.byteLength) return table + sections * 40;
  let end = 0;
  for (let i = 0; i < sections; i++) {
    const at = table + i * 40;
    end = Math.max(end, view.getUint32(at + 20, true) + view.getUint32(at + 16, true));
  }
  return end;
}

function notAnImage(view: DataView): FaultlineError {
  const start = view.getUint32(0, false);
  const gzip = start >>> 16 === 0x1f8b;
  const elf = start === 0x7f454c46;
  const what = gzip ? 'a gzip file' : elf ? 'an ELF file' : 'no RISC-V Linux Image';
  const hint = gzip ? 'gunzip it first' : elf ? 'the file arch/riscv/boot/Image of the same build' : HINT;
  return new FaultlineError('E_NOT_AN_IMAGE', `the kernel is ${what}`, { hint });
}

const read64 = (view: DataView, at: number): number =>
  view.getUint32(at, true) + view.getUint32(at + 4, true) * 2 ** 32;
