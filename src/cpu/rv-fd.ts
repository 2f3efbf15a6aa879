import type { Emit, Semantics } from './emit.ts';
import { bits, bits2, Extend, FORMAT, type Format, type Instruction } from './instruction.ts';

// RV64F and RV64D: chapters "F" and "D". The arithmetic is cpu/float's; its function names are these
// instructions' names without the f and with `_` for `.`. Registers hold 64-bit images, singles boxed.

const functionOf = (name: string) => name.slice(1).replaceAll('.', '_');

type Shape = { format: Format; operands: readonly ('rs1' | 'rs2' | 'rs3')[] };
const ONE = { operands: ['rs1'] } as const;
const TWO = { operands: ['rs1', 'rs2'] } as const;
const THREE = { operands: ['rs1', 'rs2', 'rs3'] } as const;

function arithmetic(name: string, { format, operands }: Shape): Semantics {
  return e => {
    e.requireFp(true);
    e.rd(() =>
      e.float(
        functionOf(name),
        () => {
          for (const operand of operands) e[operand]();
        },
        format.imm === 'rm',
      ),
    );
  };
}

function row(name: string, shape: Shape, match: { match: number; mask: number }): Instruction {
  return { name, ...match, format: shape.format, emit: arithmetic(name, shape) };
}

/** Moves bits; touches no flag. `dirties` when the destination is a floating-point register. */
function move(
  name: string,
  format: Format,
  match: { match: number; mask: number },
  value: (e: Emit) => void,
) {
  const emit: Semantics = e => {
    e.requireFp(format.rd === 'f');
    e.rd(() => value(e));
  };
  return { name, ...match, format, emit };
}

/** `fmt` is 0 for S, 1 for D. */
function both(fmt: 0 | 1): Instruction[] {
  const s = fmt === 0 ? 's' : 'd';
  const op = (funct5: number) => (funct5 << 2) | fmt;
  const fused = (name: string, opcode: number) =>
    row(
      `${name}.${s}`,
      { format: FORMAT.fp3rm, ...THREE },
      {
        match: (opcode | (fmt << 25)) >>> 0,
        mask: 0x0600007f,
      },
    );
  const rounded = (name: string, funct5: number) =>
    row(`${name}.${s}`, { format: FORMAT.fp2rm, ...TWO }, bits(0x53, undefined, op(funct5)));
  const exact = (name: string, funct5: number, funct3: number) =>
    row(`${name}.${s}`, { format: FORMAT.fp2, ...TWO }, bits(0x53, funct3, op(funct5)));
  const compare = (name: string, funct3: number) =>
    row(`${name}.${s}`, { format: FORMAT.fpCompare, ...TWO }, bits(0x53, funct3, op(20)));
  const toInteger = (to: string, rs2: number) =>
    row(`fcvt.${to}.${s}`, { format: FORMAT.fpToXrm, ...ONE }, bits2(0x53, undefined, op(24), rs2));
  const fromInteger = (from: string, rs2: number) =>
    row(`fcvt.${s}.${from}`, { format: FORMAT.xToFpRm, ...ONE }, bits2(0x53, undefined, op(26), rs2));
  const integers = ['w', 'wu', 'l', 'lu'];
  return [
    fused('fmadd', 0x43),
    fused('fmsub', 0x47),
    fused('fnmsub', 0x4b),
    fused('fnmadd', 0x4f),
    rounded('fadd', 0),
    rounded('fsub', 1),
    rounded('fmul', 2),
    rounded('fdiv', 3),
    row(`fsqrt.${s}`, { format: FORMAT.fp1rm, ...ONE }, bits2(0x53, undefined, op(11), 0)),
    exact('fsgnj', 4, 0),
    exact('fsgnjn', 4, 1),
    exact('fsgnjx', 4, 2),
    exact('fmin', 5, 0),
    exact('fmax', 5, 1),
    compare('fle', 0),
    compare('flt', 1),
    compare('feq', 2),
    {
      ...row(`fclass.${s}`, { format: FORMAT.fpToX, ...ONE }, bits2(0x53, 1, op(28), 0)),
      emit: e => {
        e.requireFp(false);
        e.rd(() => e.float(`class_${s}`, () => e.rs1(), false));
      },
    },
    ...integers.map(toInteger),
    ...integers.map(fromInteger),
  ];
}

const box = (e: Emit) => e.c.i64w(0, -1).op('i64_or');

const fpLoad = (name: string, funct3: number, bytes: 4 | 8): Instruction => ({
  name,
  ...bits(0x07, funct3),
  format: FORMAT.fpLoad,
  extend: bytes === 4 ? Extend.Box : Extend.Sign,
  emit: e => {
    e.requireFp(false);
    e.load(bytes === 4 ? 'i64_load32_u' : 'i64_load', bytes, () => {
      e.dirtyFp();
      if (bytes === 4) box(e);
    });
  },
});

const fpStore = (name: string, funct3: number, bytes: 4 | 8): Instruction => ({
  name,
  ...bits(0x27, funct3),
  format: FORMAT.fpStore,
  emit: e => {
    e.requireFp(false);
    e.store(bytes === 4 ? 'i64_store32' : 'i64_store', bytes);
  },
});

export const RV64FD: readonly Instruction[] = [
  fpLoad('flw', 2, 4),
  fpLoad('fld', 3, 8),
  fpStore('fsw', 2, 4),
  fpStore('fsd', 3, 8),
  ...both(0),
  ...both(1),
  row('fcvt.s.d', { format: FORMAT.fp1rm, ...ONE }, bits2(0x53, undefined, 0x20, 1)),
  row('fcvt.d.s', { format: FORMAT.fp1rm, ...ONE }, bits2(0x53, undefined, 0x21, 0)),
  move('fmv.x.w', FORMAT.fpToX, bits2(0x53, 0, 0x70, 0), e => {
    e.rs1();
    e.c.op('i64_extend32_s');
  }),
  move('fmv.w.x', FORMAT.xToFp, bits2(0x53, 0, 0x78, 0), e => {
    e.rs1();
    box(e);
  }),
  move('fmv.x.d', FORMAT.fpToX, bits2(0x53, 0, 0x71, 0), e => e.rs1()),
  move('fmv.d.x', FORMAT.xToFp, bits2(0x53, 0, 0x79, 0), e => e.rs1()),
];
