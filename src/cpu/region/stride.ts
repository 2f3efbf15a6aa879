import type { Code, Label } from '../../wasm/code.ts';
import { I32 } from '../../wasm/encoder.ts';
import { immediateOf, rdOf, rs1Of } from '../decode.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { ENTRY_BYTES, MICRO_READ, MICRO_WRITE } from '../tlb-layout.ts';
import { type Block, Flow } from './discover.ts';
import type { RegisterLocals } from './exits.ts';
import type { RegionLocals } from './signature.ts';

// A loop of one block whose addresses move by constants goes through its pages without looking at the
// micro-TLB each time: before it, one computes for how many rounds every address stays in the page that
// the micro-TLB has, and runs that many. Nothing flushes meanwhile, as nothing is called. Whatever remains
// of the loop, and its way from page to page, is left to the block as it stands.

/** What the accesses with one base register touch in the first round, and how far the next is. */
export type Window = {
  readonly base: number;
  readonly stride: number;
  /** From the register's value at the block's start. */
  low: number;
  high: number;
  readonly kinds: Set<number>;
};

/** Addends from guest to host addresses, i32 locals by micro-TLB entry. */
export type Addends = ReadonlyMap<number, number>;

const BYTES: Readonly<Record<string, number>> = {
  ...{ lb: 1, lbu: 1, lh: 2, lhu: 2, lw: 4, lwu: 4, ld: 8, flw: 4, fld: 8 },
  ...{ sb: 1, sh: 2, sw: 4, sd: 8, fsw: 4, fsd: 8 },
};
const MAX_WINDOWS = 4;
const MAX_STRIDE = 1024;
const PAGE = 4096;

/** The windows of a block that jumps to itself; undefined when they can't be told or there are none. */
export function windowsOf(block: Block): Window[] | undefined {
  if (block.target !== block.start || block.steps.at(-1)!.flow !== Flow.Branch) return undefined;
  const strides = stridesOf(block);
  const windows = new Map<number, Window>();
  const moved = new Map<number, number>();
  for (const step of block.steps) {
    const { name, format } = INSTRUCTIONS[step.row]!;
    const bytes = BYTES[name];
    const base = rs1Of(step.word);
    if (bytes !== undefined) {
      const stride = strides.get(base) ?? 0;
      if (base === 0 || Number.isNaN(stride) || Math.abs(stride) > MAX_STRIDE) return undefined;
      const at = (moved.get(base) ?? 0) + immediateOf(step.word, format.imm);
      const kind = format.imm === 's' ? MICRO_WRITE : MICRO_READ;
      widen(windows, base, stride, { low: at, high: at + bytes, kind });
    } else if (
      step.flow === Flow.Slow ||
      format.syntax.some(o => o === 'mem' || o === 'addr' || o === 'csr')
    ) {
      return undefined;
    }
    const rd = rdOf(step.word);
    if (name === 'addi' && rd === base) moved.set(rd, (moved.get(rd) ?? 0) + immediateOf(step.word, 'i'));
  }
  const all = [...windows.values()];
  return all.length > 0 && all.length <= MAX_WINDOWS && all.every(w => w.high - w.low <= PAGE)
    ? all
    : undefined;
}

type Access = { low: number; high: number; kind: number };

function widen(
  windows: Map<number, Window>,
  base: number,
  stride: number,
  { low, high, kind }: Access,
): void {
  const w = windows.get(base);
  if (w === undefined) {
    windows.set(base, { base, stride, low, high, kinds: new Set([kind]) });
    return;
  }
  w.low = Math.min(w.low, low);
  w.high = Math.max(w.high, high);
  w.kinds.add(kind);
}

/** By written x register how far a round moves it; NaN unless it is only added constants to. */
function stridesOf(block: Block): Map<number, number> {
  const strides = new Map<number, number>();
  for (const step of block.steps) {
    const { name, format } = INSTRUCTIONS[step.row]!;
    const rd = rdOf(step.word);
    if (format.rd !== 'x') continue;
    const by = name === 'addi' && rs1Of(step.word) === rd ? immediateOf(step.word, 'i') : Number.NaN;
    strides.set(rd, (strides.get(rd) ?? 0) + by);
  }
  return strides;
}

export type StrideParts = {
  readonly c: Code;
  readonly l: RegionLocals;
  readonly registers: RegisterLocals;
  /** Instructions of the block, and of the region: what a round takes, and what must be left after. */
  readonly count: number;
  readonly reserve: number;
};

/**
 * Sets `bound` to what `left` may come down to in rounds that need no look-up, and returns the addends. Goes
 * to `slow` when there are fewer than two.
 */
export function enterWindows(p: StrideParts, windows: readonly Window[], slow: Label): { addends: Addends } {
  const { c, l } = p;
  c.get(l.left).i32(p.reserve).op('i32_sub').i32(p.count).op('i32_div_u').set(l.rounds);
  const addends = new Map<number, number>();
  for (const w of windows) enterWindow(p, w, slow, addends);
  c.get(l.rounds).i32(2).op('i32_lt_s').brIf(slow);
  c.get(l.left).get(l.rounds).i32(p.count).op('i32_mul', 'i32_sub').set(l.bound);
  return { addends };
}

function enterWindow(p: StrideParts, w: Window, slow: Label, addends: Map<number, number>): void {
  const { c, l } = p;
  c.get(p.registers.x[w.base]!);
  if (w.low !== 0) c.i64(w.low).op('i64_add');
  c.set(l.ea);
  for (const kind of w.kinds) {
    const micro = kind + w.base * ENTRY_BYTES;
    c.get(l.tlb).mem('i64_load', micro);
    c.get(l.ea).i64(-PAGE).op('i64_and', 'i64_ne').brIf(slow);
    const addend = c.local(I32);
    c.get(l.tlb)
      .mem('i32_load', micro + 8)
      .set(addend);
    addends.set(micro, addend);
  }
  // What is left of the page behind the first round.
  c.i32(PAGE - (w.high - w.low));
  c.get(l.ea)
    .op('i32_wrap_i64')
    .i32(PAGE - 1)
    .op('i32_and')
    .tee(l.k)
    .op('i32_sub')
    .tee(l.a32);
  if (w.stride > 0) {
    c.i32(w.stride).op('i32_add').i32(w.stride).op('i32_div_s').set(l.k);
  } else {
    c.i32(0).op('i32_lt_s').brIf(slow);
    if (w.stride === 0) return;
    c.get(l.k).i32(-w.stride).op('i32_div_u').i32(1).op('i32_add').set(l.k);
  }
  c.get(l.k).get(l.rounds).get(l.k).get(l.rounds).op('i32_lt_s', 'select').set(l.rounds);
}
