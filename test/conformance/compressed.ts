import type { Random } from '../../src/base/random.ts';
import { type Item, item, type Piece } from './block.ts';
import { pack, range } from './encode.ts';

// Every form of the C extension, encoded from the chapter's figures.

/** Registers a block may use: any, of x8..x15, and the frame's. */
export type CompressedRegisters = {
  /** Writable, without x0. */
  any: readonly number[];
  /** Writable among x8..x15. */
  short: readonly number[];
  /** Of x8..x15, pointing into the window. x2 does too. */
  base: number;
};

const half = (text: string, word: number): Item => item(1, { bytes: 2, text, word: () => word });

const op = (quadrant: number, funct3: number): number => quadrant | (funct3 << 13);

const FULL = range(4, 0);
const imm6 = (imm: number): number => pack(imm, [5], 12) | pack(imm, FULL, 2);

type Form = (r: Random, x: CompressedRegisters) => Item;

const signed6 = (r: Random): number => r.below(64) - 32;
const nonZero6 = (r: Random): number => signed6(r) || 1;
const anyFloat = (r: Random): number => r.below(32);
const shortFloat = (r: Random): number => 8 + r.below(8);
const source = (r: Random): number => r.below(32);
/** Never x0, which names another instruction. */
const sourceNot0 = (r: Random): number => 1 + r.below(31);

const wordOffset = (imm: number): number => pack(imm, [5, 4, 3], 10) | pack(imm, [2, 6], 5);
const doubleOffset = (imm: number): number => pack(imm, [5, 4, 3], 10) | pack(imm, [7, 6], 5);

/** Loads and stores through `base`; `rd` is the register that is loaded or stored. */
const shortMemory =
  (name: string, funct3: number, bytes: 4 | 8, rd: (r: Random, x: CompressedRegisters) => number): Form =>
  (r, x) => {
    const imm = r.below(32) * bytes;
    const register = rd(r, x);
    const offset = bytes === 4 ? wordOffset(imm) : doubleOffset(imm);
    const word = op(0, funct3) | offset | ((x.base - 8) << 7) | ((register - 8) << 2);
    return half(`${name} r${register}, ${imm}(x${x.base})`, word);
  };

const stackLoad =
  (name: string, funct3: number, bytes: 4 | 8, rd: (r: Random, x: CompressedRegisters) => number): Form =>
  (r, x) => {
    const imm = r.below(64) * bytes;
    const register = rd(r, x);
    const low = bytes === 4 ? [4, 3, 2, 7, 6] : [4, 3, 8, 7, 6];
    const word = op(2, funct3) | pack(imm, [5], 12) | pack(imm, low, 2) | (register << 7);
    return half(`${name} r${register}, ${imm}(x2)`, word);
  };

const stackStore =
  (name: string, funct3: number, bytes: 4 | 8): Form =>
  r => {
    const imm = r.below(64) * bytes;
    const register = source(r);
    const bits = bytes === 4 ? [5, 4, 3, 2, 7, 6] : [5, 4, 3, 8, 7, 6];
    return half(`${name} r${register}, ${imm}(x2)`, op(2, funct3) | pack(imm, bits, 7) | (register << 2));
  };

const immediate =
  (name: string, funct3: number, imm: (r: Random) => number): Form =>
  (r, x) => {
    const rd = r.pick(x.any);
    const value = imm(r);
    return half(`${name} x${rd}, ${value}`, op(1, funct3) | imm6(value) | (rd << 7));
  };

const shortImmediate =
  (name: string, funct2: number, imm: (r: Random) => number): Form =>
  (r, x) => {
    const rd = r.pick(x.short);
    const value = imm(r);
    return half(`${name} x${rd}, ${value}`, op(1, 4) | imm6(value) | (funct2 << 10) | ((rd - 8) << 7));
  };

const shortRegisters =
  (name: string, high: number, funct2: number): Form =>
  (r, x) => {
    const rd = r.pick(x.short);
    const rs2 = 8 + r.below(8);
    const word = op(1, 4) | (high << 12) | (3 << 10) | ((rd - 8) << 7) | (funct2 << 5) | ((rs2 - 8) << 2);
    return half(`${name} x${rd}, x${rs2}`, word);
  };

const addi4spn: Form = (r, x) => {
  const imm = 4 * (1 + r.below(255));
  const rd = r.pick(x.short);
  const word = op(0, 0) | pack(imm, [5, 4, 9, 8, 7, 6, 2, 3], 5) | ((rd - 8) << 2);
  return half(`c.addi4spn x${rd}, x2, ${imm}`, word);
};

/** Moves x2 and takes it back. */
const addi16sp: Form = (r, x) => {
  const imm = 16 * (r.below(31) + 1);
  const move = (by: number): Piece => ({
    bytes: 2,
    text: `c.addi16sp ${by}`,
    word: () => op(1, 3) | (2 << 7) | pack(by, [9], 12) | pack(by, [4, 6, 8, 7, 5], 2),
  });
  const by = r.oneIn(2) ? imm : -imm;
  const between = addi4spn(r, x).pieces[0]!;
  return item(3, move(by), between, move(-by));
};

const lui: Form = (r, x) => {
  const rd = r.pick(x.any.filter(n => n !== 2));
  const imm = nonZero6(r);
  return half(`c.lui x${rd}, ${imm}`, op(1, 3) | imm6(imm) | (rd << 7));
};

const slli: Form = (r, x) => {
  const rd = r.pick(x.any);
  const shift = r.below(64);
  return half(`c.slli x${rd}, ${shift}`, op(2, 0) | imm6(shift) | (rd << 7));
};

const twoRegisters =
  (name: string, link: 0 | 1): Form =>
  (r, x) => {
    const rd = r.pick(x.any);
    const rs2 = sourceNot0(r);
    return half(`${name} x${rd}, x${rs2}`, op(2, 4) | (link << 12) | (rd << 7) | (rs2 << 2));
  };

const nop: Form = () => half('c.nop', 0x0001);

/** c.j reaches 2 KiB, c.beqz and c.bnez 256 bytes: 20 items are at most 240. */
const jump: Form = r => ({
  counts: 1,
  skip: r.below(8),
  pieces: [
    {
      bytes: 2,
      text: 'c.j TARGET',
      word: (at, target) => op(1, 5) | pack(target - at, [11, 4, 9, 8, 10, 6, 7, 3, 2, 1, 5], 2),
    },
  ],
});

const branch =
  (name: string, funct3: number): Form =>
  r => {
    const rs1 = 8 + r.below(8);
    const word = (at: number, target: number) => {
      const by = target - at;
      return op(1, funct3) | pack(by, [8, 4, 3], 10) | ((rs1 - 8) << 7) | pack(by, [7, 6, 2, 1, 5], 2);
    };
    return { counts: 1, skip: r.below(8), pieces: [{ bytes: 2, text: `${name} x${rs1}, TARGET`, word }] };
  };

/** auipc, then a compressed jump two instructions on. c.jalr writes x1. */
const jumpRegister =
  (name: string, link: 0 | 1): Form =>
  (r, x) => {
    const rs1 = r.pick(x.any);
    const distance = 4 + 4 + 2;
    const auipc: Piece = { bytes: 4, text: `auipc x${rs1}, 0`, word: () => 0x17 | (rs1 << 7) };
    const addi: Piece = {
      bytes: 4,
      text: `addi x${rs1}, x${rs1}, ${distance}`,
      word: () => 0x13 | (rs1 << 7) | (rs1 << 15) | (distance << 20),
    };
    const go: Piece = { bytes: 2, text: `${name} x${rs1}`, word: () => op(2, 4) | (link << 12) | (rs1 << 7) };
    return item(1, auipc, addi, go);
  };

const anyX = (r: Random, x: CompressedRegisters): number => r.pick(x.any);
const shortX = (r: Random, x: CompressedRegisters): number => r.pick(x.short);
const shortSource = (r: Random): number => 8 + r.below(8);

/** All 35 forms, without c.ebreak. c.jalr only when x1 is free. */
export const compressedForms = (x: CompressedRegisters): Form[] => [
  nop,
  addi4spn,
  addi16sp,
  shortMemory('c.fld', 1, 8, shortFloat),
  shortMemory('c.lw', 2, 4, shortX),
  shortMemory('c.ld', 3, 8, shortX),
  shortMemory('c.fsd', 5, 8, shortFloat),
  shortMemory('c.sw', 6, 4, shortSource),
  shortMemory('c.sd', 7, 8, shortSource),
  immediate('c.addi', 0, nonZero6),
  immediate('c.addiw', 1, signed6),
  immediate('c.li', 2, signed6),
  lui,
  shortImmediate('c.srli', 0, r => r.below(64)),
  shortImmediate('c.srai', 1, r => r.below(64)),
  shortImmediate('c.andi', 2, signed6),
  shortRegisters('c.sub', 0, 0),
  shortRegisters('c.xor', 0, 1),
  shortRegisters('c.or', 0, 2),
  shortRegisters('c.and', 0, 3),
  shortRegisters('c.subw', 1, 0),
  shortRegisters('c.addw', 1, 1),
  jump,
  branch('c.beqz', 6),
  branch('c.bnez', 7),
  slli,
  stackLoad('c.fldsp', 1, 8, anyFloat),
  stackLoad('c.lwsp', 2, 4, anyX),
  stackLoad('c.ldsp', 3, 8, anyX),
  stackStore('c.fsdsp', 5, 8),
  stackStore('c.swsp', 6, 4),
  stackStore('c.sdsp', 7, 8),
  jumpRegister('c.jr', 0),
  ...(x.any.includes(1) ? [jumpRegister('c.jalr', 1)] : []),
  twoRegisters('c.mv', 0),
  twoRegisters('c.add', 1),
];
