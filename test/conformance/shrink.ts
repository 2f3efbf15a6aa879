/** Runs cases of one state each on both sides; true where they differ. */
export type Differ<C> = (cases: readonly C[]) => Promise<readonly boolean[]>;

/**
 * A case with fewer items that still differs: first the shortest beginning that does, then without
 * ever smaller runs of items.
 */
export const shrink = async <I, C extends { items: readonly I[] }>(differ: Differ<C>, c: C): Promise<C> => {
  const differing = async (candidates: readonly (readonly I[])[]) => {
    const verdicts = await differ(candidates.map(items => ({ ...c, items })));
    return candidates.find((_, i) => verdicts[i]!);
  };
  let items = (await differing(c.items.map((_, i) => c.items.slice(0, i + 1)))) ?? c.items;
  for (let size = items.length >> 1; size >= 1; ) {
    const without: I[][] = [];
    for (let at = 0; at < items.length; at += size) {
      without.push([...items.slice(0, at), ...items.slice(at + size)]);
    }
    const smaller = await differing(without);
    if (smaller === undefined) size >>= 1;
    else items = smaller;
  }
  return { ...c, items };
};
