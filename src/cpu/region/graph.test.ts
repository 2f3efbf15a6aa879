import { describe, expect, test } from 'vitest';
import { Random } from '../../base/random.ts';
import { assemble } from '../assemble.ts';
import { Exit } from '../interface.ts';
import { planRegion } from './batch.ts';
import { type Discovery, discover, type Fetch, MAX_INSTRUCTIONS } from './discover.ts';
import { buildGraph, goesAround, hasIndirect } from './graph.ts';
import { runIn } from './modes-testing.ts';
import { analyze } from './registers.ts';

// From code to blocks, to nodes, to what each needs; and random graphs of blocks walked both ways.

function fetchOf(words: Uint32Array): Fetch {
  const halves = new Uint16Array(4096 / 2);
  halves.set(new Uint16Array(words.buffer).subarray(0, halves.length));
  return offset => halves[offset / 2]!;
}
const found = (source: string, heads = [0]): Discovery => discover(fetchOf(assemble(source)), heads);
const starts = (d: Discovery): number[] => d.blocks.map(b => b.start);
const entries = (d: Discovery): number[] => d.entries.map(b => d.blocks[b]!.start);

describe('discovery', () => {
  test('cuts at branches, at their targets, and where lines meet', () => {
    const d = found('addi a0, a0, 1\nbeqz a0, on\naddi a1, a1, 1\non: addi a2, a2, 1\nbnez a0, on\nret');
    expect(starts(d)).toEqual([0, 8, 12, 20]);
    expect(entries(d)).toEqual([0]);
    expect(d.instructions).toBe(6);
  });

  test('comes in again behind calls and behind what the interpreter executes', () => {
    const d = found('call on\naddi a0, a0, 1\necall\naddi a1, a1, 1\nsret\nnop\non: ret');
    expect(entries(d)).toEqual([0, 4, 12]);
    // Nothing comes behind sret.
    expect(starts(d)).not.toContain(20);
  });

  test('takes an instruction that overlaps another for one of its own', () => {
    const d = found('beqz a0, 6\n.word 0x060506b7\nret');
    const at6 = d.blocks[d.blockAt.get(6)!]!;
    expect(at6.steps.map(s => [s.offset, s.length])).toEqual([[6, 2]]);
    expect(d.blocks[d.blockAt.get(4)!]!.steps[0]!.length).toBe(4);
  });

  test('ends at what is illegal, at the end of the page, and at its limit', () => {
    expect(found('addi a0, a0, 1\n.word 0xffffffff').instructions).toBe(1);
    const nops = Array(1024).fill('nop').join('\n');
    expect(found(nops, [4088]).instructions).toBe(2);
    expect(found(nops).instructions).toBe(MAX_INSTRUCTIONS);
    // A long one in the last halfword goes on in the next page.
    expect(discover(() => 0x0013, [4094]).instructions).toBe(0);
  });

  test('leaves for what has a large region already', () => {
    const words = assemble('addi a0, a0, 1\nbeqz a0, on\naddi a1, a1, 1\non: addi a2, a2, 1\nret');
    const d = discover(fetchOf(words), [0], offset => offset === 12);
    expect(starts(d)).toEqual([0, 8]);
  });
});

const TWO_WAYS_IN = 'beqz a0, middle\nagain: addi a1, a1, 1\nmiddle: addi a2, a2, 1\nbnez a1, again\nret';

describe('the graph', () => {
  test('of a loop with one way in goes straight', () => {
    const d = found('nop\nagain: addi a0, a0, 1\nbnez a0, again\nret');
    const g = buildGraph(d);
    expect(g.around.size).toBe(0);
    const header = g.firstBlock + d.blockAt.get(4)!;
    expect(d.blocks.map((_, i) => g.isLoop[g.firstBlock + i])).toEqual([0, 1, 0]);
    expect(g.order[header]).toBeGreaterThan(g.order[g.firstBlock]!);
  });

  test('of a loop with two ways in goes by the dispatch for one of them, and is reducible then', () => {
    const d = found(TWO_WAYS_IN);
    const g = buildGraph(d);
    expect(g.around.size).toBe(1);
    const [again, middle] = [d.blockAt.get(4)!, d.blockAt.get(8)!];
    expect(goesAround(g, middle, again) || goesAround(g, again, middle)).toBe(true);
    expect(g.isLoop[0]).toBe(1);
  });

  test('has the entries behind the dispatch where a register may lead back to them', () => {
    const d = found('call on\naddi a0, a0, 1\nret\non: ret');
    expect(hasIndirect(d)).toBe(true);
    const g = buildGraph(d);
    expect(g.labels.length).toBe(2 * d.entries.length);
    expect(d.entries.map(b => g.innerLabel[b])).toEqual([2, 3]);
  });

  test('has its only entry there, too, if that is where a call of itself returns to', () => {
    const d = found('again: addi a0, a0, -1\nbeqz a0, end\ncall again\naddi a1, a1, 1\nend: ret', [12]);
    expect(entries(d)).toEqual([12]);
    // What it calls is no part of it.
    expect(hasIndirect(d)).toBe(false);
    const recursive = found(
      'again: beqz a0, end\naddi a0, a0, -1\ncall again\nafter: addi a1, a1, 1\nbnez a2, again\nend: ret',
      [12],
    );
    expect(entries(recursive)).toEqual([12]);
    expect(hasIndirect(recursive)).toBe(true);
    expect(buildGraph(recursive).labels.length).toBe(2);
  });
});

const bit = (...registers: number[]): number => registers.reduce((set, n) => set | (1 << n), 0);

describe('registers', () => {
  const analyzed = (source: string) => {
    const d = found(source);
    const g = buildGraph(d);
    return {
      d,
      r: analyze(
        d,
        block => g.isLoop[g.firstBlock + block] !== 0,
        block => g.depth[g.firstBlock + block]!,
      ),
    };
  };

  test('are read in where they are used before they are set', () => {
    const { r } = analyzed('addi a1, a0, 1\nadd a2, a1, a3\nret');
    expect(r.need[0]).toEqual({ x: bit(1, 10, 13), f: 0 });
  });

  test('are dirty where any way there sets them, and read in where not all do', () => {
    const { d, r } = analyzed('beqz a0, on\naddi a1, x0, 1\non: ld a2, 0(a3)\nret');
    const on = d.blockAt.get(8)!;
    expect(r.dirtyIn[on]).toEqual({ x: bit(11), f: 0 });
    // What the load may have to write back must be right.
    expect(r.need[0]!.x & bit(11)).not.toBe(0);
  });

  test('that a loop changes from round to round are kept before those that it names more often', () => {
    // Nine temporaries, each named five times and set anew in each round; s1 goes round.
    const temporaries = ['a0', 'a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7', 't0'];
    const named = temporaries.map(t => `addi ${t}, x0, 1\naddi ${t}, ${t}, 1\naddi ${t}, ${t}, 1`).join('\n');
    const { r } = analyzed(`again: ${named}\naddi s1, s1, -1\nbnez s1, again\nret`);
    expect(r.kept.x & bit(9)).not.toBe(0);
  });

  test('of code without loops that are kept are those that it names most', () => {
    const named = ['a0', 'a1', 'a2', 'a3', 'a4', 'a5', 'a6', 'a7'].map(
      t => `addi ${t}, x0, 1\naddi ${t}, ${t}, 1`,
    );
    const { r } = analyzed(`addi s1, s1, -1\n${named.join('\n')}\nret`);
    expect(r.kept.x).toBe(bit(10, 11, 12, 13, 14, 15, 16, 17));
  });

  test('that are zero are none', () => {
    const { r } = analyzed('add x0, x0, x0\nadd a0, x0, x0\nret');
    expect(r.need[0]).toEqual({ x: bit(1), f: 0 });
  });
});

type Node = { factor: bigint; shift: number; taken: number; next: number };
const STEPS = 3000n;

/** Blocks that go anywhere, by bits of a hash that each of them changes. */
function randomNodes(r: Random): Node[] {
  const count = 3 + r.below(22);
  return Array.from({ length: count }, (_, i) => ({
    ...{ factor: BigInt(2 * r.below(1000) + 3), shift: 8 + r.below(40), taken: r.below(count) },
    // Most go on to what follows.
    next: r.oneIn(3) ? r.below(count) : (i + 1) % count,
  }));
}

const sourceOf = (nodes: readonly Node[]): string =>
  `j b0\n${nodes
    .map(
      (n, i) => `b${i}: beq a1, s2, end
        addi a1, a1, 1
        li t1, ${n.factor}
        mul a0, a0, t1
        addi a0, a0, ${i}
        srli t0, a0, ${n.shift}
        andi t0, t0, 1
        bnez t0, b${n.taken}
        j b${n.next}`,
    )
    .join('\n')}\nend: ecall`;

function walk(nodes: readonly Node[]): bigint {
  let hash = 1n;
  let at = 0;
  for (let i = 0n; i < STEPS; i++) {
    const n = nodes[at]!;
    hash = BigInt.asUintN(64, hash * n.factor + BigInt(at));
    at = ((hash >> BigInt(n.shift)) & 1n) !== 0n ? n.taken : n.next;
  }
  return hash;
}

test('random graphs of blocks come to what a walk of them comes to, reducible or not', () => {
  const r = new Random(7);
  let irreducible = 0;
  for (let round = 0; round < 40; round++) {
    const nodes = randomNodes(r);
    const source = sourceOf(nodes);
    const { m, check } = runIn('regions');
    m.program(source);
    m.setX(10, 1n);
    m.setX(18, STEPS);
    for (let exit: Exit = Exit.Budget; exit === Exit.Budget; ) exit = m.run(1 + r.below(4000));
    expect([m.x(11), m.x(10)], `round ${round}`).toEqual([STEPS, walk(nodes)]);
    check();
    const plan = planRegion(fetchOf(assemble(source)), [0]);
    if (plan !== undefined && plan.g.around.size > 0) irreducible++;
  }
  expect(irreducible).toBeGreaterThan(10);
});
