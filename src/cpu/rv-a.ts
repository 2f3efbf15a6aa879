import type { MemoryOp, PlainOp } from '../wasm/code.ts';
import { FORMAT, type Instruction } from './instruction.ts';

// RV64A: chapter "A". Wasm's atomics are sequentially consistent, so aq and rl ask for nothing more and
// are not matched, except at LR: an atomic load follows earlier atomic stores, not plain ones, and rl wants those.

type Width = 'i32' | 'i64';

function row(name: string, funct5: number, width: Width, rest: Partial<Instruction>): Instruction {
  const funct3 = width === 'i32' ? 2 : 3;
  return {
    name: `${name}.${width === 'i32' ? 'w' : 'd'}`,
    match: (0x2f | (funct3 << 12) | (funct5 << 27)) >>> 0,
    mask: 0xf800707f,
    format: FORMAT.amo,
    ...rest,
  };
}

const bytesOf = (width: Width) => (width === 'i32' ? 4 : 8);

const amo = (name: string, funct5: number, width: Width, op: string) =>
  row(name, funct5, width, { emit: e => e.amo(`${width}_atomic_rmw_${op}` as MemoryOp, bytesOf(width)) });

const keep = (name: string, funct5: number, width: Width, condition: string) =>
  row(name, funct5, width, { emit: e => e.amoKeep(`${width}_${condition}` as PlainOp, bytesOf(width)) });

const RL = 1 << 25;

function lr(width: Width): Instruction {
  const base = row('lr', 2, width, { format: FORMAT.lr, emit: e => e.lr(bytesOf(width)) });
  return { ...base, mask: 0xfbf0707f };
}

function lrRelease(width: Width): Instruction {
  const { name, match, mask, format } = lr(width);
  return {
    ...{ name: `${name}.rl`, match: match | RL, mask, format },
    emit: e => {
      e.c.atomicFence();
      e.lr(bytesOf(width));
    },
  };
}

const all = (width: Width): Instruction[] => [
  lr(width),
  lrRelease(width),
  row('sc', 3, width, { emit: e => e.sc(bytesOf(width)) }),
  amo('amoswap', 1, width, 'xchg'),
  amo('amoadd', 0, width, 'add'),
  amo('amoxor', 4, width, 'xor'),
  amo('amoand', 12, width, 'and'),
  amo('amoor', 8, width, 'or'),
  keep('amomin', 16, width, 'lt_s'),
  keep('amomax', 20, width, 'gt_s'),
  keep('amominu', 24, width, 'lt_u'),
  keep('amomaxu', 28, width, 'gt_u'),
];

export const RV64A: readonly Instruction[] = [...all('i32'), ...all('i64')];
