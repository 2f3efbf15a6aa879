import type { Code, Label } from '../../wasm/code.ts';
import { F64, I64 } from '../../wasm/encoder.ts';
import { SLOT_ENTRIES } from '../decoded.ts';
import { NATIVE } from '../float/inline-site.ts';
import { INSTRUCTIONS } from '../instructions.ts';
import { AT } from '../vcpu.ts';
import { type Block, type Discovery, Flow, type Step } from './discover.ts';
import { Exits, type RegisterLocals, readIn, writeBack } from './exits.ts';
import { type Graph, goesAround, hasIndirect } from './graph.ts';
import type { Jumps, RegionParts } from './parts.ts';
import { RegionEmit } from './region-emit.ts';
import { both, minus, NONE, type RegisterSet, union } from './register-set.ts';
import type { Registers } from './registers.ts';
import { declareLocals, PARAM, type RegionLocals } from './signature.ts';
import { type Addends, enterWindows, type Window, windowsOf } from './stride.ts';

// A region's body. Blocks become structured code by the dominator tree: Ramsey, "Beyond Relooper" (2022).
// `left` is lowered at the start of each block; that enough of it is left to reach the next check is
// tested by whoever calls, at each loop's header and before each jump to the dispatch.

const { cpu, label: labelParam, base, slot, page } = PARAM;

export type RegionPlan = { readonly d: Discovery; readonly g: Graph; readonly r: Registers };

/** What a region's instructions are emitted with. */
export type Imported = Pick<RegionParts, 'imported' | 'fused' | 'willWrite'>;

export function writeRegion(c: Code, plan: RegionPlan, parts: Imported): void {
  new RegionWriter(c, plan, parts).write();
}

const usedBy = (d: Discovery): RegisterSet =>
  d.blocks.reduce(
    (set, b) => b.steps.reduce((s, step) => union(s, union(step.reads, step.writes)), set),
    NONE,
  );

const writtenBy = (block: Block): RegisterSet =>
  block.steps.reduce((set, step) => (step.flow === Flow.Slow ? set : union(set, step.writes)), NONE);

class RegionWriter {
  readonly #c: Code;
  readonly #d: Discovery;
  readonly #g: Graph;
  readonly #r: Registers;
  readonly #l: RegionLocals;
  readonly #registers: RegisterLocals;
  readonly #exits: Exits;
  readonly #emit: RegionEmit;
  readonly #labels: Label[] = [];
  readonly #loops: Label[] = [];

  constructor(c: Code, plan: RegionPlan, parts: Imported) {
    this.#c = c;
    this.#d = plan.d;
    this.#g = plan.g;
    this.#r = plan.r;
    this.#l = declareLocals(c);
    const used = usedBy(plan.d);
    const many = (set: number, type: typeof I64 | typeof F64) =>
      Array.from({ length: 32 }, (_, n) => ((set >>> n) & 1 ? c.local(type) : -1));
    this.#registers = { x: many(used.x, I64), f: many(used.f, F64) };
    this.#exits = new Exits(this.#registers);
    this.#emit = new RegionEmit({ c, l: this.#l, registers: this.#registers, ...parts });
  }

  write(): void {
    const c = this.#c;
    const { left, tlb, out, reason } = this.#l;
    c.get(cpu)
      .mem('i32_load', AT.left * 4)
      .set(left);
    c.get(cpu)
      .mem('i32_load', AT.tlbBase * 4)
      .set(tlb);
    if (this.#d.blocks.some(b => b.steps.some(isFloat))) this.#setNative();
    for (const block of this.#d.blocks) this.#announce(block);
    c.block(epilogue => {
      this.#exits.open(c);
      this.#tree(0);
      this.#exits.close(c, epilogue);
    });
    c.get(cpu)
      .get(out)
      .mem('i64_store', AT.pc * 4);
    c.get(cpu)
      .get(left)
      .mem('i32_store', AT.left * 4);
    c.get(reason);
  }

  /** NX and frm don't change unless the region is left, but for NX being raised. */
  #setNative(): void {
    const c = this.#c;
    c.i32(NATIVE).i32(0);
    c.get(cpu)
      .mem('i32_load', AT.frm * 4)
      .op('i32_eqz');
    c.get(cpu)
      .mem('i32_load', AT.fflags * 4)
      .op('i32_and', 'select')
      .set(this.#l.native);
  }

  #isReached(block: Block): boolean {
    return this.#g.order[this.#g.firstBlock + block.index] !== -1;
  }

  #announce(block: Block): void {
    if (!this.#isReached(block)) return;
    let dirty = this.#r.dirtyIn[block.index]!;
    if (this.#isHeader(block.index)) this.#exits.add(dirty);
    for (const step of block.steps) {
      if (step.mayLeave) this.#exits.add(dirty);
      if (step.flow !== Flow.Slow) dirty = union(dirty, step.writes);
    }
    if (this.#leavesAtEnd(block)) this.#exits.add(this.#dirtyOut(block));
  }

  #isHeader(block: number): boolean {
    return this.#g.isLoop[this.#g.firstBlock + block] !== 0;
  }

  #leavesAtEnd(block: Block): boolean {
    if (block.steps.at(-1)!.flow === Flow.JumpRegister) return true;
    const leaves = (offset: number, to: number): boolean =>
      offset !== -1 && (to === -1 || goesAround(this.#g, block.index, to));
    return leaves(block.next, block.nextBlock) || leaves(block.target, block.targetBlock);
  }

  #dirtyOut(block: Block): RegisterSet {
    return both(union(this.#r.dirtyIn[block.index]!, writtenBy(block)), this.#r.kept);
  }

  /** At the end of a block: brings home what lives in the record. */
  #bringHome(block: Block): void {
    writeBack(this.#c, this.#registers, minus(writtenBy(block), this.#r.kept));
  }

  /** A node and everything that it dominates. */
  #tree(node: number): void {
    if (this.#g.isLoop[node] === 0) {
      this.#withChildren(node);
      return;
    }
    this.#c.loop(label => {
      this.#loops[node] = label;
      this.#withChildren(node);
    });
  }

  #withChildren(node: number): void {
    const merges = this.#g.children[node]!.filter(child => this.#g.isMerge[child] !== 0);
    for (let i = merges.length - 1; i >= 0; i--) this.#labels[merges[i]!] = this.#c.open();
    this.#node(node);
    for (const child of merges) {
      this.#c.close();
      this.#tree(child);
    }
  }

  #node(node: number): void {
    const { firstBlock, labels } = this.#g;
    if (node === 0) {
      const targets = labels.map(to => this.#labels[to]!);
      this.#c.get(labelParam).brTable(targets, targets[0]!);
    } else if (node < firstBlock) {
      const block = this.#d.entries[node - 1]!;
      readIn(this.#c, this.#registers, this.#r.need[block]!);
      this.#go(node, firstBlock + block);
    } else {
      this.#block(this.#d.blocks[node - firstBlock]!);
    }
  }

  /** To a node of the same region. */
  #go(from: number, to: number): void {
    if (this.#g.order[to]! <= this.#g.order[from]!) this.#c.br(this.#loops[to]!);
    else if (this.#g.isMerge[to] !== 0) this.#c.br(this.#labels[to]!);
    else this.#tree(to);
  }

  #block(block: Block): void {
    if (this.#isHeader(block.index)) this.#checkBudget(block.start, this.#r.dirtyIn[block.index]!);
    const windows = this.#isHeader(block.index) ? windowsOf(block) : undefined;
    if (windows === undefined || goesAround(this.#g, block.index, block.index))
      this.#body(block, this.#jumps(block));
    else this.#strideLoop(block, windows);
  }

  #strideLoop(block: Block, windows: readonly Window[]): void {
    const c = this.#c;
    const l = this.#l;
    const { branch } = this.#jumps(block);
    const parts = { c, l, registers: this.#registers, count: block.count, reserve: this.#d.instructions };
    c.block(next => {
      const otherwise = () => void c.br(next);
      c.block(slow => {
        const bases = { x: windows.reduce((set, w) => set | (1 << w.base), 0), f: 0 };
        readIn(c, this.#registers, minus(bases, this.#r.kept));
        const { addends } = enterWindows(parts, windows, slow);
        c.loop(again => {
          const onward = () => {
            c.get(l.left).get(l.bound).op('i32_gt_s').brIf(again);
            branch();
          };
          this.#body(block, { ...this.#jumps(block), branch: onward, otherwise }, addends);
        });
      });
      this.#body(block, { ...this.#jumps(block), otherwise });
    });
    this.#goOn(block);
  }

  #body(block: Block, jumps: Jumps, addends?: Addends): void {
    const c = this.#c;
    const { left } = this.#l;
    if (block.count > 0) c.get(left).i32(block.count).op('i32_sub').set(left);
    this.#emit.beginBlock(addends);
    let dirty = this.#r.dirtyIn[block.index]!;
    let here = this.#r.kept;
    block.steps.forEach((step, i) => {
      // The block has them from when it reads or writes them first.
      const missing = minus(step.reads, here);
      readIn(this.#c, this.#registers, missing);
      here = union(here, union(missing, step.writes));
      if (this.#leads(block, step, i)) this.#step(block, step, i, dirty, jumps);
      dirty = union(dirty, step.writes);
    });
    if (this.#goesOn(block)) {
      this.#bringHome(block);
      this.#goOn(block);
    }
  }

  /** Whether a block ends without a choice of ways: also a branch to the next instruction is none. */
  #goesOn({ steps, next, target }: Block): boolean {
    const { flow } = steps.at(-1)!;
    return flow === Flow.Next || (flow === Flow.Branch && next === target);
  }

  /** Whether a step is emitted; not if all it does is lead to what comes next, as jumps within a block do. */
  #leads(block: Block, step: Step, i: number): boolean {
    if (step.flow === Flow.Jump) return i === block.steps.length - 1;
    if (step.flow !== Flow.Branch) return true;
    if (this.#goesOn(block)) return false;
    this.#bringHome(block);
    return true;
  }

  #step(block: Block, step: Step, i: number, dirty: RegisterSet, jumps: Jumps): void {
    const exit = step.mayLeave ? this.#exits.labelOf(dirty) : (0 as Label);
    this.#emit.emit(step, { undone: block.count - i, exit, jumps });
    if (step.flow === Flow.Slow) this.#emit.interpret();
  }

  #jumps(block: Block): Jumps {
    return {
      branch: () => this.#goTo(block, block.target, block.targetBlock),
      otherwise: () => this.#goOn(block),
      jump: () => {
        this.#bringHome(block);
        this.#goTo(block, block.target, block.targetBlock);
      },
      register: () => {
        this.#bringHome(block);
        this.#goByRegister(block);
      },
    };
  }

  #goOn(block: Block): void {
    this.#goTo(block, block.next, block.nextBlock);
  }

  /** From the end of a block to block `to`, or, if that is -1, to an offset in the page or beyond it. */
  #goTo(block: Block, offset: number, to: number): void {
    const { firstBlock, innerLabel } = this.#g;
    if (to === -1) {
      this.#leaveFor(offset, this.#dirtyOut(block));
    } else if (goesAround(this.#g, block.index, to)) {
      this.#checkBudget(offset, this.#dirtyOut(block));
      this.#c.i32(innerLabel[to]!).set(labelParam).br(this.#loops[0]!);
    } else {
      this.#go(firstBlock + block.index, firstBlock + to);
    }
  }

  #leaveFor(offset: number, dirty: RegisterSet): void {
    this.#c.get(page);
    if (offset !== 0) this.#c.i64(offset).op('i64_add');
    this.#c.set(this.#l.out).br(this.#exits.labelOf(dirty));
  }

  #checkBudget(offset: number, dirty: RegisterSet): void {
    this.#c.get(this.#l.left).i32(this.#d.instructions).op('i32_lt_s');
    this.#c.if(() => this.#leaveFor(offset, dirty), undefined, { likely: false });
  }

  /** To `target`: by the dispatch when it is an entry of this region, which the page's entry ids tell. */
  #goByRegister(block: Block): void {
    const c = this.#c;
    const { target, out } = this.#l;
    if (hasIndirect(this.#d)) this.#tryDispatch();
    c.get(target)
      .set(out)
      .br(this.#exits.labelOf(this.#dirtyOut(block)));
  }

  #tryDispatch(): void {
    const c = this.#c;
    const { target, k, left } = this.#l;
    c.get(target).get(page).op('i64_xor').i64(4096).op('i64_lt_u');
    c.if(() => {
      c.get(slot).get(target).op('i32_wrap_i64').i32(0xffe).op('i32_and', 'i32_add');
      c.mem('i32_load16_u', SLOT_ENTRIES).get(base).op('i32_sub').tee(k);
      c.i32(this.#g.entryCount).op('i32_lt_u');
      c.get(left).i32(this.#d.instructions).op('i32_ge_s', 'i32_and');
      c.if(() => {
        c.get(k).i32(this.#g.entryCount).op('i32_add').set(labelParam).br(this.#loops[0]!);
      });
    });
  }
}

/** Whether `native` may decide how the step is done. */
function isFloat(step: Step): boolean {
  const { rd, rs1, rs2, imm } = INSTRUCTIONS[step.row]!.format;
  return imm === 'rm' && (rd === 'f' || rs1 === 'f' || rs2 === 'f');
}
