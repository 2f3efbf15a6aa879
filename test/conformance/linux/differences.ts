import type { Script, Step } from './script.ts';

/** A way in which we are right to differ from the kernel that runs here. */
export type KnownDifference = {
  name: string;
  /** Why ours is right all the same. */
  reason: string;
  /** What follows in the script can't be compared. */
  ends?: boolean;
  matches(at: { step: Step; script: Script; index: number; theirs: string; ours: string }): boolean;
};

const pages = (bytes: number): number => Math.ceil(bytes / 4096);

export const KNOWN_DIFFERENCES: readonly KnownDifference[] = [
  {
    name: 'mremap of several mappings',
    reason: 'from 6.17 a FIXED move may span mappings; ours follows 6.12, which refuses with EFAULT',
    ends: true,
    matches: ({ step: { call, args }, ours }) =>
      call === 'mremap' && ours === '-14' && (args[3]! & 2) !== 0 && pages(args[1]!) === pages(args[2]!),
  },
  {
    name: 'bounds of mappings after mremap',
    reason:
      'Linux merges the copy before it takes the source away, which may give the source an anon_vma; ' +
      'ours merges last, so that nothing can fail once a page has moved',
    matches: ({ step, script, index, theirs, ours }) =>
      step.call === 'maps' &&
      script.slice(0, index).some(({ call }) => call === 'mremap') &&
      withoutBounds(theirs) === withoutBounds(ours),
  },
];

/** What `maps` tells, with mappings that touch and differ in their bounds alone made one. */
export function withoutBounds(maps: string): string {
  const merged: { end: string; kind: string; sums: number[]; start: string }[] = [];
  for (const [, text] of maps.matchAll(/\[([^\]]*)\]/g)) {
    const [range = '', rights, ...rest] = text!.split(' ');
    const [start = '', end = ''] = range.split('-');
    const sums = rest.filter(word => word.includes('=')).map(word => Number(word.split('=')[1]));
    const kind = [rights, ...rest.filter(word => !word.includes('='))].join(' ');
    const last = merged.at(-1);
    if (last?.end !== start || last.kind !== kind) merged.push({ start, end, kind, sums });
    else Object.assign(last, { end, sums: last.sums.map((sum, i) => sum + sums[i]!) });
  }
  return JSON.stringify(merged);
}

/** The known difference that a step shows, if it is one. */
export function explain(
  script: Script,
  index: number,
  theirs: string,
  ours: string,
): KnownDifference | undefined {
  const step = script[index];
  if (step === undefined) return undefined;
  return KNOWN_DIFFERENCES.find(known => known.matches({ step, script, index, theirs, ours }));
}
