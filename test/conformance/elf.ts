// A static ELF64 executable for RISC-V: generic ABI, "Object Files" and "Program Loading".

export type Segment = { address: number; bytes: Uint8Array; flags: 'rx' | 'rw' };

const HEADER_BYTES = 64;
const PROGRAM_HEADER_BYTES = 56;
const PAGE = 4096;
const EM_RISCV = 243;
/** RVC code, double-precision float ABI. */
const E_FLAGS = 0x5;

const FLAGS = { rx: 5, rw: 6 } as const;

const writeHeader = (view: DataView, entry: number, segments: number): void => {
  [0x7f, 0x45, 0x4c, 0x46, 2, 1, 1].forEach((byte, i) => {
    view.setUint8(i, byte);
  });
  const u16 = (at: number, value: number) => view.setUint16(at, value, true);
  u16(16, 2); // ET_EXEC
  u16(18, EM_RISCV);
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(entry), true);
  view.setBigUint64(32, BigInt(HEADER_BYTES), true);
  view.setUint32(48, E_FLAGS, true);
  u16(52, HEADER_BYTES);
  u16(54, PROGRAM_HEADER_BYTES);
  u16(56, segments);
};

/** Segments' addresses are multiples of 4096. */
export const elf = (entry: number, segments: readonly Segment[]): Uint8Array => {
  let end = PAGE;
  const offsets = segments.map(s => {
    const offset = end;
    end += Math.ceil(s.bytes.length / PAGE) * PAGE;
    return offset;
  });
  const file = new Uint8Array(end);
  const view = new DataView(file.buffer);
  writeHeader(view, entry, segments.length);
  segments.forEach((s, i) => {
    const at = HEADER_BYTES + i * PROGRAM_HEADER_BYTES;
    view.setUint32(at, 1, true); // PT_LOAD
    view.setUint32(at + 4, FLAGS[s.flags], true);
    const words = [offsets[i]!, s.address, s.address, s.bytes.length, s.bytes.length, PAGE];
    words.forEach((word, k) => {
      view.setBigUint64(at + 8 + 8 * k, BigInt(word), true);
    });
    file.set(s.bytes, offsets[i]);
  });
  return file;
};
