// Compressed instructions become the 32-bit ones they abbreviate: chapter "C", tables of section
// "RVC Instruction Set Listings", RV64 column. 0 is what an illegal halfword becomes.

const field = (h: number, high: number, low: number): number => (h >>> low) & ((1 << (high - low + 1)) - 1);
const bit = (h: number, from: number, to: number): number => ((h >>> from) & 1) << to;
const signed = (value: number, width: number): number => (value << (32 - width)) >> (32 - width);
/** The three-bit register fields name x8..x15. */
const rdShort = (h: number): number => 8 + field(h, 4, 2);
const rs1Short = (h: number): number => 8 + field(h, 9, 7);
const rdFull = (h: number): number => field(h, 11, 7);
const rs2Full = (h: number): number => field(h, 6, 2);

// Encoders of the 32-bit formats.
const I = (opcode: number, funct3: number, rd: number, rs1: number, imm: number): number =>
  ((imm << 20) | (rs1 << 15) | (funct3 << 12) | (rd << 7) | opcode) >>> 0;
const R = (opcode: number, funct3: number, funct7: number, rd: number, rs1: number, rs2: number): number =>
  I(opcode, funct3, rd, rs1, (funct7 << 5) | rs2);
const S = (opcode: number, funct3: number, rs1: number, rs2: number, imm: number): number =>
  I(opcode, funct3, imm & 31, rs1, ((imm >> 5) << 5) | rs2);
const B = (funct3: number, rs1: number, rs2: number, imm: number): number => {
  const low = (((imm >> 1) & 15) << 1) | ((imm >> 11) & 1);
  const high = (((imm >> 12) & 1) << 6) | ((imm >> 5) & 63);
  return I(0x63, funct3, low, rs1, (high << 5) | rs2);
};
const J = (rd: number, imm: number): number => {
  const bits =
    (((imm >> 20) & 1) << 19) | (((imm >> 1) & 0x3ff) << 9) | (((imm >> 11) & 1) << 8) | ((imm >> 12) & 0xff);
  return ((bits << 12) | (rd << 7) | 0x6f) >>> 0;
};

const imm6 = (h: number): number => signed(bit(h, 12, 5) | field(h, 6, 2), 6);
const shift = (h: number): number => bit(h, 12, 5) | field(h, 6, 2);
const immW = (h: number): number => (field(h, 12, 10) << 3) | bit(h, 6, 2) | bit(h, 5, 6);
const immD = (h: number): number => (field(h, 12, 10) << 3) | (field(h, 6, 5) << 6);
const immLwsp = (h: number): number => bit(h, 12, 5) | (field(h, 6, 4) << 2) | (field(h, 3, 2) << 6);
const immLdsp = (h: number): number => bit(h, 12, 5) | (field(h, 6, 5) << 3) | (field(h, 4, 2) << 6);
const immSwsp = (h: number): number => (field(h, 12, 9) << 2) | (field(h, 8, 7) << 6);
const immSdsp = (h: number): number => (field(h, 12, 10) << 3) | (field(h, 9, 7) << 6);
const immB = (h: number): number =>
  signed(
    bit(h, 12, 8) | (field(h, 11, 10) << 3) | (field(h, 6, 5) << 6) | (field(h, 4, 3) << 1) | bit(h, 2, 5),
    9,
  );
const immJ = (h: number): number =>
  signed(
    bit(h, 12, 11) |
      bit(h, 11, 4) |
      (field(h, 10, 9) << 8) |
      bit(h, 8, 10) |
      bit(h, 7, 6) |
      bit(h, 6, 7) |
      (field(h, 5, 3) << 1) |
      bit(h, 2, 5),
    12,
  );
const imm4spn = (h: number): number =>
  (field(h, 12, 11) << 4) | (field(h, 10, 7) << 6) | bit(h, 6, 2) | bit(h, 5, 3);
const imm16sp = (h: number): number =>
  signed(bit(h, 12, 9) | bit(h, 6, 4) | bit(h, 5, 6) | (field(h, 4, 3) << 7) | bit(h, 2, 5), 10);

const ADDI = 0x13;
const ILLEGAL = 0;

function quadrant0(h: number, funct3: number): number {
  switch (funct3) {
    case 0:
      return imm4spn(h) === 0 ? ILLEGAL : I(ADDI, 0, rdShort(h), 2, imm4spn(h)); // c.addi4spn
    case 1:
      return I(0x07, 3, rdShort(h), rs1Short(h), immD(h)); // c.fld
    case 2:
      return I(0x03, 2, rdShort(h), rs1Short(h), immW(h)); // c.lw
    case 3:
      return I(0x03, 3, rdShort(h), rs1Short(h), immD(h)); // c.ld
    case 5:
      return S(0x27, 3, rs1Short(h), rdShort(h), immD(h)); // c.fsd
    case 6:
      return S(0x23, 2, rs1Short(h), rdShort(h), immW(h)); // c.sw
    case 7:
      return S(0x23, 3, rs1Short(h), rdShort(h), immD(h)); // c.sd
    default:
      return ILLEGAL;
  }
}

function luiOrSp(h: number): number {
  const rd = rdFull(h);
  if (rd === 2) return imm16sp(h) === 0 ? ILLEGAL : I(ADDI, 0, 2, 2, imm16sp(h)); // c.addi16sp
  if (imm6(h) === 0) return ILLEGAL;
  return ((imm6(h) << 12) | (rd << 7) | 0x37) >>> 0; // c.lui
}

const BY_FUNCT = [
  [0x33, 0, 0x20], // c.sub
  [0x33, 4, 0x00], // c.xor
  [0x33, 6, 0x00], // c.or
  [0x33, 7, 0x00], // c.and
  [0x3b, 0, 0x20], // c.subw
  [0x3b, 0, 0x00], // c.addw
] as const;

function arithmetic(h: number): number {
  const rd = rs1Short(h);
  switch (field(h, 11, 10)) {
    case 0:
      return I(ADDI, 5, rd, rd, shift(h)); // c.srli
    case 1:
      return I(ADDI, 5, rd, rd, 0x400 | shift(h)); // c.srai
    case 2:
      return I(ADDI, 7, rd, rd, imm6(h)); // c.andi
    default: {
      const row = BY_FUNCT[field(h, 12, 12) * 4 + field(h, 6, 5)];
      return row === undefined ? ILLEGAL : R(row[0], row[1], row[2], rd, rd, rdShort(h));
    }
  }
}

function quadrant1(h: number, funct3: number): number {
  const rd = rdFull(h);
  switch (funct3) {
    case 0:
      return I(ADDI, 0, rd, rd, imm6(h)); // c.addi
    case 1:
      return rd === 0 ? ILLEGAL : I(0x1b, 0, rd, rd, imm6(h)); // c.addiw
    case 2:
      return I(ADDI, 0, rd, 0, imm6(h)); // c.li
    case 3:
      return luiOrSp(h);
    case 4:
      return arithmetic(h);
    case 5:
      return J(0, immJ(h)); // c.j
    case 6:
      return B(0, rs1Short(h), 0, immB(h)); // c.beqz
    default:
      return B(1, rs1Short(h), 0, immB(h)); // c.bnez
  }
}

/** c.jr, c.mv, c.ebreak, c.jalr, c.add share a major opcode. */
function registers(h: number): number {
  const rd = rdFull(h);
  const rs2 = rs2Full(h);
  const link = field(h, 12, 12);
  if (rs2 !== 0) return R(0x33, 0, 0, rd, link === 0 ? 0 : rd, rs2);
  if (rd !== 0) return I(0x67, 0, link, rd, 0);
  return link === 0 ? ILLEGAL : 0x00100073;
}

function quadrant2(h: number, funct3: number): number {
  const rd = rdFull(h);
  switch (funct3) {
    case 0:
      return I(ADDI, 1, rd, rd, shift(h)); // c.slli
    case 1:
      return I(0x07, 3, rd, 2, immLdsp(h)); // c.fldsp
    case 2:
      return rd === 0 ? ILLEGAL : I(0x03, 2, rd, 2, immLwsp(h)); // c.lwsp
    case 3:
      return rd === 0 ? ILLEGAL : I(0x03, 3, rd, 2, immLdsp(h)); // c.ldsp
    case 4:
      return registers(h);
    case 5:
      return S(0x27, 3, 2, rs2Full(h), immSdsp(h)); // c.fsdsp
    case 6:
      return S(0x23, 2, 2, rs2Full(h), immSwsp(h)); // c.swsp
    default:
      return S(0x23, 3, 2, rs2Full(h), immSdsp(h)); // c.sdsp
  }
}

/** The 32-bit word that a halfword stands for, unsigned; 0 if it is illegal. */
export function expand(halfword: number): number {
  const funct3 = field(halfword, 15, 13);
  switch (halfword & 3) {
    case 0:
      return quadrant0(halfword, funct3);
    case 1:
      return quadrant1(halfword, funct3);
    case 2:
      return quadrant2(halfword, funct3);
    default:
      return ILLEGAL;
  }
}
