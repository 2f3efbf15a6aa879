import type { Code, MemoryOp, PlainOp } from '../wasm/code.ts';
import { I32 } from '../wasm/encoder.ts';
import { STATUS_WRITABLE } from './csr.ts';
import { IMM_SCALE, PC_SHIFT, type Variant } from './decoded.ts';
import type { Bitwise, Bytes, Comparison, CsrHow, Emit, Helper, Second } from './emit.ts';
import { combine, ifLetsIn, selectSum, wholeStatus } from './emit-csr.ts';
import type { Extend } from './instruction.ts';
import { INSTRUCTIONS } from './instructions.ts';
import { Access } from './interface.ts';
import { CPU, type Internals, type Locals, type Places } from './interpreter-locals.ts';
import { aboutAccess } from './interpreter-misses.ts';
import { Operands } from './interpreter-operands.ts';
import { INDEX_MASK, KIND_BYTES } from './tlb-layout.ts';
import { AT, Status } from './vcpu.ts';

const WRITE = Access.Write * KIND_BYTES;
const READ = Access.Read * KIND_BYTES;
/** Where an entry has its second word. */
const ADDEND = 8;

/** One case of the interpreter: semantics whose operands come by the decoded record at `dp`. */
export class InterpreterEmit implements Emit {
  readonly c: Code;
  readonly #l: Locals;
  readonly #at: Places;
  readonly #f: Internals;
  readonly #operands: Operands;
  readonly #extend: Extend | undefined;
  readonly #length: 2 | 4;
  readonly #far: boolean;
  /** What comes behind `advance`. */
  readonly #then: () => void;

  constructor(c: Code, l: Locals, at: Places, f: Internals, { row, length, far }: Variant, then: () => void) {
    this.c = c;
    this.#l = l;
    this.#at = at;
    this.#f = f;
    const { format, extend } = INSTRUCTIONS[row]!;
    this.#operands = new Operands(c, l.dp, format);
    this.#extend = extend;
    this.#length = length;
    this.#far = far;
    this.#then = then;
  }

  rs1(): void {
    this.#operands.rs1();
  }

  rs2(): void {
    this.#operands.rs2();
  }

  rs3(): void {
    this.#operands.rs3();
  }

  imm(): void {
    this.#operands.imm('i64');
  }

  pc(): void {
    this.c.get(this.#l.pcBase).get(this.#l.dp).i32(PC_SHIFT).op('i32_shr_u', 'i64_extend_i32_u', 'i64_add');
  }

  nextPc(): void {
    this.pc();
    this.c.i64(this.#length).op('i64_add');
  }

  rd(value: () => void): void {
    this.#operands.rd();
    value();
    this.c.mem('i64_store');
  }

  helper(name: Helper): void {
    this.c.call(this.#f[name]);
  }

  bitwise(op: Bitwise, second: Second): void {
    this.rd(() => {
      this.rs1();
      this[second]();
      this.c.op(`i64_${op}`);
    });
  }

  compare(op: Comparison, second: Second): void {
    this.rd(() => {
      this.rs1();
      this[second]();
      this.c.op(`i64_${op}`, 'i64_extend_i32_u');
    });
  }

  /** To the next instruction in the page. */
  advance(): void {
    const { c } = this;
    c.get(this.#l.dp)
      .i32(this.#length * IMM_SCALE)
      .op('i32_add')
      .set(this.#l.dp);
    this.#then();
  }

  /** To the next instruction by a lookup, as what is decoded may have changed. */
  #advanceByLookup(): void {
    this.nextPc();
    this.c.set(this.#l.pc).br(this.#at.lookup);
  }

  /** Pushes 1 when the entry of `kind` translates an access of `bytes` at `ea`; sets `entry`. */
  #probe(kind: number, bytes: Bytes): void {
    const { c } = this;
    c.get(this.#l.ea).op('i32_wrap_i64').i32(8).op('i32_shr_u').i32(INDEX_MASK).op('i32_and');
    c.get(this.#l.tlb).op('i32_add').tee(this.#l.entry).mem('i64_load', kind);
    // The low bits stay in the comparison, so a misaligned access misses.
    c.get(this.#l.ea)
      .i64(-4096 + bytes - 1)
      .op('i64_and', 'i64_eq');
  }

  #effectiveAddress(): void {
    this.rs1();
    this.imm();
    this.c.op('i64_add').set(this.#l.ea);
  }

  #translated(kind: number): void {
    this.c
      .get(this.#l.ea)
      .op('i32_wrap_i64')
      .get(this.#l.entry)
      .mem('i32_load', kind + ADDEND)
      .op('i32_add');
  }

  /** Pushes what the miss functions want to know of an access at `ea`, and where the instruction is. */
  #access(bytes: Bytes): void {
    const { ea, dp, pcBase, left } = this.#l;
    const about = aboutAccess(bytes, this.#length, this.#extend);
    this.c.get(CPU).get(ea).i32(about).get(dp).get(pcBase).get(left);
  }

  load(op: MemoryOp, bytes: Bytes, after?: () => void): void {
    this.#effectiveAddress();
    this.rd(() => {
      this.#hostOfLoad(bytes);
      this.c.mem(op);
      after?.();
    });
  }

  #hostOfLoad(bytes: Bytes): void {
    const { c } = this;
    this.#probe(READ, bytes);
    c.if(
      () => this.#translated(READ),
      () => {
        this.#access(bytes);
        c.call(this.#f.loadMiss)
          .tee(this.#l.host)
          .op('i32_eqz')
          .brIf(this.#at.resync, false)
          .get(this.#l.host);
      },
      { type: I32, likely: true },
    );
  }

  store(op: MemoryOp, bytes: Bytes): void {
    const { c } = this;
    this.#effectiveAddress();
    this.#probe(WRITE, bytes);
    c.if(
      () => {
        this.#translated(WRITE);
        this.#watch(bytes);
        this.rs2();
        c.mem(op);
      },
      () => {
        this.#access(bytes);
        this.rs2();
        c.call(this.#f.storeMiss).op('i32_eqz').brIf(this.#at.resync, false);
        this.#advanceByLookup();
      },
      { likely: true },
    );
  }

  /** Sets `host` to the place of an aligned access at rs1, or leaves. */
  #atomicHost(kind: number, bytes: 4 | 8): void {
    const { c } = this;
    this.rs1();
    c.set(this.#l.ea);
    this.#probe(kind, bytes);
    c.if(
      () => {
        this.#translated(kind);
        c.set(this.#l.host);
      },
      () => {
        this.#access(bytes);
        c.i32(kind === READ ? Access.Read : Access.Write);
        c.call(this.#f.amoMiss).tee(this.#l.host).op('i32_eqz').brIf(this.#at.resync, false);
      },
      { likely: true },
    );
    if (kind === WRITE && this.#f.willWrite !== undefined) {
      c.get(this.#l.host).i32(bytes).call(this.#f.willWrite);
    }
  }

  /** Test: tells of the store to the address on the stack. */
  #watch(bytes: Bytes): void {
    const { host } = this.#l;
    if (this.#f.willWrite !== undefined) this.c.tee(host).get(host).i32(bytes).call(this.#f.willWrite);
  }

  lr(bytes: 4 | 8): void {
    const { c } = this;
    this.#atomicHost(READ, bytes);
    c.get(CPU)
      .get(this.#l.host)
      .mem('i32_store', AT.reservation * 4);
    c.get(CPU)
      .i32(bytes)
      .mem('i32_store', AT.reservedBytes * 4);
    c.get(this.#l.host);
    if (bytes === 4) c.mem('i32_atomic_load').op('i64_extend_i32_s');
    else c.mem('i64_atomic_load');
    c.set(this.#l.a);
    c.get(CPU)
      .get(this.#l.a)
      .mem('i64_store', AT.reservedValue * 4);
    this.rd(() => void c.get(this.#l.a));
  }

  sc(bytes: 4 | 8): void {
    const { c } = this;
    this.#atomicHost(WRITE, bytes);
    c.get(CPU)
      .mem('i32_load', AT.reservation * 4)
      .get(this.#l.host)
      .op('i32_eq');
    c.get(CPU)
      .mem('i32_load', AT.reservedBytes * 4)
      .i32(bytes)
      .op('i32_eq', 'i32_and');
    c.if(
      () => this.#exchangeReserved(bytes),
      () => void c.i32(1),
      { type: I32 },
    );
    c.set(this.#l.a32);
    c.get(CPU)
      .i32(0)
      .mem('i32_store', AT.reservation * 4);
    this.rd(() => void c.get(this.#l.a32).op('i64_extend_i32_u'));
    this.#advanceByLookup();
  }

  /** Pushes 0 when the reserved value was still there and rs2 replaced it. */
  #exchangeReserved(bytes: 4 | 8): void {
    const { c } = this;
    const reserved = AT.reservedValue * 4;
    c.get(this.#l.host).get(CPU);
    if (bytes === 4) {
      c.mem('i32_load', reserved);
      this.rs2();
      c.op('i32_wrap_i64').mem('i32_atomic_rmw_cmpxchg').get(CPU).mem('i32_load', reserved).op('i32_ne');
    } else {
      c.mem('i64_load', reserved);
      this.rs2();
      c.mem('i64_atomic_rmw_cmpxchg').get(CPU).mem('i64_load', reserved).op('i64_ne');
    }
  }

  amo(op: MemoryOp, bytes: 4 | 8): void {
    const { c } = this;
    this.#atomicHost(WRITE, bytes);
    this.rd(() => {
      c.get(this.#l.host);
      this.rs2();
      if (bytes === 4) c.op('i32_wrap_i64').mem(op).op('i64_extend_i32_s');
      else c.mem(op);
    });
    this.#advanceByLookup();
  }

  amoKeep(keep: PlainOp, bytes: 4 | 8): void {
    if (bytes === 4) this.#amoKeep32(keep);
    else this.#amoKeep64(keep);
    this.#advanceByLookup();
  }

  #amoKeep32(keep: PlainOp): void {
    const { c } = this;
    const { a32, b32, host } = this.#l;
    this.#atomicHost(WRITE, 4);
    this.rs2();
    c.op('i32_wrap_i64').set(b32);
    c.loop(again => {
      c.get(host).get(host).mem('i32_atomic_load').tee(a32);
      c.get(a32).get(b32).get(a32).get(b32).op(keep, 'select');
      c.mem('i32_atomic_rmw_cmpxchg').get(a32).op('i32_ne').brIf(again);
    });
    this.rd(() => void c.get(a32).op('i64_extend_i32_s'));
  }

  #amoKeep64(keep: PlainOp): void {
    const { c } = this;
    const { a, b, host } = this.#l;
    this.#atomicHost(WRITE, 8);
    this.rs2();
    c.set(b);
    c.loop(again => {
      c.get(host).get(host).mem('i64_atomic_load').tee(a);
      c.get(a).get(b).get(a).get(b).op(keep, 'select');
      c.mem('i64_atomic_rmw_cmpxchg').get(a).op('i64_ne').brIf(again);
    });
    this.rd(() => void c.get(a));
  }

  branch(condition: Comparison): void {
    this.rs1();
    this.rs2();
    this.c.op(`i64_${condition}`).if(() => this.#go());
  }

  /** To pc + imm. */
  #go(): void {
    const { c } = this;
    if (this.#far) {
      this.pc();
      this.imm();
      c.op('i64_add').set(this.#l.pc).br(this.#at.lookup);
    } else {
      c.get(this.#l.dp);
      this.#operands.imm('i32');
      c.tee(this.#l.a32).op('i32_add').set(this.#l.dp);
      c.get(this.#l.a32).i32(0).op('i32_lt_s').brIf(this.#at.back);
      c.br(this.#at.next);
    }
  }

  jump(): void {
    this.rd(() => this.nextPc());
    this.#go();
  }

  jumpRegister(): void {
    const { c } = this;
    this.rs1();
    this.imm();
    c.op('i64_add').i64(-2).op('i64_and').set(this.#l.pc);
    this.rd(() => this.nextPc());
    c.br(this.#at.lookup);
  }

  requireFp(dirties: boolean): void {
    const { c } = this;
    c.get(CPU)
      .mem('i32_load', AT.sstatus * 4)
      .i32(Status.FS)
      .op('i32_and');
    if (dirties) c.i32(Status.FS).op('i32_ne');
    else c.op('i32_eqz');
    c.brIf(this.#at.slow, false);
  }

  dirtyFp(): void {
    const at = AT.sstatus * 4;
    this.c.get(CPU).get(CPU).mem('i32_load', at).i32(Status.FS).op('i32_or').mem('i32_store', at);
  }

  /** Pushes the rounding mode; a dynamic one that is reserved leaves. */
  #roundingMode(): void {
    const { c } = this;
    this.#operands.rm();
    c.tee(this.#l.rm).i32(7).op('i32_eq');
    c.if(
      () =>
        void c
          .get(CPU)
          .mem('i32_load', AT.frm * 4)
          .set(this.#l.rm),
      undefined,
      { likely: true },
    );
    c.get(this.#l.rm).i32(4).op('i32_gt_u').brIf(this.#at.slow, false);
    c.get(this.#l.rm);
  }

  /** Pushes what a CSR instruction's rs1 field means. */
  #csrSource(immediate: boolean): void {
    if (immediate) this.#operands.number();
    else this.rs1();
  }

  #requireSupervisor(): void {
    this.c
      .get(CPU)
      .mem('i32_load', AT.privilege * 4)
      .op('i32_eqz')
      .brIf(this.#at.slow, false);
  }

  csrStorage(how: CsrHow, immediate: boolean): void {
    const { c } = this;
    const { host, a, b } = this.#l;
    this.#requireSupervisor();
    this.#operands.imm('i32');
    c.i32(-2).op('i32_and').get(CPU).op('i32_add').tee(host).mem('i64_load').set(a);
    this.#csrSource(immediate);
    c.set(b).get(host);
    combine(c, how, 'i64', a, b);
    this.imm();
    c.i64(1).op('i64_and').i64(-1).op('i64_xor', 'i64_and').mem('i64_store');
    this.rd(() => void c.get(a));
  }

  csrStatus(how: CsrHow, immediate: boolean): void {
    const { c } = this;
    const { a32, b32 } = this.#l;
    this.#requireSupervisor();
    c.get(CPU)
      .mem('i32_load', AT.sstatus * 4)
      .set(a32);
    this.#csrSource(immediate);
    c.op('i32_wrap_i64').set(b32);
    combine(c, how, 'i32', a32, b32);
    c.i32(STATUS_WRITABLE).op('i32_and').set(b32);
    c.get(a32).get(b32).op('i32_xor').i32(Status.MXR).op('i32_and').brIf(this.#at.slow, false);
    ifLetsIn(c, b32, () => void c.brIf(this.#at.slow, false));
    c.get(CPU)
      .get(b32)
      .mem('i32_store', AT.sstatus * 4);
    this.rd(() => wholeStatus(c, a32));
    c.get(a32).get(b32).op('i32_xor').i32(Status.SUM).op('i32_and');
    c.if(() => this.#selectSum(b32));
  }

  /**
   * What Tlb.select does for a supervisor whose SUM changed to that of `status`. It goes on by way of the
   * record: a local that no instruction sets is one less for each of them to carry (4x, measured).
   */
  #selectSum(status: number): void {
    const { c } = this;
    const { tlb, host, pc, left } = this.#l;
    selectSum(c, tlb, status, host);
    this.nextPc();
    c.set(pc)
      .get(CPU)
      .get(pc)
      .mem('i64_store', AT.pc * 4);
    c.get(CPU)
      .get(left)
      .mem('i32_store', AT.left * 4);
    c.br(this.#at.resync);
  }

  float(name: string, operands: () => void, rounds: boolean): void {
    const index = this.#f.float[name];
    if (index === undefined) throw new Error(`cpu/float has no ${name}`);
    this.c.get(CPU);
    operands();
    if (rounds) this.#roundingMode();
    this.c.call(index);
  }
}
