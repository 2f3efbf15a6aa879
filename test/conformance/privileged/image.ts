import type { Random } from '../../../src/base/random.ts';
import { assemble, bytesOfBlock, type Item } from '../block.ts';
import { encode } from '../encode.ts';
import { machine, supervisor } from './driver.ts';
import {
  AT,
  BLOCKS,
  DATA,
  DATA_PAGES,
  LANDING,
  LOG_ENTRIES,
  MACHINE,
  OUT,
  PTE_VALUE_COUNT,
  PTE_VALUES,
  RAM_END,
  RECORD_BYTES,
  RECORDS,
  SPACES,
  SUPERVISOR,
  USER_ALIAS,
  WRITTEN_TABLES,
} from './layout.ts';
import { randomTables, satpOf, type Tables, writtenPte } from './tables.ts';

// The memory that both sides start from, and what is left of it.

/** What a block starts from; the CSRs that are not named start as zero. */
export type PrivilegedState = {
  x: bigint[];
  f: bigint[];
  fcsr: number;
  space: number;
  asid: number;
  sstatus: bigint;
  vectored: boolean;
  user: boolean;
  scounteren: number;
  sscratch: bigint;
};

export type PrivilegedCase = { items: readonly Item[]; state: PrivilegedState };

/** What the cases of one image share. */
export type World = { frame: number; tables: Tables; data: Uint8Array; pteValues: bigint[] };

const TABLE_BYTES = SPACES * 4096;
/** Bytes that are compared: the written tables, then everything from RECORDS on. */
export const DUMP_BYTES = TABLE_BYTES + RAM_END - RECORDS;

export const randomWorld = (r: Random, frame: number): World => {
  const data = new Uint8Array(DATA_PAGES * 4096);
  for (let i = 0; i < data.length; i++) data[i] = r.u32();
  const view = new DataView(data.buffer);
  const back = encode('jalr', { rd: 0, rs1: 1, imm: 0 });
  for (let page = 0; page < DATA_PAGES; page++) view.setUint32(page * 4096 + LANDING, back, true);
  const pteValues = Array.from({ length: PTE_VALUE_COUNT }, () => writtenPte(r));
  return { frame, tables: randomTables(r), data, pteValues };
};

export type PrivilegedImage = {
  /** From MACHINE to RAM_END. */
  ram: Uint8Array;
  flash: Uint8Array;
  entry: number;
  next: number;
  records: number;
  blockAddresses: readonly number[];
};

const writeState = (view: DataView, at: number, block: number, stvec: number, s: PrivilegedState): void => {
  const u64 = (offset: number, value: bigint | number) => view.setBigUint64(at + offset, BigInt(value), true);
  s.x.forEach((x, i) => {
    u64(AT.x + 8 * i, x);
  });
  s.f.forEach((f, i) => {
    u64(AT.f + 8 * i, f);
  });
  u64(AT.fcsr, s.fcsr);
  u64(AT.entry, block + (s.user ? USER_ALIAS : 0));
  u64(AT.satp, satpOf(s.space) | (BigInt(s.asid) << 44n));
  u64(AT.sstatus, s.sstatus);
  u64(AT.stvec, stvec + (s.vectored ? 1 : 0));
  u64(AT.sscratch, s.sscratch);
  u64(AT.scounteren, s.scounteren);
};

export const buildPrivileged = (world: World, cases: readonly PrivilegedCase[]): PrivilegedImage => {
  const ram = new Uint8Array(RAM_END - MACHINE);
  const view = new DataView(ram.buffer);
  const code = supervisor(world.frame, cases.length);
  ram.set(machine({ address: WRITTEN_TABLES, bytes: TABLE_BYTES }));
  ram.set(new Uint8Array(code.words.buffer), SUPERVISOR - MACHINE);
  ram.set(world.tables.written, WRITTEN_TABLES - MACHINE);
  ram.set(world.data, DATA - MACHINE);
  world.pteValues.forEach((value, i) => {
    view.setBigUint64(PTE_VALUES - MACHINE + 8 * i, value, true);
  });
  let end = BLOCKS;
  const blockAddresses = cases.map(({ items, state }, i) => {
    const at = end;
    ram.set(assemble(items, at), at - MACHINE);
    end += bytesOfBlock(items);
    view.setUint32(end - MACHINE, encode('ebreak', {}), true);
    end += 4;
    writeState(view, RECORDS - MACHINE + i * RECORD_BYTES, at, code.stvec, state);
    return at;
  });
  if (end > WRITTEN_TABLES) throw new Error('too many blocks for one image');
  const { entry, next } = code;
  return { ram, flash: world.tables.flash, entry, next, records: cases.length, blockAddresses };
};

/** The dump's part of our memory. */
export const dumpOf = (ram: Uint8Array): Uint8Array => {
  const dump = new Uint8Array(DUMP_BYTES);
  dump.set(ram.subarray(WRITTEN_TABLES - MACHINE, WRITTEN_TABLES - MACHINE + TABLE_BYTES));
  dump.set(ram.subarray(RECORDS - MACHINE, RAM_END - MACHINE), TABLE_BYTES);
  return dump;
};

const recordOf = (dump: Uint8Array, index: number): DataView =>
  new DataView(dump.buffer, dump.byteOffset + TABLE_BYTES + index * RECORD_BYTES, RECORD_BYTES);

/** Everything but the records. */
const rest = (dump: Uint8Array, records: number): [number, Uint8Array][] => [
  [WRITTEN_TABLES, dump.subarray(0, TABLE_BYTES)],
  [RECORDS + records * RECORD_BYTES, dump.subarray(TABLE_BYTES + records * RECORD_BYTES)],
];

const nameOf = (at: number): string => {
  if (at < AT.f) return `x${at / 8}`;
  if (at < AT.fcsr) return `f${(at - AT.f) / 8}`;
  if (at === AT.fcsr) return 'fcsr';
  if (at >= AT.log && at < AT.log + 32 * LOG_ENTRIES) {
    const field = ['scause', 'sepc', 'stval', 'sstatus'][((at - AT.log) / 8) % 4];
    return `trap ${Math.floor((at - AT.log) / 32)} ${field}`;
  }
  if (at === AT.traps) return 'traps';
  if (at >= AT.out && at < AT.saved) return OUT[(at - AT.out) / 8] ?? `+${at}`;
  return `+${at}`;
};

const hex = (n: bigint): string => n.toString(16).padStart(16, '0');

/** Lines for what differs in one record. */
export const recordDifference = (theirs: Uint8Array, ours: Uint8Array, index: number): string[] => {
  const [a, b] = [recordOf(theirs, index), recordOf(ours, index)];
  const lines: string[] = [];
  for (let at = 0; at < RECORD_BYTES; at += 8) {
    const [x, y] = [a.getBigUint64(at, true), b.getBigUint64(at, true)];
    if (x !== y) lines.push(`  ${nameOf(at).padEnd(16)} qemu ${hex(x)}  ours ${hex(y)}`);
  }
  return lines;
};

/** Lines for what differs in the pages that blocks store to. */
export const memoryDifference = (theirs: Uint8Array, ours: Uint8Array, records: number): string[] => {
  const lines: string[] = [];
  const [a, b] = [rest(theirs, records), rest(ours, records)];
  a.forEach(([address, bytes], part) => {
    bytes.forEach((byte, i) => {
      const other = b[part]![1][i]!;
      if (byte !== other)
        lines.push(
          `  byte ${(address + i).toString(16)}  qemu ${byte.toString(16)}  ours ${other.toString(16)}`,
        );
    });
  });
  return lines.slice(0, 16);
};
