import { rdOf, rs1Of } from '../decode.ts';
import { type Block, type Discovery, Flow, type Step } from './discover.ts';

// The control flow of a region as nodes and edges, made reducible: node 0 is the dispatch, which every
// entry comes through, then a node for each entry, which loads registers, then the blocks. Where a loop
// has two ways in, the edge that makes it so goes by way of the dispatch.

/** A node of a region's graph. */
export type Graph = {
  /** Nodes before the blocks: the dispatch and the entries. */
  readonly firstBlock: number;
  readonly entryCount: number;
  /** Targets of the dispatch in the order of its labels. */
  readonly labels: readonly number[];
  /** Dispatch label of a block that is reached by it from within; -1 if it isn't. */
  readonly innerLabel: Int32Array;
  /** Position in reverse postorder; -1 of what can't be reached. */
  readonly order: Int32Array;
  /** Children in the dominator tree, in reverse postorder. */
  readonly children: readonly (readonly number[])[];
  readonly isMerge: Uint8Array;
  readonly isLoop: Uint8Array;
  /** In how many loops a block is, beside that of the dispatch, which all are in. */
  readonly depth: Int32Array;
  readonly around: ReadonlySet<number>;
};

/** Direct successors of the block: up to two. */
export function successors(d: Discovery, block: number): number[] {
  const { targetBlock, nextBlock } = d.blocks[block]!;
  const list = targetBlock === -1 ? [] : [targetBlock];
  if (nextBlock !== -1 && nextBlock !== targetBlock) list.push(nextBlock);
  return list;
}

/**
 * Whether a jump through a register may come back into the region: a return to behind a call whose callee is here,
 * too, or a jump by a table. Other returns leave.
 */
export const hasIndirect = (d: Discovery): boolean =>
  d.blocks.some(b => callsHere(b) || (d.entries.length > 1 && isTableJump(b.steps.at(-1)!)));

const isTableJump = ({ flow, word }: Step): boolean =>
  flow === Flow.JumpRegister && rdOf(word) === 0 && rs1Of(word) !== RA && rs1Of(word) !== T0;

function callsHere({ steps, targetBlock }: Block): boolean {
  const last = steps.at(-1)!;
  return last.flow === Flow.Jump && rdOf(last.word) !== 0 && targetBlock !== -1;
}

/** The link registers. */
const RA = 1;
const T0 = 5;

export function buildGraph(d: Discovery): Graph {
  const around = new Set<number>();
  for (;;) {
    const builder = new Builder(d, around);
    const edges = builder.badEdges();
    if (edges.length === 0) return builder.finish();
    for (const edge of edges) around.add(edge);
  }
}

/** Backward edges, as [from, to], to blocks that don't dominate where they come from; or the graph, if there are none. */
export function graphUnlessIrreducible(d: Discovery): Graph | readonly (readonly [number, number])[] {
  const builder = new Builder(d, new Set());
  const edges = builder.badEdges();
  if (edges.length === 0) return builder.finish();
  return edges.map(e => [Math.floor(e / d.blocks.length), e % d.blocks.length]);
}

/** Whether the edge between two blocks goes by way of the dispatch. */
export const goesAround = (g: Graph, from: number, to: number): boolean =>
  g.around.has(from * g.innerLabel.length + to);

/** Most instructions that one visit is likely to retire: Infinity when there is a loop, or a call within. */
export function longestVisit(d: Discovery, g: Graph): number {
  if (g.around.size > 0 || g.isLoop.some((l, node) => l !== 0 && node !== 0) || callsItself(d))
    return Infinity;
  const longest = new Int32Array(d.blocks.length);
  const blocks = d.blocks.map(b => b.index).filter(b => g.order[g.firstBlock + b] !== -1);
  blocks.sort((a, b) => g.order[g.firstBlock + b]! - g.order[g.firstBlock + a]!);
  for (const block of blocks) {
    const after = successors(d, block).map(to => longest[to]!);
    longest[block] = d.blocks[block]!.count + Math.max(0, ...after);
  }
  return Math.max(...longest);
}

const callsItself = (d: Discovery): boolean => d.blocks.some(b => callsHere(b));

class Builder {
  readonly #d: Discovery;
  readonly #first: number;
  /** Edges between blocks, as from * blocks + to, that go by way of the dispatch. */
  readonly #around: ReadonlySet<number>;
  /** Blocks that the dispatch leads to from within. */
  readonly #inner: readonly number[];
  readonly #succ: number[][];
  readonly #pred: number[][];
  readonly #order: Int32Array;
  readonly #byOrder: number[] = [];
  readonly #idom: Int32Array;

  constructor(d: Discovery, around: ReadonlySet<number>) {
    this.#d = d;
    const firstBlock = 1 + d.entries.length;
    this.#first = firstBlock;
    this.#around = around;
    const inner = new Set(hasIndirect(d) ? d.entries : []);
    for (const edge of around) inner.add(edge % d.blocks.length);
    this.#inner = [...inner];
    const n = firstBlock + d.blocks.length;
    this.#succ = Array.from({ length: n }, () => []);
    this.#pred = Array.from({ length: n }, () => []);
    this.#order = new Int32Array(n).fill(-1);
    this.#idom = new Int32Array(n).fill(-1);
    this.#connect();
    this.#number();
    this.#dominate();
  }

  #edge(from: number, to: number): void {
    this.#succ[from]!.push(to);
    this.#pred[to]!.push(from);
  }

  #connect(): void {
    this.#d.entries.forEach((block, i) => {
      this.#edge(0, 1 + i);
      this.#edge(1 + i, this.#first + block);
    });
    for (const block of this.#inner) this.#edge(0, this.#first + block);
    for (const b of this.#d.blocks) {
      for (const to of successors(this.#d, b.index)) {
        if (this.#around.has(b.index * this.#d.blocks.length + to)) continue;
        this.#edge(this.#first + b.index, this.#first + to);
      }
    }
  }

  /** Numbers the nodes in reverse postorder of a depth-first walk. */
  #number(): void {
    const seen = new Uint8Array(this.#order.length);
    const post: number[] = [];
    const stack: { node: number; next: number }[] = [{ node: 0, next: 0 }];
    seen[0] = 1;
    while (stack.length > 0) {
      const top = stack.at(-1)!;
      const to = this.#succ[top.node]![top.next++];
      if (to === undefined) {
        post.push(top.node);
        stack.pop();
      } else if (seen[to] === 0) {
        seen[to] = 1;
        stack.push({ node: to, next: 0 });
      }
    }
    for (let i = post.length - 1; i >= 0; i--) {
      this.#order[post[i]!] = this.#byOrder.length;
      this.#byOrder.push(post[i]!);
    }
  }

  /** Cooper, Harvey and Kennedy, "A Simple, Fast Dominance Algorithm". */
  #dominate(): void {
    const idom = this.#idom;
    idom[0] = 0;
    for (let changed = true; changed; ) {
      changed = false;
      for (const node of this.#byOrder) {
        if (node === 0) continue;
        let best = -1;
        for (const p of this.#pred[node]!) {
          if (idom[p] === -1 || this.#order[p] === -1) continue;
          best = best === -1 ? p : this.#meet(best, p);
        }
        if (idom[node] !== best) {
          idom[node] = best;
          changed = true;
        }
      }
    }
  }

  #meet(a: number, b: number): number {
    while (a !== b) {
      while (this.#order[a]! > this.#order[b]!) a = this.#idom[a]!;
      while (this.#order[b]! > this.#order[a]!) b = this.#idom[b]!;
    }
    return a;
  }

  #dominates(a: number, b: number): boolean {
    while (this.#order[b]! > this.#order[a]!) b = this.#idom[b]!;
    return a === b;
  }

  /** Backward edges to a block that doesn't dominate their source. */
  badEdges(): number[] {
    const list: number[] = [];
    for (const node of this.#byOrder) {
      for (const to of this.#succ[node]!) {
        const back = this.#order[to]! <= this.#order[node]!;
        if (!back || this.#dominates(to, node)) continue;
        list.push((node - this.#first) * this.#d.blocks.length + to - this.#first);
      }
    }
    return list;
  }

  /** Each loop's nodes are those from which a way back to its header does not lead through it. */
  #depths(isLoop: Uint8Array): Int32Array {
    const depth = new Int32Array(this.#order.length);
    for (const header of this.#byOrder) {
      if (isLoop[header] === 0) continue;
      const seen = new Set([header]);
      const queue = this.#pred[header]!.filter(p => this.#order[p]! >= this.#order[header]!);
      for (let node = queue.pop(); node !== undefined; node = queue.pop()) {
        if (seen.has(node)) continue;
        seen.add(node);
        queue.push(...this.#pred[node]!.filter(p => this.#order[p] !== -1));
      }
      for (const node of seen) depth[node]!++;
    }
    return depth;
  }

  finish(): Graph {
    const n = this.#order.length;
    const isMerge = new Uint8Array(n);
    const isLoop = new Uint8Array(n);
    const children: number[][] = Array.from({ length: n }, () => []);
    for (const node of this.#byOrder) {
      if (node !== 0) children[this.#idom[node]!]!.push(node);
      let forward = 0;
      for (const p of this.#pred[node]!) {
        if (this.#order[p] === -1) continue;
        if (this.#order[p]! >= this.#order[node]!) isLoop[node] = 1;
        else forward++;
      }
      // The dispatch names its targets by label.
      if (forward > 1 || this.#pred[node]!.includes(0)) isMerge[node] = 1;
    }
    if (this.#inner.length > 0) isLoop[0] = 1;
    const innerLabel = new Int32Array(this.#d.blocks.length).fill(-1);
    const labels = this.#d.entries.map((_, i) => 1 + i);
    for (const block of this.#inner) {
      innerLabel[block] = labels.length;
      labels.push(this.#first + block);
    }
    return {
      firstBlock: this.#first,
      entryCount: this.#d.entries.length,
      labels,
      innerLabel,
      order: this.#order,
      children,
      isMerge,
      isLoop,
      depth: this.#depths(isLoop),
      around: this.#around,
    };
  }
}
