import type { MemoryOp, PlainOp } from '../wasm/code.ts';
import type { Bitwise, Bytes, Comparison, Second, Semantics } from './emit.ts';
import { bits, Extend, FORMAT, type Instruction } from './instruction.ts';

// RV64I: chapters "RV32I" and "RV64I" of the unprivileged manual. Wasm's shifts take their count modulo
// the width, as RISC-V's do.

const alu =
  (op: PlainOp): Semantics =>
  e =>
    e.rd(() => {
      e.rs1();
      e.rs2();
      e.c.op(op);
    });

const aluImm =
  (op: PlainOp): Semantics =>
  e =>
    e.rd(() => {
      e.rs1();
      e.imm();
      e.c.op(op);
    });

/** On the low words; the result is sign-extended. */
const aluWord =
  (op: PlainOp): Semantics =>
  e =>
    e.rd(() => {
      e.rs1();
      e.c.op('i32_wrap_i64');
      e.rs2();
      e.c.op('i32_wrap_i64', op, 'i64_extend_i32_s');
    });

const aluWordImm =
  (op: PlainOp): Semantics =>
  e =>
    e.rd(() => {
      e.rs1();
      e.c.op('i32_wrap_i64');
      e.imm();
      e.c.op('i32_wrap_i64', op, 'i64_extend_i32_s');
    });

const bitwise =
  (op: Bitwise, second: Second): Semantics =>
  e =>
    e.bitwise(op, second);

const compare =
  (op: Comparison, second: Second): Semantics =>
  e =>
    e.compare(op, second);

const r = (name: string, opcode: number, funct3: number, funct7: number, emit: Semantics): Instruction => ({
  name,
  ...bits(opcode, funct3, funct7),
  format: FORMAT.r,
  emit,
});

const i = (name: string, opcode: number, funct3: number, emit: Semantics): Instruction => ({
  name,
  ...bits(opcode, funct3),
  format: FORMAT.i,
  emit,
});

/** Six bits of shift amount leave six of funct7. */
const shift6 = (name: string, funct3: number, funct6: number, op: PlainOp): Instruction => ({
  name,
  match: (0x13 | (funct3 << 12) | (funct6 << 26)) >>> 0,
  mask: 0xfc00707f,
  format: FORMAT.shift6,
  emit: aluImm(op),
});

const shift5 = (name: string, funct3: number, funct7: number, op: PlainOp): Instruction => ({
  name,
  ...bits(0x1b, funct3, funct7),
  format: FORMAT.shift5,
  emit: aluWordImm(op),
});

const load = (name: string, funct3: number, op: MemoryOp, bytes: Bytes): Instruction => ({
  name,
  ...bits(0x03, funct3),
  format: FORMAT.load,
  extend: name.endsWith('u') ? Extend.Zero : Extend.Sign,
  emit: e => e.load(op, bytes),
});

const store = (name: string, funct3: number, op: MemoryOp, bytes: Bytes): Instruction => ({
  name,
  ...bits(0x23, funct3),
  format: FORMAT.store,
  emit: e => e.store(op, bytes),
});

const branch = (name: string, funct3: number, op: Comparison): Instruction => ({
  name,
  ...bits(0x63, funct3),
  format: FORMAT.branch,
  emit: e => e.branch(op),
});

export const RV64I: readonly Instruction[] = [
  { name: 'lui', ...bits(0x37), format: FORMAT.u, emit: e => e.rd(() => e.imm()) },
  {
    name: 'auipc',
    ...bits(0x17),
    format: FORMAT.u,
    emit: e =>
      e.rd(() => {
        e.pc();
        e.imm();
        e.c.op('i64_add');
      }),
  },
  { name: 'jal', ...bits(0x6f), format: FORMAT.j, emit: e => e.jump() },
  { name: 'jalr', ...bits(0x67, 0), format: FORMAT.jalr, emit: e => e.jumpRegister() },
  branch('beq', 0, 'eq'),
  branch('bne', 1, 'ne'),
  branch('blt', 4, 'lt_s'),
  branch('bge', 5, 'ge_s'),
  branch('bltu', 6, 'lt_u'),
  branch('bgeu', 7, 'ge_u'),
  load('lb', 0, 'i64_load8_s', 1),
  load('lh', 1, 'i64_load16_s', 2),
  load('lw', 2, 'i64_load32_s', 4),
  load('ld', 3, 'i64_load', 8),
  load('lbu', 4, 'i64_load8_u', 1),
  load('lhu', 5, 'i64_load16_u', 2),
  load('lwu', 6, 'i64_load32_u', 4),
  store('sb', 0, 'i64_store8', 1),
  store('sh', 1, 'i64_store16', 2),
  store('sw', 2, 'i64_store32', 4),
  store('sd', 3, 'i64_store', 8),
  i('addi', 0x13, 0, aluImm('i64_add')),
  i('slti', 0x13, 2, compare('lt_s', 'imm')),
  i('sltiu', 0x13, 3, compare('lt_u', 'imm')),
  i('xori', 0x13, 4, bitwise('xor', 'imm')),
  i('ori', 0x13, 6, bitwise('or', 'imm')),
  i('andi', 0x13, 7, bitwise('and', 'imm')),
  shift6('slli', 1, 0x00, 'i64_shl'),
  shift6('srli', 5, 0x00, 'i64_shr_u'),
  shift6('srai', 5, 0x10, 'i64_shr_s'),
  r('add', 0x33, 0, 0x00, alu('i64_add')),
  r('sub', 0x33, 0, 0x20, alu('i64_sub')),
  r('sll', 0x33, 1, 0x00, alu('i64_shl')),
  r('slt', 0x33, 2, 0x00, compare('lt_s', 'rs2')),
  r('sltu', 0x33, 3, 0x00, compare('lt_u', 'rs2')),
  r('xor', 0x33, 4, 0x00, bitwise('xor', 'rs2')),
  r('srl', 0x33, 5, 0x00, alu('i64_shr_u')),
  r('sra', 0x33, 5, 0x20, alu('i64_shr_s')),
  r('or', 0x33, 6, 0x00, bitwise('or', 'rs2')),
  r('and', 0x33, 7, 0x00, bitwise('and', 'rs2')),
  i('addiw', 0x1b, 0, aluWordImm('i32_add')),
  shift5('slliw', 1, 0x00, 'i32_shl'),
  shift5('srliw', 5, 0x00, 'i32_shr_u'),
  shift5('sraiw', 5, 0x20, 'i32_shr_s'),
  r('addw', 0x3b, 0, 0x00, aluWord('i32_add')),
  r('subw', 0x3b, 0, 0x20, aluWord('i32_sub')),
  r('sllw', 0x3b, 1, 0x00, aluWord('i32_shl')),
  r('srlw', 0x3b, 5, 0x00, aluWord('i32_shr_u')),
  r('sraw', 0x3b, 5, 0x20, aluWord('i32_shr_s')),
  // Only a store before and a load after can be seen out of order here, so the decoder keeps `fence`
  // for pred.w and succ.r and takes the others for `fence.light`, which does nothing.
  { name: 'fence', ...bits(0x0f, 0), format: FORMAT.fence, emit: e => void e.c.atomicFence() },
];

/** Stands in for a fence that orders nothing which could be out of order. */
export const FENCE_LIGHT: Instruction = {
  name: 'fence.light',
  match: 1,
  mask: 0,
  format: FORMAT.none,
  emit: () => {},
};
