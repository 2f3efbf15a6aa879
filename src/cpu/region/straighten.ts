import { rdOf } from '../decode.ts';
import { type Block, type Discovery, Flow } from './discover.ts';
import { successors } from './graph.ts';

// Compilers put a loop's test at its end and jump to it, so that a loop of one path is two blocks. A copy of the test's
// block for who comes from outside makes one of them, which the writer can then run without looking pages up (stride.ts).

/** Instructions of a block that may be copied for that. */
const MAX_TEST = 64;

/** The same region, with each chain of blocks that nothing else leads into as one. */
export function straighten(d: Discovery): Discovery {
  const blocks = [...d.blocks];
  for (const test of d.blocks) rotate(d, blocks, test.index);
  for (const b of blocks) absorb(d, blocks, b.index);
  return compact({ ...d, blocks });
}

type Blocks = Block[];

const comeFrom = (blocks: Blocks, to: number): number[] =>
  blocks.filter(b => b.nextBlock === to || b.targetBlock === to).map(b => b.index);

/** Where a block goes on to when it can only go there: by falling through, or by a plain jump. */
function onlyNext({ steps, nextBlock, targetBlock }: Block): number {
  const last = steps.at(-1)!;
  if (last.flow === Flow.Next) return nextBlock;
  return last.flow === Flow.Jump && rdOf(last.word) === 0 ? targetBlock : -1;
}

/** A test that goes back to a block which leads to it alone: all other ways to it get a copy. */
function rotate(d: Discovery, blocks: Blocks, test: number): void {
  const { count, targetBlock: body, steps } = blocks[test]!;
  if (body === -1 || body === test || count > MAX_TEST || steps.at(-1)!.flow !== Flow.Branch) return;
  if (onlyNext(blocks[body]!) !== test || comeFrom(blocks, body).some(from => from !== test)) return;
  const others = comeFrom(blocks, test).filter(from => from !== body);
  if (others.length === 0 || d.entries.includes(test)) return;
  const copy = blocks.length;
  blocks.push({ ...blocks[test]!, index: copy });
  const moved = (to: number): number => (to === test ? copy : to);
  for (const from of others) {
    const b = blocks[from]!;
    blocks[from] = { ...b, nextBlock: moved(b.nextBlock), targetBlock: moved(b.targetBlock) };
  }
}

/** Appends what follows a block alone, for as long as there is such. */
function absorb(d: Discovery, blocks: Blocks, index: number): void {
  for (;;) {
    const b = blocks[index]!;
    const next = onlyNext(b);
    if (next === -1 || next === index || d.entries.includes(next)) return;
    if (comeFrom(blocks, next).length !== 1) return;
    const after = blocks[next]!;
    blocks[index] = {
      ...after,
      index,
      start: b.start,
      steps: [...b.steps, ...after.steps],
      count: b.count + after.count,
    };
    blocks[next] = { ...after, next: -1, target: -1, nextBlock: -1, targetBlock: -1 };
  }
}

/** Without the blocks that nothing leads to any more. */
function compact(d: Discovery): Discovery {
  const reached = new Set(d.entries);
  for (const block of reached) for (const to of successors(d, block)) reached.add(to);
  const kept = [...reached].sort((a, b) => a - b);
  const renumbered = new Map(kept.map((block, i) => [block, i]));
  const at = (block: number): number => renumbered.get(block) ?? -1;
  const blocks = kept.map((block, index) => {
    const b = d.blocks[block]!;
    return { ...b, index, nextBlock: at(b.nextBlock), targetBlock: at(b.targetBlock) };
  });
  const blockAt = new Map(
    [...d.blockAt].map(([offset, b]) => [offset, at(b)] as const).filter(([, b]) => b !== -1),
  );
  const instructions = blocks.reduce((n, b) => n + b.count, 0);
  return { ...d, blocks, blockAt, entries: d.entries.map(at), instructions };
}
