import { disassemble, encode, type Fields } from './encode.ts';

// A block is a list of items; an item is instructions that only make sense together. Items can be left
// out one by one, so jumps name how many items they skip.

export type Piece = {
  bytes: 2 | 4;
  text: string;
  /** The halfword or word; `at` is its address, `target` where the item's `skip` leads. */
  word(at: number, target: number): number;
};

export type Item = {
  pieces: readonly Piece[];
  /** The item's jump lands behind this many of the following items. */
  skip: number;
  /** Pieces that belong to the extension under test. */
  counts: number;
};

export const piece = (name: string, fields: Fields): Piece => ({
  bytes: 4,
  text: disassemble(name, fields),
  word: () => encode(name, fields),
});

/** A branch or jal to the item's target. */
export const jumpPiece = (name: string, fields: Fields): Piece => ({
  bytes: 4,
  text: disassemble(name, fields).replace(/ ?0$/, ' TARGET'),
  word: (at, target) => encode(name, { ...fields, imm: target - at }),
});

export const item = (counts: number, ...pieces: Piece[]): Item => ({ pieces, skip: 0, counts });

const bytesOf = (i: Item): number => i.pieces.reduce((sum, p) => sum + p.bytes, 0);

/** Addresses of the items and of the block's end. */
const layout = (items: readonly Item[], base: number): number[] => {
  const addresses = [base];
  for (const i of items) addresses.push(addresses.at(-1)! + bytesOf(i));
  return addresses;
};

const targetOf = (addresses: readonly number[], index: number, skip: number): number =>
  addresses[Math.min(index + 1 + skip, addresses.length - 1)]!;

/** The block's bytes when it starts at `base`. */
export const assemble = (items: readonly Item[], base: number): Uint8Array => {
  const addresses = layout(items, base);
  const bytes = new Uint8Array(addresses.at(-1)! - base);
  items.forEach((i, index) => {
    let at = addresses[index]!;
    for (const p of i.pieces) {
      const word = p.word(at, targetOf(addresses, index, i.skip));
      for (let k = 0; k < p.bytes; k++) bytes[at - base + k] = word >>> (8 * k);
      at += p.bytes;
    }
  });
  return bytes;
};

export const bytesOfBlock = (items: readonly Item[]): number => items.reduce((sum, i) => sum + bytesOf(i), 0);

/** One line an instruction. */
export const listing = (items: readonly Item[], base: number): string[] => {
  const addresses = layout(items, base);
  const lines: string[] = [];
  items.forEach((i, index) => {
    let at = addresses[index]!;
    const target = targetOf(addresses, index, i.skip);
    for (const p of i.pieces) {
      const word = (p.word(at, target) & (p.bytes === 2 ? 0xffff : -1)) >>> 0;
      const text = p.text.replace('TARGET', `0x${target.toString(16)}`);
      lines.push(
        `  ${at.toString(16)}:  ${word
          .toString(16)
          .padStart(p.bytes * 2, '0')
          .padEnd(8)}  ${text}`,
      );
      at += p.bytes;
    }
  });
  return lines;
};
