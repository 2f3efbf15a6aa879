import type { Random } from '../../../src/base/random.ts';
import { DATA, DATA_PAGES, FLASH, LANDING, MACHINE, SPACES, WRITTEN_TABLES } from './layout.ts';

// Sv39 page tables with everything wrong that can be, and addresses that lead there.
//
//   root     2   RAM, supervisor, 1 GiB                  6  RAM + 4 GiB, user, execute
//           16   level1        300  level1 too, in the upper half
//           17   1 GiB leaf, misaligned                 18  1 GiB leaf, random permissions
//   level1   0   level0 a       1   level0 in RAM      2-9  2 MiB leaves
//           10   pointer with A, D or U                 11  level0 b
//           12   not valid     13   reserved bits       14  W without R

const Pte = { V: 1, R: 2, W: 4, X: 8, U: 16, G: 32, A: 64, D: 128 } as const;
const RWX = Pte.R | Pte.W | Pte.X;
const PAGE = 4096;
/** Entries of a level 0 table that lead somewhere. */
const ENTRIES = 64;
/**
 * Data accesses stay in the first half of a table and of the data pages, jumps in the second, a page
 * apart: QEMU 7.2 lets supervisor mode execute a user page that SUM let it load from before.
 */
export const DATA_ENTRIES = 32;
export const JUMP_ENTRIES = { first: 34, count: 30 } as const;
const DATA_HALF = DATA_PAGES / 2;
const PAGES_PER_SPACE = 4;
const GIB = 1 << 30;
const MIB2 = 1 << 21;
const BASE = 16 * GIB;
const UPPER = 300 - 512;
export const SV39 = 8n << 60n;

const pte = (address: number, flags: number): bigint => (BigInt(address / PAGE) << 10n) | BigInt(flags);

/** Flags of a leaf, most of them good for something. */
const leafFlags = (r: Random): number => {
  let flags = r.oneIn(24) ? 0 : Pte.V;
  flags |= r.oneIn(3) ? RWX : r.below(8) << 1;
  if (r.oneIn(2)) flags |= Pte.U;
  if (r.oneIn(8)) flags |= Pte.G;
  if (!r.oneIn(8)) flags |= Pte.A;
  if (!r.oneIn(6)) flags |= Pte.D;
  return flags | (r.below(4) << 8);
};

const reserved = (r: Random): bigint => (r.oneIn(24) ? 1n << BigInt(54 + r.below(10)) : 0n);

const dataPage = (r: Random): number => DATA + r.below(DATA_PAGES) * PAGE;

const smallPage = (r: Random): bigint => pte(dataPage(r), leafFlags(r)) | reserved(r);

/** What blocks write: QEMU sets A and D in RAM, so they are set already. */
export const writtenPte = (r: Random): bigint =>
  pte(dataPage(r), (leafFlags(r) & ~Pte.G) | Pte.A | Pte.D) | reserved(r);

const largePage = (r: Random): bigint => {
  const misaligned = r.oneIn(6) ? PAGE * (1 + r.below(511)) : 0;
  return pte(DATA + misaligned, leafFlags(r)) | reserved(r);
};

const level1 = (r: Random, a: number, b: number, written: number): Map<number, bigint> => {
  const entries = new Map<number, bigint>();
  entries.set(0, pte(a, Pte.V));
  entries.set(1, pte(written, Pte.V));
  for (let i = 2; i < 10; i++) entries.set(i, largePage(r));
  entries.set(10, pte(a, Pte.V | r.pick([Pte.A, Pte.D, Pte.U])));
  entries.set(11, pte(b, Pte.V));
  entries.set(12, pte(b, 0));
  entries.set(13, pte(b, Pte.V) | (1n << BigInt(54 + r.below(10))));
  entries.set(14, pte(DATA, Pte.V | Pte.W | Pte.A | Pte.D | (r.oneIn(2) ? Pte.X : 0)));
  return entries;
};

const root = (r: Random, level1: number): Map<number, bigint> => {
  const always = Pte.V | Pte.G | Pte.A | Pte.D;
  return new Map([
    [2, pte(MACHINE, always | RWX)],
    [6, pte(MACHINE, always | Pte.X | Pte.U)],
    [16, pte(level1, Pte.V)],
    [17, pte(DATA, always | RWX)],
    [18, pte(MACHINE, leafFlags(r))],
    [300, pte(level1, Pte.V)],
  ]);
};

export type Tables = {
  /** From FLASH on. */
  flash: Uint8Array;
  /** From WRITTEN_TABLES on. */
  written: Uint8Array;
};

export const writtenTable = (space: number): number => WRITTEN_TABLES + space * PAGE;
const rootTable = (space: number): number => FLASH + space * PAGES_PER_SPACE * PAGE;

/** satp without an ASID. */
export const satpOf = (space: number): bigint => SV39 | BigInt(rootTable(space) / PAGE);

export const randomTables = (r: Random): Tables => {
  const flash = new DataView(new ArrayBuffer(SPACES * PAGES_PER_SPACE * PAGE));
  const written = new DataView(new ArrayBuffer(SPACES * PAGE));
  const fill = (view: DataView, at: number, make: () => bigint) => {
    for (let i = 0; i < ENTRIES; i++) view.setBigUint64(at + 8 * i, make(), true);
  };
  const put = (at: number, entries: Map<number, bigint>) => {
    for (const [i, entry] of entries) flash.setBigUint64(at + 8 * i, entry, true);
  };
  for (let space = 0; space < SPACES; space++) {
    const at = rootTable(space);
    const [first, a, b] = [at + PAGE, at + 2 * PAGE, at + 3 * PAGE] as const;
    put(at - FLASH, root(r, first));
    put(first - FLASH, level1(r, a, b, writtenTable(space)));
    fill(flash, a - FLASH, () => smallPage(r));
    fill(flash, b - FLASH, () => smallPage(r));
    fill(written, space * PAGE, () => writtenPte(r));
  }
  return { flash: new Uint8Array(flash.buffer), written: new Uint8Array(written.buffer) };
};

/** The first address that the table in RAM maps. */
export const WRITTEN_BASE = BASE + MIB2;

const u64 = (n: number): bigint => BigInt.asUintN(64, BigInt(n));

/** The start of a page, mapped or not. */
const somePage = (r: Random, use: 'data' | 'jump'): bigint => {
  const isData = use === 'data';
  const entry = () =>
    isData ? r.below(DATA_ENTRIES + 1) : JUMP_ENTRIES.first + r.below(JUMP_ENTRIES.count + 1);
  const page = () => entry() * PAGE;
  const pageOfData = () => (isData ? r.below(DATA_HALF) : DATA_HALF + 1 + r.below(DATA_HALF - 1)) * PAGE;
  const half = r.oneIn(4) ? UPPER * GIB : BASE;
  const places: (() => number)[] = [
    () => half + page(),
    // One address each, or a fence of one would leave the other.
    () => BASE + MIB2 + page(),
    () => half + (2 + r.below(8)) * MIB2 + pageOfData(),
    () => half + 11 * MIB2 + page(),
    () => half + r.pick([10, 12, 13, 14]) * MIB2 + page(),
    () => r.pick([17, 18]) * GIB + (DATA - MACHINE) + pageOfData(),
    () => DATA + pageOfData(),
    () => (isData ? 0 : 256 * PAGE) + r.below(256) * PAGE,
  ];
  const weights = [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5, 6, 7];
  return u64(places[r.pick(weights)]!());
};

const spoil = (r: Random, address: bigint): bigint =>
  r.oneIn(24) ? address ^ (1n << BigInt(38 + r.below(26))) : address;

/** Near one end of a page, so that accesses cross into the next. */
export const dataAddress = (r: Random): bigint =>
  spoil(r, somePage(r, 'data') + BigInt(r.oneIn(2) ? r.below(64) : PAGE - 1 - r.below(16)));

export const jumpAddress = (r: Random): bigint => spoil(r, somePage(r, 'jump') + BigInt(LANDING));
