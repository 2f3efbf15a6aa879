import { Random } from '../../base/random.ts';

// Random code in supervisor mode that goes on for ever: functions that call each other, loops with one way in
// and with two, jumps by a table, accesses that fault, floating point that is off at times.
//
//   x8, x9        an address in the data, and one aligned for atomics
//   x5..x7        scratch of a line
//   x10..x17      values; f0..f7 too
//   x18           where the data begins, x19 the page of its table's entries
//   x20..x23      counters of loops: one for each depth of calls
//   x27           what traps came to; x28..x31 are the handler's

export const DATA_PAGES = 16;
const FUNCTIONS = 6;
const ALU =
  'add sub sll slt sltu xor srl sra or and addw subw sllw srlw sraw mul mulh mulhsu mulhu mulw div divu rem remu divw divuw remw remuw'.split(
    ' ',
  );
const SHORT_IMMEDIATE = 'addi slti sltiu xori ori andi addiw'.split(' ');
const LOADS = 'lb lbu lh lhu lw lwu ld'.split(' ');
const STORES = 'sb sh sw sd'.split(' ');
const BRANCHES = 'beq bne blt bge bltu bgeu'.split(' ');
const AMOS = 'swap add xor and or min max minu maxu'.split(' ');
const FLOATS = 'fadd fsub fmul fdiv fsgnj fsgnjn fsgnjx fmin fmax'.split(' ');
const FUSED = 'fmadd fmsub fnmadd fnmsub'.split(' ');
/** SUM, the parts of FS, MXR, SIE. */
const STATUS_BITS = [1 << 18, 1 << 18, 0x2000, 0x6000, 1 << 19, 2];

/** Source of a program; the entry is its start, `handler` its end's first instruction. */
export function randomCode(seed: number): string {
  return new Writer(new Random(seed)).program();
}

class Writer {
  readonly #r: Random;
  #labels = 0;

  constructor(r: Random) {
    this.#r = r;
  }

  program(): string {
    const main = Array.from({ length: FUNCTIONS }, (_, i) => `call f${i}`).join('\n');
    const functions = Array.from({ length: FUNCTIONS }, (_, i) => this.#function(i)).join('\n');
    return `j main\n${HANDLER}\nmain: ${main}\nli x5, 0x2000\ncsrs sstatus, x5\nj main\n${functions}`;
  }

  /** Function i calls those of higher numbers, three deep at most. */
  #function(i: number): string {
    const depth = i % 3;
    const body = Array.from({ length: 3 + this.#r.below(4) }, () => this.#piece(i, depth)).join('\n');
    const frame = `addi x2, x2, -16\nsd x1, 8(x2)\n${body}\nld x1, 8(x2)\naddi x2, x2, 16\nret`;
    // Maybe the next page.
    const gap = this.#r.oneIn(3)
      ? `.word ${Array(this.#r.below(300) + 1)
          .fill(0)
          .join(', ')}\n`
      : '';
    return `${gap}f${i}: ${frame}`;
  }

  #piece(i: number, depth: number): string {
    switch (this.#r.below(9)) {
      case 0:
      case 1:
        return this.#loop(depth, i);
      case 2:
        return this.#loopWithTwoWaysIn(depth);
      case 3:
        return this.#table();
      case 8:
        return this.#stride(depth);
      case 4:
        return depth < 2 && i + 1 < FUNCTIONS ? this.#call(i) : this.#lines(6);
      default:
        return this.#lines(4 + this.#r.below(12));
    }
  }

  #call(i: number): string {
    const to = `f${i + 1 + ((3 - ((i + 1) % 3) + (i % 3) + 1) % 3)}`;
    if (!this.#r.oneIn(3) || !this.#exists(to)) return this.#exists(to) ? `call ${to}` : 'nop';
    // The same through a register.
    return `auipc x5, 0\naddi x5, x5, 16\njalr x6, 0(x5)\nj ${this.#label()}\ncall ${to}\n${this.#last()}: nop`;
  }

  #exists = (name: string): boolean => Number(name.slice(1)) < FUNCTIONS;
  #label = (): string => `l${++this.#labels}`;
  #last = (): string => `l${this.#labels}`;

  #lines(count: number): string {
    return Array.from({ length: count }, () => this.#line()).join('\n');
  }

  #loop(depth: number, i: number): string {
    const again = this.#label();
    const inner = this.#r.oneIn(4) && depth < 2 ? this.#call(i) : '';
    const skip = this.#skip();
    const count = 2 + this.#r.below(12);
    return `li x${20 + depth}, ${count}\n${again}: ${this.#lines(2)}\n${skip}\n${inner}\n${this.#lines(2)}
      addi x${20 + depth}, x${20 + depth}, -1\nbnez x${20 + depth}, ${again}`;
  }

  /** Not reducible: the middle is reached from outside too. */
  #loopWithTwoWaysIn(depth: number): string {
    const [again, middle] = [this.#label(), this.#label()];
    const counter = `x${20 + depth}`;
    return `li ${counter}, ${2 + this.#r.below(9)}\n${this.#branch(middle)}\n${again}: ${this.#lines(3)}
      ${middle}: ${this.#lines(3)}\naddi ${counter}, ${counter}, -1\nbnez ${counter}, ${again}`;
  }

  /** A block that repeats, with bases that step through pages. */
  #stride(depth: number): string {
    const r = this.#r;
    const again = this.#label();
    const counter = `x${20 + depth}`;
    const bases = r.oneIn(2) ? ['x6'] : ['x6', 'x7'];
    const place = () => 4096 * r.below(DATA_PAGES) + 8 * r.below(512) + (r.oneIn(5) ? r.below(8) : 0);
    const set = (x: string) => `li x5, ${place()}\nadd ${x}, x18, x5`;
    const access = (x: string) =>
      r.pick([
        () => `${r.pick(LOADS)} ${this.#x()}, ${8 * r.below(4)}(${x})`,
        () => `${r.pick(STORES)} ${this.#x()}, ${8 * r.below(4)}(${x})`,
        () => `fld ${this.#f()}, 0(${x})`,
        () => `fsd ${this.#f()}, 8(${x})`,
      ])();
    const step = (x: string) => `addi ${x}, ${x}, ${r.pick([1, 2, 4, 8, 8, 16, 64, 1024, -8, -4])}`;
    const alu = () => `${r.pick(ALU)} ${this.#x()}, ${this.#x()}, ${this.#x()}`;
    const body = bases.flatMap(x => [access(x), alu(), access(x), step(x)]).join('\n');
    return `${bases.map(set).join('\n')}\nli ${counter}, ${2 + r.below(r.oneIn(4) ? 600 : 40)}
      ${again}: ${body}\naddi ${counter}, ${counter}, -1\nbnez ${counter}, ${again}`;
  }

  #table(): string {
    const end = this.#label();
    const cases = Array.from({ length: 4 }, () => this.#label());
    const jumps = cases.map(to => `j ${to}\nnop`).join('\n');
    const bodies = cases.map(at => `${at}: ${this.#lines(2)}\nj ${end}`).join('\n');
    return `andi x6, ${this.#x()}, 3\nslli x6, x6, 3\nauipc x5, 0\nadd x5, x5, x6\njr x5, 16\n${jumps}\n${bodies}\n${end}: nop`.replace(
      'jr x5, 16',
      'jalr x0, 12(x5)',
    );
  }

  #x = (): string => `x${10 + this.#r.below(8)}`;
  #f = (): string => `f${this.#r.below(8)}`;
  #offset = (): number => this.#r.below(4096) - 2048;
  #near = (): number => (this.#r.below(64) - 32) * this.#r.pick([1, 8, 8]);
  #branch = (to: string): string => `${this.#r.pick(BRANCHES)} ${this.#x()}, ${this.#x()}, ${to}`;

  #skip(): string {
    const to = this.#label();
    // To the next instruction, now and then.
    const between = this.#r.oneIn(5) ? '' : `${this.#line()}\n${this.#line()}\n`;
    return `${this.#branch(to)}\n${between}${to}: nop`;
  }

  #line(): string {
    const r = this.#r;
    const kind = r.below(40);
    if (kind < 12) return `${r.pick(ALU)} ${this.#x()}, ${this.#x()}, ${this.#x()}`;
    if (kind < 15) return `${r.pick(SHORT_IMMEDIATE)} ${this.#x()}, ${this.#x()}, ${this.#offset()}`;
    if (kind < 16) return `${r.pick(['slli', 'srli', 'srai'])} ${this.#x()}, ${this.#x()}, ${r.below(64)}`;
    if (kind < 17) return `${r.pick(['lui', 'auipc'])} ${this.#x()}, ${r.below(0x100000)}`;
    if (kind < 21) return `${r.pick(LOADS)} ${this.#x()}, ${r.oneIn(4) ? this.#offset() : this.#near()}(x8)`;
    if (kind < 25) return `${r.pick(STORES)} ${this.#x()}, ${r.oneIn(4) ? this.#offset() : this.#near()}(x8)`;
    if (kind < 26) return this.#move();
    if (kind < 28) return this.#atomic();
    if (kind < 33) return this.#float();
    if (kind < 34) return this.#csr();
    if (kind < 36) return this.#short();
    if (kind < 37) return `${this.#skip()}`;
    return this.#rare();
  }

  /** To another place of the data. */
  #move(): string {
    const to = `li x5, ${DATA_PAGES - 1}\nand x5, x5, ${this.#x()}\nslli x5, x5, 12\nadd x8, x18, x5\naddi x8, x8, 1024\naddi x8, x8, 1024`;
    return this.#r.oneIn(2) ? to : `${to}\naddi x9, x8, ${8 * this.#r.below(100)}`;
  }

  #atomic(): string {
    const size = this.#r.pick(['w', 'd']);
    if (this.#r.oneIn(3)) {
      const other = this.#r.oneIn(3) ? `${this.#line()}\n` : '';
      return `lr.${size} ${this.#x()}, (x9)\n${other}sc.${this.#r.oneIn(8) ? 'd' : size} ${this.#x()}, ${this.#x()}, (x9)`;
    }
    return `amo${this.#r.pick(AMOS)}.${size} ${this.#x()}, ${this.#x()}, (${this.#r.oneIn(10) ? 'x8' : 'x9'})`;
  }

  #float(): string {
    const r = this.#r;
    const p = r.pick(['s', 'd', 'd']);
    const [f, x] = [this.#f, this.#x];
    switch (r.below(10)) {
      case 0:
        return `fl${p === 's' ? 'w' : 'd'} ${f()}, ${8 * r.below(100)}(x8)`;
      case 1:
        return `fs${p === 's' ? 'w' : 'd'} ${f()}, ${8 * r.below(100)}(x8)`;
      case 2:
        return `${r.pick(FUSED)}.${p} ${f()}, ${f()}, ${f()}, ${f()}`;
      case 3:
        return `fcvt.${r.pick(['w', 'wu', 'l', 'lu'])}.${p} ${x()}, ${f()}`;
      case 4:
        return `fcvt.${p}.${r.pick(['w', 'wu', 'l', 'lu'])} ${f()}, ${x()}`;
      case 5:
        return `${r.pick(['feq', 'flt', 'fle'])}.${p} ${x()}, ${f()}, ${f()}`;
      case 6:
        return r.pick([`fsqrt.${p} ${f()}, ${f()}`, `fclass.${p} ${x()}, ${f()}`, `fcvt.s.d ${f()}, ${f()}`]);
      case 7:
        return r.pick([`fmv.x.d ${x()}, ${f()}`, `fmv.d.x ${f()}, ${x()}`, `fmv.w.x ${f()}, ${x()}`]);
      default:
        return `${r.pick(FLOATS)}.${p} ${f()}, ${f()}, ${f()}`;
    }
  }

  #csr(): string {
    const how = this.#r.pick(['csrrw', 'csrrs', 'csrrc']);
    const own = this.#r.pick(['sscratch', 'sepc', 'stval', 'scause']);
    switch (this.#r.below(5)) {
      case 0:
        return `${how} ${this.#x()}, ${own}, ${this.#x()}`;
      case 1:
        return `${how}i ${this.#x()}, ${own}, ${this.#r.below(32)}`;
      case 2:
        return `csrr ${this.#x()}, ${this.#r.pick(['sstatus', 'instret', 'fcsr'])}`;
      case 3:
        return `csrrwi ${this.#x()}, frm, ${this.#r.below(this.#r.oneIn(4) ? 8 : 5)}`;
      default:
        return `li x5, ${this.#r.pick(STATUS_BITS)}\n${this.#r.pick(['csrrs', 'csrrc'])} ${this.#x()}, sstatus, x5`;
    }
  }

  /** A pair of 2-byte instructions. */
  #short(): string {
    return `.word ${this.#half() | (this.#half() * 0x10000)}`;
  }

  #half(): number {
    const r = this.#r;
    const [rd, rs] = [10 + r.below(8), 10 + r.below(8)];
    const word = (0x20 + r.below(32) * 8) & 0xf8;
    const place = (((word >> 3) & 7) << 10) | ((word >> 6) << 5);
    return r.pick([
      0x0001 | (rd << 7) | ((r.below(31) + 1) << 2), // c.addi
      0x8002 | (rd << 7) | (rs << 2), //              c.mv
      0x9002 | (rd << 7) | (rs << 2), //              c.add
      0x6000 | place | (((rd & 3) + 2) << 2), //        c.ld by x8
      0xe000 | place | (((rd & 3) + 2) << 2), //        c.sd by x8
    ]);
  }

  #rare(): string {
    switch (this.#r.below(16)) {
      case 0:
        return 'ebreak';
      case 1:
        return '.word 0xffffffff';
      case 2:
        return 'ecall';
      case 3:
        return 'fence.i';
      case 4:
      case 5:
        return this.#remap();
      case 6:
        return 'li x5, 0x2000\ncsrs sstatus, x5';
      case 7:
        return 'fence rw, rw'.split(' ')[0]!;
      default:
        return `${this.#r.pick(ALU)} ${this.#x()}, ${this.#x()}, ${this.#x()}`;
    }
  }

  /** Takes W or U of a page away, or gives it back. */
  #remap(): string {
    const entry = 8 * this.#r.below(DATA_PAGES);
    return `lw x5, ${entry}(x19)\nxori x5, x5, ${this.#r.pick([4, 16])}\nsw x5, ${entry}(x19)\nsfence.vma`;
  }
}

/** Steps over whatever trapped. */
const HANDLER = `handler: csrr x30, sepc
  csrr x31, scause
  add x27, x27, x31
  lhu x31, 0(x30)
  andi x31, x31, 3
  addi x31, x31, -3
  beqz x31, long
  addi x30, x30, -2
  long: addi x30, x30, 4
  csrw sepc, x30
  sret`;
