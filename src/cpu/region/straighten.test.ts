import { describe, expect, test } from 'vitest';
import { assemble } from '../assemble.ts';
import { Exit } from '../interface.ts';
import { RAM_BASE } from '../testing.ts';
import { type Discovery, discover, Flow } from './discover.ts';
import { runIn } from './modes-testing.ts';
import { splitBlocks } from './split.ts';
import { straighten } from './straighten.ts';
import { windowsOf } from './stride.ts';

// What is done to blocks before they become structured code: loops of one path in one block, copies for second ways in.

function found(source: string, heads = [0]): Discovery {
  const halves = new Uint16Array(2048);
  halves.set(new Uint16Array(assemble(source).buffer));
  return discover(offset => halves[offset / 2]!, heads);
}
/** By block: where it begins, how many it retires, where it goes. */
const shape = ({ blocks }: Discovery) =>
  blocks.map(b => [b.start, b.count, b.nextBlock, b.targetBlock] as const);

const ROTATED = 'j test\nbody: ld t0, 0(a0)\nadd a1, a1, t0\naddi a0, a0, 8\ntest: bne a0, a2, body\nret';

describe('a loop whose test is at its end', () => {
  test('becomes a block that goes to itself, and a copy of the test for who comes from outside', () => {
    const d = straighten(found(ROTATED));
    const loop = d.blocks.find(b => b.targetBlock === b.index)!;
    expect([loop.start, loop.count]).toEqual([4, 4]);
    const outer = d.blocks[d.entries[0]!]!;
    // The jump to the test, and the copy of that, which is its target's only way in.
    expect([outer.start, outer.count, outer.targetBlock]).toEqual([0, 2, loop.index]);
    expect(d.instructions).toBe(outer.count + loop.count + 1);
  });

  test('goes through its pages without looking them up', () => {
    const d = straighten(found(ROTATED));
    expect(windowsOf(d.blocks.find(b => b.targetBlock === b.index)!)?.map(w => [w.base, w.stride])).toEqual([
      [10, 8],
    ]);
  });

  test('is as it was where a hot place is the test itself', () => {
    expect(shape(straighten(found(ROTATED, [16])))).toEqual(shape(found(ROTATED, [16])));
  });

  test('adds up what its array holds, whatever its length, as the interpreter does', () => {
    const sums = (['interpreter', 'regions'] as const).map(mode => {
      const { m, check } = runIn(mode);
      const at = RAM_BASE + 0x10000;
      m.poke(
        at,
        Array.from({ length: 1200 }, (_, i) => (i % 2 === 0 ? i * i : 0)),
      );
      m.program(ROTATED.replace('ret', 'ecall'));
      const all = [600, 0, 1, 2, 511, 600].map(count => {
        m.cpu.setPc(m.vcpu, RAM_BASE);
        m.setX(10, BigInt(at));
        m.setX(11, 0n);
        m.setX(12, BigInt(at + 8 * count));
        expect(m.run(1_000_000)).toBe(Exit.Sbi);
        return m.x(11);
      });
      check();
      return all;
    });
    expect(sums[1]).toEqual(sums[0]);
    expect(new Set(sums[0]).size).toBe(4);
  });
});

test('a jump that only one block follows goes on in the same block', () => {
  const d = straighten(found('addi a0, a0, 1\nj on\nnop\non: addi a1, a1, 1\nret'));
  expect(d.blocks.map(b => b.steps.map(s => s.offset))).toEqual([[0, 4, 12, 16]]);
  expect(d.blocks[0]!.steps[1]!.flow).toBe(Flow.Jump);
  expect(d.instructions).toBe(4);
});

describe('a loop with two ways in', () => {
  const TWO_WAYS_IN =
    'beqz a0, middle\nagain: addi a1, a1, 1\nbeqz a3, middle\naddi a4, a4, 1\nmiddle: addi a2, a2, 1\nbnez a1, again\nret';

  test('has a copy of a block for one of them, and goes by no dispatch', () => {
    const before = found(TWO_WAYS_IN);
    const { d, g } = splitBlocks(before);
    expect(g.around.size).toBe(0);
    expect(d.blocks.length).toBeGreaterThan(before.blocks.length);
    const copies = d.blocks.slice(before.blocks.length);
    for (const c of copies)
      expect(before.blocks.some(b => b.start === c.start && b.steps === c.steps)).toBe(true);
    expect(d.instructions).toBe(d.blocks.reduce((n, b) => n + b.count, 0));
  });

  test('goes by the dispatch where its blocks are too long to be copied', () => {
    const long = 'addi a5, a5, 1\n'.repeat(70);
    const { d, g } = splitBlocks(
      found(
        `beqz a0, middle\nagain: ${long}beqz a3, middle\naddi a4, a4, 1\nmiddle: ${long}bnez a1, again\nret`,
      ),
    );
    expect(g.around.size).toBeGreaterThan(0);
    expect(d.blocks.every(b => b.index === d.blockAt.get(b.start))).toBe(true);
  });
});

describe('a branch to the next instruction', () => {
  test('is no choice: a chain of them is as long as it is, and does what the interpreter does', () => {
    const chain = Array.from(
      { length: 40 },
      (_, i) => `addi a2, a2, ${i}\nbeq a0, a3, next${i}\nnext${i}: nop`,
    );
    const source = `again: ${chain.join('\n')}\naddi a0, a0, 1\nbne a0, a1, again\necall`;
    const { d } = splitBlocks(straighten(found(source)));
    expect(d.instructions).toBeLessThan(200);
    const ends = (['interpreter', 'regions', 'lockstep'] as const).map(mode => {
      const { m, check } = runIn(mode);
      m.program(source);
      m.setX(11, 500n);
      m.setX(13, 77n);
      for (let exit: Exit = Exit.Budget; exit === Exit.Budget; ) exit = m.run(3000);
      check();
      return m.x(12);
    });
    expect(new Set(ends)).toEqual(new Set([500n * 780n]));
  });

  test('is copied with its block, in a loop of many ways in, and stays none', () => {
    const source = `top: addi s4, s7, 1
      bge s6, x0, l2
      and s5, s4, a6
      beq t3, s0, l3
      l2: slli s1, a2, 13
      beq a1, s1, l4
      l3: bge t5, x0, l4
      l4: addi a0, a0, 1
      bge a0, a1, out
      blt a2, x0, l3
      j top
      out: ecall`;
    for (const mode of ['interpreter', 'regions'] as const) {
      const { m, check } = runIn(mode);
      m.program(source);
      m.setX(11, 300n);
      m.setX(12, -1n);
      expect(m.run(1_000_000), mode).toBe(Exit.Sbi);
      check();
      expect(m.x(10)).toBe(300n);
    }
  });
});
