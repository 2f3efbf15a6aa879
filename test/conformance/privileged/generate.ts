import type { Random } from '../../../src/base/random.ts';
import { floatImage, integerImage } from '../../../src/cpu/float/operands-testing.ts';
import { csrNumber } from '../../../src/cpu/registers.ts';
import { type Item, item, jumpPiece, type Piece, piece } from '../block.ts';
import type { Fields } from '../encode.ts';
import type { PrivilegedCase, PrivilegedState } from './image.ts';
import { LANDING, PTE_VALUE_COUNT, PTE_VALUES, SPACES } from './layout.ts';
import {
  DATA_ENTRIES,
  dataAddress,
  JUMP_ENTRIES,
  jumpAddress,
  WRITTEN_BASE,
  writtenTable,
} from './tables.ts';

// Random privileged blocks, of 32-bit instructions. What the manual leaves open is left out:
//
//   sc after a faulting lr      may fault or fail
//   misaligned atomics          QEMU's emulate or fault by its host
//   sepc's lowest bit           QEMU before 9 keeps it
//   FS = Initial, Clean         when they become Dirty is ours to choose
//   UXL, VS, senvcfg,           WARL with other fields than ours; QEMU 7.2 keeps VS even without vectors
//   scounteren
//   executing a loaded page      supervisor mode, user page: see tables.ts
//   stval of a breakpoint       zero or pc
//   stray physical addresses    the board answers, not the hart; QEMU also differs on page tables there

const Status = { SIE: 0x2, SPIE: 0x20, SPP: 0x100, FS: 0x6000, SUM: 0x40000, MXR: 0x80000 } as const;
const UXL64 = 2n << 32n;

export type PrivilegedRegisters = {
  frame: number;
  data: readonly number[];
  jump: readonly number[];
  /** Point at: the first address that the written table maps; that table; values for it. */
  written: number;
  table: number;
  values: number;
  any: readonly number[];
};

/** x1 is the way back from jumps; its register is nobody's. */
export const randomPrivilegedRegisters = (r: Random): PrivilegedRegisters => {
  const free = Array.from({ length: 30 }, (_, i) => i + 2);
  const take = () => free.splice(r.below(free.length), 1)[0]!;
  const many = (n: number) => Array.from({ length: n }, take);
  return {
    frame: take(),
    data: many(6),
    jump: many(3),
    written: take(),
    table: take(),
    values: take(),
    any: free,
  };
};

const csr = (name: string, how: string, rd: number, rs1: number): Piece =>
  piece(how, { rd, rs1, csr: csrNumber(name) });
const csrImmediate = (name: string, how: string, rd: number, imm: number): Piece =>
  piece(how, { rd, imm, csr: csrNumber(name) });
const read = (name: string, rd: number): Piece => csr(name, 'csrrs', rd, 0);
const write = (name: string, rs1: number): Piece => csr(name, 'csrrw', 0, rs1);

const raw = (text: string, word: number): Piece => ({ bytes: 4, text, word: () => word });

/** Not there, not ours, or not for this privilege; both sides have none of them. */
const ABSENT_CSRS = [
  0x300, 0x301, 0x302, 0x304, 0x305, 0x340, 0x341, 0x3a0, 0xf14, 0xb00, 0x200, 0x280, 0x600, 0x680, 0x14d,
  0x5c0, 0x9c0, 0xc03, 0xda0, 0x7a0, 0x101, 0x107, 0x181,
];
const ILLEGAL_WORDS = [0x30200073, 0x00200073, 0x22000073, 0x62000073, 0x16000073, 0xffffffff, 0, 0x0000707f];
const LOADS = ['lb', 'lh', 'lw', 'ld', 'lbu', 'lhu', 'lwu', 'flw', 'fld'];
const STORES = ['sb', 'sh', 'sw', 'sd', 'fsw', 'fsd'];
const ATOMICS = ['lr', 'amoswap', 'amoadd', 'amoxor', 'amoand', 'amoor', 'amomin', 'amomaxu'];
const PLAIN = ['add', 'sub', 'xor', 'and', 'sltu', 'mul', 'divu'];
const FLOATS = ['fadd.d', 'fmul.s', 'fmv.x.d', 'fmv.d.x', 'fsgnj.d', 'fcvt.d.l', 'feq.s'];

export class PrivilegedGenerator {
  readonly #r: Random;
  readonly #regs: PrivilegedRegisters;

  constructor(r: Random, regs: PrivilegedRegisters) {
    this.#r = r;
    this.#regs = regs;
  }

  block(instructions: number): Item[] {
    const items: Item[] = [];
    for (let left = instructions; left > 0; ) {
      const next = this.#item();
      items.push(next);
      left -= next.pieces.length;
    }
    return items;
  }

  #item(): Item {
    const kinds: [weight: number, make: () => Item][] = [
      [24, () => this.#access()],
      [8, () => this.#atomic()],
      [8, () => this.#fetch()],
      [8, () => this.#plain()],
      [5, () => this.#branch()],
      [6, () => this.#status()],
      [5, () => this.#toggled()],
      [8, () => this.#csrs()],
      [3, () => this.#absent()],
      [3, () => this.#illegal()],
      [4, () => this.#toUser()],
      [2, () => this.#toSupervisor()],
      [9, () => item(1, piece('ecall', {}))],
      [4, () => this.#interrupt()],
      [2, () => this.#wait()],
      [3, () => this.#fence()],
      [3, () => this.#satp()],
      [2, () => this.#stvec()],
      [6, () => this.#remap()],
      [3, () => this.#roundingMode()],
      [3, () => this.#counter()],
    ];
    let n = this.#r.below(kinds.reduce((sum, [weight]) => sum + weight, 0));
    for (const [weight, make] of kinds) if ((n -= weight) < 0) return make();
    throw new Error('not reached');
  }

  #item1(...pieces: Piece[]): Item {
    return item(pieces.length, ...pieces);
  }

  #rd(): number {
    return this.#r.oneIn(16) ? 0 : this.#r.pick(this.#regs.any);
  }

  /** Different writable registers. */
  #some(n: number): number[] {
    const free = [...this.#regs.any];
    return Array.from({ length: n }, () => free.splice(this.#r.below(free.length), 1)[0]!);
  }

  #rs(): number {
    return this.#r.below(32);
  }

  #access(): Item {
    const r = this.#r;
    const name = r.oneIn(2) ? r.pick(LOADS) : r.pick(STORES);
    const isFloat = name.startsWith('f');
    const fields: Fields = {
      rd: isFloat ? this.#rs() : this.#rd(),
      rs1: r.pick(this.#regs.data),
      rs2: this.#rs(),
      imm: r.below(64) - 32,
    };
    return this.#item1(piece(name, fields));
  }

  #atomic(): Item {
    const r = this.#r;
    const [pointer] = this.#some(1) as [number];
    const name = r.pick(ATOMICS) + r.pick(['.w', '.d']);
    return this.#item1(
      piece('andi', { rd: pointer, rs1: r.pick(this.#regs.data), imm: -8 }),
      piece(name, {
        rd: this.#rd(),
        rs1: pointer,
        rs2: name.startsWith('lr') ? 0 : this.#rs(),
        order: r.below(4),
      }),
    );
  }

  #fetch(): Item {
    return this.#item1(piece('jalr', { rd: 1, rs1: this.#r.pick(this.#regs.jump), imm: 0 }));
  }

  #plain(): Item {
    const r = this.#r;
    if (r.oneIn(3)) {
      const name = r.pick(FLOATS);
      const rd = /^f(mv\.x|eq)/.test(name) ? this.#rd() : this.#rs();
      const rs2 = /^f(mv|cvt)/.test(name) ? 0 : this.#rs();
      return this.#item1(piece(name, { rd, rs1: this.#rs(), rs2, rm: 0 }));
    }
    return this.#item1(piece(r.pick(PLAIN), { rd: this.#rd(), rs1: this.#rs(), rs2: this.#rs() }));
  }

  #branch(): Item {
    const name = this.#r.pick(['beq', 'bne', 'blt', 'bgeu', 'jal']);
    const fields: Fields = { rd: 0, rs1: this.#rs(), rs2: this.#rs() };
    return { pieces: [jumpPiece(name, fields)], skip: this.#r.below(4), counts: 1 };
  }

  /** Some of the fields set or cleared; FS is all or nothing. */
  #status(): Item {
    const r = this.#r;
    const [mask, old] = this.#some(2) as [number, number];
    const chosen = [Status.SUM, Status.MXR, Status.FS, Status.SPP, Status.SPIE, Status.SIE, 0x18000, 0x40]
      .filter(() => r.oneIn(3))
      .reduce((sum, field) => sum | field, 0);
    const load = [
      piece('lui', { rd: mask, imm: (chosen + 0x800) >> 12 }),
      piece('addi', { rd: mask, rs1: mask, imm: (chosen << 20) >> 20 }),
    ];
    const how = r.below(4);
    if (how < 3) return this.#item1(...load, csr('sstatus', r.pick(['csrrs', 'csrrc']), this.#rd(), mask));
    const flip = piece('xor', { rd: mask, rs1: mask, rs2: old });
    // With FS both ways: of a half-set FS there is none.
    return this.#item1(...load, read('sstatus', old), flip, csr('sstatus', 'csrrw', this.#rd(), mask));
  }

  /** The same access under both values of SUM or MXR, so that what is cached under one shows. */
  #toggled(): Item {
    const r = this.#r;
    const [mask, rd] = this.#some(2) as [number, number];
    const rs1 = r.pick(this.#regs.data);
    const imm = r.below(64) - 32;
    const access = () => piece(r.pick(['lb', 'ld', 'lb', 'sb']), { rd, rs1, rs2: this.#rs(), imm });
    const field = r.oneIn(2) ? Status.SUM : Status.MXR;
    const how = r.oneIn(2) ? ['csrrs', 'csrrc'] : ['csrrc', 'csrrs'];
    return this.#item1(
      piece('lui', { rd: mask, imm: field >> 12 }),
      csr('sstatus', how[0]!, 0, mask),
      access(),
      csr('sstatus', how[1]!, 0, mask),
      access(),
    );
  }

  /** WARL and plain ones: written, read back. */
  #csrs(): Item {
    const r = this.#r;
    const [value, back] = this.#some(2) as [number, number];
    const source = this.#rs();
    const shaped: Record<string, Piece> = {
      sscratch: piece('addi', { rd: value, rs1: source, imm: 0 }),
      scause: piece('addi', { rd: value, rs1: source, imm: 0 }),
      stval: piece('addi', { rd: value, rs1: source, imm: 0 }),
      sepc: piece('slli', { rd: value, rs1: source, imm: 1 }),
      sie: piece('addi', { rd: value, rs1: source, imm: 0 }),
      scounteren: piece('andi', { rd: value, rs1: source, imm: 7 }),
      senvcfg: piece('andi', { rd: value, rs1: source, imm: 1 }),
      fcsr: piece('andi', { rd: value, rs1: source, imm: 0x1f }),
    };
    const name = r.pick(Object.keys(shaped));
    const how = /scounteren|senvcfg|sepc|fcsr/.test(name) ? 'csrrw' : r.pick(['csrrw', 'csrrs', 'csrrc']);
    return this.#item1(shaped[name]!, csr(name, how, this.#rd(), value), read(name, back));
  }

  #absent(): Item {
    const r = this.#r;
    const name = r.pick(['csrrw', 'csrrs', 'csrrc']);
    if (r.oneIn(4))
      return this.#item1(piece('csrrw', { rd: this.#rd(), rs1: this.#rs(), csr: 0xc00 + r.below(3) }));
    return this.#item1(piece(name, { rd: this.#rd(), rs1: this.#rs(), csr: r.pick(ABSENT_CSRS) }));
  }

  #illegal(): Item {
    const word = this.#r.pick(ILLEGAL_WORDS);
    return this.#item1(raw(`.word 0x${word.toString(16)}`, word));
  }

  /** sret to the next instruction, in the alias of the other privilege. */
  #toUser(): Item {
    const [pc, one] = this.#some(2) as [number, number];
    const alias = [
      piece('addi', { rd: one, rs1: 0, imm: 1 }),
      piece('slli', { rd: one, rs1: one, imm: 32 }),
      piece('add', { rd: pc, rs1: pc, rs2: one }),
    ];
    return this.#return(pc, one, alias, 'csrrc');
  }

  #toSupervisor(): Item {
    const [pc, mask] = this.#some(2) as [number, number];
    return this.#return(pc, mask, [], 'csrrs');
  }

  #return(pc: number, mask: number, alias: Piece[], how: 'csrrs' | 'csrrc'): Item {
    const tail = [
      piece('slli', { rd: pc, rs1: pc, imm: 32 }),
      piece('srli', { rd: pc, rs1: pc, imm: 32 }),
      ...alias,
      write('sepc', pc),
      piece('addi', { rd: mask, rs1: 0, imm: Status.SPP }),
      csr('sstatus', how, 0, mask),
      piece('sret', {}),
    ];
    const auipc = piece('auipc', { rd: pc, imm: 0 });
    return this.#item1(auipc, piece('addi', { rd: pc, rs1: pc, imm: 4 * (tail.length + 2) }), ...tail);
  }

  /** Its own interrupt is all that software can raise. */
  #interrupt(): Item {
    const r = this.#r;
    const how = r.pick(['csrrsi', 'csrrsi', 'csrrci', 'csrrwi']);
    return r.pick([
      () => this.#item1(csrImmediate('sip', how, this.#rd(), r.pick([2, 2, 0, 31]))),
      () => this.#item1(csrImmediate('sie', how, this.#rd(), r.pick([2, 2, 0, 31]))),
      () => this.#item1(csrImmediate('sstatus', r.pick(['csrrsi', 'csrrci']), this.#rd(), Status.SIE)),
      () => this.#item1(csr('sip', 'csrrw', this.#rd(), this.#rs())),
    ])();
  }

  /** wfi with something to wake it. */
  #wait(): Item {
    return this.#item1(
      csrImmediate('sstatus', 'csrrci', 0, Status.SIE),
      csrImmediate('sip', 'csrrsi', 0, 2),
      csrImmediate('sie', 'csrrsi', 0, 2),
      piece('wfi', {}),
      csrImmediate('sip', 'csrrci', 0, 2),
    );
  }

  #fence(): Item {
    const r = this.#r;
    if (r.oneIn(3)) return this.#item1(piece('fence.i', {}));
    return this.#item1(
      piece('sfence.vma', { rs1: r.oneIn(2) ? 0 : this.#rs(), rs2: r.oneIn(2) ? 0 : this.#rs() }),
    );
  }

  /** Another ASID over the same tables, or a mode that there isn't. */
  #satp(): Item {
    const r = this.#r;
    const [value, old, back] = this.#some(3) as [number, number, number];
    if (r.oneIn(2)) {
      return this.#item1(
        piece('slli', { rd: value, rs1: this.#rs(), imm: 48 }),
        piece('srli', { rd: value, rs1: value, imm: 4 }),
        read('satp', old),
        piece('xor', { rd: value, rs1: value, rs2: old }),
        csr('satp', 'csrrw', back, value),
        read('satp', back),
      );
    }
    return this.#item1(
      piece('slli', { rd: value, rs1: this.#rs(), imm: 4 }),
      piece('srli', { rd: value, rs1: value, imm: 4 }),
      piece('addi', { rd: old, rs1: 0, imm: r.pick([1, 2, 3, 7, 11, 15]) }),
      piece('slli', { rd: old, rs1: old, imm: 60 }),
      piece('or', { rd: value, rs1: value, rs2: old }),
      write('satp', value),
      read('satp', back),
    );
  }

  #stvec(): Item {
    const [old, back] = this.#some(2) as [number, number];
    const others = [0, ...this.#regs.any, ...this.#regs.data].filter(n => n !== old);
    return this.#item1(
      read('stvec', old),
      write('stvec', this.#r.pick(others)),
      read('stvec', back),
      write('stvec', old),
    );
  }

  /** An access or jump, a new entry in the table in RAM, a fence, and the same page again. */
  #remap(): Item {
    const r = this.#r;
    const [value, address] = this.#some(2) as [number, number];
    const isJump = r.oneIn(3);
    const entry = isJump ? JUMP_ENTRIES.first + r.below(JUMP_ENTRIES.count) : r.below(DATA_ENTRIES);
    const jump = () => piece('jalr', { rd: 1, rs1: address, imm: 0 });
    const load = () => piece('lb', { rd: value, rs1: address, imm: 0 });
    return this.#item1(
      piece('lui', { rd: address, imm: entry }),
      piece('add', { rd: address, rs1: address, rs2: this.#regs.written }),
      ...(isJump ? this.#landing(address, value) : []),
      isJump ? jump() : load(),
      piece('ld', { rd: value, rs1: this.#regs.values, imm: 8 * r.below(PTE_VALUE_COUNT) }),
      piece('sd', { rs2: value, rs1: this.#regs.table, imm: 8 * entry }),
      piece('sfence.vma', r.oneIn(2) ? { rs1: 0, rs2: 0 } : { rs1: address, rs2: 0 }),
      isJump ? jump() : this.#through(address),
    );
  }

  /** Moves `address` to the landing of its page. */
  #landing(address: number, scratch: number): Piece[] {
    const half = LANDING / 2;
    return [
      piece('addi', { rd: scratch, rs1: address, imm: half }),
      piece('addi', { rd: address, rs1: scratch, imm: half }),
    ];
  }

  #through(address: number): Piece {
    const access = this.#r.pick([...LOADS, ...STORES]);
    const rd = access.startsWith('f') ? this.#rs() : this.#rd();
    return piece(access, { rd, rs1: address, rs2: this.#rs(), imm: this.#r.below(64) });
  }

  /** A mode that makes dynamic rounding illegal, for one instruction. */
  #roundingMode(): Item {
    const r = this.#r;
    return this.#item1(
      csrImmediate('frm', 'csrrwi', this.#rd(), r.below(8)),
      piece('fadd.d', { rd: this.#rs(), rs1: this.#rs(), rs2: this.#rs(), rm: r.pick([7, 7, 5, 0]) }),
      csrImmediate('frm', 'csrrwi', 0, r.below(5)),
    );
  }

  /** The values differ from run to run; whether they may be read doesn't. */
  #counter(): Item {
    return this.#item1(read(this.#r.pick(['cycle', 'time', 'instret']), 0));
  }
}

export const randomPrivilegedState = (r: Random, regs: PrivilegedRegisters): PrivilegedState => {
  const x = Array.from({ length: 32 }, (_, i) => (i === 0 || i === regs.frame ? 0n : integerImage(r)));
  const space = r.below(SPACES);
  for (const n of regs.data) x[n] = dataAddress(r);
  for (const n of regs.jump) x[n] = jumpAddress(r);
  x[regs.written] = BigInt(WRITTEN_BASE);
  x[regs.table] = BigInt(writtenTable(space));
  x[regs.values] = BigInt(PTE_VALUES);
  const user = r.oneIn(2);
  const flags = [Status.SUM, Status.MXR, Status.SPIE, Status.FS, Status.FS].filter(() => r.oneIn(2));
  const status = flags.reduce((sum, flag) => sum | flag, user ? 0 : Status.SPP);
  return {
    x,
    f: Array.from({ length: 32 }, () => floatImage(r.pick(['s', 'd']), r)),
    fcsr: (r.below(5) << 5) | r.below(32),
    space,
    asid: r.oneIn(2) ? 0 : r.below(65536),
    sstatus: BigInt(status) | UXL64,
    vectored: r.oneIn(2),
    user,
    scounteren: r.below(8),
    sscratch: integerImage(r),
  };
};

export const randomPrivilegedCase = (
  r: Random,
  regs: PrivilegedRegisters,
  instructions: number,
): PrivilegedCase => ({
  items: new PrivilegedGenerator(r, regs).block(instructions),
  state: randomPrivilegedState(r, regs),
});
