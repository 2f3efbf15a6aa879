import type { Code, MemoryOp, PlainOp } from '../../wasm/code.ts';
import { F64, I32, I64 } from '../../wasm/encoder.ts';
import { storageImm } from '../csr.ts';
import { immediateOf, rdOf, rs1Of, rs2Of, rs3Of } from '../decode.ts';
import type { Bitwise, Bytes, Comparison, CsrHow, Emit, Helper, Second } from '../emit.ts';
import { emitInline, isSingle, resultType } from '../float/inline.ts';
import { boxed } from '../float/inline-site.ts';
import type { Format } from '../instruction.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { pushHigh } from '../multiply-high.ts';
import { MICRO_READ, MICRO_WRITE } from '../tlb-layout.ts';
import { AT, Status } from '../vcpu.ts';
import { Accesses } from './accesses.ts';
import { CsrEmit } from './csr-emit.ts';
import type { Step } from './discover.ts';
import { Narrow } from './narrow.ts';
import type { Place, RegionParts } from './parts.ts';
import { Scratch } from './scratch.ts';
import { Leave, PARAM, type RegionLocals } from './signature.ts';
import type { Addends } from './stride.ts';

/** What is known of sstatus.FS in a block. */
const Fs = { Unknown: 0, On: 1, Dirty: 2 } as const;

const { cpu, page } = PARAM;

/** Semantics whose operands are locals and constants. */
export class RegionEmit implements Emit {
  readonly c: Code;
  readonly #l: RegionLocals;
  readonly #parts: RegionParts;
  #step!: Step;
  #format!: Format;
  #imm = 0;
  #place!: Place;
  #fs: number = Fs.Unknown;
  /** frm is known to be a mode, as far as conversions go. */
  #isMode = false;
  /** Bit n: fn is known to hold a boxed single. */
  #boxed = 0;
  /** What was pushed for an f register is a number already, not an image. */
  #isNumber = false;
  readonly #scratch: Scratch;
  readonly #accesses: Accesses;
  readonly #narrow = new Narrow();
  readonly #csr: CsrEmit;

  constructor(parts: RegionParts) {
    this.c = parts.c;
    this.#l = parts.l;
    this.#parts = parts;
    this.#scratch = new Scratch(parts.c);
    this.#accesses = new Accesses(parts);
    this.#csr = new CsrEmit(parts);
  }

  /** A block begins: what was known of FS need not hold. Its accesses are by `addends` alone, if given. */
  beginBlock(addends?: Addends): void {
    this.#accesses.beginBlock(addends);
    this.#fs = Fs.Unknown;
    this.#isMode = false;
    this.#boxed = 0;
    this.#narrow.beginBlock();
  }

  emit(step: Step, place: Place): void {
    const row = INSTRUCTIONS[step.row]!;
    this.#step = step;
    this.#format = row.format;
    this.#place = place;
    this.#isNumber = false;
    this.#scratch.reset();
    const { imm } = row.format;
    this.#imm = imm === 'csr' ? storageImm(step.word >>> 20) : immediateOf(step.word, imm);
    row.emit?.(this);
    this.#narrow.note(step);
    const bit = row.format.rd === 'f' ? 1 << rdOf(step.word) : 0;
    this.#boxed = isSingle(row.name) ? this.#boxed | bit : this.#boxed & ~bit;
    if (row.format.rd === 'x') this.#accesses.noteWrite(rdOf(step.word), row.format.syntax.includes('mem'));
  }

  #push(file: 'x' | 'f' | undefined, n: number): void {
    this.#pushLocal(file, n);
    if (file === 'f') this.c.op('i64_reinterpret_f64');
  }

  #pushLocal(file: 'x' | 'f' | undefined, n: number): void {
    const { registers } = this.#parts;
    if (file === 'f') this.c.get(registers.f[n]!);
    else if (n === 0) this.c.i64(0);
    else this.c.get(registers.x[n]!);
  }

  rs1(): void {
    this.#push(this.#format.rs1, rs1Of(this.#step.word));
  }

  rs2(): void {
    this.#push(this.#format.rs2, rs2Of(this.#step.word));
  }

  rs3(): void {
    this.#push(this.#format.rs3, rs3Of(this.#step.word));
  }

  imm(): void {
    this.c.i64(this.#imm);
  }

  pc(): void {
    this.#address(this.#step.offset);
  }

  nextPc(): void {
    this.#address(this.#step.offset + this.#step.length);
  }

  #address(offset: number): void {
    this.c.get(page);
    if (offset !== 0) this.c.i64(offset).op('i64_add');
  }

  rd(value: () => void): void {
    value();
    const n = rdOf(this.#step.word);
    if (this.#format.rd === 'f') {
      if (!this.#isNumber) this.c.op('f64_reinterpret_i64');
      this.c.set(this.#parts.registers.f[n]!);
    } else if (n === 0) this.c.op('drop');
    else this.c.set(this.#parts.registers.x[n]!);
  }

  /** Inline: a call would have all registers put by. */
  helper(name: Helper): void {
    const { a, b } = this.#l;
    this.c.set(b).set(a);
    const [middle, other] = [this.#scratch.take(I64), this.#scratch.take(I64)];
    pushHigh(this.c, name, { a, b, middle, other });
  }

  bitwise(op: Bitwise, second: Second): void {
    this.rd(() => {
      if (!this.#areNarrow(second)) this.#pair(second, op);
      else this.#lowPair(second).op(`i32_${op}`, 'i64_extend_i32_s');
    });
  }

  compare(op: Comparison, second: Second): void {
    this.rd(() => void this.#compared(op, second).op('i64_extend_i32_u'));
  }

  /** Pushes 0 or 1, an i32. */
  #compared(op: Comparison, second: Second): Code {
    return this.#areNarrow(second) ? this.#lowPair(second).op(`i32_${op}`) : this.#pair(second, op);
  }

  #areNarrow(second: Second): boolean {
    const { word } = this.#step;
    return this.#narrow.has(rs1Of(word)) && (second === 'imm' || this.#narrow.has(rs2Of(word)));
  }

  #pair(second: Second, op: Bitwise | Comparison): Code {
    this.rs1();
    this[second]();
    return this.c.op(`i64_${op}`);
  }

  /** Pushes the low words of rs1 and the second operand. */
  #lowPair(second: Second): Code {
    this.rs1();
    this.c.op('i32_wrap_i64');
    if (second === 'imm') return this.c.i32(this.#imm);
    this.rs2();
    return this.c.op('i32_wrap_i64');
  }

  /** Leaves the region before this instruction, for the interpreter to execute it. */
  interpret(): void {
    const { c } = this;
    const { left, out, reason } = this.#l;
    if (this.#place.undone !== 0) c.get(left).i32(this.#place.undone).op('i32_add').set(left);
    this.pc();
    c.set(out).i32(Leave.Interpret).set(reason).br(this.#place.exit);
  }

  /** Does so when the i32 on the stack is not zero. */
  interpretIf(): void {
    this.c.if(() => this.interpret(), undefined, { likely: false });
  }

  #effectiveAddress(): void {
    this.rs1();
    if (this.#imm !== 0) this.c.i64(this.#imm).op('i64_add');
    this.c.set(this.#l.ea);
  }

  /** Pushes the host address of an access of `bytes` at `ea`. */
  #host(kind: number, bytes: Bytes, isAtomic: boolean): void {
    const { host } = this.#l;
    const base = rs1Of(this.#step.word);
    this.#accesses.lookUp({
      ...{ kind, base, bytes, isAtomic },
      replacesBase: this.#format.rd === 'x' && rdOf(this.#step.word) === base,
      // What `left` is while the instruction is in progress.
      inProgress: this.#place.undone - 1,
      interpretIf: () => this.interpretIf(),
    });
    const { willWrite } = this.#parts;
    if (kind === MICRO_WRITE && willWrite !== undefined) {
      this.c.tee(host).get(host).i32(bytes).call(willWrite);
    }
  }

  load(op: MemoryOp, bytes: Bytes, after?: () => void): void {
    this.#effectiveAddress();
    this.#host(MICRO_READ, bytes, false);
    if (this.#format.rd === 'f' && bytes === 8) {
      this.c.mem('f64_load');
      after?.();
      this.c.set(this.#parts.registers.f[rdOf(this.#step.word)]!);
      return;
    }
    if (this.#format.rd === 'f') {
      this.c.set(this.#l.host);
      boxed(c => void c.get(this.#l.host).mem('f32_load'))(this.c);
      this.c.set(this.#parts.registers.f[rdOf(this.#step.word)]!);
      this.dirtyFp();
      return;
    }
    this.rd(() => {
      this.c.mem(op);
      after?.();
    });
  }

  store(op: MemoryOp, bytes: Bytes): void {
    this.#effectiveAddress();
    this.#host(MICRO_WRITE, bytes, false);
    if (this.#format.rs2 === 'f' && bytes === 8) {
      this.c.get(this.#parts.registers.f[rs2Of(this.#step.word)]!).mem('f64_store');
      return;
    }
    this.rs2();
    this.c.mem(op);
  }

  /** Sets `host` to the place of an aligned access at rs1. */
  #atomicHost(kind: number, bytes: 4 | 8): void {
    this.rs1();
    this.c.set(this.#l.ea);
    this.#host(kind, bytes, true);
    this.c.set(this.#l.host);
  }

  lr(bytes: 4 | 8): void {
    const { c } = this;
    const { host, a } = this.#l;
    this.#atomicHost(MICRO_READ, bytes);
    c.get(cpu)
      .get(host)
      .mem('i32_store', AT.reservation * 4);
    c.get(cpu)
      .i32(bytes)
      .mem('i32_store', AT.reservedBytes * 4);
    c.get(host);
    if (bytes === 4) c.mem('i32_atomic_load').op('i64_extend_i32_s');
    else c.mem('i64_atomic_load');
    c.set(a)
      .get(cpu)
      .get(a)
      .mem('i64_store', AT.reservedValue * 4);
    this.rd(() => void c.get(a));
  }

  sc(bytes: 4 | 8): void {
    const { c } = this;
    const { host, a32 } = this.#l;
    this.#atomicHost(MICRO_WRITE, bytes);
    c.get(cpu)
      .mem('i32_load', AT.reservation * 4)
      .get(host)
      .op('i32_eq');
    c.get(cpu)
      .mem('i32_load', AT.reservedBytes * 4)
      .i32(bytes)
      .op('i32_eq', 'i32_and');
    c.if(
      () => this.#exchangeReserved(bytes),
      () => void c.i32(1),
      { type: I32 },
    );
    c.set(a32)
      .get(cpu)
      .i32(0)
      .mem('i32_store', AT.reservation * 4);
    this.rd(() => void c.get(a32).op('i64_extend_i32_u'));
  }

  /** Pushes 0 when the reserved value was still there and rs2 replaced it. */
  #exchangeReserved(bytes: 4 | 8): void {
    const { c } = this;
    const type = bytes === 4 ? 'i32' : 'i64';
    const reserved = AT.reservedValue * 4;
    c.get(this.#l.host).get(cpu).mem(`${type}_load`, reserved);
    this.rs2();
    if (bytes === 4) c.op('i32_wrap_i64');
    c.mem(`${type}_atomic_rmw_cmpxchg`).get(cpu).mem(`${type}_load`, reserved).op(`${type}_ne`);
  }

  amo(op: MemoryOp, bytes: 4 | 8): void {
    const { c } = this;
    this.#atomicHost(MICRO_WRITE, bytes);
    this.rd(() => {
      c.get(this.#l.host);
      this.rs2();
      if (bytes === 4) c.op('i32_wrap_i64').mem(op).op('i64_extend_i32_s');
      else c.mem(op);
    });
  }

  amoKeep(keep: PlainOp, bytes: 4 | 8): void {
    const { c } = this;
    const { host } = this.#l;
    const type = bytes === 4 ? 'i32' : 'i64';
    const [old, source] = bytes === 4 ? [this.#l.a32, this.#l.b32] : [this.#l.a, this.#l.b];
    this.#atomicHost(MICRO_WRITE, bytes);
    this.rs2();
    if (bytes === 4) c.op('i32_wrap_i64');
    c.set(source);
    c.loop(again => {
      c.get(host).get(host).mem(`${type}_atomic_load`).tee(old);
      c.get(old).get(source).get(old).get(source).op(keep, 'select');
      c.mem(`${type}_atomic_rmw_cmpxchg`).get(old).op(`${type}_ne`).brIf(again);
    });
    this.rd(() => {
      c.get(old);
      if (bytes === 4) c.op('i64_extend_i32_s');
    });
  }

  branch(condition: Comparison): void {
    // Whole blocks are emitted inside, so this step's place is no longer there afterwards.
    const { jumps } = this.#place;
    this.#compared(condition, 'rs2').if(
      () => jumps.branch(),
      () => jumps.otherwise(),
    );
  }

  jump(): void {
    this.rd(() => this.nextPc());
    this.#place.jumps.jump();
  }

  jumpRegister(): void {
    const { c } = this;
    this.rs1();
    if (this.#imm !== 0) c.i64(this.#imm).op('i64_add');
    c.i64(-2).op('i64_and').set(this.#l.target);
    this.rd(() => this.nextPc());
    this.#place.jumps.register();
  }

  requireFp(dirties: boolean): void {
    const { c } = this;
    if (this.#fs >= (dirties ? Fs.Dirty : Fs.On)) return;
    c.get(cpu)
      .mem('i32_load', AT.sstatus * 4)
      .i32(Status.FS)
      .op('i32_and');
    if (dirties) c.i32(Status.FS).op('i32_ne');
    else c.op('i32_eqz');
    this.interpretIf();
    this.#fs = dirties ? Fs.Dirty : Fs.On;
  }

  dirtyFp(): void {
    if (this.#fs === Fs.Dirty) return;
    const at = AT.sstatus * 4;
    this.c.get(cpu).get(cpu).mem('i32_load', at).i32(Status.FS).op('i32_or').mem('i32_store', at);
    this.#fs = Fs.Dirty;
  }

  /** Pushes the rounding mode; a dynamic one that is reserved leaves. */
  #roundingMode(): void {
    const { c } = this;
    if (this.#imm !== 7) {
      c.i32(this.#imm);
      return;
    }
    c.get(cpu)
      .mem('i32_load', AT.frm * 4)
      .tee(this.#l.k);
    c.i32(4).op('i32_gt_u');
    this.interpretIf();
    c.get(this.#l.k);
  }

  /** Leaves for a dynamic rounding mode that is reserved, of which an inline conversion would take no notice. */
  #requireMode(): void {
    if (this.#imm !== 7 || this.#isMode) return;
    this.c
      .get(cpu)
      .mem('i32_load', AT.frm * 4)
      .i32(4)
      .op('i32_gt_u');
    this.interpretIf();
    this.#isMode = true;
  }

  float(name: string, operands: () => void, rounds: boolean): void {
    const { c } = this;
    const call = () => {
      c.get(cpu);
      operands();
      if (rounds) this.#roundingMode();
      c.call(this.#parts.imported(`float_${name}`));
    };
    const { word } = this.#step;
    const registers = [rs1Of(word), rs2Of(word), rs3Of(word)];
    const { rs1, rs2, rs3 } = this.#format;
    // Other forms go by `native`, which is off for a mode that is reserved.
    if (rounds && name.startsWith('cvt')) this.#requireMode();
    const isInline = emitInline(c, name, {
      operand: i => this.#pushLocal([rs1, rs2, rs3][i], registers[i]!),
      same: registers[0] === registers[1],
      isBoxed: i => (this.#boxed & (1 << registers[i]!)) !== 0,
      rm: this.#imm,
      native: this.#l.native,
      call,
      scratch: type => this.#scratch.take(type),
      fused: this.#parts.fused,
    });
    if (!isInline) call();
    this.#isNumber = isInline && resultType(name) === F64;
  }

  csrStorage(how: CsrHow, immediate: boolean): void {
    this.#csr.storage(this, how, this.#imm, immediate ? rs1Of(this.#step.word) : undefined);
  }

  csrStatus(how: CsrHow, immediate: boolean): void {
    this.#csr.status(this, how, immediate ? rs1Of(this.#step.word) : undefined);
    this.#fs = Fs.Unknown;
  }
}
