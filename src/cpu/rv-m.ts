import type { PlainOp } from '../wasm/code.ts';
import type { Emit, Helper, Semantics } from './emit.ts';
import { bits, FORMAT, type Instruction } from './instruction.ts';

// RV64M: chapter "M". Nothing traps: a division by zero gives -1 (remainder: the dividend), and the most
// negative number by -1 gives itself (remainder: 0). Wasm traps on both, hence the guards.

const m = (name: string, opcode: number, funct3: number, emit: Semantics): Instruction => ({
  name,
  ...bits(opcode, funct3, 1),
  format: FORMAT.r,
  emit,
});

const high =
  (name: Helper): Semantics =>
  e =>
    e.rd(() => {
      e.rs1();
      e.rs2();
      e.helper(name);
    });

type Width = 'i32' | 'i64';

function operand(e: Emit, which: 'rs1' | 'rs2', width: Width): void {
  e[which]();
  if (width === 'i32') e.c.op('i32_wrap_i64');
}

const zero = (e: Emit, width: Width) => (width === 'i32' ? e.c.i32(0) : e.c.i64(0));
const minusOne = (e: Emit, width: Width) => (width === 'i32' ? e.c.i32(-1) : e.c.i64(-1));
const typeOf = (width: Width) => (width === 'i32' ? 0x7f : 0x7e);

/** `divisor === 0 ? byZero : divisor === -1 && signed ? byMinusOne : op(rs1, rs2)`. */
function divide(
  width: Width,
  op: PlainOp,
  byZero: (e: Emit) => void,
  byMinusOne?: (e: Emit) => void,
): Semantics {
  const type = typeOf(width);
  const plain = (e: Emit) => {
    operand(e, 'rs1', width);
    operand(e, 'rs2', width);
    e.c.op(op);
  };
  const guarded = (e: Emit) => {
    if (byMinusOne === undefined) return plain(e);
    operand(e, 'rs2', width);
    minusOne(e, width);
    e.c.op(`${width}_eq`).if(
      () => byMinusOne(e),
      () => plain(e),
      { type, likely: false },
    );
  };
  return e =>
    e.rd(() => {
      operand(e, 'rs2', width);
      e.c.op(`${width}_eqz`).if(
        () => byZero(e),
        () => guarded(e),
        { type, likely: false },
      );
      if (width === 'i32') e.c.op('i64_extend_i32_s');
    });
}

const allOnes = (width: Width) => (e: Emit) => void minusOne(e, width);
const dividend = (width: Width) => (e: Emit) => operand(e, 'rs1', width);
const negated = (width: Width) => (e: Emit) => {
  zero(e, width);
  operand(e, 'rs1', width);
  e.c.op(`${width}_sub`);
};
const nothing = (width: Width) => (e: Emit) => void zero(e, width);

const division = (width: Width, opcode: number, suffix: string): Instruction[] => [
  m(`div${suffix}`, opcode, 4, divide(width, `${width}_div_s`, allOnes(width), negated(width))),
  m(`divu${suffix}`, opcode, 5, divide(width, `${width}_div_u`, allOnes(width))),
  m(`rem${suffix}`, opcode, 6, divide(width, `${width}_rem_s`, dividend(width), nothing(width))),
  m(`remu${suffix}`, opcode, 7, divide(width, `${width}_rem_u`, dividend(width))),
];

const mul =
  (width: Width): Semantics =>
  e =>
    e.rd(() => {
      operand(e, 'rs1', width);
      operand(e, 'rs2', width);
      e.c.op(`${width}_mul`);
      if (width === 'i32') e.c.op('i64_extend_i32_s');
    });

export const RV64M: readonly Instruction[] = [
  m('mul', 0x33, 0, mul('i64')),
  m('mulh', 0x33, 1, high('mulh')),
  m('mulhsu', 0x33, 2, high('mulhsu')),
  m('mulhu', 0x33, 3, high('mulhu')),
  ...division('i64', 0x33, ''),
  m('mulw', 0x3b, 0, mul('i32')),
  ...division('i32', 0x3b, 'w'),
];
