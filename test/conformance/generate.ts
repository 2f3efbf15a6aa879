import type { Random } from '../../src/base/random.ts';
import { floatImage, integerImage, type Letter, random64 } from '../../src/cpu/float/operands-testing.ts';
import { INSTRUCTIONS } from '../../src/cpu/instructions.ts';
import { type Item, item, jumpPiece, type Piece, piece } from './block.ts';
import { type CompressedRegisters, compressedForms } from './compressed.ts';
import { type Fields, rowOf } from './encode.ts';
import { type Case, type Frame, type State, WINDOW_BYTES } from './image.ts';

// Random blocks. Jumps go forward, except in counted loops; addresses stay in the record's window.

export const EXTENSIONS = ['I', 'M', 'A', 'F', 'D', 'C'] as const;
export type Extension = (typeof EXTENSIONS)[number];

/** Where a block may write, and what the frame keeps. */
export type Registers = CompressedRegisters & { frame: Frame };

const SINGLE = /^(flw|fsw|fmv\.(x\.w|w\.x)|f\w+\.s|fcvt\.(wu?|lu?)\.s|fcvt\.s\.(wu?|lu?))$/;

const extensionOf = (name: string): Extension | undefined => {
  if (/^(mul|div|rem)/.test(name)) return 'M';
  // LR with rl has a row of its own, and is one instruction to the manual.
  if (/^lr\.[wd]\.rl$/.test(name)) return undefined;
  if (/^(lr|sc|amo)/.test(name)) return 'A';
  if (SINGLE.test(name)) return 'F';
  if (/^f(?!ence)/.test(name)) return 'D';
  if (/^(csr|ecall|ebreak|sret|wfi|sfence|fence\.)/.test(name)) return undefined;
  return 'I';
};

/** Instructions per extension of RV64 that the manual lists and a block can run: all but ecall, ebreak. */
const LISTED: Record<Extension, number> = { I: 50, M: 13, A: 22, F: 30, D: 32, C: 0 };

/** Names of the extension's instructions. Throws when the table has more or fewer than the manual. */
export const namesOf = (extension: Extension): string[] => {
  const names = INSTRUCTIONS.map(row => row.name).filter(name => extensionOf(name) === extension);
  if (names.length !== LISTED[extension]) {
    throw new Error(
      `the table has ${names.length} instructions of ${extension}, the manual ${LISTED[extension]}`,
    );
  }
  return names;
};

const MEMORY_BYTES: Record<string, number> = { b: 1, h: 2, w: 4, d: 8 };
/** Bytes that a load, store or atomic moves. */
const bytesOf = (name: string): number => MEMORY_BYTES[name.replace(/u$/, '').at(-1)!]!;

/** Any offset from the window's middle at which `bytes` fit; aligned half of the time. */
const windowOffset = (r: Random, bytes: number): number => {
  const offset = r.below(WINDOW_BYTES - bytes + 1) - WINDOW_BYTES / 2;
  return r.oneIn(2) ? offset : Math.floor(offset / bytes) * bytes;
};

const RANDOM_IMMEDIATES = [0, 1, -1, 2047, -2048, 255, -256];

export class Generator {
  readonly #r: Random;
  readonly #regs: Registers;
  readonly #extension: Extension;
  readonly #names: string[];
  readonly #forms: ReturnType<typeof compressedForms>;

  constructor(r: Random, extension: Extension, regs: Registers) {
    this.#r = r;
    this.#regs = regs;
    this.#extension = extension;
    this.#names = namesOf(extension);
    this.#forms = compressedForms(regs);
  }

  /** About `instructions` long. */
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
    const r = this.#r;
    switch (this.#extension) {
      case 'I':
        return r.oneIn(40) ? this.#loop() : r.oneIn(100) ? this.#fenceI() : this.#named(r.pick(this.#names));
      case 'M':
        return r.oneIn(4) ? this.#load() : this.#named(r.pick(this.#names));
      case 'A':
        return r.oneIn(8) ? this.#plain() : this.#named(r.pick(this.#names));
      case 'C':
        return r.oneIn(6) ? this.#mixed() : r.pick(this.#forms)(r, this.#regs);
      default:
        return this.#float();
    }
  }

  /** Between the instructions under test: fresh operands, flags read and cleared, modes changed. */
  #float(): Item {
    const r = this.#r;
    const kind = r.below(20);
    if (kind < 5) return this.#memory(this.#extension === 'F' && !r.oneIn(8) ? 'flw' : 'fld');
    if (kind < 8) return this.#fflags();
    if (kind === 8) return this.#load();
    if (kind === 9) return r.oneIn(3) ? this.#frm() : this.#plain();
    return this.#named(r.pick(this.#names));
  }

  /** For C blocks: words between the halfwords. */
  #mixed(): Item {
    const r = this.#r;
    const extension = r.pick(['I', 'M', 'A', 'F', 'D'] as const);
    const made = this.#named(r.pick(namesOf(extension)));
    return { ...made, counts: 0 };
  }

  #named(name: string): Item {
    const { format } = rowOf(name);
    if (/^(lr|sc|amo)/.test(name)) return this.#atomic(name);
    if (format.syntax.includes('mem') && name !== 'jalr') return this.#memory(name);
    if (format.imm === 'b' || name === 'jal') return this.#jump(name);
    if (name === 'jalr') return this.#jumpRegister();
    return item(this.#own(name), piece(name, this.#fields(name)));
  }

  #own(name: string): number {
    return extensionOf(name) === this.#extension ? 1 : 0;
  }

  #rd(): number {
    return this.#r.oneIn(32) ? 0 : this.#r.pick(this.#regs.any);
  }

  #rs(): number {
    return this.#r.below(32);
  }

  #fields(name: string): Fields {
    const r = this.#r;
    const { format } = rowOf(name);
    const register = (file: 'x' | 'f' | undefined) => (file === undefined ? 0 : this.#rs());
    const fields: Fields = {
      rd: format.rd === 'x' ? this.#rd() : register(format.rd),
      rs1: register(format.rs1),
      rs2: register(format.rs2),
      rs3: register(format.rs3),
    };
    switch (format.imm) {
      case 'i':
        return { ...fields, imm: r.oneIn(4) ? r.pick(RANDOM_IMMEDIATES) : r.below(4096) - 2048 };
      case 'shift5':
        return { ...fields, imm: r.below(32) };
      case 'shift6':
        return { ...fields, imm: r.below(64) };
      case 'u':
        return { ...fields, imm: r.below(1 << 20) - (1 << 19) };
      case 'rm':
        return { ...fields, rm: r.oneIn(2) ? 7 : r.below(5) };
      case 'fence':
        return { ...fields, fence: r.below(256) };
      default:
        return fields;
    }
  }

  /** Straight off the frame's base, or off a register that is made to point nearby first. */
  #memory(name: string): Item {
    const r = this.#r;
    const fields = this.#fields(name);
    const offset = windowOffset(r, bytesOf(name));
    const own = this.#own(name);
    if (r.oneIn(2)) return item(own, piece(name, { ...fields, rs1: this.#regs.frame.base, imm: offset }));
    const pointer = r.pick(this.#regs.any);
    const back = r.below(2048) - 1024;
    const imm = offset - back;
    const near = piece('addi', { rd: pointer, rs1: this.#regs.frame.base, imm });
    return item(own, near, piece(name, { ...fields, rs1: pointer, imm: back }));
  }

  #load(): Item {
    return this.#memory(this.#r.pick(['ld', 'ld', 'lw', 'lwu', 'lh', 'lb']));
  }

  #plain(): Item {
    return this.#named(this.#r.pick(['add', 'xor', 'sub', 'sll', 'addi', 'slt', 'sd', 'sw']));
  }

  #pointAt(pointer: number, bytes: number): Piece {
    const r = this.#r;
    const slot = r.below(WINDOW_BYTES / bytes) * bytes;
    // Records are 64-byte aligned and the window's middle 32, so an aligned offset is an aligned address.
    return piece('addi', { rd: pointer, rs1: this.#regs.frame.base, imm: slot - WINDOW_BYTES / 2 });
  }

  #atomic(name: string): Item {
    const r = this.#r;
    const pointer = r.pick(this.#regs.any);
    const at = this.#pointAt(pointer, bytesOf(name));
    if (/^(lr|sc)/.test(name)) return this.#reserved(name.slice(2), pointer, at);
    return item(this.#own(name), at, piece(name, { ...this.#fields(name), rs1: pointer, order: r.below(4) }));
  }

  /** lr, a few instructions, sc; and at times a second sc, which must fail. */
  #reserved(width: string, pointer: number, at: Piece): Item {
    const r = this.#r;
    const others = this.#regs.any.filter(x => x !== pointer);
    const rd = () => (r.oneIn(16) ? 0 : r.pick(others));
    const between = Array.from({ length: r.below(4) }, () =>
      piece(r.pick(['add', 'xor', 'mul', 'sltu']), { rd: rd(), rs1: this.#rs(), rs2: this.#rs() }),
    );
    const sc = () => piece(`sc${width}`, { rd: rd(), rs1: pointer, rs2: this.#rs(), order: r.below(4) });
    const lr = piece(`lr${width}`, { rd: rd(), rs1: pointer, order: r.below(4) });
    return r.oneIn(4) ? item(3, at, lr, ...between, sc(), sc()) : item(2, at, lr, ...between, sc());
  }

  #jump(name: string): Item {
    return { pieces: [jumpPiece(name, this.#fields(name))], skip: this.#r.below(8), counts: this.#own(name) };
  }

  /** auipc and a jalr whose target's lowest bit is to be dropped. */
  #jumpRegister(): Item {
    const r = this.#r;
    const pointer = r.pick(this.#regs.any);
    const rd = this.#rd();
    const odd = r.below(2);
    const go: Piece = {
      bytes: 4,
      text: `jalr x${rd}, TARGET(x${pointer})`,
      word: (at, target) =>
        piece('jalr', { rd, rs1: pointer, imm: target - (at - 4) + odd }).word(at, target),
    };
    const counts = this.#extension === 'I' ? 2 : 0;
    return { pieces: [piece('auipc', { rd: pointer, imm: 0 }), go], skip: r.below(8), counts };
  }

  #loop(): Item {
    const r = this.#r;
    const counter = r.pick(this.#regs.any);
    const others = this.#regs.any.filter(x => x !== counter);
    const times = r.below(6) + 1;
    const body = Array.from({ length: r.below(4) + 1 }, () =>
      piece(r.pick(['add', 'sub', 'xor', 'sra', 'sltu']), {
        rd: r.pick(others),
        rs1: this.#rs(),
        rs2: this.#rs(),
      }),
    );
    return item(
      body.length + 3,
      piece('addi', { rd: counter, rs1: 0, imm: times }),
      ...body,
      piece('addi', { rd: counter, rs1: counter, imm: -1 }),
      piece('bne', { rs1: counter, rs2: 0, imm: -4 * (body.length + 1) }),
    );
  }

  #fenceI(): Item {
    return item(0, piece('fence.i', {}));
  }

  /** fflags or fcsr into a register, new flags from another; so no flag hides a later one. */
  #fflags(): Item {
    const r = this.#r;
    const csr = 1;
    if (r.oneIn(3)) return item(0, piece('csrrw', { rd: this.#rd(), rs1: this.#rs(), csr }));
    const name = r.pick(['csrrwi', 'csrrwi', 'csrrsi', 'csrrci']);
    return item(0, piece(name, { rd: this.#rd(), csr, imm: r.oneIn(2) ? 0 : r.below(32) }));
  }

  /** Only the five modes: the others make the next dynamic instruction illegal. */
  #frm(): Item {
    const r = this.#r;
    if (r.oneIn(2)) return item(0, piece('csrrwi', { rd: this.#rd(), csr: 2, imm: r.below(5) }));
    const pointer = r.pick(this.#regs.any);
    const value = (r.below(5) << 5) | r.below(32);
    return item(
      0,
      piece('addi', { rd: pointer, rs1: 0, imm: value }),
      piece('csrrw', { rd: this.#rd(), rs1: pointer, csr: 3 }),
    );
  }
}

/** Different registers for each image, so that every register is used in every place. */
export const randomRegisters = (r: Random, extension: Extension): Registers => {
  const free = Array.from({ length: 31 }, (_, i) => i + 1);
  const take = (from: readonly number[]) => {
    const x = r.pick(from.filter(n => free.includes(n)));
    free.splice(free.indexOf(x), 1);
    return x;
  };
  const short = range8to15;
  if (extension === 'C') take([2]);
  const base = extension === 'C' ? take(short) : 8;
  const frame = { base: take(free), link: take(free) };
  return { frame, base, any: free, short: free.filter(x => short.includes(x)) };
};

const range8to15 = [8, 9, 10, 11, 12, 13, 14, 15];

/** The kind of data that the extension's registers and window hold. */
const lettersOf = (extension: Extension): readonly Letter[] =>
  extension === 'F' ? ['s', 's', 's', 'd'] : extension === 'D' ? ['d', 'd', 'd', 's'] : ['s', 'd'];

export const randomState = (r: Random, extension: Extension, regs: Registers): State => {
  const letters = lettersOf(extension);
  let near = 0n;
  const float = () => (near = floatImage(r.pick(letters), r, near));
  const window = new Uint8Array(WINDOW_BYTES);
  const view = new DataView(window.buffer);
  const isFloat = extension === 'F' || extension === 'D';
  for (let at = 0; at < WINDOW_BYTES; at += 8) {
    if (!isFloat || r.oneIn(4)) view.setBigUint64(at, integerImage(r), true);
    else if (extension === 'D') view.setBigUint64(at, float(), true);
    else for (const half of [0, 4]) view.setUint32(at + half, Number(float() & 0xffffffffn), true);
  }
  const windowRegisters =
    extension === 'C'
      ? [
          { register: 2, offset: r.below(128) },
          { register: regs.base, offset: r.below(256) },
        ]
      : [];
  const x = Array.from({ length: 32 }, (_, i) =>
    i === 0 || i === regs.frame.base || i === regs.frame.link ? 0n : integerImage(r),
  );
  const f = Array.from({ length: 32 }, () => (r.oneIn(16) ? random64(r) : float()));
  return { x, f, fcsr: (r.below(5) << 5) | r.below(32), window, windowRegisters };
};

export type CaseOptions = { instructions: number; states: number };

export const randomCase = (r: Random, extension: Extension, regs: Registers, o: CaseOptions): Case => ({
  items: new Generator(r, extension, regs).block(o.instructions),
  states: Array.from({ length: o.states }, () => randomState(r, extension, regs)),
});
