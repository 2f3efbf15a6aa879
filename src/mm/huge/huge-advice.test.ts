import { expect, test } from 'vitest';
import { HugeRig } from './huge-testing.ts';

test.each(['free', 'cold', 'pageout'] as const)(
  'MADV_%s of a huge page, in part, and of one that is shared',
  advice => {
    const rig = new HugeRig({ areas: 3, frames: 4096 });
    for (let page = 0; page < 1536; page++) rig.write(page, page + 1);
    rig.advise(advice, 0, 512);
    rig.advise(advice, 600, 1);
    const splits = advice === 'pageout' ? 2 : 1;
    expect(rig.counts('thp_split_pmd')).toEqual({ thp_split_pmd: splits });
    expect(rig.core.describe(rig.mm).includes('lazyfree')).toBe(advice === 'free');
    const child = rig.core.fork(rig.mm);
    rig.advise(advice, 1024, 512);
    rig.advise(advice, 1030, 1);
    expect(rig.counts('thp_split_pmd')).toEqual({ thp_split_pmd: splits });
    rig.core.exit(child);
    expect([0, 100, 511, 599, 600, 1024, 1030].map(rig.read)).toEqual([1, 101, 512, 600, 601, 1025, 1031]);
    rig.text();
  },
);

test('a lazily freed huge page goes when memory is short, unless it is written to again', () => {
  const rig = new HugeRig({ areas: 2 });
  for (let page = 0; page < 1024; page++) rig.write(page, page + 1);
  rig.advise('free', 0, 1024);
  rig.write(700, 7);
  const free = rig.core.pageAlloc.freeFrames;
  rig.advise('pageout', 0, 512);
  expect(rig.core.pageAlloc.freeFrames).toBeGreaterThanOrEqual(free + 512);
  expect([rig.read(0), rig.read(511), rig.read(700), rig.read(701)]).toEqual([0, 0, 7, 702]);
  rig.text();
});
