import type { Semantics } from './emit.ts';

/** Which immediate an instruction carries; also how it is written in assembly. */
export type Immediate = 'i' | 's' | 'b' | 'u' | 'j' | 'shift5' | 'shift6' | 'rm' | 'csr' | 'csri' | 'fence';

/** Operands in assembly order, as `objdump` writes them. `mem` is `imm(rs1)`, `addr` is `(rs1)`. */
export type Operand = 'rd' | 'rs1' | 'rs2' | 'rs3' | 'imm' | 'mem' | 'addr' | 'csr' | 'uimm' | 'rm' | 'fence';

export type RegisterFile = 'x' | 'f';

export type Format = {
  readonly rd?: RegisterFile;
  readonly rs1?: RegisterFile;
  readonly rs2?: RegisterFile;
  readonly rs3?: RegisterFile;
  readonly imm?: Immediate;
  readonly syntax: readonly Operand[];
};

/** How a load fills its register from fewer bits. */
export const Extend = { Sign: 0, Zero: 1, Box: 2 } as const;
export type Extend = (typeof Extend)[keyof typeof Extend];

/** One row of the table that decoder, assembler, disassembler and interpreter derive from. */
export type Instruction = {
  readonly name: string;
  /** The word matches when `(word & mask) === match`, both unsigned. */
  readonly match: number;
  readonly mask: number;
  readonly format: Format;
  /** Absent for what leaves generated code: CSRs, traps, fences of the system. See slow.ts. */
  readonly emit?: Semantics;
  /** Of loads. */
  readonly extend?: Extend;
};

export const FORMAT = {
  none: { syntax: [] },
  r: { rd: 'x', rs1: 'x', rs2: 'x', syntax: ['rd', 'rs1', 'rs2'] },
  i: { rd: 'x', rs1: 'x', imm: 'i', syntax: ['rd', 'rs1', 'imm'] },
  shift5: { rd: 'x', rs1: 'x', imm: 'shift5', syntax: ['rd', 'rs1', 'imm'] },
  shift6: { rd: 'x', rs1: 'x', imm: 'shift6', syntax: ['rd', 'rs1', 'imm'] },
  load: { rd: 'x', rs1: 'x', imm: 'i', syntax: ['rd', 'mem'] },
  store: { rs1: 'x', rs2: 'x', imm: 's', syntax: ['rs2', 'mem'] },
  branch: { rs1: 'x', rs2: 'x', imm: 'b', syntax: ['rs1', 'rs2', 'imm'] },
  u: { rd: 'x', imm: 'u', syntax: ['rd', 'imm'] },
  j: { rd: 'x', imm: 'j', syntax: ['rd', 'imm'] },
  jalr: { rd: 'x', rs1: 'x', imm: 'i', syntax: ['rd', 'mem'] },
  fence: { imm: 'fence', syntax: ['fence'] },
  csr: { rd: 'x', rs1: 'x', imm: 'csr', syntax: ['rd', 'csr', 'rs1'] },
  csri: { rd: 'x', imm: 'csri', syntax: ['rd', 'csr', 'uimm'] },
  sfence: { rs1: 'x', rs2: 'x', syntax: ['rs1', 'rs2'] },
  lr: { rd: 'x', rs1: 'x', syntax: ['rd', 'addr'] },
  amo: { rd: 'x', rs1: 'x', rs2: 'x', syntax: ['rd', 'rs2', 'addr'] },
  fpLoad: { rd: 'f', rs1: 'x', imm: 'i', syntax: ['rd', 'mem'] },
  fpStore: { rs1: 'x', rs2: 'f', imm: 's', syntax: ['rs2', 'mem'] },
  fp2: { rd: 'f', rs1: 'f', rs2: 'f', syntax: ['rd', 'rs1', 'rs2'] },
  fp2rm: { rd: 'f', rs1: 'f', rs2: 'f', imm: 'rm', syntax: ['rd', 'rs1', 'rs2', 'rm'] },
  fp3rm: { rd: 'f', rs1: 'f', rs2: 'f', rs3: 'f', imm: 'rm', syntax: ['rd', 'rs1', 'rs2', 'rs3', 'rm'] },
  fp1rm: { rd: 'f', rs1: 'f', imm: 'rm', syntax: ['rd', 'rs1', 'rm'] },
  fpCompare: { rd: 'x', rs1: 'f', rs2: 'f', syntax: ['rd', 'rs1', 'rs2'] },
  fpToX: { rd: 'x', rs1: 'f', syntax: ['rd', 'rs1'] },
  fpToXrm: { rd: 'x', rs1: 'f', imm: 'rm', syntax: ['rd', 'rs1', 'rm'] },
  xToFp: { rd: 'f', rs1: 'x', syntax: ['rd', 'rs1'] },
  xToFpRm: { rd: 'f', rs1: 'x', imm: 'rm', syntax: ['rd', 'rs1', 'rm'] },
} as const satisfies Record<string, Format>;

/** Opcode, funct3 and funct7 in place; those left out are not matched. */
export function bits(opcode: number, funct3?: number, funct7?: number): { match: number; mask: number } {
  let match = opcode;
  let mask = 0x7f;
  if (funct3 !== undefined) {
    match |= funct3 << 12;
    mask |= 7 << 12;
  }
  if (funct7 !== undefined) {
    match |= funct7 << 25;
    mask |= 0x7f << 25;
  }
  return { match: match >>> 0, mask: mask >>> 0 };
}

/** The same with the rs2 field matched too. */
export function bits2(opcode: number, funct3: number | undefined, funct7: number, rs2: number) {
  const b = bits(opcode, funct3, funct7);
  return { match: (b.match | (rs2 << 20)) >>> 0, mask: (b.mask | (31 << 20)) >>> 0 };
}

/** A whole word matched. */
export const exactly = (word: number) => ({ match: word >>> 0, mask: 0xffffffff });
