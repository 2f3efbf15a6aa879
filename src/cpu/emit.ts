import type { Code, MemoryOp, PlainOp } from '../wasm/code.ts';

/** Functions of the generated module that semantics call. */
export type Helper = 'mulhu' | 'mulh' | 'mulhsu';

export type Bitwise = 'and' | 'or' | 'xor';
/** As wasm calls those of i32 and i64. */
export type Comparison = 'eq' | 'ne' | 'lt_s' | 'lt_u' | 'ge_s' | 'ge_u';
/** The second operand. */
export type Second = 'rs2' | 'imm';

/** How a CSR instruction combines its source with what is there. */
export type CsrHow = 'write' | 'set' | 'clear';

/** Bytes of a memory access. */
export type Bytes = 1 | 2 | 4 | 8;

/**
 * What an instruction's semantics are written against: where operands come from and results go. The
 * interpreter reads them from the register file through the decoded record; a translator would read
 * locals. Values of registers, `imm` and `pc` are i64 on wasm's stack.
 */
export interface Emit {
  readonly c: Code;
  rs1(): void;
  rs2(): void;
  rs3(): void;
  /** The immediate, sign-extended. */
  imm(): void;
  /** The instruction's address. */
  pc(): void;
  /** The address of the next instruction in memory. */
  nextPc(): void;
  /** Writes the destination with what `value` pushes; `value` may read any operand. */
  rd(value: () => void): void;
  helper(name: Helper): void;
  /** `rd = rs1 op second`, bit by bit. */
  bitwise(op: Bitwise, second: Second): void;
  /** `rd = op(rs1, second)`, 0 or 1. */
  compare(op: Comparison, second: Second): void;
  /** `rd = extend(memory[rs1 + imm])`; `after` turns what `op` pushes into the i64 to write. */
  load(op: MemoryOp, bytes: Bytes, after?: () => void): void;
  /** `memory[rs1 + imm] = rs2`. */
  store(op: MemoryOp, bytes: Bytes): void;
  lr(bytes: 4 | 8): void;
  sc(bytes: 4 | 8): void;
  /** `rd = memory[rs1]; memory[rs1] = op(that, rs2)`, by one atomic instruction. */
  amo(op: MemoryOp, bytes: 4 | 8): void;
  /** The same for minimum and maximum: keeps the old value where `keep(old, rs2)` is true. */
  amoKeep(keep: PlainOp, bytes: 4 | 8): void;
  /** Goes to pc + imm when `condition(rs1, rs2)`. */
  branch(condition: Comparison): void;
  /** Goes to pc + imm, rd = nextPc. */
  jump(): void;
  /** Goes to (rs1 + imm) & ~1, rd = nextPc. */
  jumpRegister(): void;
  /** Traps unless sstatus.FS is on; with `dirties`, makes it Dirty. */
  requireFp(dirties: boolean): void;
  /** Makes sstatus.FS Dirty; once nothing can trap any more. */
  dirtyFp(): void;
  /**
   * On a 64-bit CSR that is nothing but storage, from supervisor mode: `imm` is its byte offset in the
   * record, and bit 0 of it a bit that stays clear. The source is rs1, or that field's number itself.
   */
  csrStorage(how: CsrHow, immediate: boolean): void;
  /** On sstatus, from supervisor mode, when it changes no translation and lets no interrupt in. */
  csrStatus(how: CsrHow, immediate: boolean): void;
  /** Calls a function of cpu/float with cpu, what `operands` pushes, and the rounding mode if it has one. */
  float(name: string, operands: () => void, rounds: boolean): void;
}

export type Semantics = (e: Emit) => void;
