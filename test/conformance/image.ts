import { Assembler } from './assembler.ts';
import { assemble, bytesOfBlock, type Item } from './block.ts';
import { elf, type Segment } from './elf.ts';
import { encode } from './encode.ts';

// The program that both sides run. Its data is a row of records, each the state that a block starts from;
// the driver loads a record, calls the block, stores the state over the record, and goes on to the next.
// At the end it writes all records to standard output.
//
//   record   0  x0..x31          base and link stay as they were
//          256  f0..f31
//          512  fcsr
//          520  address of the block
//          544  window: WINDOW_BYTES that the block may load and store
//
// Two registers are the block's frame and must be left alone: `base` points at the window's middle and
// `link` at the way back. Which two they are differs from image to image.

export const WINDOW_BYTES = 640;
const F_AT = 256;
const FCSR_AT = 512;
const BLOCK_AT = 520;
export const WINDOW_AT = 544;
const RECORD_BYTES = 1216;
/** Where `base` points in a record. */
const CENTER = WINDOW_AT + WINDOW_BYTES / 2;

/** QEMU 7.2 refuses system calls on addresses from 2^31 up. */
export const CODE_ADDRESS = 0x40000000;
const FCSR = 0x003;
const PAGE = 4096;

export type Frame = { base: number; link: number };

/** What a block starts from. `windowRegisters` are registers that hold window offset + address. */
export type State = {
  x: bigint[];
  f: bigint[];
  fcsr: number;
  window: Uint8Array;
  windowRegisters: readonly { register: number; offset: number }[];
};

/** A block and the states it runs from. */
export type Case = { items: readonly Item[]; states: readonly State[] };

export type Image = {
  frame: Frame;
  entry: number;
  segments: readonly Segment[];
  /** Address of the code that goes on to the next record. */
  next: number;
  /** Address of the first system call. */
  exit: number;
  dataAddress: number;
  dataBytes: number;
  records: number;
  /** Instructions of the driver for one record. */
  driverInstructions: number;
  blockAddresses: readonly number[];
};

/** Two registers other than the frame's. */
const scratchOf = (frame: Frame): number => [5, 6, 7].find(r => r !== frame.base && r !== frame.link)!;

const writeDriver = (
  a: Assembler,
  frame: Frame,
  data: number,
  records: number,
): { next: number; exit: number; each: number } => {
  const { base, link } = frame;
  const scratch = scratchOf(frame);
  const registers = Array.from({ length: 31 }, (_, i) => i + 1).filter(r => r !== base && r !== link);
  const floats = Array.from({ length: 32 }, (_, i) => i);
  a.la(base, data + CENTER);
  const loop = a.here;
  for (const f of floats) a.op('fld', { rd: f, rs1: base, imm: F_AT + 8 * f - CENTER });
  a.op('lwu', { rd: scratch, rs1: base, imm: FCSR_AT - CENTER });
  a.op('csrrw', { rd: 0, rs1: scratch, csr: FCSR });
  a.op('ld', { rd: link, rs1: base, imm: BLOCK_AT - CENTER });
  for (const x of registers) a.op('ld', { rd: x, rs1: base, imm: 8 * x - CENTER });
  a.op('jalr', { rd: link, rs1: link, imm: 0 });
  for (const x of registers) a.op('sd', { rs2: x, rs1: base, imm: 8 * x - CENTER });
  for (const f of floats) a.op('fsd', { rs2: f, rs1: base, imm: F_AT + 8 * f - CENTER });
  a.op('csrrs', { rd: scratch, rs1: 0, csr: FCSR });
  a.op('sw', { rs2: scratch, rs1: base, imm: FCSR_AT - CENTER });
  const next = a.here;
  a.op('addi', { rd: base, rs1: base, imm: RECORD_BYTES });
  a.la(scratch, data + records * RECORD_BYTES + CENTER);
  a.op('bne', { rs1: base, rs2: scratch, imm: loop - a.here });
  const each = (a.here - loop) / 4;
  writeWrite(a, data, records);
  const exit = a.here;
  a.op('ecall', {});
  a.li(10, 0).li(17, 94).op('ecall', {}); // exit_group(0)
  return { next, exit, each };
};

/** write(1, data, length) up to the call. */
const writeWrite = (a: Assembler, data: number, records: number): void => {
  a.li(10, 1)
    .la(11, data)
    .li(12, records * RECORD_BYTES)
    .li(17, 64);
};

const writeRecord = (view: DataView, at: number, address: number, block: number, state: State): void => {
  const u64 = (offset: number, value: bigint) => view.setBigUint64(at + offset, value, true);
  state.x.forEach((x, i) => {
    u64(8 * i, x);
  });
  for (const { register, offset } of state.windowRegisters)
    u64(8 * register, BigInt(address + WINDOW_AT + offset));
  state.f.forEach((f, i) => {
    u64(F_AT + 8 * i, f);
  });
  u64(FCSR_AT, BigInt(state.fcsr));
  u64(BLOCK_AT, BigInt(block));
  new Uint8Array(view.buffer, at + WINDOW_AT, WINDOW_BYTES).set(state.window);
};

const alignPage = (n: number): number => Math.ceil(n / PAGE) * PAGE;

/** `jalr x0, 0(link)` */
const RETURN_BYTES = 4;

export const buildImage = (frame: Frame, cases: readonly Case[]): Image => {
  const records = cases.reduce((sum, c) => sum + c.states.length, 0);
  const driverBytes = new Assembler(CODE_ADDRESS);
  writeDriver(driverBytes, frame, CODE_ADDRESS, records);
  let end = CODE_ADDRESS + driverBytes.words.length * 4;
  const blockAddresses = cases.map(c => {
    const at = end;
    end += bytesOfBlock(c.items) + RETURN_BYTES;
    return at;
  });
  const dataAddress = alignPage(end) + PAGE;
  const driver = new Assembler(CODE_ADDRESS);
  const { next, exit, each } = writeDriver(driver, frame, dataAddress, records);
  const code = new Uint8Array(end - CODE_ADDRESS);
  code.set(new Uint8Array(new Uint32Array(driver.words).buffer));
  const data = new DataView(new ArrayBuffer(records * RECORD_BYTES));
  const back = encode('jalr', { rd: 0, rs1: frame.link, imm: 0 });
  let record = 0;
  cases.forEach((c, i) => {
    const bytes = assemble(c.items, blockAddresses[i]!);
    const at = blockAddresses[i]! - CODE_ADDRESS;
    code.set(bytes, at);
    for (let k = 0; k < 4; k++) code[at + bytes.length + k] = back >>> (8 * k);
    for (const state of c.states) {
      const offset = record++ * RECORD_BYTES;
      writeRecord(data, offset, dataAddress + offset, blockAddresses[i]!, state);
    }
  });
  return {
    frame,
    entry: CODE_ADDRESS,
    segments: [
      { address: CODE_ADDRESS, bytes: code, flags: 'rx' },
      { address: dataAddress, bytes: new Uint8Array(data.buffer), flags: 'rw' },
    ],
    next,
    exit,
    dataAddress,
    dataBytes: records * RECORD_BYTES,
    records,
    driverInstructions: each,
    blockAddresses,
  };
};

export const elfOf = (image: Image): Uint8Array => elf(image.entry, image.segments);

export const recordBytes = (data: Uint8Array, index: number): Uint8Array =>
  data.subarray(index * RECORD_BYTES, (index + 1) * RECORD_BYTES);

export const recordOf = (address: number, image: Image): number =>
  Math.round((address - CENTER - image.dataAddress) / RECORD_BYTES);

export const centerOf = (index: number, image: Image): number =>
  image.dataAddress + index * RECORD_BYTES + CENTER;

/** The places where two records differ, as text. */
export const describeDifference = (theirs: Uint8Array, ours: Uint8Array): string[] => {
  const [a, b] = [theirs, ours].map(bytes => new DataView(bytes.buffer, bytes.byteOffset, bytes.length)) as [
    DataView,
    DataView,
  ];
  const hex = (n: bigint) => n.toString(16).padStart(16, '0');
  const nameOf = (at: number): string => {
    if (at < F_AT) return `x${at / 8}`;
    if (at < FCSR_AT) return `f${(at - F_AT) / 8}`;
    if (at === FCSR_AT) return 'fcsr';
    return `window${at >= CENTER ? '+' : ''}${at - CENTER}`;
  };
  const lines: string[] = [];
  for (let at = 0; at < RECORD_BYTES; at += 8) {
    const [x, y] = [a.getBigUint64(at, true), b.getBigUint64(at, true)];
    if (x !== y) lines.push(`  ${nameOf(at).padEnd(11)} qemu ${hex(x)}  ours ${hex(y)}`);
  }
  return lines;
};
