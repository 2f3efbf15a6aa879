import type { Block, Discovery } from './discover.ts';
import { buildGraph, type Graph, graphUnlessIrreducible } from './graph.ts';

// A loop with two ways in is no loop of structured code. Compilers make such: they jump into the middle of a loop whose
// test is at its end, and a hot place may be anywhere. Where it is short, the block that the second way leads to is
// copied for that way, until each loop has one header (node splitting). What remains irreducible goes by way of the
// dispatch, which costs a jump through a table and brings all registers to one place.

/** Instructions that copies may add to a region, and that a block may have to be copied. */
const MAX_COPIED = 150;
const MAX_BLOCK = 64;
/** Copies have edges of their own that go by the dispatch; so many times as many as before are still no bad sign. */
const FEW = 2;

/** The same region, with copies of blocks unless that leads to more and more of them, and its graph. */
export function splitBlocks(original: Discovery): { d: Discovery; g: Graph } {
  const split = splitAsFarAs(original);
  if (split.g.around.size === 0) return split;
  const g = buildGraph(original);
  return split.g.around.size > FEW * g.around.size ? { d: original, g } : split;
}

function splitAsFarAs(d: Discovery): { d: Discovery; g: Graph } {
  for (let room = Math.min(MAX_COPIED, 2 * d.instructions); ; ) {
    const found = graphUnlessIrreducible(d);
    if ('order' in found) return { d, g: found };
    const { blocks } = d;
    const edges = found.filter(([, to]) => blocks[to]!.count <= Math.min(room, MAX_BLOCK));
    if (edges.length === 0) return { d, g: buildGraph(d) };
    const to = edges.reduce(
      (best, [, b]) => (blocks[b]!.count < blocks[best]!.count ? b : best),
      edges[0]![1],
    );
    room -= Math.max(1, blocks[to]!.count);
    d = withCopy(
      d,
      to,
      edges.filter(edge => edge[1] === to).map(edge => edge[0]),
    );
  }
}

/** With a copy of a block, which these blocks go to in its place. */
function withCopy(d: Discovery, block: number, from: readonly number[]): Discovery {
  const index = d.blocks.length;
  const moved = (to: number): number => (to === block ? index : to);
  const redirect = (b: Block): Block =>
    from.includes(b.index) ? { ...b, nextBlock: moved(b.nextBlock), targetBlock: moved(b.targetBlock) } : b;
  const blocks = d.blocks.map(redirect);
  blocks.push({ ...d.blocks[block]!, index });
  return { ...d, blocks, instructions: d.instructions + d.blocks[block]!.count };
}
