import type { Immediate } from './instruction.ts';
import { INSTRUCTIONS } from './instructions.ts';

// What a decoded page consists of: one record for each halfword, then a record that leads to the next page.
//
//   byte  0   u16  op      which case of the interpreter; 0: not decoded yet
//         2   u16  rd      byte offset of the register in the vCPU record; writes to x0 go to `dummy`
//         4   u16  rs1
//         6   u16  rs2     below it the rounding mode, above it the number of rs3: see RS2_MASK
//
// The immediate is in the place of an operand that there is not: see `immediateAt`. That of a branch within the page is
// the distance in records' bytes. Op.Slow has the instruction itself, as it stands in memory, in the last four bytes;
// others have no room for that: see Decoder.rawOf.

export const RECORD_BYTES = 8;
export const RECORD = { op: 0, rd: 2, rs1: 4, rs2: 6, raw: 4 } as const;
/** Where instructions that round have the offset of rs2, which is a multiple of 8 below 512. */
export const RS2_MASK = 0x1f8;
export const RM_MASK = 7;
export const RS3_SHIFT = 9;
export const PAGE_RECORDS = 2048;
/** Where a slot has, for each record, the id of the region entry there, or 0: a u16, see region/layout.ts. */
export const SLOT_ENTRIES = (PAGE_RECORDS + 1) * RECORD_BYTES;
/** A slot of the code cache: an odd number of 64 bytes, which keeps slots from sharing cache sets. */
export const SLOT_BYTES = SLOT_ENTRIES + PAGE_RECORDS * 2 + 56;
/** Record bytes for each byte of code: 8 for 2. */
export const IMM_SCALE = RECORD_BYTES / 2;
/** log2 of IMM_SCALE. */
export const PC_SHIFT = 2;

/** How many instructions to decode ahead of the one that is asked for. */
export const AHEAD = 16;
/** Instructions of which what is known is kept: see known.ts. A power of two. */
export const KNOWN = 32768;
export const KNOWN_BYTES = 16;
/**
 * What is known beside the record: halfwords of the instruction, 0 when what follows need not be one; whether it goes to
 * `pc` and a distance, that of a branch or that of a jump; and the case it has when that leads to another page.
 */
export const INFO = { halfwords: 3, isRelative: 4, isJump: 8, farShift: 16 } as const;

/** The place of an immediate: RECORD.rs1 for those that have four bytes; 0 if the record has none. */
export function immediateAt(kind: Immediate | undefined): number {
  switch (kind) {
    case undefined:
    case 'rm':
      return 0;
    case 'u':
    case 'j':
      return RECORD.rs1;
    case 's':
    case 'b':
      return RECORD.rd;
    default:
      return RECORD.rs2;
  }
}

export const Op = {
  /** Calls out to the decoder, then again. */
  Undecoded: 0,
  /** Past the page's last instruction: look up the next page. */
  PageEnd: 1,
  /** A 32-bit instruction in the page's last halfword. */
  Cross: 2,
  /** Everything without generated semantics, and illegal instructions. */
  Slow: 3,
  /** A region begins here: back to whoever called the interpreter. Its entry knows the instruction's op. */
  Region: 4,
} as const;
const FIRST = 5;

/** One case of the interpreter: a row at a length; `far` when its target is in another page. */
export type Variant = { readonly row: number; readonly length: 2 | 4; readonly far: boolean };

/** What `expand` can yield, hence the rows that come in a 2-byte form. */
const SHORT: ReadonlySet<string> = new Set(
  (
    'addi addiw andi slli srli srai lui add sub xor or and addw subw lw ld sw sd fld fsd ' +
    'jal jalr beq bne'
  ).split(' '),
);

function listVariants(): Variant[] {
  const list: Variant[] = [];
  INSTRUCTIONS.forEach((instruction, row) => {
    if (instruction.emit === undefined) return;
    const imm = instruction.format.imm;
    for (const far of imm === 'b' || imm === 'j' ? [false, true] : [false]) {
      list.push({ row, length: 4, far });
      if (SHORT.has(instruction.name)) list.push({ row, length: 2, far });
    }
  });
  return list;
}

/** In the order of their op numbers, of which the first is FIRST_VARIANT. */
export const VARIANTS: readonly Variant[] = listVariants();
export const FIRST_VARIANT = FIRST;

function index(): Uint16Array {
  const table = new Uint16Array(INSTRUCTIONS.length * 4);
  VARIANTS.forEach((v, i) => {
    table[v.row * 4 + (v.length === 2 ? 1 : 0) + (v.far ? 2 : 0)] = FIRST + i;
  });
  return table;
}
const INDEX = index();

/** The interpreter's case for a row; Op.Slow when it has no generated semantics. */
export const opOf = (row: number, length: number, far: boolean): number =>
  (INDEX[row * 4 + (length === 2 ? 1 : 0) + (far ? 2 : 0)] as number) || Op.Slow;
