import type { Item } from './block.ts';
import type { Case, Frame } from './image.ts';
import type { Comparison } from './isa.ts';

/** Which of the candidates differ, by one run of all of them. */
const differing = async (
  comparison: Comparison,
  frame: Frame,
  c: Case,
  candidates: readonly (readonly Item[])[],
): Promise<(readonly Item[])[]> => {
  const { verdicts } = await comparison.run(
    frame,
    candidates.map(items => ({ items, states: c.states })),
  );
  return candidates.filter((_, i) => !verdicts[i]!.equal);
};

/**
 * A case with fewer items that still differs: first the shortest beginning that does, then without
 * ever smaller runs of items. `c` has one state.
 */
export const shrink = async (comparison: Comparison, frame: Frame, c: Case): Promise<Case> => {
  const beginnings = c.items.map((_, i) => c.items.slice(0, i + 1));
  let items: readonly Item[] = (await differing(comparison, frame, c, beginnings))[0] ?? c.items;
  for (let size = items.length >> 1; size >= 1; ) {
    const without: Item[][] = [];
    for (let at = 0; at < items.length; at += size) {
      without.push([...items.slice(0, at), ...items.slice(at + size)]);
    }
    const smaller = await differing(comparison, frame, c, without);
    if (smaller[0] === undefined) size >>= 1;
    else items = smaller[0];
  }
  return { items, states: c.states };
};
