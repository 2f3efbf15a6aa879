import { encode, type Fields } from './encode.ts';

/** Straight code for drivers and handlers, of 32-bit instructions. */
export class Assembler {
  readonly words: number[] = [];
  #address: number;

  constructor(address: number) {
    this.#address = address;
  }

  get here(): number {
    return this.#address + this.words.length * 4;
  }

  op(name: string, fields: Fields): this {
    this.words.push(encode(name, fields));
    return this;
  }

  /** An address within 2 GiB of here. */
  la(rd: number, address: number): this {
    const by = address - this.here;
    const low = (by << 20) >> 20;
    this.op('auipc', { rd, imm: (by - low) >> 12 });
    return this.op('addi', { rd, rs1: rd, imm: low });
  }

  /** Any number below 2^31. */
  li(rd: number, value: number): this {
    const low = (value << 20) >> 20;
    this.op('lui', { rd, imm: (value - low) >> 12 });
    return this.op('addi', { rd, rs1: rd, imm: low });
  }
}
